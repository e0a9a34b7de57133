# SPDX-License-Identifier: MIT
"""rofs.image.firmware: the files that modules load, out of the tars, what the profile adds, and what is missing."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from layouts import profile_of
from tarmaker import Row, file, folder, hardlink, symlink, write_tar

from rofs.entry import Entry
from rofs.errors import ProfileError
from rofs.image.firmware import read_firmware
from rofs.treefacts import read_facts

A = "lib/firmware/brcm/a.bin"


def firmware(tmp_path: Path, names: str, *rows: Row, more: tuple[Row, ...] = (), entries: tuple[Entry, ...] = ()
) -> dict[str, bytes]:  # fmt: skip
    """Of the names, as YAML has them, from a tree of `rows` with a tar of `more` over it."""
    tars = [write_tar(tmp_path / "tree.tar", *rows), write_tar(tmp_path / "modules.tar", *more)]
    return read_firmware(tars, entries, profile_of(f"initrd: {{firmware: [{names}]}}\n"), read_facts(tars[0], tars[1:]))


def test_by_name_below_lib_firmware(tmp_path: Path) -> None:
    rows = (file(A, b"a"), file("lib/firmware/b.fw", b"b"), file("lib/firmware/other", b"o"), file("b", b"no"))
    assert firmware(tmp_path, "brcm/a.bin, b.fw", *rows) == {"brcm/a.bin": b"a", "b.fw": b"b"}


def test_none_are_asked_for(tmp_path: Path) -> None:
    assert read_firmware([tmp_path / "not-read.tar"], (), profile_of(""), read_facts(write_tar(tmp_path / "t"))) == {}


@pytest.mark.parametrize("name", [f"./{A}", f"/{A}", A.replace("brcm/", "brcm//")])
def test_however_a_tar_writes_its_names(tmp_path: Path, name: str) -> None:
    assert firmware(tmp_path, "brcm/a.bin", file(name, b"a")) == {"brcm/a.bin": b"a"}


def test_in_a_tree_whose_lib_is_a_link(tmp_path: Path) -> None:
    rows = (folder("usr/lib"), symlink("lib", "usr/lib"), file(f"usr/{A}", b"a"))
    assert firmware(tmp_path, "brcm/a.bin, b.fw", *rows, more=(file("lib/firmware/b.fw", b"b"),)) == {
        "brcm/a.bin": b"a",
        "b.fw": b"b",
    }


def test_links_are_followed_within_the_tree(tmp_path: Path) -> None:
    rows = (
        file("lib/firmware/real/a.bin", b"a"),
        symlink("lib/firmware/brcm", "real"),
        symlink("lib/firmware/absolute.bin", "/lib/firmware/brcm/a.bin"),
        symlink("lib/firmware/real/b.bin", "../absolute.bin"),
    )
    names = ("brcm/a.bin", "absolute.bin", "brcm/b.bin", "real/a.bin")
    assert firmware(tmp_path, ", ".join(names), *rows) == dict.fromkeys(names, b"a"), "each by its own name"


def test_hard_links_are_the_file(tmp_path: Path) -> None:
    rows = (
        file("opt/store", b"a"),
        hardlink(A, "opt/store"),
        hardlink("lib/firmware/b.fw", A),
        file("lib/firmware/c.fw", b"c"),
    )
    assert firmware(tmp_path, "brcm/a.bin", *rows) == {"brcm/a.bin": b"a"}
    assert firmware(tmp_path, "c.fw, b.fw", *rows) == {"b.fw": b"a", "c.fw": b"c"}


def test_the_last_tar_counts(tmp_path: Path) -> None:
    assert firmware(tmp_path, "brcm/a.bin", file(A, b"old"), more=(file(A, b"new"),)) == {"brcm/a.bin": b"new"}


def test_a_file_of_the_profile_counts_before_all(tmp_path: Path) -> None:
    entries = (
        Entry(path=PurePosixPath("/lib/firmware/brcm/a.bin"), kind="file", content=b"mine"),
        Entry(path=PurePosixPath("/lib/firmware/b.fw"), kind="file", content=b"b"),
        Entry(path=PurePosixPath("/lib/firmware/c.fw"), kind="dir"),
    )
    rows = (folder("usr/lib"), symlink("lib", "usr/lib"), file(A, b"old"))
    assert firmware(tmp_path, "b.fw, brcm/a.bin", *rows, entries=entries) == {"brcm/a.bin": b"mine", "b.fw": b"b"}


def test_each_missing_one_is_named_at_its_place(tmp_path: Path) -> None:
    rows = (
        file(A, b"a"), folder("lib/firmware/dir"), symlink("lib/firmware/dangling", "nowhere"),
        symlink("lib/firmware/loop", "loop"), hardlink("lib/firmware/hard", "nowhere"),
    )  # fmt: skip
    with pytest.raises(ProfileError) as caught:
        firmware(tmp_path, "dir, brcm/a.bin, dangling, loop, hard, none", *rows)
    problems = caught.value.problems
    assert [(p.rule, p.at, p.message) for p in problems] == [
        ("no-firmware", ("initrd", "firmware", i), f"no /lib/firmware/{name} in the tree")
        for i, name in ((0, "dir"), (2, "dangling"), (3, "loop"), (4, "hard"), (5, "none"))
    ]
    columns = [p.mark.column for p in problems]
    assert len({p.mark.line for p in problems}) == 1 and columns == sorted(set(columns))
