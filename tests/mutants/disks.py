# SPDX-License-Identifier: MIT
"""Files beside each other that do not belong together, and state disks as they should not be published."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.mutants.mutation import Mutation

Files = Callable[[Path, Path], None]


def of_another_profile(name: str, profile: str) -> Files:
    """A file of another profile's image of the same architecture."""

    def change(image: Path, copy: Path) -> None:
        other = image.parent.parent / profile / image.name / name
        assert other.read_bytes() != (copy / name).read_bytes()
        shutil.copyfile(other, copy / name)

    return change


def cut_short(_: Path, copy: Path) -> None:
    """The squashfs without its second half, where its tables are."""
    squashfs = copy / "rootfs.squashfs"
    with squashfs.open("r+b") as file:
        file.truncate(squashfs.stat().st_size // 2 & ~4095)


def on_state(*argv: str, stdin: str = "") -> Files:
    """A program of e2fsprogs run on the published state disk."""

    def change(_: Path, copy: Path) -> None:
        state = copy / "state.img"
        before = state.read_bytes()
        subprocess.run([*argv, state], input=stdin.encode(), check=True, capture_output=True)
        assert state.read_bytes() != before

    return change


def no_file_system(_: Path, copy: Path) -> None:
    """Zeros of the same size."""
    state = copy / "state.img"
    size = state.stat().st_size
    state.write_bytes(b"")
    with state.open("r+b") as file:
        file.truncate(size)


NEW = "state: state (state new)"

DISKS: Mapping[str, Mutation] = {
    "the squashfs of another profile": Mutation(
        files=of_another_profile("rootfs.squashfs", "appliance"),
        names=["image tree: as built", "hostname: minimal", "generated: "],
    ),
    "the initrd of another profile": Mutation(
        profile="appliance",
        files=of_another_profile("initrd.img", "minimal"),
        names=["mount: /etc (overlay-tmpfs)"],
    ),
    "a squashfs cut short": Mutation(
        files=cut_short, names=["boot: the system boots, answers and powers off"], options=("--boot-timeout", "60")
    ),
    "a state disk of another label": Mutation(
        profile="busybox",
        files=on_state("tune2fs", "-L", "other"),
        names=[NEW, "mount: /run/rofs/state (state)"],
    ),
    "a state disk that is used already": Mutation(
        profile="busybox", files=on_state("debugfs", "-w", "-f", "/dev/stdin", stdin="mkdir data\n"), names=[NEW]
    ),
    "a state disk without a file system": Mutation(profile="busybox", files=no_file_system, names=[NEW]),
}  # fmt: skip
