# SPDX-License-Identifier: MIT
"""Facts of small trees, by tables; the walk of links against the kernel's own."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tarmaker import Row, device, file, folder, hardlink, raw_pax, symlink, write_tar

from rofs.errors import ImageError
from rofs.tarmembers import decode_xattrs
from rofs.treefacts import Account, Node, make_facts, read_facts

CAPS = bytes.fromhex("0100000200200000000000000000000000000000")


def test_nodes_of_every_kind(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "t.tar",
        folder("./", 0o755),
        folder("./etc", 0o2750, uid=3, gid=4),
        file("./etc/a", b"abc", mode=0o4755, uid=1, gid=2),
        hardlink("./etc/b", "./etc/a"),
        symlink("./l", "etc/a"),
        device("./c", tarfile.CHRTYPE, 1, 3),
        device("./blk", tarfile.BLKTYPE, 8, 0),
        Row(name="./p", type=tarfile.FIFOTYPE),
        file("./ping", b"x", pax={"SCHILY.xattr.security.capability": raw_pax(CAPS)}),
        hardlink("./dangling", "./nowhere"),
    )
    facts = read_facts(tar)
    assert facts.node("/etc") == Node("dir", 0o2750, 3, 4)
    assert facts.node("/etc/a") == Node("file", 0o4755, 1, 2, 3)
    assert facts.node("/etc/b") == facts.node("/etc/a")
    assert facts.node("/l") == Node("symlink", 0o777, 0, 0, 0, "etc/a")
    assert facts.lookup("/l") == facts.node("/etc/a")
    kinds = {path: facts.nodes[path].kind for path in ("/c", "/blk", "/p", "/dangling")}
    assert kinds == {"/c": "char", "/blk": "block", "/p": "fifo", "/dangling": "hardlink"}
    ping = facts.node(PurePosixPath("/ping"))
    assert ping is not None and ping.caps == CAPS
    assert facts.node("/none") is None


def test_directories_nobody_named_exist(tmp_path: Path) -> None:
    facts = read_facts(write_tar(tmp_path / "t.tar", file("a/b/c"), folder("a", 0o700)))
    assert facts.node("/") == Node("dir", 0o755, 0, 0)
    assert facts.node("/a/b") == Node("dir", 0o755, 0, 0)
    assert facts.node("/a") == Node("dir", 0o700, 0, 0), "a member that comes later still counts"


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"./caf\xe9")
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        facts = read_facts(write_tar(tmp_path / "t.tar", file(name), form=form))
        assert os.fsencode("/" + next(iter(set(facts.nodes) - {"/"}))[1:]) == b"/caf\xe9"


def test_later_tars_add_as_dpkg_would(tmp_path: Path) -> None:
    base = write_tar(
        tmp_path / "base.tar",
        folder("./usr/lib", 0o700),
        symlink("./lib", "usr/lib"),
        file("./etc/x", b"old"),
    )
    modules = write_tar(
        tmp_path / "modules.tar",
        folder("./lib", 0o755),
        folder("./usr/lib", 0o755),
        file("./lib/modules/6.1/modules.dep", b"a.ko:\n"),
        file("./etc/x", b"newer"),
    )
    facts = read_facts(base, [modules])
    assert facts.nodes["/lib"].kind == "symlink"
    assert facts.nodes["/usr/lib"].mode == 0o700
    assert facts.nodes["/usr/lib/modules/6.1/modules.dep"].size == 6
    assert facts.texts["/usr/lib/modules/6.1/modules.dep"] == b"a.ko:\n"
    assert facts.nodes["/etc/x"].size == 5


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([file("../etc/passwd")], "climbs"),
        ([file("a/../../b")], "climbs"),
        ([symlink("a", "b"), symlink("b", "a"), file("a/c")], "too many levels"),
        ([file("a"), file("a/b")], "is no directory"),
        ([folder("a"), file("a")], "both as a directory"),
        ([file("a"), folder("a")], "both as a file"),
        ([Row(name="vol", type=b"V")], "unknown member type"),
    ],
)
def test_tars_that_make_no_tree(tmp_path: Path, rows: list[Row], word: str) -> None:
    with pytest.raises(ImageError, match=word):
        read_facts(write_tar(tmp_path / "t.tar", *rows))


@pytest.mark.parametrize("damage", ["cut", "header", "noend", "empty", "text"])
def test_a_damaged_tar_is_never_a_shorter_tree(tmp_path: Path, damage: str) -> None:
    tar = write_tar(tmp_path / "t.tar", file("a", b"1"), file("b", b"2"))
    whole = tar.read_bytes()
    broken = {
        "cut": whole[:1300],
        "header": whole[:1024] + b"\xff" * 512 + whole[1536:],
        "noend": whole[:2048],
        "empty": b"",
        "text": b"this is no tar" * 100,
    }
    tar.write_bytes(broken[damage])
    with pytest.raises(ImageError, match=r"t\.tar"):
        read_facts(tar)


PASSWD = b"""root:x:0:0:root:/root:/bin/bash

