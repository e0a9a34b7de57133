# SPDX-License-Identifier: MIT
"""Archives as cpio(1) reads them."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from rofs.image.cpio import CpioEntry, append, compress, write_newc

ENTRIES = [
    CpioEntry(path=PurePosixPath("/init"), mode=stat.S_IFREG | 0o755, content=b"#!/bin/sh\n"),
    CpioEntry(path=PurePosixPath("bin/sh"), mode=stat.S_IFLNK | 0o777, target="busybox"),
    CpioEntry(path=PurePosixPath("bin/busybox"), mode=stat.S_IFREG | 0o755, content=bytes(range(256)) * 5),
    CpioEntry(path=PurePosixPath("/dev/console"), mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
    CpioEntry(path=PurePosixPath("/proc"), mode=stat.S_IFDIR | 0o555),
    CpioEntry(path=PurePosixPath("/lib/modules/6.1/a-b.ko"), mode=stat.S_IFREG | 0o644, content=b"k"),
]


def archive(entries: list[CpioEntry]) -> bytes:
    out = io.BytesIO()
    write_newc(entries, out)
    return out.getvalue()


def test_the_same_bytes_in_any_order() -> None:
    assert archive(ENTRIES) == archive(ENTRIES[::-1])
    assert len(archive(ENTRIES)) % 4 == 0
    assert compress(b"x") == compress(b"x") and gzip.decompress(compress(b"x")) == b"x"
    assert compress(b"x")[3:8] == bytes(5), "no name, no time"


def test_a_path_twice() -> None:
    with pytest.raises(ValueError, match="init is in the archive twice"):
        archive([*ENTRIES, CpioEntry(path=PurePosixPath("init"), mode=stat.S_IFREG)])


@pytest.mark.needs("cpio")
def test_the_listing() -> None:
    data = archive(ENTRIES)
    listing = subprocess.run(
        ["cpio", "-itv", "--quiet"],
        input=data,
        check=True,
        capture_output=True,
        env={**os.environ, "TZ": "UTC"},
    )
    rows = [line.split() for line in listing.stdout.decode().splitlines()]
    assert listing.stderr == b""
    assert [(row[0], " ".join(row[8 if row[0][0] != "c" else 9 :])) for row in rows] == [
        ("drwxr-xr-x", "bin"),
        ("-rwxr-xr-x", "bin/busybox"),
        ("lrwxrwxrwx", "bin/sh -> busybox"),
        ("drwxr-xr-x", "dev"),
        ("crw-------", "dev/console"),
        ("-rwxr-xr-x", "init"),
        ("drwxr-xr-x", "lib"),
        ("drwxr-xr-x", "lib/modules"),
        ("drwxr-xr-x", "lib/modules/6.1"),
        ("-rw-r--r--", "lib/modules/6.1/a-b.ko"),
        ("dr-xr-xr-x", "proc"),
    ]
    assert all(row[2:4] == ["root", "root"] and "1970" in row for row in rows)


@pytest.mark.needs("cpio")
def test_the_content(tmp_path: Path) -> None:
    plain = [entry for entry in ENTRIES if not stat.S_ISCHR(entry.mode)]
    subprocess.run(["cpio", "-id", "--quiet"], input=archive(plain), check=True, cwd=tmp_path)
    for entry in plain:
        path = tmp_path / str(entry.path).strip("/")
        if stat.S_ISLNK(entry.mode):
            assert str(path.readlink()) == entry.target
        elif stat.S_ISREG(entry.mode):
            assert path.read_bytes() == entry.content
        assert stat.S_IMODE(path.lstat().st_mode) == stat.S_IMODE(entry.mode)
    links = {path.lstat().st_nlink for path in tmp_path.rglob("*") if path.is_file()}
    assert links == {1}, "inode numbers differ, or cpio would link them"


@pytest.mark.needs("cpio")
@pytest.mark.parametrize("size", range(4))
def test_a_second_archive_begins_at_a_multiple_of_four(tmp_path: Path, size: int) -> None:
    first, out = tmp_path / "first", tmp_path / "out"
    first.write_bytes(b"\1" * (8 + size))
    append(first, archive(ENTRIES), out)
    data = out.read_bytes()
    at = data.index(b"070701")
    assert at % 4 == 0 and at == (8 + size + 3) // 4 * 4
    assert first.read_bytes() == data[: 8 + size] and not any(data[8 + size : at])
    listing = subprocess.run(["cpio", "-it", "--quiet"], input=data[at:], check=True, capture_output=True)
    assert b"init\n" in listing.stdout
