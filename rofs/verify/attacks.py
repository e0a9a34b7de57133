# SPDX-License-Identifier: MIT
"""The table of attacks: what each may honestly answer, for each strength of read-only.

`docs/attacks.md` is this table for readers, `probe/ops_attack.c` the other end. Whatever is not here breaks the
promise: another errno, an effect, an attack that is not in the table, one that was not made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Strength = Literal["image-ro", "pinned-ro", "mount-ro"]
STRENGTHS: tuple[Strength, ...] = ("image-ro", "pinned-ro", "mount-ro")

WRITTEN = "takes effect"
"""What root can do to a bind that is only marked read-only over something writable (design, mount-ro)."""
NO_FILE = "no regular file below"
NO_DIR = "no directory below"
NO_PARENT = "no parent but the root"
NO_HANDLES = "no file handles"
NO_IO_URING = "no io_uring"
NO_DEVICE = "not on a device"
NO_IMAGE = "not the image"
TOO_LARGE = "too large to put back"
NOT_RESTORABLE = "an attribute that cannot be put back"

DEVICE_OPEN = frozenset({"EACCES", "EBUSY", "EPERM", "EROFS"})
"""Opening the root's device for writing; EBUSY where the kernel lets nobody write to what is mounted."""
DEVICE_WRITE = frozenset({"EPERM"})
"""Writing to it, where opening it is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack on a path. An answer is an errno, WRITTEN, or the reason why nothing was tried.

    `kinds` of paths have it. `answers` are the honest ones; `at_mount_point` those where the victim is the path
    itself and a mount point, whose name the mount around it holds.
    """

    name: str
    kinds: tuple[str, ...]
    victim: Literal["path", "fresh", "file", "dir"]
    answers: Mapping[Strength, frozenset[str]]
    at_mount_point: frozenset[str]

    def honest(self, strength: Strength, kind: str, *, mount_point: bool) -> frozenset[str]:
        """Every answer that keeps the promise."""
        is_path = self.victim == "path" or (self.victim == "file" and kind == "file")
        return self.at_mount_point if mount_point and is_path and self.at_mount_point else self.answers[strength]


_DIR = ("dir",)
_BOTH = ("dir", "file")
_ALL = ("dir", "file", "other")
_MISSING = {"path": (), "fresh": (), "file": (NO_FILE,), "dir": (NO_DIR,)}
_BUSY = ("EBUSY", "EROFS")
"""A mount point's name: EROFS where the mount around it is read-only too."""


def _row(
    name: str,
    kinds: tuple[str, ...],
    victim: Literal["path", "fresh", "file", "dir"],
    answers: tuple[str, ...] = ("EROFS",),
    *,
    pinned_ro: tuple[str, ...] | None = None,
    mount_ro: tuple[str, ...] | None = None,
    at_mount_point: tuple[str, ...] = (),
) -> Attack:
    pinned = answers if pinned_ro is None else pinned_ro
    weak = pinned if mount_ro is None else mount_ro
    by_strength: dict[Strength, tuple[str, ...]] = {"image-ro": answers, "pinned-ro": pinned, "mount-ro": weak}
    return Attack(
        name=name,
        kinds=kinds,
        victim=victim,
        answers={s: frozenset((*found, *_MISSING[victim])) for s, found in by_strength.items()},
        at_mount_point=frozenset(at_mount_point),
    )


_ROWS = (
    _row("create", _DIR, "fresh"),
    _row("tmpfile", _DIR, "fresh"),
    _row("mkdir", _DIR, "fresh"),
    _row("symlink", _DIR, "fresh"),
    _row("mknod", _DIR, "fresh"),
    _row("link", _BOTH, "file", at_mount_point=("EROFS", "EXDEV")),
    _row("rename", _BOTH, "file", at_mount_point=_BUSY),
    _row("rename-dir", _DIR, "dir"),
    _row("rename-over", _BOTH, "file", ("EXDEV",)),
    _row("unlink", _BOTH, "file", at_mount_point=_BUSY),
    _row("rmdir", _DIR, "dir"),
    _row("open-write", _BOTH, "file"),
    _row("open-trunc", _BOTH, "file", ("EROFS", TOO_LARGE)),
    _row("open-append", _BOTH, "file"),
    _row("truncate", _BOTH, "file"),
    _row("fallocate", _BOTH, "file"),
    _row("mmap", _BOTH, "file"),
    _row("copy-range", _BOTH, "file"),
    _row("sendfile", _BOTH, "file"),
    _row("splice", _BOTH, "file"),
    _row("io-uring", _BOTH, "file", ("EROFS", NO_IO_URING)),
    _row("handle", _BOTH, "file", ("EROFS", NO_HANDLES)),
    _row("ftruncate-ro", _BOTH, "file", ("EINVAL",)),
    _row("fallocate-ro", _BOTH, "file", ("EBADF",)),
    _row("mprotect", _BOTH, "file", ("EACCES",)),
    _row("access", _BOTH, "path"),
    _row("chmod", _BOTH, "path"),
    _row("chown", _ALL, "path"),
    _row("utimes", _ALL, "path"),
    _row("setxattr-user", _BOTH, "path"),
    _row("setxattr-trusted", _ALL, "path"),
    _row("removexattr", _ALL, "path", ("EROFS", NOT_RESTORABLE)),
    _row("setflags", _BOTH, "path", ("EROFS", "ENOTTY")),
    _row("chmod-file", _DIR, "file"),
    _row("chown-file", _DIR, "file"),
    _row("utimes-file", _DIR, "file"),
    _row("setxattr-file", _DIR, "file"),
    _row("rename-self", ("dir", "other"), "path", at_mount_point=_BUSY),
    _row("rename-parents", _ALL, "path", ("EROFS", NO_PARENT), pinned_ro=(*_BUSY, NO_PARENT)),
    _row("remount", _ALL, "path", mount_ro=("EROFS", WRITTEN)),
    _row("remount-super", _ALL, "path", ("EACCES",), mount_ro=(NO_IMAGE,)),
    _row("ns-remount", _BOTH, "path", mount_ro=("EROFS", WRITTEN)),
    _row("ns-bind", _BOTH, "path", mount_ro=("EROFS", WRITTEN)),
    _row("ns-device", _BOTH, "path", ("EACCES", "EBUSY"), mount_ro=("EACCES", "EBUSY", "EROFS", WRITTEN, NO_DEVICE)),
    _row("ns-handle", _BOTH, "file", ("EROFS", NO_HANDLES), mount_ro=("EROFS", WRITTEN, NO_HANDLES)),
)
ATTACKS: Mapping[str, Attack] = {row.name: row for row in _ROWS}


def kind_of(probe_type: str) -> str:
    """The probe's word for the path's type -> the kind that the table has."""
    return probe_type if probe_type in _BOTH else "other"
