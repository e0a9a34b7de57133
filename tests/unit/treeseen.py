# SPDX-License-Identifier: MIT
"""A tree as different readers see it, in one form that can be compared entry by entry."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from rofs.image.records import FileRecord

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One path; `first` is the first by name of those that are the same file."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    target: str = ""
    rdev: tuple[int, int] = (0, 0)
    sha256: str = ""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    first: str


Tree = dict[str, Seen]
"""By absolute path; "/" is the root."""


def see_directory(root: Path) -> Tree:
    """As the kernel shows what some tool has unpacked; only root sees all of it."""
    inodes: dict[int, str] = {}
    paths = {"/": root}
    for above, directories, others in os.walk(root):
        at = "/" + os.path.relpath(above, root) + "/" if Path(above) != root else "/"
        paths |= {at + name: Path(above, name) for name in (*directories, *others)}
    return {path: _see(path, where, inodes) for path, where in sorted(paths.items())}


def _see(path: str, where: Path, inodes: dict[int, str]) -> Seen:
    told = where.lstat()
    kind = KINDS[stat.S_IFMT(told.st_mode)]
    names = os.listxattr(where, follow_symlinks=False)
    return Seen(
        kind=kind,
        mode=stat.S_IMODE(told.st_mode),
        uid=told.st_uid,
        gid=told.st_gid,
        mtime=told.st_mtime_ns // 10**9,
        size=told.st_size if kind == "file" else 0,
        target=os.readlink(where) if kind == "symlink" else "",  # noqa: PTH115 -- a Path would lose its "./"
        rdev=(os.major(told.st_rdev), os.minor(told.st_rdev)) if kind in ("char", "block") else (0, 0),
        sha256=hashlib.sha256(where.read_bytes()).hexdigest() if kind == "file" else "",
        xattrs={name: os.getxattr(where, name, follow_symlinks=False) for name in names},
        first=inodes.setdefault(told.st_ino, path),
    )


def see_records(records: Iterable[FileRecord]) -> Tree:
    """As rofs says it, in the manifest."""
    records = list(records)
    groups: dict[str, str] = {}
    for record in records:
        carrier = record.target if record.kind == "hardlink" else record.path
        groups[carrier] = min(record.path, groups.get(carrier, record.path))
    kinds = {record.path: record for record in records}
    return {record.path: _see_record(record, kinds, groups) for record in records}


def _see_record(record: FileRecord, all_of_them: Mapping[str, FileRecord], groups: Mapping[str, str]) -> Seen:
    own = all_of_them[record.target] if record.kind == "hardlink" else record
    major, _, minor = own.rdev.partition(":")
    return Seen(
        kind=own.kind,
        mode=record.mode,
        uid=record.uid,
        gid=record.gid,
        mtime=record.mtime,
        size=record.size,
        target=own.target,
        rdev=(int(major or 0), int(minor or 0)),
        sha256=record.sha256 or "",
        xattrs={name: bytes.fromhex(value) for name, value in record.xattrs.items()},
        first=groups[own.path],
    )


def differences(expected: Tree, found: Tree) -> list[str]:
    """Every one, as "path: what: expected, found"."""
    said = [f"{path!r}: missing" for path in expected.keys() - found.keys()]
    said += [f"{path!r}: not expected" for path in found.keys() - expected.keys()]
    for path in expected.keys() & found.keys():
        for each in fields(Seen):
            one, other = getattr(expected[path], each.name), getattr(found[path], each.name)
            if one != other:
                said.append(f"{path!r}: {each.name}: {one!r}, {other!r}")
    return sorted(said)
