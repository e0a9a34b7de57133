# SPDX-License-Identifier: MIT
"""Images through libsquashfs against tar2sqfs's, byte by byte, with a cache cold, warm and damaged."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tarmaker import EPOCH, Row, device, file, folder, hardlink, raw_pax, symlink, write_tar
from test_squashfs import CAPS, COMPRESSORS, ENTRIES, ROWS, options

from rofs.entry import Entry
from rofs.errors import ImageError, Interrupted
from rofs.image import blockcache, blockcompressor, libsquashfs
from rofs.image.blockcompressor import CachingCompressor, make_config, shape_of
from rofs.image.inodes import Inodes
from rofs.image.libsquashfs import LibraryError, find_library
from rofs.image.records import FileRecord
from rofs.image.squashfs import write_squashfs
from rofs.image.tarstream import Header
from rofs.profile import ImageOptions
from rofs.run import find_program
from rofs.treefacts import read_facts

pytestmark = pytest.mark.needs("tar2sqfs")
RANDOM = random.Random(6)


def torture(block_size: int) -> list[Row]:
    noise = RANDOM.randbytes(block_size + 1)
    rows = [*ROWS, folder("./many", 0o1777), folder("./d"), folder("./a dir"), folder("./a dir/below")]
    rows += [file(f"./many/{n:04}-{'n' * (n % 90)}", b"%d" % n, uid=n % 5, gid=n % 3) for n in range(3500)]
    rows += [file(f"./d/{n}", RANDOM.randbytes(100) * n) for n in range(0, 200, 7)]
    rows += [
        file("./d/block", noise[:-1]),
        file("./d/block and one", noise),
        file("./d/again", noise),
        file("./d/one less", noise[:-2]),
        file("./d/zeros", bytes(3 * block_size)),
        file("./d/zeros and more", bytes(3 * block_size + 5)),
        file("./d/hole", noise[:10] + bytes(5 * block_size) + noise),
        hardlink("./0", "./d/block"),
        hardlink("./many/0000", "./d/block"),
        hardlink("./d/zz", "./d/block"),
        hardlink("./a dir/below/l", "./l"),
        hardlink("./zero", "./null"),
        symlink("./long", "x/" * 1500),
        symlink("./" + os.fsdecode(b"\xff\xfe"), os.fsdecode(b"\x80")),
        device("./tty", tarfile.CHRTYPE, 4, 64),
    ]
    three = {"SCHILY.xattr.user.z": "1", "SCHILY.xattr.security.x": "2" * 700, "SCHILY.xattr.trusted.m": "3"}
    caps = {"SCHILY.xattr.security.capability": raw_pax(CAPS)}
    rows += [
        file("./x1", b"1", pax=three),
        file("./x2", b"1", pax=dict(reversed(three.items()))),
        file("./x3", b"1", mtime=EPOCH + 9, pax=three),
        file("./x4", b"1", mtime=EPOCH + 9, pax={"LIBARCHIVE.xattr.user.b": "AP8", **caps}),
        folder("./x5", pax=three),
    ]
    return rows


def write(
    out: Path,
    tar: Path,
    blocks: Path | None,
    opts: ImageOptions,
    *,
    jobs: int = 2,
    entries: list[Entry] | None = None,
    **other: Any,
) -> tuple[bytes, list[FileRecord], list[str]]:
    notes: list[str] = []
    records = write_squashfs(
        out,
        [tar],
        ENTRIES if entries is None else entries,
        options=opts,
        epoch=EPOCH,
        resolve=read_facts(tar).resolve,
        jobs=jobs,
        blocks=blocks,
        log=out.with_suffix(".log"),
        note=notes.append,
        **other,
    )
    return out.read_bytes(), list(records), notes


def used(out: Path) -> tuple[int, int]:
    """Blocks reused and compressed by the last write, by the log."""
    words = out.with_suffix(".log").read_text("utf-8").splitlines()[-1].split()
    assert words[0] == "libsquashfs:"
    return int(words[1]), int(words[4])


def assert_same(tmp_path: Path, tar: Path, opts: ImageOptions, **other: Any) -> None:
    """The library's image, cold, warm and by other numbers of threads, is tar2sqfs's."""
    expected, records, _ = write(tmp_path / "tool", tar, None, opts, **other)
    out, blocks = tmp_path / "library", tmp_path / "blocks"
    for number, jobs in enumerate((2, 1, 2, 5, 16)):
        image, said, notes = write(out, tar, blocks, opts, jobs=jobs, **other)
        assert notes == [] and said == records
        assert image == expected
        reused, compressed = used(out)
        assert (compressed > 0) == (number == 0) and (reused > 0) >= (number > 0)


@pytest.mark.parametrize(("compression", "level", "_"), COMPRESSORS)
def test_a_torture_tar_with_every_compressor(tmp_path: Path, compression: Any, level: int | None, _: object) -> None:
    block_size = 131072 if compression == "zstd" else 65536
    tar = write_tar(tmp_path / "t.tar", *torture(block_size))
    assert_same(tmp_path, tar, options(compression, level, block_size))


@pytest.mark.parametrize("block_size", [4096, 131072, 1 << 20])
@pytest.mark.parametrize("compression", ["zstd", "xz"])
def test_block_sizes(tmp_path: Path, compression: Any, block_size: int) -> None:
    noise = RANDOM.randbytes(block_size + 1)
    rows = [file("./a", noise), file("./b", noise[:-1]), file("./c", bytes(block_size) + noise), file("./d", b"x" * 9)]
    assert_same(tmp_path, write_tar(tmp_path / "t.tar", *rows), options(compression, 1, block_size))


@pytest.mark.parametrize("keep_times", [False, True])
def test_times_from_1970_to_2106_and_beyond(tmp_path: Path, keep_times: bool) -> None:
    rows = [folder("./", mtime=EPOCH + 5), file("./a", mtime=0), file("./b", mtime=2**32 - 1), file("./c", mtime=1.5)]
    tar = write_tar(tmp_path / "t.tar", *rows)
    assert_same(tmp_path, tar, options(), keep_times=keep_times)


def test_a_tree_of_nothing(tmp_path: Path) -> None:
    assert_same(tmp_path, write_tar(tmp_path / "t.tar", folder("./")), options(), entries=[])


def test_a_tree_deeper_than_python_recurses() -> None:
    tree = Inodes()
    for depth in range(3000):
        path = "/d" * depth or "/"
        tree.add(Header(path=path, kind="dir", mode=0o755, uid=0, gid=0, mtime=0))
    assert [tree.numbers[node] for node in tree.ordered()] == list(range(1, 3001))


@pytest.mark.needs("tar")
@pytest.mark.parametrize(
    "form", ["--format=gnu", *[f"--format=pax --sparse-version={v}" for v in ("0.0", "0.1", "1.0")]]
)
def test_sparse_members_are_runs_of_zeros(tmp_path: Path, form: str) -> None:
    path = tmp_path / "tree" / "hole"
    path.parent.mkdir()
    with path.open("wb") as hole:
        hole.truncate(5 << 20)
        hole.seek(3_000_000)
        hole.write(b"abc" * 50_000)
    for mtime in (EPOCH - 1, EPOCH + 1):
        os.utime(path, (mtime, mtime))
        tar = tmp_path / "s.tar"
        subprocess.run(["tar", *form.split(), "-S", "-cf", tar, "-C", path.parent, "./hole"], check=True)
        expected, records, _ = write(tmp_path / "tool", tar, None, options())
        assert write(tmp_path / "library", tar, tmp_path / "blocks", options()) == (expected, records, [])


def test_one_changed_file_compresses_little(tmp_path: Path) -> None:
    rows = [file(f"./{n:03}", RANDOM.randbytes(5000) * 4) for n in range(300)]
    tar, out, blocks = tmp_path / "t.tar", tmp_path / "library", tmp_path / "blocks"
    write(out, write_tar(tar, *rows), blocks, options())
    cold = used(out)[1]
    rows[150] = replace(rows[150], content=b"other" * 4000)
    image, *_ = write(out, write_tar(tar, *rows), blocks, options())
    assert image == write(tmp_path / "tool", tar, None, options())[0]
    assert used(out)[1] * 4 < cold


SMALL = [folder("./etc"), *[file(f"./etc/{n}", b"text %d " % n * 500) for n in range(40)], file("./n", bytes(9000))]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes, bytes]:
    """A tar, its segment, what the segment holds, and the image."""
    directory = tmp_path_factory.mktemp("warm")
    tar = write_tar(directory / "t.tar", *SMALL)
    image, *_ = write(directory / "library", tar, directory / "blocks", options("zstd", 1, 4096))
    (segment,) = (directory / "blocks").glob("*/*.blocks")
    return tar, segment, segment.read_bytes(), image


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_in_the_cache_is_noticed(warm: tuple[Path, Path, bytes, bytes], data: st.DataObject) -> None:
    tar, segment, good, image = warm
    bit = data.draw(st.integers(0, len(good) * 8 - 1))
    for other in segment.parent.iterdir():
        other.unlink()
    segment.write_bytes(good[: bit // 8] + bytes([good[bit // 8] ^ 1 << bit % 8]) + good[bit // 8 + 1 :])
    out = tar.with_name("library")
    assert write(out, tar, segment.parents[1], options("zstd", 1, 4096))[0] == image
    assert used(out)[1] > 0


def test_a_read_only_cache_gives_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar, out, blocks = write_tar(tmp_path / "t.tar", *SMALL), tmp_path / "library", tmp_path / "blocks"
    image, *_ = write(out, tar, blocks, options())

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(blockcache, "_write", refuse)
    monkeypatch.setattr("os.utime", refuse)
    assert write(out, tar, blocks, options())[::2] == (image, [])
    assert used(out)[1] == 0
    other, _, notes = write(out, tar, blocks, options("gzip", 1))
    assert other == write(tmp_path / "tool", tar, None, options("gzip", 1))[0]
    assert len(notes) == 1 and "Read-only" in notes[0]


def test_another_library_level_or_block_size_is_another_shape() -> None:
    library, _ = find_library("zstd")
    assert library is not None
    upgraded = replace(library, fingerprint=b"other")
    shapes = {
        shape_of(lib, make_config(lib, opts))
        for lib in (library, upgraded)
        for opts in (options("zstd", 1), options("zstd", 2), options("zstd", 1, 65536))
    }
    assert len(shapes) == 6


def test_an_upgraded_library_uses_no_block_of_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar, out, blocks = write_tar(tmp_path / "t.tar", *SMALL), tmp_path / "library", tmp_path / "blocks"
    image, *_ = write(out, tar, blocks, options(), jobs=1)
    cold = used(out)
    library, reason = find_library("zstd")
    assert library is not None
    upgraded = replace(library, fingerprint=b"other")
    monkeypatch.setattr(libsquashfs, "find_library", lambda _: (upgraded, reason))
    assert write(out, tar, blocks, options(), jobs=1)[0] == image
    assert used(out) == cold
    assert write(out, tar, blocks, options(), jobs=1)[0] == image and used(out)[1] == 0
    monkeypatch.undo()
    assert write(out, tar, blocks, options(), jobs=1)[0] == image and used(out)[1] == 0


def test_the_fingerprint_is_of_both_files(monkeypatch: pytest.MonkeyPatch) -> None:
    read, libraries = Path.read_bytes, {}

    def upgraded(word: str) -> Callable[[Path], bytes]:
        return lambda path: read(path) + (b"!" if word in path.name else b"")

    for word in ("nothing", "libsquashfs", "libzstd"):
        monkeypatch.setattr(Path, "read_bytes", upgraded(word))
        libraries[word] = libsquashfs._load("zstd").fingerprint
    assert len(set(libraries.values())) == 3


def test_what_python_raises_in_a_callback_is_an_error_and_no_raw_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar, real, calls = write_tar(tmp_path / "t.tar", *SMALL), blockcompressor._key, []

    def fail(*words: int) -> bytes:
        calls.append(words)
        if len(calls) == 3:
            raise MemoryError
        return real(*words)

    monkeypatch.setattr(blockcompressor, "_key", fail)
    opts = options("zstd", 1, 4096)
    image, records, notes = write(tmp_path / "library", tar, tmp_path / "blocks", opts)
    assert len(calls) >= 3 and len(notes) == 1 and "MemoryError" in notes[0]
    assert list((tmp_path / "blocks").glob("*/*")) == [], "nothing of it is published"
    assert (image, records) == write(tmp_path / "tool", tar, None, opts)[:2]


def test_the_answer_to_a_block_after_an_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, _ = find_library("zstd")
    assert library is not None
    with blockcache.open_blocks(tmp_path, bytes(32)) as blocks:
        compressor = CachingCompressor(library, make_config(library, options()), blocks)
        monkeypatch.setattr(blockcompressor, "_key", lambda *_: 1 / 0)
        table = libsquashfs.Compressor.from_address(compressor.address)
        assert table.do_block(compressor.address, 0, 0, 0, 0) == 0, "after an error the library would wait for ever"
        assert isinstance(compressor.failure, ZeroDivisionError)
        compressor.close()


def test_a_library_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "t.tar", *SMALL)
    image, records, _ = write(tmp_path / "tool", tar, None, options())
    monkeypatch.setattr(libsquashfs, "SONAME", "libno-such.so.1")
    libsquashfs.find_library.cache_clear()
    try:
        *seen, notes = write(tmp_path / "other", tar, tmp_path / "blocks", options())
    finally:
        libsquashfs.find_library.cache_clear()
    assert seen == [image, records]
    assert len(notes) == 1 and "libno-such.so.1" in notes[0]
    assert not (tmp_path / "blocks").exists()


@pytest.mark.parametrize("structure", ["Super", "CompressorConfig"])
def test_structures_of_another_size_are_noticed(monkeypatch: pytest.MonkeyPatch, structure: str) -> None:
    class Shorter(ctypes.Structure):
        _fields_ = getattr(libsquashfs, structure)._fields_[:-1]

    monkeypatch.setattr(libsquashfs, structure, Shorter)
    functions = dict(libsquashfs._FUNCTIONS)
    for name, (result, arguments) in functions.items():
        if name in ("sqfs_super_init", "sqfs_compressor_config_init", "sqfs_compressor_create"):
            loose = [ctypes.c_void_p if "LP_" in str(each) else each for each in arguments]
            functions[name] = (result, tuple(loose))
    monkeypatch.setattr(libsquashfs, "_FUNCTIONS", functions)
    with pytest.raises(LibraryError, match="another"):
        libsquashfs._load("zstd")


def test_a_function_that_something_else_provides_is_noticed() -> None:
    library = ctypes.CDLL(libsquashfs.SONAME)
    with pytest.raises(LibraryError, match=r"malloc comes from /.*, not from libz\.so"):
        libsquashfs._provider(library, "malloc", "libz.so.")


def test_a_tree_that_is_none_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rofs.image.squashfs._write_by_tool", lambda *_, **__: pytest.fail("again"))
    tar = write_tar(tmp_path / "t.tar", folder("./a", pax={"SCHILY.acl.default": "user:1:rwx"}))
    with pytest.raises(ImageError, match="POSIX ACLs"):
        write(tmp_path / "o", tar, tmp_path / "blocks", options())
    assert not (tmp_path / "o").exists()


def test_it_ends_when_everything_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar, members = write_tar(tmp_path / "t.tar", *SMALL), []

    def stop() -> None:
        members.append(1)
        if len(members) == 5:
            raise Interrupted("stopped")

    monkeypatch.setattr("rofs.image.squashfs.check_stopped", stop)
    with pytest.raises(Interrupted):
        write(tmp_path / "o", tar, tmp_path / "blocks", options())
    assert len(members) == 5 and not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_file_of_four_gigabytes(tmp_path: Path) -> None:
    """Mostly a hole in the tar, so that it is the library's work and not the disk's."""
    path = tmp_path / "tree" / "big"
    path.parent.mkdir()
    with path.open("wb") as big:
        big.truncate((4 << 30) + 5)
        for at in range(0, 4 << 30, 400 << 20):
            big.seek(at)
            big.write(b"%d" % at * 30_000)
    os.utime(path, (EPOCH, EPOCH))
    tar = tmp_path / "s.tar"
    subprocess.run(["tar", "--format=gnu", "-S", "-cf", tar, "-C", path.parent, "./big"], check=True)
    expected, records, _ = write(tmp_path / "tool", tar, None, options("gzip", 1))
    for _ in range(2):
        assert write(tmp_path / "library", tar, tmp_path / "blocks", options("gzip", 1)) == (expected, records, [])


def test_two_writers_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    tar = write_tar(tmp_path / "t.tar", *SMALL)
    expected = write(tmp_path / "tool", tar, None, options())[0]
    with ThreadPoolExecutor(3) as pool:
        outs = [tmp_path / f"library{n}" for n in range(6)]
        images = list(pool.map(lambda out: write(out, tar, tmp_path / "blocks", options()), outs))
    assert all(image == expected and notes == [] for image, _, notes in images)


def test_entries_and_links_as_the_merge_makes_them(tmp_path: Path) -> None:
    rows = [file("./b/f", b"1" * 5000), hardlink("./a", "./b/f"), hardlink("./c", "./b/f"), symlink("./s", "a")]
    entries = [
        Entry(path=PurePosixPath("/b/f"), kind="file", content=b"new", why="files[0]"),
        Entry(path=PurePosixPath("/b/nothing"), kind="file", content=b"", why="files[1]"),
    ]
    assert_same(tmp_path, write_tar(tmp_path / "t.tar", *rows), options(), entries=entries)


def test_a_tar2sqfs_that_stands_on_another_library_writes_the_image_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is found first on PATH may be of another version: a warm build must not differ from a cold one."""
    real = find_program("tar2sqfs")
    other = tmp_path / "bin" / "tar2sqfs"
    other.parent.mkdir()
    other.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
    libsquashfs.find_library.cache_clear()
    tar = write_tar(tmp_path / "t.tar", *SMALL)
    try:
        *_, notes = write(tmp_path / "out", tar, tmp_path / "blocks", options())
    finally:
        libsquashfs.find_library.cache_clear()
    assert len(notes) == 1 and f"{other} does not stand on /" in notes[0] and "libsquashfs" in notes[0]
    assert not (tmp_path / "blocks").exists()


def test_the_compressors_library_counts_too() -> None:
    with pytest.raises(LibraryError, match="tar2sqfs does not stand on /nowhere"):
        libsquashfs._compare_with_tool([Path("/nowhere/libzstd.so.1")])
