# SPDX-License-Identifier: MIT
"""rofs.sources.kernel: which package a kernel's name stands for, and the tar of its modules."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from rofs.errors import SourceError
from rofs.machine.arch import ARCHES
from rofs.sources.debian import UnknownPackage
from rofs.sources.kernel import Boot, fetch_boot, fetch_busybox, kernel_of, load_boot, save_boot, write_modules_tar

ABOUT = [
    ("Depends: linux-image-6.1.0-56-cloud-arm64 (= 6.1.192-2)\n", "linux-image-6.1.0-56-cloud-arm64"),
    ("Depends: linux-base, linux-image-6.12.1+deb13-arm64, x\n", "linux-image-6.12.1+deb13-arm64"),
    ("Depends: kmod, linux-base (>= 4.3~), initramfs-tools\n", "linux-image-own"),
    ("Version: 1\n", "linux-image-own"),
]


@pytest.mark.parametrize(("about", "wanted"), ABOUT)
def test_the_package_behind_a_name(about: str, wanted: str) -> None:
    assert kernel_of("linux-image-own", f"Package: linux-image-own\n{about}") == wanted


def module_tree(directory: Path) -> Path:
    (directory / "kernel/fs").mkdir(parents=True)
    (directory / "kernel/fs/overlay.ko").write_bytes(b"module")
    (directory / "modules.dep").write_text("kernel/fs/overlay.ko:\n")
    (directory / "build").symlink_to("/usr/src/linux-headers")
    (directory / "kernel").chmod(0o700)
    return directory


def test_modules_tar_is_sorted_roots_and_the_same_each_time(tmp_path: Path) -> None:
    tars: list[Path] = []
    for name in ("one", "two"):
        tree = module_tree(tmp_path / name)
        os.utime(tree / "modules.dep", (len(tars), len(tars)))
        tars.append(tmp_path / f"{name}.tar")
        write_modules_tar(tree, "6.1-x", tars[-1], epoch=1700000000)
    assert tars[0].read_bytes() == tars[1].read_bytes()
    with tarfile.open(tars[0]) as tar:
        members = tar.getmembers()
    top = "lib/modules/6.1-x"
    names = ["", "/kernel", "/kernel/fs", "/kernel/fs/overlay.ko", "/modules.dep"]
    assert [m.name for m in members] == [top + name for name in names]
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "", 1700000000)}
    assert [oct(m.mode) for m in members] == ["0o755", "0o755", "0o755", "0o644", "0o644"]


FAKES = {
    "apt-config": "true",
    "apt-get": 'case "$*" in *download*linux-image*busybox*) : >a.deb; : >b.deb;; *download*) : >b.deb;; esac',
    "apt-cache": """
case "$*" in *cloud*) echo "Depends: linux-image-6.1.0-1-cloud-arm64 (= 6.1)";; *) exit 100;; esac""",
    "depmod": 'echo "kernel/x.ko:" >"$2/lib/modules/$3/modules.dep"',
    "dpkg-deb": """
case "$1 $3 $2" in
--show*a.deb*) printf 'linux-image-6.1.0-1-cloud-arm64 6.1-1';;
--show*) printf 'busybox-static 1:1.35';;
--extract*a.deb)
    mkdir -p "$3/boot" "$3/LIB/6.1.0-1"
    echo k >"$3/boot/vmlinuz-6.1.0-1"; echo c >"$3/boot/config-6.1.0-1"; : >"$3/LIB/6.1.0-1/x.ko";;
*) mkdir -p "$3/bin"; echo b >"$3/bin/busybox";;
esac""",
}


@pytest.fixture(params=["lib/modules", "usr/lib/modules"])
def fakes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Programs that act as apt and dpkg-deb would, with modules where bookworm and trixie put them."""
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body.replace('LIB', request.param)}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def fetch(tmp_path: Path, package: str) -> Boot:
    out = tmp_path / "out"
    return fetch_boot(package, ARCHES["arm64"], "bookworm", b"Types: deb\n", out, tmp_path / "log", 1)


def test_what_boots_is_put_in_place(fakes: Path) -> None:
    boot = fetch(fakes, "linux-image-cloud")
    assert (boot.release, boot.package, boot.version) == (
        "6.1.0-1",
        "linux-image-6.1.0-1-cloud-arm64",
        "6.1-1",
    )
    assert boot.config is not None
    assert [p.read_text() for p in (boot.vmlinuz, boot.config, boot.busybox)] == ["k\n", "c\n", "b\n"]
    assert os.access(boot.busybox, os.X_OK)
    with tarfile.open(boot.modules_tar) as tar:
        assert f"lib/modules/{boot.release}/modules.dep" in tar.getnames()
    assert load_boot(fakes / "out") == boot
    names = {"vmlinuz", "config", "busybox", "modules.tar", "boot.json"}
    assert {p.name for p in (fakes / "out").iterdir()} == names


def test_an_unknown_kernel_is_an_unknown_package(fakes: Path) -> None:
    with pytest.raises(UnknownPackage) as caught:
        fetch(fakes, "linux-image-nope")
    assert caught.value.packages == ("linux-image-nope-arm64",)


def test_the_suffix_may_be_there_already(fakes: Path) -> None:
    assert fetch(fakes, "linux-image-cloud-arm64") == fetch(fakes, "linux-image-cloud")


@pytest.mark.parametrize(("there", "gone"), [("busybox", "boot/*"), ("vmlinuz", "bin/busybox")])
def test_a_package_without_what_it_is_for_is_said(fakes: Path, there: str, gone: str) -> None:
    (fakes / "depmod").write_text(f'#!/bin/sh\nrm "$2"/{gone}\n')
    with pytest.raises(SourceError, match=r"package .* lacks") as caught:
        fetch(fakes, "linux-image-cloud")
    assert there not in str(caught.value).partition("lacks")[2]


def test_busybox_alone_for_a_kernel_of_ones_own(fakes: Path) -> None:
    out = fakes / "out"
    fetch_busybox(ARCHES["armhf"], "bookworm", b"Types: deb\n", out, fakes / "log")
    assert {p.name: p.read_text() for p in out.iterdir()} == {"busybox": "b\n", "busybox.version": "1:1.35"}
    assert os.access(out / "busybox", os.X_OK)
    assert "linux-image" not in (fakes / "log").read_text()


def test_a_kernel_without_a_configuration_is_loaded_as_such(tmp_path: Path) -> None:
    boot = save_boot(tmp_path, release="", busybox_version="1")
    assert (boot.config, boot.release, boot.package, boot.busybox_version) == (None, "", "", "1")
    (tmp_path / "config").touch()
    assert load_boot(tmp_path).config == tmp_path / "config"
