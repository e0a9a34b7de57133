# SPDX-License-Identifier: MIT
"""Tars of every form and compression become the tree they hold, and hostile ones a message."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import hostile
import pytest
import zstandard
from hostile import COMPRESSORS, folder, hardlink, header, long_name, member, pax, sparse_gnu, sparse_pax, symlink
from tarmaker import EPOCH
from treeseen import Tree, differences, see_directory, see_records

from rofs.errors import RofsError, SourceError
from rofs.image.records import FileRecord
from rofs.image.squashfs import write_squashfs
from rofs.profile import ImageOptions
from rofs.sources import archive
from rofs.sources.archive import check_tree, unpack_tar
from rofs.treefacts import read_facts

PLAIN_OPTIONS = ImageOptions(format="squashfs", compression="gzip", level=1, block_size=131072, acl="drop")
MUTANTS = 1000
OPINIONS = 150
LIMIT_S = 30
"""Far above what one mutant needs."""


def source_of(tmp_path: Path, data: bytes, name: str = "tree.tar") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def imaged(tree: Path, out: Path) -> list[FileRecord]:
    """As the build does it with a tar of the user's."""
    resolve = read_facts(tree).resolve
    options = PLAIN_OPTIONS
    return list(write_squashfs(out, [tree], [], options=options, epoch=EPOCH, resolve=resolve, keep_times=True, jobs=1))


GOOD = hostile.seeds()


@pytest.mark.parametrize("form", GOOD)
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_every_form_in_every_compression(tmp_path: Path, form: str, compressor: str) -> None:
    data = COMPRESSORS[compressor](GOOD[form])
    source, out = source_of(tmp_path, data, "no-name-that-says-it"), tmp_path / "out.tar"
    sha256 = hashlib.sha256(data).hexdigest()
    assert unpack_tar(source, out, None) == unpack_tar(source, out, sha256.upper()) == sha256
    assert out.read_bytes() == GOOD[form]


SKIPPED = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
STREAMS = {
    "gzip, two members and zeros": lambda a, b: gzip.compress(a) + gzip.compress(b) + bytes(700),
    "gzip, with a name": lambda a, b: (
        b"\x1f\x8b\x08\x08" + gzip.compress(a + b)[4:10] + b"n\0" + gzip.compress(a + b)[10:]
    ),
    "xz, two streams and padding": lambda a, b: lzma.compress(a) + bytes(8) + lzma.compress(b),
    "xz, without a checksum": lambda a, b: lzma.compress(a + b, check=lzma.CHECK_NONE),
    "zstd, two frames": lambda a, b: zstandard.compress(a) + zstandard.compress(b),
    "zstd, a skipped frame first": lambda a, b: SKIPPED + zstandard.compress(a + b) + SKIPPED,
}


@pytest.mark.parametrize("case", STREAMS)
def test_streams_of_more_than_one_part(tmp_path: Path, case: str) -> None:
    data = hostile.tar(member(b"a", os.urandom(70_000)))
    out = tmp_path / "out.tar"
    unpack_tar(source_of(tmp_path, STREAMS[case](data[:5000], data[5000:])), out, None)
    assert out.read_bytes() == data


def test_progress_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_SAY_BYTES", 1 << 20)
    monkeypatch.setattr(archive, "_SAY_MEMBERS", 2)
    lines: list[str] = []
    data = hostile.tar(*[member(b"%d" % n, bytes(1 << 20)) for n in range(4)])
    unpack_tar(source_of(tmp_path, data), tmp_path / "out.tar", None, lines.append)
    assert lines == [*[f"{n} MiB unpacked" for n in (1, 2, 3, 4)], "2 members checked", "4 members checked"]


