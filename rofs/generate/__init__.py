# SPDX-License-Identifier: MIT
"""Layout, Inputs, TreeFacts -> every generated path of the image. Pure: no file, no process, no clock."""

from __future__ import annotations

from pathlib import PurePosixPath

from rofs.entry import Entry
from rofs.errors import render_key_path
from rofs.generate.accounts import account_entries
from rofs.generate.identity import identity_entries, masked_units
from rofs.generate.mounts import mount_entries
from rofs.generate.units import unit_entries
from rofs.inputs import Inputs
from rofs.layout import Layout, find_gid, find_primary_gid, find_uid
from rofs.profile import Profile
from rofs.treefacts import TreeFacts

__all__ = ["generate"]


def generate(layout: Layout, inputs: Inputs, facts: TreeFacts, epoch: int) -> tuple[Entry, ...]:
    """All entries, sorted by path; where two speak of one path the profile's own file is the last word."""
    profile = layout.profile
    files = file_entries(profile, inputs, facts)
    entries = [
        *(_mount_point(path) for path in layout.mount_points),
        *identity_entries(layout, facts),
        *unit_entries(profile, facts, files, masked_units(layout, facts)),
        *mount_entries(layout),
        *account_entries(profile, inputs, facts, epoch),
        *files,
    ]
    by_path = {entry.path: entry for entry in entries}
    return tuple(by_path[path] for path in sorted(by_path))


def _mount_point(path: PurePosixPath) -> Entry:
    mode = 0o1777 if path.name == "tmp" else 0o755
    return Entry(path=path, kind="dir", mode=mode, why="mounts")


def file_entries(profile: Profile, inputs: Inputs, facts: TreeFacts) -> list[Entry]:
    """`files`: owner and group default to root, mode to 0644."""
    entries = []
    for index, decl in enumerate(profile.files):
        uid = find_uid(profile, facts, decl.owner) if decl.owner else 0
        gid = find_primary_gid(profile, facts, decl.owner) if decl.owner else 0
        gid = find_gid(profile, facts, decl.group) if decl.group else gid
        content = (decl.content or "").encode() if decl.source is None else inputs.files[index]
        entries.append(
            Entry(
                path=decl.path, kind="symlink" if decl.link is not None else "file",
                mode=0o777 if decl.link is not None else 0o644 if decl.mode is None else decl.mode,
                uid=uid or 0, gid=gid or 0, content=b"" if decl.link is not None else content,
                target=decl.link or "", why=render_key_path(decl.at),
            )
        )  # fmt: skip
    return entries
