# SPDX-License-Identifier: MIT
"""tar2sqfs's command line, and its images against the tar, as squashfs-tools' unsquashfs reads them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path, PurePosixPath
from typing import Literal

import pytest
from tarmaker import EPOCH, Row, device, file, folder, hardlink, raw_pax, symlink, write_tar

from rofs.entry import Entry
from rofs.errors import ImageError, ToolError
from rofs.image.records import FileRecord
from rofs.image.squashfs import tar2sqfs_argv, write_squashfs
from rofs.profile import ImageOptions
from rofs.treefacts import read_facts

CAPS = bytes.fromhex("0100000200200000000000000000000000000000")
COMPRESSORS: list[tuple[Literal["zstd", "xz", "lz4", "gzip"], int | None, list[str]]] = [
    ("zstd", 3, ["--comp-extra", "level=3"]),
    ("zstd", None, []),
    ("xz", 1, ["--comp-extra", "level=1"]),
    ("lz4", None, []),
    ("lz4", 9, ["--comp-extra", "hc"]),
    ("gzip", 9, ["--comp-extra", "level=9"]),
]
"""One table for the command line and for the tool."""

ROWS = [
    folder("./", 0o711, uid=5, gid=6),
    folder("./etc", 0o2750, uid=3, gid=4),
    file("./etc/a", b"abc" * 100_000, mode=0o4755, uid=1, gid=100_000),
    file("./etc/caf\u00e9", b"x", mtime=EPOCH + 50),
    file("./etc/" + os.fsdecode(b"b\xe9"), b"y"),
    file("./empty", mode=0o000),
    symlink("./l", "etc/a"),
    hardlink("./h", "./etc/a"),
    device("./null", tarfile.CHRTYPE, 1, 3),
    device("./big", tarfile.BLKTYPE, 259, 70_000),
    Row(name="./fifo", type=tarfile.FIFOTYPE, mode=0o600),
    file(
        "./ping",
        b"p",
        pax={
            "SCHILY.xattr.security.capability": raw_pax(CAPS),
            "SCHILY.xattr.user.bin": raw_pax(b"\0\xff=\n"),
            "SCHILY.xattr.trusted.overlay.opaque": "y",
        },
    ),
    folder("./" + "long-name/" * 15, pax={"SCHILY.xattr.user.d": "1"}),
]
ENTRIES = [
    Entry(path=PurePosixPath("/etc/made"), kind="file", mode=0o640, gid=42, content=b"made\n", why="files[0]"),
    Entry(path=PurePosixPath("/var/lib/x"), kind="dir", mode=0o1777, why="mounts[0]"),
]


def options(
    compression: Literal["zstd", "xz", "lz4", "gzip"] = "zstd",
    level: int | None = 1,
    block_size: int = 131072,
) -> ImageOptions:
    return ImageOptions(format="squashfs", compression=compression, level=level, block_size=block_size, acl="error")


def packed(out: Path, *rows: Row, opts: ImageOptions | None = None, jobs: int = 1) -> list[FileRecord]:
    tar = write_tar(out.with_suffix(".tar"), *rows)
    records = write_squashfs(
        out,
        [tar],
        ENTRIES,
        options=opts or options(),
        epoch=EPOCH,
        resolve=read_facts(tar).resolve,
        jobs=jobs,
        log=out.with_suffix(".log"),
    )
    return list(records)


@pytest.mark.parametrize(("compression", "level", "extra"), COMPRESSORS)
def test_argv(compression: Literal["zstd", "xz", "lz4", "gzip"], level: int | None, extra: list[str]) -> None:
    argv = tar2sqfs_argv(Path("o"), options(compression, level, 4096), 7, 2)
    assert argv == [
        *("tar2sqfs", "--quiet", "--force", "--no-skip", "--compressor", compression, *extra),
        *("--block-size", "4096", "--dev-block-size", "4096", "--num-jobs", "2"),
        *("--defaults", "uid=0,gid=0,mode=0755,mtime=7", "o"),
    ]


@pytest.mark.needs("tar2sqfs", "unsquashfs")
@pytest.mark.parametrize(("compression", "level", "extra"), COMPRESSORS)
def test_every_compressor(
    tmp_path: Path, compression: Literal["zstd", "xz", "lz4", "gzip"], level: int | None, extra: list[str]
) -> None:
    out = tmp_path / "o.squashfs"
    packed(out, *ROWS, opts=options(compression, level, 65536))
    super_block = out.read_bytes()[:96]
    assert int.from_bytes(super_block[8:12], "little") == EPOCH
    assert int.from_bytes(super_block[12:16], "little") == 65536
    assert out.stat().st_size % 4096 == 0
    said = subprocess.run(["unsquashfs", "-s", out], check=True, capture_output=True, text=True).stdout
    assert f"Compression {compression}" in said
    read = subprocess.run(["unsquashfs", "-cat", out, "etc/a"], check=True, capture_output=True).stdout
    assert read == b"abc" * 100_000


@pytest.mark.needs("tar2sqfs", "unsquashfs")
def test_the_listing_says_what_the_records_say(tmp_path: Path) -> None:
    out = tmp_path / "o.squashfs"
    records = packed(out, *ROWS)
    lines = subprocess.run(
        ["unsquashfs", "-llnumeric", out], check=True, capture_output=True, env={**os.environ, "TZ": "UTC"}
    ).stdout
    listed = {}
    for line in os.fsdecode(lines).splitlines():
        mode, owner, *rest = line.split(maxsplit=2)
        if "squashfs-root" in line:
            name = rest[0].split("squashfs-root", 1)[1].split(" -> ")[0]
            listed[name or "/"] = (mode[1:], owner)
    assert listed == {
        record.path: (stat.filemode(stat.S_IFREG | record.mode)[1:], f"{record.uid}/{record.gid}") for record in records
    }


@pytest.mark.needs("tar2sqfs", "unsquashfs")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make devices and trusted attributes")
def test_what_is_extracted_is_what_the_tar_had(tmp_path: Path) -> None:
    out, root = tmp_path / "o.squashfs", tmp_path / "root"
    records = {record.path: record for record in packed(out, *ROWS)}
    subprocess.run(["unsquashfs", "-no-progress", "-quiet", "-xattrs", "-d", root, out], check=True)
    found = {"/": root} | {f"/{path.relative_to(root)}": path for path in root.rglob("*")}
    assert set(found) == set(records)
    for path, where in found.items():
        _assert_same(records[path], where)
    assert (root / "h").stat().st_ino == (root / "etc/a").stat().st_ino
    assert os.getxattr(root / "ping", "security.capability") == CAPS
    assert os.getxattr(root / "ping", "user.bin") == b"\0\xff=\n"
    assert os.getxattr(root / "ping", "trusted.overlay.opaque") == b"y"
    assert records["/etc/caf\u00e9"].mtime == EPOCH and records["/etc/a"].mtime == EPOCH - 100
    assert (records["/"].mode, records["/"].uid, records["/"].gid) == (0o711, 5, 6)


def _assert_same(record: FileRecord, where: Path) -> None:
    seen = where.lstat()
    kind = {
        "file": stat.S_IFREG,
        "hardlink": stat.S_IFREG,
        "dir": stat.S_IFDIR,
        "symlink": stat.S_IFLNK,
        "char": stat.S_IFCHR,
        "block": stat.S_IFBLK,
        "fifo": stat.S_IFIFO,
    }[record.kind]
    assert (stat.S_IFMT(seen.st_mode), stat.S_IMODE(seen.st_mode)) == (kind, record.mode), record
    assert (seen.st_uid, seen.st_gid, int(seen.st_mtime)) == (record.uid, record.gid, record.mtime), record
    if kind == stat.S_IFREG:
        assert hashlib.sha256(where.read_bytes()).hexdigest() == record.sha256, record
        assert seen.st_size == record.size
    if kind == stat.S_IFLNK:
        assert str(where.readlink()) == record.target
    if record.rdev:
        assert f"{os.major(seen.st_rdev)}:{os.minor(seen.st_rdev)}" == record.rdev
    xattrs = {
        name: os.getxattr(where, name, follow_symlinks=False) for name in os.listxattr(where, follow_symlinks=False)
    }
    assert {name: value.hex() for name, value in xattrs.items()} == dict(record.xattrs), record


@pytest.mark.needs("tar2sqfs")
def test_the_same_bytes_each_time_and_for_any_number_of_jobs(tmp_path: Path) -> None:
    rows = [*ROWS, *[file(f"./data/{n}", os.urandom(1000) * (n % 300)) for n in range(400)]]
    digests = set()
    for name, jobs in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.squashfs"
        packed(out, *rows, jobs=jobs)
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.needs("tar2sqfs", "unsquashfs")
def test_a_tree_without_a_root_member(tmp_path: Path) -> None:
    out = tmp_path / "o.squashfs"
    packed(out, file("etc/a", b"1"))
    said = subprocess.run(["unsquashfs", "-lls", out], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[0].startswith("drwxr-xr-x root/root")


@pytest.mark.needs("tar2sqfs")
def test_a_tree_that_is_none_leaves_no_image(tmp_path: Path) -> None:
    out = tmp_path / "o.squashfs"
    with pytest.raises(ImageError, match="POSIX ACLs"):
        packed(out, folder("./a", pax={"SCHILY.acl.default": "user:1:rwx"}))
    assert not out.exists()


@pytest.mark.needs("tar2sqfs")
def test_a_tar_that_shrinks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure in mid-stream counts, not tar2sqfs's complaint of a short archive."""
    monkeypatch.setattr("rofs.image.merge._write_members", _fail)
    with pytest.raises(ImageError, match="in the middle"):
        packed(tmp_path / "o.squashfs", *ROWS)
    assert not (tmp_path / "o.squashfs").exists()


