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
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rofs.errors import ImageError, SourceError
from rofs.seal import find_damage, write_seal

WORK_PREFIX = ".rofs-work-"
_WAIT_S = 0.05
_SAY_AFTER_S = 1.0
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
def locked(path: Path, how: int = fcntl.LOCK_EX, say: Callable[[], object] = lambda: None) -> Iterator[int]:
    """flock a file or directory; BlockingIOError with LOCK_NB where another holds it, else as `wait_until_free`."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        _flock(fd, how, say)
        yield fd
    finally:
        os.close(fd)


def _flock(fd: int, how: int, say: Callable[[], object]) -> None:
    if how & fcntl.LOCK_NB:
        fcntl.flock(fd, how)
    else:
        wait_until_free(lambda: fcntl.flock(fd, how | fcntl.LOCK_NB), say)


def wait_until_free(take: Callable[[], object], say: Callable[[], object] = lambda: None) -> None:
    """Try to `take` a lock until nobody else has it; Interrupted as by `run`. `say` is called if that takes its time.

    In the kernel a thread would wait for another build to the end, whoever asks us to stop meanwhile.
    """
    began, said = time.monotonic(), False
    while True:
        try:
            take()
            return
        except (BlockingIOError, PermissionError):  # fcntl(2) may say either
            from rofs.run import check_stopped  # lazily: `rofs build` with nothing to do must start at once

            check_stopped()
            if not said and time.monotonic() - began > _SAY_AFTER_S:
                say()
                said = True
            time.sleep(_WAIT_S)


@contextmanager
def workspace(output_parent: Path) -> Iterator[Path]:
    """A fresh directory beside the destination, removed at the end; those of killed builds go first.

    ImageError where the parent cannot be written.
    """
    try:
        output_parent.mkdir(parents=True, exist_ok=True)
        with locked(output_parent):  # nobody sweeps between making a directory and locking it
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
            with locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
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
        with locked(dest.parent):  # what is there stays so until we are, whoever publishes or sweeps beside us
            _put(ready, dest)
        sync(dest.parent)
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
            Path(name).chmod(0o666 & ~find_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(path.parent)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {error.strerror}") from error


def find_umask() -> int:
    """The process's, which only setting it tells."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def link_or_copy(path: Path, new: Path) -> None:
    """Give a file that nobody writes to another name; where it cannot be linked a copy, which all may read."""
    try:
        os.link(path, new)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            raise
        shutil.copyfile(path, new)
        new.chmod(0o644)


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
                sync(file)
        sync(Path(directory))


