# SPDX-License-Identifier: MIT
"""rofs.sources.repository: apt finds exactly the packages in it, and the index is the same each time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from aptrepo import SUITE, Repository

from rofs.errors import SourceError
from rofs.machine.arch import ARCHES
from rofs.packages import Deb
from rofs.profile import DebianSource
from rofs.sources.repository import read_control, write_repository
from rofs.sources.resolve import open_apt, resolve_tree

pytestmark = pytest.mark.needs("apt-get", "dpkg-deb", "apt-config")


@pytest.fixture
def debs(tmp_path: Path) -> list[Deb]:
    (tmp_path / "repo").mkdir()
    repo = Repository(tmp_path / "repo")
    packages = [repo.add("one", "1:1.0", arch="amd64", Depends="two (>= 1)"), repo.add("two", "1.0")]
    return [(package, repo.debs[package.name]) for package in packages]


def write(tmp_path: Path, debs: list[Deb]) -> Path:
    home = tmp_path / "flat"
    home.mkdir()
    write_repository(home, debs, SUITE)
    return home


def test_apt_finds_exactly_these(debs: list[Deb], tmp_path: Path) -> None:
    home = write(tmp_path, debs)
    sources = f"deb [trusted=yes] copy:{home} ./\n".encode()
    apt = open_apt(tmp_path / "a", ARCHES["amd64"], SUITE, sources, tmp_path / "log", lambda _: None)
    source = DebianSource(suite=SUITE, packages=("one",), variant="extract", docs=False, locales=(), sources=None)
    assert resolve_tree(apt, source, ARCHES["amd64"]) == tuple(package for package, _ in debs)
    apt.run("apt-get", "download", "one", "two")
    assert len(list((apt.root / "debs").iterdir())) == 2


def test_others_may_read_it_and_the_store_is_not_touched(debs: list[Deb], tmp_path: Path) -> None:
    before = [path.stat().st_mode for _, path in debs]
    umask = os.umask(0o077)
    try:
        home = write(tmp_path, debs)
    finally:
        os.umask(umask)
    assert home.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in home.iterdir())
    assert [path.stat().st_mode for _, path in debs] == before
    assert all((home / f"{package.sha256}.deb").samefile(path) for package, path in debs), "linked, not copied"


def test_where_links_cannot_be_made_files_are_copied(
    debs: list[Deb], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    home = write(tmp_path, debs)
    for package, path in debs:
        assert (home / f"{package.sha256}.deb").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("compression", ["none", "gzip", "xz", "zstd"])
def test_control_is_what_dpkg_reads(debs: list[Deb], tmp_path: Path, compression: str) -> None:
    tree, deb = tmp_path / "repo/trees/two-1.0-all-0", tmp_path / "x.deb"
    argv = ["dpkg-deb", f"-Z{compression}", "--uniform-compression", "--build", str(tree), str(deb)]
    subprocess.run(argv, check=True, capture_output=True)
    said = subprocess.run(["dpkg-deb", "--field", deb], check=True, capture_output=True, text=True).stdout
    assert read_control(deb) == said.rstrip("\n")


@pytest.mark.parametrize(
    "content", [b"", b"!<arch>\n", b"!<arch>\ncontrol.tar.xz  " + b"9" * 32 + b"12        `\n" + b"x" * 12]
)
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(SourceError, match=r"x\.deb: not a Debian package"):
        read_control(tmp_path / "x.deb")


def test_every_cut_of_a_package_is_refused(debs: list[Deb], tmp_path: Path) -> None:
    whole, cut = debs[1][1].read_bytes(), tmp_path / "x.deb"
    end = whole.index(b"data.tar")
    for length in range(0, end, 7):
        cut.write_bytes(whole[:length])
        try:
            assert read_control(cut) == read_control(debs[1][1])
        except SourceError:
            continue
