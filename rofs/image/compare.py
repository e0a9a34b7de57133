# SPDX-License-Identifier: MIT
"""Two published images -> what differs: the file, its first byte that does, and what inside a squashfs or initrd.

Logs and reports say how it went, and are left out; the manifest counts.
"""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from rofs.errors import ImageError
from rofs.image.cpio import CpioEntry, read_newc
from rofs.image.manifest import UNLISTED
from rofs.image.readback import Limits, read_squashfs
from rofs.image.records import FileRecord
from rofs.run import run

MANIFEST = "manifest.json"
MOST_LINES = 20
"""What is said of the inside of one file; people need the first few."""
_CHUNK_BYTES = 1 << 20
_UNLIMITED = Limits(paths=1 << 32, content_bytes=1 << 50)
"""The images are ours."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Difference:
    """A file of the published directory; `offset` is the first byte that differs, None where one has no such file.

    `inside` says what differs in it: members by path, with the attribute or the byte.
    """

    file: str
    offset: int | None
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "is in one of them alone" if self.offset is None else f"differs from byte {self.offset} on"
        return "\n".join((f"{self.file}: {where}", *(f"  {line}" for line in self.inside)))


def compare_images(one: Path, other: Path) -> list[Difference]:
    """Every file that is not the same in both, sorted by name; ToolError where sqfs2tar or rdsquashfs cannot run."""
    found = []
    names = [_names(one), _names(other)]
    for name in sorted(names[0] | names[1]):
        if name not in names[0] & names[1]:
            found.append(Difference(name, None))
        elif (offset := first_difference(one / name, other / name)) is not None:
            found.append(Difference(name, offset, tuple(_inside(one / name, other / name))))
    return found


def _names(directory: Path) -> set[str]:
    names = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {name for name in names if name == MANIFEST or not any(fnmatchcase(name, each) for each in UNLISTED)}


def first_difference(one: Path, other: Path) -> int | None:
    """The offset of the first byte that two files do not share, None for the same content."""
    with one.open("rb") as a, other.open("rb") as b:
        for number in count():
            left, right = a.read(_CHUNK_BYTES), b.read(_CHUNK_BYTES)
            if (at := _first(left, right)) is not None:
                return number * _CHUNK_BYTES + at
            if not left:
                return None
    return None


def _first(left: bytes, right: bytes) -> int | None:
    if left == right:
        return None
    shared = min(len(left), len(right))
    return next((at for at in range(shared) if left[at] != right[at]), shared)


def _inside(one: Path, other: Path) -> list[str]:
    """What differs among the members of two archives; nothing of other files."""
    look = _ARCHIVES.get(one.name)
    if look is None:
        return []
    try:
        lines = list(look(one, other))
    except (ImageError, ValueError, EOFError, OSError, zlib.error) as error:
        return [f"cannot be looked into: {error}"]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"and {len(lines) - MOST_LINES} more"]
    return lines or ["the members are the same: how they are packed differs"]


def _squashfs(one: Path, other: Path) -> Iterator[str]:
    left, right = _records(one), _records(other)

    def content(path: str) -> str:
        with TemporaryDirectory(prefix="rofs-compare-") as name:
            files = [Path(name, "one"), Path(name, "other")]
            for squashfs, file in zip((one, other), files, strict=True):
                run(["rdsquashfs", "--cat", path, squashfs], stdout=file)
            return f"content differs from byte {first_difference(*files)} on"

    for found in _unequal(left, right):
        if isinstance(found, str):
            yield found
            continue
        path, a, b = found
        for field in fields(FileRecord):
            values = getattr(a, field.name), getattr(b, field.name)
            if values[0] != values[1] and field.name != "sha256":
                yield f"{path}: {_attribute(field.name, values)}"
        if a.sha256 != b.sha256 and a.kind == b.kind == "file":
            yield f"{path}: {content(path)}"


def _records(squashfs: Path) -> dict[str, FileRecord]:
    return {record.path: record for record in read_squashfs(squashfs, _UNLIMITED, lambda _path, _head: None)}


def _attribute(name: str, values: tuple[object, object]) -> str:
    shown = [f"{value:04o}" if name == "mode" else str(value) for value in values]
    return f"{name} {shown[0]} and {shown[1]}"


def _initrd(one: Path, other: Path) -> Iterator[str]:
    left, right = _entries(one), _entries(other)
    for found in _unequal(left, right):
        if isinstance(found, str):
            yield found
            continue
        path, a, b = found
        for name in ("mode", "target", "rdev"):
            values = getattr(a, name), getattr(b, name)
            if values[0] != values[1]:
                yield f"{path}: {_attribute(name, values)}"
        if (at := _first(a.content, b.content)) is not None:
            yield f"{path}: content differs from byte {at} on"


def _entries(initrd: Path) -> dict[str, CpioEntry]:
    entries = read_newc(gzip.decompress(initrd.read_bytes()))
    return {str(entry.path) + ("/" if stat.S_ISDIR(entry.mode) else ""): entry for entry in entries}


def _unequal(left: Mapping[str, _T], right: Mapping[str, _T]) -> Iterator[tuple[str, _T, _T] | str]:
    """Each path whose members are not equal, with both; a sentence where one is missing."""
    for path in sorted(left.keys() | right.keys()):
        a, b = left.get(path), right.get(path)
        if a is None or b is None:
            yield f"{path}: is in one of them alone"
        elif a != b:
            yield path, a, b


_ARCHIVES: Mapping[str, Callable[[Path, Path], Iterator[str]]] = {"rootfs.squashfs": _squashfs, "initrd.img": _initrd}
