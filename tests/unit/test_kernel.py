# SPDX-License-Identifier: MIT
"""rofs.sources.kernel: what is taken out of the packages, and the tar of the modules."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from rofs.errors import SourceError
from rofs.packages import Package
from rofs.sources.kernel import Boot, load_boot, make_boot, make_busybox, save_boot, write_modules_tar


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
    "depmod": 'echo "kernel/x.ko:" >"$2/lib/modules/$3/modules.dep"',
    "dpkg-deb": """
case "$2" in
*/kernel.deb)
    mkdir -p "$3/boot" "$3/LIB/6.1.0-1"
    echo k >"$3/boot/vmlinuz-6.1.0-1"; echo c >"$3/boot/config-6.1.0-1"; : >"$3/LIB/6.1.0-1/x.ko";;
*) mkdir -p "$3/bin"; echo b >"$3/bin/busybox";;
esac""",
}
KERNEL = Package(name="linux-image-6.1.0-1-cloud-arm64", version="6.1-1", architecture="arm64", size=1, sha256="a" * 64)
BUSYBOX = Package(name="busybox-static", version="1:1.35", architecture="arm64", size=1, sha256="b" * 64)


@pytest.fixture(params=["lib/modules", "usr/lib/modules"])
def fakes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Programs that act as dpkg-deb and depmod would, with modules where bookworm and trixie put them."""
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body.replace('LIB', request.param)}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def make(tmp_path: Path) -> Boot:
    debs = [(KERNEL, tmp_path / "kernel.deb"), (BUSYBOX, tmp_path / "busybox.deb")]
    return make_boot(debs, tmp_path / "out", tmp_path / "log", 1)


def test_what_boots_is_put_in_place(fakes: Path) -> None:
    boot = make(fakes)
    assert (boot.release, boot.package, boot.version, boot.busybox_version) == (
        "6.1.0-1", KERNEL.name, KERNEL.version, BUSYBOX.version,
    )  # fmt: skip
    assert boot.config is not None
    assert [p.read_text() for p in (boot.vmlinuz, boot.config, boot.busybox)] == ["k\n", "c\n", "b\n"]
    assert os.access(boot.busybox, os.X_OK)
    with tarfile.open(boot.modules_tar) as tar:
        assert f"lib/modules/{boot.release}/modules.dep" in tar.getnames()
    assert load_boot(fakes / "out") == boot
    names = {"vmlinuz", "config", "busybox", "modules.tar", "boot.json"}
    assert {p.name for p in (fakes / "out").iterdir()} == names


@pytest.mark.parametrize(("there", "gone"), [("busybox", "boot/*"), ("vmlinuz", "bin/busybox")])
def test_a_package_without_what_it_is_for_is_said(fakes: Path, there: str, gone: str) -> None:
    (fakes / "depmod").write_text(f'#!/bin/sh\nrm "$2"/{gone}\n')
    with pytest.raises(SourceError, match=r"package .* lacks") as caught:
        make(fakes)
    assert there not in str(caught.value).partition("lacks")[2]


def test_busybox_alone_for_a_kernel_of_ones_own(fakes: Path) -> None:
    out = fakes / "out"
    make_busybox([(BUSYBOX, fakes / "busybox.deb")], out, fakes / "log")
    assert {p.name: p.read_text() for p in out.iterdir()} == {"busybox": "b\n", "busybox.version": "1:1.35"}
    assert os.access(out / "busybox", os.X_OK)


def test_a_kernel_without_a_configuration_is_loaded_as_such(tmp_path: Path) -> None:
    boot = save_boot(tmp_path, release="", busybox_version="1")
    assert (boot.config, boot.release, boot.package, boot.busybox_version) == (None, "", "", "1")
    (tmp_path / "config").touch()
    assert load_boot(tmp_path).config == tmp_path / "config"