DEEP = b"a/" * 2048 + b"a"
CAPS = (b"SCHILY.xattr.security.capability", hostile.CAPS)
LEGITIMATE = {
    "without a root": [member(b"a")],
    "the root as .": [folder(b"."), member(b"a")],
    "a directory after its children": [member(b"./a/b"), folder(b"./a"), folder(b"./")],
    "missing parents": [member(b"./a/b/c")],
    "links to anywhere inside": [symlink(b"a/b/l", b"../../c"), symlink(b"m", b"/usr/bin"), symlink(b"n", b"nowhere")],
    "a link that climbs and comes back": [symlink(b"a/l", b"../b/../c/./d")],
    "hard links of a hard link": [member(b"a", b"1"), hardlink(b"b", b"./a"), hardlink(b"c/d", b"b")],
    "a hard link to a link": [symlink(b"a", b"b"), hardlink(b"c", b"a")],
    "a hard link to a device": [header(b"a", b"3", dev=(4095, 1048575)), hardlink(b"c", b"a")],
    "the file type in the mode": [member(b"a", mode=0o100644)],
    "the last second, the last owner": [member(b"a", mtime=2**32 - 1, uid=2**32 - 2, gid=2**32 - 2)],
    "a name of 255 bytes": [long_name(b"n" * 255) + member(b"n")],
    "a path of 4095 bytes": [long_name(DEEP[:4095]) + member(b"n")],
    "a comment for all": [pax((b"comment", b"c" * 40), type=b"g"), member(b"a")],
    "attributes of every kind": [
        pax(CAPS, (b"LIBARCHIVE.xattr.user.a%25", b"AP8"), (b"RHT.security.selinux", b"l")) + member(b"a")
    ],
    "an empty attribute": [pax((b"SCHILY.xattr.user.a", b"")) + member(b"a")],
    "a byte that is no UTF-8": [pax((b"hdrcharset", b"BINARY"), (b"path", b"\xe9")) + member(b"x"), member(b"\xea")],
    "names of two lines": [member(b"a\nb"), symlink(b"c", b"d\ne")],
    "long names and links": [
        long_name(b"l" * 150, b"K") + long_name(b"n" * 150) + symlink(b"n", b"l", magic=hostile.GNU)
    ],
    "a hole that is all": [sparse_pax(b"a", 1 << 20, [], "1.0"), sparse_gnu(b"b", 1 << 20, [])],
    "a hole under a long name": [sparse_pax(b"a", 4096, [(0, b"x")], "1.0", (b"path", b"GNUSparseFile.0/a"))],
}


@pytest.mark.needs("tar2sqfs")
@pytest.mark.parametrize("case", LEGITIMATE)
def test_what_root_file_systems_have(tmp_path: Path, case: str) -> None:
    tree = tmp_path / "plain.tar"
    unpack_tar(source_of(tmp_path, hostile.tar(*LEGITIMATE[case])), tree, None)
    assert imaged(tree, tmp_path / "o.squashfs")


FORMS = ["v7", "oldgnu", "gnu", "ustar", "posix"]
HOLES = [["--format=gnu"], *[["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0")]]


@pytest.mark.needs("tar2sqfs", "tar")
@pytest.mark.parametrize(
    "options", [*[[f"--format={form}"] for form in FORMS], *[[*form, "--sparse"] for form in HOLES]]
)
def test_a_tree_that_gnu_tar_packed(tmp_path: Path, options: list[str]) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/a").write_bytes(b"abc")
    os.link(root / "etc/a", root / "b")
    (root / "l").symlink_to("etc/a")
    (root / os.fsdecode(b"caf\xe9")).touch(0o640)
    if "--format=v7" not in options and "--format=ustar" not in options:
        (root / ("n" * 200)).mkdir()
        (root / ("n" * 200) / ("m" * 200)).symlink_to("x" * 200)
    for name, start in (("etc/hole", 3_000_000), ("n" * 90, 0), ("m" * (200 if "--sparse" in options else 90), 4096)):
        with (root / name).open("wb") as file:
            file.truncate(5_000_001)
            for piece in range(8):
                file.seek(start + piece * 200_000)
                file.write(b"data")
    os.utime(root / "b", ns=(0, 1_600_000_000_999_999_999))
    subprocess.run(["tar", *options, "-cf", tmp_path / "s.tar", "-C", root, "."], check=True)
    unpack_tar(tmp_path / "s.tar", tmp_path / "plain.tar", None)
    said = see_records(imaged(tmp_path / "plain.tar", tmp_path / "o.squashfs"))
    assert differences(see_directory(root), said) == []


def big_pax(*, size: int) -> bytes:
    return pax((b"comment", b"x" * size)) + member(b"a")


def numbered(uid: bytes) -> bytes:
    """A member with this in the field of its owner."""
    block = member(b"a")
    return hostile.sealed(block[:108] + uid + block[116:])


