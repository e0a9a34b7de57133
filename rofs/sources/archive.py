# SPDX-License-Identifier: MIT
"""A user's tar, plain or compressed -> a plain tar of a tree that can become an image, or SourceError.

A tar comes from anywhere, so it is judged before anything else reads it: every member's name, links and
numbers, and how much all of it would be.
"""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from rofs.errors import ImageError, SourceError
from rofs.tarmembers import decode_xattrs, iter_members
from rofs.treefacts import Kind, member_kind, path_key
from rofs.values import NAME_MAX, PATH_MAX, show

MAX_TREE_BYTES = 16 << 30
"""Of the unpacked tar, and of all its files with their holes filled."""
MAX_MEMBERS = 2_000_000
MAX_XATTR_BYTES = 65535  # the kernel's XATTR_SIZE_MAX, less one
MAX_XATTRS_BYTES = 256 << 20
"""Of all members; they are held in memory."""

_MAX_ID = 2**32 - 2  # -1 means "leave it" to chown(2)
_MAX_TIME = 2**32 - 1  # squashfs has 32 bits
_MAX_IDS = 65535  # different owners and groups of one squashfs
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
_CHUNK_BYTES = 1 << 20
_SLICE_BYTES = 1 << 10
"""What a decompressor gets at once: of the worst bomb that is 32 MiB in memory."""
_XZ_MEMORY_BYTES = 256 << 20
_SAY_BYTES = 256 << 20
_SAY_MEMBERS = 100_000


def unpack_tar(source: Path, out: Path, sha256: str | None, on_line: Callable[[str], None] = lambda _: None) -> str:
    """Write `source` to `out` as a plain tar and check its tree -> the sha256 of `source`, as it was read.

    `on_line` hears how far it is. SourceError for a wrong `sha256`, for what cannot be read and for a tree
    that `check_tree` refuses; after any error there is no `out`.
    """
    try:
        if not source.is_file():
            raise SourceError(f"{source}: not a file")
        try:
            digest = _unpack(source, out, sha256, on_line)
        except OSError as error:
            raise SourceError(f"{source}: cannot be unpacked: {error.strerror or error}") from error
        check_tree(out, source.name, on_line)
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return digest


