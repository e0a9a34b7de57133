# SPDX-License-Identifier: MIT
"""rofs.locking, `rofs lock`, `rofs build --locked`: what goes into a lock, and what a build refuses to do without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lockshop import NAMES, Shop, make_archive, make_shop, seen, with_its_cache
from tarmaker import file, write_tar

from rofs import build, locking, store
from rofs.errors import ImageError, ProfileError, SourceError
from rofs.fetch import Fetcher
from rofs.inputs import load_inputs
from rofs.lock import ArchLock, Lock, lock_path, render_lock
from rofs.locking import keep_others, make_lock, read_lock, require, usable
from rofs.machine.arch import ARCHES
from rofs.packages import Package
from rofs.profile import load_profile
from rofs.progress import Quiet
from rofs.store import Cache
from rofs.tools import tool_versions

EPOCH = 1_600_000_000
A, B, C = "a" * 64, "b" * 64, "c" * 64


def package(name: str, version: str = "1.0") -> Package:
    return Package(name=name, version=version, architecture="amd64", size=7, sha256=A)


# --- reading --------------------------------------------------------------------------------------


def test_where_there_is_none(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "p.yaml") is None


def test_a_broken_one_is_said_with_its_place_and_the_way_out(tmp_path: Path) -> None:
    text = render_lock(Lock(profile="p", epoch=7, architectures={"amd64": ArchLock(packages=(package("a"),))}))
    (tmp_path / "p.lock").write_text(text.replace("version: '1.0'", "version: 1.0").replace("epoch: 7", "epoch: x"))
    with pytest.raises(ProfileError) as caught:
        read_lock(tmp_path / "p.yaml")
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path}/p.lock:4:8: error: ") and second.startswith(f"{tmp_path}/p.lock:8:28: error: ")
    assert f"`rofs lock {tmp_path}/p.yaml` writes a new one" in first and "rofs lock" not in second


# --- what goes in ---------------------------------------------------------------------------------


def lock_of(here: Path, text: str, arches: tuple[str, ...] = ("amd64",), epoch: int = EPOCH) -> Lock:
    """The lock of a profile of this text behind its name, without packages."""
    path = here / "p.yaml"
    path.write_text(f"schema: rofs/v1\nname: p\narchitectures: [{', '.join(arches)}]\n{text}")
    profile, work = load_profile(path), here.parent / "work"
    work.mkdir(exist_ok=True)
    made = make_lock(profile, load_inputs(profile), dict.fromkeys(arches, ArchLock()), epoch, work)
    assert not list(work.iterdir()), "what was made only to be hashed is gone"
    return made


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def test_the_lock_of_a_tar_and_of_files(here: Path) -> None:
    write_tar(here / "x86.tar", file("x86"))
    write_tar(here / "arm.tar", file("arm"))
    (here / "motd").write_text("hello")
    text = "source: {tar: {path: {amd64: x86.tar, arm64: arm.tar}}}\nfiles: [{path: /etc/motd, source: motd}]\n"
    both = lock_of(here, text, ("amd64", "arm64"))
    assert both.sources.keys() == {"x86.tar", "arm.tar"} and both.sources["x86.tar"] != both.sources["arm.tar"]
    assert both.sources["x86.tar"] == seen(here)["x86.tar"] and both.files == {"motd": seen(here)["motd"]}
    assert (both.profile, both.epoch, both.tools) == ("p", EPOCH, tool_versions())


DIRECTORY = "source: {directory: {path: root, ownership: table}}\n"


def put_directory(here: Path) -> None:
    (here / "root/etc").mkdir(parents=True)
    (here / "root/etc/issue").write_text("hello")
    (here / "table").write_text("/etc/issue f 0600 7 8\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda here: (here / "root/etc/issue").write_text("HELLO"),
        lambda here: (here / "root/etc/issue").chmod(0o4755) or (here / "table").write_text("/etc d 0755 7 8\n"),
        lambda here: (here / "root/etc/motd").symlink_to("issue"),
        lambda here: os.utime(here / "root/etc/issue", (EPOCH - 9, EPOCH - 9)),
        lambda here: (here / "table").write_text("/etc/issue f 0600 7 9\n"),
    ],
    ids=["content", "mode", "link", "an older time", "owner"],
)
def test_the_lock_of_a_directory_has_all_that_an_image_gets_of_it(here: Path, change: Callable[[Path], object]) -> None:
    put_directory(here)
    first = lock_of(here, DIRECTORY)
    os.utime(here / "root/etc/issue")
    assert lock_of(here, DIRECTORY) == first, "newer times are those of the build"
    change(here)
    assert lock_of(here, DIRECTORY).sources["root"] != first.sources["root"]


def test_the_ownership_of_a_tree_is_not_asked_of_the_modules(here: Path) -> None:
    """A table for the tree has rows that no directory of modules fits."""
    put_directory(here)
    (here / "modules/lib/modules/6.1").mkdir(parents=True)
    (here / "modules/lib/modules/6.1/x.ko").write_text("x")
    (here / "Image").write_text("kernel")
    found = lock_of(here, DIRECTORY + "kernel: {image: Image, modules: modules}\n").sources
    assert found.keys() == {"root", "modules", "Image"} and found["Image"] == seen(here)["Image"]
    (here / "modules/lib/modules/6.1/x.ko").write_text("y")
    assert (
        lock_of(here, DIRECTORY + "kernel: {image: Image, modules: modules}\n").sources["modules"] != found["modules"]
    )


# --- one architecture of two ----------------------------------------------------------------------


OLD = Lock(
    profile="p", epoch=1, architectures={"amd64": ArchLock(asked=("old",)), "arm64": ArchLock(asked=("arm",))},
    sources={"x86": A, "arm": B}, files={"gone": A, "kept": A}, tools={"rofs": "1"},
)  # fmt: skip
NEW = Lock(
    profile="p", epoch=1, architectures={"amd64": ArchLock(asked=("new",))}, sources={"x86": C}, files={"kept": B},
    tools={"rofs": "2"},
)  # fmt: skip


def test_what_is_not_looked_at_stays() -> None:
    kept = keep_others(OLD, NEW, ("amd64", "arm64"))
    assert kept.architectures == {"amd64": ArchLock(asked=("new",)), "arm64": ArchLock(asked=("arm",))}
    assert kept.sources == {"x86": C, "arm": B} and kept.tools == {"rofs": "2"}
    assert kept.files == {"kept": B}, "all files are looked at, whatever the architecture"
    assert keep_others(OLD, NEW, ("amd64",)) == NEW, "the profile has given the other one up"
    assert keep_others(None, NEW, ("amd64", "arm64")) == NEW
    both = replace(NEW, architectures={**NEW.architectures, "arm64": ArchLock()})
    assert keep_others(OLD, both, ("amd64", "arm64")) == both


# --- what a build may use -------------------------------------------------------------------------


def fetcher_of(here: Path, packages: str) -> Fetcher:
    path = here / "p.yaml"
    path.write_text(f"schema: rofs/v1\nname: p\ninit: other\nsource: {{debian: {{packages: [{packages}]}}}}\n")
    profile = load_profile(path)
    return Fetcher(
        profile, load_inputs(profile), ARCHES["amd64"], Cache(here / "cache"), Quiet(), epoch=EPOCH, refresh=False
    )


def test_packages_of_a_lock_count_as_long_as_the_profile_asks_for_the_same(here: Path) -> None:
    notes: list[str] = []
    fetcher = fetcher_of(here, "less")
    known = ArchLock(asked=fetcher.asked(), packages=(package("less"),))
    lock = Lock(profile="p", epoch=1, architectures={"amd64": known})
    assert usable(lock, fetcher, notes.append) is known
    assert usable(None, fetcher, notes.append) is None
    assert usable(replace(lock, architectures={"arm64": known}), fetcher, notes.append) is None
    assert notes == []
    assert usable(lock, fetcher_of(here, "less, vim"), notes.append) is None
    (note,) = notes
    assert note.startswith("amd64: ") and "rofs lock" in note and "asked for now: package vim" in note


NOW = replace(OLD, architectures={"amd64": ArchLock(asked=("old",))}, sources={"x86": A})
"""The inputs of one of two architectures, unchanged; its packages are nobody's business yet."""


