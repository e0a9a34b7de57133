# SPDX-License-Identifier: MIT
"""Tars of the tree + generated entries -> every path of the image exactly once, given to a sink, and its records.

Directories come first, parents before children, then the tree's other members by byte range in their
own order, then the generated files. An image writer refuses a path that is named twice, so what an entry
replaces, what a drop pattern names and what a later tar adds again is left out here. `TarSink` makes a
tar stream of it for tar2sqfs.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal, Protocol

from rofs.entry import Entry
from rofs.errors import ImageError
from rofs.image.records import FileRecord, Records
from rofs.image.tarstream import (
    TAR_END,
    Header,
    Member,
    caps_text,
    encode_header,
    find_acl,
    kept_xattrs,
    padding,
)
from rofs.image.union import Item, Note, Resolve, Union, unite
from rofs.tarmembers import spans

_CHUNK_BYTES = 1 << 20
_NONE: Mapping[str, str] = MappingProxyType({})
_ZEROS = bytes(_CHUNK_BYTES)

Pieces = Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Stored:
    """A member as its tar has it, where nothing about it changes.

    `pieces` are its headers, and with `whole` also its content and padding (of a sparse file as a map and data).
    """

    pieces: Pieces
    whole: bool


class Sink(Protocol):
    """Takes the members, in order."""

    def add(self, header: Header, content: Pieces, stored: Stored | None) -> None:
        """Take one; `content`, of a file, is to be read to its end before this returns, holes filled with zeros."""


class TarSink:
    """Members -> a tar stream."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def add(self, header: Header, content: Pieces, stored: Stored | None) -> None:
        """Write it: its own bytes where nothing changes, else new headers."""
        whole = stored is not None and stored.whole
        _copy(stored.pieces if stored else [encode_header(header)], self._out)
        for piece in content:
            if not whole:
                self._out.write(piece)
        if not whole:
            self._out.write(padding(header.size_bytes))

    def end(self) -> None:
        """Write the end of the archive."""
        self._out.write(TAR_END)


def merge(
    tars: Sequence[Path],
    entries: Sequence[Entry],
    drop: Sequence[str],
    out_fd: int,
    *,
    epoch: int,
    acl: Literal["error", "drop"],
    resolve: Resolve,
    keep_times: bool = False,
    note: Note = lambda _: None,
) -> Records:
    """Write a tar stream to `out_fd` (left open) and say what is in it; the rest as `merge_into`."""
    with io.BufferedWriter(io.FileIO(out_fd, "wb", closefd=False), _CHUNK_BYTES) as out:
        sink = TarSink(out)
        records = merge_into(
            sink, tars, entries, drop, epoch=epoch, acl=acl, resolve=resolve, keep_times=keep_times, note=note
        )
        sink.end()
    return records


def merge_into(
    sink: Sink,
    tars: Sequence[Path],
    entries: Sequence[Entry],
    drop: Sequence[str],
    *,
    epoch: int,
    acl: Literal["error", "drop"],
    resolve: Resolve,
    keep_times: bool = False,
    note: Note = lambda _: None,
) -> Records:
    """Give every member to `sink` and say what they were.

    `resolve` follows the links of the tree; names are put through it by their directory. Times later
    than `epoch` become `epoch`. With `keep_times`, for a tar that others made, they stay as they are, and
    every header is written anew: of odd ones tar2sqfs has its own reading. `note` hears of members that a
    later one of the same tar replaced. ImageError before the first member where the parts make no tree.
    """
    union = unite(tars, entries, drop, acl=acl, resolve=resolve, note=note)
    with ExitStack() as stack:
        sources = [_Source(tar, stack) for tar in tars]
        return Records(_write(union, sources, _Target(sink, epoch, keep_times)))


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the members go, and what becomes of times."""

    sink: Sink
    epoch: int
    keep_times: bool

    def add(self, header: Header, content: Pieces = (), stored: Stored | None = None) -> FileRecord:
        """Hand a member on."""
        sha256 = hashlib.sha256()
        self.sink.add(header, _hashed(content, sha256.update), stored)
        return _record(header, sha256.hexdigest() if header.kind == "file" else None)


def _hashed(content: Pieces, update: Callable[[bytes], None]) -> Iterator[bytes]:
    for piece in content:
        update(piece)
        yield piece


class _Source:
    """A tar open for its bytes, by descriptor: a read of a file that shrank fails, one of a mapping kills."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._name, self._fd = path.name, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, self._fd)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """A range of the file, in pieces."""
        for at in range(start, end, _CHUNK_BYTES):
            size = min(end - at, _CHUNK_BYTES)
            piece = os.pread(self._fd, size, at)
            if len(piece) != size:
                raise ImageError(f"{self._name}: was cut short while it was read")
            yield piece

    def content(self, member: Member) -> Iterator[bytes]:
        """A file's content, its holes filled."""
        for at, size in spans(member.data, member.size, member.sparse):
            if at is not None:
                yield from self.pieces(at, at + size)
                continue
            for done in range(0, size, _CHUNK_BYTES):
                yield _ZEROS[: size - done]


