# SPDX-License-Identifier: MIT
"""rofs.image.modules: what has to be loaded, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rofs.errors import ImageError
from rofs.image.modules import module_closure, module_name

DEP = """\
kernel/fs/overlayfs/overlay.ko:
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/mmc/sdhci-pci.ko.xz:
"""
BUILTIN = "kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n"

CLOSURES = [
    (["overlay"], ["overlay"]),
    (["virtio_blk"], ["virtio", "virtio_ring", "virtio_blk"]),
    (["virtio-blk", "virtio_pci"], ["virtio", "virtio_ring", "virtio_blk", "virtio_pci"]),
    (["sdhci_pci", "sdhci-pci"], ["sdhci_pci"]),
    (["ext4", "crc32c-generic"], []),
    ([], []),
]


@pytest.mark.parametrize(("names", "wanted"), CLOSURES)
def test_closure(names: list[str], wanted: list[str]) -> None:
    assert [module_name(path) for path in module_closure(DEP, names, builtin=BUILTIN)] == wanted


def test_paths_are_those_of_the_index() -> None:
    assert module_closure(DEP, ["sdhci_pci"]) == ["kernel/drivers/mmc/sdhci-pci.ko.xz"]


def test_every_unknown_module_is_named() -> None:
    with pytest.raises(ImageError, match=r"no module nope, ext4$"):
        module_closure(DEP, ["nope", "overlay", "ext4", "nope"])


def test_optional_modules_may_be_missing() -> None:
    found = module_closure(DEP, ["overlay"], optional=["nope", "virtio"])
    assert [module_name(path) for path in found] == ["overlay", "virtio"]


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.permutations(range(n)))))
def test_what_is_needed_comes_first(case: tuple[int, list[int]]) -> None:
    """A chain m0 <- m1 <- ..., asked for in any order, as depmod lists it: nearest first."""
    count, order = case
    lines = [f"k/m{i}.ko: {' '.join(f'k/m{j}.ko' for j in range(i - 1, -1, -1))}" for i in range(count)]
    found = module_closure("\n".join(lines), [f"m{i}" for i in order])
    assert found == [f"k/m{i}.ko" for i in range(count)]
