# SPDX-License-Identifier: MIT
"""Layout -> fstab and mount units: one table in two spellings, for people and for PID 1."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal

from rofs.entry import Entry
from rofs.errors import render_key_path
from rofs.generate.escape import unit_name
from rofs.generate.render import render
from rofs.layout import UNIT_DIR, Layout, Mount, Role, Stage

_PLAIN = re.compile(r"[^\s,%'\"\\]+")


def unit_options(mount: Mount) -> str:
    """Options= of the unit. x-initrd.mount keeps systemd from unmounting what it did not mount."""
    extra = (*(() if mount.required else ("nofail",)), *_initrd(mount))
    return ",".join((*mount.options, *extra))


def fstab_options(mount: Mount, init: Literal["systemd", "other"]) -> str:
    """The same, and the dependencies which systemd cannot see (note 7).

    Not one whose path would end at a comma or blank there: the unit says it too, and the unit wins.
    For another init all is mounted already, and busybox mishandles `x-`: a line is there to be read.
    """
    if init == "other":
        return ",".join((*mount.options, "noauto"))
    plain = (need for need in unit_needs(mount) if _PLAIN.fullmatch(str(need)))
    wants = tuple(f"x-systemd.requires-mounts-for={need}" for need in plain)
    return ",".join((unit_options(mount), *wants))


def unit_needs(mount: Mount) -> tuple[PurePosixPath, ...]:
    """RequiresMountsFor=: only for what PID 1 mounts; the rest is there before it."""
    return mount.needs if mount.stage is Stage.SYSTEMD else ()


def _initrd(mount: Mount) -> tuple[str, ...]:
    return ("x-initrd.mount",) if mount.stage is Stage.INITRD else ()


def render_fstab(layout: Layout) -> str:
    """The whole table, root included; `ro` on it, or systemd-remount-fs fails (note 15, tried).

    Pass 1 of the root is what findmnt(8) asks for; there is no fsck.squashfs, so nothing is checked. The
    scripts of sysvinit would look for it.
    """
    init = layout.profile.init
    lines = [
        {
            "what": m.what, "where": m.where, "type": m.type, "options": fstab_options(m, init),
            "passno": int(m.role is Role.ROOT and init == "systemd"),
        }
        for m in layout.mounts
    ]  # fmt: skip
    return render("fstab.j2", name=layout.profile.name, init=init, mounts=lines)


def render_unit(layout: Layout, mount: Mount) -> str:
    """One .mount unit."""
    return render(
        "mount.unit.j2",
        name=layout.profile.name,
        key=render_key_path(mount.at),
        description=f"rofs: {mount.where} ({mount.promise.value})",
        needs=unit_needs(mount),
        what=mount.what,
        where=mount.where,
        type=mount.type,
        options=unit_options(mount),
    )


def mount_entries(layout: Layout) -> list[Entry]:
    """/etc/fstab, and for systemd a unit a mount, and its link below local-fs.target."""
    entries = [
        Entry(path=PurePosixPath("/etc/fstab"), kind="file", content=render_fstab(layout).encode(), why="mounts")
    ]
    for mount in layout.mounts if layout.profile.init == "systemd" else ():
        name, why = unit_name(mount.where), render_key_path(mount.at)
        target = "local-fs.target." + ("requires" if mount.required else "wants")
        content = render_unit(layout, mount).encode("utf-8", "surrogateescape")
        entries += [
            Entry(path=UNIT_DIR / name, kind="file", content=content, why=why),
            Entry(path=UNIT_DIR / target / name, kind="symlink", target=f"../{name}", mode=0o777, why=why),
        ]
    return entries
