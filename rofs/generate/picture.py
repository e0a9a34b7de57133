# SPDX-License-Identifier: MIT
"""Layout -> the tree of promises as a picture for people."""

from __future__ import annotations

from pathlib import PurePosixPath

from rofs.errors import render_key_path
from rofs.layout import ROOT, RUN, SYSTEM_OWNED, Layout, Mount, Role, Stage, is_within


def render_picture(layout: Layout) -> str:
    """Every path that something is said about, below its parent, with who provides it and since when."""
    mounts = {m.where: m for m in layout.mounts if not is_within(m.where, RUN)}
    paths = {*mounts, *layout.immutable, *layout.top_level}
    rows = [
        (indent, name, _words(layout, mounts.get(path), path)) for indent, name, path in _walk(ROOT, "/", paths, "")
    ]
    width = max(len(indent) + len(name) for indent, name, _ in rows) + 2
    return "".join(f"{indent}{name}".ljust(width) + f"{words}\n" for indent, name, words in rows)


def _walk(
    path: PurePosixPath, name: str, paths: set[PurePosixPath], indent: str
) -> list[tuple[str, str, PurePosixPath]]:
    """Depth first; a path hangs below its nearest ancestor that is in the picture."""
    rows = [(indent, name, path)]
    below = sorted(
        p for p in paths if path in p.parents and not any(path in q.parents and q in p.parents for q in paths)
    )
    trunk = indent[:-4] + {"├── ": "│   ", "└── ": "    "}.get(indent[-4:], "")
    for child in below:
        branch = trunk + ("└── " if child == below[-1] else "├── ")
        rows += _walk(child, str(child.relative_to(path)), paths, branch)
    return rows


def _words(layout: Layout, mount: Mount | None, path: PurePosixPath) -> str:
    if path in SYSTEM_OWNED:
        return "of the kernel and PID 1"
    if mount is None:
        owner = layout.owner(path)
        declared = " (declared)" if path in layout.immutable else ""
        return f"{owner.promise.value}{declared}" if owner.role is Role.ROOT else f"as {owner.where}"
    facts = [mount.promise.value]
    if mount.size_bytes:
        facts.append(f"{mount.size_bytes >> 10}K, {mount.inodes} inodes")
    if mount.is_bind and mount.role is not Role.PIN:
        facts.append(f"from {mount.what}")
    if mount.mode is not None:
        uid, gid = ("?" if number is None else number for number in (mount.uid, mount.gid))
        facts.append(f"{mount.mode:04o} {uid}:{gid}")
    facts.append("by the initrd" if mount.stage is Stage.INITRD else "by systemd")
    return ", ".join(facts) + f"  [{render_key_path(mount.at)}]"
