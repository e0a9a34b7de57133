# SPDX-License-Identifier: MIT
"""A shipped file system image -> the disk that a boot gets instead, with what may go wrong in the field.

Whatever is wrong, the disk is found by its LABEL= or UUID= as before, except for one that is missing:
what the boot meets is a fault of the disk, not of the search. Nothing is mounted.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from rofs.errors import ImageError
from rofs.image.filesystem import BLOCK_BYTES
from rofs.machine.qemu import Disk
from rofs.run import run

FAULTS: tuple[str, ...] = ("missing", "corrupt", "foreign", "read-only", "full")

SUPERBLOCK_BYTES = 1024
"""Where ext4 has its superblock, and a swap area its header."""

EXTENT_BLOCKS = 32768
"""A file of so many blocks, wherever they are, needs no block for its map: four extents are in the inode."""


def break_disk(fault: str, good: Path, out: Path, log: Path | None = None) -> Disk | None:
    """The disk to attach in place of `good`, a raw ext4 image that stays as it is; None for "missing".

    `out` is written where the fault needs a copy. KeyError for a word that is not in FAULTS.
    """
    if fault == "missing":
        return None
    if fault == "read-only":
        return Disk(path=good, format="raw", read_only=True)
    {"corrupt": _corrupt, "foreign": _foreign, "full": _fill}[fault](good, out, log)
    return Disk(path=out, format="raw")


def _copy(good: Path, out: Path, log: Path | None) -> None:
    run(["cp", "--sparse=always", "--no-preserve=mode", str(good), str(out)], log=log)


def _debugfs(image: Path, commands: str, log: Path | None, *options: str) -> str:
    """What debugfs(8) says; its status tells nothing."""
    return run(["debugfs", *options, "-f", "/dev/stdin", str(image)], stdin=commands.encode(), log=log).stdout


def _corrupt(good: Path, out: Path, log: Path | None) -> None:
    """Torn metadata: no kernel mounts it, with checksums or without.

    The superblock claims more blocks than the disk has, under a right checksum, since libblkid does not
    take the name from one with a wrong checksum; the group descriptors are overwritten.
    """
    _copy(good, out, log)
    _debugfs(out, f"set_super_value blocks_count {2 * good.stat().st_size // BLOCK_BYTES}\n", log, "-w")
    with out.open("r+b") as file:
        file.seek(BLOCK_BYTES)
        file.write(b"\xa5" * BLOCK_BYTES)


def _foreign(good: Path, out: Path, log: Path | None) -> None:  # noqa: ARG001 -- one of three alike
    """A swap area with the label and the UUID of `good`; written here because mkswap cuts labels at 15 bytes."""
    with good.open("rb") as file:
        file.seek(SUPERBLOCK_BYTES + 0x68)
        uuid_label = file.read(16 + 16)
    size = good.stat().st_size
    header = struct.pack("<III", 1, size // BLOCK_BYTES - 1, 0) + uuid_label
    with out.open("wb") as file:
        os.truncate(file.fileno(), size)
        file.seek(SUPERBLOCK_BYTES)
        file.write(header)
        file.seek(BLOCK_BYTES - 10)
        file.write(b"SWAPSPACE2")


def _fill(good: Path, out: Path, log: Path | None) -> None:
    """No free block, not even for root, but free inodes: an empty file can be made, a byte written nowhere.

    The blocks go to files in lost+found, so that the file system still passes for an empty one.
    """
    _copy(good, out, log)
    free, commands = _free_blocks(out, log), ["cd lost+found"]
    for number, start in enumerate(range(0, free, EXTENT_BLOCKS)):
        blocks = min(EXTENT_BLOCKS, free - start)
        commands += [f"write /dev/null {number}", f"fallocate {number} 0 {blocks - 1}"]
    _debugfs(out, "\n".join([*commands, ""]), log, "-w")
    if left := _free_blocks(out, log):
        raise ImageError(f"{out}: debugfs left {left} blocks free")


def _free_blocks(image: Path, log: Path | None) -> int:
    said = _debugfs(image, "stats -h\n", log)
    found = re.search(r"^Free blocks: +(\d+)$", said, re.MULTILINE)
    if found is None:
        raise ImageError(f"{image}: debugfs does not say how many blocks are free")
    return int(found[1])
