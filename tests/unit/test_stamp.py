# SPDX-License-Identifier: MIT
"""rofs.stamp: whether a build would do anything, known by the status of files alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rofs import stamp
from rofs.seal import TEMPORARY, read_summed, write_summed
from rofs.stamp import Ledger, find_stamp, find_state, find_status

QUESTION = {"profile": "/p.yaml", "arch": ["amd64"]}
SAID = ("images/p/amd64: built",)


class Build:
    """A finished one: it read a file, a directory and what was not there, and published a directory."""

    def __init__(self, root: Path) -> None:
        self.cache, self.out, self.ledger = root / "cache", root / "out", Ledger()
        self.file, self.folder, self.absent = root / "file", root / "folder", root / "absent"
        self.target = root / "target"
        self.file.write_text("content")
        self.target.write_text("content")
        (root / "link").symlink_to("target")
        (self.folder / "deep").mkdir(parents=True)
        (self.folder / "deep" / "leaf").write_text("leaf")
        (self.folder / "loose").symlink_to("nowhere")
        self.out.mkdir()
        (self.out / "rootfs.squashfs").write_text("image")
        for path in (self.file, self.folder, self.absent, root / "link"):
            self.ledger.enter(path)
        self.ledger.notes.append("a warning")

    def save(self) -> None:
        self.ledger.save(self.cache, QUESTION, {self.out: find_state(self.out)}, SAID)

    def find(self) -> stamp.Stamp | None:
        return find_stamp(self.cache, QUESTION)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setattr(stamp, "_FRESH_NS", 0)
    return Build(tmp_path)


def rewrite(path: Path) -> None:
    """Another content of the same size, and the old mtime."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(b"x" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def turn(path: Path, make: Callable[[Path], None]) -> None:
    """Something else of the same name."""
    path.unlink()
    make(path)


def test_nothing_changed(build: Build) -> None:
    assert build.find() is None
    build.save()
    found = build.find()
    assert found is not None
    assert (found.said, found.notes) == (SAID, ("a warning",))


CHANGES: dict[str, Callable[[Build], object]] = {
    "another content of the same size and time": lambda b: rewrite(b.file),
    "another mode": lambda b: b.file.chmod(0o600),
    "gone": lambda b: b.file.unlink(),
    "a directory for a file": lambda b: turn(b.file, Path.mkdir),
    "a new file in a directory": lambda b: (b.folder / "deep" / "new").write_text(""),
    "a new directory": lambda b: (b.folder / "new").mkdir(),
    "a file gone from a directory": lambda b: (b.folder / "deep" / "leaf").unlink(),
    "a file of a directory": lambda b: rewrite(b.folder / "deep" / "leaf"),
    "a file of another name": lambda b: (b.folder / "deep" / "leaf").rename(b.folder / "deep" / "left"),
    "a file elsewhere in the directory": lambda b: (b.folder / "deep" / "leaf").rename(b.folder / "leaf"),
    "another mode of a directory": lambda b: (b.folder / "deep").chmod(0o700),
    "another link in a directory": lambda b: turn(b.folder / "loose", lambda path: path.symlink_to("there")),
    "the target of a link": lambda b: rewrite(b.target),
    "there at last": lambda b: b.absent.write_text(""),
    "an output": lambda b: rewrite(b.out / "rootfs.squashfs"),
    "an output gone": lambda b: (b.out / "rootfs.squashfs").unlink(),
    "one output more": lambda b: (b.out / "more").write_text(""),
    "all outputs gone": lambda b: b.out.rename(b.out.with_name("elsewhere")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen(change: Callable[[Build], object], build: Build) -> None:
    build.save()
    assert build.find() is not None
    change(build)
    assert build.find() is None


@pytest.mark.parametrize("change", [c for name, c in CHANGES.items() if "output" not in name])
def test_of_what_changes_during_the_build_nothing_is_kept(change: Callable[[Build], object], build: Build) -> None:
    change(build)
    build.save()
    assert build.find() is None


def test_a_link_to_another_place_of_the_same_content(build: Build) -> None:
    build.save()
    link = build.file.with_name("link")
    link.unlink()
    link.symlink_to("./target")
    assert build.find() is None


def test_compiled_code_may_come_and_go(build: Build) -> None:
    build.save()
    (build.folder / "__pycache__").mkdir()
    (build.folder / "__pycache__" / "x.pyc").write_text("")
    assert build.find() is not None


def test_our_own_code_counts(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "_CODE", build.folder)
    build.ledger = Ledger()
    build.save()
    assert build.find() is not None
    rewrite(build.folder / "deep" / "leaf")
    assert build.find() is None


def test_another_question_has_another_answer(build: Build) -> None:
    build.save()
    assert find_stamp(build.cache, {**QUESTION, "arch": ["arm64"]}) is None


def test_what_changed_just_now_may_change_again_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "_FRESH_NS", 3600 * 10**9)
    fresh = Build(tmp_path)
    assert find_status(fresh.file) == "" != find_status(fresh.absent)
    fresh.save()
    assert fresh.find() is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"read": 1}', '{"read": {}, "wrote": {}, "said": 1, "notes": [], "at": 0}']
)
def test_a_damaged_stamp_is_none(text: str, build: Build) -> None:
    build.save()
    (kept,) = (build.cache / "stamps").iterdir()
    assert json.loads(read_summed(kept))
    write_summed(kept, text.encode())
    assert build.find() is None


def test_a_flipped_bit_anywhere_in_a_stamp_is_noticed(build: Build) -> None:
    build.save()
    (kept,) = (build.cache / "stamps").iterdir()
    good = kept.read_bytes()
    assert build.find() is not None
    for bit in range(0, 8 * len(good), 41):
        raw = bytearray(good)
        raw[bit // 8] ^= 1 << bit % 8
        kept.write_bytes(raw)
        assert build.find() is None, bit


def test_a_stamp_of_use_says_so(build: Build) -> None:
    build.save()
    (kept,) = (build.cache / "stamps").iterdir()
    os.utime(kept, (5, 5))
    assert build.find() is not None and kept.stat().st_mtime > 5


def test_a_cache_that_cannot_be_written_costs_only_the_stamp(build: Build) -> None:
    build.cache.write_text("a file")
    build.save()
    assert build.find() is None


def test_what_another_build_published_meanwhile_is_not_ours(build: Build) -> None:
    wrote = {build.out: find_state(build.out)}
    (build.out / "rootfs.squashfs").write_text("of another build")
    build.ledger.save(build.cache, QUESTION, wrote, SAID)
    assert build.find() is None


def test_a_directory_keeps_its_state_when_it_is_moved(build: Build) -> None:
    before = find_state(build.out)
    assert find_state(build.out.rename(build.out.with_name("moved"))) == before


def test_a_full_disk_or_a_killed_build_leaves_no_part(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    build.cache.joinpath("stamps").mkdir(parents=True)
    (build.cache / "stamps" / TEMPORARY).write_text("of a killed build")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        build.save()
    assert list((build.cache / "stamps").iterdir()) == []
    build.save()
    assert build.find() is not None
