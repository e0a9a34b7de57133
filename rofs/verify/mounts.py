# SPDX-License-Identifier: MIT
"""Layout -> checks of the mount table: each declared mount is live as declared, and no other is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from functools import partial
from pathlib import PurePosixPath

from rofs.generate.escape import unit_name
from rofs.generate.mounts import render_fstab, render_unit
from rofs.layout import SAFE_OVERLAY, UNIT_DIR, Layout, Mount, Promise, Role, Stage, persistent_stores
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
from rofs.verify.mountinfo import Row, covering, parse_mountinfo
from rofs.verify.units import parse_units, units_of, why_no_units

TABLE = wire.read("/proc/1/mountinfo")
GENERATOR_DIR = PurePosixPath("/run/systemd/generator")
_FLAGS = frozenset({"ro", "rw", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"})
_KERNEL_ADDS = frozenset({"relatime"})
_KERNEL_SETTINGS = frozenset({"inode64", "rw", "huge", "uuid"})
"""Of tmpfs and overlay, where the kernel shows its own default (`uuid=on` from 6.6 on)."""
_UNSAFE = frozenset({"nobarrier", "barrier=0", "norecovery", "noload", "data=writeback", "journal_async_commit"})
"""Of a file system that must survive a power cut."""
_MOST_UNIT_BYTES = 65536

SYSTEM_ROWS: tuple[tuple[str, frozenset[str], int], ...] = tuple(
    (path, frozenset(types.split("|")), most)
    for path, types, most in (
        ("/dev", "devtmpfs", 1),
        ("/dev/shm", "tmpfs", 1),  # noqa: S108
        ("/dev/pts", "devpts", 1),
        ("/dev/mqueue", "mqueue", 1),
        ("/dev/hugepages", "hugetlbfs", 1),
        ("/proc", "proc", 1),
        ("/proc/sys/fs/binfmt_misc", "autofs|binfmt_misc", 2),
        ("/sys", "sysfs", 1),
        ("/sys/kernel/security", "securityfs", 1),
        ("/sys/kernel/debug", "debugfs", 1),
        ("/sys/kernel/tracing", "tracefs", 1),
        ("/sys/kernel/config", "configfs", 1),
        ("/sys/fs/cgroup", "cgroup2", 1),
        ("/sys/fs/pstore", "pstore", 1),
        ("/sys/fs/bpf", "bpf", 1),
        ("/sys/fs/selinux", "selinuxfs", 1),
        ("/sys/fs/fuse/connections", "fusectl", 1),
        ("/sys/firmware/efi/efivars", "efivarfs", 1),
        ("/run", "tmpfs", 1),
        ("/run/lock", "tmpfs", 1),
        ("/run/credentials/[A-Za-z0-9@_.-]+[.]service", "ramfs|tmpfs", 1),
        ("/run/user/[0-9]+", "tmpfs", 1),
        # Only where the file is empty and /etc cannot be written: PID 1 binds a transient one.
        ("/etc/machine-id", "tmpfs", 1),
    )
)
"""What the kernel and PID 1 mount by themselves: path, types, how often (tried.md, a clean boot)."""
_SHUT = "/run/credentials/"
"""PID 1 makes these read-only before a service starts: a writable one is somebody's hiding place."""
_OTHER_INIT_ROWS = (("/proc", frozenset({"proc"}), 2), *(row for row in SYSTEM_ROWS if row[0] != "/proc"))
"""Buildroot's inittab mounts /proc unasked, over that of the initrd: since Linux 5.8 each mount is an instance."""


def mount_checks(layout: Layout) -> Iterator[Check]:
    """All of them only look."""
    files = _places(layout)
    for mount in layout.mounts:
        yield Check(
            promise="mount",
            subject=f"{mount.where} ({mount.promise.value})",
            at=mount.at,
            ops=(TABLE, files),
            judge=partial(_judge_mount, mount, disk_of(layout, mount)),
        )
    yield Check(
        promise="nothing undeclared", subject="mount table", at=("mounts",), ops=(TABLE,),
        judge=partial(judge_undeclared, layout),
    )  # fmt: skip


def late_mount_check(layout: Layout) -> Check:
    """The whole table once more, when all is done. What was wrong from the start the first look has said."""
    asks = (TABLE, _places(layout))
    return Check(
        promise="nothing undeclared", subject="mount table after all checks", at=("mounts",), recalls=asks, ops=asks,
        judge=partial(_judge_late, layout), phase="after",
    )  # fmt: skip


def _places(layout: Layout) -> wire.Op:
    places = (str(m.where) for m in layout.mounts)
    return wire.files([*places, *sorted({disk_of(layout, m) for m in layout.mounts})])


