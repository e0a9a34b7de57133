# SPDX-License-Identifier: MIT
"""What is at each path of an image, and many of these in little memory."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rofs.treefacts import Kind

_SUM_BYTES = 32
_SORTED_AT_ONCE = 4096
"""Of so many the paths are held as strings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One path of the image, as the manifest says it.

    A hard link has the data of the file it links to, kind "hardlink", and in `target` the path that
    carries the content. `xattrs` values are hexadecimal, `caps` is as getcap(8) prints it, `rdev` is
    "major:minor".
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    sha256: str | None = None
    target: str = ""
    xattrs: Mapping[str, str] = field(default_factory=dict)
    caps: str = ""
    rdev: str = ""


class _Rest(NamedTuple):
    """Of a record all but path, size and hash; records that agree share one."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    hashed: bool
    target: str
    caps: str
    rdev: str
    xattrs: tuple[tuple[str, str], ...]


class Records:
    """Records, by path when they are read again.

    Held by column: of 200,000 small files little else differs. The paths as bytes, too, since each piece of memory that
    a string of the tree's stays in is one that does not go back to the system.
    """

    def __init__(self, records: Iterable[FileRecord] = ()) -> None:
        self._paths, self._ends = bytearray(), array("Q")
        self._sizes = array("Q")
        self._sums = bytearray()
        self._rests: list[_Rest] = []
        self._shared: dict[_Rest, _Rest] = {}
        self._order = array("I")
        self.extend(records)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[FileRecord]:
        return map(self._record, self._order)

    def extend(self, records: Iterable[FileRecord]) -> None:
        """Take them; ValueError for a hash that is none."""
        for r in records:
            rest = _Rest(
                r.kind, r.mode, r.uid, r.gid, r.mtime, r.sha256 is not None, r.target, r.caps, r.rdev,
                tuple(r.xattrs.items()) if r.xattrs else (),
            )  # fmt: skip
            self._paths += r.path.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._paths))
            self._sizes.append(r.size)
            self._sums += bytes(_SUM_BYTES) if r.sha256 is None else bytes.fromhex(r.sha256)
            self._rests.append(self._shared.setdefault(rest, rest))
            if len(self._sums) != len(self) * _SUM_BYTES:
                raise ValueError(f"{r.path}: no sha256: {r.sha256}")
        pieces = (range(at, min(at + _SORTED_AT_ONCE, len(self))) for at in range(0, len(self), _SORTED_AT_ONCE))
        runs = [array("I", sorted(piece, key=self._path)) for piece in pieces]
        self._order = array("I", heapq.merge(*runs, key=self._path))

    def _path(self, number: int) -> str:
        begin = self._ends[number - 1] if number else 0
        return self._paths[begin : self._ends[number]].decode("utf-8", "surrogateescape")

    def _record(self, number: int) -> FileRecord:
        kind, mode, uid, gid, mtime, hashed, target, caps, rdev, xattrs = self._rests[number]
        digest = self._sums[number * _SUM_BYTES : (number + 1) * _SUM_BYTES]
        return FileRecord(
            path=self._path(number), kind=kind, mode=mode, uid=uid, gid=gid, size=self._sizes[number], mtime=mtime,
            sha256=digest.hex() if hashed else None, target=target, xattrs=dict(xattrs), caps=caps, rdev=rdev,
        )  # fmt: skip
