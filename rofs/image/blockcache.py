# SPDX-License-Identifier: MIT
"""A store of compressed blocks below a directory: key of 32 bytes -> bytes, where b"" means "store it raw".

    DIR/<shape>/<name>.blocks    a segment: what one build added, immutable, under its name once whole
    DIR/<shape>/<name>.part      one being written, locked by its writer, or left by a build that was killed

`shape` is all that makes compressed bytes other than the key of the block does, so two shapes never mix. A segment
is records (32 bytes of checksum, the value), then the index (key, place, length), then the footer. The checksum is
over shape, key and value, and is looked at before each use: what is damaged, missing or cut off is only a block
that is not there. Nothing here raises for the disk's sake; a directory that cannot be read or written costs time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

LIMIT_BYTES = 2 << 30
MAX_SEGMENTS = 16
"""Of one shape; more are merged, the smallest first."""
_MAGIC = b"rofsblk1"
_FOOTER = struct.Struct("<8sQQ")
_ENTRY = struct.Struct("<32sQQ")
_PLACE = struct.Struct("<QI")
_SUM_BYTES = 32


class Segment:
    """A segment open for reading, by descriptor: a read of a file that shrank fails, one of a mapping kills."""

    def __init__(self, path: Path, shape: bytes) -> None:
        self.path, self.used, self._shape = path, False, shape
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # says that it is in use (cachecare.py)
        self.size_bytes = os.fstat(self._fd).st_size

    def index(self) -> Iterator[tuple[bytes, int, int]]:
        """Key, place and length of each record; nothing where the segment is no such file."""
        footer = os.pread(self._fd, _FOOTER.size, max(self.size_bytes - _FOOTER.size, 0))
        if len(footer) != _FOOTER.size:
            return
        magic, at, count = _FOOTER.unpack(footer)
        if magic != _MAGIC or at + count * _ENTRY.size + _FOOTER.size != self.size_bytes:
            return
        entries = os.pread(self._fd, count * _ENTRY.size, at)
        if len(entries) == count * _ENTRY.size:
            yield from _ENTRY.iter_unpack(entries)

    def read(self, key: bytes, at: int, length: int) -> bytes | None:
        """The value of a record, None if it is not what was put there."""
        if at + _SUM_BYTES + length > self.size_bytes:
            return None
        try:
            record = os.pread(self._fd, _SUM_BYTES + length, at)
        except OSError:
            return None
        value = record[_SUM_BYTES:]
        if len(value) != length or record[:_SUM_BYTES] != _checksum(self._shape, key, value):
            return None
        self.used = True
        return value

    def close(self) -> None:
        """Let go of the file, and leave word that it was of use."""
        if self.used:
            with suppress(OSError):
                os.utime(self.path)
        os.close(self._fd)


class _Writer:
    """A segment being written. After the first failure nothing more is taken, and nothing is published."""

    def __init__(self, folder: Path, shape: bytes) -> None:
        self._shape, self._lock, self._at = shape, threading.Lock(), 0
        self._index: dict[bytes, bytes] = {}
        """Where each value is, packed: numbers that stay would hold the memory of the very many that go meanwhile."""
        self._fd: int | None = None
        self._part = folder / f"{time.time_ns():x}-{secrets.token_hex(4)}.part"
        self.failure: OSError | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _swept(folder):
                self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.failure = error

    def add(self, key: bytes, value: bytes) -> None:
        with self._lock:
            if self._fd is None or self.failure or key in self._index:
                return
            try:
                _write(self._fd, _checksum(self._shape, key, value) + value)
            except OSError as error:
                self.failure = error
            else:
                self._index[key] = _PLACE.pack(self._at, len(value))
                self._at += _SUM_BYTES + len(value)

    def find(self, key: bytes) -> bytes | None:
        """What was added before, read back and checked as any other."""
        place = self._index.get(key)
        if place is None or self._fd is None:
            return None
        at, length = _PLACE.unpack(place)
        try:
            record = os.pread(self._fd, _SUM_BYTES + length, at)
        except OSError:
            return None
        value = record[_SUM_BYTES:]
        return value if record[:_SUM_BYTES] == _checksum(self._shape, key, value) else None

    def close(self, *, publish: bool) -> None:
        if self._fd is None:
            return
        try:
            if publish and self._index and not self.failure:
                entries = b"".join(_ENTRY.pack(key, *_PLACE.unpack(place)) for key, place in self._index.items())
                _write(self._fd, entries + _FOOTER.pack(_MAGIC, self._at, len(self._index)))
                self._part.rename(self._part.with_suffix(".blocks"))
            else:
                self._part.unlink()
        except OSError as error:
            self.failure = error
            with suppress(OSError):
                self._part.unlink()
        finally:
            os.close(self._fd)
            self._fd = None


class Blocks:
    """The blocks of one shape, for one build. Safe from several threads."""

    def __init__(self, folder: Path, shape: bytes) -> None:
        self.hits = self.misses = self.damaged = 0
        self._segments = list(_open_segments(folder, shape))
        self._places: dict[bytes, tuple[Segment, int, int]] = {}
        for segment in self._segments:
            with suppress(OSError):
                self._places.update((key, (segment, at, length)) for key, at, length in segment.index())
        self._writer = _Writer(folder, shape)

    def find(self, key: bytes) -> bytes | None:
        """The value, None if there is none that is whole."""
        place = self._places.get(key)
        value = self._writer.find(key) if place is None else place[0].read(key, place[1], place[2])
        if value is None and place is not None:
            value = self._writer.find(key)
            self.damaged += value is None
        if value is None:
            self.misses += 1
        else:
            self.hits += 1
        return value

    def add(self, key: bytes, value: bytes) -> None:
        """Keep a value for the builds to come."""
        self._writer.add(key, value)

    def close(self, *, publish: bool) -> OSError | None:
        """End; with `publish` others see what was added -> what kept it from being so."""
        self._writer.close(publish=publish)
        for segment in self._segments:
            segment.close()
        return self._writer.failure


@contextmanager
def open_blocks(
    directory: Path, shape: bytes, *, limit_bytes: int = LIMIT_BYTES, note: Callable[[str], None] = lambda _: None
) -> Iterator[Blocks]:
    """The blocks of `shape` (32 bytes) below `directory`.

    What was added is published when the block ends well; then what was not of use for longest goes, until all
    shapes together hold `limit_bytes`. `note` hears why nothing could be kept.
    """
    folder = directory / shape.hex()
    blocks, published = Blocks(folder, shape), False
    try:
        yield blocks
        published = True
    finally:
        failure = blocks.close(publish=published)
        if failure is not None:
            note(f"compressed blocks are not kept: {directory}: {failure.strerror}")
    if blocks.damaged:
        note(f"{blocks.damaged} compressed blocks in {folder} are damaged, and were made again")
    if blocks.misses:
        with suppress(OSError):
            collect(directory, shape, limit_bytes)


def collect(directory: Path, shape: bytes, limit_bytes: int) -> None:
    """Merge the small segments of a shape, and remove what is beyond the limit; one build at a time does this."""
    with _alone(directory) as alone:
        if not alone:
            return
        _merge_small(directory / shape.hex(), shape)
        segments = sorted(
            ((stat.st_mtime_ns, stat.st_size, path) for path, stat in _stats(directory, "*.blocks")), reverse=True
        )
        total = 0
        for _, size_bytes, path in segments:
            total += size_bytes
            if total > limit_bytes:
                path.unlink(missing_ok=True)
        for folder in directory.glob("*/"):
            with suppress(OSError), _swept(folder):
                pass


def _merge_small(folder: Path, shape: bytes) -> None:
    with ExitStack() as stack:
        segments = list(_open_segments(folder, shape))
        for segment in segments:
            stack.callback(segment.close)
        if len(segments) <= MAX_SEGMENTS:
            return
        small = sorted(segments, key=lambda segment: segment.size_bytes)[: MAX_SEGMENTS * 3 // 4]
        writer = _Writer(folder, shape)
        for segment in small:
            for key, at, length in segment.index():
                value = segment.read(key, at, length)
                if value is not None:
                    writer.add(key, value)
        writer.close(publish=True)
        if writer.failure is None:
            for segment in small:
                segment.used = False
                segment.path.unlink(missing_ok=True)


def is_whole(path: Path, shape: bytes) -> bool:
    """Whether every record of a segment is what was put there. OSError where it cannot be read."""
    segment = Segment(path, shape)
    try:
        records = list(segment.index())
        return bool(records) and all(segment.read(*record) is not None for record in records)
    finally:
        segment.used = False
        segment.close()


@contextmanager
def _swept(folder: Path) -> Iterator[None]:
    """Remove the segments that killed builds left. Until it ends nobody else does: one that is made can be locked."""
    alone = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX)
        for path in folder.glob("*.part"):
            with suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                finally:
                    os.close(fd)
        yield
    finally:
        os.close(alone)


def _stats(directory: Path, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
    for path in directory.glob(f"*/{pattern}"):
        with suppress(OSError):
            yield path, path.stat()


@contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Is nobody else collecting? For as long as this lasts."""
    with (directory / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _open_segments(folder: Path, shape: bytes) -> Iterator[Segment]:
    """Those that can be opened, the oldest first."""
    try:
        names = sorted(folder.glob("*.blocks"))
    except OSError:
        return
    for path in names:
        with suppress(OSError):
            yield Segment(path, shape)


def _checksum(shape: bytes, key: bytes, value: bytes) -> bytes:
    state = hashlib.sha256(shape + key)
    state.update(value)
    return state.digest()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
