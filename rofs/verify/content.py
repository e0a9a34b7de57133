# SPDX-License-Identifier: MIT
"""Generated entries -> checks that each is in the guest as it was generated: users, dot-files, units, names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath

from rofs.entry import Entry
from rofs.errors import KeyPath
from rofs.generate.accounts import home_of
from rofs.layout import MACHINE_ID, PERSISTENT, SYSTEM_OWNED, Layout, Promise, Role, image_path
from rofs.profile import User
from rofs.verify import probe_wire as wire
from rofs.verify.check import (
    Check,
    Facts,
    Verdict,
    broken,
    by_path,
    content_of,
    data,
    decide,
    kept,
    text,
    trouble,
)

MOST_READ_BYTES = 65536
_TYPES = {"file": "file", "dir": "dir", "symlink": "link"}


def content_checks(layout: Layout, entries: Sequence[Entry], *, kept: bool = False) -> Iterator[Check]:
    """Entries grouped by the key that asked for them, so that a report has one line a promise.

    On the state of a device (`kept`) what survives may hide the image's content, and shall: there the
    image itself is looked at, and state.py lists what is hidden.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.why or "rofs", []).append(entry)
    for why, group in groups.items():
        seen = [entry for entry in group if not _is_replaced(layout, entry)]
        if seen:
            yield _group_check(layout, why, seen, kept=kept)
    if kept and _survives(layout, PurePosixPath("/etc")):
        return
    for user in layout.profile.users:
        yield _user_check(layout, user)
    yield Check(
        promise="user", subject="no empty password", at=("users",),
        ops=(wire.read("/etc/passwd"), wire.read("/etc/shadow")), judge=_judge_passwords,
    )  # fmt: skip
    hostname = layout.profile.hostname
    resolved = wire.run(30, "getent", "hosts", hostname) if _has_libc(layout) else wire.read("/etc/hosts")
    yield Check(
        promise="hostname", subject=hostname, at=("hostname",),
        ops=(wire.read("/proc/sys/kernel/hostname"), resolved), judge=partial(_judge_hostname, hostname),
    )  # fmt: skip


def _has_libc(layout: Layout) -> bool:
    """Whether getent(1) can be asked; a tree without systemd may hold nothing but busybox."""
    return layout.profile.init == "systemd"


def _survives(layout: Layout, path: PurePosixPath) -> bool:
    return layout.owner(path).promise in PERSISTENT


def _group_check(layout: Layout, why: str, group: list[Entry], *, kept: bool) -> Check:
    places = tuple(
        image_path(entry.path) if kept and _survives(layout, entry.path) else str(entry.path) for entry in group
    )
    paths = f"{group[0].path}" + (f" and {len(group) - 1} more" if len(group) > 1 else "")
    return Check(
        promise="generated", subject=f"{why}: {paths}", at=_key(why), ops=(wire.files(places, MOST_READ_BYTES),),
        judge=partial(_judge_entries, group, places),
    )  # fmt: skip


def _key(why: str) -> KeyPath:
    """`users[0]` back to ("users", 0), for the place in the report."""
    head, _, rest = why.partition("[")
    return (head, int(rest.rstrip("]"))) if rest.rstrip("]").isdigit() else tuple(head.split("."))


def _is_replaced(layout: Layout, entry: Entry) -> bool:
    """What stands at the path is, by the layout, not the image's: a mount point, or PID 1's machine-id."""
    owner = layout.owner(entry.path)
    if entry.path == MACHINE_ID or entry.path in SYSTEM_OWNED:
        return True
    if owner.promise in (Promise.BIND_TMPFS, Promise.BIND_STATE, Promise.PARTITION) and owner.where != entry.path:
        return not any(p.seed == PurePosixPath(image_path(owner.where)) for p in layout.prepares)
    other = owner.promise in (Promise.TMPFS, Promise.BIND_RW, Promise.BIND_RO)
    return other or (owner.where == entry.path and owner.role is Role.DECLARED)


def _judge_entries(entries: list[Entry], places: tuple[str, ...], facts: Sequence[Facts]) -> Verdict:
    expected, wrong = f"{len(entries)} paths as generated", []
    seen = by_path(facts[0])
    for entry, place in zip(entries, places, strict=True):
        stat = seen.get(place, facts[0])
        content = data(content_of(stat)) if entry.kind == "file" else None
        wrong += [f"{entry.path}: {w}" for w in _differences(entry, stat, content)]
    return decide(not wrong, expected, "; ".join(wrong[:8]) or f"{len(entries)} equal in type, mode, owner and content")


