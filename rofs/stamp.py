# SPDX-License-Identifier: MIT
"""What a build was asked, read and wrote -> whether the same build would change anything, in milliseconds.

No content is read again: a file is known by its status, whose ctime the kernel sets at every change and nobody else can
(inode(7)). What cannot be told apart counts as changed, which costs a build that finds its steps in the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rofs.seal import read_summed, write_summed

FORMAT = 2
DIRECTORY = "stamps"
_FRESH_NS = 50_000_000
"""A file that changed so short a time ago may change again without another ctime: its clock ticks in jiffies."""
_CODE = Path(__file__).resolve().parent
_CACHES = "__pycache__"


@dataclass(frozen=True, slots=True)
class Stamp:
    """A build that published: what it said of its results and noted on the way, and when, in seconds since 1970."""

    said: tuple[str, ...]
    notes: tuple[str, ...]
    at: float


class Ledger:
    """The files of one build, each entered before it is read, and what the build noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._read: dict[str, str] = {}
        self.enter(_CODE)

    def enter(self, path: Path) -> None:
        """A file or directory that is about to be read, also where there is none."""
        self._read.setdefault(str(path.absolute()), find_status(path))

    def save(self, cache: Path, question: Mapping[str, object], wrote: Mapping[Path, str], said: Iterable[str]) -> None:
        """Keep it for `find_stamp`, where the cache can be written. Nothing is kept of files that change meanwhile.

        `wrote` is what was published, with the state it had when it was made: another build may have replaced it.
        """
        if not all(now and now == find_status(Path(path)) for path, now in self._read.items()):
            return
        content = {
            "read": self._read,
            "wrote": {str(path.absolute()): state for path, state in wrote.items()},
            "said": list(said),
            "notes": self.notes,
            "at": time.time(),
        }
        with suppress(OSError):
            write_summed(_place(cache, question), json.dumps(content).encode())


def find_stamp(cache: Path, question: Mapping[str, object]) -> Stamp | None:
    """The last build of this question, if everything it read and wrote is as it was."""
    try:
        place = _place(cache, question)
        known = json.loads(read_summed(place))
        files = {**known["read"], **known["wrote"]}
        if known["wrote"] and all(said == _look(Path(path))[0] for path, said in files.items()):
            with suppress(OSError):
                os.utime(place)  # it was of use, where that may be written
            return Stamp(said=tuple(known["said"]), notes=tuple(known["notes"]), at=float(known["at"]))
    except (OSError, ValueError, LookupError, TypeError):
        pass  # there is none, or it is damaged
    return None


def find_state(path: Path) -> str:
    """A word for the state of what nobody else writes to; it stays when a directory is moved."""
    return _look(path)[0]


def find_status(path: Path) -> str:
    """A word for the state of a file, or of a directory and all below it; "" where it may change unseen.

    A link is followed: it and its target count.
    """
    said, newest = _look(path)
    return "" if newest > time.time_ns() - _FRESH_NS else said


def _look(path: Path) -> tuple[str, int]:
    """The state, and the newest ctime of a file in it, in nanoseconds."""
    newest, digest = 0, hashlib.sha256()
    for row, changed in _rows(path):
        digest.update(row)
        newest = max(newest, changed)
    return digest.hexdigest(), newest


def _rows(path: Path) -> Iterator[tuple[bytes, int]]:
    try:
        state = path.stat()
    except OSError as error:
        yield f"none: {error.errno}".encode(), 0
        return
    if path.is_symlink():
        yield _row(b"", path.lstat())
    yield _row(b"", state)
    if stat.S_ISDIR(state.st_mode):
        yield from _below(os.fsencode(path))


def _below(directory: bytes) -> Iterator[tuple[bytes, int]]:
    """In the order of names; of links the link alone, since what they lead to is not read through them."""
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        if name == _CACHES.encode():
            continue
        path = os.path.join(directory, name)  # noqa: PTH118 -- of bytes, and often
        state = os.lstat(path)
        yield _row(name, state)
        if stat.S_ISDIR(state.st_mode):
            yield b"[", 0
            yield from _below(path)
            yield b"]", 0


def _row(name: bytes, state: os.stat_result) -> tuple[bytes, int]:
    """Of a directory not its times: what is in it has rows of its own, and what is not read may come and go."""
    about: tuple[int, ...] = (state.st_mode, state.st_uid, state.st_gid, state.st_dev, state.st_ino)
    if stat.S_ISDIR(state.st_mode):
        return name + repr(about).encode(), 0
    more = (state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return name + repr((*about, *more)).encode(), state.st_ctime_ns


def _place(cache: Path, question: Mapping[str, object]) -> Path:
    asked = json.dumps([FORMAT, question], sort_keys=True, default=str).encode()
    return cache / DIRECTORY / f"{hashlib.sha256(asked).hexdigest()}.json"
