# SPDX-License-Identifier: MIT
"""Layout, entries, Scenario -> checks that what is new in a boot begins as the image's content, and as nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rofs.entry import Entry
from rofs.layout import MACHINE_ID, Layout, Mount, Promise, image_path
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, by_path, kept, names, trouble
from rofs.verify.copies import SINCE, copy_check, find_leftovers
from rofs.verify.scenario import Scenario

_MOST_FILES = 8
_SQUASHFS_INODE = 0xFFFFFFFF


def content_of_image_checks(layout: Layout, entries: Sequence[Entry], scenario: Scenario) -> Iterator[Check]:
    """An overlay shows the image's content; so does a bind that is seeded from it at each boot.

    The state of a device may hide the image, and what the boot before wrote may be in the way of this one.
    """
    for mount in layout.mounts:
        if mount.promise is Promise.BIND_TMPFS:
            seeded = (p for p in layout.prepares if p.of == mount.where and p.seed is not None)
            yield from (copy_check("image content", mount, prepare) for prepare in seeded)
        elif mount.promise is Promise.OVERLAY_TMPFS:
            yield _overlay_check(layout, entries, mount, fresh=True)
        elif mount.promise is Promise.OVERLAY_STATE and scenario.state != "kept":
            yield _overlay_check(layout, entries, mount, fresh=scenario.state != "used")


def _overlay_check(layout: Layout, entries: Sequence[Entry], mount: Mount, *, fresh: bool) -> Check:
    (upper,) = (p.path for p in layout.prepares if p.of == mount.where and p.path.name == "upper")
    image = image_path(mount.where)
    files = [e.path for e in entries if e.kind == "file" and e.path != MACHINE_ID and layout.owner(e.path) is mount]
    triples = [(str(f), image_path(f), str(upper / f.relative_to(mount.where))) for f in files[:_MOST_FILES]]
    inside = (wire.files([p for row in triples for p in row]),) if triples else ()
    past = (wire.compare(str(upper), image, upper=True), *SINCE) if fresh else ()
    return Check(
        promise="image content", subject=str(mount.where), at=mount.at,
        ops=(wire.list_dir(image), wire.list_dir(str(mount.where)), *inside, *past),
        judge=partial(_judge_overlay, triples, fresh),
    )  # fmt: skip


def _judge_overlay(triples: Sequence[tuple[str, str, str]], fresh: bool, facts: Sequence[Facts]) -> Verdict:
    """Names are compared one directory deep; what is further down is the overlay's, if a few files of it are."""
    expected = "every name of the image's directory"
    expected += ", hidden by nothing but what was written since the boot began" if fresh else ""
    image, live = names(facts[0]), names(facts[1])
    if image is None or live is None:
        return broken(expected, trouble(facts[0]) or trouble(facts[1]) or "cannot be listed")
    missing = sorted(set(image) - set(live))
    wrong = [f"missing: {', '.join(missing[:8])}"] if missing else []
    leftovers = find_leftovers(facts[-3:]) if fresh else ""
    files, others = shown_from_below(triples, by_path(facts[2])) if triples else (0, [])
    wrong += [leftovers] if leftovers else []
    wrong += [f"not the image's own file: {', '.join(others)}"] if others else []
    if wrong:
        return broken(expected, "; ".join(wrong))
    seen = f"all {len(image)} names of the image" if image else "the image's directory is empty"
    return kept(expected, f"{seen}, {files} generated files below are the image's own" if files else seen)


def shown_from_below(triples: Sequence[tuple[str, str, str]], seen: dict[str, Facts]) -> tuple[int, list[str]]:
    """How many files are shown from the layer below, and those of them that are not the image's.

    Where its layers are on different file systems, as here, overlayfs shows a file that is not copied up with the
    inode number it has below; only a kernel that composes inode numbers (xino) puts the layer's into the high bits,
    which squashfs leaves free. The upper directory is looked at last: what it lacks then it lacked before.
    """
    below = [row for row in triples if seen.get(row[2], {}).get("errno") == "ENOENT"]
    others = [live for live, image, _ in below if not _is_same(seen.get(live, {}), seen.get(image, {}))]
    return len(below), others


def _is_same(live: Facts, image: Facts) -> bool:
    one, other = live.get("ino"), image.get("ino")
    return isinstance(one, int) and isinstance(other, int) and one & _SQUASHFS_INODE == other & _SQUASHFS_INODE