def is_plain(source: Path) -> bool:
    """Whether a file is not compressed. SourceError where it cannot be read, or is neither that nor a tar."""
    try:
        with source.open("rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except OSError as error:
        raise SourceError(f"{source}: cannot be read: {error.strerror or error}") from error
    if _find_format(head) is not None:
        return False
    _check_is_tar(head, source.name)
    return True


def _unpack(source: Path, out: Path, sha256: str | None, on_line: Callable[[str], None]) -> str:
    digest, failure = hashlib.sha256(), None
    with source.open("rb") as raw, out.open("wb") as file:
        chunks = _hashed(raw, digest.update)
        try:
            _write(_plain(chunks, source.name), file, source.name, on_line)
        except SourceError as error:
            failure = error
        if sha256 is not None:
            for _ in chunks:  # a wrong hash says more than the damage it comes with
                pass
            if digest.hexdigest() != sha256.lower():
                raise SourceError(f"{source}: its sha256 is {digest.hexdigest()}, not {sha256}") from failure
    if failure is not None:
        raise failure
    return digest.hexdigest()


def _hashed(raw: IO[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    while chunk := raw.read(_CHUNK_BYTES):
        update(chunk)
        yield chunk


def _write(pieces: Iterator[bytes], out: IO[bytes], name: str, on_line: Callable[[str], None]) -> None:
    done = said = 0
    for piece in pieces:
        done += len(piece)
        if done > MAX_TREE_BYTES:
            raise SourceError(f"{name}: more than {MAX_TREE_BYTES >> 30} GiB unpacked")
        out.write(piece)
        if done - said >= _SAY_BYTES:
            said = done
            on_line(f"{done >> 20} MiB unpacked")


class _Decompressor(Protocol):
    """One compressed stream, as in zlib, lzma and zstandard."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip() -> _Decompressor:
    return zlib.decompressobj(wbits=31)


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


def _zstd() -> _Decompressor:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


def _find_format(head: bytes) -> Callable[[], _Decompressor] | None:
    """By the first bytes; a zstd may begin with a frame that is to be skipped (pzstd)."""
    if head.startswith(b"\x1f\x8b"):
        return _gzip
    if head.startswith(b"\xfd7zXZ\0"):
        return _xz
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[:1] in b"PQRSTUVWXYZ[\\]^_" and head[1:4] == b"\x2a\x4d\x18"):
        return _zstd
    return None


def _plain(chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The tar itself; SourceError for what is none, a damaged stream and one that ends early."""
    head = next(chunks, b"")
    make = _find_format(head)
    if make is None:
        _check_is_tar(head, name)
        yield head
        yield from chunks
        return
    import zstandard

    try:
        yield from _decompress(head, chunks, make)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, MemoryError) as error:
        reason = str(error) if str(error).isprintable() else type(error).__name__
        raise SourceError(f"{name}: the compressed data is damaged: {reason}") from error


def _check_is_tar(head: bytes, name: str) -> None:
    first = head[: tarfile.BLOCKSIZE]
    if first == bytes(tarfile.BLOCKSIZE):  # the end already: a tar without members
        return
    try:
        tarfile.TarInfo.frombuf(first, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise SourceError(f"{name}: neither a tar nor one compressed by gzip, xz or zstd") from error


def _decompress(head: bytes, chunks: Iterator[bytes], make: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """One stream after the other, as pigz, xz -T and pzstd write them, with zeros after any."""
    stream: _Decompressor | None = make()
    chunk = head
    while chunk:
        for at in range(0, len(chunk), _SLICE_BYTES):
            data = chunk[at : at + _SLICE_BYTES]
            while data := data if stream else data.lstrip(b"\0"):
                stream = stream or make()
                yield stream.decompress(data)
                data, stream = (stream.unused_data, None) if stream.eof else (b"", stream)
        chunk = next(chunks, b"")
    if stream is not None:
        raise EOFError("it ends too early")


def check_tree(tar: Path, called: str | None = None, on_line: Callable[[str], None] = lambda _: None) -> None:
    """SourceError, with the member's name, where a plain tar is damaged, hostile or no tree for an image.

    `called` stands in messages for the file's name, `on_line` hears how far it is.
    """
    name = called or tar.name
    tree = _Tree()
    try:
        for _, info in iter_members(tar, called):
            tree.add(info, member_kind(Path(name), info))
            if tree.members % _SAY_MEMBERS == 0:
                on_line(f"{tree.members} members checked")
    except ImageError as error:
        raise SourceError(str(error)) from error
    except _Refused as error:
        raise SourceError(f"{name}: {show(info.name)} {error}") from error
    if not tree.kinds.keys() - {"/"}:
        raise SourceError(f"{name}: an empty tree")


class _Refused(ValueError):
    """A member that is refused: what is wrong with it, as the end of a sentence."""


class _Tree:
    """The names that were there so far, and what all of it comes to."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}
        self.above: set[str] = {"/"}
        self.ids: set[int] = set()
        self.members = self.size_bytes = self.xattrs_bytes = 0

    def add(self, info: tarfile.TarInfo, kind: Kind) -> None:
        """One member more; _Refused for one that no tree has, or that makes it too large."""
        _check_name(info.name, kind)
        _check_numbers(info, kind)
        self.xattrs_bytes += _check_xattrs(info, kind)
        path = path_key(info.name)
        self._check_place(path, kind)
        if kind == "symlink":
            _check_symlink(path, info.linkname)
        elif kind == "hardlink":
            self._check_hardlink(info.linkname)
        self.kinds[path] = kind
        self._count(info, kind)

    def _check_place(self, path: str, kind: Kind) -> None:
        if path in self.kinds:
            raise _Refused("is there twice")
        if path in self.above and kind != "dir":
            raise _Refused(f"is a {kind}, and has members below it")
        directory = path.rpartition("/")[0]
        while directory and directory not in self.above:
            if self.kinds.get(directory, "dir") != "dir":
                raise _Refused(f"lies below {show(directory)}, a {self.kinds[directory]}")
            self.above.add(directory)
            directory = directory.rpartition("/")[0]

    def _check_hardlink(self, target: str) -> None:
        _check_link_text(target)
        if target.startswith("/") or ".." in target.split("/"):
            raise _Refused(f"is a hard link out of the tar: {show(target)}")
        kind = self.kinds.get(path_key(target))
        if kind is None:
            raise _Refused(f"is a hard link to nothing that came before it: {show(target)}")
        if kind == "dir":
            raise _Refused(f"is a hard link to a directory: {show(target)}")

    def _count(self, info: tarfile.TarInfo, kind: Kind) -> None:
        self.members += 1
        self.size_bytes += info.size if kind == "file" else 0
        self.ids |= {info.uid, info.gid}
        if self.members > MAX_MEMBERS:
            raise _Refused(f"is one more than {MAX_MEMBERS} members")
        if self.size_bytes > MAX_TREE_BYTES:
            raise _Refused(f"makes it more than {MAX_TREE_BYTES >> 30} GiB, holes included")
        if self.xattrs_bytes > MAX_XATTRS_BYTES:
            raise _Refused(f"makes it more than {MAX_XATTRS_BYTES >> 20} MiB of extended attributes")
        if len(self.ids) > _MAX_IDS:
            raise _Refused(f"makes it more than {_MAX_IDS} different owners: squashfs cannot hold them")


def _check_name(name: str, kind: Kind) -> None:
    if not name:
        raise _Refused("is no name")
    if name.startswith("/"):
        raise _Refused("is an absolute name (make the tar in the tree: tar -C TREE -c .)")
    if "\0" in name:
        raise _Refused("has a NUL in its name")
    parts = name.split("/")
    if ".." in parts:
        raise _Refused("climbs out of the tree")
    if kind != "dir" and (parts[-1] in ("", ".")):
        raise _Refused(f"is named as a directory, and is a {kind}")
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) > PATH_MAX or max(map(len, raw.split(b"/"))) > NAME_MAX:
        raise _Refused(f"is longer than {PATH_MAX} bytes, or a part of it than {NAME_MAX}")


def _check_link_text(target: str) -> None:
    if not target or "\0" in target or len(target.encode("utf-8", "surrogateescape")) > PATH_MAX:
        raise _Refused(f"has a target that is empty, holds a NUL or is longer than {PATH_MAX} bytes")


def _check_symlink(path: str, target: str) -> None:
    """A relative target counts from the link's own directory: no directory of the tar is a link."""
    _check_link_text(target)
    depth = 0 if target.startswith("/") else path.count("/") - 1
    for part in target.split("/"):
        depth += 0 if part in ("", ".") else -1 if part == ".." else 1
        if depth < 0:
            raise _Refused(f"is a symbolic link out of the tree: {show(target)}")


def _check_numbers(info: tarfile.TarInfo, kind: Kind) -> None:
    for word, number, limit in (
        ("mode", info.mode, 2**32 - 1),
        ("uid", info.uid, _MAX_ID),
        ("gid", info.gid, _MAX_ID),
        ("mtime", int(info.mtime), _MAX_TIME),
    ):
        if not 0 <= number <= limit:
            raise _Refused(f"has the {word} {number}: it must be from 0 to {limit}")
    if kind in ("char", "block") and not (0 <= info.devmajor <= _MAX_MAJOR and 0 <= info.devminor <= _MAX_MINOR):
        raise _Refused(
            f"has the device number {info.devmajor}:{info.devminor}: at most {_MAX_MAJOR}:{_MAX_MINOR} can be held"
        )


def _check_xattrs(info: tarfile.TarInfo, kind: Kind) -> int:
    """How much they are."""
    xattrs = decode_xattrs(info.pax_headers) if info.pax_headers else {}
    for name, value in xattrs.items():
        if not name.isprintable() or "=" in name or not 0 < len(name.encode()) <= NAME_MAX:
            raise _Refused(f"has an extended attribute that cannot be named: {show(name)}")
        if name.startswith("user.") and kind not in ("file", "dir", "hardlink"):
            raise _Refused(f"is a {kind} and cannot have the extended attribute {show(name)}")  # xattr(7)
        if len(value) > MAX_XATTR_BYTES:
            raise _Refused(f"has the extended attribute {show(name)} of more than {MAX_XATTR_BYTES} bytes")
    return sum(len(name) + len(value) for name, value in xattrs.items())
