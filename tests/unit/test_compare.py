# SPDX-License-Identifier: MIT
"""Two published directories: the file and the byte that differ, and the member of a squashfs or an initrd."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath

import pytest

from rofs.entry import Entry
from rofs.image.compare import MOST_LINES, compare_images, first_difference
from rofs.image.cpio import CpioEntry, compress, read_newc, write_newc
from rofs.image.squashfs import write_squashfs
from rofs.profile import ImageOptions

OPTIONS = ImageOptions(format="squashfs", compression="gzip", level=1, block_size=131072, acl="error")


def cpio(entries: Sequence[CpioEntry]) -> bytes:
    out = BytesIO()
    write_newc(entries, out)
    return out.getvalue()


def entry(path: str, content: bytes = b"", mode: int = stat.S_IFREG | 0o644, **more: object) -> CpioEntry:
    return CpioEntry(path=PurePosixPath(path), mode=mode, content=content, **more)  # type: ignore[arg-type]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two directories that hold the same."""
    directories = tmp_path / "one", tmp_path / "other"
    for directory in directories:
        (directory / "units").mkdir(parents=True)
        (directory / "logs").mkdir()
        (directory / "fstab").write_text("/dev/root / squashfs ro 0 0\n")
        (directory / "units" / "var.mount").write_text("[Mount]\n")
        (directory / "manifest.json").write_text("{}\n")
    return directories


def said(pair: tuple[Path, Path]) -> list[str]:
    return [str(difference) for difference in compare_images(*pair)]


def test_the_same_is_the_same_whatever_the_logs_say(pair: tuple[Path, Path]) -> None:
    (pair[0] / "logs" / "packages.log").write_text("at noon")
    (pair[1] / "report.txt").write_text("at midnight")
    assert said(pair) == []


def test_every_other_file_counts(pair: tuple[Path, Path]) -> None:
    (pair[1] / "fstab").write_text("/dev/root / squashfs rw 0 0\n")
    (pair[1] / "units" / "var.mount").write_text("[Mount]\nWhat=x\n")
    (pair[0] / "manifest.json").write_text("{ }\n")
    (pair[0] / "state.img").write_bytes(b"")
    assert said(pair) == [
        "fstab: differs from byte 22 on",
        "manifest.json: differs from byte 1 on",
        "state.img: is in one of them alone",
        "units/var.mount: differs from byte 8 on",
    ]


@pytest.mark.parametrize("at", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 5])
def test_the_first_byte_that_differs(at: int, tmp_path: Path) -> None:
    content = bytearray(bytes(range(256)) * (3 << 12))
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(content)
    other.write_bytes(content)
    assert first_difference(one, other) is None
    other.write_bytes(content[:at])
    assert first_difference(one, other) == first_difference(other, one) == at
    content[at] ^= 1
    content[-1] ^= 1
    other.write_bytes(content)
    assert first_difference(one, other) == at


