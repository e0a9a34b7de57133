# SPDX-License-Identifier: MIT
"""An lz4 squashfs of tar2sqfs -> one that unsquashfs reads too.

tar2sqfs 1.2.0 keeps lz4's output even where it is longer than its input, which small tables nearly always
are. The kernel reads that; unsquashfs 4.5.1 calls it "File system corruption". Such a block is rewritten
in place as what it should have been, an uncompressed one, which is shorter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_LZ4 = 5
_METADATA_BYTES = 8192
_UNCOMPRESSED = 0x8000
_NONE = (1 << 64) - 1


def unexpand_tables(image: Path) -> int:
    """Repair the id, fragment and xattr-id tables of an lz4 image -> how many blocks had to be."""
    changed = 0
    with image.open("r+b") as file:
        for at, expected_bytes in list(_table_blocks(image)):
            file.seek(at)
            (stored,) = struct.unpack("<H", file.read(2))
            if stored & _UNCOMPRESSED or stored < expected_bytes:
                continue
            plain = decompress(file.read(stored))
            if len(plain) != expected_bytes:
                raise ValueError(f"{len(plain)} bytes at {at}, not {expected_bytes}")
            file.seek(at)
            file.write(struct.pack("<H", expected_bytes | _UNCOMPRESSED) + plain)
            changed += 1
    return changed


def _table_blocks(image: Path) -> Iterator[tuple[int, int]]:
    """Where each metadata block of the three tables is, and the size of its content."""
    with image.open("rb") as file:
        head = file.read(96)
        (fragments, compressor) = struct.unpack_from("<IH", head, 16)
        (ids,) = struct.unpack_from("<H", head, 26)
        id_table, xattr_table = struct.unpack_from("<QQ", head, 48)
        (fragment_table,) = struct.unpack_from("<Q", head, 80)
        if compressor != _LZ4:
            return
        tables = [(id_table, ids * 4)]
        if fragments and fragment_table != _NONE:
            tables.append((fragment_table, fragments * 16))
        if xattr_table != _NONE:
            file.seek(xattr_table)
            (xattrs,) = struct.unpack("<8xI4x", file.read(16))
            tables.append((xattr_table + 16, xattrs * 16))
        for index, size_bytes in tables:
            for number in range(-(-size_bytes // _METADATA_BYTES)):
                file.seek(index + 8 * number)
                (at,) = struct.unpack("<Q", file.read(8))
                yield at, min(_METADATA_BYTES, size_bytes - number * _METADATA_BYTES)


def decompress(data: bytes) -> bytes:
    """One lz4 block (lz4_Block_format.md)."""
    out, at = bytearray(), 0

    def length(start: int) -> int:
        nonlocal at
        total, more = start, start == 15
        while more:
            total += data[at]
            more = data[at] == 255
            at += 1
        return total

    while at < len(data):
        token = data[at]
        at += 1
        literals = length(token >> 4)
        out += data[at : at + literals]
        at += literals
        if at >= len(data):
            break  # the last sequence has literals only
        offset = int.from_bytes(data[at : at + 2], "little")
        at += 2
        for _ in range(length(token & 15) + 4):
            out.append(out[-offset])
    return bytes(out)
