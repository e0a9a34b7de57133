# SPDX-License-Identifier: MIT
"""The log of a disk's writes -> the disk as a power cut leaves it, without half of what was not flushed.

The log is what `Disk.write_log` got of QEMU's blklogwrites: after a superblock, one sector for each write,
flush and discard, then its data. Seen with QEMU 7.2: each is logged when it is done, so of the writes under
way during a flush those that end first come before it, and are taken for flushed. A flush is logged only
if something was written since the last. FUA is never logged: QEMU flushes instead, but not right after
another flush; a guest on virtio-blk never asks for it. Zeroes are written out; a discard has no data.
When QEMU ends it flushes what the guest did not, so the last flush of a log may be nobody's.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

BLOCK_BYTES = 4096
"""What a disk writes whole or not at all."""

_MAGIC, _VERSION = 0x6A736677736872, 1
_SUPERBLOCK = struct.Struct("<QQQI")  # magic, version, entries up to the last flush, bytes of a sector
_HEADER = struct.Struct("<QQQQ")  # sector, sectors, flags, bytes of a mark
_FLUSH, _FUA, _DISCARD = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Entry:
    """A write of `data`, a discard of `zero_bytes`, or a flush alone, which has neither.

    `flush`: all writes before this entry became durable. `fua`: this one did.
    """

    offset_bytes: int
    data: bytes | None
    zero_bytes: int
    flush: bool
    fua: bool

    @property
    def size_bytes(self) -> int:
        """How much of the disk it changes."""
        return self.zero_bytes if self.data is None else len(self.data)


def read_log(path: Path) -> list[Entry]:
    """Every entry up to the end of the file, which a killed QEMU may have left in the middle of one.

    A log in which nothing was ever written is an empty file. ValueError for what is no log, lacks
    entries that its superblock counts, or has some that QEMU does not write (marks).
    """
    log = path.read_bytes()
    if not log:
        return []
    magic, version, counted, sector_bytes = _SUPERBLOCK.unpack(log[: _SUPERBLOCK.size].ljust(_SUPERBLOCK.size, b"\0"))
    if (magic, version) != (_MAGIC, _VERSION) or not sector_bytes:
        raise ValueError(f"{path}: not a write log, or one without a single flush")
    entries = list(_entries(log, sector_bytes))
    if len(entries) < counted:
        raise ValueError(f"{path}: {len(entries)} entries where the superblock counts {counted}")
    return entries


def _entries(log: bytes, sector_bytes: int) -> Iterator[Entry]:
    at = sector_bytes
    while at + sector_bytes <= len(log):
        sector, sectors, flags, _ = _HEADER.unpack_from(log, at)
        if flags & ~(_FLUSH | _FUA | _DISCARD):
            raise ValueError(f"an entry with the flags {flags:#x} at byte {at} of the log")
        size_bytes, discard = sectors * sector_bytes, bool(flags & _DISCARD)
        data = None if discard or not sectors else log[at + sector_bytes : at + sector_bytes + size_bytes]
        if not (sectors or flags) or (data is not None and len(data) < size_bytes):
            return  # a hole in the file, or its end: QEMU was still writing this one
        yield Entry(
            offset_bytes=sector * sector_bytes,
            data=data,
            zero_bytes=size_bytes if discard else 0,
            flush=bool(flags & _FLUSH),
            fua=bool(flags & _FUA),
        )
        at += sector_bytes + (0 if data is None else size_bytes)


def replay(base: Path, log: Sequence[Entry], cut: int, out: Path, rng: random.Random) -> None:
    """Write `out`, a sparse copy of `base`, as the disk is after a power cut right after `log[cut]`.

    What was durable by then has landed. Of each other write `rng` decides whether it has, for every
    4 KiB of it anew: the same state of `rng` gives the same bytes. A discard that landed reads as zeroes.
    ValueError for a cut that is not in the log, and a write that is not on the disk.
    """
    _check(log, cut)
    subprocess.run(["cp", "--sparse=always", "--no-preserve=mode", base, out], check=True)
    flush = max((number for number in range(cut + 1) if log[number].flush), default=0)
    with out.open("r+b") as disk:
        end_bytes = os.fstat(disk.fileno()).st_size
        for number, entry in enumerate(log[: cut + 1]):
            if entry.offset_bytes + entry.size_bytes > end_bytes:
                raise ValueError(f"entry {number} of the log writes beyond the end of {base}")
            durable = number < flush or entry.fua
            for offset, block in _blocks(entry):
                if durable or rng.random() < 0.5:
                    _put(disk.fileno(), offset, block)


def _blocks(entry: Entry) -> Iterator[tuple[int, bytes]]:
    """The parts that land or get lost each by itself, with their places on the disk."""
    for start in range(0, entry.size_bytes, BLOCK_BYTES):
        size_bytes = min(BLOCK_BYTES, entry.size_bytes - start)
        data = bytes(size_bytes) if entry.data is None else entry.data[start : start + size_bytes]
        yield entry.offset_bytes + start, data


def _put(disk: int, offset: int, block: bytes) -> None:
    """Write what differs, so that zeroes in a hole leave it one."""
    if os.pread(disk, len(block), offset) != block:
        os.pwrite(disk, block, offset)


def outstanding(log: Sequence[Entry], cut: int) -> int:
    """How many writes and discards are not durable when the power goes right after `log[cut]`."""
    _check(log, cut)
    return _outstanding(log)[cut]


def _outstanding(log: Sequence[Entry]) -> list[int]:
    """The same for every cut."""
    counts, count = [], 0
    for entry in log:
        count = (0 if entry.flush else count) + (1 if entry.size_bytes and not entry.fua else 0)
        counts.append(count)
    return counts


def cut_points(log: Sequence[Entry], count: int) -> list[int]:
    """`count` cuts in ascending order: of as many parts of the log, equally long, where most can be lost.

    ValueError for more cuts than the log has entries, or none.
    """
    if not 0 < count <= len(log):
        raise ValueError(f"{count} cuts in a log of {len(log)} entries")
    counts = _outstanding(log)
    ends = [number * len(log) // count for number in range(count + 1)]
    return [max(range(start, end), key=counts.__getitem__) for start, end in pairwise(ends)]


def _check(log: Sequence[Entry], cut: int) -> None:
    if not 0 <= cut < len(log):
        raise ValueError(f"cut {cut} of a log of {len(log)} entries")
