# SPDX-License-Identifier: MIT
"""A finished directory -> a seal inside it, by which any later change of its content is seen; a short text likewise.

A check reads and hashes every byte. A file's status would be cheaper to look at, but it tells only of writes that went
through the kernel: a bit that rots on the disk, or turns in memory before it gets there, leaves no ctime behind, and is
just what a check is for. With sha256 in hardware a check costs some 0.7 s a gigabyte, beside the 45 s that the same
gigabyte takes to compress with zstd-15. It cannot see what turns after it, on the way to who reads the file next.
Permissions and times are not part of it: nothing that is made of an entry depends on them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

NAME = ".rofs-seal"
TEMPORARY = ".rofs-part"
"""What a short text is called while it is written."""


def write_summed(path: Path, content: bytes) -> None:
    """Keep a short content behind a line with its sha256; whole, or OSError and as before.

    Also where another writes there at this moment. What a killed one left the next replaces.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part = path.parent / TEMPORARY
        try:
            part.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    finally:
        os.close(lock)


def read_summed(path: Path) -> bytes:
    """The content that `write_summed` kept; ValueError where it is damaged, OSError where there is none."""
    said, _, content = path.read_bytes().partition(b"\n")
    if said != hashlib.sha256(content).hexdigest().encode():
        raise ValueError("damaged")
    return content


def write_seal(directory: Path, owner: str) -> None:
    """Seal a directory as the content of `owner`; nobody may write to its files any more."""
    outline = dict(_outline(directory))
    for name, what in outline.items():
        if what.startswith("file"):
            path = directory / name
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    said = {"of": owner, "outline": outline, "sha256": _hashes(directory, outline)}
    write_summed(directory / NAME, json.dumps(said).encode())
    (directory / NAME).chmod(0o444)


def find_damage(directory: Path, owner: str) -> str:
    """What is not as it was sealed, in words; "" where all is. Nothing is hashed where names or sizes tell."""
    try:
        said = json.loads(read_summed(directory / NAME))
        whose, outline, sha256 = said["of"], said["outline"], said["sha256"]
    except FileNotFoundError:
        return "it has no seal"
    except (OSError, ValueError, LookupError, TypeError):
        return "its seal cannot be read"
    if whose != owner:
        return f"it is of {whose}"
    try:
        now = dict(_outline(directory))
        if now != outline:
            return _difference(outline, now)
        hashes = _hashes(directory, now)
    except OSError as error:
        return f"{error.filename or 'a file'}: {error.strerror}"
    wrong = sorted(name for name, found in hashes.items() if sha256.get(name) != found)
    return f"{wrong[0]} has other bytes" if wrong else ""


def _difference(then: dict[str, str], now: dict[str, str]) -> str:
    name = min(name for name in {*then, *now} if then.get(name) != now.get(name))
    if name not in now:
        return f"{name} is missing"
    if name not in then:
        return f"{name} was put there"
    return f"{name} is {now[name]}, not {then[name]}"


def _outline(directory: Path) -> Iterator[tuple[str, str]]:
    """Each path below, and what is there, but for the content of files."""
    for at, directories, names in os.walk(directory, onerror=_raise):
        for name in (*directories, *names):
            path = Path(at, name)
            inside = str(path.relative_to(directory))
            if inside != NAME:
                yield inside, _look(path)


def _look(path: Path) -> str:
    state = path.lstat()
    if stat.S_ISLNK(state.st_mode):
        return f"link to {path.readlink()}"
    if stat.S_ISREG(state.st_mode):
        return f"file of {state.st_size} bytes"
    return "directory" if stat.S_ISDIR(state.st_mode) else "neither file, link nor directory"


def _hashes(directory: Path, outline: dict[str, str]) -> dict[str, str]:
    found = {}
    for name, what in outline.items():
        if what.startswith("file"):
            with (directory / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _raise(error: OSError) -> None:
    raise error
