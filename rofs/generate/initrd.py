# SPDX-License-Identifier: MIT
"""Layout -> the initrd's /init: what must be mounted before PID 1 reads /etc."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from rofs.generate.render import render
from rofs.layout import BACKING, IMAGE, Layout, Mount, Role, Stage, is_within

APPLETS = (
    "blockdev", "cat", "chmod", "chown", "chroot", "cp", "insmod", "ln", "mkdir", "mount",
    "rm", "sh", "sleep", "switch_root",
)  # fmt: skip
"""The programs of busybox that the script calls."""
DEFAULT_ROOT = "/dev/vda"
_NOT_FOR_BUSYBOX = ("bind", "private")


def render_initrd(layout: Layout, modules: Sequence[PurePosixPath]) -> str:
    """`modules` are paths inside the initrd, in load order."""
    return render(
        "initrd.sh.j2",
        name=layout.profile.name,
        root=DEFAULT_ROOT,
        modules=[str(m) for m in modules],
        image=IMAGE,
        backing=BACKING,
        backings=[_step(m) for m in layout.mounts if m.role is Role.BACKING],
        prepares=[_prepare(layout, index) for index in range(len(layout.prepares))],
        early=[_step(m) for m in layout.mounts if m.stage is Stage.INITRD and m.role not in _ALREADY],
    )


_ALREADY = (Role.ROOT, Role.IMAGE, Role.BACKING)


def _step(mount: Mount) -> dict[str, object]:
    """The values of one mount command. A bind's source is seen from the initrd's side of the root."""
    options = [o for o in mount.options if not (mount.is_bind and o in _NOT_FOR_BUSYBOX)]
    what = PurePosixPath(mount.what)
    seen = is_within(what, PurePosixPath("/run")) or not mount.is_bind
    return {
        "what": mount.what,
        "where": mount.where,
        "source": what if seen else f"/sysroot{what}",
        "sysroot": f"/sysroot{mount.where}",
        "type": mount.type,
        "options": ",".join(options),
        "is_bind": mount.is_bind,
        "required": mount.required,
    }


def _prepare(layout: Layout, index: int) -> dict[str, object]:
    step = layout.prepares[index]
    backing = layout.owner(step.path)
    return {
        "path": step.path, "mode": step.mode, "uid": step.uid, "gid": step.gid, "seed": step.seed,
        "required": backing.required,
    }  # fmt: skip
