# SPDX-License-Identifier: MIT
"""An ownership table on a tree read from the disk -> the tree it asks for.

As makedevs would have done it on the disk, but links lead within the tree and never to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from rofs.errors import Mark, Problem, ProfileError
from rofs.ownership import RULE, Ownership, Row, Who
from rofs.treefacts import Kind, Node, TreeFacts, resolve_key
from rofs.values import BadValue, show

_DEFAULT_DIR_MODE = 0o755
_NODE_KINDS: Mapping[str, Kind] = {"c": "char", "b": "block", "p": "fifo"}
_WORDS: Mapping[str, str] = {
    "dir": "directory",
    "symlink": "symbolic link",
    "char": "character device",
    "block": "block device",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """What a name of the tree leads to; `seen` is what a file must still be when its content is read."""

    kind: Kind
    mode: int
    mtime: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    target: str = ""
    rdev: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    seen: tuple[int, ...] = ()


class DiskTree:
    """Absolute path -> number of an inode -> the inode: hard links have one number."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.inodes: list[Inode] = []
        self._symlinks: dict[str, Node] = {}

    def add(self, path: str, inode: Inode) -> int:
        """Put a new inode at `path` -> its number."""
        self.inodes.append(inode)
        self.link(path, len(self.inodes) - 1)
        return self.names[path]

    def link(self, path: str, number: int) -> None:
        """Put an inode that is there already at `path` too."""
        self.names[path] = number
        inode = self.inodes[number]
        if inode.kind == "symlink":
            self._symlinks[path] = Node("symlink", inode.mode, 0, 0, target=inode.target)

    def find(self, path: str) -> Inode | None:
        """Exactly this path, no link followed."""
        return self.inodes[self.names[path]] if path in self.names else None

    def find_resolved(self, path: str) -> str | None:
        """`path` with every link followed inside the tree; None for a loop."""
        return resolve_key(self._symlinks, path)

    def resolve(self, path: str) -> str:
        """`find_resolved`; BadValue for a loop."""
        found = self.find_resolved(path)
        if found is None:
            raise BadValue(f"{show(path)}: too many levels of symbolic links")
        return found

    def resolve_parent(self, path: str) -> str:
        """`path` with the links of its directory followed."""
        directory, _, name = path.rpartition("/")
        return f"{self.resolve(directory or '/').rstrip('/')}/{name}"

    def facts(self, texts: Mapping[str, bytes]) -> TreeFacts:
        """As much of the facts as finding users takes."""
        return TreeFacts(self._symlinks, texts)


def apply_ownership(ownership: Ownership, tree: DiskTree, texts: Mapping[str, bytes]) -> None:
    """Every row in order; ProfileError for all that do not fit the tree.

    `texts` holds etc/passwd and etc/group by the paths their links lead to, where the tree has them.
    """
    facts = tree.facts(texts)
    users = {name: account.uid for name, account in facts.users().items()}
    groups = facts.groups()
    problems: list[Problem] = []

    def wrong(mark: Mark, message: str, hint: str = "") -> None:
        problems.append(Problem(mark, message, RULE, hint=hint))

    def number(who: Who, known: Mapping[str, int], what: str) -> int | None:
        if not isinstance(who.value, str):
            return who.value
        if who.value not in known:
            wrong(who.mark, f"the tree has no {what} {show(who.value)}", "write its number")
        return known.get(who.value)

    for row in ownership.rows:
        uid = number(row.user, users, "user")
        gid = number(row.group, groups, "group")
        try:
            for at in sorted({tree.names[path] for path in _PATHS[row.type](row, tree)}):
                tree.inodes[at] = _changed(tree.inodes[at], row, uid, gid)
        except BadValue as error:
            wrong(row.mark, error.message, error.hint)
    if problems:
        raise ProfileError(problems)


def _changed(inode: Inode, row: Row, uid: int | None, gid: int | None) -> Inode:
    xattrs = inode.xattrs
    if row.caps is not None:
        xattrs = {**xattrs, "security.capability": row.caps.encode()}
    return replace(
        inode,
        mode=inode.mode if row.mode is None or inode.kind == "symlink" else row.mode,
        uid=inode.uid if uid is None else uid,
        gid=inode.gid if gid is None else gid,
        xattrs=xattrs,
    )


def _file_paths(row: Row, tree: DiskTree) -> list[str]:
    """`f` and `F`."""
    path = tree.resolve(row.path)
    inode = tree.find(path)
    if inode is not None and inode.kind == "file":
        return [path]
    if row.type == "F":
        return []
    if inode is None:
        raise BadValue(f"{show(row.path)} is not in the tree", "type F for a file that may be missing")
    raise BadValue(f"{show(row.path)} is a {_word(inode)}, no file")


def _dir_paths(row: Row, tree: DiskTree) -> list[str]:
    """`d`: parents that are made are 0755 and root's, not 0777 as those of makedevs."""
    path = tree.resolve(row.path)
    above, at = "/", ""
    for name in filter(None, path.split("/")):
        at = f"{at}/{name}"
        inode, parent = tree.find(at), tree.find(above)
        if inode is None and parent is not None:
            tree.add(at, Inode(kind="dir", mode=_DEFAULT_DIR_MODE, mtime=parent.mtime))
        elif inode is not None and inode.kind != "dir":
            raise BadValue(f"{show(at)} is a {_word(inode)}, no directory")
        above = at
    return [path]


def _paths_below(row: Row, tree: DiskTree) -> list[str]:
    """`r`: no link is followed, as in makedevs; but one as its very name would be taken for its target."""
    top = tree.resolve_parent(row.path)
    inode = tree.find(top)
    if inode is None:
        raise BadValue(f"{show(row.path)} is not in the tree")
    if inode.kind == "symlink":
        raise BadValue(f"{show(row.path)} is a symbolic link", f"write {tree.resolve(top)}")
    below = f"{top.rstrip('/')}/"
    return [path for path in tree.names if path == top or path.startswith(below)]


def _node_paths(row: Row, tree: DiskTree) -> list[str]:
    """`c`, `b` and `p`: made, or there already as just that."""
    kind = _NODE_KINDS[row.type]
    paths = []
    for path, rdev in row.nodes():
        at = tree.resolve_parent(path)
        parent, inode = tree.find(at.rpartition("/")[0] or "/"), tree.find(at)
        rdev = (0, 0) if kind == "fifo" else rdev
        if parent is None or parent.kind != "dir":
            raise BadValue(f"{show(path)}: its directory is not in the tree", "make it by a row of type d above")
        if inode is None:
            tree.add(at, Inode(kind=kind, mode=0, mtime=parent.mtime, rdev=rdev))
        elif (inode.kind, inode.rdev) != (kind, rdev):
            numbers = f" {inode.rdev[0]}:{inode.rdev[1]}" if inode.kind == kind else ""
            raise BadValue(f"{show(path)} is in the tree already, as a {_word(inode)}{numbers}")
        paths.append(at)
    return paths


_PATHS: Mapping[str, Callable[[Row, DiskTree], list[str]]] = {
    **dict.fromkeys("fF", _file_paths),
    "d": _dir_paths,
    "r": _paths_below,
    **dict.fromkeys("cbp", _node_paths),
}
"""By type: the paths a row is for, made where they must be."""


def _word(inode: Inode) -> str:
    return _WORDS.get(inode.kind, inode.kind)