def test_nothing_else_would_be_used() -> None:
    full = replace(
        OLD, architectures={**OLD.architectures, "amd64": ArchLock(asked=("old",), packages=(package("a"),))}
    )
    assert require(full, NOW, Path("p.yaml")) is full


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        (replace(NOW, profile="q"), ["profile p -> q"]),
        (replace(NOW, epoch=2), ["epoch 1 -> 2", "(SOURCE_DATE_EPOCH=1 is the epoch of the lock)"]),
        (replace(NOW, architectures=NEW.architectures),
         ["amd64: asked for now: new", "amd64: no longer asked for: old"]),
        (replace(NOW, sources={"x86": C}), ["x86 changed"]),
        (replace(NOW, sources={"other": A}), ["new: other"]),
        (replace(NOW, files={"kept": A}), ["gone: gone"]),
        (replace(NOW, files={**OLD.files, "kept": B}), ["kept changed"]),
        (replace(NOW, tools={"rofs": "2"}),
         ["rofs 1 -> 2", "(on a host with the tools of the lock the bytes would be those of the lock)"]),
    ],
)  # fmt: skip
def test_all_that_differs_is_said(now: Lock, lines: list[str]) -> None:
    with pytest.raises(SourceError) as caught:
        require(OLD, now, Path("here/p.yaml"))
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("here/p.lock: ") and "`rofs lock here/p.yaml`" in first
    assert [line.removeprefix("  ") for line in rest] == lines


