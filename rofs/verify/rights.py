# SPDX-License-Identifier: MIT
"""Layout -> the check that nothing writable gives rights that the image does not: setuid, capabilities, devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath

from rofs.layout import WRITABLE, Layout, Mount, Promise, image_path
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, decide, parts, trouble

_MOST_SHOWN = 8
_OVERLAYS = (Promise.OVERLAY_TMPFS, Promise.OVERLAY_STATE)


def rights_checks(layout: Layout) -> Iterator[Check]:
    """All writable mounts are walked at once; only where the image's content is shown may it excuse anything."""
    pairs = [(str(m.where), _reference(layout, m)) for m in layout.mounts if m.promise in WRITABLE]
    if pairs:
        yield Check(
            promise="setuid", subject="on writable mounts", at=("mounts",), ops=(wire.marked(pairs),),
            judge=partial(_judge, len(pairs)),
        )  # fmt: skip


def _reference(layout: Layout, mount: Mount) -> str:
    where = PurePosixPath(mount.what) if mount.promise is Promise.BIND_RW else mount.where
    owner = layout.owner(where)
    seeded = any(p.of == owner.where and p.seed is not None for p in layout.prepares)
    return image_path(where) if owner.promise in _OVERLAYS or seeded else ""


def _judge(count: int, facts: Sequence[Facts]) -> Verdict:
    answer = facts[0]
    expected = "no setuid or setgid file, capability or device but the image's own, no file that anybody may write"
    trees = parts(answer, "trees")
    blind = [t for t in trees if t.get("errno", "") is not None or t.get("truncated") is not False]
    if len(trees) != count or blind:
        named = ", ".join(f"{t.get('root')} ({t.get('errno') or 'too much in it'})" for t in blind)
        return broken(expected, trouble(answer) or f"not all could be walked: {named or answer.get('errno')}")
    wrong, own = [], 0
    for entry in (e for t in trees for e in parts(t, "found")):
        marks = entry.get("marks")
        if entry.get("image") is True and isinstance(marks, list) and "world-writable" not in marks:
            own += 1
        else:
            wrong.append(_words(entry))
    looked = sum(t["looked"] for t in trees if isinstance(t.get("looked"), int))
    return decide(
        not wrong, expected, "; ".join(wrong[:_MOST_SHOWN]) or f"{looked} paths, {own} marked as in the image"
    )


def _words(entry: Facts) -> str:
    marks, mode = entry.get("marks"), entry.get("mode")
    shown = f"{mode:04o}" if isinstance(mode, int) else "of no mode"
    return f"{entry.get('path')} {shown} {' '.join(map(str, marks)) if isinstance(marks, list) else ''}".strip()
