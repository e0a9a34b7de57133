# SPDX-License-Identifier: MIT
"""A directory of the build host -> a tar of it, the same bytes whoever builds.

Everything belongs to root but what the ownership table says; times and modes are the disk's, and what
the table makes has the time of the directory it is made in. Of extended attributes, `user.*`,
`security.capability` and POSIX ACLs are the tree's. Other `security.*` are labels of this host, and
`trusted.*` only root sees: with them the image would depend on who built it, so both stay behind.

No link is followed out of the directory, also when somebody swaps an entry for one meanwhile: every
path is reached name by name from the open directory, by descriptors that follow nothing.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from rofs.errors import SourceError
from rofs.ownership import Ownership
from rofs.sources.disktree import DiskTree, Inode, apply_ownership
from rofs.treefacts import Kind
from rofs.values import show

SHOWN_PATHS = 8

_CHUNK_BYTES = 1 << 20
_HANDLE = os.O_PATH | os.O_NOFOLLOW
_KINDS: Mapping[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}
_TYPES: Mapping[Kind, bytes] = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}
_KEPT_XATTRS = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")

_DENIED = "permission denied"
_CHANGED = "changed while it was read"
_SOCKET = "a socket"
_MOUNTED = "another file system, mounted there"
_ADVICE: Mapping[str, str] = {
    _DENIED: "make it readable with chmod, run rofs as a user who may read it, "
    "or make a tar as root and use `source: tar`",
    _CHANGED: "build while nothing writes to it",
    _SOCKET: "delete it: only the program that listens there can use it",
    _MOUNTED: "unmount it",
}
_REASONS: Mapping[int, str] = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ENOENT: _CHANGED,
    errno.ENOTDIR: _CHANGED,
    errno.ELOOP: _CHANGED,
}


def write_directory_tar(
    directory: Path,
    out: Path,
    ownership: Ownership | None,
    on_line: Callable[[str], None] = lambda _: None,
) -> None:
    """Write everything in `directory` to the PAX tar `out`: "./" first, sorted name by name, by bytes.

    SourceError names what cannot be read, ProfileError the rows of the table that do not fit the tree;
    then there is no `out`.
    """
    try:
        with _Disk(directory) as disk:
            tree = _scan(disk)
            if ownership is not None:
                apply_ownership(ownership, tree, _read_accounts(tree, disk))
            on_line(f"{directory}: {len(tree.names)} paths")
            _write_tar(tree, disk, out)
    except BaseException:
        with suppress(OSError):
            out.unlink()
        raise


class _Unreadable(Exception):
    """A path that cannot be read, and why."""


@contextmanager
def _reading() -> Iterator[None]:
    """An OSError within -> _Unreadable."""
    try:
        yield
    except OSError as error:
        raise _Unreadable(_REASONS.get(error.errno or 0) or error.strerror) from error


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _again(fd: int) -> str:
    """A path to the very inode of a handle, for what handles cannot do themselves."""
    return f"/proc/self/fd/{fd}"


class _Disk:
    """The directory, open. Handles (O_PATH) let one look at an entry without opening it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> Self:
        try:
            self._root = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise SourceError(f"{self.directory}: cannot be read: {error.strerror}") from error
        self._device = os.fstat(self._root).st_dev
        self._mount = _mount_id(self._root)
        self._parent = ("", os.dup(self._root))
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._parent[1])
        os.close(self._root)

    def _open(self, path: str) -> int:
        """A handle of `path`; its directory is kept open for the next one."""
        directory, _, name = path.rpartition("/")
        if not name:
            return os.dup(self._root)
        if directory != self._parent[0]:
            above, start = self._parent if directory.startswith(f"{self._parent[0]}/") else ("", self._root)
            fd = os.dup(start)
            for part in directory.removeprefix(above).split("/")[1:]:
                with _closing(fd):
                    fd = os.open(part, _HANDLE | os.O_DIRECTORY, dir_fd=fd)
            os.close(self._parent[1])
            self._parent = (directory, fd)
        return os.open(name, _HANDLE, dir_fd=self._parent[1])

    def names(self, path: str) -> list[str]:
        """What a directory holds, in the order of the disk."""
        with _reading(), _closing(self._open(path)) as handle:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
            with _closing(fd):
                return os.listdir(fd)  # noqa: PTH208 -- a descriptor, which no Path is

    def look(self, path: str) -> tuple[Inode, os.stat_result]:
        """The inode at `path`, proven readable."""
        with _reading(), _closing(self._open(path)) as fd:
            found = os.fstat(fd)
            kind = _KINDS.get(stat.S_IFMT(found.st_mode))
            if kind is None:
                raise _Unreadable(_SOCKET)
            if kind == "dir" and found.st_dev != self._device and _mount_id(fd) != self._mount:
                raise _Unreadable(_MOUNTED)
            if kind == "file":
                os.close(os.open(_again(fd), os.O_RDONLY))
            inode = Inode(
                kind=kind,
                mode=stat.S_IMODE(found.st_mode),
                mtime=found.st_mtime_ns // 10**9,
                size=found.st_size if kind == "file" else 0,
                target=os.readlink("", dir_fd=fd) if kind == "symlink" else "",
                rdev=(os.major(found.st_rdev), os.minor(found.st_rdev)),
                xattrs={} if kind == "symlink" else _xattrs(_again(fd)),
                seen=_seen(found),
            )
            return inode, found

    def content(self, path: str, inode: Inode) -> Iterator[bytes]:
        """The content of the file that was seen at `path`, in pieces; _Unreadable where it is another now."""
        with _reading(), _closing(self._open(path)) as handle:
            if _seen(os.fstat(handle)) != inode.seen:
                raise _Unreadable(_CHANGED)
            with _closing(os.open(_again(handle), os.O_RDONLY)) as fd:
                left = inode.size
                while left and (piece := os.read(fd, min(left, _CHUNK_BYTES))):
                    left -= len(piece)
                    yield piece
                if left or _seen(os.fstat(fd)) != inode.seen:
                    raise _Unreadable(_CHANGED)