def test_no_lock_or_none_for_this_architecture() -> None:
    with pytest.raises(SourceError, match=r"^here/p\.lock: there is none; `rofs lock here/p\.yaml` writes it$"):
        require(None, NOW, Path("here/p.yaml"))
    with pytest.raises(SourceError, match=r"^p\.lock: holds nothing for i386; `rofs lock p\.yaml` does$"):
        require(OLD, replace(NOW, architectures={**NOW.architectures, "i386": ArchLock()}), Path("p.yaml"))


# --- the verbs ------------------------------------------------------------------------------------


needs_apt = pytest.mark.needs("apt-get", "dpkg-deb", "apt-config")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Locked once, for copies."""
    top = tmp_path_factory.mktemp("first")
    shop = make_shop(top, make_archive(top / "archive"))
    with with_its_cache(shop):
        assert shop.run("lock", shop.profile) == 0
    return shop


@pytest.fixture
def shop(first: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shutil.copytree(first.here, tmp_path / "here")
    monkeypatch.setenv("ROFS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return Shop(tmp_path / "here", first.repo, tmp_path / "cache")


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[str, ArchLock | None]:
    """What of a lock each architecture's build was given; nothing is built."""
    given: dict[str, ArchLock | None] = {}

    def done(job: build._Job) -> build.Built:
        given[job.arch.name] = job.fetcher.locked
        return build.Built(arch=job.arch.name, directory=job.options.output / job.arch.name, report=None)

    monkeypatch.setattr(build._Job, "build", done)
    return given


