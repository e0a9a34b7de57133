# SPDX-License-Identifier: MIT
"""rofs.image.inodes: the order and the counts of a tree; test_squashwriter holds the images against tar2sqfs's."""

from __future__ import annotations

from typing import Any

import pytest

from rofs.errors import ImageError
from rofs.image.inodes import Inodes
from rofs.image.tarstream import Header
from rofs.treefacts import Kind


def member(path: str, kind: Kind = "file", **more: Any) -> Header:
    return Header(path=path, kind=kind, mode=0o755, uid=0, gid=0, mtime=0, **more)


def grow(*members: Header) -> tuple[Inodes, dict[str, int]]:
    tree = Inodes()
    return tree, {each.path: tree.add(each) for each in members}


def test_a_links_file_comes_with_the_first_directory_that_names_it() -> None:
    tree, nodes = grow(
        member("/", "dir"), member("/a", "dir"), member("/b", "dir"), member("/b/file"),
        member("/a/link", "hardlink", target="/b/file"), member("/a/z"), member("/c"),
    )  # fmt: skip
    numbers = {node: number for number, node in enumerate(tree.ordered(), 1)}
    order = sorted({path for path in nodes if path != "/a/link"}, key=lambda path: numbers[nodes[path]])
    assert order == ["/a/z", "/b/file", "/a", "/b", "/c", "/"]
    assert nodes["/a/link"] == nodes["/b/file"]
    assert [tree.links[nodes[path]] for path in ("/", "/a", "/b", "/b/file", "/c")] == [5, 4, 3, 2, 1]
    assert [[name for name, _ in tree.folders[nodes[path]]] for path in ("/", "/a")] == [
        [b"a", b"b", b"c"],
        [b"link", b"z"],
    ]


def test_links_find_what_was_added_between_them() -> None:
    tree, nodes = grow(
        member("/", "dir"), member("/a"), member("/x", "hardlink", target="/a"), member("/b"),
        member("/y", "hardlink", target="/b"), member("/z", "hardlink", target="/y"),
    )  # fmt: skip
    assert nodes["/x"] == nodes["/a"] and nodes["/y"] == nodes["/z"] == nodes["/b"]
    assert tree.links[nodes["/b"]] == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (member("/a/b"), "/a: something is below it before it is there"),
        (member("/a", "hardlink", target="/b"), "/a: a hard link to nothing: /b"),
        (member("/a", "hardlink", target="/b/c"), "/b: something is below it"),
    ],
)
def test_what_is_no_tree(wrong: Header, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        grow(member("/", "dir"), wrong)


def test_a_name_that_is_there_twice() -> None:
    tree, _ = grow(member("/", "dir"), member("/a"), member("/b"), member("/a", "symlink", target="b"))
    with pytest.raises(ImageError, match="a: there twice in its directory"):
        tree.ordered()