REFUSED = {
    "absolute": ([member(b"/etc/a")], r"'/etc/a' is an absolute name"),
    "absolute root": ([folder(b"/")], "is no name"),
    "climbs": ([member(b"a/../../b")], r"'a/\.\./\.\./b' climbs"),
    "two dots": ([member(b"..")], "climbs"),
    "hard link absolute": ([member(b"a"), hardlink(b"b", b"/a")], "'b' is a hard link out of the tar: '/a'"),
    "hard link climbs": ([member(b"a"), hardlink(b"b", b"c/../a")], "is a hard link out of the tar"),
    "hard link to nothing": ([hardlink(b"b", b"a")], "'b' is a hard link to nothing that came before it: 'a'"),
    "hard link to later": ([hardlink(b"b", b"a"), member(b"a")], "nothing that came before"),
    "hard link to itself": ([hardlink(b"b", b"b")], "nothing that came before"),
    "hard link to a directory": ([folder(b"a"), hardlink(b"b", b"a")], "is a hard link to a directory: 'a'"),
    "hard link without a target": ([hardlink(b"b", b"")], "target that is empty"),
    "link out": ([symlink(b"a/l", b"../../x")], r"'a/l' is a symbolic link out of the tree: '\.\./\.\./x'"),
    "link out by half": ([symlink(b"a/l", b"b/../../../x")], "out of the tree"),
    "link above /": ([symlink(b"l", b"/../x")], "out of the tree"),
    "link without a target": ([symlink(b"l", b"")], "target that is empty"),
    "link with a NUL": ([pax((b"linkpath", b"a\0b")) + symlink(b"l", b"x")], "holds a NUL"),
    "long target": ([long_name(b"x" * 4096, b"K") + symlink(b"l", b"x")], "longer than 4095"),
    "below a link": ([symlink(b"a", b"b"), member(b"a/c")], "'a/c' lies below '/a', a symlink"),
    "below a link, before it": ([member(b"a/b/c"), symlink(b"a", b"b")], "'a' is a symlink, and has members below"),
    "below a file": ([member(b"a"), member(b"a/b/c")], "lies below '/a', a file"),
    "below a hard link": ([member(b"a"), hardlink(b"b", b"a"), member(b"b/c")], "a hardlink"),
    "twice": ([member(b"a"), member(b"a")], "'a' is there twice"),
    "twice, slashes": ([member(b"a/b"), member(b"a//b")], "'a//b' is there twice"),
    "twice, dots": ([member(b"a/b"), member(b"./a/./b")], r"'\./a/\./b' is there twice"),
    "twice, a directory": ([folder(b"a"), folder(b"./a/")], "is there twice"),
    "twice, the root": ([folder(b"./"), folder(b".")], r"'\.' is there twice"),
    "a root that is a file": ([member(b".")], "'.' is named as a directory, and is a file"),
    "a file as directory": ([member(b"a/")], "named as a directory"),
    "no name": ([member(b"")], "'' is no name"),
    "no name by PAX": ([pax((b"path", b"")) + member(b"a")], "'' is no name"),
    "a volume label": ([header(b"v", b"V")], r"'v' has the unknown member type b'V'"),
    "a NUL": ([pax((b"path", b"a\0b")) + member(b"a")], r"'a\\x00b' has a NUL"),
    "a long part": ([long_name(b"n" * 256) + member(b"n")], "is longer than"),
    "a long path": ([long_name(DEEP) + member(b"n")], "is longer than"),
    "uid -1": ([member(b"a", uid=2**32 - 1)], "'a' has the uid 4294967295"),
    "uid below 0": ([member(b"a", uid=-1)], "has the uid -1"),
    "gid": ([pax((b"gid", b"4294967295")) + member(b"a")], "has the gid 4294967295"),
    "mode": ([member(b"a", mode=-1)], "has the mode -1"),
    "mtime": ([member(b"a", mtime=2**32)], "has the mtime 4294967296"),
    "mtime before 1970": ([pax((b"mtime", b"-0.5")) + member(b"a")], "has the mtime -1"),
    "major": ([header(b"a", b"3", dev=(4096, 0))], "device number 4096:0"),
    "minor": ([header(b"a", b"4", dev=(0, 1 << 20))], "device number 0:1048576"),
    "empty": ([], "tree.tar: an empty tree"),
    "only a root": ([folder(b"./")], "an empty tree"),
    "negative size": ([header(b"a", size=-512)], "'a': damaged|'a': has the size -512|negative size"),
    "negative PAX header": ([header(b"p", b"x", size=-512), member(b"a")], "a negative size"),
    "negative PAX size": ([member(b"a"), pax((b"size", b"-1024")) + member(b"b")], "PAX record size is no number"),
    "a size beyond the file": ([header(b"a", size=1 << 20)], "unexpected end|cut short"),
    "a directory with a size": ([header(b"a", b"5", size=512), bytes(512)], "has the size 512, yet 0 bytes"),
    "a number that is none": ([pax((b"uid", b"x")) + member(b"a")], "PAX record uid is no number: 'x'"),
    "Python's numbers": ([pax((b"mtime", b"1_0")) + member(b"a")], "mtime is no number"),
    "octal as Python has it": ([numbered(b"00_0001\0")], "a damaged number"),
    "a number with a sign": ([numbered(b"-000001\0")], "a damaged number"),
    "no number": ([numbered(bytes(8))], "a damaged number"),
    "not a number": ([pax((b"mtime", b"nan")) + member(b"a")], "mtime is no number"),
    "a long PAX header": ([big_pax(size=1 << 20)], "a header of more than 1 MiB"),
    "a long long name": ([long_name(b"a" * (1 << 20)) + member(b"a")], "a header of more than 1 MiB"),
    "a long map of holes": ([sparse_pax(b"a", 1 << 40, [(n * 512, b"") for n in range(99_999)], "1.0")], "1 MiB"),
    "headers without end": ([pax((b"a", b"b")) * 999 + member(b"a")], "RecursionError|more than 1 MiB"),
    "two headers": ([pax((b"a", b"b")) * 2 + member(b"a")], "'a': more than one extended header"),
    "many global records": ([pax(*[(b"%d" % n, b"") for n in range(65)], type=b"g"), member(b"a")], "more than 64"),
    "a map backwards": ([sparse_pax(b"a", 4096, [(1024, b"x" * 512), (0, b"y" * 512)], "0.1")], "map of holes"),
    "a map beyond": ([sparse_pax(b"a", 100, [(1024, b"x")], "1.0")], "map of holes"),
    "a map in a directory": ([pax((b"GNU.sparse.map", b"0,0"), (b"GNU.sparse.size", b"0")) + folder(b"a")], "map"),
    "a map of words": ([pax((b"GNU.sparse.map", b"a,b"), (b"GNU.sparse.size", b"0")) + member(b"a")], "ValueError"),
    "an attribute of no name": ([pax((b"SCHILY.xattr.", b"1")) + member(b"a")], "cannot be named: ''"),
    "an attribute, =": ([pax((b"LIBARCHIVE.xattr.user.a%3Db", b"")) + member(b"a")], "cannot be named: 'user.a=b'"),
    "an attribute, bytes": ([pax((b"SCHILY.xattr.user.\xff", b"1")) + member(b"a")], r"named: 'user.\\udcff'"),
    "an attribute, base64": ([pax((b"LIBARCHIVE.xattr.user.a", b"!")) + member(b"a")], "'a': .*base64"),
    "an attribute, large": ([pax((b"SCHILY.xattr.user.a", b"x" * 65536)) + member(b"a")], "more than 65535 bytes"),
    "an attribute of a link": ([pax((b"SCHILY.xattr.user.a", b"")) + symlink(b"a", b"b")], "cannot have"),
    "an incremental backup": ([header(b"a", magic=hostile.GNU, tail=b"14000000000\0")], "incremental backup"),
    "another format": ([header(b"a", magic=b"uztar\x0000")], "an unknown format"),
    "a line break": ([member(b"a\nb"), member(b"a\nb")], r"'a\\nb' is there twice"),
    "bytes in a message": ([member(b"\xe9"), member(b"\xe9")], r"'\\udce9' is there twice"),
}  # fmt: skip


