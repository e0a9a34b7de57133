# SPDX-License-Identifier: MIT
"""Layout -> checks of what may be written: it can be, and is gone after a cold restart; memory.py has the caps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from rofs.layout import PERSISTENT, WRITABLE, Layout, Mount, Promise
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, decide, names, trouble
from rofs.verify.scenario import Scenario

CANARY = ".rofs-canary"


def volatile_checks(layout: Layout, scenario: Scenario) -> Iterator[Check]:
    """A boot leaves canaries everywhere, the next one looks for them before it writes anything."""
    for mount in layout.mounts:
        if mount.promise not in WRITABLE:
            continue
        where = str(mount.where)
        if scenario.finds_canaries and not survives(layout, mount):
            yield Check(
                promise="volatile", subject=where, at=mount.at, ops=(wire.list_dir(where),), judge=_judge_gone,
            )  # fmt: skip
        yield Check(
            promise="writable", subject=where, at=mount.at, ops=(wire.write(where), wire.statvfs(where)),
            judge=_judge_writable, phase="loud",
        )  # fmt: skip
        if scenario.leaves_canaries:
            yield Check(
                promise="canary", subject=where, at=mount.at, phase="after",
                ops=(
                    wire.canary(f"{where}/{CANARY}", canary_text(scenario.number)), wire.sync(), wire.list_dir(where),
                    wire.statvfs(where),
                ),
                judge=_judge_canary,
            )  # fmt: skip


def survives(layout: Layout, mount: Mount) -> bool:
    """Whether what is written there is there after a cold restart."""
    if mount.promise is Promise.BIND_RW:
        return survives(layout, layout.owner(PurePosixPath(mount.what)))
    return mount.promise in PERSISTENT


def canary_text(number: int) -> str:
    """Which boot wrote it."""
    return f"rofs boot {number}"


def _judge_gone(facts: Sequence[Facts]) -> Verdict:
    expected = "what the first boot wrote is gone"
    found = names(facts[0])
    if found is None:
        return broken(expected, trouble(facts[0]) or f"cannot be listed: {facts[0].get('errno') or 'too many names'}")
    return decide(
        CANARY not in found,
        expected,
        f"{CANARY} is {'still there' if CANARY in found else 'gone'}, {len(found)} names",
    )


def _is_full(space: Facts) -> bool:
    """Somebody's files may fill a file system that is all it promises."""
    return space.get("errno", "") is None and space.get("bavail") == 0


def _judge_canary(facts: Sequence[Facts]) -> Verdict:
    """The second boot's look proves something only if the file was there before, be it empty."""
    there = CANARY in (names(facts[2]) or ())
    full = facts[0].get("errno") == "ENOSPC" and _is_full(facts[3])
    written = (facts[0].get("errno", "") is None or full) and facts[1].get("errno", "") is None
    seen = f"written: {'yes' if written else facts[0].get('errno') or 'no'}, seen: {'yes' if there else 'no'}"
    seen += ", empty, since nothing more fits" if full else ""
    return decide(written and there, "a file left for the next boot to miss", trouble(facts[0]) or seen)


def _judge_writable(facts: Sequence[Facts]) -> Verdict:
    """On a full one names can still be made, moved and taken away; data cannot be written."""
    answer, steps = facts[0], ("create", "write", "read_back", "rename", "unlink")
    seen = ", ".join(f"{k} {answer.get(k) or 'ok'}" for k in steps)
    full = answer.get("write") == "ENOSPC" and _is_full(facts[1])
    done = all(answer.get(k, "") is None for k in ("create", "rename", "unlink"))
    seen += ", writable but full" if full and done else ""
    ok = answer.get("writable") is True or (full and done)
    return decide(ok, "create, write, read, rename, unlink", trouble(answer) or seen)
