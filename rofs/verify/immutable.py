# SPDX-License-Identifier: MIT
"""Layout -> attacks on every immutable path and every undeclared top-level directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath

from rofs.errors import KeyPath
from rofs.layout import ROOT, SYSTEM_OWNED, Layout, Promise, Role, is_within
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, data, decide, text, trouble
from rofs.verify.mountinfo import covering, parse_mountinfo
from rofs.verify.mounts import TABLE

MAY_SUCCEED = frozenset({"remount"})
"""remount,bind,rw returns 0 and changes nothing that counts: the create after it is the judge (note 18)."""
MUST_BE_EROFS = frozenset({"create", "mkdir"})
"""Fresh names in the same mount have no other honest answer."""


BY_NATURE = frozenset({"remount"})
"""What root can do to a bind that is only marked read-only over something writable (design, mount-ro)."""
STRENGTHS: Mapping[Promise, tuple[str, ...]] = {
    Promise.IMAGE_RO: ("image-ro",),
    Promise.PINNED_RO: ("pinned-ro",),
    Promise.BIND_RO: ("pinned-ro", "mount-ro"),
}
"""What may make a path read-only, by the promise of the mount that provides it."""


def immutable_checks(layout: Layout) -> Iterator[Check]:
    """One check a path; a path is attacked once even if two keys speak of it."""
    for path, at in attack_targets(layout).items():
        yield Check(
            promise="immutable", subject=str(path), at=at,
            ops=(TABLE, wire.read("/sys/class/block/vda/ro"), wire.statvfs(str(path)), wire.attack(str(path))),
            judge=partial(_judge, path, layout.owner(path).promise), phase="loud",
        )  # fmt: skip
    for mount in layout.mounts:
        if mount.role is Role.PIN:
            yield Check(
                promise="pinned", subject=str(mount.where), at=mount.at, ops=(wire.attack(str(mount.where)),),
                judge=_judge_pin, phase="loud",
            )  # fmt: skip


def attack_targets(layout: Layout) -> dict[PurePosixPath, KeyPath]:
    """Path -> the key that makes it immutable; `immutable: ()` for what nobody declared."""
    targets: dict[PurePosixPath, KeyPath] = {ROOT: ()}
    for path in layout.top_level:
        if layout.owner(path).role is Role.ROOT and not any(is_within(path, p) for p in SYSTEM_OWNED):
            targets[path] = ()
    for item in layout.profile.immutable:
        targets[item.path] = item.at
    for mount in layout.mounts:
        if mount.promise is Promise.BIND_RO:
            targets[mount.where] = mount.at
    return targets


def _judge(path: PurePosixPath, promise: Promise, facts: Sequence[Facts]) -> Verdict:
    table, block_ro, statvfs, attack = facts
    strengths = STRENGTHS.get(promise, ())
    expected = f"read-only ({' or '.join(strengths)}): no attack has an effect"
    tried = [a for a in attack.get("attacks") or () if not a.get("skipped")]
    if not any(a["errno"] == "EROFS" for a in tried):
        return broken(expected, trouble(attack) or _why_none(attack, tried))
    strength = find_strength(path, text(table), (data(block_ro) or b"").strip() == b"1")
    by_nature = BY_NATURE if promise is Promise.BIND_RO and strength == "mount-ro" else frozenset()
    wrong = [
        f"{a['name']} had an effect ({a.get('detail') or a.get('errno') or 'no error'})"
        for a in tried
        if a["effect"] and a["name"] not in by_nature
    ]
    wrong += [
        f"{a['name']} {'was allowed' if a['errno'] is None else 'failed with ' + a['errno'] + ', not EROFS'}"
        for a in tried
        if not a["effect"] and _is_wrong(a)
    ]
    if "ro" not in statvfs.get("flags", ()):
        wrong.append(f"statvfs does not say read-only ({','.join(statvfs.get('flags', ())) or trouble(statvfs)})")
    if strength not in strengths:
        wrong.append(f"what makes it read-only is {strength or 'nothing'}")
    errors: dict[str, int] = {}
    for a in tried:
        errors[a["errno"] or "0"] = errors.get(a["errno"] or "0", 0) + 1
    seen = f"{strength}; {len(tried)} attacks: " + ", ".join(f"{n} x {e}" for e, n in sorted(errors.items()))
    seen += "".join(f"; {a['name']} takes effect, as on any such bind" for a in tried if a["effect"] and not wrong)
    return decide(not wrong, expected, "; ".join([*wrong, seen]))


def _why_none(attack: Facts, tried: Sequence[Facts]) -> str:
    """Why there is nothing to judge by."""
    answers = ", ".join(f"{a['name']} {a['errno'] or 'succeeded'}" for a in tried)
    return str(attack.get("errno") or (f"no attack met EROFS: {answers}" if answers else "no attack was tried"))


def _is_wrong(attack: Facts) -> bool:
    """Success without an effect that could be seen is still not what read-only means."""
    name = str(attack["name"])
    if name in MUST_BE_EROFS:
        return bool(attack["errno"] != "EROFS")
    return attack["errno"] is None and not any(name.startswith(prefix) for prefix in MAY_SUCCEED)


def find_strength(path: PurePosixPath, table: str, device_ro: bool) -> str | None:
    """image-ro, pinned-ro, mount-ro (design, "three strengths"), from what is live; None if writable."""
    row = covering(parse_mountinfo(table), path)
    if row is None:
        return None
    if row.type == "squashfs":
        if row.where == ROOT:
            return "image-ro" if device_ro else "image-ro on a writable device"
        return "pinned-ro"
    return "mount-ro" if "ro" in row.flags else None


def _judge_pin(facts: Sequence[Facts]) -> Verdict:
    expected = "cannot be renamed: a mount point (EBUSY)"
    renames = [a for a in facts[0].get("attacks", ()) if a["name"].startswith("rename-self")]
    if not renames:
        return broken(expected, trouble(facts[0]) or "no rename was tried")
    seen = "; ".join(f"{a['name']}: {a['errno']}" for a in renames)
    return decide(all(a["errno"] == "EBUSY" and not a["effect"] for a in renames), expected, seen)
