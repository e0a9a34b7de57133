# SPDX-License-Identifier: MIT
"""A tar, as a file or from a pipe -> its members in order; ImageError for what two readers could take differently.

`tarfile` takes a damaged header or a missing end for the end of the archive, a number it cannot read for
0, a negative size for a way back (CVE-2025-8194), and headers of any length into memory. Damaged bytes
also make it raise ValueError, IndexError and others. Here each of these is one error, with the name of
the member or the byte where it stands.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tarfile
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rofs.errors import ImageError
from rofs.values import show

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_HEADER_BYTES = 1 << 20
"""Of one member: its PAX records, long names and map of holes together."""
MAX_GLOBAL_RECORDS = 64
"""Each member gets a copy of these."""

_CHUNK_BYTES = 1 << 20
_NUMBERS = tuple(slice(*ends) for ends in (
    (100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (329, 337), (337, 345),
))  # fmt: skip
"""Mode, uid, gid, size, mtime, and of devices their two."""
_NUMBER = re.compile(rb" *[0-7]+(?:[ \0].*)?|[\x80\xff].*", re.DOTALL)
_HEADERS = re.compile(rb"g*(?:[xX]|LK?|KL?)?[^gxXLK]", re.DOTALL)
"""Global records, then at most one form of extended header, then the member's own."""
_HEADERS_OF_A_TOOL = re.compile(rb"[xX]?(?:LK?|KL?)?[^gxXLK]", re.DOTALL)
"""Of sqfs2tar's, which has attributes in one form and long names in the other."""
_PLAIN = re.compile(
    rb".{100}([0-7]{7})\0([0-7]{7})\0([0-7]{7})\0([0-7]{11})[ \0]([0-7]{11})[ \0]([0-7]{6})\0 ([0125]).{100}"
    rb"(?:ustar\x0000.{64}(?:0000000\0|\0{8}){2}.{155}|ustar  \0.{64}(?:0000000\0|\0{8}){2}\0{155}).{12}",
    re.DOTALL,
)
"""The header of a file, link or directory as nearly every tar has them: mode, uid, gid, size, mtime, checksum, type."""
_HALF = tarfile.BLOCKSIZE // 2
_BUFFER_BYTES = 1 << 16
_EXTENSIONS = frozenset({b"g", b"x", b"X", b"L", b"K"})
_DEVICES = frozenset({tarfile.CHRTYPE, tarfile.BLKTYPE})
_WHOLE = re.compile(r"[0-9]{1,20}")
_TIME = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]*)?")
_PAX_NUMBERS = {
    "uid": _WHOLE,
    "gid": _WHOLE,
    "size": _WHOLE,
    "mtime": _TIME,
    "GNU.sparse.size": _WHOLE,
    "GNU.sparse.realsize": _WHOLE,
    "GNU.sparse.major": _WHOLE,
    "GNU.sparse.minor": _WHOLE,
}


class _Headers(io.BufferedReader):
    """A tar open for `tarfile`, of which it may read `left` bytes more."""

    left = 0
    types = b""
    """Of the headers since the last member, in order."""
    last = b""
    """What was read last: at the end the block that `tarfile` took for it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise tarfile.ReadError("a negative size")
        if size > self.left:
            raise tarfile.ReadError(f"a header of more than {MAX_HEADER_BYTES >> 20} MiB")
        self.left -= size
        self.last = super().read(size)
        return self.last


class Pipe(io.RawIOBase):
    """A descriptor (left open) that is read forwards alone, and so has no size; `ended` once all was read."""

    ended = False

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd, self._at = fd, 0

    def readable(self) -> bool:
        """Asked by the buffer, as the next."""
        return True

    def seekable(self) -> bool:
        """Though in one direction alone."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """As much as there is."""
        count = os.readv(self._fd, [buffer])
        self._at += count
        self.ended = count == 0
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Forwards, by reading."""
        ahead = offset - (self._at if whence == io.SEEK_SET else 0)
        if whence == io.SEEK_END or ahead < 0:
            raise io.UnsupportedOperation("a pipe goes forwards")
        waste = memoryview(bytearray(min(ahead, _CHUNK_BYTES)))
        while ahead and (count := self.readinto(waste[:ahead])):
            ahead -= count
        return self._at


