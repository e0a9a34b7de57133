# SPDX-License-Identifier: MIT
"""Mounts that are not what was declared: missing, of another kind, uncapped, with other flags, leaking."""

from __future__ import annotations

from collections.abc import Mapping

from tests.mutants.edits import (
    UNITS,
    drop_in,
    initrd_mounts,
    no_line,
    put_link,
    replaced,
    service,
    when_written,
)
from tests.mutants.mutation import Edit, Mutation

VAR_UNIT, VAR_LINK = f"{UNITS}/var.mount", f"{UNITS}/local-fs.target.requires/var.mount"
TMP_UNIT, FSTAB = f"{UNITS}/tmp.mount", "/etc/fstab"
SIZE = "size=32768k,"
BUSYBOX_TMP = "mount -t tmpfs -o rw,nosuid,nodev,noexec,size=4096k,nr_inodes=512,mode=1777 tmpfs /sysroot/tmp"
BUSYBOX_BACKING = "rw,nosuid,nodev,size=4096k,nr_inodes=512,mode=0700"
TMP, VAR = "mount: /tmp (tmpfs)", "mount: /var (overlay-tmpfs)"


def both(old: str, new: str, unit: str = TMP_UNIT) -> dict[str, Edit]:
    """The same edit of a unit and of fstab, so that the two agree."""
    return {unit: replaced(old, new), FSTAB: replaced(old, new)}


