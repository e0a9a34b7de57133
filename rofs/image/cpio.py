# SPDX-License-Identifier: MIT
"""Files in memory -> an initrd archive ("newc" cpio, gzip), the same bytes each time.

The format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Archives may follow
one another; each but a compressed one's inside begins at a multiple of four bytes.
"""

from __future__ import annotations

import gzip
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

ALIGN_BYTES = 4
MAGIC, TRAILER = b"070701", b"TRAILER!!!"
HEADER_BYTES = len(MAGIC) + 13 * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CpioEntry:
    """One path; `mode` with its type bits, `content` a file's bytes, `target` a link's, `rdev` a device's."""

    path: PurePosixPath
    mode: int
    content: bytes = b""
    target: str = ""
    rdev: tuple[int, int] = (0, 0)


def write_newc(entries: Iterable[CpioEntry], out: IO[bytes]) -> None:
    """Write a whole archive: sorted, all owned by root, time 0, missing directories made 0755.

    ValueError for a path named twice.
    """
    by_name: dict[str, CpioEntry] = {}
    for entry in entries:
        name = str(entry.path).strip("/")
        if name in by_name:
            raise ValueError(f"{name} is in the archive twice")
        by_name[name] = entry
    for name in list(by_name):
        for parent in PurePosixPath(name).parents:
            if str(parent) != ".":
                by_name.setdefault(str(parent), CpioEntry(path=parent, mode=stat.S_IFDIR | 0o755))
    for number, name in enumerate(sorted(by_name), start=1):
        entry = by_name[name]
        data = entry.target.encode() if stat.S_ISLNK(entry.mode) else entry.content
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        _write_record(out, name.encode("utf-8", "surrogateescape"), data, number, entry.mode, links, entry.rdev)
    _write_record(out, TRAILER, b"", 0, 0, 1, (0, 0))


def _write_record(
    out: IO[bytes], name: bytes, data: bytes, number: int, mode: int, links: int, rdev: tuple[int, int]
) -> None:
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, *rdev, len(name) + 1, 0)
    header = MAGIC + b"".join(b"%08X" % value for value in fields) + name + b"\0"
    out.write(header + pad(len(header)) + data + pad(len(data)))


def read_newc(data: bytes) -> Iterator[CpioEntry]:
    """The entries of archives that `write_newc` wrote, one after the other; ValueError where one is not whole."""
    at, ended = 0, False
    while at < len(data):
        if data[at : at + 6] != MAGIC:
            raise ValueError(f"no cpio entry at byte {at}")
        mode, size, major, minor, name_size = (
            int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in (1, 6, 9, 10, 11)
        )
        end_of_name = at + HEADER_BYTES + name_size
        name = data[at + HEADER_BYTES : end_of_name - 1]
        begin = end_of_name + len(pad(end_of_name))
        content = data[begin : begin + size]
        at, ended = begin + size + len(pad(begin + size)), name == TRAILER
        if ended:
            continue
        if stat.S_ISLNK(mode):
            content, target = b"", content.decode("utf-8", "surrogateescape")
        else:
            target = ""
        path = PurePosixPath(name.decode("utf-8", "surrogateescape"))
        yield CpioEntry(path=path, mode=mode, content=content, target=target, rdev=(major, minor))
    if not ended:
        raise ValueError("the cpio archive has no end")


def pad(size_bytes: int) -> bytes:
    """The zeros up to the next multiple of four."""
    return bytes(-size_bytes % ALIGN_BYTES)


def compress(data: bytes) -> bytes:
    """gzip -9 without a time or a name."""
    return gzip.compress(data, compresslevel=9, mtime=0)


def append(first: Path, second: bytes, out: Path) -> None:
    """`first`, zeros to a multiple of four, `second` -> `out`; the kernel reads one after the other."""
    with first.open("rb") as source, out.open("wb") as sink:
        shutil.copyfileobj(source, sink)
        sink.write(pad(sink.tell()) + second)