def sync(path: Path) -> None:
    """fsync a file or directory."""
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

    A refresh makes the next number. Each entry is sealed (rofs/seal.py) and checked before it is handed out; one that
    is damaged is made again, and `note` hears why. What was handed out stays while the Cache lives: it holds a shared
    flock(2) on it, and nobody removes an entry without an exclusive one (`remove_unused`). The mtime of `root/kind/key`
    is the last use. Where nothing can be written, what is there is used all the same.
    """

    def __init__(self, root: Path, note: Callable[[str], None] = lambda _: None) -> None:
        self.root, self.note = root, note
        self._held: list[int] = []
        weakref.finalize(self, _close_all, self._held)

    def entry(self, kind: str, key: str, make: Callable[[Path], None], refresh: bool = False) -> CacheEntry:
        """The entry, made by `make(an empty directory)` if need be; others who want it wait for it.

        What `make` raises goes on, and nothing is kept. SourceError where the cache cannot be used.
        """
        for name in (kind, key):
            if not _SAFE_NAME.fullmatch(name):
                raise ValueError(f"not a name for the cache: {name!r}")
        home = self.root / kind / key

        def say() -> None:
            self.note(f"waiting for another build, which makes the same {kind}")

        try:
            if not refresh and home.is_dir():
                with locked(home, fcntl.LOCK_SH, say):
                    found = self._whole(home)
                if isinstance(found, CacheEntry):
                    return found
            home.mkdir(parents=True, exist_ok=True)
            with locked(home, say=say):
                return self._look_or_make(home, make, refresh)
        except OSError as error:
            if error.filename is not None and not _is_below(error.filename, self.root):
                raise
            lacks = f"the cache lacks the {kind} that is needed, and cannot be written: {error.strerror}"
            raise SourceError(f"{self.root}: {lacks} (ROFS_CACHE_DIR names another)") from error

    def content(self, kind: str, key: str, make: Callable[[], bytes]) -> bytes:
        """What `make` gives, kept by its key; where the cache cannot be used, it is made each time."""

        def write(directory: Path) -> None:
            (directory / "content").write_bytes(make())

        try:
            return (self.entry(kind, key, write).path / "content").read_bytes()
        except (SourceError, OSError):
            return make()

    def sweep(self) -> None:
        """Remove what killed builds left of entries, also of those that nobody may ask for again."""
        for left in self.root.glob(f"*/*/{WORK_PREFIX}*"):
            with suppress(OSError), locked(left.parent, fcntl.LOCK_EX | fcntl.LOCK_NB):
                remove_tree(left)

    def _whole(self, home: Path) -> CacheEntry | str:
        """The entry that counts, held from now on; or what is wrong with it, "" where there is none."""
        numbers = _numbers(home)
        if not numbers:
            return ""
        path = home / str(numbers[-1])
        fd = self._hold(path)
        if damage := find_damage(path, f"{home.parent.name}/{home.name}"):
            self._held.remove(fd)
            os.close(fd)
            return f"{path} is damaged: {damage}"
        touch(home)
        return _found(path, hit=True)

    def _look_or_make(self, home: Path, make: Callable[[Path], None], refresh: bool) -> CacheEntry:
        """With the key's lock: another may have made it meanwhile."""
        found = "" if refresh else self._whole(home)
        if isinstance(found, CacheEntry):
            return found
        if found:
            self.note(f"{found}; it is made again")
        remove_leftovers(home)
        numbers = _numbers(home)
        for number in numbers[:-1] if refresh else numbers:
            remove_unused(home / str(number))
        work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=home))
        try:
            make(work)
            write_seal(work, f"{home.parent.name}/{home.name}")
            work.chmod(stat.S_IMODE(home.stat().st_mode))
            sync_tree(work)
            made = home / str(numbers[-1] + 1 if numbers else 1)
            work.rename(made)
            sync(home)
        except BaseException:
            remove_tree(work)
            raise
        self._hold(made)
        return _found(made, hit=False)

    def _hold(self, path: Path) -> int:
        """Keep everybody from removing an entry, for as long as this lives or the descriptor is open."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._held.append(fd)
        fcntl.flock(fd, fcntl.LOCK_SH)
        return fd


def remove_leftovers(home: Path) -> None:
    """What dead makers left of a key whose lock we hold."""
    for left in home.glob(WORK_PREFIX + "*"):
        remove_tree(left)


def remove_unused(path: Path) -> bool:
    """Delete an entry of a key whose lock we hold, unless a build uses it -> whether it is gone."""
    try:
        with locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            gone = path.with_name(WORK_PREFIX + path.name)
            path.rename(gone)  # at no moment half of an entry
    except BlockingIOError:
        return False
    remove_tree(gone)
    return True


def touch(path: Path) -> None:
    """Leave word that it was of use now, where that may be written."""
    with suppress(OSError):
        os.utime(path)


def _is_below(name: str | bytes, root: Path) -> bool:
    return Path(os.fsdecode(name)).absolute().is_relative_to(root.absolute())


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _numbers(home: Path) -> list[int]:
    return sorted(int(path.name) for path in home.iterdir() if path.name.isdecimal())


def _found(path: Path, *, hit: bool) -> CacheEntry:
    return CacheEntry(path, path.stat().st_mtime, hit)
