# SPDX-License-Identifier: MIT
"""A kernel's image, configuration and index of modules -> what it lacks for a layout, before anything is built.

Unknown is not lacking: without a configuration nobody can say, and the boot will show. The options and
what they mean are those of the kernel's own Kconfig files.
"""

from __future__ import annotations

import lzma
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from rofs.errors import KeyPath, SourceError
from rofs.layout import Layout, Mount, Promise, persistent_stores
from rofs.machine.arch import Arch

KERNEL: KeyPath = ("kernel",)
ALWAYS = (
    ("CONFIG_BLK_DEV_INITRD", "the initrd"),
    ("CONFIG_RD_GZIP", "the initrd, which is packed by gzip"),
    ("CONFIG_BINFMT_SCRIPT", "the initrd, whose /init is a script"),
    ("CONFIG_DEVTMPFS", "the initrd, which finds its disks in /dev"),
    ("CONFIG_TMPFS", "the tmpfs on /run"),
)
"""They must be in the kernel itself: no module can be loaded before them."""
COMPRESSORS = {
    "zstd": "CONFIG_SQUASHFS_ZSTD",
    "xz": "CONFIG_SQUASHFS_XZ",
    "lz4": "CONFIG_SQUASHFS_LZ4",
    "gzip": "CONFIG_SQUASHFS_ZLIB",
}
DEVICES = (
    ("CONFIG_VIRTIO_PCI", "virtio_pci"),
    ("CONFIG_VIRTIO_BLK", "virtio_blk"),
    ("CONFIG_VIRTIO_CONSOLE", "virtio_console"),
)
"""What machine/qemu.py gives every guest."""
MACHINES = {
    "ttyS": (("CONFIG_SERIAL_8250_CONSOLE", ""),),
    "ttyAMA": (("CONFIG_SERIAL_AMBA_PL011_CONSOLE", ""), ("CONFIG_PCI_HOST_GENERIC", "pci_host_generic")),
}
"""And what the machines have that can be told by their console."""
MAX_UNPACKED_BYTES = 512 << 20
_PACKED = (b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """What is known of a kernel. `config` None: nobody gave it; `builtin` empty: it has no modules.builtin.

    The names in `builtin` and `modules` are the kernel's, with `_` for `-`.
    """

    release: str = ""
    config: Mapping[str, str] | None = None
    builtin: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Need:
    """An option of the kernel, the module it may be instead ("": none), who needs it, and the key that says so."""

    option: str
    module: str
    why: str
    at: KeyPath

    def __str__(self) -> str:
        module = f" or the module {self.module}" if self.module else ""
        return f"the kernel has no {self.option}{module}, needed by {self.why}"


def module_name(path: str) -> str:
    """ "kernel/fs/overlayfs/overlay.ko.xz" -> "overlay"; the kernel takes `-` and `_` for the same."""
    return PurePosixPath(path).name.partition(".")[0].replace("-", "_")


def has(facts: KernelFacts, option: str, module: str = "") -> bool | None:
    """Whether the kernel can do it, by itself or by a module that is there; None if nobody can say.

    `option` may be "" where only the module's name is known.
    """
    if module and module_name(module) in facts.modules | facts.builtin:
        return True
    if option and facts.config is not None:
        return facts.config.get(option) == "y"  # "m", and the module is not there: it does not help
    return False if module and facts.builtin else None


def needs(layout: Layout) -> Iterator[Need]:
    """Everything that a layout asks of a kernel, each option once."""
    yield from (Need(option, "", why, KERNEL) for option, why in ALWAYS)
    compression = layout.profile.image.compression
    yield Need("CONFIG_SQUASHFS", "squashfs", "the root file system", ("image", "format"))
    yield Need(COMPRESSORS[compression], "", f"a squashfs packed by {compression}", ("image", "compression"))
    overlays = [m for m in layout.mounts if m.type == "overlay"]
    for mount in overlays[:1]:
        yield Need("CONFIG_OVERLAY_FS", "overlay", f"the overlay on {mount.where}", mount.at)
    for mount in [m for m in overlays if _upper_on_tmpfs(m, layout)][:1]:
        yield Need("CONFIG_TMPFS_XATTR", "", f"the overlay on {mount.where}, whose upper is on tmpfs", mount.at)
    stores = {store.fstype: store for store in reversed(persistent_stores(layout.profile))}
    for fstype, store in sorted(stores.items()):
        yield Need(f"CONFIG_{fstype.upper()}_FS", fstype, f"the {fstype} of {store.name}", store.at)


def _upper_on_tmpfs(mount: Mount, layout: Layout) -> bool:
    """Also where a tmpfs stands in for state that fails."""
    state = layout.profile.state
    stand_in = state is not None and state.on_failure == "volatile"
    return mount.promise is Promise.OVERLAY_TMPFS or stand_in


def lacking(facts: KernelFacts, layout: Layout) -> list[Need]:
    """What the kernel is known not to have."""
    return [need for need in needs(layout) if has(facts, need.option, need.module) is False]


def unverifiable(facts: KernelFacts, arch: Arch) -> str:
    """Why this kernel cannot boot in the architecture's QEMU machine; "" if nothing speaks against it."""
    wanted = (*DEVICES, *MACHINES.get(arch.console.rstrip("0123456789"), ()))
    missing = [option for option, module in wanted if has(facts, option, module) is False]
    return f"the kernel has no {', '.join(missing)}, and QEMU's machine has nothing else" if missing else ""


def parse_config(text: str) -> dict[str, str]:
    """Lines of a .config -> {"CONFIG_X": "y"}; what is not set is not in it, a string has no quotes."""
    found = re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE)
    return {option: value.strip().strip('"') for option, value in found}


