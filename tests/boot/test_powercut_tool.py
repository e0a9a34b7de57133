# SPDX-License-Identifier: MIT
"""What a power cut takes and what it leaves: logs made by hand, and by QEMU without a guest."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from powercut import BLOCK_BYTES, Entry, cut_points, outstanding, read_log, replay

KIB, MIB = 1024, 1024 * 1024
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
SEEDS = range(200)
FEW = range(32)

Cut = Callable[[Sequence[Entry], int, int], bytes]


def log_header(sector: int, sectors: int, flags: int, sector_bytes: int = 512) -> bytes:
    return struct.pack("<QQQQ", sector, sectors, flags, 0).ljust(sector_bytes, b"\0")


def log_start(counted: int, sector_bytes: int = 512, magic: int = MAGIC, version: int = 1) -> bytes:
    return struct.pack("<QQQI", magic, version, counted, sector_bytes).ljust(sector_bytes, b"\0")


def write(offset_bytes: int, data: bytes, *, fua: bool = False) -> Entry:
    return Entry(offset_bytes=offset_bytes, data=data, zero_bytes=0, flush=False, fua=fua)


def discard(offset_bytes: int, size_bytes: int) -> Entry:
    return Entry(offset_bytes=offset_bytes, data=None, zero_bytes=size_bytes, flush=False, fua=False)


FLUSHED = Entry(offset_bytes=0, data=None, zero_bytes=0, flush=True, fua=False)
A, B, C = (letter * BLOCK_BYTES for letter in (b"a", b"b", b"c"))


# --- the log -----------------------------------------------------------------------------------------


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], list[Entry]]:
    def of(log: bytes) -> list[Entry]:
        (tmp_path / "log").write_bytes(log)
        return read_log(tmp_path / "log")

    return of


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_a_log_with_every_kind_of_entry(sector_bytes: int, read: Callable[[bytes], list[Entry]]) -> None:
    one, two = b"1" * sector_bytes, b"2" * sector_bytes * 2
    log = log_start(5, sector_bytes) + log_header(7, 1, 0, sector_bytes) + one
    log += log_header(0, 0, FLUSH, sector_bytes) + log_header(9, 3, DISCARD, sector_bytes)
    log += log_header(2, 2, FUA, sector_bytes) + two + log_header(1, 1, FLUSH | FUA, sector_bytes) + one
    assert read(log) == [
        write(7 * sector_bytes, one),
        FLUSHED,
        discard(9 * sector_bytes, 3 * sector_bytes),
        write(2 * sector_bytes, two, fua=True),
        Entry(offset_bytes=sector_bytes, data=one, zero_bytes=0, flush=True, fua=True),
    ]


def test_entries_after_the_last_flush_count_too(read: Callable[[bytes], list[Entry]]) -> None:
    log = log_start(1) + log_header(0, 0, FLUSH) + (log_header(3, 1, 0) + b"x" * 512) * 2
    assert read(log) == [FLUSHED] + [write(1536, b"x" * 512)] * 2


@pytest.mark.parametrize("cut", [1, 511, 512, 513, 1535])
def test_a_last_entry_that_is_not_whole_is_none(cut: int, read: Callable[[bytes], list[Entry]]) -> None:
    last = log_header(3, 2, 0) + b"x" * 1024
    assert read(log_start(1) + log_header(0, 0, FLUSH) + last[:cut]) == [FLUSHED]


def test_nor_is_a_hole_in_the_log(read: Callable[[bytes], list[Entry]]) -> None:
    late = log_header(3, 1, 0) + b"x" * 512
    assert read(log_start(1) + log_header(0, 0, FLUSH) + bytes(1024) + late) == [FLUSHED]


def test_a_disk_that_was_never_written(read: Callable[[bytes], list[Entry]]) -> None:
    assert read(b"") == []


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (b"a disk", "not a write log"),
        (log_start(0, magic=MAGIC + 1), "not a write log"),
        (log_start(0, version=2), "not a write log"),
        (log_start(0, sector_bytes=0), "not a write log"),
        (bytes(512) + log_header(3, 1, 0) + b"x" * 512, "without a single flush"),
        (log_start(2) + log_header(0, 0, FLUSH), "1 entries where the superblock counts 2"),
        (log_start(1) + log_header(0, 0, MARK), "flags 0x8 at byte 512"),
    ],
    ids=["text", "magic", "version", "no sectors", "no superblock", "too few", "mark"],
)
def test_what_is_no_log(log: bytes, words: str, read: Callable[[bytes], list[Entry]]) -> None:
    with pytest.raises(ValueError, match=words):
        read(log)


# --- the disk ----------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A disk with something in every byte, the same in none of its blocks."""
    path = tmp_path / "base"
    path.write_bytes(random.Random("base").randbytes(MIB))
    return path


