# SPDX-License-Identifier: MIT
"""rofs.sources.resolve: which packages a question means, asked of a small repository by the real apt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from aptrepo import SUITE, Repository, base_repository

from rofs.errors import SourceError
from rofs.machine.arch import ARCHES
from rofs.packages import Package
from rofs.profile import DebianSource
from rofs.sources.apt import PrivateApt
from rofs.sources.debian import UnknownPackage
from rofs.sources.resolve import (
    kernel_of,
    open_apt,
    parse_uris,
    resolve_busybox,
    resolve_kernel,
    resolve_tree,
)

needs_apt = pytest.mark.needs("apt-get", "dpkg-deb", "apt-config")
AMD64 = ARCHES["amd64"]
SOURCE = DebianSource(suite=SUITE, packages=("sshd",), variant="essential", docs=False, locales=(), sources=None)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return base_repository(tmp_path_factory.mktemp("repo"))


@pytest.fixture(scope="module")
def apt(repo: Repository, tmp_path_factory: pytest.TempPathFactory) -> PrivateApt:
    work = tmp_path_factory.mktemp("apt")
    return open_apt(work / "a", AMD64, SUITE, repo.publish(), work / "log", lambda _: None)


ESSENTIAL = {"base-files", "mawk", "helper", "usr-is-merged"}
VARIANTS: list[tuple[Literal["extract", "essential", "minbase", "important", "standard"], set[str]]] = [
    ("extract", {"sshd", "libc"}),
    ("essential", {"sshd", "libc", *ESSENTIAL}),
    ("minbase", {"sshd", "libc", "gzip", *ESSENTIAL}),
    ("important", {"sshd", "libc", "gzip", "apt", *ESSENTIAL}),
    ("standard", {"sshd", "libc", "gzip", "apt", "less", *ESSENTIAL}),
]


@needs_apt
@pytest.mark.parametrize(("variant", "names"), VARIANTS)
def test_what_a_variant_means(
    apt: PrivateApt, variant: Literal["extract", "essential", "minbase", "important", "standard"], names: set[str]
) -> None:
    found = resolve_tree(apt, replace(SOURCE, variant=variant), AMD64)
    assert {package.name for package in found} == names
    assert list(found) == sorted(found)


@needs_apt
def test_each_package_is_named_by_what_it_is(apt: PrivateApt, repo: Repository) -> None:
    found = {package.name: package for package in resolve_tree(apt, SOURCE, AMD64)}
    deb = repo.debs["sshd"]
    (said,) = parse_uris(
        f"'file:/x/sshd_1%3a9.2-1_amd64.deb' sshd_1%3a9.2-1_amd64.deb {deb.stat().st_size} SHA256:{'a' * 64}"
    )
    assert replace(found["sshd"], sha256="a" * 64) == said
    assert (said.name, said.version, said.architecture) == ("sshd", "1:9.2-1", "amd64")
    assert found["libc"].version == "2.36-9+deb12u4"


@needs_apt
def test_the_essential_ones_are_chosen_first(apt: PrivateApt) -> None:
    """As mmdebstrap does: base-files brings its own awk before anybody asks for another."""
    found = resolve_tree(apt, replace(SOURCE, packages=("gawk",)), AMD64)
    assert {"gawk", "mawk"} <= {package.name for package in found}


@needs_apt
def test_what_is_essential_is_installed_before_the_rest_is_chosen(apt: PrivateApt) -> None:
    found = {package.name for package in resolve_tree(apt, replace(SOURCE, packages=("scripts",)), AMD64)}
    assert found == {"scripts", *ESSENTIAL}, "the awk that is there will do"


@needs_apt
def test_before_usr_was_merged(repo: Repository, tmp_path: Path) -> None:
    sources = repo.publish()
    release = repo.root / "Release"
    release.write_text(release.read_text().replace(SUITE, "bullseye"))
    try:
        old = open_apt(tmp_path / "a", AMD64, "bullseye", sources, tmp_path / "log", lambda _: None)
        found = resolve_tree(old, replace(SOURCE, suite="bullseye"), AMD64)
    finally:
        repo.publish()
    assert {package.name for package in found} == {"sshd", "libc", "base-files", "mawk", "helper", "usrmerge", "perl"}


@needs_apt
def test_nothing_named(apt: PrivateApt) -> None:
    empty = replace(SOURCE, packages=())
    assert resolve_tree(apt, replace(empty, variant="extract"), AMD64) == ()
    assert {package.name for package in resolve_tree(apt, empty, AMD64)} == ESSENTIAL


@needs_apt
def test_unknown_packages_are_named(apt: PrivateApt) -> None:
    with pytest.raises(UnknownPackage) as caught:
        resolve_tree(apt, replace(SOURCE, packages=("sshd", "nope", "nor-this")), AMD64)
    assert caught.value.packages == ("nope", "nor-this")


@needs_apt
@pytest.mark.parametrize("name", ["linux-image-mine", "linux-image-mine-amd64", "linux-image-6.1.0-1"])
def test_a_kernel_without_what_it_depends_on(apt: PrivateApt, name: str) -> None:
    kernel = resolve_kernel(apt, name, AMD64)
    assert (kernel.name, kernel.version) == ("linux-image-6.1.0-1-amd64", "6.1.1")
    assert (resolve_busybox(apt).name, resolve_busybox(apt).version) == ("busybox-static", "1:1.35")


@needs_apt
def test_an_unknown_kernel_is_an_unknown_package(apt: PrivateApt) -> None:
    with pytest.raises(UnknownPackage) as caught:
        resolve_kernel(apt, "linux-image-nope", AMD64)
    assert caught.value.packages == ("linux-image-nope-amd64",)


@needs_apt
def test_lists_that_cannot_be_had_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="apt failed"):
        open_apt(
            tmp_path / "a", AMD64, SUITE, b"deb [trusted=yes] file:/nowhere ./\n", tmp_path / "log", lambda _: None
        )


ABOUT = [
    ("Depends: linux-image-6.1.0-56-cloud-arm64 (= 6.1.192-2)\n", "linux-image-6.1.0-56-cloud-arm64"),
    ("Depends: linux-base, linux-image-6.12.1+deb13-arm64, x\n", "linux-image-6.12.1+deb13-arm64"),
    ("Depends: kmod, linux-base (>= 4.3~), initramfs-tools\n", "linux-image-own"),
    ("Version: 1\n", "linux-image-own"),
]


@pytest.mark.parametrize(("about", "wanted"), ABOUT)
def test_the_package_behind_a_name(about: str, wanted: str) -> None:
    assert kernel_of("linux-image-own", f"Package: linux-image-own\n{about}") == wanted


def test_other_words_of_apt_are_no_packages() -> None:
    line = f"'http://example.org/a_1_all.deb' a_1_all.deb 7 SHA256:{'0' * 64}"
    said = f"NOTE: words\n{line}\n'http://example.org/b' b_1_all.deb 7 MD5Sum:00\n"
    assert parse_uris(said) == [Package(name="a", version="1", architecture="all", size=7, sha256="0" * 64)]
