# SPDX-License-Identifier: MIT
"""The real mmdebstrap and apt: the tree comes without host names, twice the same; the kernel is whole."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import tarfile
from pathlib import Path

import pytest

from rofs.image.modules import module_closure
from rofs.image.union import drop_matcher
from rofs.lock import ArchLock, Lock, render_lock
from rofs.machine.arch import ARCHES, Arch, host_arch
from rofs.packages import Deb
from rofs.profile import DebianSource
from rofs.sources.apt import find_host_sources, host_options
from rofs.sources.debian import DROP, UnknownPackage, install_tree, parse_status
from rofs.sources.debs import DebStore
from rofs.sources.resolve import open_apt, resolve_tree
from rofs.treefacts import read_facts
from tests.release import fetch_boot

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.needs("mmdebstrap", "apt-get", "dpkg-deb", "depmod")]

SUITE, EPOCH = "bookworm", 1704067200
OWN = next(arch for arch in ARCHES.values() if arch.name == host_arch())
SOURCE = DebianSource(
    suite=SUITE, packages=("openssh-server",), variant="essential", docs=False, locales=(), sources=None
)


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> list[Deb]:
    """Resolved and downloaded once."""
    work = tmp_path_factory.mktemp("debs")
    apt = open_apt(work / "apt", OWN, SUITE, find_host_sources(SUITE), work / "log", lambda _: None)
    packages, store = resolve_tree(apt, SOURCE, OWN), DebStore(work / "debs")
    store.fetch(packages, apt)
    return [(package, store.path(package)) for package in packages]


@pytest.fixture(scope="module")
def tree(debs: list[Deb], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tree") / "tree.tar"
    install_tree(SOURCE, OWN, debs, out, out.with_suffix(".log"), EPOCH)
    return out


def kept_members(tar: Path) -> dict[str, tuple[object, ...]]:
    """All of what an image gets, by path."""
    drop, found = drop_matcher(DROP), dict[str, tuple[object, ...]]()
    with tarfile.open(tar) as stream:
        for m in stream:
            path = "/" + m.name.removeprefix("./").strip("/")
            file = stream.extractfile(m) if m.isfile() else None
            content = hashlib.sha256(file.read()).hexdigest() if file is not None else ""
            about = (m.type, m.mode, m.uid, m.gid, m.mtime, m.linkname, m.devmajor, m.devminor)
            if not drop(path):
                found[path] = (*about, sorted(m.pax_headers.items()), content)
    return found


def kept_files(tar: Path) -> dict[str, bytes]:
    """Content of the files that an image gets, by path."""
    drop = drop_matcher(DROP)
    found = {}
    with tarfile.open(tar) as stream:
        for member in stream:
            path = "/" + member.name.removeprefix("./").strip("/")
            file = stream.extractfile(member) if member.isfile() else None
            if file is not None and not drop(path):
                found[path] = file.read()
    return found


def host_words() -> set[bytes]:
    """The names in this host's sources and proxies, read now and written down nowhere."""
    text = (find_host_sources(SUITE) or b"").decode() + "\n".join(host_options())
    return {name.encode() for name in re.findall(r"//(?:[^/@\s]*@)?([\w.-]+)", text)}


def test_no_name_of_the_host_or_its_mirror_in_what_is_kept(tree: Path) -> None:
    """/usr is left out: packages themselves may name a mirror that is Debian's own."""
    files = {path: data for path, data in kept_files(tree).items() if not path.startswith("/usr/")}
    words = host_words()
    assert [path for path, data in files.items() if any(word in data for word in words)] == []
    assert len(files) > 100


def test_no_secret_and_no_build_path_is_kept(tree: Path) -> None:
    files = kept_files(tree)
    assert not [path for path, data in files.items() if b"PRIVATE KEY" in data and path.startswith("/etc/")]
    assert not [path for path, data in files.items() if b"/var/tmp/rofs-" in data]


def test_the_tar_knows_nothing_of_where_the_packages_came_from(tree: Path, debs: list[Deb]) -> None:
    """Not even what is dropped: mmdebstrap has not seen the sources."""
    lines = {b"".join(line.split()) for line in (find_host_sources(SUITE) or b"").splitlines() if b"://" in line}
    said = b"".join(tree.read_bytes().split())
    assert lines and not [line for line in lines if line in said]
    lock = render_lock(
        Lock(profile="x", epoch=0, architectures={OWN.name: ArchLock(packages=tuple(p for p, _ in debs))})
    )
    assert not [word for word in host_words() if word in lock.encode()]
    name = platform.node().encode()
    files = {path: data for path, data in kept_files(tree).items() if not path.startswith("/usr/")}
    assert len(name) < 6 or not [path for path, data in files.items() if name in data]


def test_the_same_list_gives_the_same_tree(
    tree: Path, debs: list[Deb], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    before, cpus = os.umask(0o077), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        install_tree(SOURCE, OWN, debs, tmp_path / "again.tar", tmp_path / "log", EPOCH)
    finally:
        os.umask(before)
        os.sched_setaffinity(0, cpus)
    one, other = kept_members(tree), kept_members(tmp_path / "again.tar")
    assert {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)} == set()


def test_exactly_the_list_is_installed(tree: Path, debs: list[Deb]) -> None:
    installed = parse_status(read_facts(tree).text("/var/lib/dpkg/status") or b"")
    assert installed == {package.name: package.version for package, _ in debs}


def test_packages_and_what_was_left_out(tree: Path) -> None:
    packages = parse_status(read_facts(tree).text("/var/lib/dpkg/status") or b"")
    assert {"openssh-server", "base-files", "usr-is-merged"} <= packages.keys() and "perl" not in packages
    paths = kept_files(tree).keys()
    assert "/usr/share/doc/openssh-client/copyright" in paths
    assert not [p for p in paths if p.startswith(("/usr/share/man/", "/usr/share/info/")) and p.endswith(".gz")]
    assert not [p for p in paths if p.startswith("/usr/share/locale/") and p.endswith(".mo")]


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_a_kernel_with_its_modules(arch: Arch, tmp_path: Path) -> None:
    log = tmp_path / "log"
    boot = fetch_boot(arch.default_kernel, arch, SUITE, tmp_path / "boot", log, EPOCH)
    top = f"lib/modules/{boot.release}"
    with tarfile.open(boot.modules_tar) as tar:
        names = set(tar.getnames())
        index, builtin = (
            (tar.extractfile(f"{top}/{name}") or pytest.fail(name)).read().decode()
            for name in ("modules.dep", "modules.builtin")
        )
    wanted = ["virtio_blk", "virtio_pci", "squashfs", "overlay", "virtio_console"]
    files = module_closure(index, wanted, builtin=builtin)
    assert {f"{top}/{path}" for path in files} <= names and files
    machine = {"amd64": 62, "arm64": 183, "i386": 3, "armhf": 40}[arch.name]  # e_machine, elf(5)
    assert int.from_bytes(boot.busybox.read_bytes()[18:20], "little") == machine
    assert boot.config is not None and "CONFIG_SQUASHFS=" in boot.config.read_text()


def test_an_unknown_kernel_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownPackage, match=f"linux-image-rofs-none-{OWN.kernel_suffix}"):
        fetch_boot("linux-image-rofs-none", OWN, SUITE, tmp_path / "b", tmp_path / "log", EPOCH)
