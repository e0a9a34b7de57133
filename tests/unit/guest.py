# SPDX-License-Identifier: MIT
"""A guest that keeps every promise of a layout, as the probe would report it; tests break it in one place."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from layouts import P

from rofs.entry import Entry
from rofs.generate.escape import fstab_field, unit_name
from rofs.generate.mounts import render_fstab, render_unit
from rofs.layout import UNIT_DIR, Layout, Mount, Promise, Role, image_path, is_within
from rofs.verify.check import Check, Verdict
from rofs.verify.mounts import GENERATOR_DIR
from rofs.verify.probe_wire import Op, quote
from rofs.verify.volatile import CANARY

Answer = dict[str, Any]
SYSTEM = """\
2 1 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
3 1 0:21 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
4 1 0:22 / /sys rw,nosuid,nodev,noexec,relatime - sysfs sysfs rw
5 1 0:23 / /run rw,nosuid,nodev - tmpfs tmpfs rw,size=100k,nr_inodes=800k,mode=755
6 3 0:24 / /proc/sys/fs/binfmt_misc rw,relatime - autofs systemd-1 rw
7 3 0:25 / /proc/sys/fs/binfmt_misc rw,relatime - binfmt_misc binfmt_misc rw
8 5 0:26 / /run/credentials/systemd-sysctl.service ro,nosuid - ramfs none rw,mode=700
"""
JOURNAL = "systemd 252 running\nQueued start job for default target graphical.target.\nReached target\n"
ATTACKS = (
    "create", "mkdir", "open-write", "unlink", "rename", "rename-self", "chmod", "remount", "rename-over",
    "rename-parents",
)  # fmt: skip
OTHER_ERRNO = {"remount": None, "rename-over": "EXDEV", "rename-self": "EBUSY", "rename-parents": "EBUSY"}


def content(raw: bytes | str) -> Answer:
    """A `read` that worked."""
    raw = raw.encode() if isinstance(raw, str) else raw
    return {"errno": None, "data": base64.b64encode(raw).decode(), "truncated": False}


def ran(said: str, status: int = 0) -> Answer:
    """A program that ended."""
    return {**content(said), "status": status, "seconds": 0.1, "dropped": 0}


class Guest:
    """Answers each operation; `rules` go first, so that a test can lie about one of them."""

    def __init__(self, layout: Layout, entries: Sequence[Entry], boot: int = 1) -> None:
        self.layout, self.boot = layout, boot
        self.entries = {str(e.path): e for e in entries}
        self.rules: dict[str, Answer | Callable[[Answer], Answer]] = {}
        self.table = SYSTEM + "".join(self.row(i, m) for i, m in enumerate(layout.mounts, 100))

    def row(self, number: int, mount: Mount) -> str:
        """The line of /proc/1/mountinfo."""
        flags = [o for o in mount.options if o in ("ro", "rw", "nosuid", "nodev", "noexec", "noatime")]
        flags = flags if "ro" in flags or "rw" in flags else ["rw", *flags]
        device, root, fstype, source, settings = self.shows(mount.where, mount)
        where = fstab_field(str(mount.where)).replace("#", "\\043")
        left = f"{number} 1 {device} {fstab_field(root)} {where} {','.join(flags)},relatime"
        return f"{left} - {fstype} {source} {fstab_field(settings)}\n"

    def shows(self, path: PurePosixPath, mount: Mount) -> tuple[str, str, str, str, str]:
        """Device, path in it, type, source and options of the file system at `path` in `mount`."""
        if mount.is_bind:
            what = P(mount.what)
            found = [m for m in self.layout.mounts if is_within(what, m.where) and m.where != mount.where]
            under = max(found, key=lambda m: len(m.where.parts))
            device, root, *rest = self.shows(what, under)
            return device, str(P(root) / path.relative_to(mount.where)), rest[0], rest[1], rest[2]
        inner = "/" + str(path.relative_to(mount.where)) if path != mount.where else "/"
        if mount.role is Role.ROOT:
            return "254:0", inner, "squashfs", "/dev/vda", "ro,errors=continue"
        number = self.layout.mounts.index(mount) + 40
        settings = [o for o in mount.options if "=" in o] + (["mode=700", "inode64"] if mount.type == "tmpfs" else [])
        return f"0:{number}", inner, mount.type, mount.what, ",".join(["rw", *settings])

    def __call__(self, op: Op) -> Answer:
        """What the probe would answer."""
        args = [os.fsdecode(a) for a in op.args]
        true: Answer = getattr(self, f"op_{op.name}")(*args)
        rule = self.rules.get(str(op), self.rules.get(op.name))
        if callable(rule):
            return rule(true)
        return true if rule is None else rule

    def op_read(self, path: str, _most: str = "") -> Answer:
        fixed = {
            "/proc/1/mountinfo": self.table,
            "/sys/class/block/vda/ro": "1\n",
            "/proc/sys/kernel/hostname": self.layout.profile.hostname + "\n",
            "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        }
        if path in self.entries and path not in fixed:
            return content(self.entries[path].content[: int(_most or 1 << 20)])
        for mount in self.layout.mounts:
            if path == str(UNIT_DIR / unit_name(mount.where)):
                return content(render_unit(self.layout, mount))
            if path == str(GENERATOR_DIR / unit_name(mount.where)):
                return content(render_unit(self.layout, mount).replace(",nofail", ""))
        return content(render_fstab(self.layout)) if path == "/etc/fstab" else content(fixed[path])

    def op_lstat(self, path: str) -> Answer:
        if path == "/dev/vda":
            return {"errno": None, "type": "block", "rdev_major": 254, "rdev_minor": 0}
        if path.startswith(str(GENERATOR_DIR)):
            return {"errno": None, "type": "link"}
        mount = self.layout.mount_at(P(path))
        if path in self.entries and (mount is None or mount.role is Role.ISLAND):
            entry = self.entries[path]
            kind = {"file": "file", "dir": "dir", "symlink": "link"}[entry.kind]
            facts = {"type": kind, "mode": entry.mode, "uid": entry.uid, "gid": entry.gid, "size": len(entry.content)}
            return {"errno": None, **facts, **({"target": quote(entry.target)} if entry.kind == "symlink" else {})}
        assert mount is not None, path
        return {"errno": None, "type": "dir", "mode": mount.mode, "uid": mount.uid, "gid": mount.gid}

    def op_statvfs(self, path: str) -> Answer:
        mount = self.layout.owner(P(path))
        flags = ["relatime"] if self.layout.is_writable(P(path)) else ["ro", "relatime"]
        blocks = (mount.size_bytes or 4096) // 4096
        return {"errno": None, "flags": flags, "frsize": 4096, "blocks": blocks, "files": mount.inodes or 0}

    def op_list(self, path: str) -> Answer:
        canary = [CANARY] if self.boot == 1 and not path.startswith(image_path(P("/"))) else []
        return {"errno": None, "names": ["a", "b%20c", *canary], "types": "fff", "truncated": False}

    def op_write(self, _: str) -> Answer:
        return {**dict.fromkeys(("create", "write", "read_back", "rename", "unlink")), "writable": True}

    def op_fill(self, _: str, size: str) -> Answer:
        return {"errno": "ENOSPC", "fitted": int(size) - 4096, "how": "write"}

    def op_fillinodes(self, _: str, count: str) -> Answer:
        return {"errno": "ENOSPC", "made": int(count) - 3, "removed": None}

    def op_canary(self, *_: str) -> Answer:
        return {"errno": None}

    def op_sync(self) -> Answer:
        return {"errno": None}

    def op_exec(self, *_: str) -> Answer:
        return ran("fine\n")

    def op_attack(self, path: str) -> Answer:
        owner = self.layout.owner(P(path))
        attacks = [{"name": n, "errno": OTHER_ERRNO.get(n, "EROFS"), "effect": False} for n in ATTACKS]
        if owner.promise is Promise.BIND_RO and "/var" in owner.what:
            attacks[ATTACKS.index("remount")]["effect"] = True
        attacks.append({"name": "setxattr-user", "errno": None, "effect": False, "skipped": "no victim"})
        return {"errno": None, "type": "dir", "attacks": attacks}

    def op_run(self, _timeout: str, *argv: str) -> Answer:  # noqa: PLR0911 - a table of programs
        profile, last = self.layout.profile, argv[-1]
        match argv[:2]:
            case ("systemctl", "is-system-running"):
                return ran("running\n")
            case ("systemctl", "list-jobs" | "list-units"):
                return ran("")
            case ("systemctl", "is-active" | "status"):
                return ran("active\n")
            case ("systemctl", "show"):
                return ran(f"FragmentPath={UNIT_DIR / last}\nActiveState=active\nLoadState=loaded\n")
            case ("journalctl", _):
                return ran(JOURNAL)
            case ("getent", "hosts"):
                return ran(f"127.0.1.1 {last}\n")
            case ("getent", "passwd"):
                user = next(u for u in profile.users if u.name == last)
                return ran(f"{last}:x:{user.uid}:{user.uid}:{user.comment}:/home/{last}:{user.shell}\n")
            case ("id", _):
                user = next(u for u in profile.users if u.name == last)
                return ran(" ".join((last, *user.groups)) + "\n")
        assert argv[0] == "findmnt", argv
        return ran("Success, no errors or warnings detected\n")

    def ask(self, check: Check) -> Verdict:
        """The judgement of one check."""
        return check.judge([self(op) for op in check.ops])
