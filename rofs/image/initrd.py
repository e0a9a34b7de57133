# SPDX-License-Identifier: MIT
"""The init script, static busybox and the kernel modules -> the initrd's archive."""

from __future__ import annotations

import io
import lzma
import stat
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from rofs.errors import ImageError
from rofs.image.cpio import CpioEntry, compress, write_newc
from rofs.image.modules import module_closure

ALWAYS = ("squashfs", "overlay", "virtio_pci", "virtio_blk", "virtio_console")
IF_THERE = (
    "crc32c_generic",
    "virtio_mmio",
    "nvme",
    "ahci",
    "sd_mod",
    "usb_storage",
    "xhci_pci",
    "mmc_block",
    "sdhci_pci",
)
"""Ways to a root disk that real machines have; a kernel flavour without one of them is fine."""
MODULES = PurePosixPath("/lib/modules")


def choose_modules(modules_tar: Path, release: str, wanted: Sequence[str]) -> list[str]:
    """Paths below usr/lib/modules/RELEASE, dependencies first. ImageError names what the kernel lacks."""
    with tarfile.open(modules_tar) as tar:
        dep, builtin = (_text(tar, release, name) for name in ("modules.dep", "modules.builtin"))
    return module_closure(dep, [*ALWAYS, *wanted], builtin=builtin, optional=IF_THERE)


def module_paths(chosen: Iterable[str]) -> list[PurePosixPath]:
    """Where the initrd keeps them: flat, uncompressed, named as insmod is told."""
    return [MODULES / _plain_name(name) for name in chosen]


def _plain_name(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(".xz")


def write_initrd(
    out: Path,
    *,
    script: str,
    applets: Sequence[str],
    busybox: Path,
    modules_tar: Path,
    release: str,
    chosen: Sequence[str],
) -> None:
    """Write `out`, gzip-compressed, with the same bytes each time."""
    entries = [
        CpioEntry(
            path=PurePosixPath("init"),
            mode=stat.S_IFREG | 0o755,
            content=script.encode("utf-8", "surrogateescape"),
        ),
        CpioEntry(path=PurePosixPath("bin/busybox"), mode=stat.S_IFREG | 0o755, content=busybox.read_bytes()),
        *(CpioEntry(path=PurePosixPath("bin", name), mode=stat.S_IFLNK | 0o777, target="busybox") for name in applets),
        # The kernel opens it for PID 1 before anything is mounted.
        CpioEntry(path=PurePosixPath("dev/console"), mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
    ]
    with tarfile.open(modules_tar) as tar:
        for name in chosen:
            content = _unpacked(name, _bytes(tar, release, name))
            entries.append(CpioEntry(path=MODULES / _plain_name(name), mode=stat.S_IFREG | 0o644, content=content))
    archive = io.BytesIO()
    write_newc(entries, archive)
    out.write_bytes(compress(archive.getvalue()))


def _unpacked(name: str, content: bytes) -> bytes:
    """insmod of busybox hands the kernel what it finds."""
    return lzma.decompress(content) if name.endswith(".xz") else content


def _bytes(tar: tarfile.TarFile, release: str, name: str) -> bytes:
    member = f"usr/lib/modules/{release}/{name}"
    try:
        file = tar.extractfile(member)
    except KeyError:
        file = None
    if file is None:
        raise ImageError(f"the kernel package has no {member}")
    return file.read()


def _text(tar: tarfile.TarFile, release: str, name: str) -> str:
    return _bytes(tar, release, name).decode()