def _judge_late(layout: Layout, facts: Sequence[Facts]) -> Verdict:
    """Nothing came, nothing went, and nothing is mounted otherwise than at the first look."""
    expected, early, late = "no mount has come, gone or changed", facts[:2], facts[2:]
    was, rows = (parse_mountinfo(text(look[0])) for look in (early, late))
    if flaw := _table_flaw(late[0], rows):
        return broken(expected, flaw)
    changes = [*(Counter(_undeclared(layout, rows)) - Counter(_undeclared(layout, was))).elements()]
    for mount in layout.mounts:
        before, now = (_judge_mount(mount, disk_of(layout, mount), look) for look in (early, late))
        if not now.ok and now.seen != before.seen:
            changes.append(f"{mount.where}: {now.seen}")
    return decide(not changes, expected, "; ".join(changes) or f"the layout's {len(layout.mounts)} as before")


def disk_of(layout: Layout, mount: Mount) -> str:
    """The disk that verification gives a mount: the root first, then each persistent file system."""
    devices = [store.device for store in persistent_stores(layout.profile)]
    return f"/dev/vd{chr(ord('b') + devices.index(mount.what))}" if mount.what in devices else "/dev/vda"


def _judge_mount(mount: Mount, disk: str, facts: Sequence[Facts]) -> Verdict:
    rows = parse_mountinfo(text(facts[0]))
    live = [r for r in rows if r.where == mount.where]
    expected = f"{mount.type} {mount.what} {','.join(mount.options)}"
    if not live:
        return broken(expected, trouble(facts[0]) or f"nothing is mounted on {mount.where}")
    if len(live) > 1:
        return broken(expected, f"mounted {len(live)} times: " + "; ".join(str(r) for r in live))
    seen = by_path(facts[1])
    differences = list(_differences(mount, live[0], rows, seen.get(disk, {})))
    differences += _root_differences(mount, live[0], seen.get(str(mount.where), {}))
    return decide(not differences, expected, "; ".join([*differences, str(live[0])]))


def _differences(mount: Mount, row: Row, rows: tuple[Row, ...], disk: Facts) -> Iterator[str]:
    flags = (row.flags & _FLAGS) | (row.flags - _FLAGS - _KERNEL_ADDS)
    declared = {o for o in mount.options if o in _FLAGS} | ({"rw"} if not mount.read_only else set())
    if flags != declared:
        yield f"flags are {','.join(sorted(flags))}, not {','.join(sorted(declared))}"
    if not mount.read_only and "ro" in row.super_options:
        yield "its file system is read-only"
    if mount.is_bind:
        yield from _bind_differences(mount, row, rows)
    elif row.type != mount.type:
        yield f"type is {row.type}, not {mount.type}"
    elif mount.role is Role.ROOT or mount.type not in ("tmpfs", "overlay"):
        number = f"{disk.get('rdev_major')}:{disk.get('rdev_minor')}"
        if row.device != number:
            yield f"it is on device {row.device}, its disk is {number}"
        if unsafe := sorted(_UNSAFE & {*row.super_options}):
            yield f"unsafe options {','.join(unsafe)}"
    else:
        if row.source != mount.what:
            yield f"source is {row.source}, not {mount.what}"
        yield from _setting_differences(mount, row)


def _root_differences(mount: Mount, row: Row, seen: Facts) -> Iterator[str]:
    """What stands at the path is the mount, and not what was mounted over it or over a directory above.

    A file of an overlay has a device number of its own.
    """
    device = f"{seen.get('dev_major')}:{seen.get('dev_minor')}"
    if device != row.device and (row.type != "overlay" or seen.get("type") == "dir"):
        yield trouble(seen) or f"what is seen there is on device {device}, the mount on {row.device}"
    for key in ("mode", "uid", "gid"):
        want = getattr(mount, key)
        if want is not None and seen.get(key) != want:
            shown = seen.get(key) if key != "mode" else f"{seen.get(key) or 0:04o}"
            yield f"{key} is {shown}, not {want if key != 'mode' else f'{want:04o}'}"


def _bind_differences(mount: Mount, row: Row, rows: tuple[Row, ...]) -> Iterator[str]:
    """A bind is right when it shows the same device, and there the same directory, as its source."""
    what = PurePosixPath(mount.what)
    source = covering(rows, what, without=mount.where)
    if source is None:
        yield f"nothing provides {what}"
        return
    root = PurePosixPath(source.root) / what.relative_to(source.where)
    if (row.device, PurePosixPath(row.root)) != (source.device, root):
        yield f"shows {row.root} of {row.device}, not {root} of {source.device}"
    if "private" in mount.options and any(p.startswith("master:") for p in row.propagation):
        yield "receives mounts from elsewhere"
    if "private" in mount.options and mount.stage is Stage.SYSTEMD and "shared" in {p[:6] for p in row.propagation}:
        yield "passes mounts on to elsewhere"  # what the initrd mounts PID 1 shares, as all it finds