def _seen(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns)


def _mount_id(fd: int) -> str:
    """proc(5): a device number alone does not tell a mount from a subvolume of btrfs."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
    return next(line for line in lines if line.startswith("mnt_id:"))


def _xattrs(path: str) -> dict[str, bytes]:
    """The attributes that belong to the tree, by name."""
    try:
        names = sorted(os.listxattr(path))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    kept = [name for name in names if name.startswith("user.") or name in _KEPT_XATTRS]
    for name in kept:
        if "=" in name or not name.isprintable():
            raise _Unreadable(f"a tar cannot hold the name of its attribute {show(name)}")
    return {name: os.getxattr(path, name) for name in kept}


def _scan(disk: _Disk) -> DiskTree:
    """Look at everything; SourceError for all that cannot be read."""
    tree, numbers = DiskTree(), dict[tuple[int, int], int]()
    faults: dict[str, str] = {}
    todo = ["/"]
    while todo:
        path = todo.pop()
        try:
            inode, found = disk.look(path)
            if inode.kind == "dir":
                todo += [f"{path.rstrip('/')}/{name}" for name in disk.names(path)]
        except _Unreadable as fault:
            faults[path] = str(fault)
            continue
        linked = found.st_nlink > 1 and inode.kind in ("file", "symlink")
        key = (found.st_dev, found.st_ino)
        if linked and key in numbers:
            tree.link(path, numbers[key])
        else:
            numbers[key] = tree.add(path, inode)
    _raise_faults(disk.directory, faults)
    return tree


def _raise_faults(directory: Path, faults: Mapping[str, str]) -> None:
    if not faults:
        return
    paths = sorted(faults, key=_order)
    named = ", ".join(f"{show(path)} ({faults[path]})" for path in paths[:SHOWN_PATHS])
    more = f" and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else ""
    advice = "; ".join(_ADVICE[reason] for reason in _ADVICE if reason in faults.values())
    raise SourceError(f"{directory}: cannot be read: {named}{more}" + (f"; {advice}" if advice else ""))


def _read_accounts(tree: DiskTree, disk: _Disk) -> dict[str, bytes]:
    """etc/passwd and etc/group, by the path their links lead to."""
    texts, faults = {}, {}
    for name in ("/etc/passwd", "/etc/group"):
        path = tree.find_resolved(name)
        inode = tree.find(path) if path is not None else None
        if path is None or inode is None or inode.kind != "file":
            continue
        try:
            texts[path] = b"".join(disk.content(path, inode))
        except _Unreadable as fault:
            faults[path] = str(fault)
    _raise_faults(disk.directory, faults)
    return texts


def _write_tar(tree: DiskTree, disk: _Disk, out: Path) -> None:
    try:
        with out.open("wb") as stream:
            faults = _write_members(tree, disk, stream)
    except OSError as error:
        raise SourceError(f"{out}: cannot be written: {error.strerror}") from error
    _raise_faults(disk.directory, faults)


def _write_members(tree: DiskTree, disk: _Disk, stream: IO[bytes]) -> dict[str, str]:
    """The whole tar -> what could not be read after all, by path."""
    faults: dict[str, str] = {}
    carriers: dict[int, str] = {}
    for path in sorted(tree.names, key=_order):
        number = tree.names[path]
        inode, carrier = tree.inodes[number], carriers.setdefault(number, path)
        stream.write(_header(path, inode, "" if carrier == path else carrier))
        if inode.kind == "file" and carrier == path:
            try:
                _write_content(disk.content(path, inode), inode.size, stream)
            except _Unreadable as fault:
                faults[path] = str(fault)
    stream.write(bytes(2 * tarfile.BLOCKSIZE))
    return faults


def _order(path: str) -> bytes:
    """By the bytes of each name: what a directory holds follows it, or GNU tar would lose its time."""
    return os.fsencode(path).replace(b"/", b"\0")


def _write_content(pieces: Iterator[bytes], size_bytes: int, stream: IO[bytes]) -> None:
    for piece in pieces:
        stream.write(piece)
    stream.write(bytes(-size_bytes % tarfile.BLOCKSIZE))


def _header(path: str, inode: Inode, carrier: str) -> bytes:
    """A member's bytes before its content; with a `carrier`, those of a hard link to it."""
    info = tarfile.TarInfo(f".{path}")
    info.type = tarfile.LNKTYPE if carrier else _TYPES[inode.kind]
    info.linkname = f".{carrier}" if carrier else inode.target
    info.size = 0 if carrier else inode.size
    info.mode, info.mtime, info.uid, info.gid = inode.mode, inode.mtime, inode.uid, inode.gid
    info.devmajor, info.devminor = inode.rdev
    if not carrier:
        records = sorted(inode.xattrs.items())
        info.pax_headers = {f"SCHILY.xattr.{name}": raw.decode("utf-8", "surrogateescape") for name, raw in records}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
