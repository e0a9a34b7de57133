# SPDX-License-Identifier: MIT
"""A guest that keeps every promise of a layout, as the probe would report it; tests break it in one place."""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from string import ascii_lowercase
from typing import Any
from zlib import crc32

from layouts import TEXTS, P

from rofs.entry import Entry
from rofs.generate.escape import fstab_field, unit_name
from rofs.generate.identity import HOST_KEY
from rofs.generate.mounts import render_unit
from rofs.layout import (
    BACKING,
    DATA,
    EVENTS,
    IMAGE,
    MACHINE_ID,
    PERSISTENT,
    RUN,
    SAFE_OVERLAY,
    STATE,
    UNIT_DIR,
    WRITABLE,
    Layout,
    Mount,
    Promise,
    Role,
    as_volatile,
    is_within,
    persistent_stores,
)
from rofs.machine.arch import ARCHES
from rofs.verify.attacks import ATTACKS, WRITTEN
from rofs.verify.check import Check, Verdict, text
from rofs.verify.checks import boot_checks, judge, make_plan
from rofs.verify.cmdline import expected_cmdline
from rofs.verify.mountinfo import parse_mountinfo
from rofs.verify.mounts import GENERATOR_DIR
from rofs.verify.probe_wire import Op, lstat, poweroff, quote, read
from rofs.verify.scenario import Scenario
from rofs.verify.units import PROBE_UNIT
from rofs.verify.volatile import CANARY, canary_text

Answer = dict[str, Any]
Rule = Answer | Callable[[Answer], Answer]
COLD = Scenario(number=1, state="none", ends="clean", attacked=True)
AGAIN = Scenario(number=2, state="none", ends="cut", last=True)
BOOTED = 1_795_000_000
"""When its boot began, by its own clock."""
KEPT_ID = str(DATA / "identity/machine-id")
SEED = str(DATA / "identity/random-seed")
SYSTEM = """\
2 1 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
3 1 0:21 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
4 1 0:22 / /sys rw,nosuid,nodev,noexec,relatime - sysfs sysfs rw
5 1 0:23 / /run rw,nosuid,nodev - tmpfs tmpfs rw,size=100k,nr_inodes=800k,mode=755
6 3 0:24 / /proc/sys/fs/binfmt_misc rw,relatime - autofs systemd-1 rw
7 3 0:25 / /proc/sys/fs/binfmt_misc rw,relatime - binfmt_misc binfmt_misc rw
8 5 0:26 / /run/credentials/systemd-sysctl.service ro,nosuid - ramfs none rw,mode=700
"""
OTHER_SYSTEM = """\
2 1 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
3 1 0:21 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
4 1 0:22 / /sys rw,nosuid,nodev,noexec,relatime - sysfs sysfs rw
5 1 0:23 / /run rw,nosuid,nodev - tmpfs tmpfs rw,size=100k,nr_inodes=800k,mode=755
6 2 0:24 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666
7 2 0:25 / /dev/shm rw,nosuid,nodev,relatime - tmpfs tmpfs rw
"""
"""Where the initrd alone has mounted."""
WHEN = "Sat 2026-11-21 18:36:25 UTC"
JOURNAL = f"{WHEN} systemd[1]: Queued start job for default target graphical.target.\n"
"""What is left of it when the probe has sifted it."""
MIB = 1 << 20
SSHD = f"port 22\naddressfamily any\nhostkey {HOST_KEY}\nhostkeyagent none\nloglevel INFO\n"
WHY_LOST = "no file system after 5 s"
_drawn = itertools.count(1)
"""What the kernel's random numbers are here: never the same twice."""


def content(raw: bytes | str) -> Answer:
    """A `read` that worked."""
    raw = raw.encode() if isinstance(raw, str) else raw
    return {"errno": None, "data": base64.b64encode(raw).decode(), "truncated": False}


def ran(said: str, status: int = 0) -> Answer:
    """A program that ended."""
    return {**content(said), "status": status, "seconds": 0.1, "dropped": 0}


