# SPDX-License-Identifier: MIT
"""Layout, a path -> who provides it, who may write it, what survives what, and the lines that say so."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, Literal

from rofs.errors import KeyPath, Mark, render_key_path
from rofs.generate.escape import unit_name
from rofs.layout import (
    DATA,
    MACHINE_ID,
    SYSTEM_OWNED,
    UNIT_DIR,
    Layout,
    Mount,
    Prepare,
    Promise,
    Role,
    Stage,
    etc_is_writable,
    is_within,
    persistent_stores,
)
from rofs.lint import GENERATED
from rofs.profile import Persistent


class Fate(Enum):
    """What becomes of a path's content."""

    SAME = "same"
    NEW_IMAGE = "new-image"
    IMAGE = "image-again"
    EMPTY = "empty-again"
    KEPT = "kept"
    FLUSHED = "kept-if-flushed"
    HIDES = "kept-over-the-image"
    ANEW = "made-anew"


@dataclass(frozen=True, slots=True)
class After:
    """The fate of what is at the path, by what happens to the machine."""

    reboot: Fate
    power_cut: Fate
    factory_reset: Fate
    update: Fate


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The persistent file system cannot be used. "volatile": a tmpfs stands in, and `fate` is what is there."""

    store: str
    policy: Literal["volatile", "refuse"]
    fate: Fate
    room_bytes: int
    mark: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Lands:
    """Where what is written ends up, and how much fits: of `size_bytes`, `shared` with other paths or not.

    `device` None is memory. The size of a device is that of the published image to start from.
    """

    path: PurePosixPath
    device: str | None
    store: str | None
    size_bytes: int
    inodes: int | None
    shared: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A key of the profile that decides about the path; `mark` None where it is not written but the default."""

    at: KeyPath
    mark: Mark | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All of it.

    `promise` is that of the mount which holds the content, after every bind was followed: `shown_from` are
    the paths on the way, None means that kernel and PID 1 decide. `writable` means by a program with the
    right to, and is None where no promise is made; `strength` is what makes it read-only. `unit` is who
    mounts it, None for the initrd. `after` and `lost` are of what is there, `places` of who decides.
    """

    path: PurePosixPath
    mount: PurePosixPath | None
    promise: Promise | None
    shown_from: tuple[PurePosixPath, ...]
    writable: bool | None
    strength: str | None
    after: After
    lost: Lost | None
    lands: Lands | None
    stage: Stage | None
    unit: str | None
    places: tuple[Place, ...]
    below: tuple[PurePosixPath, ...]
    notes: tuple[str, ...]
    tree_known: bool


def parse_path(text: str) -> PurePosixPath:
    """What a user types -> a path of the image; ValueError says what to write instead."""
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not an absolute path: write {posixpath.normpath('/' + text)!r}")
    if ".." in text.split("/"):
        raise ValueError(f"{text!r} holds `..`: write {posixpath.normpath(text)!r}")
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text):
        raise ValueError(f"{text!r} holds a character that no path of a profile has")
    return PurePosixPath("/" + text.strip("/"))


def explain(layout: Layout, path: PurePosixPath) -> Explanation:
    """Everything the layout says of one path; total on absolute paths without `..`."""
    chain = tuple(_follow(layout, path))
    shown, (holder, inner) = chain[0][0], chain[-1]
    system, bare = _is_system(holder, inner), _is_system(shown, path)
    prepare = next((p for p in layout.prepares if p.of == holder.where), None)
    own = shown.role in (Role.STATE, Role.BACKING)  # of rofs: root alone gets there, and nothing is promised
    writable = None if bare or own else layout.is_writable(path)
    promise = None if system else holder.promise
    lives = _machine_id(layout) if path == MACHINE_ID else promise
    return Explanation(
        path=path,
        mount=None if system else holder.where,
        promise=promise,
        shown_from=tuple(p for _, p in chain[1:] if p != path),
        writable=writable,
        strength=_strength(shown, promise) if writable is False else None,
        after=_after(lives, prepare),
        lost=_lost(_store(layout, lives, holder), lives, prepare, layout),
        lands=_lands(layout, holder, inner, prepare) if writable else None,
        stage=None if bare else shown.stage,
        unit=unit_name(shown.where) if shown.stage is Stage.SYSTEMD else None,
        places=tuple(_places(layout, chain, path)),
        below=tuple(m.where for m in layout.mounts if m.role in _PROMISING and path in m.where.parents),
        notes=tuple(_notes(layout, chain, path)),
        tree_known=bool(layout.top_level),
    )


_PROMISING = (Role.DECLARED, Role.ISLAND, Role.IDENTITY)


def _follow(layout: Layout, path: PurePosixPath) -> Iterator[tuple[Mount, PurePosixPath]]:
    """The mounts that show the path, the last of which holds the content, each with the path's name there.

    A bind shows one mount and not what is mounted below it, so its source alone says which.
    """
    mount = layout.owner(path)
    yield mount, path
    while mount.promise in (Promise.PIN, Promise.BIND_RO, Promise.BIND_RW):
        source = PurePosixPath(mount.what)
        path = source / path.relative_to(mount.where)
        mount = layout.owner(mount.needs[0] if mount.role is Role.PIN else source)
        yield mount, path


def _is_system(holder: Mount, inner: PurePosixPath) -> bool:
    return holder.role is Role.ROOT and any(is_within(inner, owned) for owned in SYSTEM_OWNED)


def _machine_id(layout: Layout) -> Promise | None:
    """What becomes of it is decided by a key of its own, wherever it stands; None: PID 1 makes a new one."""
    return Promise.MACHINE_ID if layout.profile.machine_id == "state" else None


def _strength(shown: Mount, promise: Promise | None) -> str:
    """The design's three strengths, by the names that verification gives them."""
    if shown.role is Role.ROOT:
        return "image-ro"
    return "pinned-ro" if promise in (Promise.PINNED_RO, Promise.IMAGE_RO) else "mount-ro"