bad:line
root:x:9:9::/:/bin/no
op:x:1000:1001:,,:/home/op:/bin/sh
"""


def test_accounts_units_and_init(tmp_path: Path) -> None:
    facts = read_facts(
        write_tar(
            tmp_path / "t.tar",
            file("./etc/passwd", PASSWD),
            file("./etc/group", b"root:x:0:\ndialout:x:20:op\nbroken:x:y:\n"),
            file("./usr/lib/systemd/systemd", b"elf", mode=0o755),
            file("./usr/lib/systemd/system/ssh.service", b"[Unit]\n"),
            file("./usr/lib/systemd/system/README", b"not a unit"),
            folder("./usr/lib/systemd/system/ssh.service.d"),
            symlink("./etc/systemd/system/sshd.service", "/usr/lib/systemd/system/ssh.service"),
            symlink("./etc/os-release", "../usr/lib/os-release"),
            file("./usr/lib/os-release", b"ID=debian\n"),
            file("./usr/lib/systemd/other", b"not wanted"),
        )
    )
    assert facts.users() == {
        "root": Account("root", 0, 0, PurePosixPath("/root"), "/bin/bash"),
        "op": Account("op", 1000, 1001, PurePosixPath("/home/op"), "/bin/sh"),
    }
    assert facts.groups() == {"root": 0, "dialout": 20}
    assert facts.units() == {"ssh.service", "sshd.service"}
    assert facts.init == "systemd"
    assert facts.text("/etc/os-release") == b"ID=debian\n"
    assert facts.texts["/usr/lib/systemd/system/ssh.service"] == b"[Unit]\n"
    assert "/usr/lib/systemd/other" not in facts.texts
    assert make_facts({}).init == "none" and make_facts({}).users().keys() == {"root"}
    assert make_facts({}).groups() == {"root": 0} and not make_facts({}, {"/etc/passwd": b""}).users()


LINKS = {
    "/bin": Node("symlink", 0o777, 0, 0, 0, "usr/bin"),
    "/usr/bin/sh": Node("symlink", 0o777, 0, 0, 0, "dash"),
    "/usr/bin/dash": Node("file", 0o755, 0, 0),
    "/var/run": Node("symlink", 0o777, 0, 0, 0, "/run"),
    "/up": Node("symlink", 0o777, 0, 0, 0, "../../../etc"),
    "/loop": Node("symlink", 0o777, 0, 0, 0, "loop/x"),
    "/self": Node("symlink", 0o777, 0, 0, 0, "./"),
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("/bin", "/usr/bin"),
        ("/bin/sh", "/usr/bin/dash"),
        ("/var/run/x/y", "/run/x/y"),
        ("/up/fstab", "/etc/fstab"),
        ("/../..//bin/./sh", "/usr/bin/dash"),
        ("/missing/../bin/sh", "/usr/bin/dash"),
        ("/self/self/bin", "/usr/bin"),
        ("/loop", None),
        ("/loop/below", None),
    ],
)
def test_resolve(path: str, expected: str | None) -> None:
    facts = make_facts(LINKS)
    found = facts.find_resolved(path)
    assert found == (None if expected is None else PurePosixPath(expected))
    if expected is None:
        assert facts.lookup(path) is None
        with pytest.raises(ImageError, match="too many levels"):
            facts.resolve(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/bin/sh", "/bin"),
        ("/usr/bin/sh", "/usr/bin/sh"),
        ("/usr/bin/dash", None),
        ("/var/run/x", "/var/run"),
    ],
)
def test_find_symlink_prefix(path: str, expected: str | None) -> None:
    found = make_facts(LINKS).find_symlink_prefix(path)
    assert found == (None if expected is None else PurePosixPath(expected))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"]),
        st.lists(st.sampled_from(["a", "b", "d", "e", "..", "."]), min_size=1, max_size=4).map("/".join),
        max_size=5,
    ),
    st.lists(st.sampled_from(["a", "b", "d", "e"]), min_size=1, max_size=5).map("/".join),
)
def test_resolve_as_the_kernel_does(tmp_path_factory: pytest.TempPathFactory, links: dict[str, str], path: str) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "d" / "e").mkdir(parents=True)
    nodes = {"/d": Node("dir", 0o755, 0, 0), "/d/e": Node("dir", 0o755, 0, 0)}
    for name, target in links.items():
        if ".." in target.split("/"):
            target = target.replace("..", "e")  # the host's ".." would leave the root
        (root / name).symlink_to(target)
        nodes["/" + name] = Node("symlink", 0o777, 0, 0, 0, target)
    facts = make_facts(nodes)
    try:
        there = os.path.relpath(os.path.realpath(root / path, strict=True), os.path.realpath(root))
    except OSError:
        node = facts.lookup("/" + path)
        assert node is None
    else:
        assert facts.find_resolved("/" + path) == PurePosixPath("/") / there


@pytest.mark.parametrize(
    ("pax", "expected"),
    [
        ({"SCHILY.xattr.user.a": raw_pax(b"\0\xff=\n")}, {"user.a": b"\0\xff=\n"}),
        ({"LIBARCHIVE.xattr.user.%25x": "AAE"}, {"user.%x": b"\0\1"}),
        ({"RHT.security.selinux": "label"}, {"security.selinux": b"label"}),
        ({"SCHILY.xattr.user.a": "1", "LIBARCHIVE.xattr.user.a": "Mg=="}, {"user.a": b"1"}),
        ({"mtime": "1.5"}, {}),
    ],
)
def test_decode_xattrs(pax: dict[str, str], expected: dict[str, bytes]) -> None:
    assert decode_xattrs(pax) == expected