@pytest.fixture
def cut_disk(base: Path, tmp_path: Path) -> Cut:
    """A log, a cut and a seed -> the bytes of the disk."""

    def disk(log: Sequence[Entry], cut: int, seed: int) -> bytes:
        replay(base, log, cut, tmp_path / "out", random.Random(seed))
        return (tmp_path / "out").read_bytes()

    return disk


def test_what_was_flushed_stays_and_the_rest_may_go(base: Path, cut_disk: Cut) -> None:
    log = [write(0, A), write(8192, A), FLUSHED, write(0, B), write(65536, B), FLUSHED, write(8192, C)]
    before = base.read_bytes()
    for cut in range(len(log)):
        flush = max((number for number in range(cut + 1) if log[number] == FLUSHED), default=0)
        seen = set()
        for seed in FEW:
            disk = cut_disk(log, cut, seed)
            state = tuple(disk[at : at + BLOCK_BYTES] for at in (0, 8192, 65536))
            rest = [disk[4096:8192], disk[12288:65536], disk[69632:]]
            assert rest == [before[4096:8192], before[12288:65536], before[69632:]]
            seen.add(state)
        old = tuple(before[at : at + BLOCK_BYTES] for at in (0, 8192, 65536))
        expected = {old}
        for number, entry in enumerate(log[: cut + 1]):
            landed = {_with(state, entry) for state in expected}
            expected = landed if number < flush else expected | landed
        assert seen == expected, f"cut {cut}"
    assert base.read_bytes() == before


def _with(state: tuple[bytes, ...], entry: Entry) -> tuple[bytes, ...]:
    blocks = dict(zip((0, 8192, 65536), state, strict=True))
    return tuple((blocks | ({entry.offset_bytes: entry.data} if entry.data else {})).values())


def test_fua_makes_itself_durable_and_nothing_else(cut_disk: Cut) -> None:
    log = [write(0, A), write(0, B, fua=True), write(8192, A), write(16384, C, fua=True)]
    disks = [cut_disk(log, 3, seed) for seed in FEW]
    assert all(disk[:4096] == B and disk[16384:20480] == C for disk in disks)
    assert {disk[8192:12288] == A for disk in disks} == {True, False}


@pytest.mark.parametrize(("fua", "landed"), [(False, {True, False}), (True, {True})])
def test_a_write_that_flushes_first_is_itself_not_flushed(fua: bool, landed: set[bool], cut_disk: Cut) -> None:
    log = [write(0, A), Entry(offset_bytes=8192, data=B, zero_bytes=0, flush=True, fua=fua)]
    disks = [cut_disk(log, 1, seed) for seed in FEW]
    assert all(disk[:4096] == A for disk in disks)
    assert {disk[8192:12288] == B for disk in disks} == landed


