# SPDX-License-Identifier: MIT
"""Layout -> checks of what is kept in memory: each mount ends at its cap, and all full together leave enough to live.

One operation fills them all at once, and every check here judges by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rofs.layout import RUN, VOLATILE, Layout, Mount, Promise
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, decide, kept, parts, trouble

LEAST_LEFT_BYTES = 16 << 20
FLOOR_BYTES = 12 << 20
"""Where filling stops: below it the kernel would begin to kill, and a dead service says less than a number."""
_MOST_INODES_TRIED = 2048
_LEAST_SHARE = 0.6
"""Of the memory it is given a kernel says that it has at least this much, 92 of 128 MiB; else it was given less."""


def memory_checks(layout: Layout) -> Iterator[Check]:
    """Filling is loud; everything else in the guest has been seen before."""
    mounts = [m for m in layout.mounts if m.promise in VOLATILE]
    if not mounts:
        return
    op = wire.brim(FLOOR_BYTES, [str(m.where) for m in mounts])
    given = layout.profile.verify.memory_bytes
    yield Check(
        promise="memory", subject="all caps filled", at=("mounts",), phase="loud", shares=True, ops=(op,),
        judge=partial(_judge_memory, given, len(mounts)),
    )  # fmt: skip
    for index, mount in enumerate(mounts):
        yield Check(
            promise="size cap", subject=str(mount.where), at=mount.at, phase="loud", shares=True, ops=(op,),
            judge=partial(_judge_size, mount.size_bytes or 0, index, given),
        )  # fmt: skip
        yield _inode_check(layout, mount)


def _inode_check(layout: Layout, mount: Mount) -> Check:
    """Through an overlay each file costs several times as much, so its memory is filled itself."""
    inodes = mount.inodes or 0
    ops: tuple[wire.Op, ...] = (wire.statvfs(str(mount.where)),)
    if inodes <= _MOST_INODES_TRIED:
        ops = (*ops, wire.fillinodes(_memory_of(layout, mount), inodes + 1))
    return Check(
        promise="inode cap", subject=str(mount.where), at=mount.at, phase="loud", ops=ops,
        judge=partial(_judge_inodes, inodes),
    )  # fmt: skip


def _memory_of(layout: Layout, mount: Mount) -> str:
    if mount.promise is Promise.TMPFS:
        return str(mount.where)
    return next(
        str(m.where)
        for m in layout.mounts
        if m.promise is Promise.BACKING and m.at == mount.at and RUN in m.where.parents
    )


def _is_smaller(facts: Facts, given: int) -> bool:
    """Whether the machine has less memory than the profile says that its device has."""
    total = facts.get("total")
    return isinstance(total, int) and total < given * _LEAST_SHARE


def _judge_size(size: int, index: int, given: int, facts: Sequence[Facts]) -> Verdict:
    expected = f"ENOSPC at {size} bytes"
    rows = parts(facts[0], "mounts")
    if index >= len(rows):
        return broken(expected, trouble(facts[0]) or f"it was not filled: {facts[0].get('errno')}")
    row = rows[index]
    seen = f"{row.get('size')} bytes in all; {row.get('fitted')} fitted ({row.get('how')}), then {row.get('errno')}"
    if row.get("memory"):
        seen += ", not filled: memory ran low"
        return decide(row.get("size") == size and _is_smaller(facts[0], given), expected, seen)
    ok = row.get("size") == size and row.get("errno") == "ENOSPC" and row.get("left") == 0
    return decide(ok, expected, seen)


def _judge_memory(given: int, count: int, facts: Sequence[Facts]) -> Verdict:
    answer = facts[0]
    expected = f"all full together, nobody killed, {_mib(LEAST_LEFT_BYTES)} of memory left"
    rows, left, killed = parts(answer, "mounts"), answer.get("available"), answer.get("oom_kills")
    if len(rows) != count or not isinstance(left, int) or not isinstance(killed, int) or left < 0:
        return broken(expected, trouble(answer) or f"they were not filled: {answer.get('errno')}")
    filled = sum(r.get("errno") == "ENOSPC" and not r.get("memory") for r in rows)
    seen = f"{filled} of {count} full, {_mib(left)} of {_mib(answer.get('total'))} left, {killed} killed"
    if killed > 0:
        return broken(expected, seen)
    if _is_smaller(answer, given):
        return kept(expected, f"{seen}; only reported: this machine has less memory than the profile's verify.memory")
    return decide(filled == count and left >= LEAST_LEFT_BYTES, expected, seen)


def _mib(size: object) -> str:
    return f"{size / (1 << 20):.0f} MiB" if isinstance(size, int) else "unknown"


def _judge_inodes(inodes: int, facts: Sequence[Facts]) -> Verdict:
    seen, ok = f"{facts[0].get('files')} inodes in all", facts[0].get("files") == inodes
    if len(facts) > 1:
        seen += f"; one more than that: {facts[1].get('errno') or 'fits'} after {facts[1].get('made')}"
        ok = ok and facts[1].get("errno") == "ENOSPC"
    return decide(ok, f"{inodes} inodes", trouble(facts[0]) or trouble(facts[-1]) or seen)