@needs_apt
def test_a_lock_of_both_architectures(first: Shop) -> None:
    lock = first.lock
    assert lock.architectures.keys() == {"amd64", "arm64"} and lock.epoch == build.DEFAULT_EPOCH
    packages = {p for arch in lock.architectures.values() for p in (*arch.packages, arch.kernel, arch.initrd) if p}
    assert {p.name for p in packages} == NAMES
    debs = {name: seen(first.repo.root)[path.name] for name, path in first.repo.debs.items() if name in NAMES}
    assert {p.name: p.sha256 for p in packages} == debs
    for name, arch in lock.architectures.items():
        assert arch.kernel and arch.kernel.name == f"linux-image-6.1.0-1-{name}"
    assert lock.files.keys() == {"apt/sources", "files/motd", "files/issue", "dots"} and lock.sources == {}


@needs_apt
def test_a_lock_says_nothing_of_where_anything_came_from(first: Shop) -> None:
    text = lock_path(first.profile).read_text()
    assert not [word for word in (str(first.repo.root), str(first.here), "file:/", "://") if word in text]


@needs_apt
def test_what_has_changed_is_said_and_written(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    path = lock_path(shop.profile)
    before = path.stat().st_ino
    assert shop.run("lock", shop.profile) == 0
    assert capsys.readouterr().out == f"{path}: nothing has changed\n"
    assert path.stat().st_ino == before, "it is not written again"
    (shop.here / "files/motd").write_text("HELLO\n")
    shop.edit("packages: [less]", "packages: [less, busybox-static]")
    assert shop.run("lock", shop.profile) == 0
    lines = [
        f"{arch}: {line}"
        for arch in ("amd64", "arm64")
        for line in ("asked for now: package busybox-static", "new: busybox-static 1:1.35")
    ]
    assert capsys.readouterr().out.splitlines() == [*lines, "files/motd changed"]
    path.unlink()
    assert shop.run("lock", shop.profile) == 0
    assert capsys.readouterr().out == f"{path}: written\n"


@needs_apt
def test_a_lock_of_one_architecture_leaves_the_other_and_can_be_used(
    shop: Shop, jobs: dict[str, ArchLock | None], capsys: pytest.CaptureFixture[str]
) -> None:
    old = shop.lock
    shop.edit("  - {path: /etc/issue, source: files/issue}\n", "")
    assert shop.run("lock", shop.profile, "--arch", "amd64") == 0
    assert capsys.readouterr().out == "gone: files/issue\n"
    assert shop.lock.architectures == old.architectures
    assert shop.build("--locked") == 0
    assert jobs == old.architectures


@needs_apt
def test_a_lock_that_cannot_be_written_is_an_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, _: bytes) -> None:
        raise ImageError(f"{path}: cannot be written: a test")

    monkeypatch.setattr(store, "replace_file", refuse)
    lock_path(shop.profile).unlink()
    assert shop.run("lock", shop.profile) == 3
    said = capsys.readouterr()
    assert said.out == "" and "p.lock: cannot be written" in said.err


