# SPDX-License-Identifier: MIT
"""What is put into the store of blocks, and what damage, age, full disks and other builds do to it."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rofs.image import blockcache
from rofs.image.blockcache import open_blocks

SHAPE, OTHER = hashlib.sha256(b"shape").digest(), hashlib.sha256(b"other").digest()


def key(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def value(number: int) -> bytes:
    return b"%d" % number * (number % 7)


def fill(directory: Path, numbers: range, shape: bytes = SHAPE, **other: int) -> None:
    with open_blocks(directory, shape, **other) as blocks:  # type: ignore[arg-type]
        for number in numbers:
            assert blocks.find(key(number)) is None
            blocks.add(key(number), value(number))


def found(directory: Path, numbers: range, shape: bytes = SHAPE) -> dict[int, bytes]:
    with open_blocks(directory, shape) as blocks:
        return {number: seen for number in numbers if (seen := blocks.find(key(number))) is not None}


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.blocks"))


def test_what_was_added_is_there_the_next_time_and_in_the_same_build(tmp_path: Path) -> None:
    with open_blocks(tmp_path, SHAPE) as blocks:
        blocks.add(key(1), b"one")
        blocks.add(key(2), b"")
        assert blocks.find(key(1)) == b"one" and blocks.find(key(2)) == b"" and blocks.find(key(3)) is None
        assert (blocks.hits, blocks.misses) == (2, 1)
    assert found(tmp_path, range(5)) == {1: b"one", 2: b""}


def test_shapes_do_not_mix(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    assert found(tmp_path, range(10), OTHER) == {}
    (segment,) = segments(tmp_path)
    there = tmp_path / OTHER.hex()
    there.mkdir(exist_ok=True)
    segment.rename(there / segment.name)
    assert found(tmp_path, range(10), OTHER) == {}, "a segment that was moved"


def test_a_build_that_fails_publishes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    def build() -> None:
        with open_blocks(tmp_path, SHAPE) as blocks:
            blocks.add(key(1), b"one")
            raise KeyError

    with pytest.raises(KeyError):
        build()
    assert segments(tmp_path) == [] and list(tmp_path.glob("*/*")) == []


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_anywhere_costs_a_block_and_never_gives_a_wrong_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("blocks")
    fill(directory, range(12))
    (segment,) = segments(directory)
    raw = bytearray(segment.read_bytes())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    segment.write_bytes(raw)
    seen = found(directory, range(12))
    assert all(seen[number] == value(number) for number in seen)
    assert len(seen) < 12


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_cut_off_or_of_anything_at_all(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("blocks")
    fill(directory, range(5))
    (segment,) = segments(directory)
    raw = segment.read_bytes()
    segment.write_bytes(data.draw(st.one_of(st.integers(0, len(raw) - 1).map(lambda end: raw[:end]), st.binary())))
    assert found(directory, range(5)) == {}


def test_a_segment_cut_off_while_it_is_open(tmp_path: Path) -> None:
    fill(tmp_path, range(2, 6))
    with open_blocks(tmp_path, SHAPE) as blocks:
        os.truncate(segments(tmp_path)[0], 33)
        assert [blocks.find(key(number)) for number in range(2, 6)] == [None] * 4


def test_a_damaged_record_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path, range(3, 6))
    (segment,) = segments(tmp_path)
    raw = bytearray(segment.read_bytes())
    raw[0] ^= 1
    segment.write_bytes(raw)
    notes: list[str] = []
    with open_blocks(tmp_path, SHAPE, note=notes.append) as blocks:
        assert blocks.find(key(3)) is None
        blocks.add(key(3), value(3))
        assert blocks.find(key(3)) == value(3)
    assert found(tmp_path, range(3, 6)) == {number: value(number) for number in range(3, 6)}
    assert len(notes) == 1 and notes[0].startswith("1 compressed blocks in ") and "damaged" in notes[0]


def test_a_directory_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notes: list[str] = []
    with open_blocks(tmp_path / "file" / "blocks", SHAPE, note=notes.append) as blocks:
        blocks.add(key(1), b"one")
        assert blocks.find(key(1)) is None
    assert len(notes) == 1 and "not kept" in notes[0]


def test_a_full_disk_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, range(1))
    write, written = blockcache._write, []

    def full(fd: int, data: bytes) -> None:
        written.append(data)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        write(fd, data)

    monkeypatch.setattr(blockcache, "_write", full)
    notes: list[str] = []
    with open_blocks(tmp_path, SHAPE, note=notes.append) as blocks:
        for number in range(1, 9):
            blocks.find(key(number))
            blocks.add(key(number), value(number))
        assert blocks.find(key(2)) == value(2) and blocks.find(key(7)) is None
    assert len(notes) == 1 and "No space left" in notes[0]
    assert len(segments(tmp_path)) == 1 and list(tmp_path.glob("*/*.part")) == []


def test_builds_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    barrier, failures = threading.Barrier(4), []

    def build(first: int) -> None:
        try:
            with open_blocks(tmp_path, SHAPE) as blocks:
                barrier.wait()
                for number in range(first, first + 50):
                    if blocks.find(key(number)) is None:
                        blocks.add(key(number), value(number))
                barrier.wait()
        except BaseException as error:  # noqa: BLE001 -- shown below
            failures.append(error)

    threads = [threading.Thread(target=build, args=(first,)) for first in (0, 0, 25, 75)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(segments(tmp_path)) == 4
    assert found(tmp_path, range(125)) == {number: value(number) for number in range(125)}


def test_small_segments_are_merged_and_nothing_is_lost(tmp_path: Path) -> None:
    count = blockcache.MAX_SEGMENTS + 1
    for number in range(count):
        fill(tmp_path, range(number, number + 1))
    assert len(segments(tmp_path)) == count - blockcache.MAX_SEGMENTS * 3 // 4 + 1
    assert found(tmp_path, range(count)) == {number: value(number) for number in range(count)}


def test_what_was_not_of_use_for_longest_goes_first(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with open_blocks(tmp_path, SHAPE) as blocks:
            blocks.add(key(number), b"x" * 1000)
    for age, path in enumerate(segments(tmp_path)):
        os.utime(path, (age, age))
    assert found(tmp_path, range(1, 2)) == {1: b"x" * 1000}  # of use
    with open_blocks(tmp_path, OTHER, limit_bytes=3600) as blocks:
        blocks.find(key(4))
        blocks.add(key(4), b"y" * 1000)
    assert found(tmp_path, range(5)) == {1: b"x" * 1000, 3: b"x" * 1000}
    assert found(tmp_path, range(5), OTHER) == {4: b"y" * 1000}


def test_what_killed_builds_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    dead = tmp_path / SHAPE.hex() / "dead.part", tmp_path / OTHER.hex() / "dead.part"
    for path in dead:
        path.parent.mkdir()
        path.write_bytes(b"x")
    with open_blocks(tmp_path, SHAPE) as blocks:
        fill(tmp_path, range(1))
        assert len(list(tmp_path.glob("*/*.part"))) == 1 and not any(path.exists() for path in dead)
        blocks.add(key(1), value(1))
    assert found(tmp_path, range(2)) == {0: value(0), 1: value(1)}
    assert list(tmp_path.glob("*/*.part")) == []
