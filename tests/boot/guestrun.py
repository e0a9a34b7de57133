# SPDX-License-Identifier: MIT
"""An image that rofs built, booted with a plan and disks of a test's own; and images made for such tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rofs.image.cpio import append
from rofs.machine.accel import find_accel
from rofs.machine.arch import ARCHES
from rofs.machine.disk import make_overlay
from rofs.machine.qemu import Boot, BootResult, Disk, boot, machine_cmdline
from rofs.store import default_cache_dir
from rofs.verify import probe_wire as wire
from rofs.verify.check import Facts, text
from rofs.verify.cmdline import SUFFIX
from rofs.verify.probe_archive import probe_archive

RUNNING = wire.run(240, "systemctl", "is-system-running", "--wait")
FAILED = wire.run(30, "systemctl", "list-units", "--failed", "--all", "--no-legend", "--plain")
EVENTS = wire.read("/run/rofs/events")
BOOT_TIMEOUT_S = 600

PACKAGES = ("systemd-sysv", "udev", "dbus")
"""Those of profiles/minimal.yaml, so that the tree comes from the cache."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a boot went, and its answers in the order of the plan."""

    result: BootResult
    answers: tuple[Facts, ...]

    def text(self, number: int) -> str:
        """What a `read`, `exec` or `run` gave."""
        return text(self.answers[number])

    @property
    def events(self) -> list[str]:
        """The initrd's, where EVENTS was the third operation (after RUNNING and FAILED)."""
        return self.text(2).splitlines()


def run_guest(
    image: Path,
    ops: Sequence[wire.Op],
    stores: Sequence[Disk],
    work: Path,
    *,
    words: str = "",
    ends: str = "clean",
    initrd: Path | None = None,
) -> Ran:
    """Boot `image` on a copy-on-write root with `stores` behind it, ask `ops`, power off.

    `words` go onto the kernel command line; `initrd` stands in for the shipped one.
    """
    arch = ARCHES[image.name]
    work.mkdir(parents=True, exist_ok=True)
    answers: dict[int, Facts] = {}

    def on_line(line: str) -> None:
        event = wire.parse_event(line)
        if event is not None and event.id is not None:
            answers[event.id] = event.facts

    plan = (*ops, wire.poweroff("cut" if ends == "cut" else "clean"))
    append(initrd or image / "initrd.img", probe_archive(arch, plan), work / "initrd.img")
    root = make_overlay(image / "rootfs.squashfs", work / "root.qcow2")
    cmdline = f"{machine_cmdline((image / 'cmdline').read_text(), arch)} {SUFFIX} {words}".strip()
    request = Boot(
        arch=arch, accel=find_accel(arch, default_cache_dir()), kernel=image / "vmlinuz", initrd=work / "initrd.img",
        cmdline=cmdline, disks=(Disk(path=root, format="qcow2"), *stores), work=work, console=work / "console.log",
    )  # fmt: skip
    result = boot(request, on_line, timeout_s=BOOT_TIMEOUT_S, log=work / "qemu.log")
    return Ran(result, tuple(answers.get(number, {}) for number in range(1, len(ops) + 1)))


def assert_running(ran: Ran) -> None:
    """RUNNING and FAILED were the first two operations."""
    assert ran.result.status == "off", f"{ran.result.reason}\n{ran.result.console[-3000:]}"
    assert ran.text(0).strip() == "running", f"{ran.text(0)}{ran.text(1)}\n{ran.result.console[-3000:]}"
    assert ran.text(1).strip() == ""


def copy_disk(source: Path, out: Path) -> Disk:
    """A raw disk of a test's own, which keeps what the guest writes."""
    subprocess.run(["cp", "--sparse=always", source, out], check=True)
    return Disk(path=out, format="raw")


def write_profile(directory: Path, name: str, body: str, packages: Sequence[str] = PACKAGES) -> Path:
    """A profile of the cached packages."""
    directory.mkdir(parents=True, exist_ok=True)
    head = f"""\
schema: rofs/v1
name: {name}
source: {{debian: {{suite: bookworm, packages: [{", ".join(packages)}]}}}}
image: {{compression: zstd, level: 1}}
"""
    path = directory / f"{name}.yaml"
    path.write_text(head + body)
    return path


def build_image(rofs: Callable[..., Any], profile: Path, output: Path, *options: str, arch: str = "amd64") -> Path:
    """`rofs build --no-verify` for one architecture -> the image's directory."""
    done = rofs("build", profile, "--output", output, "--arch", arch, "--no-verify", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return output / profile.stem / arch