def _setting_differences(mount: Mount, row: Row) -> Iterator[str]:
    """size=, nr_inodes=, lowerdir= and so on, both ways; what the kernel hides or adds is left out."""
    declared = dict(o.partition("=")[::2] for o in mount.options if "=" in o)
    live = row.settings
    for key, value in declared.items():
        if key in ("mode", "uid", "gid"):
            continue  # shown only where they are not the default: lstat has judged them
        if f"{key}={value}" in SAFE_OVERLAY and key not in live:
            continue  # the kernel's own default, which it does not show
        if _number(live.get(key)) != _number(value):
            yield f"{key} is {live.get(key, 'not set')}, not {value}"
    known = set(declared) | _KERNEL_SETTINGS | {"mode", "uid", "gid"}
    plain = {o for o in mount.options if "=" not in o}
    extra = sorted(k for k in live if k not in known | plain)
    if extra:
        yield f"undeclared options {','.join(extra)}"


def _number(value: str | None) -> str | int | None:
    match = re.fullmatch(r"([0-9]+)([kKmMgG]?)", value or "")
    if match is None:
        return value
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]


def judge_undeclared(layout: Layout, facts: Sequence[Facts]) -> Verdict:
    """Every row is the layout's or the system's own."""
    expected = "no mount but the layout's, the kernel's and PID 1's"
    rows = parse_mountinfo(text(facts[0]))
    if flaw := _table_flaw(facts[0], rows):
        return broken(expected, flaw)
    declared, strange = {m.where for m in layout.mounts}, _undeclared(layout, rows)
    others = sum(row.where not in declared for row in rows)
    seen = f"{len(rows)} mounts, {len(rows) - others} of the layout, {others} of the system"
    return decide(not strange, expected, "; ".join(strange) or seen)


def _table_flaw(table: Facts, rows: Sequence[Row]) -> str:
    """Why nothing can be judged by a mount table, or ''."""
    if rows and not table.get("truncated"):
        return ""
    return trouble(table) or f"a mount table of {len(rows)} rows, and not the whole"


def _undeclared(layout: Layout, rows: Sequence[Row]) -> list[str]:
    """The rows that are neither the layout's nor the system's own."""
    declared = {m.where for m in layout.mounts}
    etc_writable = any(m.where == PurePosixPath("/etc") and m.promise is not Promise.BIND_RO for m in layout.mounts)
    rules = SYSTEM_ROWS if layout.profile.init == "systemd" else _OTHER_INIT_ROWS
    count: dict[str, int] = {}
    strange = []
    for row in rows:
        if row.where in declared:
            continue
        path = str(row.where)
        count[path] = count.get(path, 0) + 1
        rule = next((r for r in rules if re.fullmatch(r[0], path)), None)
        transient = path == "/etc/machine-id" and etc_writable
        wide_open = path.startswith(_SHUT) and "ro" not in row.flags
        if rule is None or row.type not in rule[1] or count[path] > rule[2] or transient or wide_open:
            strange.append(f"{path} ({row})")
    return strange


# --- PID 1's own judgement ------------------------------------------------------------------------


def unit_checks(layout: Layout) -> Iterator[Check]:
    """Each mount unit is the one rofs made, PID 1 uses it, and its own reading of fstab says the same.

    Another init has only the fstab, which must mount nothing.
    """
    if layout.profile.init == "other":
        yield Check(
            promise="fstab", subject="/etc/fstab", at=("mounts",), phase="loud",
            ops=(TABLE, wire.read("/etc/fstab"), wire.shell(30, "mount -a"), TABLE),
            judge=partial(_judge_plain_fstab, layout),
        )  # fmt: skip
        return
    units = units_of(layout.profile.verify.units)
    files = wire.files([path for mount in layout.mounts for path in _unit_paths(mount)], _MOST_UNIT_BYTES)
    for mount in layout.mounts:
        yield Check(
            promise="unit", subject=unit_name(mount.where), at=mount.at, ops=(units, files),
            judge=partial(_judge_unit, layout, mount),
        )  # fmt: skip
    yield Check(
        promise="fstab", subject="/etc/fstab", at=("mounts",),
        ops=(wire.read("/etc/fstab"), wire.run(30, "findmnt", "--verify", "--verbose")),
        judge=partial(_judge_fstab, layout),
    )  # fmt: skip


