# SPDX-License-Identifier: MIT
"""The init script, static busybox and the kernel modules -> the initrd: two archives, one after the other.

The first is large and the same from one build to the next, so it is compressed once; the second is the script. The
kernel unpacks both (see `cpio`).
"""

from __future__ import annotations

import hashlib
import io
import stat
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from rofs.errors import ImageError
from rofs.image.cpio import CpioEntry, compress, write_newc
from rofs.image.modules import ModuleFiles, module_closure
from rofs.kernelfacts import KernelFacts, has, plain_module, unpack_module
from rofs.store import Cache

ALWAYS = ("squashfs",)
IF_THERE = (
    "crc32c_generic",
    # what verification needs, and kernelfacts.unverifiable misses
    "pci_host_generic",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    # ways to a root disk that real machines have
    "nvme",
    "ahci",
    "sd_mod",
    "usb_storage",
    "xhci_pci",
    "mmc_block",
    "sdhci_pci",
)
"""A kernel without one of them is fine."""
OPTIONS = {"squashfs": "CONFIG_SQUASHFS", "overlay": "CONFIG_OVERLAY_FS", "ext4": "CONFIG_EXT4_FS"}
"""Of the modules that rofs itself asks for: a kernel may have no modules and say so by its configuration alone."""
MODULES = PurePosixPath("/lib/modules")
FIRMWARE = PurePosixPath("/lib/firmware")


def choose_modules(modules: ModuleFiles, wanted: Sequence[str], facts: KernelFacts) -> list[str]:
    """Paths below lib/modules/RELEASE, dependencies first, of everything that `facts` has as a module.

    ImageError names what the kernel is known to lack; what nobody can tell is taken to be built in.
    """
    names = [*ALWAYS, *wanted]
    doubtful = [n for n in names if has(facts, OPTIONS.get(n, ""), n) is False]  # unless it is an alias
    dep, softdep, alias = (modules.index(name) for name in ("dep", "softdep", "alias"))
    return module_closure(dep, doubtful, optional=[*names, *IF_THERE], softdep=softdep, alias=alias)


def module_paths(chosen: Iterable[str]) -> list[PurePosixPath]:
    """Where the initrd keeps them: flat, uncompressed, named as insmod is told."""
    return [MODULES / _plain_name(name) for name in chosen]


def _plain_name(path: str) -> str:
    return plain_module(PurePosixPath(path).name)


def write_initrd(
    out: Path,
    *,
    script: str,
    applets: Sequence[str],
    busybox: Path,
    modules: ModuleFiles,
    chosen: Sequence[str],
    firmware: Mapping[str, bytes] | None = None,
    cache: Cache | None = None,
) -> None:
    """Write `out`, gzip-compressed, with the same bytes each time. `firmware` is by name, for /lib/firmware.

    With a `cache` what was compressed before is taken from it.
    """
    init = CpioEntry(
        path=PurePosixPath("init"), mode=stat.S_IFREG | 0o755, content=script.encode("utf-8", "surrogateescape")
    )
    entries = [
        CpioEntry(path=PurePosixPath("bin/busybox"), mode=stat.S_IFREG | 0o755, content=busybox.read_bytes()),
        *(CpioEntry(path=PurePosixPath("bin", name), mode=stat.S_IFLNK | 0o777, target="busybox") for name in applets),
        *(_file(FIRMWARE / name, content) for name, content in (firmware or {}).items()),
        # The kernel opens it for PID 1 before anything is mounted.
        CpioEntry(path=PurePosixPath("dev/console"), mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
    ]
    for name in chosen:
        content = modules.read(name)
        if content is None:
            raise ImageError(f"the kernel {modules.release} has no file {name}, which its modules.dep names")
        entries.append(_file(MODULES / _plain_name(name), unpack_module(name, content)))
    out.write_bytes(_packed_once(_archive(entries), cache) + compress(_archive([init])))


def _archive(entries: Iterable[CpioEntry]) -> bytes:
    out = io.BytesIO()
    write_newc(entries, out)
    return out.getvalue()


def _packed_once(archive: bytes, cache: Cache | None) -> bytes:
    if cache is None:
        return compress(archive)
    key = hashlib.sha256(f"gzip by zlib {zlib.ZLIB_RUNTIME_VERSION}\n".encode() + archive)
    return cache.content("initrd", key.hexdigest(), lambda: compress(archive))


def _file(path: PurePosixPath, content: bytes) -> CpioEntry:
    return CpioEntry(path=path, mode=stat.S_IFREG | 0o644, content=content)
