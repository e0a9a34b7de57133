# SPDX-License-Identifier: MIT
"""The cache's directory -> what it holds, by kind; what was not of use for longest goes; what is damaged is named.

Safe beside running builds: each item is removed under the lock that its users hold shared, or not at all. What is there
but was not put there by rofs is counted, and left alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rofs.image.blockcache import is_whole
from rofs.progress import age
from rofs.seal import TEMPORARY, find_damage, read_summed
from rofs.sources.debs import LOCK
from rofs.stamp import DIRECTORY as STAMPS
from rofs.store import WORK_PREFIX, locked, remove_leftovers, remove_tree, remove_unused

OTHER = "other"
"""The kind of what rofs did not put there."""
_WORKSPACES = ("boot", "debs", "verify")
_STALE_S = 86_400
"""A file that is being written is not that old."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is kept, checked and removed as one; `used`: when last, in seconds since 1970.

    `left` of what no build will use again: an older resolution, or the remains of a build that was killed.
    """

    kind: str
    path: Path
    size_bytes: int
    used: float
    left: bool = False


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What went, what a running build uses, and how large the rest is."""

    removed: tuple[Item, ...]
    in_use: tuple[Item, ...]
    left_bytes: int


def find_items(root: Path) -> list[Item]:
    """Everything below the cache's directory; nothing where there is none."""
    found: list[Item] = []
    for path in _children(root):
        if path.name == "debs":
            found += (_item("debs", deb) for deb in path.glob("*.deb"))
        elif path.name == "blocks":
            found += (_item("blocks", segment) for segment in path.glob("*/*.blocks"))
            found += (_item("blocks", part, left=True) for part in path.glob("*/*.part"))
        elif path.name == STAMPS:
            found += (_item(STAMPS, stamp, left=stamp.suffix != ".json") for stamp in _children(path))
        elif path.name.startswith("accel-") or path.name == TEMPORARY:
            found.append(_item("accel", path, left=path.suffix != ".json"))
        elif path.name not in _WORKSPACES:
            entries = [entry for home in _children(path) for entry in _entries(path.name, home)]
            found += entries or ([_item(OTHER, path)] if _holds_files(path) else [])
        if path.name in _WORKSPACES:
            found += (_item("work", work, left=True) for work in path.glob(WORK_PREFIX + "*"))
    return [item for item in found if item.size_bytes >= 0]


def _entries(kind: str, home: Path) -> Iterator[Item]:
    """Of a key: what `store.Cache` keeps there."""
    numbers = sorted((path for path in _children(home) if path.name.isdecimal()), key=lambda path: int(path.name))
    if numbers:
        yield _item(kind, numbers[-1], used=home)
    for path in [*numbers[:-1], *home.glob(WORK_PREFIX + "*")]:
        yield _item(kind, path, left=True)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _holds_files(path: Path) -> bool:
    """Whether there is anything but the directories of keys, which stay when all entries are gone."""
    return not path.is_dir() or any(names for _, _, names in os.walk(path))


def _item(kind: str, path: Path, *, used: Path | None = None, left: bool = False) -> Item:
    """Of what is gone meanwhile the size is negative."""
    try:
        return Item(kind, path, _disk_use(path), (used or path).lstat().st_mtime, left)
    except FileNotFoundError:
        return Item(kind, path, -1, 0, left)


def _disk_use(path: Path) -> int:
    total = path.lstat().st_blocks * 512
    if path.is_dir() and not path.is_symlink():
        total += sum(_disk_use(child) for child in _children(path))
    return total


# --- trim -----------------------------------------------------------------------------------------


def trim(root: Path, *, limit_bytes: int | None = None, max_age_s: float | None = None) -> Trimmed:
    """Remove what is left over; what was not of use for `max_age_s`; then the least recently used, down to the limit.

    OSError where the cache cannot be written.
    """
    items = sorted(
        (item for item in find_items(root) if item.kind != OTHER), key=lambda item: (not item.left, item.used)
    )
    total, now = sum(item.size_bytes for item in items), time.time()
    removed, in_use = [], []
    for item in items:
        too_old = max_age_s is not None and item.used < now - max_age_s
        if item.left or too_old or (limit_bytes is not None and total > limit_bytes):
            if remove(item):
                total -= item.size_bytes
                removed.append(item)
            else:
                in_use.append(item)
    return Trimmed(tuple(removed), tuple(in_use), total)