def refusal(source: Path, sha256: str | None = None) -> str:
    """What is said; nothing may be left."""
    out = source.with_name("out") / "o.tar"
    out.parent.mkdir()
    with pytest.raises(SourceError) as caught:
        unpack_tar(source, out, sha256)
    assert not list(out.parent.iterdir())
    text = str(caught.value)
    assert text.isprintable()
    return text


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(tmp_path: Path, case: str) -> None:
    members, words = REFUSED[case]
    source = source_of(tmp_path, hostile.tar(*members))
    with limited(LIMIT_S):
        text = refusal(source)
    assert re.search(words, text), text
    with pytest.raises(SourceError, match=re.escape(text)):
        check_tree(source)


WHOLE = hostile.tar(member(b"a", b"1"), member(b"b", b"2"))
DAMAGED = {
    "no file": (None, "not a file"),
    "nothing": (b"", "neither a tar"),
    "words": (b"this is no tar\n" * 100, "neither a tar nor one compressed by gzip, xz or zstd"),
    "bzip2": (b"BZh91AY&SY" + bytes(600), "neither a tar"),
    "a cut header": (WHOLE[:1300], "truncated header|cut short"),
    "a cut content": (WHOLE[:1600], "'b': damaged, or the tar is cut short"),
    "no end": (WHOLE[:2048], "damaged or cut short at byte 2048"),
    "a damaged header": (WHOLE[:1100] + b"x" + WHOLE[1101:], "damaged or cut short at byte 1024"),
    "two in one": (WHOLE + WHOLE, "goes on after its end at byte 2048"),
    "a lost header": (WHOLE[:1024] + bytes(512) + WHOLE[1536:], "goes on after its end at byte 1024"),
    "cut gzip": (gzip.compress(WHOLE)[:-1], "compressed data is damaged: it ends too early"),
    "cut xz": (lzma.compress(WHOLE)[:-1], "it ends too early"),
    "cut zstd": (zstandard.compress(WHOLE)[:-1], "it ends too early"),
    "gzip's checksum": (gzip.compress(WHOLE)[:-8] + bytes(4) + gzip.compress(WHOLE)[-4:], "incorrect data check"),
    "after gzip": (gzip.compress(WHOLE) + b"garbage", "compressed data is damaged"),
    "after zstd": (zstandard.compress(WHOLE) + b"garbage", "compressed data is damaged"),
    "zstd's window": (b"\x28\xb5\x2f\xfd\x00\xb0" + bytes(20), "compressed data is damaged: .*memory"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged(tmp_path: Path, case: str) -> None:
    data, words = DAMAGED[case]
    source = source_of(tmp_path, data) if data is not None else tmp_path / "missing"
    text = refusal(source)
    assert re.search(words, text), text


def test_a_wrong_hash_names_both_and_comes_first(tmp_path: Path) -> None:
    data = COMPRESSORS["zstd"](WHOLE)[:-3] + os.urandom(3 << 20)
    text = refusal(source_of(tmp_path, data), "0" * 64)
    assert hashlib.sha256(data).hexdigest() in text and "0" * 64 in text


def test_no_room(tmp_path: Path) -> None:
    """A directory in the way stands for every error of the disk."""
    (tmp_path / "out.tar" / "x").mkdir(parents=True)
    with pytest.raises((SourceError, OSError)):
        unpack_tar(source_of(tmp_path, WHOLE), tmp_path / "out.tar", None)


BOMBS = {
    "gzip": lambda: gzip.compress(bytes(64 << 20), 9),
    "xz": lambda: lzma.compress(bytes(64 << 20)),
    "zstd": lambda: zstandard.compress(bytes(64 << 20)),
    "plain": lambda: bytes(2 << 20),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(archive, "MAX_TREE_BYTES", 1 << 20)
    written: list[int] = []
    monkeypatch.setattr(archive, "_SAY_BYTES", 1)
    source, out = source_of(tmp_path, BOMBS[case]()), tmp_path / "o.tar"
    with pytest.raises(SourceError, match="GiB unpacked"):
        unpack_tar(source, out, None, lambda _: written.append(out.stat().st_size))
    assert max(written, default=0) <= 1 << 20 and not out.exists()


@pytest.mark.parametrize(
    ("limit", "members", "words"),
    [
        ("MAX_TREE_BYTES", [sparse_pax(b"a", 1 << 60, [], "1.0")], "'a' makes it more than 16 GiB, holes included"),
        ("MAX_TREE_BYTES", [sparse_gnu(b"%d" % n, 6 << 30, []) for n in range(3)], "'2' makes it more than 16 GiB"),
        ("MAX_MEMBERS", [member(b"%d" % n) for n in range(4)], "'3' is one more than 3 members"),
        (
            "MAX_XATTRS_BYTES",
            [pax((b"SCHILY.xattr.user.a", b"")) + member(b"a")],
            "'a' makes it more than 0 MiB of ext",
        ),
        ("_MAX_IDS", [member(b"%d" % n, uid=n) for n in range(4)], "'3' makes it more than 3 different owners"),
    ],
)
def test_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, members: list[bytes], words: str
) -> None:
    if limit != "MAX_TREE_BYTES":
        monkeypatch.setattr(archive, limit, 3)
    assert words in refusal(source_of(tmp_path, hostile.tar(*members)))


def test_a_stop_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "_SAY_BYTES", 1)
    with pytest.raises(KeyboardInterrupt):
        unpack_tar(source_of(tmp_path, WHOLE), tmp_path / "o.tar", None, stop)
    assert not (tmp_path / "o.tar").exists()


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """A hang is a failure."""

    def fail(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def taken(work: Path, seed: int) -> tuple[Path, list[FileRecord]] | None:
    """The plain tar of a mutant, its image and what that holds; None where it is refused, in printable lines."""
    work.mkdir()
    source, tree, image = source_of(work, hostile.mutant(seed)), work / "plain.tar", work / "o.squashfs"
    try:
        with limited(LIMIT_S):
            unpack_tar(source, tree, None)
            return tree, imaged(tree, image)
    except RofsError as error:
        lines = str(error).split("\n")
        assert len(lines) < 4 and all(line.isprintable() and len(line) < 600 for line in lines), seed
        assert not image.exists(), seed
        return None


def readable(image: Path) -> dict[str, tuple[object, ...]]:
    """What sqfs2tar shows of an image."""
    out = image.with_suffix(".read.tar")
    with out.open("wb") as file:
        subprocess.run(["sqfs2tar", "--root-becomes", ".", image], check=True, stdout=file)
    seen: dict[str, tuple[object, ...]] = {}
    with tarfile.open(out, "r:", encoding="utf-8", errors="surrogateescape") as read:
        for info in read:
            content = read.extractfile(info) if info.isreg() else None
            sha256 = hashlib.sha256(content.read()).hexdigest() if content is not None else ""
            path = "/" + info.name.removeprefix("./").removeprefix(".").rstrip("/")
            seen[path] = (info.type, info.mode, info.uid, info.gid, info.mtime, info.size, sha256)
    return seen


TYPES = {"file": b"0", "dir": b"5", "symlink": b"2", "char": b"3", "block": b"4", "fifo": b"6"}


@pytest.mark.slow
@pytest.mark.needs("tar2sqfs", "sqfs2tar")
def test_mutants_are_right_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    accepted = 0
    for seed in range(MUTANTS):
        work = tmp_path / "work" / str(seed)
        work.parent.mkdir(exist_ok=True)
        result = taken(work, seed)
        if result is not None:
            accepted += 1
            image = readable(work / "o.squashfs")
            for path, one in see_records(result[1]).items():
                wanted = (TYPES[one.kind], one.mode, one.uid, one.gid, one.mtime, one.size, one.sha256)
                if one.first == path:  # sqfs2tar has the others as links
                    assert image[path] == wanted, (seed, path)
            assert image.keys() == {record.path for record in result[1]}, seed
    assert MUTANTS // 10 < accepted < MUTANTS // 2
    assert {path.name for path in tmp_path.iterdir()} == {"here", "work"} and not list((tmp_path / "here").iterdir())


@pytest.mark.slow
@pytest.mark.needs("tar2sqfs", "tar", "root")
def test_mutants_are_what_gnu_tar_makes_of_them(tmp_path: Path) -> None:
    """A second opinion on what the accepted ones say."""
    agreed, seed = 0, MUTANTS
    while agreed < OPINIONS:
        seed += 1
        work = tmp_path / str(seed)
        result = taken(work, seed)
        if result is None:
            continue
        agreed += 1
        tree, records = result
        root = work / "root"
        root.mkdir()
        options = ("--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*")
        subprocess.run(["tar", *options, "-xf", tree, "-C", root], check=False, capture_output=True)
        said = see_records(records)
        _lengthen(said, root)
        assert differences(_common(said), _common(see_directory(root))) == [], seed
    assert seed - MUTANTS < 20 * OPINIONS


def _lengthen(said: Tree, root: Path) -> None:
    """A file's map of holes may end before the file's size does: GNU tar then stops there."""
    for path in ("/hole", "/holes", "/0.0", "/0.1", "/1.0"):
        where = root / path[1:]
        if path in said and said[path].kind == "file" and where.is_file():
            before = where.stat()
            os.truncate(where, max(before.st_size, said[path].size))
            os.utime(where, ns=(before.st_atime_ns, before.st_mtime_ns))


def _common(tree: Tree) -> Tree:
    """Without what GNU tar does not know (libarchive's attributes) or touches again (times of directories)."""
    return {
        path: replace(
            one,
            mtime=0 if one.kind == "dir" else one.mtime,
            xattrs={name: value for name, value in one.xattrs.items() if name in ("security.capability", "user.eq")},
        )
        for path, one in tree.items()
    }