def replaced(old: str, new: str) -> Callable[[Answer], Answer]:
    """A rule: the same answer with one word changed."""

    def lie(true: Answer) -> Answer:
        assert old in text(true), text(true)
        return {**true, **content(text(true).replace(old, new))}

    return lie


def mounted(guest: Guest, path: str, old: str, new: str) -> Guest:
    """The same guest, with one word of one line of its mount table changed."""
    (line,) = [row for row in guest.table.splitlines(keepends=True) if row.split(" ")[4] == path]
    assert line.count(old) == 1, line
    guest.table = guest.table.replace(line, line.replace(old, new))
    return guest


def rejected(guest: Guest) -> dict[str, str]:
    """The checks of a whole boot that this guest breaks, by name, and what was seen."""
    layout, entries, scenario = guest.layout, tuple(guest.entries.values()), guest.scenario
    plan = make_plan(boot_checks(layout, entries, scenario), poweroff("clean"))
    answers = {number: guest(op) for number, op in enumerate(plan.ops[:-1], 1)}
    outcomes = judge(plan, scenario.number, answers)
    return {f"{o.promise}: {o.subject}": o.verdict.seen for o in outcomes if not o.verdict.ok}


def attacked(name: str, answer: str) -> Answer:
    """One attack with an answer of the table."""
    if answer == WRITTEN:
        return {"name": name, "errno": None, "effect": True, "restored": True}
    errno = answer if answer.isupper() else None
    return {"name": name, "errno": errno, "effect": False, **({} if errno else {"skipped": answer})}


def likely(honest: frozenset[str]) -> str:
    """What most kernels say."""
    return next(a for a in (WRITTEN, "EBUSY", "EROFS", *sorted(honest)) if a in honest)


