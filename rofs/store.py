# SPDX-License-Identifier: MIT
"""Work in progress -> published whole, or not at all; costly results -> kept and found again by key.

Every temporary directory is held by a flock(2) for as long as its maker lives. The kernel lets go of it
whatever ends the process, so the next build knows what is left over and removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rofs.errors import ImageError, SourceError

WORK_PREFIX = ".rofs-work-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")


def default_cache_dir() -> Path:
    """$ROFS_CACHE_DIR, $XDG_CACHE_HOME/rofs or ~/.cache/rofs."""
    if own := os.environ.get("ROFS_CACHE_DIR"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rofs"


@contextmanager
def _locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[int]:
    """flock a file or directory; BlockingIOError with LOCK_NB where another holds it."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, how)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def workspace(output_parent: Path) -> Iterator[Path]:
    """A fresh directory beside the destination, removed at the end; those of killed builds go first.

    ImageError where the parent cannot be written.
    """
    try:
        output_parent.mkdir(parents=True, exist_ok=True)
        with _locked(output_parent):  # nobody sweeps between making a directory and locking it
            _sweep(output_parent)
            work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=output_parent))
            fd = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        raise ImageError(f"{output_parent}: cannot work there: {error.strerror}") from error
    try:
        yield work
    finally:
        remove_tree(work)
        os.close(fd)


def _sweep(parent: Path) -> None:
    for left in parent.glob(WORK_PREFIX + "*"):
        try:
            with _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                remove_tree(left)
        except (BlockingIOError, FileNotFoundError):
            continue  # its build lives, or has just cleaned up


def remove_tree(path: Path) -> None:
    """Delete as much as we may, directories without permissions too."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for directory, _, _ in os.walk(path, onerror=None):
        try:
            Path(directory).chmod(0o700)
        except OSError:
            continue
    shutil.rmtree(path, ignore_errors=True)


def publish(ready: Path, dest: Path) -> None:
    """Put the finished directory at `dest` in one step, then delete what was there.

    A full directory can only be replaced by exchange (renameat2(2)); where the file system has none,
    `dest` is absent for a moment, but never half. ImageError where it cannot be done.
    """
    try:
        sync_tree(ready)
        dest.parent.mkdir(parents=True, exist_ok=True)
        _put(ready, dest)
        _sync(dest.parent)
    except OSError as error:
        raise ImageError(f"{dest}: cannot be published: {error.strerror}") from error
    if os.path.lexists(ready):
        remove_tree(ready)


def _put(ready: Path, dest: Path) -> None:
    if not os.path.lexists(dest):
        ready.rename(dest)
        return
    if exchange(ready, dest):
        return
    old = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=dest.parent))
    dest.rename(old / "old")
    try:
        ready.rename(dest)
    except OSError:
        (old / "old").rename(dest)
        raise
    remove_tree(old)


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file or none; ImageError where that cannot be done."""
    try:
        handle, name = tempfile.mkstemp(prefix=WORK_PREFIX, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {error.strerror}") from error


def _umask() -> int:
    """The process's, which only setting it tells."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths of one file system; False where kernel, libc or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def sync_tree(path: Path) -> None:
    """fsync every file and directory below, the directory itself last."""
    for directory, _, names in os.walk(path, topdown=False):
        for name in names:
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                _sync(file)
        _sync(Path(directory))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A made directory, never to be written to; `created` in seconds since 1970; `hit`: it was there."""

    path: Path
    created: float
    hit: bool


class Cache:
    """Directories by kind and key: `root/kind/key/NUMBER`, where the highest number counts.

    A refresh makes the next number and leaves the one before, so that a build that reads it can go on.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def entry(self, kind: str, key: str, make: Callable[[Path], None], refresh: bool = False) -> CacheEntry:
        """The entry, made by `make(an empty directory)` if need be; others who want it wait for it.

        What `make` raises goes on, and nothing is kept. SourceError where the cache cannot be written.
        """
        for name in (kind, key):
            if not _SAFE_NAME.fullmatch(name):
                raise ValueError(f"not a name for the cache: {name!r}")
        home = self.root / kind / key
        try:
            home.mkdir(parents=True, exist_ok=True)
            stack = ExitStack()
            stack.enter_context(_locked(home))
        except OSError as error:
            raise SourceError(f"{home}: cannot use the cache: {error.strerror}") from error
        with stack:
            return self._entry(home, make, refresh)

    def _entry(self, home: Path, make: Callable[[Path], None], refresh: bool) -> CacheEntry:
        numbers = _numbers(home)
        if numbers and not refresh:
            return _found(home / str(numbers[-1]), hit=True)
        for left in home.glob(WORK_PREFIX + "*"):
            remove_tree(left)  # we hold the lock, so its maker is dead
        for number in numbers[:-1]:
            remove_tree(home / str(number))
        work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=home))
        try:
            make(work)
            sync_tree(work)
            made = home / str(numbers[-1] + 1 if numbers else 1)
            work.rename(made)
            _sync(home)
        except BaseException:
            remove_tree(work)
            raise
        return _found(made, hit=False)


def _numbers(home: Path) -> list[int]:
    return sorted(int(path.name) for path in home.iterdir() if path.name.isdecimal())


def _found(path: Path, *, hit: bool) -> CacheEntry:
    return CacheEntry(path, path.stat().st_mtime, hit)
