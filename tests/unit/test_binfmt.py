# SPDX-License-Identifier: MIT
"""rofs.sources.binfmt: nothing is touched where emulation works, one command is named where it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rofs.errors import SourceError
from rofs.machine.arch import ARCHES, Arch, host_arch
from rofs.sources.binfmt import emulates, ensure_emulation

FOREIGN = [arch for arch in ARCHES.values() if arch.name != host_arch()]


@pytest.fixture(params=FOREIGN, ids=lambda arch: arch.name)
def foreign(request: pytest.FixtureRequest) -> Arch:
    """Each architecture that is not the host's."""
    arch = request.param
    assert isinstance(arch, Arch)
    return arch


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Programs that note their command line in `calls`; arch-test succeeds once `registered` is there."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    calls = tmp_path / "calls"
    bodies = {
        "arch-test": f"[ -e {tmp_path}/registered ]",
        "update-binfmts": f'echo "update-binfmts $*" >>{calls}; : >{tmp_path}/registered',
        "mount": f'echo "mount $*" >>{calls}; : >{tmp_path}/register',
    }
    for name, body in bodies.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    calls.touch()
    return tmp_path


def test_the_hosts_own_architecture_needs_nothing(fakes: Path) -> None:
    own = next(arch for arch in ARCHES.values() if arch.name == host_arch())
    assert emulates(own)
    ensure_emulation(own)
    assert (fakes / "calls").read_text() == ""


def test_working_emulation_is_left_alone(fakes: Path, foreign: Arch) -> None:
    (fakes / "registered").touch()
    ensure_emulation(foreign)
    assert (fakes / "calls").read_text() == ""


def test_root_mounts_and_registers(fakes: Path, foreign: Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ensure_emulation(foreign, binfmt_misc=fakes)
    assert (fakes / "calls").read_text().splitlines() == [
        f"mount -t binfmt_misc binfmt_misc {fakes}",
        f"update-binfmts --enable {foreign.qemu_user}",
    ]


def test_others_are_told_the_command(fakes: Path, foreign: Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SourceError, match=f"update-binfmts --enable {foreign.qemu_user}"):
        ensure_emulation(foreign, binfmt_misc=fakes)
    assert (fakes / "calls").read_text() == ""


def test_a_registration_that_does_not_help_is_an_error(
    fakes: Path, foreign: Arch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (fakes / "arch-test").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SourceError, match=f"cannot run {foreign.name} programs"):
        ensure_emulation(foreign, binfmt_misc=fakes)
