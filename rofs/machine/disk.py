# SPDX-License-Identifier: MIT
"""A shipped image -> a disk the guest may write to without touching it, and what the guest wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rofs.errors import MachineError
from rofs.profile import Persistent
from rofs.run import run

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """Bytes of the disk, as the guest counts them, that live in the overlay and not in the base."""

    start_bytes: int
    size_bytes: int


def virtual_size(size_bytes: int) -> int:
    """The size of a disk that holds `size_bytes`: whole sectors."""
    return -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES


def check_state(stores: Sequence[Persistent], state: Mapping[str, Path]) -> None:
    """A device's disks, by the store's name: of what the image has, and of all of it or none; else MachineError."""
    check_names(stores, state)
    for path in state.values():
        if not path.is_file():
            raise MachineError(f"{path} is no image of a disk")
    if missing := [store.name for store in stores if state and store.name not in state]:
        more = " ".join(f"--state {name}=FILE" for name in missing)
        raise MachineError(f"all that persists belongs together: give {more} too")


def check_names(stores: Sequence[Persistent], names: Iterable[str]) -> None:
    """MachineError for a store that the image does not have."""
    known = [store.name for store in stores]
    for name in names:
        if name not in known:
            raise MachineError(f"the image has no {name}" + (f", it has {', '.join(known)}" if known else ""))


def overlay_argv(base: Path, out: Path) -> list[str]:
    """qemu-img's words for a copy-on-write overlay over a raw file; both paths are made absolute."""
    size = str(virtual_size(base.stat().st_size))
    backing = ["-F", "raw", "-b", str(base.absolute())]
    return ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(out.absolute()), size]


def make_overlay(base: Path, out: Path, *, log: Path | None = None) -> Path:
    """Make `out`, a qcow2 disk that shows `base` and keeps every write to itself; returns `out`."""
    run(overlay_argv(base, out), log=log, timeout_s=60)
    return out


def allocated(overlay: Path, *, log: Path | None = None) -> list[Extent]:
    """What was written to `overlay`, in order; empty means that the disk is as it shipped.

    A discarded range counts too: it hides the base as a write does. `depth` is qemu-img(1)'s: 0 is
    the overlay itself. Do not ask while QEMU has the disk open.
    """
    argv = ["qemu-img", "map", "--output=json", "-f", "qcow2", str(overlay.absolute())]
    rows = json.loads(run(argv, log=log, timeout_s=60).stdout)
    return sorted(Extent(row["start"], row["length"]) for row in rows if row["depth"] == 0 and row.get("present", True))