MOUNTS: Mapping[str, Mutation] = {
    "a unit is gone": Mutation(
        drop=[VAR_UNIT, VAR_LINK],
        names=["unit: var.mount", "generated: mounts[0]: "],
        seen=["PID 1 uses /run/systemd/generator/var.mount"],
        sample=True,
    ),
    "a mount is missing": Mutation(
        drop=[VAR_UNIT, VAR_LINK],
        edit={FSTAB: no_line("overlay /var ")},
        names=[VAR, "unit: var.mount", "fstab: /etc/fstab", "writable: /var"],
        seen=["nothing is mounted on /var"],
    ),
    "a mount that may be missing": Mutation(
        drop=[VAR_LINK],
        put=[put_link(f"{UNITS}/local-fs.target.wants/var.mount", "../var.mount")],
        names=["generated: mounts[0]: "],
    ),
    "ramfs for tmpfs": Mutation(
        profile="busybox",
        init=replaced(BUSYBOX_TMP, "mount -t ramfs -o rw,nosuid,nodev,noexec,mode=1777 tmpfs /sysroot/tmp"),
        names=[TMP, "size cap: /tmp", "inode cap: /tmp"],
    ),
    "ramfs for tmpfs, by a drop-in": Mutation(
        put=[drop_in("tmp.mount", "[Mount]\nType=ramfs\nOptions=rw,nosuid,nodev,mode=1777\n")],
        names=[TMP, "size cap: /tmp"],
    ),
    "an overlay for a tmpfs": Mutation(
        profile="busybox",
        init=replaced(
            BUSYBOX_TMP,
            "mkdir -p -m 1777 /run/other/up /run/other/work && mount -t overlay -o rw,nosuid,nodev,noexec,"
            "lowerdir=/sysroot/tmp,upperdir=/run/other/up,workdir=/run/other/work tmpfs /sysroot/tmp",
        ),
        names=[TMP, "size cap: /tmp"],
    ),
    "a tmpfs from another source": Mutation(
        put=[drop_in("tmp.mount", "[Mount]\nWhat=other\n")],
        names=[TMP],
        seen=["source is other, not tmpfs"],
    ),
    "size cap gone": Mutation(
        edit=both(SIZE, ""),
        names=["size cap: /tmp", TMP, "unit: tmp.mount"],
        seen=["size is not set, not 32768k"],
        sample=True,
    ),
    "inode cap gone": Mutation(
        edit=both("nr_inodes=8192,", ""),
        names=["inode cap: /tmp", TMP],
    ),
    "caps of an overlay's memory gone": Mutation(
        profile="busybox",
        init=replaced(BUSYBOX_BACKING, "rw,nosuid,nodev,mode=0700"),
        names=["mount: /run/rofs/tmpfs/var (backing)", "size cap: /var", "inode cap: /var"],
    ),
    "a cap doubled in unit and fstab": Mutation(
        edit=both(SIZE, "size=65536k,"),
        names=["size cap: /tmp", TMP, "unit: tmp.mount", "fstab: /etc/fstab"],
    ),
    "without nosuid": Mutation(
        edit=both("nosuid,nodev,size=32768k", "nodev,size=32768k"),
        names=[TMP],
    ),
    "without nodev": Mutation(
        profile="busybox", init=replaced("rw,nosuid,nodev,noexec,size", "rw,nosuid,noexec,size"), names=[TMP]
    ),
    "without noexec": Mutation(
        profile="appliance",
        edit=both("nosuid,nodev,noexec,size", "nosuid,nodev,size", f"{UNITS}/var-cache.mount"),
        names=["mount: /var/cache (tmpfs)"],
    ),
    "state without nosuid": Mutation(
        profile="busybox",
        init=replaced("attach LABEL=state ext4 rw,nosuid,nodev,noatime", "attach LABEL=state ext4 rw,nodev,noatime"),
        names=["mount: /run/rofs/state (state)"],
    ),
    "read-only for writable": Mutation(
        edit=both("rw,nosuid,nodev,size=32768k", "ro,nosuid,nodev,size=32768k"),
        names=[TMP, "writable: /tmp"],
    ),
    "writable for read-only: an island": Mutation(
        profile="appliance",
        init=replaced("/sysroot/etc/passwd ro;", "/sysroot/etc/passwd rw;"),
        names=["mount: /etc/passwd (pinned-ro)"],
    ),
    "writable for read-only: a bind": Mutation(
        profile="appliance",
        put=service("mount -o remount,bind,rw /srv/licences"),
        names=["mount: /srv/licences (bind-ro)"],
    ),
    "a bind of another directory": Mutation(
        profile="appliance",
        put=[drop_in("opt-appliance-data.mount", "[Mount]\nWhat=/var/lib/misc\n")],
        names=["mount: /opt/appliance/data (bind-rw)"],
        seen=["shows /lib/misc of"],
    ),
    "a bind that brings the mounts below along": Mutation(
        profile="busybox",
        init=replaced('mount -o bind "$1" "$2"', 'mount -o rbind "$1" "$2"'),
        names=["nothing undeclared: mount table"],
        seen=["/run/rofs/image/run"],
    ),
    "a bind that propagates": Mutation(
        profile="appliance",
        put=[drop_in("opt-appliance-data.mount", "[Mount]\nOptions=\nOptions=bind,rw,nosuid,nodev\n")],
        names=["mount: /opt/appliance/data (bind-rw)"],
    ),
    "mounted twice": Mutation(
        put=service("mount -t tmpfs -o nosuid,nodev,size=32768k,nr_inodes=8192,mode=1777 tmpfs /tmp"),
        names=[TMP],
        seen=["mounted 2 times"],
    ),
    "fstab says something else than the unit": Mutation(
        edit={FSTAB: replaced(SIZE, "size=65536k,")},
        names=["fstab: /etc/fstab", "unit: tmp.mount"],
        seen=["another /etc/fstab", "size=65536k"],
    ),
    "the unit says something else than fstab": Mutation(
        edit={TMP_UNIT: replaced(SIZE, "size=65536k,")},
        names=["unit: tmp.mount", TMP, "generated: mounts[1]: "],
    ),
    "the mount is something else than the unit": Mutation(
        put=[drop_in("tmp.mount", "[Mount]\nOptions=rw,nosuid,nodev,size=65536k,nr_inodes=8192,mode=1777\n")],
        names=[TMP, "size cap: /tmp"],
        seen=["size is 65536k, not 32768k"],
    ),
    "mounted again with other options": Mutation(
        put=service("mount -o remount,size=65536k /tmp"),
        names=[TMP, "size cap: /tmp"],
    ),
    "mounted again with other options during the checks": Mutation(
        put=when_written("/var", "mount -o remount,suid,dev,size=90% /tmp"),
        names=["nothing undeclared: mount table after all checks"],
    ),
    "unmounted during the checks": Mutation(
        put=when_written("/var", "umount -l /tmp"),
        names=["nothing undeclared: mount table after all checks"],
    ),
    "read-only before the end of the checks": Mutation(
        put=when_written("/var", "until mount -o remount,ro /tmp; do sleep 0.1; done"),
        names=["canary: /tmp"],
    ),
    "another mode": Mutation(
        profile="busybox",
        init=replaced("nr_inodes=512,mode=1777", "nr_inodes=512,mode=0777"),
        names=[TMP],
        seen=["mode is 0777, not 1777"],
    ),
    "an overlay's memory open to all": Mutation(
        profile="busybox",
        init=replaced(BUSYBOX_BACKING, BUSYBOX_BACKING.replace("0700", "0755")),
        names=["mount: /run/rofs/tmpfs/var (backing)"],
    ),
    "a second mount on a path of the system": Mutation(
        put=service("mount -t tmpfs tmpfs /run/lock"),
        names=["nothing undeclared: mount table"],
    ),
    "memory hidden where credentials are": Mutation(
        put=service(
            "mkdir -p /run/credentials/mutant.service; mount -t tmpfs -o size=90% tmpfs /run/credentials/mutant.service"
        ),
        names=["nothing undeclared: mount table"],
    ),
    "a tmpfs nobody declared, inside a writable directory": Mutation(
        profile="busybox",
        init=initrd_mounts("mkdir /sysroot/var/more", "mount -t tmpfs more /sysroot/var/more"),
        names=["nothing undeclared: mount table"],
    ),
}
