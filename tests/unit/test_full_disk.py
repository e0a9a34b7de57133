# SPDX-License-Identifier: MIT
"""Disks that are full, or may not be written: clear words, exit status 3, and the old image whole; or a good build."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import Watcher, read_image
from world import NEEDS, World, sha256

pytestmark = [pytest.mark.needs(*NEEDS, "root", "mount", "umount"), pytest.mark.slow]
IMAGE_KIB = 2300
"""About what an image takes; an update needs it twice."""
FULL = "No space left on device"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def mount() -> Iterator[Callable[..., Path]]:
    mounted: list[Path] = []

    def put(path: Path, *options: str) -> Path:
        path.mkdir(exist_ok=True)
        subprocess.run(["mount", *options, "-t", "tmpfs", "none", path], check=True)
        mounted.append(path)
        return path

    yield put
    for path in mounted:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("more_kib", [0, 16, 800, 2000, 2200, 2240, 2280, 2320])
def test_output_on_a_full_disk(world: World, mount: Callable[..., Path], more_kib: int) -> None:
    """With room for the old image and some more."""
    cache = world.root / "cache"
    assert world.build(world.profile(1), cache=cache).returncode == 0
    assert world.build(world.profile(2), output=world.root / "elsewhere", cache=cache).returncode == 0
    small = mount(world.root / "small", "-o", "size=16M")
    assert world.build(world.profile(1), output=small, cache=cache).returncode == 0
    dest = small / "kills" / "amd64"
    used = sum(path.stat().st_blocks for path in small.rglob("*")) // 2
    subprocess.run(["mount", "-o", f"remount,size={used + more_kib}k", small], check=True)
    old = sha256(world.root / "kills-1.tar")
    with Watcher(dest) as watcher:
        done = world.build(world.profile(2), output=small, cache=cache)
    assert watcher.wrong == []
    new = sha256(world.root / "kills-2.tar")
    assert read_image(dest) == ((new if done.returncode == 0 else old), "")
    assert done.returncode in (0, 3) and "Traceback" not in done.stderr, done.stderr
    if done.returncode == 3:
        assert FULL in done.stderr, done.stderr
        assert str(small) in done.stderr, done.stderr
    assert world.left_over(small) == []
    subprocess.run(["mount", "-o", "remount,size=16M", small], check=True)
    assert world.build(world.profile(2), output=small, cache=cache).returncode == 0
    assert [path.name for path in (small / "kills").iterdir()] == ["amd64"]


@pytest.mark.parametrize("size_kib", [8, 64, 1024, 4096, 9000])
def test_a_full_cache(world: World, mount: Callable[..., Path], size_kib: int) -> None:
    """Nothing half is kept: with more room the next build is right."""
    cache = mount(world.root / "small", "-o", f"size={size_kib}k")
    done = world.build(world.profile(1), cache=cache)
    assert done.returncode in (0, 3) and "Traceback" not in done.stderr, done.stderr
    if done.returncode == 3:
        assert FULL in done.stderr, done.stderr
        assert not (world.output / "kills" / "amd64").exists()
    assert world.left_over(world.output, cache) == []
    subprocess.run(["mount", "-o", "remount,size=64M", cache], check=True)
    assert world.build(world.profile(1), cache=cache).returncode == 0
    assert world.build(world.profile(1), cache=world.root / "other", output=world.root / "alone").returncode == 0
    assert sha256(world.output / SQUASHFS) == sha256(world.root / "alone" / SQUASHFS)


SQUASHFS = "kills/amd64/rootfs.squashfs"


def test_a_cache_that_may_only_be_read(world: World, mount: Callable[..., Path]) -> None:
    cache = mount(world.root / "small")
    assert world.build(world.profile(1), cache=cache).returncode == 0
    good = sha256(world.output / SQUASHFS)
    subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
    again = world.build(world.profile(1), output=world.root / "again", cache=cache)
    assert again.returncode == 0, again.stderr
    assert sha256(world.root / "again" / SQUASHFS) == good
    other = world.build(world.profile(2), cache=cache)
    assert other.returncode == 3 and "Traceback" not in other.stderr, other.stderr
    assert "Read-only file system" in other.stderr and sha256(world.output / SQUASHFS) == good
    assert world.left_over(world.output, cache) == []
