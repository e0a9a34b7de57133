# SPDX-License-Identifier: MIT
"""rofs.verify.faults: e2fsprogs and libblkid say what became of the disk; that kernels agree is seen in boots."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from rofs.image.filesystem import make_filesystem
from rofs.image.manifest import hash_file
from rofs.machine.qemu import Disk
from rofs.verify.faults import FAULTS, break_disk

pytestmark = pytest.mark.needs("mkfs.ext4", "e2fsck", "debugfs", "blkid", "swaplabel")

MIB = 1024 * 1024
LABEL = "sixteen-bytes-ab"


def tool(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


def tags(image: Path) -> dict[str, str]:
    """What libblkid finds, which trusts no superblock with a wrong checksum."""
    lines = tool("blkid", "-p", "-o", "export", image).stdout.splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines) if key != "DEVNAME"}


@pytest.fixture(params=[16 * MIB, 700 * MIB], ids=["one group", "many groups"])
def good(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "state.img"
    make_filesystem(path, device=f"LABEL={LABEL}", size_bytes=request.param, seed="x/amd64/state", epoch=1704067200)
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_the_good_one_stays_and_the_copy_has_its_size(fault: str, good: Path, tmp_path: Path) -> None:
    before, out = hash_file(good), tmp_path / "broken.img"
    disk = break_disk(fault, good, out, tmp_path / "log")
    assert hash_file(good) == before
    if fault in {"missing", "read-only"}:
        assert not out.exists()
    else:
        assert disk == Disk(path=out, format="raw")
        assert out.stat().st_size == good.stat().st_size
        assert out.stat().st_blocks <= good.stat().st_blocks + 64


def test_a_missing_disk_is_none_and_a_read_only_one_itself(good: Path, tmp_path: Path) -> None:
    assert break_disk("missing", good, tmp_path / "out") is None
    assert break_disk("read-only", good, tmp_path / "out") == Disk(path=good, format="raw", read_only=True)


def test_a_corrupt_one_is_found_by_its_name_and_of_no_use(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    break_disk("corrupt", good, out)
    assert tags(out) == tags(good)
    assert tool("e2fsck", "-f", "-n", out).returncode & 4
    assert not tool("debugfs", "-R", "ls", out).stdout


def test_a_corrupt_one_is_refused_with_checksums_or_without(good: Path, tmp_path: Path) -> None:
    """Linux refuses an ext4 that is larger than its disk, and descriptors that point nowhere."""
    out = tmp_path / "out"
    break_disk("corrupt", good, out)
    with out.open("rb") as file:
        superblock, descriptors = file.read(4096)[1024:2048], file.read(64)
    assert int.from_bytes(superblock[4:8], "little") * 4096 > out.stat().st_size
    assert int.from_bytes(descriptors[8:12], "little") * 4096 > out.stat().st_size  # where the inodes are


def test_a_foreign_one_is_found_by_its_name_and_a_swap_area(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    break_disk("foreign", good, out)
    found, before = tags(out), tags(good)
    assert found["TYPE"] == "swap"
    assert (found["LABEL"], found["UUID"]) == (LABEL, before["UUID"]) == (before["LABEL"], before["UUID"])
    assert tool("swaplabel", out).stdout.split() == ["LABEL:", LABEL, "UUID:", before["UUID"]]


def test_a_full_one_is_sound_and_has_inodes_alone(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    break_disk("full", good, out)
    assert tags(out) == tags(good)
    assert tool("e2fsck", "-f", "-n", out).returncode == 0
    stats = tool("debugfs", "-R", "stats -h", out).stdout
    assert re.search(r"^Free blocks: +0$", stats, re.MULTILINE)
    assert re.search(r"^Free inodes: +[1-9]", stats, re.MULTILINE)
    names = tool("debugfs", "-R", "ls -p /", out).stdout.split()
    assert [name.split("/")[5] for name in names] == [".", "..", "lost+found"]


def test_a_full_one_takes_an_empty_file_and_no_byte(good: Path, tmp_path: Path) -> None:
    out, byte = tmp_path / "out", tmp_path / "byte"
    byte.write_bytes(b"x")
    break_disk("full", good, out)
    assert tool("debugfs", "-w", "-R", "write /dev/null empty", out).stderr.count("\n") == 1, "its version, no error"
    assert "Could not allocate block" in tool("debugfs", "-w", "-R", f"write {byte} byte", out).stderr
    assert "Could not allocate block" in tool("debugfs", "-w", "-R", "mkdir directory", out).stderr


def test_another_word_is_a_mistake(good: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        break_disk("stolen", good, tmp_path / "out")
