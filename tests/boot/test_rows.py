# SPDX-License-Identifier: MIT
"""profiles/busybox.yaml on every machine of the table: one program for a root, no systemd, every promise kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guestrun import build_image

from rofs.machine.arch import ARCHES
from tests.release import release_sources

pytestmark = [pytest.mark.boot, pytest.mark.needs("mmdebstrap")]

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
MOST_BYTES = 2 << 20


def checks(report: dict[str, Any], promise: str) -> list[dict[str, Any]]:
    return [check for check in report["checks"] if check["promise"] == promise]


def own_sources(directory: Path) -> Path:
    """The profile with the release's own packages alone: the mirrors of other architectures' updates come and go."""
    shutil.copytree(PROFILES, directory)
    sources = release_sources()
    assert sources is not None
    (directory / "release.sources").write_bytes(sources)
    profile = directory / "busybox.yaml"
    text = profile.read_text()
    assert "    suite: bookworm\n" in text
    profile.write_text(text.replace("    suite: bookworm\n", "    suite: bookworm\n    sources: release.sources\n"))
    return profile


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_the_example(built: Callable[[str], Path], arch: str) -> None:
    image = built("busybox") / arch
    report = json.loads((image / "report.json").read_text())
    assert (report["verdict"], len(report["boots"])) == ("accepted", 8)
    assert (image / "rootfs.squashfs").stat().st_size < MOST_BYTES
    assert not (image / "units").exists() and "x-" not in (image / "fstab").read_text()
    settled = [c for c in checks(report, "system") if c["subject"] == "settled"]
    assert len(settled) == 8 and all(c["seen"].startswith("PID 1 is /usr/bin/busybox, at rest") for c in settled)
    for promise in ("mount", "fstab", "immutable", "volatile", "state", "seed", "machine-id", "identity", "size cap"):
        assert checks(report, promise), promise


@pytest.mark.parametrize("arch", [name for name in ARCHES if name not in ("amd64", "arm64")])
def test_the_other_machines(rofs: Callable[..., Any], tmp_path: Path, arch: str) -> None:
    image = build_image(rofs, own_sources(tmp_path / "profiles"), tmp_path / "images", arch=arch)
    done = rofs("verify", image, "--boots", "2", "--report", tmp_path / "report")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert [boot["ended"] for boot in report["boots"]] == ["off", "off"]
    settled = [c["seen"] for c in checks(report, "system") if c["subject"] == "settled"]
    assert len(settled) == 2 and all(seen.startswith("PID 1 is /usr/bin/busybox, at rest") for seen in settled)
