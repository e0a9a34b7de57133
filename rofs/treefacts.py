# SPDX-License-Identifier: MIT
"""Tar streams, one pass -> TreeFacts: what the layout must know of the tree, and how its paths resolve.

The format is Python's `tarfile`'s business. Here names become absolute paths of the image, later tars
add to earlier ones as dpkg would (a directory over a directory, or over a link to one, keeps what is
there), and every directory that nobody named exists as 0755 root.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal

from rofs.errors import ImageError
from rofs.tarindex import list_members
from rofs.tarmembers import decode_xattrs, read_content
from rofs.values import show

Kind = Literal["file", "dir", "symlink", "char", "block", "fifo", "hardlink"]
MAX_LINKS = 40
"""The kernel's limit for one path walk (path_resolution(7))."""
MAX_TEXT_BYTES = 16 << 20
_SMALL_BYTES = 4096

_TEXTS = re.compile(
    r"/etc/(?:passwd|group|shadow|gshadow|fstab|os-release|ssh/sshd_config)"
    r"|/usr/lib/os-release|/var/lib/dpkg/status|/(?:var|usr)/lib/opkg/status|/usr/share/doc/[^/]+/copyright"
    r"|(?:/etc|/usr/lib|/lib)/systemd/system/[^/]+"
    r"|(?:/usr)?/lib/modules/[^/]+/modules\.(?:dep|builtin)"
)
_PROGRAMS = re.compile(r"(?:/usr)?/s?bin/(?:init|busybox|toybox|sh|bash|dash)|(?:/usr)?/lib/systemd/systemd")
"""Of one of these the head is kept: it says which machine the tree is for."""
_UNIT = re.compile(
    r"(?:/etc|/usr/lib|/lib)/systemd/system/"
    r"([^/]+\.(?:service|socket|target|mount|automount|timer|path|device|swap|slice|scope))"
)
_KINDS: Mapping[bytes, Kind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}


@dataclass(frozen=True, slots=True)
class Node:
    """One path of the tree. A hard link has its target's data; kind "hardlink" means it has no target."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int = 0
    target: str = ""
    caps: bytes | None = None


IMPLICIT_DIR = Node("dir", 0o755, 0, 0)
"""A directory that only its children name; known by identity, so that a real member takes its place."""


_ELF_MACHINES: Mapping[tuple[int, int], str] = {
    (2, 62): "amd64", (2, 183): "arm64", (1, 3): "i386", (1, 40): "armhf", (2, 243): "riscv64",
}  # fmt: skip
"""EI_CLASS and e_machine of elf(5) -> Debian's name."""
ELF_HEAD_BYTES = 20


@dataclass(frozen=True, slots=True)
class Account:
    """A line of etc/passwd."""

    name: str
    uid: int
    gid: int
    home: PurePosixPath
    shell: str