def _after(promise: Promise | None, prepare: Prepare | None) -> After:
    again = Fate.IMAGE if prepare is not None and prepare.seed is not None else Fate.EMPTY
    match promise:
        case Promise.IMAGE_RO | Promise.PINNED_RO:
            return After(Fate.SAME, Fate.SAME, Fate.SAME, Fate.NEW_IMAGE)
        case Promise.OVERLAY_TMPFS:
            return After(Fate.IMAGE, Fate.IMAGE, Fate.IMAGE, Fate.NEW_IMAGE)
        case Promise.BIND_TMPFS:
            return After(again, again, again, Fate.NEW_IMAGE if again is Fate.IMAGE else Fate.EMPTY)
        case Promise.OVERLAY_STATE:
            return After(Fate.KEPT, Fate.FLUSHED, Fate.IMAGE, Fate.HIDES)
        case Promise.BIND_STATE | Promise.PARTITION | Promise.STATE:
            return After(Fate.KEPT, Fate.FLUSHED, again, Fate.KEPT)
        case Promise.MACHINE_ID:
            return After(Fate.KEPT, Fate.KEPT, Fate.ANEW, Fate.KEPT)
        case None:
            return After(Fate.ANEW, Fate.ANEW, Fate.ANEW, Fate.ANEW)
        case _:
            return After(Fate.EMPTY, Fate.EMPTY, Fate.EMPTY, Fate.EMPTY)


def _store(layout: Layout, promise: Promise | None, holder: Mount) -> Persistent | None:
    """The persistent file system that holds the content."""
    if promise in (Promise.OVERLAY_STATE, Promise.BIND_STATE, Promise.STATE):
        return layout.profile.state
    if promise is Promise.MACHINE_ID:
        return layout.profile.state if _machine_id(layout) else None
    of_its_own = (s for s in persistent_stores(layout.profile) if s.name == str(holder.where))
    return next(of_its_own, None) if promise is Promise.PARTITION else None


def _lost(store: Persistent | None, promise: Promise | None, prepare: Prepare | None, layout: Layout) -> Lost | None:
    if store is None:
        return None
    again = Fate.IMAGE if prepare is not None and prepare.seed is not None else Fate.EMPTY
    fate = {Promise.OVERLAY_STATE: Fate.IMAGE, Promise.MACHINE_ID: Fate.ANEW}.get(promise or Promise.STATE, again)
    return Lost(
        store=store.name, policy=store.on_failure, fate=fate, room_bytes=store.volatile_bytes,
        mark=layout.profile.marks.find((*store.at, "on_failure")),
    )  # fmt: skip


