# SPDX-License-Identifier: MIT
"""/proc/PID/mountinfo -> rows (proc_pid_mountinfo(5))."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from rofs.generate.escape import unfstab
from rofs.layout import is_within


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One live mount. `flags` are the mount's own options, `super_options` the file system's."""

    device: str
    root: str
    where: PurePosixPath
    flags: frozenset[str]
    propagation: frozenset[str]
    type: str
    source: str
    super_options: tuple[str, ...]

    @property
    def settings(self) -> dict[str, str]:
        """`size=65536k` as a table; plain words map to ''."""
        return dict(option.partition("=")[::2] for option in self.super_options)

    def __str__(self) -> str:
        flags = ",".join(sorted(self.flags))
        root = "" if self.root == "/" else f"[{self.root}]"
        return f"{self.type} {self.source}{root} {flags} {','.join(self.super_options)}"


@lru_cache(maxsize=8)
def parse_mountinfo(text: str) -> tuple[Row, ...]:
    """Every line, in the kernel's order: a later row on the same path covers the earlier one.

    The kernel escapes no other line break than its own.
    """
    return tuple(_row(line) for line in text.split("\n") if line)


def _row(line: str) -> Row:
    left, _, right = line.partition(" - ")
    fields, optional = [*left.split(" ")[:6], *[""] * 6], left.split(" ")[6:]  # a line cut short is a strange mount
    fstype, source, options = [*right.split(" "), "", ""][:3]
    return Row(
        device=fields[2],
        root=unfstab(fields[3]),
        where=PurePosixPath(unfstab(fields[4])),
        flags=frozenset(fields[5].split(",")),
        propagation=frozenset(optional),
        type=fstype,
        source=unfstab(source),
        super_options=_split_options(options),
    )


def _split_options(text: str) -> tuple[str, ...]:
    return tuple(unfstab(option) for option in text.split(","))


def covering(rows: tuple[Row, ...], path: PurePosixPath, without: PurePosixPath | None = None) -> Row | None:
    """The row that provides `path`; `without` leaves the mounts on one path out."""
    found = [r for r in rows if is_within(path, r.where) and r.where != without]
    return max(reversed(found), key=lambda r: len(r.where.parts), default=None)