@needs_apt
def test_no_error_points_at_a_log_that_is_gone(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    (shop.here / "apt/sources").write_text("deb [trusted=yes] file:/nowhere ./\n")
    before = seen(shop.here)
    assert shop.run("lock", shop.profile) == 3
    said = capsys.readouterr().err
    assert "apt failed" in said and "rofs-lock-" not in said
    assert seen(shop.here) == before


@needs_apt
def test_a_lock_counts_without_being_asked_for(shop: Shop, jobs: dict[str, ArchLock | None]) -> None:
    assert shop.build() == 0
    assert jobs == shop.lock.architectures
    assert shop.build("--refresh") == 0
    assert jobs == {"amd64": None, "arm64": None}
    shop.edit("packages: [less]", "packages: [libc]")
    assert shop.build("--arch", "amd64") == 0
    assert jobs["amd64"] is None


def broken_by_hand(shop: Shop) -> None:
    shop.edit("version: '1.0'", "version: 1.0", "p.lock")


def without_lock(shop: Shop) -> None:
    lock_path(shop.profile).unlink()


def without_arm(shop: Shop) -> None:
    lock = shop.lock
    only = replace(lock, architectures={"amd64": lock.architectures["amd64"]})
    lock_path(shop.profile).write_text(render_lock(only))


REFUSED: dict[str, tuple[Callable[[Shop], object], int, list[str]]] = {
    "no lock": (without_lock, 3, ["p.lock: there is none; `rofs lock ", "p.yaml` writes it"]),
    "no lock of this architecture": (without_arm, 3, ["holds nothing for arm64; `rofs lock "]),
    "broken by hand": (broken_by_hand, 2, ["p.lock:", ": error: ", "writes a new one"]),
    "of another profile": (
        lambda shop: shop.edit("name: p", "name: q"), 3, ["profile p -> q", "(`rofs lock "]),
    "another package": (
        lambda shop: shop.edit("[less]", "[libc]"), 3,
        ["amd64: asked for now: package libc", "amd64: no longer asked for: package less", "arm64: asked for now"]),
    "another suite": (
        lambda shop: shop.edit("bookworm", "trixie"), 3, ["asked for: suite bookworm", "asked for now: suite trixie"]),
    "a changed file": (
        lambda shop: (shop.here / "files/motd").write_text("x"), 3, ["files/motd changed", "`rofs lock "]),
    "a changed dot-file": (lambda shop: (shop.here / "dots/.profile").chmod(0o755), 3, ["dots changed"]),
    "a new file": (
        lambda shop: shop.edit("source: files/issue", "source: p.yaml"), 3, ["gone: files/issue", "new: p.yaml"]),
    "other tools": (
        lambda shop: shop.edit("  rofs: ", "  rofs: 9.", "p.lock"), 3, ["rofs 9.", "on a host with the tools"]),
    "another epoch": (
        lambda shop: shop.edit(f"epoch: {build.DEFAULT_EPOCH}", "epoch: 7", "p.lock"), 3,
        [f"epoch 7 -> {build.DEFAULT_EPOCH}", "SOURCE_DATE_EPOCH=7"]),
}  # fmt: skip


@needs_apt
@pytest.mark.parametrize("name", REFUSED)
def test_a_locked_build_refuses(
    name: str, shop: Shop, jobs: dict[str, ArchLock | None], capsys: pytest.CaptureFixture[str]
) -> None:
    change, status, words = REFUSED[name]
    assert shop.build("--locked") == 0 and jobs == shop.lock.architectures
    jobs.clear()
    change(shop)
    before = seen(shop.here.parent)
    assert shop.build("--locked") == status
    said = capsys.readouterr()
    assert not [word for word in words if word not in said.err], said.err
    assert jobs == {} and seen(shop.here.parent) == before and not (shop.here.parent / "images/p").exists()


@needs_apt
def test_the_epoch_of_the_lock_is_taken_again(
    shop: Shop, jobs: dict[str, ArchLock | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    assert shop.build("--locked") == 3 and jobs == {}
    assert shop.run("lock", shop.profile) == 0 and shop.lock.epoch == 7
    assert shop.build("--locked") == 0 and jobs


@needs_apt
def test_another_version_of_a_tool_is_refused(
    shop: Shop, jobs: dict[str, ArchLock | None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locking, "tool_versions", lambda: {**tool_versions(), "dpkg": "99"})
    assert shop.build("--locked") == 3 and jobs == {}
    assert f"dpkg {tool_versions()['dpkg']} -> 99" in capsys.readouterr().err


@needs_apt
def test_wishes_that_contradict_each_other(
    shop: Shop, jobs: dict[str, ArchLock | None], capsys: pytest.CaptureFixture[str]
) -> None:
    for words, hint in (
        (["--locked", "--refresh"], "leave one of them out"),
        (["--inputs", "x"], "--inputs goes with --locked"),
        (["--locked", "--inputs", shop.here], "no directory of inputs; `rofs export-inputs` writes one"),
    ):
        assert shop.build(*words) == 3
        assert hint in capsys.readouterr().err
    assert jobs == {} and not (shop.here.parent / "images/p").exists()
