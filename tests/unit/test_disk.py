# SPDX-License-Identifier: MIT
"""rofs.machine.disk: the overlay's words, and every kind of write seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from rofs.errors import ToolError
from rofs.machine.disk import Extent, allocated, make_overlay, overlay_argv, virtual_size
from rofs.run import run

CLUSTER_BYTES = 65536


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 512), (512, 512), (513, 1024), (4096, 4096)])
def test_a_disk_is_whole_sectors(size: int, expected: int) -> None:
    assert virtual_size(size) == expected


def test_the_words(tmp_path: Path) -> None:
    base = tmp_path / "root.squashfs"
    base.write_bytes(b"x" * 513)
    out = tmp_path / "root.qcow2"
    start = ["qemu-img", "create", "-q", "-f", "qcow2"]
    assert overlay_argv(base, out) == [*start, "-F", "raw", "-b", str(base), str(out), "1024"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.write_bytes(b"\x5a" * (3 * CLUSTER_BYTES + 100))
    return path


@pytest.mark.needs("qemu-img")
def test_an_untouched_overlay_holds_nothing(base: Path, tmp_path: Path) -> None:
    assert allocated(make_overlay(base, tmp_path / "o,verlay")) == []


@pytest.mark.needs("qemu-img", "qemu-io")
def test_a_disk_that_is_read_holds_nothing(base: Path, tmp_path: Path) -> None:
    overlay = make_overlay(base, tmp_path / "overlay")
    run(["qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 0 512", str(overlay)])
    assert allocated(overlay) == []


@pytest.mark.needs("qemu-img", "qemu-io")
@pytest.mark.parametrize(
    ("command", "cluster"),
    [
        ("write 0 512", 0),
        (f"write -P 0x5a {CLUSTER_BYTES} 512", 1),  # the very bytes of the base
        (f"write -z {2 * CLUSTER_BYTES} {CLUSTER_BYTES}", 2),
        (f"discard {CLUSTER_BYTES} {CLUSTER_BYTES}", 1),
        (f"write {3 * CLUSTER_BYTES} 512", 3),  # past the end of the base's bytes, partly
    ],
)
def test_a_write_is_seen_and_the_base_stays(command: str, cluster: int, base: Path, tmp_path: Path) -> None:
    before = base.read_bytes()
    overlay = make_overlay(base, tmp_path / "overlay")
    run(["qemu-io", "-f", "qcow2", "-c", command, str(overlay)])
    size = min(CLUSTER_BYTES, virtual_size(len(before)) - cluster * CLUSTER_BYTES)
    assert allocated(overlay) == [Extent(cluster * CLUSTER_BYTES, size)]
    assert base.read_bytes() == before


@pytest.mark.needs("qemu-img")
def test_a_disk_that_cannot_be_read_is_an_error_not_empty(tmp_path: Path) -> None:
    (tmp_path / "overlay").write_bytes(b"no qcow2")
    with pytest.raises(ToolError):
        allocated(tmp_path / "overlay")