def _lands(layout: Layout, holder: Mount, inner: PurePosixPath, prepare: Prepare | None) -> Lands | None:
    """None for a bind of what the system itself keeps."""
    base = holder.where if prepare is None else prepare.path
    path = base / inner.relative_to(holder.where)
    store = _store(layout, holder.promise, holder)
    if store is not None:
        return Lands(
            path=path, device=store.device, store=store.name, size_bytes=store.size_bytes, inodes=None,
            shared=store.name == "state",
        )  # fmt: skip
    if holder.size_bytes is None:
        return None
    return Lands(
        path=path, device=None, store=None, size_bytes=holder.size_bytes, inodes=holder.inodes, shared=False
    )  # fmt: skip


def _places(layout: Layout, chain: tuple[tuple[Mount, PurePosixPath], ...], path: PurePosixPath) -> Iterator[Place]:
    """The keys that decide, the nearest first, each once."""
    found: list[KeyPath] = []
    for mount, inner in chain:
        if mount.role is Role.ROOT or mount.role is Role.IMAGE:
            covering = [i for i in layout.profile.immutable if is_within(inner, i.path)]
            found += [i.at for i in sorted(covering, key=lambda i: -len(i.path.parts))[:1]]
        else:
            found.append(mount.at)
    holder = chain[-1][0]
    if path == MACHINE_ID:
        found.append(("machine_id",))
    store = _store(layout, holder.promise, holder)
    found += [store.at] if store is not None else []
    found += [decl.at for decl in layout.profile.files if decl.path == path]
    marks = layout.profile.marks
    for at in dict.fromkeys(found):
        yield Place(at, marks.find(at) if at in marks.values else None)


def _notes(layout: Layout, chain: tuple[tuple[Mount, PurePosixPath], ...], path: PurePosixPath) -> Iterator[str]:
    """What no other field can say."""
    shown, holder = chain[0][0], chain[-1][0]
    if shown.where == path and shown.role is Role.PIN:
        islands = [str(m.where) for m in layout.mounts if m.role is Role.ISLAND and path in m.where.parents]
        yield f"cannot be renamed or removed: it leads to {', '.join(islands)}, which nobody may put aside"
    elif shown.where == path and shown.role in _PROMISING:
        yield "cannot be renamed or removed: something is mounted on it"
    if any(not mount.required for mount, _ in chain):
        yield "required: false: where it cannot be mounted the boot goes on, and what lies below is seen"
    if holder.promise is Promise.PARTITION:
        yield "a partition that somebody else filled is never seeded, and a factory reset leaves it as it is"
    if shown.promise is Promise.BIND_RO and layout.is_writable(PurePosixPath(shown.what)):
        yield f"read-only here alone: {shown.what} may change, and root may remount the bind"
    if path == MACHINE_ID:
        yield _render_machine_id(layout)
    elif path in GENERATED or (path.parent == UNIT_DIR and path.suffix == ".mount"):
        yield "the image's content of it is generated by rofs from the profile"
    for store in persistent_stores(layout.profile):
        if store.on_failure == "refuse" and store is not _store(layout, holder.promise, holder):
            yield f"without {store.name} the device does not start at all (on_failure: refuse)"


def _render_machine_id(layout: Layout) -> str:
    if layout.profile.machine_id == "transient":
        return f"{'PID 1' if layout.profile.init == 'systemd' else 'the initrd'} makes a new id at each boot"
    how = "writes it into this file" if etc_is_writable(layout.profile) else "shows it here"
    return f"the id is kept in {DATA / 'identity'}, and the initrd {how} at each boot"


# --- for programs, and for people -----------------------------------------------------------------


def explanation_data(explanation: Explanation) -> dict[str, Any]:
    """As plain data for JSON: paths as strings, keys and places as `mounts[0]`, file, line and column."""
    data: dict[str, Any] = _plain(explanation)
    data["schema"] = "rofs/explain/v1"
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, Place):
        return {"key": render_key_path(value.at), "mark": _plain(value.mark)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePosixPath):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


_PROVIDES = {
    None: "the kernel and PID 1",
    Promise.IMAGE_RO: "the image",
    Promise.PINNED_RO: "the image, bound over what is writable around it",
    Promise.BACKING: "rofs: memory behind a promise, for root alone",
    Promise.TMPFS: "a tmpfs, empty at each boot",
    Promise.OVERLAY_TMPFS: "an overlay: the image's content, changes in memory",
    Promise.BIND_TMPFS: "a tmpfs of its own",
    Promise.STATE: "rofs: the state partition, for root alone",
    Promise.OVERLAY_STATE: "an overlay: the image's content, changes on the state partition",
    Promise.BIND_STATE: "the state partition",
    Promise.PARTITION: "a partition of its own",
    Promise.MACHINE_ID: "rofs: an id of the machine's own, by a read-only bind",
}
_STRENGTHS = {
    "image-ro": "no, not even by root",
    "pinned-ro": "no, not even by root",
    "mount-ro": "no: the mount is read-only",
}
_FATES = {
    Fate.SAME: "as built",
    Fate.NEW_IMAGE: "that of the new image",
    Fate.IMAGE: "the image's content again",
    Fate.EMPTY: "gone: empty again",
    Fate.KEPT: "kept",
    Fate.FLUSHED: "kept, as far as it was flushed",
    Fate.HIDES: "what was written is kept and hides the new image's; the rest is the new image's",
    Fate.ANEW: "made anew",
}


