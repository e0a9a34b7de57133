# SPDX-License-Identifier: MIT
"""rofs.fetch: which tree and kernel an architecture gets, what the cache answers, and what is refused where."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aptrepo import base_repository
from tarmaker import file, folder, write_tar
from test_board import arm64_image

from rofs import fetch
from rofs.errors import Problem, ProfileError, SourceError
from rofs.fetch import Fetcher, Tree, check_machine, require_unchanged
from rofs.inputs import load_inputs
from rofs.lock import ArchLock
from rofs.machine.arch import ARCHES
from rofs.packages import Package
from rofs.profile import load_profile
from rofs.sources.debian import DROP, OF_ONE_MACHINE
from rofs.sources.debs import DebStore, PackageGone
from rofs.sources.kernel import save_boot
from rofs.sources.resolve import open_apt
from rofs.store import Cache

EPOCH = 1_600_000_000
ROWS = (folder("etc"), file("etc/issue", b"hello"))


class Words:
    """Progress that remembers what every step said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def step(self, label: str) -> Any:
        """The label, then each update."""
        self.said.append(label)
        yield SimpleNamespace(update=self.said.append)

    def note(self, text: str) -> None:
        self.said.append(text)

    remark = note


class Desk:
    """A directory with a profile, and a cache beside it."""

    def __init__(self, top: Path) -> None:
        self.here, self.work, self.logs = top / "here", top / "work", top / "logs"
        self.cache, self.words = Cache(top / "cache"), Words()
        for path in (self.here, self.work, self.logs):
            path.mkdir()

    def fetcher(
        self, text: str, arch: str = "amd64", *, refresh: bool = False, locked: ArchLock | None = None
    ) -> Fetcher:
        """For a profile of this text behind its name."""
        path = self.here / "p.yaml"
        path.write_text(f"schema: rofs/v1\nname: p\n{text}")
        profile, self.words = load_profile(path), Words()
        return Fetcher(
            profile, load_inputs(profile, [arch]), ARCHES[arch], self.cache, self.words, epoch=EPOCH, refresh=refresh,
            locked=locked,
        )  # fmt: skip

    def tree(self, text: str, arch: str = "amd64", *, refresh: bool = False) -> Tree:
        """With a work directory of its own, as each build has."""
        work = Path(tempfile.mkdtemp(dir=self.work))
        return self.fetcher(text, arch, refresh=refresh).tree(work, self.logs)

    def from_cache(self) -> bool:
        """Whether the last fetcher was answered by the cache."""
        return any(word.startswith("from the cache") for word in self.words.said)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def members(tar: Path) -> dict[str, tuple[int, int, int]]:
    with tarfile.open(tar) as archive:
        return {m.name: (m.mode, m.uid, m.gid) for m in archive.getmembers()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# A tar.


def test_a_tar_comes_out_plain_with_its_own_times(desk: Desk) -> None:
    plain = write_tar(desk.work / "plain", *ROWS).read_bytes()
    (desk.here / "root.tar.gz").write_bytes(gzip.compress(plain))
    tree = desk.tree("source: {tar: {path: root.tar.gz}}\n")
    assert tree.tar.read_bytes() == plain
    assert (tree.keep_times, tree.drop) == (True, OF_ONE_MACHINE)
    assert tree.inputs == {"tar": {"name": "root.tar.gz", "sha256": sha256(desk.here / "root.tar.gz")}}
    assert not desk.from_cache()


def test_the_same_tar_comes_from_the_cache_and_a_changed_one_does_not(desk: Desk) -> None:
    tar, text = desk.here / "root.tar", "source: {tar: {path: root.tar}}\n"
    write_tar(tar, *ROWS)
    first = desk.tree(text)
    old = members(first.tar)
    os.utime(tar, (1, 1))
    assert desk.tree(text) == first and desk.from_cache()
    assert desk.tree(text, "arm64") == first and desk.from_cache(), "whatever it is for, it is the same tar"
    write_tar(tar, *ROWS, file("etc/motd", b"new"))
    second = desk.tree(text)
    assert not desk.from_cache()
    assert set(members(second.tar)) - set(old) == {"etc/motd"}
    assert second.inputs["tar"]["sha256"] == sha256(tar) != first.inputs["tar"]["sha256"]
    write_tar(tar, *ROWS)
    assert desk.tree(text) == first and desk.from_cache()
    assert desk.tree(text, refresh=True) == first and desk.from_cache(), "there is nothing to resolve"


def test_a_plain_tar_is_read_where_it_is_and_must_stay_as_it_is(desk: Desk) -> None:
    tar = write_tar(desk.here / "root.tar", *ROWS)
    tree = desk.tree("source: {tar: {path: root.tar}}\n")
    assert tree.tar.samefile(tar)
    require_unchanged(tree)
    tar.write_bytes(tar.read_bytes())
    with pytest.raises(SourceError, match="was changed while it was read"):
        require_unchanged(tree)
    tar.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        require_unchanged(tree)


def test_a_compressed_tar_may_change_once_it_is_unpacked(desk: Desk) -> None:
    tar = desk.here / "root.tar.gz"
    tar.write_bytes(gzip.compress(write_tar(desk.work / "plain", *ROWS).read_bytes()))
    tree = desk.tree("source: {tar: {path: root.tar.gz}}\n")
    tar.write_bytes(b"")
    require_unchanged(tree)


def refused(call: Callable[[], object]) -> Problem:
    """The one problem."""
    with pytest.raises(ProfileError) as caught:
        call()
    (problem,) = caught.value.problems
    return problem


def test_a_right_sha256_is_nothing_to_talk_about(desk: Desk) -> None:
    tar = write_tar(desk.here / "root.tar", *ROWS)
    desk.tree(f"source: {{tar: {{path: root.tar, sha256: {sha256(tar)}}}}}\n")
    desk.tree(f"source:\n  tar:\n    path: root.tar\n    sha256: {{amd64: {sha256(tar)}, arm64: {'f' * 64}}}\n")


@pytest.mark.parametrize(
    ("said", "at", "line"),
    [
        (f"sha256: {'f' * 64}", ("source", "tar", "sha256"), 6),
        (f"sha256:\n      arm64: {'e' * 64}\n      amd64: {'f' * 64}", ("source", "tar", "sha256", "amd64"), 8),
    ],
)
def test_a_wrong_sha256_is_refused_where_it_stands(desk: Desk, said: str, at: tuple[str, ...], line: int) -> None:
    tar = write_tar(desk.here / "root.tar", *ROWS)
    problem = refused(lambda: desk.tree(f"source:\n  tar:\n    path: root.tar\n    {said}\n"))
    assert (problem.rule, problem.at, problem.mark.line) == ("sha256", at, line)
    assert (desk.here / "p.yaml").read_text().splitlines()[line - 1][problem.mark.column - 1 :] == "f" * 64
    assert sha256(tar) in problem.message and "f" * 64 in problem.message
    assert not (desk.cache.root / "tree").exists(), "nothing was unpacked"


def test_a_sha256_of_another_architecture_alone_says_nothing(desk: Desk) -> None:
    write_tar(desk.here / "root.tar", *ROWS)
    desk.tree(f"source: {{tar: {{path: root.tar, sha256: {{arm64: {'f' * 64}}}}}}}\n")


def test_a_tar_that_no_image_can_hold_leaves_nothing(desk: Desk) -> None:
    write_tar(desk.here / "root.tar", file("../climbs"))
    with pytest.raises(SourceError, match=r"root\.tar: .*climbs"):
        desk.tree("source: {tar: {path: root.tar}}\n")
    assert not list(desk.cache.root.glob("tree/*/*"))


def test_each_architecture_has_its_own(desk: Desk) -> None:
    for name in ("x86", "arm"):
        write_tar(desk.here / name, file(name))
    text = "source: {tar: {path: {amd64: x86, arm64: arm}}}\n"
    found = {arch: list(members(desk.tree(text, arch).tar)) for arch in ("amd64", "arm64")}
    assert found == {"amd64": ["x86"], "arm64": ["arm"]}


# A directory.


def make_root(desk: Desk) -> Path:
    root = desk.here / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/issue").write_text("hello")
    for path in (root, root / "etc"):
        path.chmod(0o755)
    (root / "etc/issue").chmod(0o644)
    return root


def test_a_directory_is_roots_but_for_the_table(desk: Desk) -> None:
    make_root(desk)
    text = "source: {directory: {path: root}}\n"
    tree = desk.tree(text)
    assert tree.tar.is_relative_to(desk.work) and (tree.keep_times, tree.drop) == (False, OF_ONE_MACHINE)
    assert members(tree.tar) == {".": (0o755, 0, 0), "./etc": (0o755, 0, 0), "./etc/issue": (0o644, 0, 0)}
    (desk.here / "table").write_text("/etc/issue f 0600 7 8\n/etc/run d 0750 9 9\n")
    owned = desk.tree("source: {directory: {path: root, ownership: table}}\n")
    assert members(owned.tar) == {
        ".": (0o755, 0, 0), "./etc": (0o755, 0, 0), "./etc/issue": (0o600, 7, 8), "./etc/run": (0o750, 9, 9),
    }  # fmt: skip
    assert owned.inputs != tree.inputs


def test_a_directory_is_read_each_time(desk: Desk) -> None:
    root, text = make_root(desk), "source: {directory: {path: root}}\n"
    first = desk.tree(text)
    (root / "etc/issue").write_text("HELLO")
    second = desk.tree(text)
    assert first.inputs.keys() == second.inputs.keys() == {"directory"}
    assert first.inputs != second.inputs and not desk.cache.root.exists()
    assert b"HELLO" in second.tar.read_bytes()


def test_the_same_content_checked_out_later_is_the_same_input(desk: Desk) -> None:
    """Newer times never reach the image; older ones do."""
    root, text = make_root(desk), "source: {directory: {path: root}}\n"

    def seen(time: int) -> Mapping[str, Any]:
        os.utime(root / "etc/issue", (time, time))
        return desk.tree(text).inputs

    assert seen(EPOCH) == seen(EPOCH + 10) != seen(EPOCH - 10)


def test_a_row_that_does_not_fit_is_refused_in_its_file(desk: Desk) -> None:
    make_root(desk)
    (desk.here / "table").write_text("# comment\n/etc/none f 0600 0 0\n")
    problem = refused(lambda: desk.tree("source: {directory: {path: root, ownership: table}}\n"))
    assert (problem.mark.file, problem.mark.line) == (str(desk.here / "table"), 2)
    assert not [path for path in desk.work.rglob("*") if not path.is_dir()]


# Packages.


PACKAGES = "source: {debian: {packages: [sshd, less]}}\n"
NAMES = ["base-files", "helper", "kmod", "less", "libc", "mawk", "sshd", "usr-is-merged"]
needs_apt = pytest.mark.needs("apt-get", "dpkg-deb", "apt-config")


class Archive:
    """A small archive that apt reads, and what was made of its packages instead of trees and kernels."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.repo = base_repository(root)
        self.repo.add("kmod")
        self.repo.add("linux-image-cloud-amd64", Depends="linux-image-6.1.0-1-amd64")
        self.sources = self.repo.publish()
        self.installed: list[list[str]] = []
        self.updates = 0

    def install_tree(self, source: Any, arch: Any, debs: Any, out: Path, *_: Any) -> None:
        self.installed.append([package.name for package, _ in debs])
        write_tar(out, *(file(f"{package.name}_{package.version}", path.read_bytes()) for package, path in debs))

    def make_boot(self, debs: Any, out: Path, *_: Any) -> None:
        self.installed.append([package.name for package, path in debs if path.exists()])
        for name in ("vmlinuz", "busybox"):
            (out / name).touch()
        write_tar(out / "modules.tar")
        save_boot(out, release="", package=debs[0][0].name, version=debs[0][0].version)

    def open_apt(self, *args: Any) -> Any:
        self.updates += 1
        return open_apt(*args)

    def upgrade(self) -> None:
        self.repo.remove("libc")
        self.repo.add("libc", "2.37", arch="amd64")
        self.sources = self.repo.publish()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    archive = Archive(tmp_path / "archive")
    monkeypatch.setattr(fetch, "install_tree", archive.install_tree)
    monkeypatch.setattr(fetch, "make_boot", archive.make_boot)
    monkeypatch.setattr(fetch, "open_apt", archive.open_apt)
    monkeypatch.setattr(fetch, "find_host_sources", lambda _: archive.sources)
    return archive


@needs_apt
def test_packages_are_resolved_and_installed_once_for_each_answer(desk: Desk, archive: Archive) -> None:
    tree = desk.tree(PACKAGES)
    assert archive.installed == [NAMES] and archive.updates == 1 and not desk.from_cache()
    assert (tree.drop, tree.keep_times, tree.inputs) == (DROP, False, {})
    assert {name.split("_")[0] for name in members(tree.tar)} == set(NAMES)
    assert desk.tree(PACKAGES + "hostname: other\n") == tree and desk.from_cache()
    assert any("resolved" in word and "--refresh resolves anew" in word for word in desk.words.said)
    assert desk.tree(PACKAGES.replace("[sshd, less]", "[less, sshd]")) == tree, "another question, the same answer"
    assert len(archive.installed) == 1 and archive.updates == 2


@needs_apt
def test_what_shapes_a_tree_is_in_its_key(desk: Desk, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = desk.tree(PACKAGES)
    for text in (PACKAGES.replace("packages", "docs: true, packages"), PACKAGES + "init: other\n"):
        count = len(archive.installed)
        assert desk.tree(text).tar != tree.tar
        assert len(archive.installed) == count + 1 and not desk.from_cache()
    assert "kmod" not in archive.installed[-1], "of an init that is not systemd nothing is asked for"
    monkeypatch.setattr(fetch, "tool_versions", lambda names: {"dpkg": "another"})
    assert desk.tree(PACKAGES).tar != tree.tar


@needs_apt
def test_the_last_resolution_counts_until_a_refresh(desk: Desk, archive: Archive) -> None:
    tree = desk.tree(PACKAGES)
    sources = archive.sources
    archive.upgrade()
    assert archive.sources == sources, "the question is the same"
    assert desk.tree(PACKAGES) == tree and archive.updates == 1
    new = desk.tree(PACKAGES, refresh=True)
    assert {"libc_2.37"} == members(new.tar).keys() - members(tree.tar).keys()
    assert desk.tree(PACKAGES) == new
    assert desk.tree(PACKAGES, refresh=True) == new and len(archive.installed) == 2, "the same answer, so the same tree"


@needs_apt
def test_a_lock_answers_instead_of_apt_and_needs_no_archive(desk: Desk, archive: Archive) -> None:
    fetcher = desk.fetcher(PACKAGES)
    lock = fetcher.resolution(desk.work, desk.logs)
    assert [package.name for package in lock.packages] == NAMES
    assert lock.kernel is not None and lock.initrd is not None and lock.initrd.name == "busybox-static"
    fetcher.tree(desk.work, desk.logs), fetcher.boot_files(desk.work, desk.logs)
    assert archive.updates == 1, "one apt for all of a build"
    archive.upgrade()
    shutil.rmtree(archive.repo.root)
    for kind in ("resolution", "tree", "kernel"):
        shutil.rmtree(desk.cache.root / kind)
    locked = desk.fetcher(PACKAGES, locked=lock)
    again = locked.tree(desk.work, desk.logs)
    assert "libc_2.36-9+deb12u4" in members(again.tar) and "as locked" in desk.words.said
    assert locked.boot_files(desk.work, desk.logs).package == lock.kernel.name
    assert locked.resolution(desk.work, desk.logs) == lock
    assert archive.updates == 1


@needs_apt
def test_a_locked_package_that_is_gone_is_said_with_what_to_do(desk: Desk, archive: Archive) -> None:
    lock = desk.fetcher(PACKAGES).resolution(desk.work, desk.logs)
    archive.upgrade()
    locked = desk.fetcher(PACKAGES, locked=lock)
    with pytest.raises(PackageGone, match=r"libc 2\.36-9\+deb12u4 .*rofs lock"):
        locked.tree(desk.work, desk.logs)
    assert archive.installed == []


@needs_apt
def test_a_lock_of_another_question_is_refused(desk: Desk, archive: Archive) -> None:
    lock = desk.fetcher(PACKAGES).resolution(desk.work, desk.logs)
    changed = desk.fetcher(PACKAGES.replace("less", "gzip"), locked=lock)
    for call in (changed.tree, changed.boot_files, changed.resolution):
        with pytest.raises(SourceError, match=r"asked for now: package gzip\n.*no longer asked for: package less"):
            call(desk.work, desk.logs)


@needs_apt
def test_an_unknown_package_is_refused_where_it_stands(desk: Desk, archive: Archive) -> None:
    problem = refused(lambda: desk.tree(PACKAGES.replace("less", "nowhere")))
    assert (problem.rule, problem.at) == ("unknown-package", ("source", "debian", "packages", 1))
    assert problem.message == "no package 'nowhere' in bookworm"


@needs_apt
def test_tree_and_kernel_side_by_side(desk: Desk, archive: Archive) -> None:
    fetcher = desk.fetcher(PACKAGES)
    with ThreadPoolExecutor(2) as pool:
        tree, boot = (
            pool.submit(fetcher.tree, desk.work, desk.logs),
            pool.submit(fetcher.boot_files, desk.work, desk.logs),
        )
        assert tree.result().tar.exists() and boot.result().vmlinuz.exists()
    assert archive.updates == 1


# What boots it.


BOARD = "source: {tar: {path: root.tar}}\nkernel: {image: Image, config: config}\n"
CONFIG = b"CONFIG_SQUASHFS=y\n"


@pytest.fixture
def busybox(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The architectures for which a busybox was fetched."""
    fetched: list[str] = []
    package = Package(name="busybox-static", version="1.2", architecture="arm64", size=7, sha256="a" * 64)

    def open_apt(root: Path, arch: Any, suite: str, *_: Any) -> str:
        return f"{arch.name} {suite}"

    def take(_: Any, packages: list[Package], apt: str) -> None:
        assert packages == [package]
        fetched.append(apt)

    def make_busybox(debs: list[Any], out: Path, *_: Any) -> None:
        (out / "busybox").write_bytes(b"busybox")
        (out / "busybox.version").write_text(debs[0][0].version)

    monkeypatch.setattr(fetch, "open_apt", open_apt)
    monkeypatch.setattr(fetch, "resolve_busybox", lambda _: package)
    monkeypatch.setattr(DebStore, "fetch", take)
    monkeypatch.setattr(fetch, "make_busybox", make_busybox)
    monkeypatch.setattr(fetch, "find_host_sources", lambda _: b"")
    return fetched


def put_board(desk: Desk) -> None:
    write_tar(desk.here / "root.tar", *ROWS)
    (desk.here / "Image").write_bytes(arm64_image(b"6.6.1-board"))
    (desk.here / "config").write_bytes(CONFIG)


def test_a_boards_own_kernel_and_a_busybox_from_the_cache(desk: Desk, busybox: list[str]) -> None:
    put_board(desk)
    boot = desk.fetcher(BOARD, "arm64").boot_files(desk.work, desk.logs)
    assert boot.vmlinuz.read_bytes() == (desk.here / "Image").read_bytes()
    assert boot.busybox.read_bytes() == b"busybox" and boot.config is not None and boot.config.read_bytes() == CONFIG
    assert (boot.release, boot.package, boot.version, boot.busybox_version) == ("6.6.1-board", "", "", "1.2")
    assert boot.files == {
        "image": {"name": "Image", "sha256": sha256(desk.here / "Image")},
        "config": {"name": "config", "sha256": sha256(desk.here / "config")},
    }
    (desk.here / "Image").write_bytes(arm64_image(b"6.6.2-board"))
    again = desk.fetcher(BOARD, "arm64").boot_files(desk.work, desk.logs)
    assert again.release == "6.6.2-board", "it is read each time"
    assert desk.from_cache() and busybox == ["arm64 bookworm"]


def test_modules_are_named_as_they_were_given(desk: Desk, busybox: list[str]) -> None:
    put_board(desk)
    text = BOARD.replace("config}", "config, modules: given}")
    builtin = b"kernel/fs/squashfs/squashfs.ko\n"
    write_tar(desk.here / "given", file("lib/modules/6.6.1-board/modules.builtin", builtin))
    packed = desk.fetcher(text, "arm64").boot_files(desk.work, desk.logs)
    assert packed.files["modules"] == {"name": "given", "sha256": sha256(desk.here / "given")}
    (desk.here / "given").unlink()
    place = desk.here / "given/lib/modules/6.6.1-board"
    place.mkdir(parents=True)
    (place / "modules.builtin").write_bytes(builtin)
    lying = desk.fetcher(text, "arm64").boot_files(desk.work, desk.logs)
    assert lying.files["modules"] == {"name": "given", "sha256": sha256(lying.modules_tar)}


def test_a_kernel_of_another_architecture_is_refused(desk: Desk, busybox: list[str]) -> None:
    put_board(desk)
    fetcher = desk.fetcher(BOARD, "amd64")
    with pytest.raises(SourceError, match=r"kernel\.image: .*Image is a kernel for arm64, not for amd64"):
        fetcher.boot_files(desk.work, desk.logs)


@needs_apt
def test_without_an_image_the_kernel_is_a_package(desk: Desk, archive: Archive) -> None:
    put_board(desk)
    text = BOARD.replace("{image: Image, config: config}", "{package: linux-image-mine, image: {arm64: Image}}")
    boot = desk.fetcher(text).boot_files(desk.work, desk.logs)
    assert (boot.package, boot.version) == ("linux-image-6.1.0-1-amd64", "6.1.1")
    assert archive.installed == [["linux-image-6.1.0-1-amd64", "busybox-static"]]
    assert desk.fetcher(text).boot_files(desk.work, desk.logs) == boot and desk.from_cache()


@needs_apt
def test_an_unknown_kernel_is_refused_where_it_stands(desk: Desk, archive: Archive) -> None:
    put_board(desk)
    text = BOARD.replace("{image: Image, config: config}", "{package: mine, image: {arm64: Image}, suite: sid}")
    problem = refused(lambda: desk.fetcher(text).boot_files(desk.work, desk.logs))
    assert (problem.rule, problem.at, problem.message) == (
        "unknown-package", ("kernel", "package"), "no package 'mine' in sid",
    )  # fmt: skip


# The tree and the machine.


@pytest.mark.parametrize(
    ("machine", "refuses"), [("amd64", False), (None, False), ("arm64", True), ("another machine", True)]
)
def test_a_tree_of_another_machine_is_refused(desk: Desk, machine: str | None, refuses: bool) -> None:
    write_tar(desk.here / "root.tar", *ROWS)
    fetcher = desk.fetcher("source:\n  tar:\n    path: root.tar\n")
    tree = fetcher.tree(desk.work, desk.logs)
    if not refuses:
        check_machine(tree, machine, ARCHES["amd64"], fetcher.profile)
        return
    problem = refused(lambda: check_machine(tree, machine, ARCHES["amd64"], fetcher.profile))
    assert (problem.rule, problem.at, problem.mark.line) == ("wrong-machine", ("source", "tar", "path"), 5)
    assert f"holds programs for {machine}, not for amd64" in problem.message


def test_two_builds_at_once_unpack_once(desk: Desk) -> None:
    tar = write_tar(desk.here / "root.tar", *ROWS)
    fetchers = [desk.fetcher("source: {tar: {path: root.tar}}\n", arch) for arch in ("amd64", "arm64")]
    trees: list[Tree] = []
    threads = [threading.Thread(target=lambda f=f: trees.append(f.tree(desk.work, desk.logs))) for f in fetchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trees) == 2 and trees[0] == trees[1] and trees[0].tar.read_bytes() == tar.read_bytes()
    assert len(list(desk.cache.root.glob("tree/*/*"))) == 1
