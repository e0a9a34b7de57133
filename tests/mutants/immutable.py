# SPDX-License-Identifier: MIT
"""What the image holds and nobody may change: shadowed, writable, movable, early and late, and the disk below it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TypedDict

from rofs.entry import Entry
from tests.mutants.edits import UNITS, initrd_mounts, no_line, no_mount, replaced, service, unit, when_written
from tests.mutants.mutation import Edit, Mutation

SETRO = 'blockdev --setro "$root" && [ "$(blockdev --getro "$root")" = 1 ] ||'
TABLE, LATE_TABLE = "nothing undeclared: mount table", "nothing undeclared: mount table after all checks"
AT_THE_END = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'blockdev --setrw /dev/vda; dd if=/dev/vda of=/dev/vda bs=4096 count=1 conv=notrunc,fsync'
"""
TIMER = "[Timer]\nOnBootSec=60\nAccuracySec=1s\n"
TIMED = "[Service]\nType=oneshot\nExecStart=/bin/mount -t tmpfs late /usr/local\n"


class Never(TypedDict):
    """Part of a mutation."""

    drop: list[str]
    edit: dict[str, Edit]


def never_mounted(line: str, name: str) -> Never:
    """Neither unit nor line of fstab, or PID 1 would make up for what the initrd leaves out."""
    return {
        "drop": [f"{UNITS}/{name}", f"{UNITS}/local-fs.target.requires/{name}"],
        "edit": {"/etc/fstab": no_line(line)},
    }


IMMUTABLE: Mapping[str, Mutation] = {
    "an overlay over an immutable path, early": Mutation(
        init=initrd_mounts(
            "mkdir -p /run/evil/upper /run/evil/work && cd /run/evil",
            "mount -t overlay -o lowerdir=/sysroot/usr,upperdir=upper,workdir=work evil /sysroot/usr && cd /",
        ),
        names=["immutable: /usr", TABLE],
        seen=["create had an effect", "/usr (overlay evil"],
        sample=True,
    ),
    "a bind over an undeclared directory, early": Mutation(
        init=initrd_mounts("mkdir /run/evil", "mount -o bind /run/evil /sysroot/opt"),
        names=["immutable: /opt", TABLE],
        seen=["create had an effect", "/opt (tmpfs tmpfs[/evil]"],
    ),
    "a tmpfs over an undeclared directory, early": Mutation(
        init=initrd_mounts("mount -t tmpfs evil /sysroot/srv"),
        names=["immutable: /srv", TABLE],
    ),
    "a tmpfs below an immutable path, by a unit": Mutation(
        put=unit("usr-local.mount", "[Mount]\nWhat=tmpfs\nWhere=/usr/local\nType=tmpfs\n", "local-fs.target"),
        names=[TABLE],
        seen=["/usr/local (tmpfs tmpfs"],
    ),
    "an immutable path writable elsewhere": Mutation(
        profile="busybox",
        init=initrd_mounts(
            "mkdir -p /run/evil/upper /run/evil/work /run/evil/all && cd /run/evil",
            "mount -t overlay -o lowerdir=/sysroot,upperdir=upper,workdir=work evil /run/evil/all && cd /",
        ),
        names=[TABLE],
    ),
    "a mount made during the attacks": Mutation(
        put=when_written("/var", "mount -t tmpfs late /srv"),
        names=[LATE_TABLE],
        seen=["/srv (tmpfs late"],
    ),
    "an immutable path shadowed during the attacks": Mutation(
        put=when_written("/var", "mount -t tmpfs late /usr/local"),
        names=[LATE_TABLE],
    ),
    "an immutable path shadowed by a timer a minute after the boot": Mutation(
        put=[*unit("mutant.timer", TIMER, "timers.target"), *unit("mutant.service", TIMED, "never.target")],
        names=[LATE_TABLE],
        seen=["/usr/local (tmpfs late"],
        sample=True,
    ),
    "an island whose ancestor can be renamed": Mutation(
        profile="appliance",
        **never_mounted("/etc/security /etc/security ", "etc-security.mount"),
        init=no_mount("/etc/security"),
        names=["immutable: /etc/security/limits.d", "pinned: /etc/security", "mount: /etc/security (pin)"],
        sample=True,
    ),
    "an island is not there": Mutation(
        profile="appliance",
        **never_mounted("/run/rofs/image/etc/shadow ", "etc-shadow.mount"),
        init=no_mount("/etc/shadow"),
        names=["immutable: /etc/shadow", "mount: /etc/shadow (pinned-ro)"],
    ),
    "an island bound to something writable": Mutation(
        profile="appliance",
        init=initrd_mounts(
            "umount /sysroot/etc/shadow && cp -a /run/rofs/image/etc/shadow /run/evil",
            "mount -o bind /run/evil /sysroot/etc/shadow",
        ),
        names=["immutable: /etc/shadow", "mount: /etc/shadow (pinned-ro)"],
        seen=["open-write had an effect", "/etc/shadow of "],
    ),
    "an island that is a read-only copy": Mutation(
        profile="appliance",
        init=replaced("bind /run/rofs/image/etc/shadow /sysroot", "cp -a /run/rofs/image/etc/shadow /run/copy && "
                      "bind /run/copy /sysroot"),
        names=["immutable: /etc/shadow", "mount: /etc/shadow (pinned-ro)"],
    ),
    "an island that shows something else of the image": Mutation(
        profile="appliance",
        init=replaced("image/etc/security/limits.d /s", "image/etc/security/namespace.d /s"),
        names=["mount: /etc/security/limits.d (pinned-ro)"],
    ),
    "the root's device writable": Mutation(
        init=replaced(SETRO, "true ||"),
        names=["immutable: /", "immutable: /usr", "block device: /dev/vda"],
        seen=["image-ro on a writable device"],
        sample=True,
    ),
    "the root's device made writable again by a service": Mutation(
        put=service("blockdev --setrw /dev/vda"),
        names=["immutable: /", "block device: /dev/vda"],
    ),
    "the root's device made writable again during the attacks": Mutation(
        put=when_written("/var", "blockdev --setrw /dev/vda"),
        names=["block device: /dev/vda"],
    ),
    "the image's disk written at shutdown": Mutation(
        put=unit("mutant.service", AT_THE_END),
        names=["image: root disk never written"],
    ),
    "the image's disk written before it is read-only": Mutation(
        profile="busybox",
        init=replaced(SETRO, f'dd if="$root" of="$root" bs=4096 count=1 conv=notrunc,fsync 2>/dev/null; {SETRO}'),
        names=["image: root disk never written"],
    ),
    "the whole root an overlay": Mutation(
        profile="busybox",
        init=replaced(
            'mount -t squashfs -o ro "$root" /sysroot ||',
            'mount -t squashfs -o ro "$root" /sysroot && mkdir /all && mount -t tmpfs all /all && '
            "mkdir /all/upper /all/work && mount -t overlay -o "
            "lowerdir=/sysroot,upperdir=/all/upper,workdir=/all/work all /sysroot ||",
        ),
        names=["mount: / (image-ro)", "immutable: /"],
    ),
    "a writable directory beside all others": Mutation(
        put=[
            Entry(path=PurePosixPath("/data"), kind="dir", mode=0o755),
            *unit("data.mount", "[Mount]\nWhat=tmpfs\nWhere=/data\nType=tmpfs\n", "local-fs.target"),
        ],
        names=[TABLE],
        seen=["/data (tmpfs tmpfs"],
    ),
}  # fmt: skip
