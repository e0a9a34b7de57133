# SPDX-License-Identifier: MIT
"""Answers to `compare` -> what is wrong: with a copy of the image's content, or with an upper directory that was empty.

What was written since the boot began is some service's own. What is older, and not the image's, was there before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath

from rofs.layout import RUN, Mount, Prepare, is_within
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, kept, text, trouble

SINCE = (wire.read("/proc/stat"), wire.lstat(str(RUN)))
"""What says when the boot began. The kernel's btime goes with a clock that is set; what the initrd made does not."""
_SLACK_S = 10
_NO_START = "nobody knows when the boot began"
MOST_SHOWN = 20
_COPIED_UP = frozenset({"mode", "owner", "xattrs"})
"""What may differ of a file that keeps its content and so, in an upper directory, its time."""


def find_start(facts: Sequence[Facts]) -> int | None:
    """The answers to SINCE -> the earliest time, by the guest's own clock, that a file of this boot can have."""
    stat, made = facts
    said, mtime = re.search(r"^btime ([0-9]+)$", text(stat), re.MULTILINE), made.get("mtime")
    return min(int(said[1]), mtime) - _SLACK_S if said and isinstance(mtime, int) else None


def copy_check(promise: str, mount: Mount, prepare: Prepare, inner: Sequence[PurePosixPath] = ()) -> Check:
    """That what was prepared for a mount is a copy of its seed. `inner` are other mounts in it, by relative path."""
    return Check(
        promise=promise, subject=str(mount.where), at=mount.at,
        ops=(wire.compare(str(prepare.path), str(prepare.seed)), *SINCE), judge=partial(_judge_copy, inner),
    )  # fmt: skip


def _judge_copy(inner: Sequence[PurePosixPath], facts: Sequence[Facts]) -> Verdict:
    """The answers to `compare` and to SINCE."""
    expected = "a whole and faithful copy of the image's content"
    answer, start = facts[0], find_start(facts[1:])
    flaw = find_flaw(answer)
    if flaw or start is None:
        return broken(expected, flaw or _NO_START)
    own = [e for e in answer["entries"] if not any(is_within(path_of(e), p) for p in inner)]
    touched = [e for e in own if "mtime" in e.get("what", ()) and not _is_older(e, start)]
    wrong = [e for e in own if e not in touched]
    seen = f"{answer['compared']} of the image's paths, {answer['equal']} equal"
    seen += f", {len(touched)} written since" if touched else ""
    if wrong or answer["truncated"]:
        return broken(expected, f"{words_of(wrong)}; {seen}")
    if answer["files"] and answer["files"] <= len(touched):
        return broken(expected, f"nothing is left to compare: {seen}")
    return kept(expected, seen)


def find_leftovers(facts: Sequence[Facts]) -> str:
    """The answers to `compare` of an upper directory and to SINCE -> what was in it before the boot, '' for nothing.

    A file that is copied up keeps its time: it is as old as the image, and what it holds is the image's.
    """
    answer, start = facts[0], find_start(facts[1:])
    flaw = find_flaw(answer)
    if flaw or start is None:
        return flaw or _NO_START
    old = [e for e in answer["entries"] if _hides(e) and _is_older(e, start)]
    if old:
        return f"not empty at the start: {words_of(old)}"
    return "more of the image is hidden than could be listed" if answer["truncated"] else ""


def find_flaw(answer: Facts) -> str:
    """Why nothing can be judged by a `compare`, or ''."""
    if answer.get("errno", "") is None:
        return ""
    return trouble(answer) or f"cannot be compared: {answer.get('errno')}"


def path_of(entry: Facts) -> PurePosixPath:
    """Relative to both sides."""
    return PurePosixPath(wire.unquote(entry["path"]).decode("utf-8", "surrogateescape"))


def words_of(entries: Sequence[Facts]) -> str:
    """For people: at most MOST_SHOWN, by name."""
    rows = sorted(entries, key=lambda e: str(e["path"]))[:MOST_SHOWN]
    return ", ".join(
        f"{e['path']} {e['how']}" + (f" in {' and '.join(e['what'])}" if e.get("what") else "") for e in rows
    )


def _hides(entry: Facts) -> bool:
    return entry["how"] in ("deleted", "opaque") or not _COPIED_UP.issuperset(entry.get("what", ()))


def _is_older(entry: Facts, start: int) -> bool:
    """What has no time could not be looked at, so nobody knows that it is new."""
    return bool(entry.get("mtime", start - 1) < start)
