# SPDX-License-Identifier: MIT
"""Partitions -> an image of a whole disk with a GPT (UEFI 2.10, chapter 5) or an MBR, written by hand.

So a disk may have what partitioning tools do not make: entries of a GPT anywhere, a GPT left over.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import UUID
from zlib import crc32

MIB = 1 << 20
ENTRIES, ENTRY_BYTES = 128, 128
HEADER_BYTES = 92
LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
DISK = UUID("5a0f6b3e-7c1d-4e2f-9a8b-c0d1e2f30415")
ONE = UUID(int=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A partition, by its number in the table; an MBR keeps neither `uuid` nor `label`."""

    number: int
    content: bytes = b""
    uuid: UUID = ONE
    label: str = ""


def _places(parts: Sequence[Part]) -> tuple[list[tuple[int, int]], int]:
    """First byte and size of each, in whole MiB from the first one on; and of the disk, one more behind."""
    places, at = [], MIB
    for part in parts:
        size = max(-(-len(part.content) // MIB), 1) * MIB
        places.append((at, size))
        at += size
    return places, at + MIB


def write_gpt(out: Path, parts: Sequence[Part], *, sector_bytes: int = 512, entries_lba: int = 2) -> Path:
    """A disk with a protective MBR, and its GPT at both ends."""
    places, size_bytes = _places(parts)
    rows = [bytes(ENTRY_BYTES)] * ENTRIES
    for part, (at, size) in zip(parts, places, strict=True):
        ends = (at // sector_bytes, (at + size) // sector_bytes - 1)
        name = part.label.encode("utf-16-le")
        rows[part.number - 1] = struct.pack("<16s16sQQQ72s", LINUX.bytes_le, part.uuid.bytes_le, *ends, 0, name)
    entries = b"".join(rows)
    last = size_bytes // sector_bytes - 1
    backup = last - len(entries) // sector_bytes
    usable = (MIB // sector_bytes, (size_bytes - MIB) // sector_bytes - 1)
    with out.open("wb") as file:
        file.truncate(size_bytes)
        _put(file, 0, _mbr([(0xEE, 1, last)], 0))
        for here, other, at in ((1, last, entries_lba), (last, 1, backup)):
            _put(file, here * sector_bytes, _header(here, other, usable, at, entries))
            _put(file, at * sector_bytes, entries)
        _put_contents(file, parts, places)
    return out


def write_mbr(out: Path, parts: Sequence[Part], disk_id: int, *, sector_bytes: int = 512) -> Path:
    """A disk with up to four primary partitions."""
    places, size_bytes = _places(parts)
    with out.open("wb") as file:
        file.truncate(size_bytes)
        _put_contents(file, parts, places)
    return put_mbr(out, parts, disk_id, sector_bytes=sector_bytes)


def put_mbr(disk: Path, parts: Sequence[Part], disk_id: int, *, sector_bytes: int = 512) -> Path:
    """An MBR of the same partitions over whatever was there; a GPT is left over."""
    rows = [(0, 0, 0)] * 4
    for part, (at, size) in zip(parts, _places(parts)[0], strict=True):
        rows[part.number - 1] = (0x83, at // sector_bytes, size // sector_bytes)
    with disk.open("r+b") as file:
        _put(file, 0, _mbr(rows, disk_id))
    return disk


def _mbr(rows: Sequence[tuple[int, int, int]], disk_id: int) -> bytes:
    """Of partitions by type, first sector and sectors; nobody reads cylinders, heads and sectors any more."""
    table = b"".join(struct.pack("<4xB3xII", *row) for row in rows)
    return struct.pack("<440xI2x64s", disk_id, table) + b"\x55\xaa"


def _header(here: int, other: int, usable: tuple[int, int], entries_lba: int, entries: bytes) -> bytes:
    def render(checksum: int) -> bytes:
        head = struct.pack("<8sIIIIQQ", b"EFI PART", 0x10000, HEADER_BYTES, checksum, 0, here, other)
        table = struct.pack("<QQ16sQIII", *usable, DISK.bytes_le, entries_lba, ENTRIES, ENTRY_BYTES, crc32(entries))
        return head + table

    return render(crc32(render(0)))


def _put_contents(file: IO[bytes], parts: Sequence[Part], places: Sequence[tuple[int, int]]) -> None:
    for part, (at, _) in zip(parts, places, strict=True):
        _put(file, at, part.content)


def _put(file: IO[bytes], at: int, content: bytes) -> None:
    file.seek(at)
    file.write(content)