class _Info(tarfile.TarInfo):
    """A header that has one reading."""

    __slots__ = ()

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Of every header, which was just read; documented in `tarfile` as the one to override.

        Not `frombuf`, which Pythons of 2026 pass by.
        """
        if isinstance(archive.fileobj, _Headers):
            self._check_header(archive.fileobj.last)
            archive.fileobj.types += self.type
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]

    def _check_header(self, header: bytes) -> None:
        """Refuse what `tarfile` takes and other readers do not, or take for something else."""
        meant = _NUMBERS if self.type in _DEVICES else _NUMBERS[3:4] if self.type in _EXTENSIONS else _NUMBERS[:5]
        if not all(_NUMBER.fullmatch(header[field]) for field in meant):
            raise tarfile.ReadError("a damaged number in a header")
        magic = header[257:265]
        if magic[:6] == tarfile.POSIX_MAGIC[:6]:
            return
        if magic not in (tarfile.GNU_MAGIC, bytes(8)):
            raise tarfile.ReadError("a header of an unknown format")
        if self.type != tarfile.GNUTYPE_SPARSE and any(header[345:500]):  # times there, no name
            raise tarfile.ReadError("a header of an incremental backup")

    def _block(self, count: int) -> int:
        """Whole blocks, as bytes. A negative count goes through: newer Pythons take it for the end of the archive,
        and `_check_member` names the member.
        """
        return -(-count // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def iter_members(tar: Path, called: str | None = None) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every member of an uncompressed tar, in order; `TarFile.offset` is then where the member ends.

    Times are whole seconds, rounded down; maps of holes are in order. `called` stands in messages for the
    file's name.
    """
    name = called or tar.name
    with _clean(name):
        raw = io.FileIO(tar)
        size_bytes = tar.stat().st_size
    yield from _iterate(raw, name, size_bytes, _HEADERS, plain=True)


