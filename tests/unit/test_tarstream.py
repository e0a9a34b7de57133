# SPDX-License-Identifier: MIT
"""Byte ranges, ACLs in every form tars have them, capabilities as getcap(8) says them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tarmaker import Row, file, folder, hardlink, raw_pax, symlink, write_tar

from rofs.errors import ImageError
from rofs.image.tarstream import (
    TAR_END,
    Header,
    caps_text,
    encode_header,
    find_acl,
    kept_xattrs,
    padding,
    scan,
)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_the_ranges_are_the_whole_tar(tmp_path: Path, form: int) -> None:
    long = "x" * 60 if form == tarfile.USTAR_FORMAT else "x" * 200
    rows = [folder("./"), file(f"./{long}", b"1" * 700), symlink("./l", "a"), hardlink("./h", f"./{long}")]
    tar = write_tar(tmp_path / "t.tar", *rows, form=form)
    data, members = tar.read_bytes(), list(scan(tar))
    assert members[0].start == 0
    assert all(one.end == other.start for one, other in pairwise(members))
    assert not any(data[members[-1].end :])
    assert data[members[1].data : members[1].data + 700] == b"1" * 700
    assert [(m.path, m.kind) for m in members] == [
        ("/", "dir"),
        (f"/{long}", "file"),
        ("/l", "symlink"),
        ("/h", "hardlink"),
    ]
    assert all(member.as_is for member in members)


def test_a_name_that_climbs(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="climbs"):
        list(scan(write_tar(tmp_path / "t.tar", file("a/../../b"))))


def test_what_cannot_be_copied_as_it_is(tmp_path: Path) -> None:
    foreign = write_tar(tmp_path / "a.tar", file("a", pax={"LIBARCHIVE.xattr.user.a": "AA"}), file("b"))
    assert [member.as_is for member in scan(foreign)] == [False, True]
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"mtime": "5"}) as archive:
        archive.addfile(tarfile.TarInfo("a"))
    assert [member.as_is for member in scan(tmp_path / "b.tar")] == [False]


REAL = "user::rw-,user:3:rw-,group::r--,mask::rw-,other::r--"


@pytest.mark.parametrize(
    ("pax", "expected"),
    [
        ({}, None),
        ({"SCHILY.xattr.user.acl": "x"}, None),
        ({"SCHILY.acl.access": REAL}, "SCHILY.acl.access"),
        ({"SCHILY.acl.access": "user::rw-\ngroup::r--\nother::r--\n"}, None),
        ({"SCHILY.acl.default": "user::rwx,group::r-x,other::r-x"}, "SCHILY.acl.default"),
        ({"SCHILY.xattr.system.posix_acl_access": raw_pax(b"\2\0\xff")}, "system.posix_acl_access"),
        ({"SCHILY.xattr.system.posix_acl_default": "x"}, "system.posix_acl_default"),
        ({"LIBARCHIVE.xattr.system.posix_acl_access": "AA=="}, "system.posix_acl_access"),
    ],
)
def test_find_acl(pax: dict[str, str], expected: str | None) -> None:
    info = tarfile.TarInfo("a")
    info.pax_headers = pax
    assert find_acl(info) == expected
    assert not any(name.startswith("system.posix_acl") for name in kept_xattrs(info))


@given(
    st.text(st.characters(blacklist_characters="\0/"), min_size=1, max_size=150).filter(lambda t: t not in (".", "..")),
    st.dictionaries(st.sampled_from(["user.a", "trusted.b", "security.c"]), st.binary(max_size=30)),
    st.integers(0, 0o7777),
    st.integers(0, 2**31),
)
def test_what_is_encoded_is_read_back(name: str, xattrs: dict[str, bytes], mode: int, number: int) -> None:
    name = name.encode("utf-8", "replace").decode()
    header = Header(
        path="/" + name,
        kind="file",
        mode=mode,
        uid=number,
        gid=number,
        mtime=number,
        size_bytes=3,
        xattrs=xattrs,
    )
    data = encode_header(header) + b"abc" + padding(3) + TAR_END
    assert encode_header(header) + b"abc" + padding(3) + TAR_END == data
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8") as archive:
        (info,) = archive.getmembers()
    assert (info.name, info.mode, info.uid, info.gid, info.mtime, info.size) == (
        "./" + name,
        mode,
        number,
        number,
        number,
        3,
    )
    assert (info.uname, info.gname) == ("", "")
    assert kept_xattrs(info) == xattrs


CAPS = [
    ("cap_net_raw=ep", "0100000200200000000000000000000000000000"),
    ("cap_net_raw=p", "0000000200200000000000000000000000000000"),
    ("cap_chown,cap_bpf=eip", "0100000201000000010000008000000080000000"),
]


@pytest.mark.parametrize(("text", "raw"), CAPS)
def test_caps_text(text: str, raw: str) -> None:
    assert caps_text(bytes.fromhex(raw)) == text


def test_caps_text_of_odd_values() -> None:
    assert caps_text(b"\1\2") == "unknown:0102"
    assert caps_text(bytes.fromhex("01000003 00200000 00000000 00000000 00000000 e8030000")).endswith(
        "cap_net_raw=ep [rootid=1000]"
    )


@pytest.mark.needs("getcap", "setcap")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set capabilities")
@pytest.mark.parametrize("text", [text for text, _ in CAPS])
def test_caps_text_as_getcap_says_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f"
    path.touch()
    subprocess.run(["/usr/sbin/setcap", text, path], check=True)
    said = subprocess.run(["/usr/sbin/getcap", path], check=True, capture_output=True, text=True).stdout
    assert caps_text(os.getxattr(path, "security.capability")) == said.split()[1]


def test_rows_of_the_table_are_rows(tmp_path: Path) -> None:
    """A header for every kind the image can hold is one that `tarfile` reads as that kind."""
    kinds = {"dir": "isdir", "symlink": "issym", "char": "ischr", "block": "isblk", "fifo": "isfifo"}
    for kind, method in kinds.items():
        data = encode_header(
            Header(path="/a", kind=kind, mode=0, uid=0, gid=0, mtime=0, target="t", rdev=(1, 3))  # type: ignore[arg-type]
        )
        info = tarfile.TarInfo.frombuf(data, "utf-8", "strict")
        assert getattr(info, method)()
    assert Row(name="a").type == tarfile.REGTYPE
