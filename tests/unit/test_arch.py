# SPDX-License-Identifier: MIT
"""rofs.machine.arch: complete rows, loadable without rofs."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from rofs.machine import arch
from rofs.machine.arch import ARCHES, host_arch


def test_the_rows_are_debians_names() -> None:
    assert [(name, row.name, row.uname, row.console) for name, row in ARCHES.items()] == [
        ("amd64", "amd64", "x86_64", "ttyS0"),
        ("arm64", "arm64", "aarch64", "ttyAMA0"),
        ("i386", "i386", "i686", "ttyS0"),
        ("armhf", "armhf", "armv7l", "ttyAMA0"),
    ]


@pytest.mark.parametrize("name", ARCHES)
def test_a_row_leaves_nothing_out(name: str) -> None:
    row = ARCHES[name]
    for field in row.__slots__:
        if field not in ("kvm_probe_args", "kvm_probe_status"):
            assert getattr(row, field), field
    assert row.zig_target.split("-")[1:] in (["linux", "musl"], ["linux", "musleabihf"])


@pytest.mark.parametrize("field", ["uname", "qemu", "qemu_user", "kernel_suffix", "default_kernel", "zig_target"])
def test_no_two_rows_share(field: str) -> None:
    assert len({getattr(row, field) for row in ARCHES.values()}) == len(ARCHES)


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("amd64", "linux-image-cloud-amd64"),
        ("arm64", "linux-image-cloud-arm64"),
        ("i386", "linux-image-686-pae"),  # Debian has no cloud kernel for 32 bits
        ("armhf", "linux-image-armmp"),
    ],
)
def test_the_default_kernel(name: str, default: str) -> None:
    row = ARCHES[name]
    assert row.default_kernel == default
    assert row.default_kernel.removesuffix(f"-{row.kernel_suffix}") in ("linux-image", "linux-image-cloud")


@pytest.mark.parametrize("name", ["amd64", "i386"])
def test_the_pc_probe_is_a_kernel_qemu_will_load(name: str) -> None:
    probe = ARCHES[name].kvm_probe
    assert probe[0x1FE:0x200] == b"\x55\xaa"
    assert probe[0x202:0x206] == b"HdrS"
    assert len(probe) == 3 * 512


def test_it_loads_by_path_alone(tmp_path: Path) -> None:
    """As the wheel's build hook loads it: not from a package, not in sys.modules."""
    copy = tmp_path / "alone.py"
    copy.write_bytes(Path(arch.__file__).read_bytes())
    spec = importlib.util.spec_from_file_location("alone", copy)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "alone" not in sys.modules
    assert module.ARCHES["arm64"].zig_target == "aarch64-linux-musl"


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("x86_64", "amd64"), ("aarch64", "arm64"), ("i686", "i386"), ("armv7l", "armhf"), ("sparc", None)],
)
def test_the_host(machine: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    host = os.uname_result(("Linux", "host", "6", "#1", machine))
    monkeypatch.setattr(os, "uname", lambda: host)
    assert host_arch() == expected
