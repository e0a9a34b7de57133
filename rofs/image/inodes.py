# SPDX-License-Identifier: MIT
"""Members of the image -> its tree, and the inodes in the order that tar2sqfs 1.x gives them.

Names are sorted by byte. A directory's members have numbers in a row, after all that is below them; the root is the
last. A hard link's file comes no later than the first directory that names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import cache
from typing import Any

from rofs.errors import ImageError
from rofs.image.tarstream import Header
from rofs.treefacts import Kind

_NO_CHILDREN: dict[bytes, Any] = {}
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


class Node:
    """An inode. `mode` has its type; `links` counts as tar2sqfs does; `ref` is where it was written.

    `extra` is a symbolic link's target as bytes, a device's number, or whatever the caller says of a file.
    """

    __slots__ = (
        *("children", "extra", "gid", "kind", "links", "mode", "mtime"),
        *("name", "number", "parent", "ref", "uid", "xattrs"),
    )

    def __init__(self, header: Header, name: bytes, parent: Node | None) -> None:
        self.kind, self.name, self.parent = header.kind, name, parent
        self.mode = _mode(header.kind, header.mode)
        self.uid, self.gid, self.mtime = header.uid, header.gid, min(header.mtime, _LAST_TIME)
        self.links = 2 if header.kind == "dir" else 1
        self.children: dict[bytes, Node] = _NO_CHILDREN if header.kind != "dir" else {}
        self.number = self.ref = 0
        self.xattrs = NO_XATTRS
        self.extra: int | bytes = 0
        if header.kind == "symlink":
            self.extra = os.fsencode(header.target)
        elif header.kind in ("char", "block"):
            self.extra = os.makedev(*header.rdev) & 0xFFFFFFFF


class Inodes:
    """The tree, grown member by member, parents first."""

    def __init__(self) -> None:
        self._folders: dict[str, Node] = {}

    def add(self, header: Header) -> Node:
        """A new node, or of a hard link the node it means. ImageError where its directory or file is not there yet."""
        if header.path == "/":
            self._folders["/"] = root = Node(header, b"", None)
            return root
        above, _, last = header.path.rpartition("/")
        parent, name = self._folder(above), os.fsencode(last)
        if header.kind == "hardlink":
            where, _, other = header.target.rpartition("/")
            node = self._folder(where).children.get(os.fsencode(other))
            if node is None:
                raise ImageError(f"{header.path}: a hard link to nothing: {header.target}")
            node.links += 1
        else:
            node = Node(header, name, parent)
            if header.kind == "dir":
                self._folders[header.path] = node
        parent.children[name] = node
        parent.links += 1
        return node

    def _folder(self, path: str) -> Node:
        try:
            return self._folders[path or "/"]
        except KeyError:
            raise ImageError(f"{path or '/'}: something is below it before it is there") from None

    def ordered(self) -> list[Node]:
        """All nodes in order, numbered from 1; sorts the children of each directory."""
        order: list[Node] = []
        for node in self._numbered():
            if node.number:
                continue  # a directory before it has a link to it
            if node.kind == "dir":
                for child in node.children.values():
                    if not child.number:
                        _append(order, child)
            _append(order, node)
        return order

    def _numbered(self) -> Iterator[Node]:
        """As if there were no links."""
        root = self._folders["/"]
        stack = [(root, _folders_of(root))]
        while stack:
            folder, below = stack[-1]
            inner = next(below, None)
            if inner is not None:
                stack.append((inner, _folders_of(inner)))
                continue
            stack.pop()
            for name, child in folder.children.items():
                if child.parent is folder and child.name == name:
                    yield child
        yield root


@cache
def _mode(kind: Kind, mode: int) -> int:
    """One number for all nodes that have it."""
    return _MODES[kind] | mode


def _folders_of(folder: Node) -> Iterator[Node]:
    folder.children = dict(sorted(folder.children.items()))
    return iter([child for child in folder.children.values() if child.kind == "dir"])


def _append(order: list[Node], node: Node) -> None:
    order.append(node)
    node.number = len(order)
