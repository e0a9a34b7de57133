# SPDX-License-Identifier: MIT
"""Profile, Inputs, TreeFacts -> Layout: every mount of the running system, its stage and its order.

This is the one model. fstab, mount units, initrd steps, the picture of the tree, the lint and the
run-time checks are all read from it; nothing else decides what is mounted, or who may write where.
The function is total on a profile that `lint.py` finds no error in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import PurePosixPath
from typing import Literal

from rofs.errors import KeyPath
from rofs.profile import MountDecl, Persistent, Profile
from rofs.treefacts import TreeFacts

RUN = PurePosixPath("/run/rofs")
IMAGE = RUN / "image"
"""Before anything covers it the root is bound here: the one meaning of "the image's content"."""
BACKING = RUN / "tmpfs"
STATE = RUN / "state"
"""Where the state partition is mounted, 0700: nobody but root gets behind the promises."""
DATA = STATE / "data"
"""What a factory reset takes away, in one rename."""
RESET_FLAG = STATE / "factory-reset"
IDENTITY = RUN / "identity"
"""What makes this machine this one: a link to the state partition where there is one, else a directory."""
MACHINE_ID = PurePosixPath("/etc/machine-id")
EVENTS = RUN / "events"
"""What the initrd decided, one line each; for people, and for verification."""
ROOT = PurePosixPath("/")
ETC = PurePosixPath("/etc")
UNIT_DIR = PurePosixPath("/etc/systemd/system")
SYSTEM_OWNED = tuple(PurePosixPath(p) for p in ("/run", "/dev", "/proc", "/sys"))
REQUIRED_DIRECTORIES = ("/run", "/dev", "/proc", "/sys", "/tmp", "/var/tmp")  # noqa: S108 - in the image
"""Nobody can create a mount point on a read-only root (note 28)."""
INHERITED_FLAGS = ("nosuid", "nodev", "noexec", "noatime", "nodiratime")
SYSTEM_FLAGS = {PurePosixPath("/run"): ("nosuid", "nodev"), PurePosixPath("/dev/shm"): ("nosuid", "nodev")}  # noqa: S108
"""Of PID 1's own mounts, which are no part of a layout and from which a bind may be made."""
SAFE_OVERLAY = ("index=off", "redirect_dir=off", "metacopy=off", "xino=off")
"""For an upper that outlives its lower: with any of them on, an image update is undefined (note 13)."""
PERSISTENT_FLAGS = ("nosuid", "nodev", "noatime")
DEFAULT_SIZE_BYTES = 64 << 20
PAGE_BYTES = 4096


class Stage(Enum):
    """Who mounts: PID 1 has read /etc before its first mount unit runs (note 22)."""

    INITRD = "initrd"
    SYSTEMD = "systemd"


class Role(Enum):
    """Why a mount is there."""

    ROOT = "root"
    IMAGE = "image"
    BACKING = "backing"
    STATE = "state"
    IDENTITY = "identity"
    DECLARED = "declared"
    ISLAND = "island"
    PIN = "pin"


class Promise(Enum):
    """What a mount promises: the rows of the design's table."""

    IMAGE_RO = "image-ro"
    PINNED_RO = "pinned-ro"
    PIN = "pin"
    BACKING = "backing"
    TMPFS = "tmpfs"
    OVERLAY_TMPFS = "overlay-tmpfs"
    BIND_TMPFS = "bind-tmpfs"
    BIND_RO = "bind-ro"
    BIND_RW = "bind-rw"
    STATE = "state"
    OVERLAY_STATE = "overlay-state"
    BIND_STATE = "bind-state"
    PARTITION = "partition"
    MACHINE_ID = "machine-id"


