# SPDX-License-Identifier: MIT
"""Layout -> attacks on every immutable path, every undeclared top-level directory and the root's device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath

from rofs.errors import KeyPath
from rofs.layout import ROOT, SYSTEM_OWNED, Layout, Promise, Role, is_within
from rofs.verify import probe_wire as wire
from rofs.verify.attacks import ATTACKS, DEVICE_OPEN, DEVICE_WRITE, STRENGTHS, WRITTEN, Strength, kind_of
from rofs.verify.check import Check, Facts, Verdict, broken, data, decide, text, trouble
from rofs.verify.mountinfo import covering, parse_mountinfo
from rofs.verify.mounts import TABLE

PULL = "rename-self"
DEVICE = "/dev/vda"
"""The root's disk wherever verification boots."""
ALLOWED: Mapping[Promise, tuple[Strength, ...]] = {
    Promise.IMAGE_RO: ("image-ro",),
    Promise.PINNED_RO: ("pinned-ro",),
    Promise.BIND_RO: ("pinned-ro", "mount-ro"),
}
"""What may make a path read-only, by the promise of the mount that provides it."""


def immutable_checks(layout: Layout) -> Iterator[Check]:
    """One check a path, once even if two keys speak of it; each pin is pulled at; the root's device is written to."""
    for path, at in attack_targets(layout).items():
        yield Check(
            promise="immutable", subject=str(path), at=at,
            ops=(TABLE, wire.read("/sys/class/block/vda/ro"), wire.statvfs(str(path)), wire.attack(str(path))),
            judge=partial(_judge, path, layout.owner(path).promise), phase="loud",
        )  # fmt: skip
    for mount in layout.mounts:
        if mount.role is Role.PIN:
            yield Check(
                promise="pinned", subject=str(mount.where), at=mount.at,
                ops=(wire.attack(str(mount.where), only=PULL),), judge=_judge_pin, phase="loud",
            )  # fmt: skip
    yield Check(
        promise="block device", subject=DEVICE, at=(),
        ops=(TABLE, wire.lstat(DEVICE), wire.blkwrite(DEVICE)), judge=_judge_device, phase="loud",
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
    allowed = ALLOWED.get(promise, ())
    expected = f"read-only ({' or '.join(allowed)}): every attack is refused as the kernel must"
    tried = attack.get("attacks") or ()
    if not tried or attack.get("errno"):
        return broken(expected, trouble(attack) or str(attack.get("errno") or "no attack was tried"))
    strength = find_strength(path, text(table), (data(block_ro) or b"").strip() == b"1")
    known = next((s for s in STRENGTHS if s == strength), STRENGTHS[0])
    wrong = list(_dishonest(attack, known, mount_point=_is_mount_point(path, text(table))))
    if "ro" not in statvfs.get("flags", ()):
        wrong.append(f"statvfs does not say read-only ({','.join(statvfs.get('flags', ())) or trouble(statvfs)})")
    if strength not in allowed:
        wrong.append(f"what makes it read-only is {strength or 'nothing'}")
    return decide(not wrong, expected, "; ".join([*wrong, _summary(strength, tried, kept=not wrong)]))


def _dishonest(attack: Facts, strength: Strength, *, mount_point: bool) -> Iterator[str]:
    """Each attack whose answer is not in the table, each that is unknown, each that is missing."""
    kind = kind_of(str(attack.get("type")))
    due = {name: row for name, row in ATTACKS.items() if kind in row.kinds}
    for one in attack["attacks"]:
        row = due.get(str(one["name"]))
        if row is None:
            yield f"{one['name']} is no known attack on a {kind}"
            continue
        honest = row.honest(strength, kind, mount_point=mount_point)
        if answer_of(one) not in honest:
            yield f"{one['name']} {_words(one)}, not {' or '.join(sorted(honest - {WRITTEN}))}"
        elif one["effect"] and not one.get("restored"):
            yield f"{one['name']} took effect, and it could not be undone"
    missing = due.keys() - {str(one["name"]) for one in attack["attacks"]}
    if missing:
        yield f"not tried: {', '.join(sorted(missing))}"


def answer_of(one: Facts) -> str:
    """One attack as the table has it: what the second look shows goes before what the call said."""
    if one["effect"]:
        return WRITTEN
    return str(one.get("skipped") or one["errno"])


def _words(one: Facts) -> str:
    if one["effect"]:
        return f"had an effect ({one.get('detail') or one['errno'] or 'no error'})"
    if one.get("skipped"):
        return f"was not tried ({one['skipped']}, {one['errno']})"
    return f"failed with {one['errno']}" if one["errno"] else "was allowed"


def _summary(strength: str | None, tried: Sequence[Facts], *, kept: bool) -> str:
    """How many attacks met what."""
    made = [one for one in tried if not one.get("skipped")]
    errors = Counter(one["errno"] or "0" for one in made)
    skipped = Counter(one["skipped"] for one in tried if one.get("skipped"))
    seen = f"{strength}; {len(made)} attacks: " + ", ".join(f"{n} x {e}" for e, n in sorted(errors.items()))
    seen += "".join(f"; {n} not possible: {why}" for why, n in sorted(skipped.items()))
    effects = [one["name"] for one in made if one["effect"]]
    return seen + (f"; as on any such bind {', '.join(effects)} took effect" if effects and kept else "")


def _is_mount_point(path: PurePosixPath, table: str) -> bool:
    return any(row.where == path for row in parse_mountinfo(table))


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
    renames = [a for a in facts[0].get("attacks", ()) if a["name"] == PULL]
    if not renames:
        return broken(expected, trouble(facts[0]) or "no rename was tried")
    seen = "; ".join(f"{a['name']}: {a['errno']}" for a in renames)
    return decide(all(a["errno"] == "EBUSY" and not a["effect"] for a in renames), expected, seen)


def _judge_device(facts: Sequence[Facts]) -> Verdict:
    table, node, written = facts
    expected = "the root's disk: cannot be written to, BLKROGET says 1"
    if "open" not in written:
        return broken(expected, trouble(written) or "nobody tried")
    root = covering(parse_mountinfo(text(table)), ROOT)
    mounted, named = root.device if root else "nothing", f"{node.get('rdev_major')}:{node.get('rdev_minor')}"
    wrong = []
    if mounted != named:
        wrong.append(f"the root is on {mounted}, this is {named}")
    if written["open"] is None and written.get("write") not in DEVICE_WRITE:
        wrong.append(f"a write {'failed with ' + written['write'] if written.get('write') else 'took effect'}")
    elif written["open"] is not None and written["open"] not in DEVICE_OPEN:
        wrong.append(f"opening it for writing failed with {written['open']}")
    if written.get("read_only") != 1:
        wrong.append("the kernel does not call it read-only")
    seen = ", ".join(f"{key} {written.get(key, '-')}" for key in ("open", "write", "read_only"))
    return decide(not wrong, expected, "; ".join([*wrong, seen]))
