# SPDX-License-Identifier: MIT
"""Tars + drop patterns + generated entries -> Union: for each path of the image, where it comes from.

Later tars add to earlier ones as in `treefacts`; a drop pattern takes away; an entry stands above all.
ImageError where the parts make no tree.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from rofs.entry import Entry
from rofs.errors import ImageError
from rofs.image.tarstream import SQUASHFS_XATTRS, Member, find_acl, kept_xattrs, scan
from rofs.treefacts import Kind, member_path
from rofs.values import show

Resolve = Callable[[PurePosixPath], PurePosixPath]
"""A path of the tree with its links followed, as `TreeFacts.resolve`."""
Note = Callable[[str], None]


@dataclass(slots=True, eq=False)
class Item:
    """A member of one of the tars, at the path where it lands; `first` is the item a hard link means."""

    path: str
    member: Member
    source: int
    first: Item | None = None


@dataclass(slots=True)
class Union:
    """What the stream will hold: the tars' items in order, by path those that count, and the entries."""

    items: deque[Item] = field(default_factory=deque)
    chosen: dict[str, Item] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)

    def kind(self, path: str) -> Kind | None:
        """What the image has at `path`."""
        if path in self.entries:
            return self.entries[path].kind
        return self.chosen[path].member.kind if path in self.chosen else None


def unite(
    tars: Sequence[Path],
    entries: Sequence[Entry],
    drop: Sequence[str],
    *,
    acl: Literal["error", "drop"],
    resolve: Resolve,
    note: Note,
) -> Union:
    """Read all headers and decide; no content is touched."""
    union, place = Union(), _placer(resolve)
    for number, tar in enumerate(tars):
        _add_tar(union, tar, number, place, resolve, note)
    _drop(union, drop)
    _add_entries(union, entries, place, resolve)
    _add_parents(union)
    _check_attributes(union, acl)
    return union


def _placer(resolve: Resolve) -> Callable[[str], str]:
    """Absolute path -> the path with its directory's links followed."""
    known: dict[str, str] = {}

    def place(path: str) -> str:
        directory, _, name = path.rpartition("/")
        if not name:
            return "/"
        if directory not in known:
            known[directory] = str(resolve(PurePosixPath(directory or "/"))).rstrip("/")
        return f"{known[directory]}/{name}"

    return place


def _plain(name: str) -> str:
    """A name of the tar for a message: on one line."""
    return name if name.isprintable() else show(name)


def _is_link_to_dir(union: Union, path: str, resolve: Resolve) -> bool:
    return union.kind(path) == "symlink" and union.kind(str(resolve(PurePosixPath(path)))) == "dir"


def _add_tar(
    union: Union,
    tar: Path,
    number: int,
    place: Callable[[str], str],
    resolve: Resolve,
    note: Note,
) -> None:
    """Choose as `treefacts` does: of one tar the last counts, of several the first directory."""
    for member in scan(tar):
        item = Item(place(member.path), member, number)
        if item.path == member.path:
            member.path = item.path
        old = union.chosen.get(item.path)
        if old is not None and member.kind == "dir":
            if old.source != number and old.member.kind == "dir":
                continue
            if _is_link_to_dir(union, item.path, resolve):
                continue
        if old is not None and (old.member.kind == "dir") != (member.kind == "dir"):
            kinds = f"a {old.member.kind} and a {member.kind}"
            raise ImageError(f"{tar.name}: {_plain(item.path)} would be both {kinds}")
        if old is not None and old.source == number:
            note(f"{tar.name}: {_plain(item.path)} is there twice; the last one counts")
        if member.kind == "hardlink":
            target = union.chosen.get(place(member_path(tar, member.info.linkname)))
            if target is None or target.member.kind == "dir":
                nothing = _plain(member.info.linkname)
                raise ImageError(f"{tar.name}: {_plain(item.path)} is a hard link to nothing: {nothing}")
            item.first = target.first or target
        union.items.append(item)
        union.chosen[item.path] = item


def drop_matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Glob patterns -> does one name this path or a directory above it? `*` stops at "/", `**` does not."""
    if not patterns:
        return lambda _: False
    regex = re.compile("|".join(f"(?:{_glob_regex(pattern)})(?:/.*)?" for pattern in patterns), re.DOTALL)
    return lambda path: regex.fullmatch(path) is not None


def _glob_regex(pattern: str) -> str:
    parts = re.split(r"(\*\*|\*|\?|\[!?[^]]+\])", pattern)
    special = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = ""
    for part in parts:
        is_set = len(part) > 2 and part[0] == "[" and part[-1] == "]"
        text += special.get(part) or (part.replace("[!", "[^", 1) if is_set else re.escape(part))
    return text


def _drop(union: Union, patterns: Sequence[str]) -> None:
    matches = drop_matcher(patterns)
    for path in [path for path in union.chosen if path != "/" and matches(path)]:
        del union.chosen[path]


def _add_entries(union: Union, entries: Sequence[Entry], place: Callable[[str], str], resolve: Resolve) -> None:
    for entry in entries:
        path = place(str(entry.path))
        there = union.entries.get(path)
        if there is not None and not _agree(there, entry):
            raise ImageError(f"{path} is generated twice: for {there.why or '?'} and for {entry.why or '?'}")
        kind = union.kind(path)
        clash = kind is not None and (kind == "dir") != (entry.kind == "dir")
        if clash and (kind != "symlink" or _is_link_to_dir(union, path, resolve)):
            raise ImageError(f"{path}: a {entry.kind} cannot replace the tree's {kind} ({entry.why})")
        union.entries[path] = entry
    for path in union.entries:
        union.chosen.pop(path, None)


def _agree(one: Entry, other: Entry) -> bool:
    return replace(one, path=other.path, why=other.why) == other


def _add_parents(union: Union) -> None:
    """Make directories nobody named, 0755 root; ImageError where something else is in the way."""
    done: set[str] = {"/"}
    if union.kind("/") is None:
        union.entries["/"] = Entry(path=PurePosixPath("/"), kind="dir", mode=0o755)
    for path in [*union.chosen, *union.entries]:
        above = path.rpartition("/")[0]
        while above and above not in done:
            done.add(above)
            kind = union.kind(above)
            if kind is None:
                union.entries[above] = Entry(path=PurePosixPath(above), kind="dir", mode=0o755)
            elif kind != "dir":
                why = union.entries[path].why if path in union.entries else ""
                raise ImageError(
                    f"{_plain(path)}: {_plain(above)} is a {kind}, no directory" + (f" ({why})" if why else "")
                )
            above = above.rpartition("/")[0]


def _check_attributes(union: Union, acl: Literal["error", "drop"]) -> None:
    abouts = ((path, (item.first or item).member.info) for path, item in union.chosen.items())
    infos = [(path, about) for path, about in abouts if about.pax_headers]
    with_acl = [_plain(path) for path, info in infos if acl == "error" and find_acl(info)]
    if with_acl:
        more = f" and {len(with_acl) - 5} more" if len(with_acl) > 5 else ""
        raise ImageError(
            f"squashfs cannot hold POSIX ACLs, and these have one: {', '.join(with_acl[:5])}{more}"
            " (set `image.acl: drop` to leave them out)"
        )
    for path, info in infos:
        for name in kept_xattrs(info):
            if not name.startswith(SQUASHFS_XATTRS):
                raise ImageError(f"{_plain(path)}: squashfs cannot hold the extended attribute {_plain(name)}")