def _unit_paths(mount: Mount) -> tuple[str, str, str]:
    """The unit as the fstab-generator makes it, its link there, and ours."""
    name = unit_name(mount.where)
    target = "local-fs.target." + ("requires" if mount.required else "wants")
    return str(GENERATOR_DIR / name), str(GENERATOR_DIR / target / name), str(UNIT_DIR / name)


def _judge_unit(layout: Layout, mount: Mount, facts: Sequence[Facts]) -> Verdict:
    seen = by_path(facts[1])
    generated, link, live = (seen.get(path, {}) for path in _unit_paths(mount))
    name = unit_name(mount.where)
    ours = parse_unit(render_unit(layout, mount))
    expected = f"{UNIT_DIR / name} active; fstab says the same"
    wrong = []
    units = parse_units(facts[0])
    if not units:
        wrong.append(why_no_units(facts[0]))
    elif name not in units:
        wrong.append("PID 1 does not know it")
    else:
        unit = units[name]
        if unit.fragment != str(UNIT_DIR / name):
            wrong.append(f"PID 1 uses {unit.fragment or 'no file'}")
        if unit.active != "active":
            wrong.append(f"it is {unit.active}")
    if (said := parse_unit(text(content_of(live)))) != ours:
        wrong.append(f"the unit in the guest says {said}, not {ours}")
    theirs = _without_tag(parse_unit(text(content_of(generated))), mount)
    if theirs != ours:
        wrong.append(f"the fstab-generator says {theirs or 'nothing'}, the unit {ours}")
    if link.get("type") != "link":
        wrong.append(f"the fstab-generator does not {'require' if mount.required else 'want'} it")
    return decide(not wrong, expected, "; ".join(wrong) or f"active from {UNIT_DIR / name}, generator agrees")


def parse_unit(text: str) -> dict[str, str]:
    """What, Where, Type and canonical options of a mount unit, with what only fstab can say taken out."""
    parser = ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # systemd's keys are case-sensitive
    try:
        parser.read_string(text)
    except ConfigParserError:
        return {}  # whatever it is, it is no unit
    if not parser.has_section("Mount"):
        return {}
    found = {key: parser["Mount"].get(key, "") for key in ("What", "Where", "Type")}
    options = [o for o in parser["Mount"].get("Options", "").split(",") if not o.startswith("x-")]
    return {**found, "Options": ",".join(o for o in options if o != "nofail")}


def _without_tag(unit: dict[str, str], mount: Mount) -> dict[str, str]:
    """The generator turns LABEL=x into the link udev makes; a unit keeps the tag, or PID 1 waits for that link."""
    tag, _, name = mount.what.partition("=")
    link = f"/dev/disk/by-{tag.lower()}/{name}"
    return {**unit, "What": mount.what} if unit.get("What") == link else unit


def _judge_plain_fstab(layout: Layout, facts: Sequence[Facts]) -> Verdict:
    """Init scripts say `mount -a`; where there is no mount(8) to say it with, nothing can go wrong."""
    expected = "the generated file, and mount -a leaves the mount table alone"
    if data(facts[1]) != render_fstab(layout).encode("utf-8", "surrogateescape"):
        return broken(expected, trouble(facts[1]) or "another /etc/fstab")
    if data(facts[0]) is None or data(facts[0]) != data(facts[3]):
        return broken(expected, trouble(facts[0]) or trouble(facts[3]) or "mount -a changes the mount table")
    status, said = facts[2].get("status"), text(facts[2]).strip()
    absent = status == 127 or facts[2].get("errno") == "ENOENT"
    seen = f"{len(layout.mounts)} lines, " + ("no mount(8) in the image" if absent else f"mount -a ended {status}")
    return decide(status == 0 or absent, expected, f"{seen}: {said}" if said and not absent else seen)


def _judge_fstab(layout: Layout, facts: Sequence[Facts]) -> Verdict:
    expected = "the generated file, and findmnt --verify finds nothing"
    if data(facts[0]) != render_fstab(layout).encode("utf-8", "surrogateescape"):
        return broken(expected, trouble(facts[0]) or "another /etc/fstab")
    said = text(facts[1]).strip()
    if facts[1].get("status") != 0 or "Success, no errors or warnings detected" not in said:
        words = [line.strip() for line in said.splitlines() if "[" in line and "[ ]" not in line]
        return broken(
            expected,
            trouble(facts[1]) or "; ".join(words) or said or f"findmnt ended {facts[1].get('status')}",
        )
    return kept(expected, f"{len(layout.mounts)} lines, {said.splitlines()[-1]}")