def find_ikconfig(image: bytes) -> bytes | None:
    """The text of the configuration that CONFIG_IKCONFIG puts into a kernel's image, packed or not."""
    for data in _unpacked_images(image):
        for found in re.finditer(b"IKCFG_ST", data):
            packed = data[found.end() : data.find(b"IKCFG_ED", found.end())]
            if text := unpack(packed):
                return text
    return None


def find_release(image: bytes) -> str:
    """What `uname -r` will say, by a kernel's image; "" where it cannot be read."""
    if image[0x202:0x206] == b"HdrS":  # Documentation/arch/x86/boot.rst: kernel_version
        start = 0x200 + int.from_bytes(image[0x20E:0x210], "little")
        return image[start : start + 200].split(b" ")[0].decode("ascii", "replace")
    for data in _unpacked_images(image):
        if found := re.search(rb"Linux version ([\w.+~-]+) \(", data):
            return found[1].decode("ascii")
    return ""


def _unpacked_images(image: bytes) -> Iterator[bytes]:
    """The image as it is, then everything in it that unpacks: a bzImage, zImage or Image.gz has the kernel inside."""
    yield image
    for found in re.finditer(b"|".join(map(re.escape, _PACKED)), image):
        if data := unpack(image[found.start() :]):
            yield data


def unpack(data: bytes) -> bytes:
    """What a stream at the head of `data` holds, whatever follows it; b"" where it is none."""
    import zstandard

    try:
        if data.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(wbits=31).decompress(data, MAX_UNPACKED_BYTES)
        if data.startswith(b"\xfd7zXZ"):
            return lzma.LZMADecompressor().decompress(data, MAX_UNPACKED_BYTES)
        return zstandard.ZstdDecompressor().stream_reader(data).read(MAX_UNPACKED_BYTES)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError):
        return b""


def is_packed_module(name: str) -> bool:
    """Whether a file's name is that of a module that the kernel alone could not take."""
    return name.endswith((".ko.gz", ".ko.xz", ".ko.zst"))


def plain_module(name: str) -> str:
    """ "overlay.ko.xz" -> "overlay.ko"."""
    return name.rpartition(".")[0] if is_packed_module(name) else name


def unpack_module(name: str, content: bytes) -> bytes:
    """The module itself, which is what insmod hands the kernel. Raises SourceError for a broken one."""
    import zstandard

    if not is_packed_module(name):
        return content
    try:
        plain = b"".join(_streams(name, content))
    except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise SourceError(f"the module {name} cannot be unpacked: {error}") from error
    if not plain:
        raise SourceError(f"the module {name} cannot be unpacked: it is empty")
    return plain


def _streams(name: str, content: bytes) -> Iterator[bytes]:
    """What each of the streams in a file holds, all of them whole."""
    import zstandard

    while content:
        if name.endswith(".zst"):
            zst = zstandard.ZstdDecompressor().decompressobj()
            yield zst.decompress(content)
            whole, content = zst.eof, zst.unused_data
        else:
            stream = lzma.LZMADecompressor() if name.endswith(".xz") else zlib.decompressobj(wbits=31)
            yield stream.decompress(content)
            whole, content = stream.eof, stream.unused_data
        if not whole:
            raise EOFError("it ends too early")