INITRDS = {
    "content": ([entry("init", b"abc")], [entry("init", b"abd")], "init: content differs from byte 2 on"),
    "mode": ([entry("init")], [entry("init", mode=stat.S_IFREG | 0o755)], "init: mode 100644 and 100755"),
    "link": (
        [entry("bin/sh", mode=stat.S_IFLNK | 0o777, target="busybox")],
        [entry("bin/sh", mode=stat.S_IFLNK | 0o777, target="dash")],
        "bin/sh: target busybox and dash",
    ),
    "device": (
        [entry("dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1))],
        [entry("dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 2))],
        "dev/console: rdev (5, 1) and (5, 2)",
    ),
    "missing": ([entry("init"), entry("x")], [entry("init")], "x: is in one of them alone"),
}


@pytest.mark.parametrize("name", INITRDS)
def test_an_initrd_names_its_member(name: str, pair: tuple[Path, Path]) -> None:
    one, other, line = INITRDS[name]
    for directory, entries in zip(pair, (one, other), strict=True):
        first = compress(cpio([entry("same", b"x" * 99)]))
        (directory / "initrd.img").write_bytes(first + compress(cpio(entries)))
    (difference,) = compare_images(*pair)
    assert difference.inside == (line,)
    assert (difference.file, difference.offset is not None) == ("initrd.img", True)


def test_an_initrd_that_is_packed_differently_says_so(pair: tuple[Path, Path]) -> None:
    import gzip

    archive = cpio([entry("init", b"abc" * 99)])
    (pair[0] / "initrd.img").write_bytes(compress(archive))
    (pair[1] / "initrd.img").write_bytes(gzip.compress(archive, mtime=1))
    assert said(pair) == ["initrd.img: differs from byte 4 on\n  the members are the same: how they are packed differs"]


@pytest.mark.parametrize("broken", [b"no gzip", compress(b"no cpio"), compress(cpio([entry("x", b"y" * 99)])[:150])])
def test_an_initrd_that_cannot_be_read_is_still_a_difference(broken: bytes, pair: tuple[Path, Path]) -> None:
    (pair[0] / "initrd.img").write_bytes(compress(cpio([entry("init")])))
    (pair[1] / "initrd.img").write_bytes(broken)
    (difference,) = compare_images(*pair)
    assert difference.inside[0].startswith("cannot be looked into: ")


def test_of_many_members_the_first_are_named(pair: tuple[Path, Path]) -> None:
    for directory, byte in zip(pair, (b"a", b"b"), strict=True):
        (directory / "initrd.img").write_bytes(compress(cpio([entry(f"{n:03}", byte) for n in range(MOST_LINES + 7)])))
    (difference,) = compare_images(*pair)
    assert len(difference.inside) == MOST_LINES + 1
    assert difference.inside[-1] == "and 7 more"


def test_an_archive_is_read_as_it_was_written() -> None:
    entries = [
        entry("a", b"x"),
        entry("b", b"xyz" * 7),
        entry("c", mode=stat.S_IFLNK | 0o777, target="a"),
        entry("d", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
        entry("e", mode=stat.S_IFDIR | 0o755),
        entry("f\udcff"),
    ]
    assert list(read_newc(cpio(entries))) == entries
    assert list(read_newc(cpio(entries[:2]) + cpio(entries[2:]))) == entries
    with pytest.raises(ValueError, match="no end"):
        list(read_newc(cpio(entries) + cpio(entries)[:100]))


def squashfs(out: Path, entries: Sequence[Entry]) -> None:
    root = Entry(path=PurePosixPath("/"), kind="dir", mode=0o755)
    write_squashfs(out, [], [root, *entries], options=OPTIONS, epoch=1, resolve=lambda path: path)


def file(path: str, content: bytes = b"x", mode: int = 0o644, uid: int = 0) -> Entry:
    return Entry(path=PurePosixPath(path), kind="file", mode=mode, uid=uid, content=content)


LONG = b"x" * 200_000
TREES = {
    "content": (file("/a b", LONG + b"y"), file("/a b", LONG + b"z"), ["/a b: content differs from byte 200000 on"]),
    "attributes": (file("/a"), file("/a", mode=0o600, uid=7), ["/a: mode 0644 and 0600", "/a: uid 0 and 7"]),
    "missing": (file("/a"), file("/b"), ["/a: is in one of them alone", "/b: is in one of them alone"]),
}  # fmt: skip


@pytest.mark.needs("tar2sqfs", "sqfs2tar", "rdsquashfs")
@pytest.mark.parametrize("name", TREES)
def test_a_squashfs_names_its_member(name: str, pair: tuple[Path, Path]) -> None:
    one, other, lines = TREES[name]
    for directory, each in zip(pair, (one, other), strict=True):
        squashfs(directory / "rootfs.squashfs", [each, file("/same")])
    (difference,) = compare_images(*pair)
    assert list(difference.inside) == lines


@pytest.mark.needs("tar2sqfs", "sqfs2tar", "rdsquashfs")
def test_a_squashfs_whose_super_block_differs(pair: tuple[Path, Path]) -> None:
    for directory in pair:
        squashfs(directory / "rootfs.squashfs", [file("/same")])
    changed = bytearray((pair[1] / "rootfs.squashfs").read_bytes())
    changed[8] ^= 1  # the time it was made
    (pair[1] / "rootfs.squashfs").write_bytes(changed)
    assert said(pair) == [
        "rootfs.squashfs: differs from byte 8 on\n  the members are the same: how they are packed differs"
    ]
