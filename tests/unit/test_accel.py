# SPDX-License-Identifier: MIT
"""rofs.machine.accel: when KVM is believed, and for how long. QEMU is a fake first on PATH."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from rofs.errors import MachineError, ToolError
from rofs.machine import accel
from rofs.machine.accel import Accel, accel_args, find_accel, probe_argv
from rofs.machine.arch import ARCHES, Arch, host_arch

WORKS, ABORTS, HANGS, RESETS = (
    "exit 33",
    "echo failed to set MSR >&2; kill -ABRT $$",
    "exec sleep 60",
    "exit 0",
)


@pytest.fixture(autouse=True)
def no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROFS_ACCEL", raising=False)


class Fake:
    """A QEMU that does what `behaviour` says and counts its runs; an architecture that uses it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.runs = directory, directory / "runs"
        self.kvm = directory / "kvm"
        self.kvm.touch()
        row = ARCHES["amd64"]
        self.arch: Arch = dataclasses.replace(row, name=host_arch() or "", qemu="fake-qemu")

    def behaves(self, what: str, version: str = "7.2") -> None:
        script = self.directory / "fake-qemu"
        lines = [
            "#!/bin/sh",
            f'[ "$1" = --version ] && echo {version} && exit',
            f'echo "$@" >>{self.runs}',
            what,
        ]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)

    def find(self) -> Accel:
        return find_accel(self.arch, self.directory / "cache", kvm=self.kvm)

    def count(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(accel, "PROOF_S", 0.5)
    return Fake(tmp_path)


@pytest.mark.parametrize(
    ("behaviour", "name", "reason"),
    [
        (WORKS, "kvm", "a guest ran and ended by itself"),
        (ABORTS, "tcg", "kvm opens but QEMU fails with it: failed to set MSR"),
        (RESETS, "tcg", "kvm opens but QEMU fails with it: exit status 0"),
        (HANGS, "tcg", "kvm opens but a guest hung for 0.5 s"),
    ],
)
def test_kvm_is_believed_only_when_a_guest_ran(behaviour: str, name: str, reason: str, fake: Fake) -> None:
    fake.behaves(behaviour)
    assert fake.find() == Accel(name, reason)  # type: ignore[arg-type]
    assert fake.find() == Accel(name, reason)  # type: ignore[arg-type]
    assert fake.count() == 1, "the verdict was not remembered"


def test_another_qemu_is_asked_anew(fake: Fake) -> None:
    fake.behaves(ABORTS)
    assert fake.find().name == "tcg"
    fake.behaves(WORKS, version="8.0")
    assert fake.find().name == "kvm"


def test_another_start_of_the_host_is_asked_anew(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.behaves(WORKS)
    fake.find()
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(accel, "BOOT_ID", tmp_path / "boot_id")
    fake.find()
    assert fake.count() == 2


def test_another_device_is_asked_anew(fake: Fake) -> None:
    fake.behaves(WORKS)
    fake.find()
    fake.kvm.chmod(0o660)
    fake.find()
    assert fake.count() == 2


@pytest.mark.parametrize("garbage", ["", "{}", "[]", '{"key": 1, "accel": {"name": "kvm"}}', "\0"])
def test_a_broken_memory_is_no_memory(garbage: str, fake: Fake, tmp_path: Path) -> None:
    fake.behaves(WORKS)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"accel-{fake.arch.name}.json").write_text(garbage)
    assert fake.find().name == "kvm"
    assert fake.count() == 1


def test_a_cache_that_cannot_be_written_does_no_harm(fake: Fake, tmp_path: Path) -> None:
    fake.behaves(WORKS)
    (tmp_path / "cache").write_text("a file where a directory should be")
    assert fake.find().name == "kvm"


def test_no_device_no_guest(fake: Fake) -> None:
    fake.behaves(WORKS)
    fake.kvm.unlink()
    assert fake.find() == Accel("tcg", f"{fake.kvm}: No such file or directory")
    assert fake.count() == 0


def test_no_qemu_is_a_tool_error(fake: Fake) -> None:
    with pytest.raises(ToolError, match="not found"):
        fake.find()


@pytest.mark.parametrize("guest", ARCHES)
@pytest.mark.parametrize("host", ARCHES)
def test_another_architecture_is_never_kvm(host: str, guest: str, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """An amd64 host could run an i386 guest; the row says which CPU is meant, and that is not the host's."""
    fake.behaves(WORKS if guest in ("amd64", "i386") else RESETS)
    fake.arch = dataclasses.replace(ARCHES[guest], qemu="fake-qemu")
    machine = os.uname_result(("Linux", "host", "6", "#1", ARCHES[host].uname))
    monkeypatch.setattr(os, "uname", lambda: machine)
    found = fake.find()
    if host == guest:
        assert found == Accel("kvm", "a guest ran and ended by itself")
    else:
        assert found == Accel("tcg", f"the host is {host}, the guest {guest}")
        assert fake.count() == 0


@pytest.mark.parametrize("wish", ["kvm", "tcg"])
def test_a_wish_is_obeyed_unproven(wish: str, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.behaves(HANGS)
    monkeypatch.setenv("ROFS_ACCEL", wish)
    assert fake.find() == Accel(wish, f"ROFS_ACCEL={wish}")  # type: ignore[arg-type]
    assert fake.count() == 0


def test_a_wish_for_something_else_is_an_error(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROFS_ACCEL", "hvf")
    with pytest.raises(MachineError, match="ROFS_ACCEL=hvf"):
        fake.find()


def test_the_words() -> None:
    amd64, arm64 = ARCHES["amd64"], ARCHES["arm64"]
    assert accel_args(arm64, "tcg")[-4:] == ["-accel", "tcg", "-cpu", arm64.tcg_cpu]
    assert accel_args(amd64, "kvm")[-4:] == ["-accel", "kvm", "-cpu", amd64.kvm_cpu]
    argv = probe_argv(amd64, "kvm", Path("/blob"))
    assert argv[-2:] == ["-kernel", "/blob"]
    assert "isa-debug-exit,iobase=0xf4,iosize=0x04" in argv
    assert "-no-reboot" not in argv  # else a triple fault would end QEMU as well
