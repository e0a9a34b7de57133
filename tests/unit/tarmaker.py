# SPDX-License-Identifier: MIT
"""Rows -> a tar file, for the tests of what reads tars."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

EPOCH = 1_700_000_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """A member: its name as written, its type, and what differs from a plain file of root's."""

    name: str
    type: bytes = tarfile.REGTYPE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = EPOCH - 100
    content: bytes = b""
    link: str = ""
    dev: tuple[int, int] = (0, 0)
    pax: dict[str, str] = field(default_factory=dict)


def file(name: str, content: bytes = b"", **other: object) -> Row:
    """A regular file."""
    return Row(name=name, content=content, **other)  # type: ignore[arg-type]


def folder(name: str, mode: int = 0o755, **other: object) -> Row:
    """A directory."""
    return Row(name=name, type=tarfile.DIRTYPE, mode=mode, **other)  # type: ignore[arg-type]


def symlink(name: str, target: str) -> Row:
    """A symbolic link."""
    return Row(name=name, type=tarfile.SYMTYPE, mode=0o777, link=target)


def hardlink(name: str, target: str) -> Row:
    """A hard link."""
    return Row(name=name, type=tarfile.LNKTYPE, link=target)


def device(name: str, kind: bytes, major: int, minor: int) -> Row:
    """A device node; `kind` is tarfile.CHRTYPE or BLKTYPE."""
    return Row(name=name, type=kind, mode=0o660, dev=(major, minor))


def raw_pax(value: bytes) -> str:
    """Any bytes as a value of a PAX record."""
    return value.decode("utf-8", "surrogateescape")


def write_tar(path: Path, *rows: Row, form: int = tarfile.PAX_FORMAT) -> Path:
    """The rows as members, in order."""
    with tarfile.open(path, "w:", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for row in rows:
            info = tarfile.TarInfo(row.name)
            info.type, info.mode, info.uid, info.gid = row.type, row.mode, row.uid, row.gid
            info.mtime, info.linkname, info.pax_headers = row.mtime, row.link, dict(row.pax)
            info.devmajor, info.devminor = row.dev
            info.size = len(row.content)
            archive.addfile(info, io.BytesIO(row.content))
    return path
