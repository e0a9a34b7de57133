# SPDX-License-Identifier: MIT
"""Layout -> checks of what may be written: it can be, up to its cap, and is gone after a cold restart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath

from rofs.layout import PAGE_BYTES, PERSISTENT, VOLATILE, WRITABLE, Layout, Mount, Promise, image_path
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, decide, names, trouble
from rofs.verify.scenario import Scenario

CANARY = ".rofs-canary"
_MOST_INODES_TRIED = 32768


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
            promise="writable", subject=where, at=mount.at, ops=(wire.write(where),), judge=_judge_writable,
            phase="loud",
        )  # fmt: skip
        if mount.promise in (Promise.OVERLAY_TMPFS, Promise.BIND_TMPFS) or (
            mount.promise is Promise.OVERLAY_STATE and scenario.state != "kept"
        ):
            yield from _content_checks(layout, mount)
        if scenario.number == 1 and mount.promise in VOLATILE:
            yield from _cap_checks(mount)
        if scenario.leaves_canaries:
            yield Check(
                promise="canary", subject=where, at=mount.at, phase="after",
                ops=(wire.canary(f"{where}/{CANARY}", canary_text(scenario.number)), wire.sync(), wire.list_dir(where)),
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


def _judge_canary(facts: Sequence[Facts]) -> Verdict:
    """The second boot's look proves something only if the file was there before."""
    there = CANARY in (names(facts[2]) or ())
    written = facts[0].get("errno", "") is None and facts[1].get("errno", "") is None
    seen = f"written: {'yes' if written else facts[0].get('errno') or 'no'}, seen: {'yes' if there else 'no'}"
    return decide(written and there, "a file left for the next boot to miss", trouble(facts[0]) or seen)


def _judge_writable(facts: Sequence[Facts]) -> Verdict:
    answer = facts[0]
    seen = ", ".join(f"{k} {answer.get(k) or 'ok'}" for k in ("create", "write", "read_back", "rename", "unlink"))
    return decide(answer.get("writable") is True, "create, write, read, rename, unlink", trouble(answer) or seen)


def _content_checks(layout: Layout, mount: Mount) -> Iterator[Check]:
    """An overlay shows the image's content; so does a bind that is seeded from it at each boot."""
    seeded = mount.promise in (Promise.OVERLAY_TMPFS, Promise.OVERLAY_STATE) or any(
        p.seed == PurePosixPath(image_path(mount.where)) for p in layout.prepares
    )
    if seeded:
        yield Check(
            promise="image content", subject=str(mount.where), at=mount.at,
            ops=(wire.list_dir(image_path(mount.where)), wire.list_dir(str(mount.where))),
            judge=_judge_content,
        )  # fmt: skip


def _judge_content(facts: Sequence[Facts]) -> Verdict:
    expected = "every name of the image's directory"
    image, live = names(facts[0]), names(facts[1])
    if image is None or live is None:
        return broken(expected, trouble(facts[0]) or trouble(facts[1]) or "cannot be listed")
    missing = sorted(set(image) - set(live))
    if missing:
        return broken(expected, f"missing: {', '.join(missing[:8])}")
    return decide(True, expected, f"all {len(image)} names of the image" if image else "the image's directory is empty")


def _cap_checks(mount: Mount) -> Iterator[Check]:
    where = str(mount.where)
    size, inodes = mount.size_bytes or 0, mount.inodes or 0
    yield Check(
        promise="size cap", subject=where, at=mount.at, phase="loud",
        ops=(wire.statvfs(where), wire.fill(where, size + PAGE_BYTES)),
        judge=partial(_judge_size, size),
    )  # fmt: skip
    ops: tuple[wire.Op, ...] = (wire.statvfs(where),)
    if inodes <= _MOST_INODES_TRIED:
        ops = (*ops, wire.fillinodes(where, inodes + 1))
    yield Check(
        promise="inode cap", subject=where, at=mount.at, phase="loud", ops=ops,
        judge=partial(_judge_inodes, inodes),
    )  # fmt: skip


def _judge_size(size: int, facts: Sequence[Facts]) -> Verdict:
    space, fill = facts
    total = (space.get("blocks") or 0) * (space.get("frsize") or 0)
    seen = f"{total} bytes in all; one page more: {fill.get('errno') or 'fits'}, {fill.get('fitted')} fitted"
    ok = total == size and fill.get("errno") == "ENOSPC"
    return decide(ok, f"ENOSPC at {size} bytes", trouble(space) or trouble(fill) or seen)


def _judge_inodes(inodes: int, facts: Sequence[Facts]) -> Verdict:
    seen, ok = f"{facts[0].get('files')} inodes in all", facts[0].get("files") == inodes
    if len(facts) > 1:
        seen += f"; one more than that: {facts[1].get('errno') or 'fits'} after {facts[1].get('made')}"
        ok = ok and facts[1].get("errno") == "ENOSPC"
    return decide(ok, f"{inodes} inodes", trouble(facts[0]) or trouble(facts[-1]) or seen)