def _fail(*_: object) -> None:
    raise ImageError("in the middle")


FAKES = {
    "dies at once": ("exit 3", ToolError, "exit status 3"),
    "dies later": ("head -c 70000 >/dev/null; echo no room >&2; exit 1", ToolError, "exit status 1"),
    "leaves things out": ("cat >/dev/null; echo 'WARNING: skipping x' >&2", ImageError, "skipping x"),
    "reads too little": ("head -c 1024 >/dev/null", ImageError, "without reading"),
}


@pytest.mark.parametrize("case", FAKES)
def test_a_tar2sqfs_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    script, error, word = FAKES[case]
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "tar2sqfs").write_text(f'#!/bin/sh\nfor last; do :; done; echo half > "$last"\n{script}\n')
    (bin_dir / "tar2sqfs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    with pytest.raises(error, match=word):
        packed(tmp_path / "o.squashfs", *ROWS, file("./much", os.urandom(3_000_000)))
    assert not (tmp_path / "o.squashfs").exists()


def test_no_tar2sqfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which

    def which(name: str, path: str) -> str | None:
        return None if name == "tar2sqfs" else real(name, path=path)

    monkeypatch.setattr("shutil.which", which)
    with pytest.raises(ToolError, match="not found"):
        packed(tmp_path / "o.squashfs", *ROWS, file("./much", os.urandom(3_000_000)))
