# SPDX-License-Identifier: MIT
"""rofs.image.filesystem: the same bytes anywhere and at any time; e2fsprogs and libblkid judge what they are."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from rofs.image.filesystem import FEATURES, MIN_BYTES, make_filesystem

pytestmark = pytest.mark.needs("mkfs.ext4", "e2fsck", "dumpe2fs", "debugfs", "blkid")

MIB = 1024 * 1024
EPOCH = 1704067200
UUID = "8a3c8f4e-4c4b-5f1e-8d5e-0123456789ab"
NEWER_THAN_5_10 = {"orphan_file", "metadata_csum_seed", "large_dir", "casefold", "stable_inodes", "verity"}
"""Or never in mke2fs's defaults then; a 5.10 that is built without some of them would refuse the mount."""

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def call(name: str = "state.img", **changes: object) -> Path:
        values: dict[str, object] = {
            "device": "LABEL=state",
            "size_bytes": 64 * MIB,
            "seed": "gateway/amd64/state",
            "epoch": EPOCH,
        }
        make_filesystem(tmp_path / name, **(values | changes))  # type: ignore[arg-type]
        return tmp_path / name

    return call


def said(*argv: str | Path) -> str:
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    return subprocess.run(argv, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def superblock(image: Path) -> dict[str, str]:
    """dumpe2fs's words for it."""
    return dict(re.findall(r"^([A-Z].*?): +(.*)$", said("dumpe2fs", "-h", image), re.MULTILINE))


def tags(image: Path) -> dict[str, str]:
    """What libblkid finds."""
    return dict(line.split("=", 1) for line in said("blkid", "-p", "-o", "export", image).splitlines())


def test_it_is_an_empty_ext4_of_the_right_name(make: Make) -> None:
    image = make()
    found = tags(image)
    assert (found["TYPE"], found["LABEL"]) == ("ext4", "state")
    said("e2fsck", "-f", "-n", image)
    rows = said("debugfs", "-R", "ls -p /", image).split()
    assert rows == ["/2/040755/0/0/.//", "/2/040755/0/0/..//", "/11/040700/0/0/lost+found//"]


def test_a_uuid_is_taken_over_and_there_is_no_label(make: Make) -> None:
    found = tags(make(device=f"UUID={UUID}"))
    assert found["UUID"] == UUID
    assert "LABEL" not in found


def test_kernels_and_tools_of_old_can_read_it(make: Make) -> None:
    features = set(superblock(make())["Filesystem features"].split())
    assert features == set(FEATURES)
    assert not features & NEWER_THAN_5_10


def test_blocks_and_inodes(make: Make) -> None:
    block = superblock(make())
    assert block["Block size"] == "4096"
    assert block["Block count"] == str(64 * MIB // 4096)
    assert block["Reserved block count"] == str(64 * MIB // 4096 * 5 // 100)
    assert block["Inode count"] == str(64 * MIB // 4096)
    assert superblock(make(size_bytes=512 * MIB))["Inode count"] == str(512 * MIB // 16384)


def test_nothing_is_left_to_the_first_mount(make: Make) -> None:
    groups = said("dumpe2fs", make())
    assert "ITABLE_ZEROED" in groups
    assert "Journal features" in groups


@pytest.mark.parametrize("size_bytes", [MIB * 64, MIB * 64 + 513])
def test_the_size_is_exact_and_the_file_sparse(size_bytes: int, make: Make) -> None:
    status = make(size_bytes=size_bytes).stat()
    assert status.st_size == size_bytes
    assert status.st_blocks * 512 < size_bytes / 4


def test_another_run_gives_the_same_bytes(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In another second and time zone, with another umask, over another file."""
    first = make()
    began = int(first.stat().st_mtime)
    (tmp_path / "again.img").write_bytes(b"of another run" * 1000)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    before = os.umask(0o077)
    try:
        second = make("again.img")
        while int(second.stat().st_mtime) == began:
            second = make("again.img")
    finally:
        os.umask(before)
    assert sha256(first.read_bytes()).digest() == sha256(second.read_bytes()).digest()


def test_mke2fs_reads_a_configuration_that_says_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bin/mkfs.ext4"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\ncat "$MKE2FS_CONFIG" "$MKE2FS_CONFIG" >"{tmp_path}/read"\n')  # opened anew each time
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    make()
    assert (tmp_path / "read").read_text().split() == ["[fs_types]", "ext4", "=", "{", "features", "=", "none", "}"] * 2


@pytest.mark.parametrize("epoch", [0, 1, EPOCH])
def test_every_time_is_the_epoch(epoch: int, make: Make) -> None:
    image = make(epoch=epoch)
    block = superblock(image)
    times = {block[key] for key in ("Filesystem created", "Last write time", "Last checked")}
    inodes = "".join(said("debugfs", "-R", f"stat <{number}>", image) for number in (2, 7, 8, 11))
    times |= set(re.findall(r"^ *(?:a|m|c|cr)time: .* -- (.*)$", inodes, re.MULTILINE))
    expected = {0: "Thu Jan  1 00:00:01 1970", 1: "Thu Jan  1 00:00:01 1970", EPOCH: "Mon Jan  1 00:00:00 2024"}
    assert times == {expected[epoch]}


def test_seeds_make_the_difference(make: Make) -> None:
    one, other = superblock(make(seed="a/amd64/state")), superblock(make(seed="a/arm64/state"))
    for key in ("Filesystem UUID", "Directory Hash Seed"):
        assert one[key] != other[key]
    assert one["Filesystem UUID"] != one["Directory Hash Seed"]


@pytest.mark.parametrize("label", ["a", "sixteen-bytes-ab"])
def test_labels_that_fit(label: str, make: Make) -> None:
    assert tags(make(device=f"LABEL={label}"))["LABEL"] == label


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "LABEL=seventeen-bytes-a"},
        {"device": "LABEL=" + "ä" * 9},
        {"device": "LABEL="},
        {"device": "UUID=random"},
        {"device": "PARTLABEL=state"},
        {"device": "/dev/vdb"},
        {"size_bytes": MIN_BYTES - 1},
    ],
)
def test_what_ext4_cannot_be_is_refused(changes: dict[str, object], make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        make(**changes)
    assert not (tmp_path / "state.img").exists()


def test_the_smallest_has_a_journal(make: Make) -> None:
    assert "has_journal" in superblock(make(size_bytes=MIN_BYTES))["Filesystem features"]