def _write(union: Union, sources: Sequence[_Source], to: _Target) -> Iterator[FileRecord]:
    """The union is used up: what was written is let go, as its record and the sink's own take its place."""
    generated = sorted(union.entries.items())
    paths = [path for path, item in union.chosen.items() if item.member.kind == "dir"]
    paths += [path for path, entry in generated if entry.kind == "dir"]
    for path in sorted(paths):
        if path in union.entries:
            yield _write_entry(path, union.entries[path], to)
        else:
            folder = union.chosen.pop(path)
            yield _write_item(folder, folder, sources, to)
    del paths
    yield from _write_members(union, sources, to)
    for path, entry in generated:
        if entry.kind != "dir":
            yield _write_entry(path, entry, to)


def _write_members(union: Union, sources: Sequence[_Source], to: _Target) -> Iterator[FileRecord]:
    """Everything but directories. Where a hard link's file is gone, the first link left carries it."""
    carriers: dict[Item, FileRecord] = {}
    linked = {item.first for item in union.items if item.first is not None}
    while union.items:
        item = union.items.popleft()
        if item.member.kind == "dir" or union.chosen.get(item.path) is not item:
            continue
        del union.chosen[item.path]
        first = item.first or item
        carrier = carriers.get(first)
        if carrier is None:
            carrier = _write_item(item, first, sources, to)
            if first in linked:
                carriers[first] = carrier
            yield carrier
        else:
            yield _write_link(item, carrier, to)


def _write_item(item: Item, origin: Item, sources: Sequence[_Source], to: _Target) -> FileRecord:
    """Write `origin` at the path of `item`."""
    member, source, header = origin.member, sources[origin.source], _header(item.path, origin.member, to)
    unchanged = (
        item is origin
        and not to.keep_times
        and member.as_is
        and item.path == member.path
        and header.mtime == member.info.mtime
        and not find_acl(member.info)
    )
    stored = None
    if unchanged:
        whole = member.kind != "file" or member.sparse is not None
        stored = Stored(source.pieces(member.start, member.end if whole else member.data), whole)
    return to.add(header, source.content(member) if member.kind == "file" else (), stored)


def _copy(pieces: Pieces, out: IO[bytes]) -> None:
    for piece in pieces:
        out.write(piece)


def _header(path: str, member: Member, to: _Target) -> Header:
    info = member.info
    mtime = max(info.mtime, 0)
    return Header(
        path=path,
        kind=member.kind,
        mode=0o777 if member.kind == "symlink" else info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        mtime=mtime if to.keep_times else min(mtime, to.epoch),
        size_bytes=member.size if member.kind == "file" else 0,
        target=info.linkname if member.kind == "symlink" else "",
        rdev=(info.devmajor, info.devminor) if member.kind in ("char", "block") else (0, 0),
        xattrs=kept_xattrs(info),
    )


def _write_link(item: Item, carrier: FileRecord, to: _Target) -> FileRecord:
    link = replace(carrier, path=item.path, kind="hardlink", target=carrier.path)
    to.add(
        Header(
            path=link.path,
            kind=link.kind,
            mode=link.mode,
            uid=link.uid,
            gid=link.gid,
            mtime=link.mtime,
            target=link.target,
        )
    )
    return link


def _write_entry(path: str, entry: Entry, to: _Target) -> FileRecord:
    header = Header(
        path=path,
        kind=entry.kind,
        mode=0o777 if entry.kind == "symlink" else entry.mode & 0o7777,
        uid=entry.uid,
        gid=entry.gid,
        mtime=to.epoch,
        size_bytes=len(entry.content) if entry.kind == "file" else 0,
        target=entry.target if entry.kind == "symlink" else "",
    )
    return to.add(header, [entry.content] if entry.kind == "file" else ())


def _record(header: Header, sha256: str | None) -> FileRecord:
    caps = header.xattrs.get("security.capability")
    return FileRecord(
        path=header.path,
        kind=header.kind,
        mode=header.mode,
        uid=header.uid,
        gid=header.gid,
        size=header.size_bytes,
        mtime=header.mtime,
        sha256=sha256,
        target=header.target,
        xattrs={name: value.hex() for name, value in sorted(header.xattrs.items())} if header.xattrs else _NONE,
        caps=caps_text(caps) if caps is not None else "",
        rdev=f"{header.rdev[0]}:{header.rdev[1]}" if header.kind in ("char", "block") else "",
    )
