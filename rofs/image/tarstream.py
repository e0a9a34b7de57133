# SPDX-License-Identifier: MIT
"""A tar file -> its members as byte ranges, and a changed member -> new bytes.

Re-encoding a whole tree through `tarfile` costs seconds, copying ranges does not, so a member is
re-encoded only where something about it changes. What the format means stays in the library.
"""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, cast

from rofs.ownership import CAPABILITIES
from rofs.tarindex import list_members
from rofs.tarmembers import decode_xattrs
from rofs.treefacts import Kind, member_kind, member_path

SQUASHFS_XATTRS = ("user.", "trusted.", "security.")
"""The name spaces of extended attributes that squashfs can hold."""
TAR_END = bytes(2 * tarfile.BLOCKSIZE)

_NONE: Mapping[str, str] = MappingProxyType({})
_ACL_RECORDS = ("SCHILY.acl.access", "SCHILY.acl.default", "SCHILY.acl.ace")
_ACL_XATTRS = ("system.posix_acl_access", "system.posix_acl_default", "system.nfs4_acl", "system.richacl")
_KEPT_RECORDS = ("SCHILY.xattr.", "SCHILY.acl.", "LIBARCHIVE.xattr.", "RHT.")
_FOREIGN_RECORDS = ("LIBARCHIVE.xattr.", "RHT.")
"""Attributes in a form tar2sqfs misses or might take twice."""
_TYPES: Mapping[Kind, bytes] = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


class About(NamedTuple):
    """What a member's headers say beside its name and content. Members that agree share one: there may be very many."""

    mode: int
    uid: int
    gid: int
    mtime: int
    linkname: str = ""
    devmajor: int = 0
    devminor: int = 0
    pax_headers: Mapping[str, str] = _NONE


@dataclass(slots=True)
class Member:
    """One member: bytes [start, end) hold its headers and its stored content, the content from `data`.

    `path` is absolute. `size` is that of the content with its holes filled, `sparse` the map of what is stored, None
    where that is all. `as_is` False means that the bytes alone do not say all (a global header, a form of attribute
    that tar2sqfs does not read).
    """

    path: str
    kind: Kind
    info: About
    size: int
    start: int
    data: int
    sparse: list[tuple[int, int]] | None
    as_is: bool

    @property
    def end(self) -> int:
        """Where the next one begins."""
        stored = self.size if self.sparse is None else sum(size for _, size in self.sparse)
        return self.data + -(-stored // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


@dataclass(slots=True, kw_only=True)
class Header:
    """What a member's headers say; `size_bytes` is of files, `target` of links, `rdev` of devices."""

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size_bytes: int = 0
    target: str = ""
    rdev: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def scan(tar: Path) -> Iterator[Member]:
    """Every member in order. ImageError for a damaged tar or a name that climbs."""
    shared: dict[tuple[int, ...], About] = {}
    for archive, info in list_members(tar):
        # A global header stays behind when a member's own bytes are copied.
        as_is = all(key in ("comment", "hdrcharset") for key in archive.pax_headers) and not any(
            key.startswith(_FOREIGN_RECORDS) for key in info.pax_headers
        )
        alike = (info.mode, info.uid, info.gid, int(info.mtime))
        about = shared.get(alike)
        if about is None or info.pax_headers or info.type != tarfile.REGTYPE:
            about = _about(info)
            if info.type == tarfile.REGTYPE and not info.pax_headers:
                shared[alike] = about
        path, kind = member_path(tar, info.name), member_kind(tar, info)
        sparse = cast("list[tuple[int, int]] | None", info.sparse)
        yield Member(path, kind, about, info.size, info.offset, info.offset_data, sparse, as_is)


def _about(info: tarfile.TarInfo) -> About:
    """Of PAX records only what is still asked for stays."""
    pax = {key: value for key, value in info.pax_headers.items() if key.startswith(_KEPT_RECORDS)}
    return About(
        info.mode, info.uid, info.gid, int(info.mtime), info.linkname, info.devmajor, info.devminor, pax or _NONE
    )


def encode_header(header: Header) -> bytes:
    """The bytes before the content: PAX, numeric owners, no names, the same each time."""
    info = tarfile.TarInfo("." + header.path)
    info.type, info.mode, info.mtime = _TYPES[header.kind], header.mode, header.mtime
    info.uid, info.gid, info.size = header.uid, header.gid, header.size_bytes
    info.linkname = "." + header.target if header.kind == "hardlink" else header.target
    info.devmajor, info.devminor = header.rdev
    info.pax_headers = {
        f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
        for name, value in sorted(header.xattrs.items())
    }
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size_bytes: int) -> bytes:
    """The zeros after content of this size."""
    return bytes(-size_bytes % tarfile.BLOCKSIZE)


def find_acl(info: tarfile.TarInfo | About) -> str | None:
    """The record of a real ACL; one that only repeats the mode bits says nothing more and is none."""
    if not info.pax_headers:
        return None
    for key in _ACL_RECORDS:
        value = info.pax_headers.get(key)
        if value is not None and not (key == "SCHILY.acl.access" and _repeats_mode(value)):
            return key
    return next((name for name in decode_xattrs(info.pax_headers) if name in _ACL_XATTRS), None)


def _repeats_mode(acl: str) -> bool:
    entries = [entry.strip().split(":") for entry in acl.replace(",", "\n").split("\n") if entry.strip()]
    return all(len(e) > 2 and e[0] in ("user", "group", "other") and not e[1] for e in entries)


def kept_xattrs(info: tarfile.TarInfo | About) -> dict[str, bytes]:
    """A member's extended attributes without its ACLs."""
    if not info.pax_headers:
        return {}
    return {name: value for name, value in decode_xattrs(info.pax_headers).items() if name not in _ACL_XATTRS}


def caps_text(raw: bytes) -> str:
    """A security.capability value (linux/capability.h) -> text as getcap(8) prints it: "cap_net_raw=ep"."""
    if len(raw) not in (12, 20, 24):
        return f"unknown:{raw.hex()}"
    magic, *words = struct.unpack(f"<{len(raw) // 4}I", raw)
    permitted = words[0] | (words[2] << 32 if len(words) > 2 else 0)
    inheritable = words[1] | (words[3] << 32 if len(words) > 2 else 0)
    groups: dict[str, list[str]] = {}
    for number in range(64):
        bit = 1 << number
        if not (permitted | inheritable) & bit:
            continue
        flags = "e" if magic & 1 else ""
        flags += ("i" if inheritable & bit else "") + ("p" if permitted & bit else "")
        name = CAPABILITIES[number] if number < len(CAPABILITIES) else str(number)
        groups.setdefault(flags, []).append(f"cap_{name}")
    text = " ".join(f"{','.join(names)}={flags}" for flags, names in sorted(groups.items()))
    return text + (f" [rootid={words[4]}]" if len(words) > 4 else "")
