# SPDX-License-Identifier: MIT
"""A build after a small change: nothing is made twice, no program runs, and the bytes are those of a first build."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from tarmaker import file, folder, symlink, write_tar

import rofs.run
from rofs import build, fetch
from rofs.build import Options
from rofs.image import libsquashfs
from rofs.packages import Package
from rofs.progress import make_progress
from rofs.sources.debs import DebStore
from rofs.sources.kernel import save_boot
from rofs.tarindex import index_path

PROFILE = """\
schema: rofs/v1
name: p
architectures: [arm64]
init: other
source: {debian: {packages: [busybox-static]}}
kernel: {install_modules: false}
files:
  - {path: /etc/motd, content: "one"}
mounts:
  - {path: /tmp, type: tmpfs, size: 4M}
image: {compression: xz}
"""
CHANGES = {
    "mount": ("size: 4M", "size: 5M"),
    "file": ('content: "one"', 'content: "two"'),
    "name": ("name: p\n", "name: p\nhostname: other\n"),
}
TREE = (
    folder("etc"),
    folder("tmp", 0o1777),
    file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
    file("etc/group", b"root:x:0:\n"),
    folder("sbin"),
    folder("bin"),
    file("bin/busybox", b"\x7fELF\x02\x01" + bytes(12) + b"\xb7\x00" + bytes(range(256)) * 900, mode=0o755),
    symlink("sbin/init", "../bin/busybox"),
    symlink("bin/sh", "busybox"),
    *(folder(name) for name in ("dev", "proc", "sys", "run", "root")),
)


class Workshop:
    """Builds with packages that are there, of which only the making is pretended."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top, self.profile, self.made, self._env = top, top / "p.yaml", list[str](), monkeypatch
        self.profile.write_text(PROFILE)
        package = Package(name="busybox-static", version="1", architecture="arm64", size=1, sha256="0" * 64)
        for name in ("open_apt", "resolve_tree", "resolve_kernel", "resolve_busybox"):
            monkeypatch.setattr(fetch, name, lambda *_, **__: package)
        monkeypatch.setattr(fetch, "resolve_tree", lambda *_: (package,))
        monkeypatch.setattr(fetch, "find_host_sources", lambda _: b"")
        monkeypatch.setattr(DebStore, "missing", lambda *_: [])
        monkeypatch.setattr(fetch, "install_tree", self.install_tree)
        monkeypatch.setattr(fetch, "make_boot", self.make_boot)

    def install_tree(self, source: Any, arch: Any, debs: Any, out: Path, *_: Any) -> None:
        self.made.append("tree")
        write_tar(out, *TREE)

    def make_boot(self, debs: Any, out: Path, *_: Any) -> Any:
        self.made.append("kernel")
        for name in ("vmlinuz", "busybox"):
            (out / name).write_bytes(name.encode() * 1000)
        top = "lib/modules/6.1"
        write_tar(
            out / "modules.tar",
            file(f"{top}/modules.dep", b"k/squashfs.ko:\n"),
            file(f"{top}/modules.builtin", b"kernel/fs/ext4/ext4.ko\n"),
            file(f"{top}/k/squashfs.ko", bytes(range(256)) * 40),
        )
        return save_boot(out, release="6.1", package="linux-image", version="1", busybox_version="1")

    def build(self, cache: str, output: str) -> dict[str, bytes]:
        self._env.setenv("ROFS_CACHE_DIR", str(self.top / cache))
        options = Options(output=self.top / output, verify=False)
        (built,) = build.build(self.profile, options, make_progress(io.StringIO(), "quiet"))
        found = (path for path in built.directory.rglob("*") if path.is_file() and path.parent.name != "logs")
        return {str(path.relative_to(built.directory)): path.read_bytes() for path in found}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    assert libsquashfs.find_library("xz")[0] is not None, "libsquashfs is not here (apt-get install libsquashfs1)"
    return Workshop(tmp_path, monkeypatch)


def refuse(*about: Any) -> int:
    raise AssertionError(f"a program is started: {about[2]}")


@pytest.mark.parametrize("change", CHANGES)
def test_a_rebuild_starts_no_program_and_gives_the_bytes_of_a_first_build(
    shop: Workshop, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shop.build("warm", "images")
    assert sorted(shop.made) == ["kernel", "tree"]
    shop.profile.write_text(PROFILE.replace(*CHANGES[change]))
    monkeypatch.setattr(rofs.run, "_execute", refuse)
    after = shop.build("warm", "images")
    assert sorted(shop.made) == ["kernel", "tree"], "made again"
    assert after["rootfs.squashfs"] != before["rootfs.squashfs"]
    assert after == shop.build("cold", "other"), "a first build gives other bytes"


def test_the_list_of_a_tree_makes_no_difference(shop: Workshop) -> None:
    listed = shop.build("warm", "images")
    (tar,) = (shop.top / "warm" / "tree").glob("*/1/tree.tar")
    index_path(tar).unlink()
    for kept in ("initrd", "sbom", "blocks"):
        shutil.rmtree(shop.top / "warm" / kept)
    assert shop.build("warm", "images") == listed


@pytest.mark.parametrize("lost", ["initrd", "sbom"])
def test_a_cache_that_takes_nothing_costs_only_time(shop: Workshop, lost: str) -> None:
    before = shop.build("warm", "images")
    shutil.rmtree(shop.top / "warm" / lost)
    (shop.top / "warm" / lost).touch()
    assert shop.build("warm", "images") == before