VOLATILE = frozenset({Promise.TMPFS, Promise.OVERLAY_TMPFS, Promise.BIND_TMPFS})
PERSISTENT = frozenset({Promise.OVERLAY_STATE, Promise.BIND_STATE, Promise.PARTITION})
WRITABLE = VOLATILE | PERSISTENT | {Promise.BIND_RW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One live mount. `options` are mount(8)'s, complete and in a fixed order, without x-* and nofail.

    `needs` are paths whose mounts must be there first and which systemd cannot see by itself
    (note 7). `mode`, `uid`, `gid` are of the mounted root; None while the tree is unknown.
    """

    where: PurePosixPath
    what: str
    type: str
    options: tuple[str, ...]
    role: Role
    promise: Promise
    stage: Stage
    at: KeyPath
    required: bool = True
    needs: tuple[PurePosixPath, ...] = ()
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size_bytes: int | None = None
    inodes: int | None = None

    @property
    def is_bind(self) -> bool:
        """Whether this shows another path."""
        return "bind" in self.options

    @property
    def read_only(self) -> bool:
        """Whether the mount itself is marked read-only."""
        return "ro" in self.options


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """A directory the initrd makes on a backing file system; `seed` is image content to copy into it.

    `of` is the mount that shows it. On a tmpfs it is made at each boot; on state or a partition it is
    made and seeded once, whole or not at all, and keeps what it holds.
    """

    of: PurePosixPath
    path: PurePosixPath
    mode: int
    uid: int
    gid: int
    seed: PurePosixPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`mounts` are in mounting order: parents before children, sources before their users.

    `own_cp`: seeds are copied by the image's cp(1). Where that loses extended attributes the initrd's does it.
    """

    profile: Profile
    mounts: tuple[Mount, ...]
    prepares: tuple[Prepare, ...]
    mount_points: tuple[PurePosixPath, ...]
    top_level: tuple[PurePosixPath, ...]
    immutable: tuple[PurePosixPath, ...]
    own_cp: bool = True

    def owner(self, path: PurePosixPath) -> Mount:
        """The mount that provides `path` in the running system."""
        covering = [m for m in self.mounts if is_within(path, m.where)]
        return max(covering, key=lambda m: len(m.where.parts))

    def mount_at(self, where: PurePosixPath) -> Mount | None:
        """The mount on exactly this path."""
        return next((m for m in self.mounts if m.where == where), None)

    def is_writable(self, path: PurePosixPath) -> bool:
        """Whether a program with the right to may write at `path`."""
        owner = self.owner(path)
        return owner.promise in WRITABLE or (owner.role is Role.PIN)


def is_within(path: PurePosixPath, parent: PurePosixPath) -> bool:
    """Whether `path` is `parent` or below it."""
    return path == parent or parent in path.parents


def nearest(path: PurePosixPath, decls: Iterable[MountDecl]) -> MountDecl | None:
    """The declared mount that covers `path` from at or above it, the innermost one."""
    covering = [d for d in decls if is_within(path, d.path)]
    return max(covering, key=lambda d: len(d.path.parts), default=None)


def is_writable_decl(decl: MountDecl) -> bool:
    """Whether a declaration makes its path writable."""
    return not (decl.shows_path and decl.access == "ro")


def shows_image(decl: MountDecl) -> bool:
    """Whether the image's content of the path is seen through the declared mount."""
    seeded = decl.type in ("bind", "partition") and not decl.shows_path and decl.seed == "image"
    return decl.type == "overlay" or seeded


def etc_is_writable(profile: Profile) -> bool:
    """Whether /etc/machine-id is in a writable path, so that it can be written where it stands."""
    cover = nearest(MACHINE_ID, profile.mounts)
    island = any(is_within(MACHINE_ID, i.path) and (cover is None or is_within(i.path, cover.path))
                 for i in profile.immutable)  # fmt: skip
    return cover is not None and is_writable_decl(cover) and not island


def machine_id_is_made(profile: Profile) -> bool:
    """Whether the initrd makes the machine-id: one that is kept, or any where PID 1 is not systemd, which makes one."""
    return profile.machine_id == "state" or profile.init == "other"


def machine_id_file(profile: Profile) -> PurePosixPath:
    """Where a machine-id that the initrd made is kept: on state, or in memory until the next boot."""
    return (DATA / "identity" if profile.machine_id == "state" else RUN) / "machine-id"


def machine_id_is_bound(profile: Profile) -> bool:
    """Whether it is shown by a bind: a read-only /etc cannot be given a file."""
    return machine_id_is_made(profile) and not etc_is_writable(profile)


def persistent_stores(profile: Profile) -> tuple[Persistent, ...]:
    """The state partition, then the others in the profile's order: also the order of verification's disks."""
    return (*([profile.state] if profile.state else []), *(d.store for d in profile.mounts if d.store))


def store_file(store: Persistent) -> str:
    """The published image to start a persistent file system from."""
    return "state.img" if store.name == "state" else f"partition-{backing_name(PurePosixPath(store.name))}.img"


def as_volatile(layout: Layout) -> Layout:
    """The layout of a boot without any usable persistent file system, where the policy is to go on."""
    stores = {s.at: s for s in persistent_stores(layout.profile)}
    return replace(layout, mounts=tuple(_in_memory(m, stores[m.at]) if _is_store(m) else m for m in layout.mounts))


def _is_store(mount: Mount) -> bool:
    return mount.promise in (Promise.STATE, Promise.PARTITION)


def _in_memory(mount: Mount, store: Persistent) -> Mount:
    return replace(mount, what="tmpfs", type="tmpfs", options=volatile_options(mount, store))


def volatile_options(mount: Mount, store: Persistent) -> tuple[str, ...]:
    """Of the tmpfs that stands in for a store: the flags of its mount, capped."""
    flags = (o for o in mount.options if "=" not in o)
    size = round_to_page(store.volatile_bytes)
    mode = 0o755 if mount.mode is None else mount.mode
    return (*flags, *size_options(size, default_inodes(size)), f"mode={mode:04o}")


def backing_name(path: PurePosixPath) -> str:
    """`/var/lib/a-b` -> `var-lib-a=2db`: readable, one to one, and free of what mount options split on."""
    keep = re.compile(rb"[A-Za-z0-9_.]")
    raw = str(path).strip("/").encode("utf-8", "surrogateescape")
    return "".join("-" if b == 0x2F else chr(b) if keep.match(bytes([b])) else f"={b:02x}" for b in raw)


def size_options(size_bytes: int, inodes: int) -> tuple[str, ...]:
    """As mountinfo prints them, so that people compare letters and not arithmetic."""
    return (f"size={size_bytes // 1024}k", f"nr_inodes={inodes}")


def round_to_page(size_bytes: int) -> int:
    """tmpfs counts pages."""
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def default_inodes(size_bytes: int) -> int:
    """One inode a page, but never so few that an empty service cannot start."""
    return max(1024, size_bytes // PAGE_BYTES)


def build_layout(profile: Profile, facts: TreeFacts | None) -> Layout:
    """Decide every mount. Without facts, modes and owners of the image stay None."""
    builder = _Builder(profile, facts)
    mounts = _with_inherited_flags(_order(_staged(list(builder.mounts()), profile.init)))
    return Layout(
        profile=profile,
        mounts=mounts,
        prepares=tuple(builder.prepares(mounts)),
        mount_points=builder.mount_points(),
        top_level=builder.top_level(),
        immutable=tuple(i.path for i in profile.immutable),
        own_cp=facts is None or facts.has_own_cp(),
    )


class _Builder:
    """Carries the profile and the facts while mounts are made from them."""

    def __init__(self, profile: Profile, facts: TreeFacts | None) -> None:
        self.profile = profile
        self.facts = facts

    def mounts(self) -> Iterator[Mount]:
        yield Mount(
            where=ROOT, what="/dev/root", type="squashfs", options=("ro",), role=Role.ROOT,
            promise=Promise.IMAGE_RO, stage=Stage.INITRD, at=("source",),
        )  # fmt: skip
        yield Mount(
            where=IMAGE, what="/", type="none", options=("bind", "ro"), role=Role.IMAGE,
            promise=Promise.IMAGE_RO, stage=Stage.INITRD, at=("source",),
        )  # fmt: skip
        if self.profile.state is not None:
            yield self.state(self.profile.state)
        for decl in self.profile.mounts:
            yield from self.declared(decl)
        yield from self.islands()
        if machine_id_is_bound(self.profile):
            yield Mount(
                where=MACHINE_ID, what=str(machine_id_file(self.profile)), type="none",
                options=("bind", "private", "ro"), role=Role.IDENTITY, promise=Promise.MACHINE_ID,
                stage=Stage.INITRD, at=("machine_id",), needs=(DATA,) if self.profile.state else (),
                mode=0o444, uid=0, gid=0,
            )  # fmt: skip

    def declared(self, decl: MountDecl) -> Iterator[Mount]:
        if decl.store is not None:
            yield self.partition(decl, decl.store)
        elif decl.type == "tmpfs":
            yield self.tmpfs(decl)
        elif decl.type == "overlay":
            if decl.on_tmpfs:
                yield self.backing(decl)
            yield self.overlay(decl)
        elif decl.on_state:
            yield self.bind(decl, str(self.base(decl)), Promise.BIND_STATE)
        elif decl.source == "tmpfs":
            yield self.backing(decl)
            yield self.bind(decl, str(self.base(decl) / "data"), Promise.BIND_TMPFS)
        else:
            ro = decl.access == "ro"
            yield self.bind(decl, str(decl.source), Promise.BIND_RO if ro else Promise.BIND_RW)

    def base(self, decl: MountDecl) -> PurePosixPath:
        """Where what is written to the mount lands."""
        return (DATA / decl.type if decl.on_state else BACKING) / backing_name(decl.path)

    def sizes(self, decl: MountDecl) -> tuple[int, int]:
        size = round_to_page(decl.size_bytes or DEFAULT_SIZE_BYTES)
        return size, decl.inodes or default_inodes(size)

    def root_of(self, decl: MountDecl) -> tuple[int | None, int | None, int | None]:
        """Mode, uid, gid: the profile's where it speaks, else those of the image's directory."""
        node = self.facts.lookup(decl.path) if self.facts else None
        uid = self.user(decl.owner)
        gid = self.group(decl.group) if decl.group else self.primary_group(decl.owner)
        known = self.facts is not None
        return (
            decl.mode if decl.mode is not None else (node.mode if node else 0o755 if known else None),
            uid if decl.owner else (node.uid if node else 0 if known else None),
            gid if decl.owner or decl.group else (node.gid if node else 0 if known else None),
        )

    def user(self, name: str | None) -> int | None:
        return find_uid(self.profile, self.facts, name) if name else None

    def group(self, name: str) -> int | None:
        return find_gid(self.profile, self.facts, name)

    def primary_group(self, owner: str | None) -> int | None:
        return find_primary_gid(self.profile, self.facts, owner) if owner else None

    def tmpfs(self, decl: MountDecl) -> Mount:
        size, inodes = self.sizes(decl)
        mode, uid, gid = self.root_of(decl)
        owner = tuple(f"{k}={v}" for k, v in (("uid", uid), ("gid", gid)) if v)
        perm = (f"mode={mode:04o}",) if mode is not None else ()
        return Mount(
            where=decl.path, what="tmpfs", type="tmpfs",
            options=("rw", *(decl.options or ("nosuid", "nodev")), *size_options(size, inodes), *perm, *owner),
            role=Role.DECLARED, promise=Promise.TMPFS, stage=Stage.SYSTEMD, at=decl.at,
            required=decl.required, mode=mode, uid=uid, gid=gid, size_bytes=size, inodes=inodes,
        )  # fmt: skip

    def state(self, state: Persistent) -> Mount:
        return Mount(
            where=STATE, what=state.device, type=state.fstype, options=("rw", *PERSISTENT_FLAGS), role=Role.STATE,
            promise=Promise.STATE, stage=Stage.INITRD, at=state.at, mode=0o700, uid=0, gid=0,
        )  # fmt: skip

    def partition(self, decl: MountDecl, store: Persistent) -> Mount:
        mode, uid, gid = self.root_of(decl)
        flags = decl.options or ("nosuid", "nodev")
        noatime = () if {"noatime", "relatime", "strictatime"} & {*flags} else ("noatime",)
        return Mount(
            where=decl.path, what=store.device, type=store.fstype, options=("rw", *flags, *noatime),
            role=Role.DECLARED, promise=Promise.PARTITION, stage=Stage.INITRD, at=decl.at,
            required=decl.required, mode=mode, uid=uid, gid=gid,
        )  # fmt: skip

    def backing(self, decl: MountDecl) -> Mount:
        size, inodes = self.sizes(decl)
        return Mount(
            where=self.base(decl), what="tmpfs", type="tmpfs",
            options=("rw", "nosuid", "nodev", *size_options(size, inodes), "mode=0700"),
            role=Role.BACKING, promise=Promise.BACKING, stage=Stage.INITRD, at=decl.at,
            required=decl.required, mode=0o700, uid=0, gid=0, size_bytes=size, inodes=inodes,
        )  # fmt: skip

    def overlay(self, decl: MountDecl) -> Mount:
        size, inodes = self.sizes(decl) if decl.on_tmpfs else (None, None)
        mode, uid, gid = self.root_of(decl)
        base = self.base(decl)
        layers = (f"lowerdir={image_path(decl.path)}", f"upperdir={base}/upper", f"workdir={base}/work")
        promise, safe = (Promise.OVERLAY_TMPFS, ()) if decl.on_tmpfs else (Promise.OVERLAY_STATE, SAFE_OVERLAY)
        return Mount(
            where=decl.path, what="overlay", type="overlay", options=("rw", *decl.options, *layers, *safe),
            role=Role.DECLARED, promise=promise, stage=Stage.SYSTEMD, at=decl.at,
            required=decl.required, needs=(IMAGE, base), mode=mode, uid=uid, gid=gid,
            size_bytes=size, inodes=inodes,
        )  # fmt: skip

    def bind(self, decl: MountDecl, what: str, promise: Promise) -> Mount:
        access = "ro" if promise is Promise.BIND_RO else "rw"
        size, inodes = self.sizes(decl) if promise is Promise.BIND_TMPFS else (None, None)
        own = promise in (Promise.BIND_TMPFS, Promise.BIND_STATE)
        mode, uid, gid = self.root_of(decl) if own else (None, None, None)
        return Mount(
            where=decl.path, what=what, type="none", options=("bind", "private", access, *decl.options),
            role=Role.DECLARED, promise=promise, stage=Stage.SYSTEMD, at=decl.at, required=decl.required,
            needs=(PurePosixPath(what),), mode=mode, uid=uid, gid=gid, size_bytes=size, inodes=inodes,
        )  # fmt: skip

    def islands(self) -> Iterator[Mount]:
        """Immutable inside a writable path: a read-only bind, its ancestors pinned (design, strengths)."""
        pinned: set[PurePosixPath] = {d.path for d in self.profile.mounts}
        pinned |= {i.path for i in self.profile.immutable}
        for item in self.profile.immutable:
            cover = nearest(item.path, self.profile.mounts)
            if cover is None or not is_writable_decl(cover) or self.in_island(item.path, cover):
                continue
            for parent in reversed(item.path.parents):
                # Also above the mount that holds it: that too can be a directory of a writable one.
                around = nearest(parent, self.profile.mounts)
                if around is not None and is_writable_decl(around) and parent not in pinned:
                    pinned.add(parent)
                    yield Mount(
                        where=parent, what=str(parent), type="none", options=("bind", "private", "rw"),
                        role=Role.PIN, promise=Promise.PIN, stage=Stage.SYSTEMD, at=item.at,
                        required=around.required, needs=(around.path,),
                    )  # fmt: skip
            yield Mount(
                where=item.path, what=image_path(item.path), type="none", options=("bind", "private", "ro"),
                role=Role.ISLAND, promise=Promise.PINNED_RO, stage=Stage.SYSTEMD, at=item.at,
                required=cover.required, needs=(IMAGE,),
            )  # fmt: skip

    def in_island(self, path: PurePosixPath, cover: MountDecl) -> bool:
        """Whether an immutable path above it, in the same mount, covers it already."""
        return any(i.path in path.parents and is_within(i.path, cover.path) for i in self.profile.immutable)

    def prepares(self, mounts: tuple[Mount, ...]) -> Iterator[Prepare]:
        by_path = {d.path: d for d in self.profile.mounts}
        for mount in mounts:
            if mount.role is not Role.DECLARED:
                continue
            decl = by_path[mount.where]
            base = self.base(decl)
            mode = 0o755 if mount.mode is None else mount.mode
            made = partial(Prepare, of=mount.where, mode=mode, uid=mount.uid or 0, gid=mount.gid or 0)
            seeded = decl.seed == "image" and self.in_image(mount.where)
            seed = PurePosixPath(image_path(mount.where)) if seeded else None
            if mount.promise in (Promise.OVERLAY_TMPFS, Promise.OVERLAY_STATE):
                # The merged root takes mode and owner from upper, not from lower.
                yield made(path=base / "upper")
                yield Prepare(of=mount.where, path=base / "work", mode=0o700, uid=0, gid=0)
            elif mount.promise is Promise.BIND_TMPFS:
                yield made(path=base / "data", seed=seed)
            elif mount.promise is Promise.BIND_STATE:
                yield made(path=base, seed=seed)
            elif mount.promise is Promise.PARTITION:
                yield made(path=mount.where, seed=seed)

    def in_image(self, path: PurePosixPath) -> bool:
        """Whether the finished image has something there: from the packages, `files` or `users`."""
        made = {p for f in self.profile.files for p in (f.path, *f.path.parents)}
        homes = {user.home_path for user in self.profile.users}
        return self.facts is None or self.facts.lookup(path) is not None or path in made | homes

    def mount_points(self) -> tuple[PurePosixPath, ...]:
        """Directories the image lacks and something is mounted on."""
        wanted = {PurePosixPath(p) for p in REQUIRED_DIRECTORIES} | {d.path for d in self.profile.mounts}
        return tuple(sorted(p for p in wanted if self.facts is not None and self.facts.lookup(p) is None))

    def top_level(self) -> tuple[PurePosixPath, ...]:
        """Every real directory right below / of the finished image."""
        if self.facts is None:
            return ()
        found = {PurePosixPath(p) for p, n in self.facts.nodes.items() if p.count("/") == 1 and n.kind == "dir"}
        made = {PurePosixPath("/", d.path.parts[1]) for d in self.profile.mounts}
        made |= {PurePosixPath("/", f.path.parts[1]) for f in self.profile.files if len(f.path.parts) > 2}
        made |= {PurePosixPath("/", u.home_path.parts[1]) for u in self.profile.users}
        links = {p for p in made if (n := self.facts.node(p)) is not None and n.kind == "symlink"}
        return tuple(sorted((found | made | {PurePosixPath("/", "tmp")}) - links - {ROOT}))


def image_path(path: PurePosixPath) -> str:
    """Where the image's own content of `path` is seen."""
    return str(IMAGE / path.relative_to("/"))


def find_uid(profile: Profile, facts: TreeFacts | None, name: str) -> int | None:
    """The number of a user of the profile or of the tree."""
    for user in profile.users:
        if user.name == name:
            return user.uid
    account = facts.users().get(name) if facts else None
    return account.uid if account else None


def find_primary_gid(profile: Profile, facts: TreeFacts | None, name: str) -> int | None:
    """The number of a user's own group."""
    for user in profile.users:
        if user.name == name:
            return user.primary_gid
    account = facts.users().get(name) if facts else None
    return account.gid if account else None


def find_gid(profile: Profile, facts: TreeFacts | None, name: str) -> int | None:
    """The number of a group of the tree, or of a user of the profile."""
    known = facts.groups().get(name) if facts else None
    return known if known is not None else find_primary_gid(profile, None, name)


def _staged(mounts: list[Mount], init: Literal["systemd", "other"]) -> list[Mount]:
    """Everything at or below /etc belongs to the initrd, with its ancestors and its sources.

    Without systemd there is nobody else to mount anything.
    """
    if init == "other":
        return [replace(m, stage=Stage.INITRD) for m in mounts]
    early = {m.where for m in mounts if m.stage is Stage.INITRD or is_within(m.where, ETC)}
    while True:
        needed = {
            other.where
            for m in mounts
            if m.where in early
            for other in mounts
            if other.where not in early and any(is_within(p, other.where) for p in (m.where, *m.needs))
        }
        if not needed:
            return [replace(m, stage=Stage.INITRD) if m.where in early else m for m in mounts]
        early |= needed


def _with_inherited_flags(mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """A bind has the flags of the mount it shows, until it is remounted with its own: say them all.

    mount(8) remounts a bind as soon as it is given one flag, and then with the given ones alone.
    """
    done: list[Mount] = []
    for mount in mounts:
        if mount.is_bind:
            what = PurePosixPath(mount.what)
            source = max(
                (m for m in done if is_within(what, m.where) and m.where != mount.where),
                key=lambda m: len(m.where.parts),
            )
            known = next((f for p, f in SYSTEM_FLAGS.items() if source.where == ROOT and is_within(what, p)), ())
            flags = [f for f in INHERITED_FLAGS if f in (*source.options, *known) and f not in mount.options]
            done.append(replace(mount, options=(*mount.options, *flags)))
        else:
            done.append(mount)
    return tuple(done)


def _order(mounts: list[Mount]) -> tuple[Mount, ...]:
    """Parents before children, sources before users, the rest by path; the initrd before systemd."""
    pending = sorted(mounts, key=lambda m: (m.stage is Stage.SYSTEMD, m.role.value != "root", m.where.parts))
    done: list[Mount] = []
    while pending:
        waiting = {m.where for m in pending}
        for mount in pending:
            before = set(mount.where.parents) | {p for n in mount.needs for p in (n, *n.parents)}
            if not (before & waiting) - {mount.where}:
                break
        else:
            msg = "lint lets no cycle of bind mounts through"
            raise AssertionError(msg)
        done.append(mount)
        pending.remove(mount)
    return tuple(done)