def test_about_half_of_the_blocks_land_each_for_itself(base: Path, cut_disk: Cut) -> None:
    blocks = 64
    before = base.read_bytes()
    hits = [0] * blocks
    for seed in SEEDS:
        disk = cut_disk([write(0, A * blocks)], 0, seed)
        landed = [disk[at : at + BLOCK_BYTES] == A for at in range(0, blocks * BLOCK_BYTES, BLOCK_BYTES)]
        kept = [disk[at : at + BLOCK_BYTES] == before[at : at + BLOCK_BYTES] for at in range(0, MIB, BLOCK_BYTES)]
        assert [not whole for whole in landed] + [True] * (MIB // BLOCK_BYTES - blocks) == kept
        assert 8 < sum(landed) < 56, "a torn write, whatever the seed"
        hits = [count + whole for count, whole in zip(hits, landed, strict=True)]
    assert all(0.3 < count / len(SEEDS) < 0.7 for count in hits), hits
    assert 0.48 < sum(hits) / (blocks * len(SEEDS)) < 0.52


@pytest.mark.parametrize("size_bytes", [512, 4096])
def test_a_write_of_up_to_4_kib_lands_whole_or_not_at_all(size_bytes: int, base: Path, cut_disk: Cut) -> None:
    place, before = slice(1536, 1536 + size_bytes), base.read_bytes()
    seen = {cut_disk([write(1536, b"w" * size_bytes)], 0, seed)[place] for seed in FEW}
    assert seen == {before[place], b"w" * size_bytes}


def test_the_end_of_a_write_may_be_a_part_of_a_block(cut_disk: Cut) -> None:
    disk = cut_disk([write(512, b"w" * 5120), FLUSHED], 1, 0)
    assert disk[512:5632] == b"w" * 5120


def test_a_discard_is_torn_like_a_write(base: Path, cut_disk: Cut) -> None:
    log, before = [discard(8192, 128 * KIB), FLUSHED], base.read_bytes()
    disk = cut_disk(log, 0, 1)
    zeroes = [disk[at : at + BLOCK_BYTES] == bytes(BLOCK_BYTES) for at in range(8192, 8192 + 128 * KIB, BLOCK_BYTES)]
    assert 4 < sum(zeroes) < 28
    assert cut_disk(log, 1, 1) == before[:8192] + bytes(128 * KIB) + before[8192 + 128 * KIB :]


def test_the_seed_alone_decides(cut_disk: Cut) -> None:
    log = [write(0, A * 32), discard(65536, 65536), write(4096, B), write(300 * KIB, C * 9)]
    assert cut_disk(log, 3, 5) == cut_disk(log, 3, 5)
    assert len({cut_disk(log, 3, seed) for seed in FEW}) == len(FEW)


def test_holes_stay_holes(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    with base.open("wb") as file:
        file.truncate(1024 * MIB)
    base.chmod(0o400)
    log = [discard(0, 64 * MIB), write(128 * MIB, bytes(MIB)), write(512 * MIB, A), FLUSHED]
    replay(base, log, 3, out, random.Random(0))
    assert (out.stat().st_size, out.stat().st_mode & 0o600) == (1024 * MIB, 0o600)
    assert out.stat().st_blocks * 512 < MIB
    with out.open("rb") as file:
        file.seek(512 * MIB)
        assert file.read(4097) == A + b"\0"


def test_what_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "out", random.Random(0)
    with pytest.raises(ValueError, match=r"entry 1 of the log writes beyond the end of .*/base"):
        replay(base, [write(0, A), write(MIB - 4096, A + A)], 1, out, rng)
    for cut in (-1, 1):
        with pytest.raises(ValueError, match=f"cut {cut} of a log of 1 entries"):
            replay(base, [FLUSHED], cut, out, rng)
        with pytest.raises(ValueError, match=f"cut {cut} of a log of 1 entries"):
            outstanding([FLUSHED], cut)


# --- the cuts ----------------------------------------------------------------------------------------

entries = st.sampled_from([write(0, A), write(0, A, fua=True), discard(0, 512), FLUSHED])
logs = st.lists(entries, min_size=1, max_size=60)


def test_what_is_outstanding() -> None:
    log = [FLUSHED, write(0, A), discard(0, 512), write(0, A, fua=True), FLUSHED, FLUSHED, write(0, A)]
    assert [outstanding(log, cut) for cut in range(len(log))] == [0, 1, 2, 2, 0, 0, 1]
    assert outstanding([write(0, A), Entry(offset_bytes=0, data=A, zero_bytes=0, flush=True, fua=False)], 1) == 1


@given(logs, st.data())
def test_cuts_are_spread_over_the_log_where_something_can_be_lost(log: list[Entry], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(log)))
    cuts = cut_points(log, count)
    assert cuts == sorted(set(cuts)) == cut_points(log, count)
    assert len(cuts) == count
    for number, cut in enumerate(cuts):
        part = range(number * len(log) // count, (number + 1) * len(log) // count)
        assert cut in part
        assert outstanding(log, cut) == max(outstanding(log, other) for other in part)


@pytest.mark.parametrize("count", [-1, 0, 3])
def test_a_log_has_only_so_many_cuts(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} cuts in a log of 2 entries"):
        cut_points([write(0, A), FLUSHED], count)


# --- QEMU's own logs ---------------------------------------------------------------------------------


class Qemu:
    """qemu-io, with a disk that logs its writes and caches them as that of a guest does."""

    def __init__(self, base: Path, directory: Path) -> None:
        self.disk, self.log = directory / "disk", directory / "log"
        self.disk.write_bytes(base.read_bytes())
        self.log.touch()
        self.node = f"driver=blklogwrites,log.driver=file,log.filename={self.log},log-sector-size=512"
        self.node += f",file.driver=file,file.discard=unmap,file.filename={self.disk}"
        self.options = ["-t", "writeback", "-d", "unmap"]

    def do(self, *commands: str, status: int = 0) -> list[Entry]:
        argv = ["qemu-io", *self.options, "--image-opts", self.node]
        done = subprocess.run(argv + [word for command in commands for word in ("-c", command)], check=False)
        assert done.returncode == status
        return read_log(self.log)


@pytest.fixture
def qemu(base: Path, tmp_path: Path) -> Qemu:
    return Qemu(base, tmp_path)


@pytest.mark.needs("qemu-io")
def test_a_replay_of_the_whole_log_is_the_real_disk(base: Path, qemu: Qemu, cut_disk: Cut) -> None:
    log = qemu.do(
        "write -P 1 0 12k", "flush", "write -P 2 4k 512", "write -P 3 100 100", "write -f -P 4 20k 4k",
        "aio_write -P 5 64k 64k", "aio_write -P 6 128k 96k", "aio_write -P 7 300k 4k", "aio_flush",
        "write -z 512k 64k", "write -z -u 600k 8k", "discard 70k 8k", "flush", "write -P 8 1020k 4k",
    )  # fmt: skip
    disk = qemu.disk.read_bytes()
    assert disk != base.read_bytes()
    assert [cut_disk(log, len(log) - 1, seed) == disk for seed in range(3)] == [True] * 3
    assert any(cut_disk(log, len(log) - 2, seed) != disk for seed in range(16)), "the last flush is what QEMU adds"


@pytest.mark.needs("qemu-io")
def test_how_qemu_logs(qemu: Qemu) -> None:
    log = qemu.do("write -P 1 0 4k", "flush", "write -P 2 4k 512", "write -z 8k 4k", "discard 16k 4k")
    zeroes = write(8192, bytes(4096))
    at_the_end = FLUSHED
    assert log == [write(0, b"\1" * 4096), FLUSHED, write(4096, b"\2" * 512), zeroes, discard(16384, 4096), at_the_end]


@pytest.mark.needs("qemu-io")
def test_a_qemu_that_is_killed_has_logged_what_it_wrote(qemu: Qemu, cut_disk: Cut) -> None:
    log = qemu.do("write -P 1 0 256k", "flush", "write -P 2 128k 256k", "sigraise 9", status=-9)
    assert log == [write(0, b"\1" * 256 * KIB), FLUSHED, write(128 * KIB, b"\2" * 256 * KIB)]
    assert [outstanding(log, cut) for cut in range(3)] == [1, 0, 1]
    landed = 0
    for seed in SEEDS:
        disk = cut_disk(log, 2, seed)
        assert disk[: 128 * KIB] == b"\1" * 128 * KIB, "flushed, and not written again"
        blocks = [disk[at : at + BLOCK_BYTES] for at in range(128 * KIB, 384 * KIB, BLOCK_BYTES)]
        lost = [block for block in blocks if block != b"\2" * BLOCK_BYTES]
        assert all(block == b"\1" * BLOCK_BYTES for block in blocks[:32] if block in lost), "flushed before"
        landed += len(blocks) - len(lost)
    assert 0.48 < landed / (64 * len(SEEDS)) < 0.52


@pytest.mark.needs("qemu-io")
def test_a_write_under_way_is_not_flushed(qemu: Qemu) -> None:
    """The node below lets a byte a second through, until QEMU ends: the flush overtakes the last two."""
    qemu.node = qemu.node.replace(",file.", ",file.file.") + ",file.driver=throttle,file.throttle-group=slow"
    qemu.options += ["--object", "throttle-group,id=slow,x-bps-write=1"]
    log = qemu.do("write -P 1 64k 4k", "aio_write -P 2 0 4k", "aio_write -P 3 4k 4k", "flush")
    late = [write(0, b"\2" * 4096), write(4096, b"\3" * 4096)]
    assert log[:2] == [write(64 * KIB, b"\1" * 4096), FLUSHED]
    assert sorted(log[2:4], key=lambda entry: entry.offset_bytes) == late
    assert log[4:] == [FLUSHED]
    assert outstanding(log, 3) == 2
