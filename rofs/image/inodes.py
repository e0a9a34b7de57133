# SPDX-License-Identifier: MIT
"""Members of the image -> its tree, and the inodes in the order that tar2sqfs 1.x gives them.

Names are sorted by byte. A directory's members have numbers in a row, after all that is below them; the root is the
last. A hard link's file comes no later than the first directory that names it.
"""

from __future__ import annotations

import itertools
import os
import stat
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rofs.errors import ImageError
from rofs.image.tarstream import Header
from rofs.treefacts import Kind

NO_XATTRS = 0xFFFFFFFF
_LAST_TIME = 0xFFFFFFFF
_MODES: dict[Kind, int] = {
    "dir": stat.S_IFDIR,
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "block": stat.S_IFBLK,
    "char": stat.S_IFCHR,
    "fifo": stat.S_IFIFO,
}


class About(NamedTuple):
    """What many inodes have alike; these share one. `mode` has the type."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int


class Folder:
    """A directory's members by name, and what their inodes are; `above` is the inode of its own directory."""

    __slots__ = ("_found", "_linked", "_names", "_nodes", "above")

    def __init__(self, above: int | None) -> None:
        self.above = above
        self._names = bytearray()  # each with a NUL behind it: objects of their own would cost thrice as much
        self._nodes = array("I")
        self._linked: set[bytes] = set()
        self._found: dict[bytes, int] | None = None

    def put(self, name: bytes, node: int, *, linked: bool) -> None:
        """Add a member; `linked` where its inode has its place elsewhere."""
        self._names += name + b"\0"
        self._nodes.append(node)
        if linked:
            self._linked.add(name)
        if self._found is not None:
            self._found[name] = node

    def find(self, name: bytes) -> int | None:
        """The inode of a member. There are few links, so the names are gathered when the first one asks."""
        if self._found is None:
            self._found = dict(self)
        return self._found.get(name)

    def sort(self) -> None:
        """By name. ImageError for one that is there twice."""
        members = sorted(self)
        for (one, _), (other, _) in itertools.pairwise(members):
            if one == other:
                raise ImageError(f"{os.fsdecode(one)}: there twice in its directory")
        self._names = bytearray().join(name + b"\0" for name, _ in members)
        self._nodes = array("I", [node for _, node in members])
        self._found = None

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Names and inodes."""
        return zip(bytes(self._names).split(b"\0")[:-1], self._nodes, strict=True)

    def own(self) -> Iterator[int]:
        """The inodes that have their place here."""
        return (node for name, node in self if name not in self._linked)


class Inodes:
    """The tree, grown member by member, parents first. An inode is a number, in the order they came; see its columns.

    By column, as there may be very many: `links` counts as tar2sqfs does, `numbers` are those of the image, from 1,
    `refs` where it was written, `extras` a device's number or whatever the caller says of a file, `targets` those of
    symbolic links, `xattrs` the attributes of the inodes that have some.
    """

    def __init__(self) -> None:
        self.abouts: list[About] = []
        self.links, self.numbers, self.refs, self.extras = array("I"), array("I"), array("Q"), array("Q")
        self.targets: dict[int, bytes] = {}
        self.xattrs: dict[int, int] = {}
        self.folders: dict[int, Folder] = {}
        self._places: dict[bytes, int] = {}  # strings of the caller's would stay among many that can go
        self._shared: dict[About, About] = {}

    def add(self, header: Header) -> int:
        """A new inode, or of a hard link the one it means. ImageError where its directory or file is not there yet."""
        if header.path == "/":
            return self._new(header, None)
        directory, _, last = header.path.rpartition("/")
        above, linked = self._place(directory), header.kind == "hardlink"
        node = self._meant(header) if linked else self._new(header, above)
        self.folders[above].put(os.fsencode(last), node, linked=linked)
        self.links[above] += 1
        return node

    def _new(self, header: Header, above: int | None) -> int:
        kind, node = header.kind, len(self.abouts)
        about = About(kind, _MODES[kind] | header.mode, header.uid, header.gid, min(header.mtime, _LAST_TIME))
        self.abouts.append(self._shared.setdefault(about, about))
        self.links.append(2 if kind == "dir" else 1)
        self.numbers.append(0)
        self.refs.append(0)
        self.extras.append(os.makedev(*header.rdev) & 0xFFFFFFFF if kind in ("char", "block") else 0)
        if kind == "dir":
            self._places[os.fsencode(header.path)] = node
            self.folders[node] = Folder(above)
        elif kind == "symlink":
            self.targets[node] = os.fsencode(header.target)
        return node

    def _meant(self, header: Header) -> int:
        directory, _, name = header.target.rpartition("/")
        node = self.folders[self._place(directory)].find(os.fsencode(name))
        if node is None:
            raise ImageError(f"{header.path}: a hard link to nothing: {header.target}")
        self.links[node] += 1
        return node

    def _place(self, path: str) -> int:
        try:
            return self._places[os.fsencode(path or "/")]
        except KeyError:
            raise ImageError(f"{path or '/'}: something is below it before it is there") from None

    def ordered(self) -> array[int]:
        """All inodes in the order of the image, which numbers them. The tree is whole then."""
        for folder in self.folders.values():
            folder.sort()
        order = array("I")
        for node in self._inner_first():
            if self.numbers[node]:
                continue  # a directory before it has a link to it
            if node in self.folders:
                self._append(order, (child for _, child in self.folders[node] if not self.numbers[child]))
            self._append(order, (node,))
        return order

    def _append(self, order: array[int], nodes: Iterable[int]) -> None:
        for node in nodes:
            order.append(node)
            self.numbers[node] = len(order)

    def _inner_first(self) -> Iterator[int]:
        """As if there were no links."""
        root = self._places[b"/"]
        stack = [(root, self._folders_in(root))]
        while stack:
            folder, below = stack[-1]
            inner = next(below, None)
            if inner is not None:
                stack.append((inner, self._folders_in(inner)))
                continue
            stack.pop()
            yield from self.folders[folder].own()
        yield root

    def _folders_in(self, folder: int) -> Iterator[int]:
        return (node for node in self.folders[folder].own() if node in self.folders)
