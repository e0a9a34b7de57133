# SPDX-License-Identifier: MIT
"""rofs.fetch: which tree and kernel an architecture gets, what the cache answers, and what is refused where."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tarmaker import file, folder, write_tar
from test_board import arm64_image

from rofs import fetch
from rofs.errors import Problem, ProfileError, SourceError
from rofs.fetch import Fetcher, Tree, check_machine
from rofs.inputs import load_inputs
from rofs.machine.arch import ARCHES
from rofs.profile import load_profile
from rofs.sources.debian import DROP, OF_ONE_MACHINE, UnknownPackage
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


class Desk:
    """A directory with a profile, and a cache beside it."""

    def __init__(self, top: Path) -> None:
        self.here, self.work, self.logs = top / "here", top / "work", top / "logs"
        self.cache, self.words = Cache(top / "cache"), Words()
        for path in (self.here, self.work, self.logs):
            path.mkdir()

    def fetcher(self, text: str, arch: str = "amd64", *, refresh: bool = False) -> Fetcher:
        """For a profile of this text behind its name."""
        path = self.here / "p.yaml"
        path.write_text(f"schema: rofs/v1\nname: p\n{text}")
        profile, self.words = load_profile(path), Words()
        return Fetcher(
            profile, load_inputs(profile, [arch]), ARCHES[arch], self.cache, self.words, epoch=EPOCH, refresh=refresh
        )

    def tree(self, text: str, arch: str = "amd64", *, refresh: bool = False) -> Tree:
        return self.fetcher(text, arch, refresh=refresh).tree(self.work, self.logs)

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
    os.utime(tar, (1, 1))
    assert desk.tree(text) == first and desk.from_cache()
    assert desk.tree(text, "arm64") == first and desk.from_cache(), "whatever it is for, it is the same tar"
    write_tar(tar, *ROWS, file("etc/motd", b"new"))
    second = desk.tree(text)
    assert not desk.from_cache()
    assert set(members(second.tar)) - set(members(first.tar)) == {"etc/motd"}
    assert second.inputs["tar"]["sha256"] == sha256(tar) != first.inputs["tar"]["sha256"]
    write_tar(tar, *ROWS)
    assert desk.tree(text) == first and desk.from_cache()
    assert desk.tree(text, refresh=True).tar != first.tar and not desk.from_cache()


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
    assert list(desk.work.iterdir()) == []


# Packages.


PACKAGES = "source: {debian: {packages: [one, two]}}\n"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What mmdebstrap would be asked, and an archive that has everything but the package `nowhere`."""
    asked: list[Any] = []

    def fetch_tree(source: Any, arch: Any, sources: Any, out: Path, *_: Any) -> None:
        asked.append((arch.name, source.packages, sources))
        if unknown := [name for name in source.packages if name.startswith("nowhere")]:
            raise UnknownPackage(unknown)
        write_tar(out, *ROWS)

    monkeypatch.setattr(fetch, "fetch_tree", fetch_tree)
    monkeypatch.setattr(fetch, "find_host_sources", lambda suite: b"deb of " + suite.encode())
    return asked


def test_packages_are_fetched_once_for_each_question(desk: Desk, asked: list[Any]) -> None:
    tree = desk.tree(PACKAGES)
    assert asked == [("amd64", ("one", "two", "kmod"), b"deb of bookworm")]
    assert (tree.drop, tree.keep_times, tree.inputs) == (DROP, False, {})
    assert desk.tree(PACKAGES + "hostname: other\n") == tree and desk.from_cache()
    for text, arch, refresh in [
        (PACKAGES, "arm64", False),
        (PACKAGES.replace("two", "three"), "amd64", False),
        (PACKAGES + "init: other\n", "amd64", False),
        (PACKAGES, "amd64", True),
    ]:
        count = len(asked)
        assert desk.tree(text, arch, refresh=refresh).tar != tree.tar
        assert len(asked) == count + 1 and not desk.from_cache()
    assert asked[-2][1] == ("one", "two"), "of an init that is not systemd nothing is asked for"


def test_an_unknown_package_is_refused_where_it_stands(desk: Desk, asked: list[Any]) -> None:
    problem = refused(lambda: desk.tree(PACKAGES.replace("two", "nowhere")))
    assert (problem.rule, problem.at) == ("unknown-package", ("source", "debian", "packages", 1))
    assert problem.message == "no package 'nowhere' in bookworm"


# What boots it.


BOARD = "source: {tar: {path: root.tar}}\nkernel: {image: Image, config: config}\n"
CONFIG = b"CONFIG_SQUASHFS=y\n"


@pytest.fixture
def busybox(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The architectures for which a busybox was fetched."""
    fetched: list[str] = []

    def fetch_busybox(arch: Any, suite: str, sources: Any, out: Path, *_: Any) -> None:
        fetched.append(f"{arch.name} {suite}")
        (out / "busybox").write_bytes(b"busybox")
        (out / "busybox.version").write_text("1.2")

    def fetch_boot(*_: Any) -> None:
        raise AssertionError("a board brings its own kernel")

    monkeypatch.setattr(fetch, "fetch_busybox", fetch_busybox)
    monkeypatch.setattr(fetch, "fetch_boot", fetch_boot)
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


def test_without_an_image_the_kernel_is_a_package(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def fetch_boot(package: str, arch: Any, suite: str, *_: Any) -> None:
        asked.append((package, arch.name, suite))
        raise UnknownPackage([f"{package}-{arch.kernel_suffix}"])

    monkeypatch.setattr(fetch, "fetch_boot", fetch_boot)
    monkeypatch.setattr(fetch, "find_host_sources", lambda _: b"")
    put_board(desk)
    text = BOARD.replace("{image: Image, config: config}", "{package: mine, image: {arm64: Image}, suite: sid}")
    fetcher = desk.fetcher(text)
    problem = refused(lambda: fetcher.boot_files(desk.work, desk.logs))
    assert asked == [("mine", "amd64", "sid")]
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