def remove(item: Item) -> bool:
    """Delete an item unless a running build uses it -> whether it is gone."""
    path = item.path
    try:
        match item.kind:
            case "debs":
                with locked(path.parent / LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    path.unlink()
            case "blocks":
                with locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    path.unlink()
            case "work":
                with locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    remove_tree(path)
            case "stamps" | "accel":
                if item.left and item.used > time.time() - _STALE_S:
                    return False
                path.unlink()
            case _:
                with locked(path.parent, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    if path.name.startswith(WORK_PREFIX):
                        remove_leftovers(path.parent)
                    else:
                        return remove_unused(path)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass  # another was faster
    return True


# --- check ----------------------------------------------------------------------------------------


def check(root: Path) -> Iterator[tuple[Item, str]]:
    """Each item of the cache that a build might use, and what is wrong with it, "" where nothing is."""
    for item in find_items(root):
        if item.kind != OTHER and not item.left:
            with suppress(FileNotFoundError):  # trimmed meanwhile
                yield item, _find_wrong(item)


def remove_damaged(item: Item) -> str:
    """Delete what `check` found -> what became of it."""
    try:
        return "removed" if remove(item) else "a running build uses it; the next one will make it again"
    except OSError as error:
        return f"it cannot be removed: {error.strerror}"


def _find_wrong(item: Item) -> str:
    path = item.path
    match item.kind:
        case "debs":
            with path.open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == path.stem
            return "" if same else "it has other bytes than its name says"
        case "blocks":
            return "" if is_whole(path, _shape(path)) else "some of its blocks have other bytes"
        case "stamps" | "accel":
            try:
                read_summed(path)
            except ValueError:
                return "it has other bytes"
            return ""
        case _:
            with locked(path.parent, fcntl.LOCK_SH):
                held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(held, fcntl.LOCK_SH)
            try:
                return find_damage(path, f"{item.kind}/{path.parent.name}")
            finally:
                os.close(held)


def _shape(segment: Path) -> bytes:
    try:
        return bytes.fromhex(segment.parent.name)
    except ValueError:
        return b""


# --- in words -------------------------------------------------------------------------------------


def render_show(root: Path, items: Sequence[Item]) -> str:
    """A table by kind, for people."""
    now = time.time()
    rows = [("kind", "entries", "size", "last used", "oldest use")]
    for kind, of_kind in _by_kind(items):
        newest, oldest = max(item.used for item in of_kind), min(item.used for item in of_kind)
        size = _size(sum(item.size_bytes for item in of_kind))
        rows.append((kind, str(len(of_kind)), size, f"{age(now - newest)} ago", f"{age(now - oldest)} ago"))
    rows.append(("total", str(len(items)), _size(sum(item.size_bytes for item in items)), "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [str(root)]
    for kind, *numbers in rows:
        words = (word.rjust(width) for word, width in zip(numbers, widths[1:], strict=True))
        lines.append("  ".join((kind.ljust(widths[0]), *words)).rstrip())
    return "\n".join(lines) + "\n"


def show_data(root: Path, items: Sequence[Item]) -> dict[str, Any]:
    """The same, for programs; times in seconds since 1970."""
    kinds = {
        kind: {
            "entries": len(of_kind),
            "size_bytes": sum(item.size_bytes for item in of_kind),
            "last_used": max(item.used for item in of_kind),
            "oldest_use": min(item.used for item in of_kind),
        }
        for kind, of_kind in _by_kind(items)
    }
    return {"directory": str(root), "size_bytes": sum(item.size_bytes for item in items), "kinds": kinds}


def render_trimmed(trimmed: Trimmed) -> str:
    """What was freed, by kind, and what stays."""
    lines = []
    for kind, removed in _by_kind(trimmed.removed):
        lines.append(f"{kind}: {_entries_of(removed)}, {_size(sum(item.size_bytes for item in removed))} freed")
    if trimmed.in_use:
        held = _size(sum(item.size_bytes for item in trimmed.in_use))
        lines.append(f"kept, since a running build uses them: {_entries_of(trimmed.in_use)}, {held}")
    freed = _size(sum(item.size_bytes for item in trimmed.removed))
    return "\n".join([*lines, f"{freed} freed, {_size(trimmed.left_bytes)} left"]) + "\n"


def _entries_of(items: Sequence[Item]) -> str:
    return "1 entry" if len(items) == 1 else f"{len(items)} entries"


def _by_kind(items: Iterable[Item]) -> list[tuple[str, list[Item]]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.kind, []).append(item)
    return sorted(found.items(), key=lambda kind: (kind[0] == OTHER, kind[0]))


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"