def iter_stream(pipe: Pipe, called: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The same of what sqfs2tar writes into a pipe: a member's content is there until the next one is asked for."""
    yield from _iterate(pipe, called, sys.maxsize, _HEADERS_OF_A_TOOL, plain=False)


def _iterate(
    source: io.RawIOBase, name: str, size_bytes: int, headers: re.Pattern[bytes], *, plain: bool
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """With `plain` headers that have one reading alone do not take the way through `tarfile`, which is long."""
    with _Headers(source, _BUFFER_BYTES) as raw:
        raw.left = MAX_HEADER_BYTES
        with _clean(name):
            archive = tarfile.TarFile(fileobj=raw, tarinfo=_Info, encoding="utf-8", errors="surrogateescape")
        end = 0
        while (info := _next(archive, name)) is not None:
            try:
                if not headers.fullmatch(raw.types):
                    raise ValueError("more than one extended header for it")
                _check_member(archive, info, end, size_bytes)
            except ValueError as error:
                raise ImageError(f"{name}: {show(info.name)}: {error}") from error
            raw.left = sys.maxsize
            yield archive, info
            while plain and (info := _read_plain(raw, archive, size_bytes)) is not None:
                yield archive, info
            end, raw.left, raw.types = archive.offset, MAX_HEADER_BYTES, b""
        _check_end(raw, name, archive.offset)


@contextmanager
def _clean(name: str, at: int | None = None) -> Iterator[None]:
    """Whatever `tarfile` raises -> ImageError."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, (tarfile.TarError, OSError))
        reason = str(error) if known and str(error).isprintable() else f"damaged ({type(error).__name__})"
        where = f" after byte {at}" if at else ""
        raise ImageError(f"{name}: not a readable tar{where}: {reason}") from error


def _next(archive: tarfile.TarFile, name: str) -> tarfile.TarInfo | None:
    with _clean(name, archive.offset):
        info = archive.next()
    archive.members = []  # type: ignore[attr-defined]  # they would all be kept
    return info


def _read_plain(raw: _Headers, archive: tarfile.TarFile, size_bytes: int) -> tarfile.TarInfo | None:
    """The next member, as `tarfile` would give it; None where its header is not `_PLAIN`, or anything is odd."""
    start = archive.offset
    raw.seek(start)
    block = raw.read(tarfile.BLOCKSIZE)
    match = None if archive.pax_headers else _PLAIN.fullmatch(block)
    if match is None:
        return None
    mode, uid, gid, octal, mtime, checksum, kind = match.groups()
    size, data = int(octal, 8), start + tarfile.BLOCKSIZE
    end = data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    if end > size_bytes or (size and kind != tarfile.REGTYPE) or int(checksum, 8) != _sum(block):
        return None
    info = _Info(_text(block[:100]))
    info.mode, info.uid, info.gid, info.mtime = int(mode, 8), int(uid, 8), int(gid, 8), int(mtime, 8)
    info.size, info.type, info.offset, info.offset_data = size, kind, start, data
    if kind == tarfile.DIRTYPE:
        info.name = info.name.rstrip("/")
    if block[157]:
        info.linkname = _text(block[157:257])
    if block[345]:
        info.name = f"{_text(block[345:500])}/{info.name}"
    archive.offset = end
    return info


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _sum(block: bytes) -> int:
    """Of a header's bytes, its checksum as spaces; the low half of adler32 is one more than the sum of few bytes."""
    first, second = zlib.adler32(block[:_HALF]), zlib.adler32(block[_HALF:])
    return (first & 0xFFFF) + (second & 0xFFFF) - 2 - sum(block[148:156]) + 256


def _check_end(raw: _Headers, name: str, end: int) -> None:
    raw.left = sys.maxsize
    if raw.last != bytes(tarfile.BLOCKSIZE):
        raise ImageError(f"{name}: damaged or cut short at byte {end}")
    while piece := raw.read(_CHUNK_BYTES):
        if piece.count(0) != len(piece):
            raise ImageError(f"{name}: goes on after its end at byte {end}: damaged there, or two tars in one")


def _check_member(archive: tarfile.TarFile, info: tarfile.TarInfo, start: int, size_bytes: int) -> None:
    """ValueError for what is wrong with a member's headers; what is theirs alone is made right."""
    if not start < archive.offset <= size_bytes:
        raise ValueError("damaged, or the tar is cut short")
    if len(archive.pax_headers) > MAX_GLOBAL_RECORDS:
        raise ValueError(f"more than {MAX_GLOBAL_RECORDS} global PAX records")
    if info.pax_headers:
        _check_pax(info)
    stored = archive.offset - info.offset_data
    if info.sparse is not None:
        lost = {*archive.pax_headers, *(info.pax_headers if info.type == tarfile.GNUTYPE_SPARSE else ())}
        if "size" in info.pax_headers or lost - {"comment"}:  # what tarfile gets wrong beside a map
            raise ValueError("its map of holes cannot be read")
        _check_holes(info, stored)
    elif info.size < 0 or -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE != stored:
        raise ValueError(f"has the size {info.size}, yet {stored} bytes are stored")


def _check_pax(info: tarfile.TarInfo) -> None:
    pax = info.pax_headers
    if not all(key.isprintable() or key.startswith("SCHILY.xattr.") for key in pax):
        raise ValueError("a damaged PAX record")
    for key, pattern in _PAX_NUMBERS.items():
        if key in pax and not pattern.fullmatch(pax[key]):
            raise ValueError(f"the PAX record {key} is no number: {show(pax[key])}")
    if "mtime" in pax:
        whole, _, fraction = pax["mtime"].partition(".")
        info.mtime = int(whole) - (whole.startswith("-") and fraction.strip("0") != "")
    if "GNU.sparse.name" in pax:
        info.name = pax["GNU.sparse.name"]  # whatever `path` says, and whichever comes later
    has_map = any(key.startswith("GNU.sparse.") for key in pax)
    has_size = "GNU.sparse.size" in pax or "GNU.sparse.realsize" in pax
    if has_map and (info.sparse is None or not has_size):
        raise ValueError("its map of holes cannot be read")
    decode_xattrs(pax)


def _check_holes(info: tarfile.TarInfo, stored: int) -> None:
    """The map in order, within the file, and of what is stored; entries of nothing are left out.

    A part of a block may only be the last: for some readers each piece begins a block, for others not.
    """
    entries = _map(info)
    pieces = [(at, size) for at, size in entries if size != 0]
    end = 0
    for at, size in pieces:
        if at < end or size < 0 or (size % tarfile.BLOCKSIZE and (at, size) != pieces[-1]):
            raise ValueError("its map of holes is damaged")
        end = at + size
    blocks = -(-sum(size for _, size in pieces) // tarfile.BLOCKSIZE)
    count = str(len(entries))
    told = info.pax_headers.get("GNU.sparse.numblocks", "" if "GNU.sparse.size" in info.pax_headers else count)
    if not info.isreg() or end > info.size or blocks * tarfile.BLOCKSIZE != stored or told != count:
        raise ValueError("its map of holes is damaged")
    info.sparse = pieces  # type: ignore[assignment]


def _map(info: Any) -> list[tuple[int, int]]:
    """What is stored of a file with holes; typeshed has `sparse` as bytes."""
    return list(info.sparse)


def extents(info: tarfile.TarInfo) -> Iterator[tuple[int | None, int]]:
    """A file's content in order: (where in the tar, or None for a hole; how many bytes)."""
    yield from spans(info.offset_data, info.size, None if info.sparse is None else _map(info))


def spans(data: int, size: int, sparse: list[tuple[int, int]] | None) -> Iterator[tuple[int | None, int]]:
    """The same of a content of `size` bytes stored from `data`, and its map of holes."""
    if sparse is None:
        yield data, size
        return
    done = 0
    for at, length in sparse:
        yield None, at - done
        yield data, length
        done, data = at + length, data + length
    yield None, size - done


def read_content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """A small file's content."""
    return b"".join(read_pieces(archive, info))


def read_pieces(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    """A file's content, in order and its holes filled, at most a MiB at a time."""
    raw = archive.fileobj
    for at, size in extents(info):
        if at is not None and raw is not None:
            raw.seek(at)
        for done in range(0, size, _CHUNK_BYTES):
            count = min(size - done, _CHUNK_BYTES)
            yield bytes(count) if at is None or raw is None else raw.read(count)


def decode_xattrs(pax: Mapping[str, str]) -> dict[str, bytes]:
    """A member's PAX records -> its extended attributes, from GNU tar's form or libarchive's.

    `SCHILY.xattr.NAME` holds the raw value, `LIBARCHIVE.xattr.NAME` base64 under a URL-encoded name
    (libarchive-formats(5)), `RHT.security.selinux` a label. ValueError for one that is damaged.
    """
    xattrs: dict[str, bytes] = {}
    for key, value in pax.items():
        raw = value.encode("utf-8", "surrogateescape")
        if key.startswith("LIBARCHIVE.xattr."):
            name = urllib.parse.unquote(key.removeprefix("LIBARCHIVE.xattr."), errors="surrogateescape")
            xattrs.setdefault(name, base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True))
        elif key.startswith("SCHILY.xattr."):
            xattrs[key.removeprefix("SCHILY.xattr.")] = raw
        elif key == "RHT.security.selinux":
            xattrs.setdefault("security.selinux", raw)
    return xattrs
