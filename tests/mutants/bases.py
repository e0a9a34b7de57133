# SPDX-License-Identifier: MIT
"""The good images that mutants and variations are made of: the example profiles, and a few derived from them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.edits import replaced
from tests.mutants.mutation import Edit

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "profiles"
BUILD_TIMEOUT_S = 3600


@dataclass(frozen=True, kw_only=True)
class Derived:
    """An example profile with another name and an edit."""

    of: str
    edit: Edit


DERIVED: Mapping[str, Derived] = {
    "busybox-refuse": Derived(of="busybox", edit=replaced("on_failure: volatile", "on_failure: refuse")),
    "minimal-generic": Derived(of="minimal", edit=replaced("linux-image-cloud", "linux-image")),
    "busybox-lz4": Derived(of="busybox", edit=replaced("compression: xz", "compression: lz4")),
    "minimal-renamed": Derived(of="minimal", edit=replaced("hostname: minimal", "hostname: m-2.example.org")),
}


def write_profile(name: str, directory: Path) -> Path:
    """The profile of a base; a derived one is written below `directory`, with the files it names beside it."""
    if name not in DERIVED:
        return PROFILES / f"{name}.yaml"
    derived = DERIVED[name]
    out = directory / ".profiles"
    shutil.copytree(PROFILES, out, dirs_exist_ok=True)
    text = (PROFILES / f"{derived.of}.yaml").read_text()
    path = out / f"{name}.yaml"
    path.write_text(derived.edit(replaced(f"\nname: {derived.of}\n", f"\nname: {name}\n")(text)))
    return path


def build_missing(names: Iterable[str], arch: str, images: Path) -> None:
    """Build what is not there; not verified, since the variations show that what is good is accepted."""
    for name in sorted(set(names)):
        if (images / name / arch / "manifest.json").exists():
            continue
        argv = [sys.executable, "-m", "rofs", "build", str(write_profile(name, images)), "--output", str(images)]
        subprocess.run([*argv, "--arch", arch, "--no-verify"], cwd=ROOT, check=True, timeout=BUILD_TIMEOUT_S)