def _differences(entry: Entry, stat: Facts, content: bytes | None) -> Iterator[str]:
    if stat.get("type") != _TYPES[entry.kind]:
        yield trouble(stat) or f"is {stat.get('type') or stat.get('errno')}, not {_TYPES[entry.kind]}"
        return
    if entry.kind != "symlink" and stat.get("mode") != entry.mode:
        yield f"mode is {stat.get('mode') or 0:04o}, not {entry.mode:04o}"
    for key, want in (("uid", entry.uid), ("gid", entry.gid)):
        if stat.get(key) != want:
            yield f"{key} is {stat.get(key)}, not {want}"
    if entry.kind == "symlink" and stat.get("target") != wire.quote(entry.target):
        yield f"points to {stat.get('target')}, not {entry.target}"
    if entry.kind == "file" and (content != entry.content[:MOST_READ_BYTES] or stat.get("size") != len(entry.content)):
        yield "the content differs"


def _user_check(layout: Layout, user: User) -> Check:
    home = home_of(layout.profile, None, user.name)
    gid = user.primary_gid
    line = f"{user.name}:x:{user.uid}:{gid}:{user.comment}:{home}:{user.shell}"
    people = [u.name for u in layout.profile.users]
    asked = (wire.run(30, "getent", "passwd", *people), wire.run(30, "getent", "group"))  # the same for all of them
    files = (wire.read("/etc/passwd"), wire.read("/etc/group"))
    return Check(
        promise="user", subject=user.name, at=user.at, judge=partial(_judge_user, user, line),
        ops=(*(asked if _has_libc(layout) else files), wire.read("/etc/shadow")),
    )  # fmt: skip


def _find_user(user: User, facts: Sequence[Facts]) -> tuple[str, list[str]]:
    """The user's line of passwd and the names of its groups, from getent(1) or from the files."""
    rows = [row for row in text(facts[0]).splitlines() if row.startswith(f"{user.name}:")]
    records = [row.split(":") for row in text(facts[1]).splitlines() if row.count(":") == 3]
    named = [r[0] for r in records if user.name in r[3].split(",")]
    return rows[0] if len(rows) == 1 else "", named


def _judge_user(user: User, line: str, facts: Sequence[Facts]) -> Verdict:
    expected = f"{line}, groups {' '.join(user.groups) or 'none'}, no password"
    passwd, groups = _find_user(user, facts)
    shadow = [row for row in text(facts[2]).splitlines() if row.startswith(f"{user.name}:")]
    if passwd != line:
        return broken(expected, trouble(facts[0]) or f"passwd says {passwd or 'nothing'}")
    missing = sorted(set(user.groups) - set(groups))
    if missing:
        return broken(expected, f"not in {', '.join(missing)}")
    if [row.split(":")[1] for row in shadow] != ["*"]:
        return broken(expected, "the password field is not *")
    return kept(expected, f"{passwd}, groups {' '.join(groups)}, password *")


def _judge_passwords(facts: Sequence[Facts]) -> Verdict:
    """Of every account, also those that the tree brought; an image may have no shadow, and then no password."""
    expected = "no account without a password field"
    passwd, shadow = facts
    if not text(passwd).strip() or (data(shadow) is None and shadow.get("errno") != "ENOENT"):
        return broken(expected, trouble(passwd) or trouble(shadow) or str(passwd.get("errno") or shadow.get("errno")))
    found = []
    for file, lines in (("passwd", text(passwd)), ("shadow", text(shadow))):
        rows = [line.split(":") for line in lines.splitlines() if line.strip()]
        found += [f"{row[0]} in {file}" for row in rows if len(row) < 2 or not row[1]]
    return decide(not found, expected, ", ".join(found) or f"{len(text(passwd).splitlines())} accounts")


def _judge_hostname(hostname: str, facts: Sequence[Facts]) -> Verdict:
    name = text(facts[0]).strip()
    lines = [line.partition("#")[0] for line in text(facts[1]).splitlines()]
    hosts = [line.strip() for line in lines if hostname in line.split()[1:]]
    return decide(
        name == hostname and facts[1].get("status", 0) == 0 and bool(hosts),
        f"{hostname}, and it resolves",
        f"{name}; {'; '.join(hosts) or 'does not resolve'}",
    )
