# SPDX-License-Identifier: MIT
"""rofs.export: a directory that holds all a locked build reads, or does not appear; and a build that reads it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lockshop import NAMES, Shop, make_archive, make_shop, seen, with_its_cache

from rofs import export, fetch
from rofs.errors import RofsError
from rofs.fetch import Fetcher
from rofs.inputs import load_inputs
from rofs.lock import lock_path
from rofs.machine.arch import ARCHES
from rofs.packages import Deb
from rofs.profile import load_profile
from rofs.progress import Quiet
from rofs.sources.debs import CARRIED, DebStore
from rofs.sources.resolve import open_apt
from rofs.store import Cache

pytestmark = pytest.mark.needs("apt-get", "dpkg-deb", "apt-config", "cp")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Locked once, for copies, with all its packages in the cache."""
    top = tmp_path_factory.mktemp("first")
    shop = make_shop(top, make_archive(top / "archive"))
    with with_its_cache(shop):
        assert shop.run("lock", shop.profile) == 0
        assert shop.run("export-inputs", shop.profile, top / "out") == 0
    return shop


@pytest.fixture
def shop(first: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy whose archive nobody can reach any more."""
    shutil.copytree(first.here, tmp_path / "here")
    shutil.copytree(first.cache, tmp_path / "cache")
    monkeypatch.setenv("ROFS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setattr(fetch, "open_apt", lambda *_: pytest.fail("apt was asked"))
    return Shop(tmp_path / "here", first.repo, tmp_path / "cache")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "media" / "out"


def test_what_was_fetched_for_it_is_whole(first: Shop) -> None:
    found = seen(first.here.parent / "out")
    hashes = seen(first.repo.root)
    wanted = {f"{CARRIED}/{hashes[path.name]}.deb" for name, path in first.repo.debs.items() if name in NAMES}
    assert {name for name in found if name.startswith(CARRIED)} == wanted
    assert all(name == f"{CARRIED}/{sha256}.deb" for name, sha256 in found.items() if name.startswith(CARRIED))
    assert {name: sha256 for name, sha256 in found.items() if not name.startswith(CARRIED)} == seen(first.here)


def test_from_the_cache_it_is_the_same(shop: Shop, first: Shop, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shop.run("export-inputs", shop.profile, out) == 0
    assert seen(out) == seen(first.here.parent / "out")
    assert not list(out.parent.glob(".rofs-*"))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{out}: {len(NAMES)} packages, ")
    assert said[1] == f"  rofs build --locked --inputs {out} {out}/p.yaml"


def test_what_lies_beside_without_being_named_stays_at_home(shop: Shop, out: Path) -> None:
    (shop.here / "secret").write_text("x")
    (shop.here / "files/secret").write_text("x")
    assert shop.run("export-inputs", shop.profile, out) == 0
    assert not [name for name in seen(out) if "secret" in name]


def test_one_architecture(shop: Shop, out: Path) -> None:
    assert shop.run("export-inputs", shop.profile, out, "--arch", "arm64") == 0
    arm = shop.lock.architectures["arm64"]
    packages = [p for p in (*arm.packages, arm.kernel, arm.initrd) if p]
    assert {path.stem for path in (out / CARRIED).iterdir()} == {p.sha256 for p in packages}


def test_the_tools_and_the_epoch_of_this_host_do_not_matter(
    shop: Shop, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.edit("  rofs: ", "  rofs: 9.", "p.lock")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    assert shop.run("export-inputs", shop.profile, out) == 0


TREES = """\
source: {directory: {path: {amd64: trees/x86, arm64: trees/arm}, ownership: trees/table}}
"""


def put_trees(shop: Shop) -> None:
    """Instead of packages; the lock is renewed."""
    text = shop.profile.read_text()
    shop.profile.write_text(text[: text.index("source:")] + TREES + text[text.index("files:") :])
    for name in ("x86", "arm"):
        etc = shop.here / "trees" / name / "etc"
        (etc / "empty").mkdir(parents=True)
        (etc / "issue").write_text(name)
        (etc / "issue").chmod(0o4750)
        os.utime(etc / "issue", (1_000_000_000, 1_000_000_000))
        (etc / "motd").symlink_to("issue")
        (etc / "same").hardlink_to(etc / "issue")
    (shop.here / "trees/table").write_text("/etc/empty d 0700 3 4\n")
    assert shop.run("lock", shop.profile) == 0


def test_trees_are_carried_with_all_that_an_image_gets_of_them(
    shop: Shop, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "open_apt", open_apt)
    put_trees(shop)
    assert shop.run("export-inputs", shop.profile, out) == 0
    assert shop.lock.sources.keys() == {"trees/x86", "trees/arm"}
    assert shop.run("lock", out / "p.yaml") == 0
    assert capsys.readouterr().out.endswith(f"{out}/p.lock: nothing has changed\n")


def test_a_copy_that_is_not_whole_does_not_appear(
    shop: Shop, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def copy(argv: Sequence[Any]) -> None:
        *_, old, new = argv
        shutil.copyfile(old, new) if old.is_file() else new.mkdir()

    monkeypatch.setattr(export, "run", copy)
    assert shop.run("export-inputs", shop.profile, out) == 3
    said = capsys.readouterr().err
    assert f"{out}: the copies are not what was copied" in said and "dots changed" in said
    assert list(out.parent.iterdir()) == []


REFUSED: dict[str, tuple[str, Callable[[Shop, Path], object]]] = {
    "a changed file": ("files/motd changed", lambda shop, out: (shop.here / "files/motd").write_text("x")),
    "no lock": ("p.lock: there is none", lambda shop, out: lock_path(shop.profile).unlink()),
    "an older lock": ("asked for now: package libc", lambda shop, out: shop.edit("[less]", "[libc]")),
    "no profile": ("p.yaml", lambda shop, out: shop.profile.unlink()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_locked_is_not_carried(
    name: str, shop: Shop, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, change = REFUSED[name]
    change(shop, out)
    assert shop.run("export-inputs", shop.profile, out) in (2, 3)
    assert words in capsys.readouterr().err and not out.parent.exists()


def test_a_file_where_the_packages_go(shop: Shop, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop.here / "files").rename(shop.here / CARRIED)
    shop.edit("source: files/", f"source: {CARRIED}/")
    shop.edit("  files/", f"  {CARRIED}/", "p.lock")
    assert shop.run("export-inputs", shop.profile, out) == 3
    assert f"{CARRIED}/issue: `{CARRIED}` is where the packages go" in capsys.readouterr().err
    assert not out.exists()


def test_what_is_there_is_never_replaced(shop: Shop, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.mkdir(parents=True)
    (out / "precious").write_text("x")
    for place in (out, out / "precious"):
        assert shop.run("export-inputs", shop.profile, place) == 3
        assert f"{place}: there is something already" in capsys.readouterr().err
    assert sorted(path.name for path in out.parent.rglob("*")) == ["out", "precious"]
    (out / "precious").unlink()
    assert shop.run("export-inputs", shop.profile, out) == 0, "an empty directory may be there"


def test_a_package_that_is_nowhere_is_named(
    shop: Shop, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "open_apt", open_apt)
    less = next(p for p in shop.lock.architectures["amd64"].packages if p.name == "less")
    (shop.cache / "debs" / f"{less.sha256}.deb").unlink()
    shop.edit(less.sha256, "e" * 64, "p.lock")
    assert shop.run("export-inputs", shop.profile, out) == 3
    said = capsys.readouterr().err
    assert "less 1.0 (all): the apt sources have other bytes under this version" in said
    assert "rofs-lock-" not in said and not out.parent.exists()


# --- taking them ----------------------------------------------------------------------------------


def fetcher_of(shop: Shop, out: Path, cache: Path) -> Fetcher:
    """Of a build with `--inputs OUT` and an empty cache."""
    profile = load_profile(shop.profile)
    return Fetcher(
        profile, load_inputs(profile), ARCHES["amd64"], Cache(cache), Quiet(), epoch=0, refresh=False,
        locked=shop.lock.architectures["amd64"], carried=DebStore(out / CARRIED),
    )  # fmt: skip


def states(top: Path) -> dict[Path, tuple[int, int, int]]:
    """Of each path what any change to it or in it would change."""
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in (top, *top.rglob("*"))}


def debs_of(fetcher: Fetcher, work: Path) -> list[Deb]:
    (work / "work").mkdir()
    return fetcher.debs(work / "work", work / "work")


def test_packages_come_from_the_directory_which_is_only_read(shop: Shop, out: Path, tmp_path: Path) -> None:
    assert shop.run("export-inputs", shop.profile, out) == 0
    before = states(out)
    debs = debs_of(fetcher_of(shop, out, tmp_path / "new"), tmp_path)
    assert {package.name for package, _ in debs} == NAMES - {"linux-image-6.1.0-1-arm64"}
    for package, path in debs:
        assert path.parent == tmp_path / "new/debs" and path.read_bytes() == (out / CARRIED / path.name).read_bytes()
        assert path.name == f"{package.sha256}.deb"
    assert states(out) == before


@pytest.mark.parametrize("damage", ["one bit", "shorter", "gone"])
def test_what_is_not_the_package_is_named_and_not_used(damage: str, shop: Shop, out: Path, tmp_path: Path) -> None:
    assert shop.run("export-inputs", shop.profile, out) == 0
    less = next(p for p in shop.lock.architectures["amd64"].packages if p.name == "less")
    path = out / CARRIED / f"{less.sha256}.deb"
    good = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(good[:-1] if damage == "shorter" else bytes([good[0] ^ 1]) + good[1:])
    fetcher = fetcher_of(shop, out, tmp_path / "new")
    with pytest.raises(RofsError) as caught:
        debs_of(fetcher, tmp_path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{out / CARRIED}: not the packages of the lock:"
    assert lines == [f"  {'no' if damage == 'gone' else 'not'} less 1.0 (all): {path.name}"]
    assert not fetcher.store.path(less).exists()


def test_what_the_cache_has_need_not_be_there(shop: Shop, out: Path, tmp_path: Path) -> None:
    assert debs_of(fetcher_of(shop, out, shop.cache), tmp_path)
