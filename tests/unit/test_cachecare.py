# SPDX-License-Identifier: MIT
"""rofs cache: what is shown, which goes first, what a running build keeps, and what is found damaged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path

import pytest

from rofs import cachecare, cli
from rofs.cachecare import Item, check, find_items, render_show, show_data, trim
from rofs.image.blockcache import open_blocks
from rofs.packages import Package
from rofs.seal import write_summed
from rofs.sources.debs import DebStore
from rofs.stamp import DIRECTORY
from rofs.store import Cache, workspace

SHAPE = b"s" * 32
DAY = 86400
DEB = Package(name="one", version="1", architecture="all", size=5000, sha256=hashlib.sha256(bytes(5000)).hexdigest())


def put_entry(root: Path, key: str, *, days: float = 0, kind: str = "tree", size: int = 100_000) -> Path:
    """An entry that was last of use so many days ago."""

    def make(work: Path) -> None:
        (work / "tree.tar").write_bytes(os.urandom(size))

    path = Cache(root).entry(kind, key, make, refresh=True).path
    make_old(path.parent, days)
    return path


def put_deb(root: Path, *, days: float = 0) -> Path:
    path = root / "debs" / f"{DEB.sha256}.deb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(DEB.size))
    make_old(path, days)
    return path


def put_blocks(root: Path, *, days: float = 0, number: int = 1) -> Path:
    before = set(root.glob("blocks/*/*"))
    with open_blocks(root / "blocks", SHAPE) as blocks:
        blocks.find(bytes([number]) * 32)
        blocks.add(bytes([number]) * 32, os.urandom(1000))
    (path,) = set(root.glob("blocks/*/*.blocks")) - before
    make_old(path, days)
    return path


def put_stamp(root: Path, *, days: float = 0) -> Path:
    path = root / DIRECTORY / "a.json"
    write_summed(path, b"{}")
    make_old(path, days)
    return path


def put_accel(root: Path, *, days: float = 0) -> Path:
    path = root / "accel-amd64.json"
    write_summed(path, b"{}")
    make_old(path, days)
    return path


def make_old(path: Path, days: float) -> None:
    at = time.time() - days * DAY
    os.utime(path, (at, at))


PUTS = {"tree": lambda root, **how: put_entry(root, "k", **how), "debs": put_deb, "blocks": put_blocks,
        DIRECTORY: put_stamp, "accel": put_accel}  # fmt: skip


@pytest.fixture
def full(tmp_path: Path) -> dict[str, Path]:
    """One of each kind, all unused for two days."""
    return {kind: put(tmp_path, days=2) for kind, put in PUTS.items()}


def kinds(items: list[Item]) -> list[str]:
    return sorted(item.kind for item in items)


def test_every_kind_is_found_with_its_size_and_last_use(tmp_path: Path, full: dict[str, Path]) -> None:
    (tmp_path / "zig" / "h").mkdir(parents=True)
    (tmp_path / "zig" / "h" / "file").write_bytes(bytes(10_000))
    items = find_items(tmp_path)
    assert kinds(items) == sorted([*PUTS, "other"])
    assert all(1.9 * DAY < time.time() - item.used < 2.1 * DAY for item in items if item.kind != "other")
    data = show_data(tmp_path, items)
    assert data["kinds"]["tree"]["entries"] == 1 and 100_000 <= data["kinds"]["tree"]["size_bytes"] < 120_000
    assert data["kinds"]["other"]["size_bytes"] >= 10_000
    assert data["size_bytes"] == sum(kind["size_bytes"] for kind in data["kinds"].values())
    table = render_show(tmp_path, items)
    assert re.search(r"^tree +1 +0\.1 MiB +2 d ago +2 d ago$", table, re.MULTILINE)
    assert str(tmp_path) in table and re.search(r"^total +6 ", table, re.MULTILINE)


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert find_items(tmp_path / "none") == [] and list(check(tmp_path / "none")) == []
    assert trim(tmp_path / "none", limit_bytes=0).removed == ()
    assert "total" in render_show(tmp_path / "none", []) and not (tmp_path / "none").exists()


def test_what_is_used_by_a_build_is_newest(tmp_path: Path, full: dict[str, Path]) -> None:
    assert Cache(tmp_path).entry("tree", "k", lambda _: pytest.fail("made")).hit
    assert DebStore(tmp_path / "debs").missing([DEB]) == []
    with open_blocks(tmp_path / "blocks", SHAPE) as blocks:
        assert blocks.find(b"\x01" * 32)
    used = {item.kind: item.used for item in find_items(tmp_path)}
    assert all(time.time() - used[kind] < DAY for kind in ("tree", "debs", "blocks"))


# --- trim -------------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first_until_the_rest_fits(tmp_path: Path) -> None:
    old, new, older = (put_entry(tmp_path, key, days=days) for key, days in (("a", 5), ("b", 1), ("c", 9)))
    deb = put_deb(tmp_path, days=7)
    total = sum(item.size_bytes for item in find_items(tmp_path))
    trimmed = trim(tmp_path, limit_bytes=total - 150_000)
    assert [item.path for item in trimmed.removed] == [older, deb, old] and trimmed.in_use == ()
    assert new.exists() and not any(path.exists() for path in (old, older, deb))
    assert trimmed.left_bytes == sum(item.size_bytes for item in find_items(tmp_path))
    assert trim(tmp_path, limit_bytes=total).removed == ()


@pytest.mark.parametrize("kind", PUTS)
def test_what_was_not_of_use_for_so_long_goes(tmp_path: Path, full: dict[str, Path], kind: str) -> None:
    make_old(full[kind].parent if kind == "tree" else full[kind], days=0)
    assert kinds(list(trim(tmp_path, max_age_s=DAY).removed)) == sorted(PUTS.keys() - {kind})
    assert kinds(find_items(tmp_path)) == [kind]


def test_a_limit_of_nothing_leaves_nothing_but_what_is_not_ours(tmp_path: Path, full: dict[str, Path]) -> None:
    (tmp_path / "mine").write_text("keep me")
    trimmed = trim(tmp_path, limit_bytes=0)
    assert len(trimmed.removed) == len(PUTS) and trimmed.left_bytes == 0
    assert kinds(find_items(tmp_path)) == ["other"] and not any(path.exists() for path in full.values())


def test_what_a_running_build_uses_stays(tmp_path: Path, full: dict[str, Path]) -> None:
    cache, store = Cache(tmp_path), DebStore(tmp_path / "debs")
    cache.entry("tree", "k", lambda _: pytest.fail("made"))
    assert store.missing([DEB]) == []
    with open_blocks(tmp_path / "blocks", SHAPE) as blocks, workspace(tmp_path / "verify"):
        blocks.find(b"\x01" * 32)
        trimmed = trim(tmp_path, limit_bytes=0)
        assert {"tree", "debs", "blocks"} < {*kinds(list(trimmed.in_use))}
        assert all(full[kind].exists() for kind in ("tree", "debs", "blocks"))
        assert any((tmp_path / "verify").iterdir())
        blocks.add(b"\x02" * 32, b"two")
    del cache, store
    assert trim(tmp_path, limit_bytes=0).in_use == () and not any(path.exists() for path in full.values())


def test_an_entry_that_is_being_made_is_not_touched(tmp_path: Path) -> None:
    def make(work: Path) -> None:
        (work / "half").touch()
        assert [item.path for item in trim(tmp_path, limit_bytes=0).in_use] == [work]
        assert (work / "half").exists()

    assert not Cache(tmp_path).entry("tree", "k", make).hit


def test_what_no_build_will_use_goes_without_any_limit(tmp_path: Path, full: dict[str, Path]) -> None:
    newer = put_entry(tmp_path, "k")
    lefts = [tmp_path / "tree" / "k" / ".rofs-work-x", tmp_path / "debs" / ".rofs-work-y"]
    for left in lefts:
        left.mkdir()
        (left / "half").touch()
    part = tmp_path / "blocks" / SHAPE.hex() / "x.part"
    part.touch()
    trimmed = trim(tmp_path)
    assert {item.path for item in trimmed.removed} == {full["tree"], part, *lefts}
    assert newer.exists() and full["debs"].exists() and full["blocks"].exists()


# --- check ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PUTS)
def test_a_flipped_bit_in_any_kind_is_found(tmp_path: Path, full: dict[str, Path], kind: str) -> None:
    assert [wrong for _, wrong in check(tmp_path)] == [""] * len(PUTS)
    path = full[kind] / "tree.tar" if kind == "tree" else full[kind]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.chmod(0o600)
    path.write_bytes(raw)
    found = {item.kind: (item, wrong) for item, wrong in check(tmp_path) if wrong}
    assert found.keys() == {kind}
    assert cachecare.remove_damaged(found[kind][0]) == "removed" and not path.exists()
    assert [wrong for _, wrong in check(tmp_path)] == [""] * (len(PUTS) - 1)


def test_a_damaged_entry_that_is_in_use_is_named_and_stays(tmp_path: Path, full: dict[str, Path]) -> None:
    cache = Cache(tmp_path)
    cache.entry("tree", "k", lambda _: pytest.fail("made"))
    (full["tree"] / "strange").touch()
    ((item, wrong),) = ((item, wrong) for item, wrong in check(tmp_path) if wrong)
    assert wrong == "strange was put there"
    assert "a running build uses it" in cachecare.remove_damaged(item) and full["tree"].exists()
    del cache


# --- the verb ---------------------------------------------------------------------------------------


def rofs(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROFS_CACHE_DIR", str(root))
        with pytest.raises(SystemExit) as ended:
            cli.main(["cache", *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().out


def test_show(tmp_path: Path, full: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert rofs(tmp_path, capsys, "show") == (0, render_show(tmp_path, find_items(tmp_path)))
    status, said = rofs(tmp_path, capsys, "show", "--json")
    assert status == 0 and json.loads(said)["kinds"].keys() == PUTS.keys()


def test_trim_says_what_it_freed(tmp_path: Path, full: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    cache = Cache(tmp_path)
    cache.entry("tree", "k", lambda _: pytest.fail("made"))
    assert rofs(tmp_path, capsys, "trim") == (0, f"0.0 MiB freed, {0.1:.1f} MiB left\n")
    status, said = rofs(tmp_path, capsys, "trim", "--age", "1d")
    assert status == 0 and not full["debs"].exists()
    assert "debs: 1 entry, 0.0 MiB freed\n" in said and "kept" not in said
    status, said = rofs(tmp_path, capsys, "trim", "--size", "0")
    assert status == 0 and "kept, since a running build uses them: 1 entry, 0.1 MiB\n" in said
    del cache


@pytest.mark.parametrize(
    "words", [("--size", "ten"), ("--size", "-1"), ("--age", "30"), ("--age", "d"), ("--age", "1w")]
)
def test_a_limit_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str]) -> None:
    assert rofs(tmp_path, capsys, "trim", *words)[0] == 2


def test_check_ends_with_3_once(tmp_path: Path, full: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert rofs(tmp_path, capsys, "check") == (0, "5 entries checked, 0 damaged\n")
    (full["tree"] / "tree.tar").unlink()
    status, said = rofs(tmp_path, capsys, "check")
    assert status == 3
    assert said == f"{full['tree']}: damaged: tree.tar is missing; removed\n5 entries checked, 1 damaged\n"
    assert rofs(tmp_path, capsys, "check") == (0, "4 entries checked, 0 damaged\n")
