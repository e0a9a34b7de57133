# SPDX-License-Identifier: MIT
"""Layout -> the initrd's /init: what must be mounted before PID 1 reads /etc."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from rofs.generate.identity import KEY_SCRIPT
from rofs.generate.render import render
from rofs.layout import (
    BACKING,
    DATA,
    EVENTS,
    IDENTITY,
    IMAGE,
    MACHINE_ID,
    PERSISTENT,
    RESET_FLAG,
    Layout,
    Mount,
    Prepare,
    Promise,
    Role,
    Stage,
    etc_is_writable,
    is_within,
    machine_id_file,
    machine_id_is_made,
    persistent_stores,
    volatile_options,
)
from rofs.profile import Persistent

APPLETS = (
    "blockdev", "cat", "chmod", "chown", "chroot", "cp", "dd", "findfs", "grep", "head", "hexdump", "insmod", "ln",
    "mkdir", "mount", "mv", "rm", "sh", "sleep", "switch_root", "sync", "tr", "umount",
)  # fmt: skip
"""The programs of busybox that the script calls."""
DEFAULT_ROOT = "/dev/vda"
_NOT_FOR_BUSYBOX = ("bind", "private")
_ALREADY = (Role.ROOT, Role.IMAGE, Role.BACKING, Role.STATE)


def needed_modules(layout: Layout) -> tuple[str, ...]:
    """What the kernel must have for the layout, beside what every image needs."""
    types = {store.fstype for store in persistent_stores(layout.profile)}
    overlay = ("overlay",) if any(m.type == "overlay" for m in layout.mounts) else ()
    return (*layout.profile.initrd.modules, *overlay, *sorted(types))


def render_initrd(layout: Layout, modules: Sequence[PurePosixPath]) -> str:
    """`modules` are paths inside the initrd, in load order."""
    early = [m for m in layout.mounts if m.stage is Stage.INITRD and m.role not in _ALREADY]
    on_state = [p for p in layout.prepares if is_within(p.path, DATA)]
    partitions = {m.where for m in early if m.promise is Promise.PARTITION}
    return render(
        "initrd.sh.j2",
        name=layout.profile.name,
        root=layout.profile.root or DEFAULT_ROOT,
        init=layout.profile.init,
        hostname=layout.profile.hostname,
        key_script=KEY_SCRIPT,
        own_cp=layout.own_cp,
        machine_id_made=machine_id_is_made(layout.profile),
        machine_id_file=machine_id_file(layout.profile),
        state_id=layout.profile.machine_id == "state",
        modules=[str(m) for m in modules],
        image=IMAGE,
        backing=BACKING,
        data=DATA,
        seeding=DATA / "seeding",
        identity=IDENTITY,
        events=EVENTS,
        reset_flag=RESET_FLAG,
        stores=persistent_stores(layout.profile),
        partitions=partitions,
        state=_state(layout),
        state_prepares=[_prepare(layout, p) for p in on_state],
        machine_id=_machine_id(layout),
        backings=[_step(layout, m) for m in layout.mounts if m.role is Role.BACKING],
        prepares=[_prepare(layout, p) for p in layout.prepares if is_within(p.path, BACKING)],
        early=[_step(layout, m) for m in early],
    )


def _step(layout: Layout, mount: Mount) -> dict[str, object]:
    """The values of one mount command. A bind's source is seen from the initrd's side of the root."""
    options = [o for o in mount.options if not (mount.is_bind and o in _NOT_FOR_BUSYBOX)]
    what = PurePosixPath(mount.what)
    seen = is_within(what, PurePosixPath("/run")) or not mount.is_bind
    store = next((d.store for d in layout.profile.mounts if d.store and d.path == mount.where), None)
    return {
        "what": mount.what,
        "where": mount.where,
        "source": what if seen else f"/sysroot{what}",
        "sysroot": f"/sysroot{mount.where}",
        "type": mount.type,
        "options": ",".join(options),
        "is_bind": mount.is_bind,
        "required": mount.required,
        "store": _partition(layout, mount, store) if store else None,
    }


def _state(layout: Layout) -> dict[str, object] | None:
    state = layout.profile.state
    mount = next((m for m in layout.mounts if m.role is Role.STATE), None)
    if state is None or mount is None:
        return None
    return {**_step(layout, mount), "policy": state.on_failure, "volatile": ",".join(volatile_options(mount, state))}


def _partition(layout: Layout, mount: Mount, store: Persistent) -> dict[str, object]:
    prepare = next(p for p in layout.prepares if p.path == mount.where)
    words = [str(mount.where), str(prepare.seed or ""), f"{prepare.mode:04o}", f"{prepare.uid}:{prepare.gid}"]
    volatile = ",".join(volatile_options(mount, store))
    return {"policy": store.on_failure, "volatile": volatile, "seed": shlex.join(words)}


def _prepare(layout: Layout, step: Prepare) -> dict[str, object]:
    mount = layout.owner(step.of)
    return {
        "of": step.of, "path": step.path, "mode": step.mode, "uid": step.uid, "gid": step.gid,
        "seed": step.seed or "", "once": mount.promise is Promise.BIND_STATE, "required": mount.required,
    }  # fmt: skip


def _machine_id(layout: Layout) -> str:
    """What the initrd does with a writable /etc/machine-id: nothing where PID 1, or a bind, decides."""
    if not etc_is_writable(layout.profile):
        return ""
    if machine_id_is_made(layout.profile):
        return "written"
    return "emptied" if layout.owner(MACHINE_ID).promise in PERSISTENT else ""