@dataclass(frozen=True, slots=True)
class TreeFacts:
    """The tree by absolute path ("/" is the root), the small files the layout reads, and heads of programs."""

    nodes: Mapping[str, Node]
    texts: Mapping[str, bytes]
    heads: Mapping[str, bytes] = field(default_factory=dict)

    def node(self, path: PurePosixPath | str) -> Node | None:
        """Exactly this path, no link followed."""
        return self.nodes.get(path_key(path))

    def find_resolved(self, path: PurePosixPath | str) -> PurePosixPath | None:
        """`resolve`, or None for a loop."""
        found = resolve_key(self.nodes, path_key(path))
        return None if found is None else PurePosixPath(found)

    def resolve(self, path: PurePosixPath | str) -> PurePosixPath:
        """Follow links in every component, the last too, inside the root. What is not there stays as named.

        Raises ImageError for a loop.
        """
        found = self.find_resolved(path)
        if found is None:
            raise ImageError(f"{path}: too many levels of symbolic links")
        return found

    def lookup(self, path: PurePosixPath | str) -> Node | None:
        """The node a program would get by opening `path`; None where there is none, or a loop."""
        found = resolve_key(self.nodes, path_key(path))
        return None if found is None else self.nodes.get(found)

    def find_symlink_prefix(self, path: PurePosixPath | str) -> PurePosixPath | None:
        """The shortest leading part of `path` that is a symbolic link."""
        at = ""
        for part in path_key(path).split("/")[1:]:
            at = f"{at}/{part}"
            node = self.nodes.get(at)
            if node is not None and node.kind == "symlink":
                return PurePosixPath(at)
        return None

    def text(self, path: PurePosixPath | str) -> bytes | None:
        """The content of one of the small files, through links."""
        found = resolve_key(self.nodes, path_key(path))
        return None if found is None else self.texts.get(found)

    def users(self) -> dict[str, Account]:
        """etc/passwd; of two lines with one name the first counts, as for getpwnam(3). Root where there is no file."""
        accounts: dict[str, Account] = {}
        for name, _, uid, gid, _, home, shell in self._records("/etc/passwd", 7):
            if uid.isdecimal() and gid.isdecimal():
                accounts.setdefault(name, Account(name, int(uid), int(gid), PurePosixPath(home), shell))
        if self.text("/etc/passwd") is None:
            accounts["root"] = Account("root", 0, 0, PurePosixPath("/root"), "/bin/sh")
        return accounts

    def groups(self) -> dict[str, int]:
        """etc/group, name -> number."""
        numbers: dict[str, int] = {}
        for name, _, gid, _ in self._records("/etc/group", 4):
            if gid.isdecimal():
                numbers.setdefault(name, int(gid))
        return {"root": 0} if self.text("/etc/passwd") is None and not numbers else numbers

    def _records(self, path: str, fields: int) -> Iterator[list[str]]:
        for line in (self.text(path) or b"").decode("utf-8", "surrogateescape").split("\n"):
            record = line.split(":")
            if len(record) == fields and record[0]:
                yield record

    def units(self) -> frozenset[str]:
        """The names of all unit files, aliases and masked ones too."""
        matches = (_UNIT.fullmatch(path) for path, node in self.nodes.items() if node.kind != "dir")
        return frozenset(match.group(1) for match in matches if match)

    @property
    def init(self) -> Literal["systemd", "other", "none"]:
        """Which PID 1 the tree has: what /sbin/init leads to."""
        init = self.find_resolved("/sbin/init")
        node = self.nodes.get(str(init))
        if init is not None and node is not None and node.kind == "file":
            return "systemd" if init.name == "systemd" else "other"
        systemd = self.lookup("/usr/lib/systemd/systemd") or self.lookup("/lib/systemd/systemd")
        return "systemd" if systemd is not None and systemd.kind == "file" else "none"

    def machine(self) -> str | None:
        """The architecture its programs are for, in Debian's name; None where nobody can tell."""
        for head in self.heads.values():
            if len(head) == ELF_HEAD_BYTES and head[:4] == b"\x7fELF":
                order: Literal["little", "big"] = "little" if head[5] == 1 else "big"
                return _ELF_MACHINES.get((head[4], int.from_bytes(head[18:20], order)), "another machine")
        return None

    def slim(self) -> TreeFacts:
        """Only what `resolve` and `text` need: of a tree with very many paths next to nothing."""
        links = {path: node for path, node in self.nodes.items() if node.kind == "symlink"}
        return TreeFacts(MappingProxyType(links), self.texts)

    def has_own_cp(self) -> bool:
        """Whether it brings a cp(1) that keeps extended attributes: busybox's and toybox's lose them."""
        cp = self.find_resolved("/bin/cp")
        return cp is not None and str(cp) in self.nodes and cp.name not in ("busybox", "toybox")


def path_key(path: PurePosixPath | str) -> str:
    """A path as `nodes` names it: absolute, one slash between names, "." left out, ".." kept."""
    return "/" + "/".join(part for part in str(path).split("/") if part not in ("", "."))


def resolve_key(nodes: Mapping[str, Node], path: str) -> str | None:
    """`path` with every link followed as in a chroot; None for more than 40 links."""
    todo = path.split("/")[::-1]
    at, followed = "", 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = at.rpartition("/")[0]
            continue
        node = nodes.get(f"{at}/{part}")
        if node is None or node.kind != "symlink":
            at = f"{at}/{part}"
            continue
        followed += 1
        if followed > MAX_LINKS:
            return None
        if node.target.startswith("/"):
            at = ""
        todo += node.target.split("/")[::-1]
    return at or "/"


def member_path(tar: Path, name: str) -> str:
    """A member's name -> absolute path; ImageError for one that climbs."""
    path = path_key(name)
    if ".." in path.split("/"):
        raise ImageError(f"{tar.name}: the member {show(name)} climbs out of its directory")
    return path


def member_kind(tar: Path, info: tarfile.TarInfo) -> Kind:
    """A member's kind; ImageError for one that no file system can hold (a volume label, a dump)."""
    kind = _KINDS.get(info.type)
    if kind is None:
        raise ImageError(f"{tar.name}: {show(info.name)} has the unknown member type {info.type!r}")
    return kind