def render_explanation(explanation: Explanation) -> str:
    """A few lines, each a question and its answer."""
    after = explanation.after
    rows = [
        ("provided by", _render_provider(explanation)),
        *((("shown from", " -> ".join(map(str, explanation.shown_from))),) if explanation.shown_from else ()),
        ("written", _render_writable(explanation)),
        *_render_lands(explanation),
        ("reboot", _FATES[after.reboot]),
        ("power cut", _FATES[after.power_cut]),
        ("factory reset", _FATES[after.factory_reset]),
        ("image update", _FATES[after.update]),
        ("state lost", _render_lost(explanation.lost)),
        ("there since", _render_since(explanation)),
        *_label("said by", _render_places(explanation)),
        *_label("below it", [f"{path}: a promise of its own" for path in explanation.below]),
        *_label("note", explanation.notes),
    ]
    lines = [str(explanation.path), *(f"  {label:<15}{words}" for label, words in rows)]
    if not explanation.tree_known:
        lines.append("The packages were not read: symbolic links of the tree are not followed, modes not shown.")
    return "\n".join(lines) + "\n"


def _label(label: str, lines: list[str] | tuple[str, ...]) -> list[tuple[str, str]]:
    """The label at the first line alone."""
    return [(label if number == 0 else "", line) for number, line in enumerate(lines)]


def _render_provider(explanation: Explanation) -> str:
    words = _PROVIDES[explanation.promise]
    return f"{words} ({explanation.promise.value} at {explanation.mount})" if explanation.promise else words


def _render_writable(explanation: Explanation) -> str:
    if explanation.writable is None:
        return "no promise is made: the permissions there decide"
    if explanation.strength is not None:
        return f"{_STRENGTHS[explanation.strength]} ({explanation.strength})"
    return "yes, by a program with the right to"


def _render_lands(explanation: Explanation) -> Iterator[tuple[str, str]]:
    lands = explanation.lands
    if lands is None:
        return
    where = f"on {lands.device}" if lands.device else "in memory"
    yield "lands in", f"{lands.path}, {where}"
    if lands.device is None:
        yield "room", f"{_size(lands.size_bytes)}, {lands.inodes} inodes"
    else:
        shared = ", shared by all that is kept there" if lands.shared else ""
        yield "room", f"{_size(lands.size_bytes)} as published, or what the device's has{shared}"


def _render_lost(lost: Lost | None) -> str:
    if lost is None:
        return "it does not depend on any"
    said = f"(on_failure: {lost.policy}, {lost.mark.file}:{lost.mark.line})"
    if lost.policy == "refuse":
        return f"the device does not start {said}"
    return f"{_FATES[lost.fate]}, in {_size(lost.room_bytes)} of memory until the next boot {said}"


def _render_since(explanation: Explanation) -> str:
    if explanation.stage is None:
        return "it is the running system's"
    return f"{explanation.unit} of systemd" if explanation.unit else "the initrd, before PID 1"


def _render_places(explanation: Explanation) -> list[str]:
    lines = [_render_place(place) for place in explanation.places]
    if explanation.stage is None:
        lines.append("nothing in the profile: /run, /dev, /proc and /sys are the kernel's and PID 1's")
    elif all(place.at[0] == "files" for place in explanation.places):
        lines.append(f"nothing {'else ' if lines else ''}in the profile names it: undeclared means immutable")
    return lines


def _render_place(place: Place) -> str:
    key = render_key_path(place.at)
    return f"{place.mark.file}:{place.mark.line}: {key}" if place.mark else f"the default of {key}"


def _size(size_bytes: int) -> str:
    for shift, unit in ((30, "G"), (20, "M")):
        if size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{unit}"
    return f"{size_bytes >> 10}K"