class Guest:
    """Answers each operation; `rules` go first, so that a test can lie about one of them.

    `disk` is what persists, by path; without it the guest has what the boots before it left.
    """

    def __init__(
        self,
        layout: Layout,
        entries: Sequence[Entry],
        scenario: Scenario = COLD,
        disk: Mapping[str, bytes] | None = None,
    ) -> None:
        self.layout, self.scenario, self.systemd = layout, scenario, layout.profile.init == "systemd"
        self.live = as_volatile(layout) if scenario.state == "lost" else layout
        self.entries = {str(e.path): e for e in entries}
        self.rules: dict[str, Rule] = {}
        self.visitor, self.booted = "", BOOTED
        self.files = dict(self.left() if disk is None else disk)
        self.settle()
        self.table = SYSTEM if self.systemd else OTHER_SYSTEM
        self.table += "".join(self.row(i, m) for i, m in enumerate(self.live.mounts, 100))

    # --- what persists ----------------------------------------------------------------------------

    def left(self) -> dict[str, bytes]:
        """What the boot before wrote to the disks that this one has."""
        if not self.scenario.finds_canaries or self.scenario.state in ("none", "reset"):
            return {}
        words = canary_text(self.scenario.number - 1).encode()
        paths = {self.resolve(m.where) for m in self.layout.mounts if m.promise in WRITABLE}
        return {f"{p}/{CANARY}": words for p in paths if self.persists(p)}

    def settle(self) -> None:
        """The initrd and the system make what a machine has of its own, where it has none yet."""
        kept = self.layout.profile.machine_id == "state"
        if kept:
            self.files.setdefault(KEPT_ID, f"{next(_drawn):032x}\n".encode())
        self.files[str(MACHINE_ID)] = self.files[KEPT_ID] if kept else f"{next(_drawn):032x}\n".encode()
        key = str(DATA / "identity/key" if self.layout.profile.state else HOST_KEY)
        self.files.setdefault(key, b"ssh-ed25519 AAAA%d" % next(_drawn))
        self.public_key = self.files[key].decode()
        if self.layout.profile.state and self.systemd:
            self.files[SEED] = b"%0512d" % next(_drawn)

    def resolve(self, path: PurePosixPath) -> PurePosixPath:
        """The path whose mount holds it, behind a writable bind."""
        owner = self.layout.owner(path)
        return self.resolve(P(owner.what) / path.relative_to(owner.where)) if owner.promise is Promise.BIND_RW else path

    def persists(self, path: PurePosixPath) -> bool:
        """Whether a file there is on a disk."""
        return is_within(path, STATE) or self.layout.owner(path).promise in PERSISTENT

    def disk(self) -> dict[str, bytes]:
        """What the next boot on the same disks finds; the machine-id in /etc is made anew from the kept one."""
        return {p: raw for p, raw in self.files.items() if self.persists(P(p)) and P(p) != MACHINE_ID}

    # --- what is mounted --------------------------------------------------------------------------

    def row(self, number: int, mount: Mount) -> str:
        """The line of /proc/1/mountinfo."""
        flags = [o for o in mount.options if o in ("ro", "rw", "nosuid", "nodev", "noexec", "noatime")]
        flags = flags if "ro" in flags or "rw" in flags else ["rw", *flags]
        flags += [] if "noatime" in flags else ["relatime"]
        device, root, fstype, source, settings = self.shows(mount.where, mount)
        where = fstab_field(str(mount.where)).replace("#", "\\043")
        left = f"{number} 1 {device} {fstab_field(root)} {where} {','.join(flags)}"
        return f"{left} - {fstype} {source} {fstab_field(settings)}\n"

    def shows(self, path: PurePosixPath, mount: Mount) -> tuple[str, str, str, str, str]:
        """Device, path in it, type, source and options of the file system at `path` in `mount`."""
        if mount.is_bind:
            what = P(mount.what)
            found = [m for m in self.live.mounts if is_within(what, m.where) and m.where != mount.where]
            under = max(found, key=lambda m: len(m.where.parts))
            device, root, *rest = self.shows(what, under)
            return device, str(P(root) / path.relative_to(mount.where)), rest[0], rest[1], rest[2]
        inner = "/" + str(path.relative_to(mount.where)) if path != mount.where else "/"
        if mount.role is Role.ROOT and is_within(path, P("/run")):
            return "0:23", "/" + str(path.relative_to("/run")), "tmpfs", "tmpfs", "rw,size=100k,nr_inodes=800k,mode=755"
        if mount.role is Role.ROOT:
            return "254:0", inner, "squashfs", "/dev/vda", "ro,errors=continue"
        if mount.type == "ext4":
            number = self.disks().index(mount.what)
            return f"254:{16 * number}", inner, "ext4", f"/dev/vd{ascii_lowercase[number]}", "rw"
        number = self.live.mounts.index(mount) + 40
        settings = [o for o in mount.options if "=" in o and o not in SAFE_OVERLAY]  # which are the kernel's defaults
        settings += ["mode=700", "inode64"] if mount.type == "tmpfs" else []
        return f"0:{number}", inner, mount.type, mount.what, ",".join(["rw", *settings])

    def disks(self) -> list[str]:
        """The devices in the order of their names."""
        return ["", *(store.device for store in persistent_stores(self.layout.profile))]

    # --- the operations ---------------------------------------------------------------------------

    def __call__(self, op: Op) -> Answer:
        """What the probe would answer."""
        args = [os.fsdecode(a) for a in op.args]
        true: Answer = getattr(self, f"op_{op.name}")(*args)
        rule = self.rules.get(str(op), self.rules.get(op.name))
        if callable(rule):
            return rule(true)
        return true if rule is None else rule

    def op_read(self, path: str, most: str = "") -> Answer:
        fixed = {
            "/proc/1/mountinfo": self.table,
            "/sys/class/block/vda/ro": "1\n",
            "/proc/sys/kernel/hostname": self.layout.profile.hostname + "\n",
            str(EVENTS): "".join(f"{line}\n" for line in self.events()),
            f"{HOST_KEY}.pub": f"{self.public_key} root@{self.layout.profile.hostname}\n",
            "/proc/stat": f"cpu  1 2 3\nctxt 4\nbtime {self.booted}\nprocesses 5\n",
            "/proc/cmdline": expected_cmdline(self.layout, ARCHES["amd64"], self.scenario) + "\n",
        }
        if path in fixed:
            return content(fixed[path])
        file = str(self.resolve(P(path)))
        if file in self.files:
            return content(self.files[file])
        if P(path).name == CANARY:
            return {"errno": "ENOENT"}
        if (entry := self.entry(path)) is not None:
            return content(entry.content[: int(most or 1 << 20)])
        if path in TEXTS:
            return content(TEXTS[path])
        units = {unit_name(m.where): m for m in self.layout.mounts}
        return content(self.unit(P(path), units[P(path).name]))

    def unit(self, path: PurePosixPath, mount: Mount) -> str:
        """As rofs made it, or as the fstab-generator does."""
        made = render_unit(self.layout, mount)
        if path.parent != GENERATOR_DIR:
            assert path.parent == UNIT_DIR, path
            return made
        tag, _, name = mount.what.partition("=")
        made = made.replace(f"What={mount.what}\n", f"What=/dev/disk/by-{tag.lower()}/{name}\n") if name else made
        return made.replace(",nofail", "")

    def events(self) -> Iterator[str]:
        """What the initrd says."""
        state, stores = self.scenario.state, persistent_stores(self.layout.profile)
        seeded = "kept" if state in ("used", "kept") else "seeded"
        lost = {s.name for s in stores} if state == "lost" else set()
        if "state" in lost:
            yield f"state: volatile, {WHY_LOST}"
        yield from (f"{m.where}: {seeded}" for m in self.layout.mounts if m.promise is Promise.BIND_STATE)
        if self.layout.profile.state:
            yield f"state: { {'kept': 'used', 'lost': 'new'}.get(state, state) }"
        for mount in self.layout.mounts:
            if mount.promise is Promise.PARTITION:
                yield from (f"{name}: volatile, {WHY_LOST}" for name in lost & {str(mount.where)})
                yield f"{mount.where}: {seeded}"

    def entry(self, path: str) -> Entry | None:
        """What was generated for a path, also where the image itself is looked at."""
        inside = is_within(P(path), IMAGE)
        return self.entries.get(str(P("/") / P(path).relative_to(IMAGE)) if inside else path)

    def op_lstat(self, path: str) -> Answer:
        if path.startswith("/dev/vd"):
            return {
                "errno": None,
                "type": "block",
                "rdev_major": 254,
                "rdev_minor": 16 * ascii_lowercase.index(path[-1]),
            }
        if path.startswith(str(GENERATOR_DIR)):
            return {"errno": None, "type": "file" if P(path).parent == GENERATOR_DIR else "link"}
        if path == str(RUN):
            return {"errno": None, "type": "dir", "mode": 0o700, "uid": 0, "gid": 0, "mtime": self.booted + 2}
        if path in (str(HOST_KEY), SEED):
            return {"errno": None, "type": "file", "mode": 0o600, "uid": 0, "gid": 0, "size": 512}
        mount, entry = self.live.mount_at(P(path)), self.entry(path)
        if entry is not None and (mount is None or mount.role is Role.ISLAND):
            kind = {"file": "file", "dir": "dir", "symlink": "link"}[entry.kind]
            facts = {"type": kind, "mode": entry.mode, "uid": entry.uid, "gid": entry.gid, "size": len(entry.content)}
            facts["ino"] = crc32(bytes(entry.path))
            return {"errno": None, **facts, **({"target": quote(entry.target)} if entry.kind == "symlink" else {})}
        if mount is None and (is_within(P(path), BACKING) or is_within(P(path), DATA)):
            return {"errno": "ENOENT"}  # an upper directory has nothing that was generated
        assert mount is not None, path
        kind = "file" if mount.role is Role.IDENTITY else "dir"
        mode = 0o755 if mount.mode is None else mount.mode
        return {"errno": None, "type": kind, "mode": mode, "uid": mount.uid or 0, "gid": mount.gid or 0}

    def op_files(self, most: str, *paths: str) -> Answer:
        files, rows = [], parse_mountinfo(self.table)
        for path in paths:
            stat = dict(self(lstat(path)))
            for row in (r for r in rows if r.where == P(path)):
                major, _, minor = row.device.partition(":")
                stat = {"dev_major": int(major), "dev_minor": int(minor), **stat}
            inside = {"read": self(read(path, int(most)))} if most != "0" and stat.get("type") == "file" else {}
            files.append({"path": quote(path), **stat, **inside})
        return {"files": files}

    def op_statvfs(self, path: str) -> Answer:
        mount = self.live.owner(P(path))
        flags = ["relatime"] if self.live.is_writable(P(path)) else ["ro", "relatime"]
        blocks = (mount.size_bytes or 4096) // 4096
        sizes = {"frsize": 4096, "blocks": blocks, "bavail": blocks - 1, "files": mount.inodes or 0}
        return {"errno": None, "flags": flags, **sizes}

    def op_list(self, path: str) -> Answer:
        found = ["lost+found", DATA.name] if path == str(STATE) else ["a", "b%20c"]
        real = self.resolve(P(path))
        found += [P(file).name for file in self.files if P(file).parent == real]
        return {"errno": None, "names": found, "types": "f" * len(found), "truncated": False}

    def op_compare(self, path: str, reference: str, upper: str = "") -> Answer:
        where = P("/") / P(reference).relative_to(IMAGE)
        if upper:
            written = where in MACHINE_ID.parents and self.layout.mount_at(MACHINE_ID) is None
            entries = (
                [
                    {
                        "path": "machine-id",
                        "how": "differs",
                        "what": ["size", "content", "mtime"],
                        "mtime": self.booted + 3,
                    }
                ]
                if written
                else []
            )
        else:
            inner = [m.where for m in self.live.mounts if P(path) in m.where.parents]
            entries = [{"path": str(p.relative_to(path)), "how": "differs", "what": ["mount"]} for p in inner]
        counts = {"compared": 9, "equal": 9 - len(entries), "files": 5}
        return {"errno": None, "entries": entries, **counts, "truncated": False}

    def op_exists(self, path: str) -> Answer:
        return {"errno": None, "exists": path in self.files}

    def op_write(self, _: str) -> Answer:
        return {**dict.fromkeys(("create", "write", "read_back", "rename", "unlink")), "writable": True}

    def op_brim(self, _: str, *paths: str) -> Answer:
        mounts = [
            {
                "path": quote(path), "errno": "ENOSPC", "memory": False, "how": "fallocate", "left": 0,
                "fitted": (mount.size_bytes or 0) - 4096, "size": mount.size_bytes or 0, "inodes": mount.inodes or 0,
            }
            for path in paths if (mount := self.live.mount_at(P(path)))
        ]  # fmt: skip
        memory = {"total": 470 * MIB, "before": 400 * MIB, "available": 200 * MIB, "oom_kills": 0}
        return {"mounts": mounts, **memory}

    def op_marked(self, *pairs: str) -> Answer:
        trees: list[Answer] = [
            {"root": quote(path), "errno": None, "looked": 5, "truncated": False, "found": []} for path in pairs[::2]
        ]
        return {"trees": trees}

    def op_running(self, _timeout: str) -> Answer:
        return {"errno": None, "state": "running", "jobs": [], "seconds": 0.1}

    def op_units(self, *named: str) -> Answer:
        runs = {"load": "loaded", "active": "active", "sub": "running", "description": "x"}
        service = {**runs, "NRestarts": "0", "Result": "success", "ExecMainStatus": "0"}
        names = (unit_name(m.where) for m in self.live.mounts)
        units = [
            {"name": name, **runs, "sub": "mounted", "FragmentPath": quote(f"{UNIT_DIR}/{name}")} for name in names
        ]
        units += [{"name": name, **service} for name in (*named, PROBE_UNIT)]
        return {"errno": None, "units": units, "names": {quote(name): quote(name) for name in named}}

    def op_timers(self, _timeout: str) -> Answer:
        return {"errno": None, "started": [{"unit": "fstrim.service", "error": "", "waiting": False}], "seconds": 0.4}

    def op_klog(self, *_words: str) -> Answer:
        return {"errno": None, "found": [], "lines": 362, "truncated": False}

    def op_listeners(self, _timeout: str, *wanted: str) -> Answer:
        rows = [
            {"proto": proto, "address": "0.0.0.0", "port": int(port), "loopback": False, "pid": 9, "program": "x"}
            for proto, _, port in (name.partition("/") for name in wanted or ("tcp/22",))
        ]
        return {"errno": None, "sockets": rows, "truncated": False}

    def op_sift(self, _timeout: str, count: str, *rest: str) -> Answer:
        assert rest[int(count)] == "journalctl", rest
        return {**ran(JOURNAL), "lines": 511}

    def op_fillinodes(self, _: str, count: str) -> Answer:
        return {"errno": "ENOSPC", "made": int(count) - 3, "removed": None}

    def op_canary(self, path: str, words: str) -> Answer:
        self.files[str(self.resolve(P(path)))] = words.encode()
        return {"errno": None}

    def op_sync(self) -> Answer:
        return {"errno": None}

    def op_settle(self, _timeout: str, _quiet: str) -> Answer:
        facts = {"settled": True, "waited_ms": 2600, "processes": 40, "pid1_args": ["init"], "uptime_ms": 5800}
        return {"errno": None, "pid1": "/usr/bin/busybox", **facts}

    def op_exec(self, _timeout: str, command: str) -> Answer:
        if command == "mount -a":
            return ran("")
        return ran(f"{self.visitor}\n" if "rofs-login" in command else "fine\n")

    def op_attack(self, path: str, option: str = "") -> Answer:
        owner, only = self.live.owner(P(path)), option.removeprefix("only=")
        weak = owner.promise is Promise.BIND_RO and self.live.is_writable(P(owner.what))
        rows = [row for row in ATTACKS.values() if "dir" in row.kinds and only in ("", row.name)]
        mount_point = self.live.mount_at(P(path)) is not None
        honest = {r.name: r.honest("mount-ro" if weak else "image-ro", "dir", mount_point=mount_point) for r in rows}
        return {"errno": None, "type": "dir", "attacks": [attacked(name, likely(h)) for name, h in honest.items()]}

    def op_blkwrite(self, _: str) -> Answer:
        return {"open": None, "read": None, "write": "EPERM", "fsync": None, "roget": None, "read_only": 1}

    def op_run(self, _timeout: str, *argv: str) -> Answer:
        profile, last = self.layout.profile, argv[-1]
        assert self.systemd or argv[0] in ("sshd", "ssh-keygen"), f"no {argv[0]} beside busybox"
        match argv[:2]:
            case ("getent", "hosts"):
                return ran(f"127.0.1.1 {last}\n")
            case ("getent", "passwd"):
                users = [u for u in profile.users if u.name in argv[2:]]
                rows = (f"{u.name}:x:{u.uid}:{u.primary_gid}:{u.comment}:{u.home_path}:{u.shell}\n" for u in users)
                return ran("".join(rows))
            case ("getent", "group"):
                groups = {g for u in profile.users for g in u.groups}
                return ran(
                    "".join(f"{g}:x:5:{','.join(u.name for u in profile.users if g in u.groups)}\n" for g in groups)
                )
            case ("sshd", "-T"):
                return ran(SSHD)
            case ("ssh-keygen", "-y"):
                return ran(f"{self.public_key}\n")
        assert argv[0] == "findmnt", argv
        return ran("Success, no errors or warnings detected\n")

    def ask(self, check: Check) -> Verdict:
        """The judgement of one check."""
        return check.judge([self(op) for op in (*check.recalls, *check.ops)])
