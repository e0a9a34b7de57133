# SPDX-License-Identifier: MIT
"""The wheel, built from a copy of the checkout and installed into a new environment, is all of rofs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from probing import ROOT

import rofs
from rofs.machine.arch import ARCHES

pytestmark = pytest.mark.slow

NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "images", "bin", "dist", "build", "__pycache__", ".*_cache")
LOCATE = """
import json, pathlib, rofs
from rofs.generate.render import find_templates
from rofs.machine.arch import ARCHES
from rofs.verify.probe_wire import find_probe
print(json.dumps([str(p) for p in (
    pathlib.Path(rofs.__file__).parent, find_templates(),
    pathlib.Path(rofs.__file__).with_name("profile.schema.json"), *map(find_probe, ARCHES))]))
"""


def call(*argv: str | Path, cwd: Path) -> str:
    """A program's output; its words are shown when it fails. Nothing of the checkout is on its path."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(argv, cwd=cwd, env=env, text=True, capture_output=True, check=False, timeout=900)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Through an sdist, as `python -m build` does it, so that nothing the wheel needs is missing there."""
    room = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, room / "checkout", ignore=NOT_COPIED)
    call(sys.executable, "-m", "build", "--outdir", room / "dist", room / "checkout", cwd=room)
    (found,) = (room / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and its dependencies in it."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=True)
    call(home / "bin" / "pip", "install", "--disable-pip-version-check", "--no-input", wheel, cwd=home)
    return home


def test_it_carries_templates_schema_and_probes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        modes = {i.filename: i.external_attr >> 16 for i in archive.infolist()}
    probes = {f"rofs/verify/probe/bin/rofs-probe-{arch}" for arch in ARCHES}
    templates = {
        f"rofs/templates/{p.relative_to(ROOT / 'templates').as_posix()}"
        for p in (ROOT / "templates").rglob("*")
        if p.is_file()
    }
    assert wheel.name == f"rofs-{rofs.__version__}-py3-none-any.whl"
    assert {"rofs/profile.schema.json", "rofs/report.schema.json", "rofs/verify/probe/README.md", *probes} <= names
    assert templates
    assert templates <= names
    assert {name for name in names if name.startswith("rofs/verify/probe/bin/")} == probes
    assert all(modes[probe] & 0o111 for probe in probes)
    assert not [name for name in names if not name.startswith(("rofs/", "rofs-"))]


def test_the_installed_command_runs(installed: Path) -> None:
    assert rofs.__version__ in call(installed / "bin" / "rofs", "--version", cwd=installed)


def test_what_is_installed_is_found(installed: Path) -> None:
    package, *parts = map(Path, json.loads(call(installed / "bin" / "python", "-c", LOCATE, cwd=installed)))
    assert package.is_relative_to(installed)
    assert len(parts) == 2 + len(ARCHES)
    for part in parts:
        assert part.is_relative_to(package), part
        assert part.exists(), part


def test_its_dependencies_suffice(installed: Path) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "rofs").rglob("*.py"))
        if path.name != "__main__.py"
    ]
    call(
        installed / "bin" / "python",
        "-c",
        f"import {', '.join(modules)}".replace(".__init__", ""),
        cwd=installed,
    )