class _Tree:
    """A tree that members are put into, one after the other."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {"/": IMPLICIT_DIR}
        self.texts: dict[str, bytes] = {}
        self.heads: dict[str, bytes] = {}
        self._parent = ("", "/")
        self._shared: dict[Node, Node] = {}

    def shared(self, node: Node) -> Node:
        """A node that is equal: there may be very many small files, which differ in little."""
        return self._shared.setdefault(node, node) if node.size <= _SMALL_BYTES and not node.target else node

    def place(self, path: str) -> str:
        """Where `path` lands: its directory's links followed, missing directories made."""
        directory, _, name = path.rpartition("/")
        if not name:
            return "/"
        if directory != self._parent[0]:
            found = resolve_key(self.nodes, directory)
            if found is None:
                raise ImageError(f"{path}: too many levels of symbolic links")
            self._make(found)
            self._parent = (directory, found)
        return f"{self._parent[1].rstrip('/')}/{name}"

    def _make(self, directory: str) -> None:
        at = ""
        for part in directory.split("/")[1:]:
            at = f"{at}/{part}"
            if self.nodes.setdefault(at, IMPLICIT_DIR).kind != "dir":
                raise ImageError(f"{directory}: {at} is no directory, yet the tree has something below it")

    def put(self, path: str, node: Node, text: bytes | None, *, keep_dirs: bool = True) -> None:
        """Add or replace; with `keep_dirs` a directory that is there keeps its mode and owner."""
        old = self.nodes.get(path)
        replaced = old is IMPLICIT_DIR or (old is not None and old.kind == "dir" and not keep_dirs)
        if old is not None and node.kind == "dir" and not replaced:
            real = resolve_key(self.nodes, path)
            kept = self.nodes.get(real) if real is not None else None
            if kept is not None and kept.kind == "dir":
                return
            raise ImageError(f"{path}: the tree has this both as a {old.kind} and as a directory")
        if old is not None and old.kind == "dir" and node.kind != "dir":
            raise ImageError(f"{path}: the tree has this both as a directory and as a {node.kind}")
        self.nodes[path] = node
        self.texts.pop(path, None)
        if text is not None:
            self.texts[path] = text
        if old is not None and node.kind == "symlink":
            self._parent = ("", "/")


def _add_tar(tree: _Tree, tar: Path, *, first: bool) -> None:
    for archive, info in list_members(tar):
        path = tree.place(member_path(tar, info.name))
        kind = member_kind(tar, info)
        if kind == "hardlink":
            original = tree.place(member_path(tar, info.linkname))
            tree.put(path, tree.nodes.get(original, _node(kind, info)), tree.texts.get(original))
            continue
        text = None
        if kind == "file" and info.size <= MAX_TEXT_BYTES and _TEXTS.fullmatch(path):
            text = read_content(archive, info)
        elif kind == "file" and _PROGRAMS.fullmatch(path):
            program = archive.extractfile(info)
            tree.heads[path] = program.read(ELF_HEAD_BYTES) if program is not None else b""
        tree.put(path, tree.shared(_node(kind, info)), text, keep_dirs=not first)


def _node(kind: Kind, info: tarfile.TarInfo) -> Node:
    caps = decode_xattrs(info.pax_headers).get("security.capability") if info.pax_headers else None
    target = info.linkname if kind in ("symlink", "hardlink") else ""
    size = info.size if kind == "file" else 0
    return Node(kind, info.mode & 0o7777, info.uid, info.gid, size, target, caps)


def read_facts(tar: Path, extra: Sequence[Path] = ()) -> TreeFacts:
    """One pass over `tar` and then each of `extra`; ImageError where they make no tree."""
    tree = _Tree()
    for each in (tar, *extra):
        _add_tar(tree, each, first=each is tar)
    return TreeFacts(MappingProxyType(tree.nodes), MappingProxyType(tree.texts), MappingProxyType(tree.heads))


def make_facts(nodes: Mapping[str, Node], texts: Mapping[str, bytes] = MappingProxyType({})) -> TreeFacts:
    """Facts said directly, with the directories they imply; for tests of what reads them."""
    tree = _Tree()
    given = dict(texts)
    for path, node in nodes.items():
        tree.put(tree.place(path), node, given.pop(path, None))
    for path, text in given.items():
        tree.put(tree.place(path), Node("file", 0o644, 0, 0, len(text)), text)
    return TreeFacts(MappingProxyType(tree.nodes), MappingProxyType(tree.texts))
