# SPDX-License-Identifier: MIT
"""Layout, outcomes -> the tree of promises as rows: who provides a path, what becomes of it, what broke there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rofs.errors import render_key_path
from rofs.explain import Explanation, Fate, explain
from rofs.layout import ROOT, RUN, SYSTEM_OWNED, Layout, Mount, Role, Stage, is_within
from rofs.verify.check import Outcome

KINDS = {
    "immutable": "from the image, not even root can change it",
    "read-only": "shows another path, which may change there",
    "volatile": "writable, as built again after a reboot",
    "persistent": "writable, kept over reboots",
    "system": "of the kernel and PID 1, no promise is made",
}
"""By what a path's content does; in a drawing each has a colour and a shape of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One path. `parent` is the number of the row that it hangs below, None for the root."""

    path: PurePosixPath
    name: str
    depth: int
    parent: int | None
    kind: str
    declared: bool
    words: str
    key: str
    broken: int


def tree_rows(layout: Layout, broken: Sequence[Outcome]) -> tuple[Row, ...]:
    """Every path that something is said about, each below its nearest ancestor that is there too, in that order."""
    mounts = {m.where: m for m in layout.mounts if not is_within(m.where, RUN)}
    paths = {ROOT, *mounts, *layout.immutable, *layout.top_level}
    keys = {i.path: i.at for i in layout.profile.immutable} | {path: m.at for path, m in mounts.items()}
    rows: list[Row] = []
    for path, parent in _walk(paths):
        above = rows[parent] if parent is not None else None
        mount = mounts.get(path)
        rows.append(
            Row(
                path=path,
                name=str(path.relative_to(above.path)) if above else "/",
                depth=above.depth + 1 if above else 0,
                parent=parent,
                kind=_kind(explain(layout, path), mount),
                declared=path in layout.immutable or (mount is not None and mount.role is Role.DECLARED),
                words=_words(layout, mount, path),
                key=render_key_path(keys[path]) if path in keys else "",
                broken=sum(o.subject == str(path) or o.subject.startswith(f"{path} (") for o in broken),
            )
        )
    return tuple(rows)


def _walk(paths: set[PurePosixPath]) -> Iterator[tuple[PurePosixPath, int | None]]:
    """Depth first, with the number of each one's parent."""
    numbers: dict[PurePosixPath, int] = {}
    for path in sorted(paths):
        yield path, next((numbers[p] for p in path.parents if p in numbers), None)
        numbers[path] = len(numbers)


def _kind(explanation: Explanation, mount: Mount | None) -> str:
    if mount is not None and mount.role is Role.IDENTITY:
        return "persistent" if explanation.after.reboot is Fate.KEPT else "volatile"
    if explanation.writable is None:
        return "system"
    if explanation.writable:
        return "persistent" if explanation.after.reboot in (Fate.KEPT, Fate.FLUSHED) else "volatile"
    return "read-only" if explanation.strength == "mount-ro" else "immutable"


def _words(layout: Layout, mount: Mount | None, path: PurePosixPath) -> str:
    """`overlay-tmpfs, 96 MiB, 24576 inodes, 0755 0:0, by systemd`."""
    if path in SYSTEM_OWNED:
        return "of the kernel and PID 1"
    if mount is None:
        owner = layout.owner(path)
        return owner.promise.value if owner.role is Role.ROOT else f"as {owner.where}"
    words = [mount.promise.value]
    if mount.size_bytes:
        words.append(f"{_size(mount.size_bytes)}, {mount.inodes} inodes")
    if mount.is_bind and not is_within(PurePosixPath(mount.what), RUN) and mount.role is not Role.PIN:
        words.append(f"from {mount.what}")
    if mount.mode is not None and mount.uid is not None:
        words.append(f"{mount.mode:04o} {mount.uid}:{mount.gid}")
    words.append("by the initrd" if mount.stage is Stage.INITRD else "by systemd")
    return ", ".join(words)


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB" if size_bytes % (1 << 20) == 0 else f"{size_bytes >> 10} KiB"
