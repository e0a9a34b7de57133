# SPDX-License-Identifier: MIT
"""rofs.kernelfacts: what a kernel has, and what that means for a layout and for verification."""

from __future__ import annotations

import gzip
import lzma
import random
from collections.abc import Callable

import pytest
import zstandard
from layouts import HEAD, KEPT, PARTED, RICH, layout_of

from rofs.errors import KeyPath, SourceError
from rofs.kernelfacts import (
    KernelFacts,
    find_ikconfig,
    find_release,
    has,
    is_packed_module,
    lacking,
    module_name,
    needs,
    parse_config,
    plain_module,
    unpack,
    unpack_module,
    unverifiable,
)
from rofs.machine.arch import ARCHES

EVERY = frozenset(
    {
        "CONFIG_BLK_DEV_INITRD", "CONFIG_RD_GZIP", "CONFIG_BINFMT_SCRIPT", "CONFIG_DEVTMPFS", "CONFIG_TMPFS",
        "CONFIG_TMPFS_XATTR", "CONFIG_SQUASHFS", "CONFIG_SQUASHFS_ZSTD", "CONFIG_SQUASHFS_XZ", "CONFIG_SQUASHFS_LZ4",
        "CONFIG_SQUASHFS_ZLIB", "CONFIG_OVERLAY_FS", "CONFIG_EXT4_FS", "CONFIG_VIRTIO_PCI", "CONFIG_VIRTIO_BLK",
        "CONFIG_VIRTIO_CONSOLE", "CONFIG_SERIAL_8250_CONSOLE", "CONFIG_SERIAL_AMBA_PL011_CONSOLE",
        "CONFIG_PCI_HOST_GENERIC",
    }
)  # fmt: skip
UPPER_ON_STATE = """\
state: {on_failure: refuse}
mounts: [{path: /etc, type: overlay, upper: state}]
"""
NOTHING = "mounts: [{path: /tmp, type: tmpfs, size: 1M}]\n"


def built_in(options: frozenset[str]) -> KernelFacts:
    """A kernel without modules: its configuration says it all."""
    return KernelFacts(config=dict.fromkeys(options, "y"))


COMMON: dict[str, KeyPath] = {
    "CONFIG_BLK_DEV_INITRD": ("kernel",),
    "CONFIG_RD_GZIP": ("kernel",),
    "CONFIG_BINFMT_SCRIPT": ("kernel",),
    "CONFIG_DEVTMPFS": ("kernel",),
    "CONFIG_TMPFS": ("kernel",),
    "CONFIG_SQUASHFS": ("image", "format"),
}
COMPRESSION: KeyPath = ("image", "compression")
LACKING: list[tuple[str, dict[str, KeyPath]]] = [
    (NOTHING, {"CONFIG_SQUASHFS_ZSTD": COMPRESSION}),
    (NOTHING + "image: {compression: xz}\n", {"CONFIG_SQUASHFS_XZ": COMPRESSION}),
    (NOTHING + "image: {compression: lz4}\n", {"CONFIG_SQUASHFS_LZ4": COMPRESSION}),
    (NOTHING + "image: {compression: gzip}\n", {"CONFIG_SQUASHFS_ZLIB": COMPRESSION}),
    (
        RICH,
        {
            "CONFIG_SQUASHFS_ZSTD": COMPRESSION,
            "CONFIG_OVERLAY_FS": ("mounts", 0),
            "CONFIG_TMPFS_XATTR": ("mounts", 0),
        },
    ),
    (
        UPPER_ON_STATE,  # no tmpfs ever stands in for it
        {"CONFIG_SQUASHFS_ZSTD": COMPRESSION, "CONFIG_OVERLAY_FS": ("mounts", 0), "CONFIG_EXT4_FS": ("state",)},
    ),
    (
        UPPER_ON_STATE.replace("refuse", "volatile"),
        {
            "CONFIG_SQUASHFS_ZSTD": COMPRESSION,
            "CONFIG_OVERLAY_FS": ("mounts", 0),
            "CONFIG_TMPFS_XATTR": ("mounts", 0),
            "CONFIG_EXT4_FS": ("state",),
        },
    ),
    (
        "mounts: [{path: /var, type: partition, device: LABEL=v, on_failure: refuse}]\n",
        {"CONFIG_SQUASHFS_ZSTD": COMPRESSION, "CONFIG_EXT4_FS": ("mounts", 0)},
    ),
]


@pytest.mark.parametrize(("profile", "wanted"), LACKING)
def test_each_option_that_is_off_is_the_one_need_found(profile: str, wanted: dict[str, KeyPath]) -> None:
    layout, wanted = layout_of(profile), COMMON | wanted
    assert lacking(built_in(EVERY), layout) == []
    for option in EVERY:
        found = lacking(built_in(EVERY - {option}), layout)
        assert [(need.option, need.at) for need in found] == ([(option, wanted[option])] if option in wanted else [])


@pytest.mark.parametrize("profile", [RICH, KEPT, PARTED])
def test_every_need_is_named_once_at_a_key_of_the_profile(profile: str) -> None:
    layout = layout_of(profile)
    found = list(needs(layout))
    assert len({need.option for need in found}) == len(found)
    top = {line.partition(":")[0] for line in (HEAD + profile).splitlines()} | {"kernel", "image"}
    assert {need.at[0] for need in found} <= top


def test_a_need_says_what_to_switch_on_and_for_what() -> None:
    (need,) = lacking(built_in(EVERY - {"CONFIG_OVERLAY_FS"}), layout_of(RICH))
    assert str(need) == "the kernel has no CONFIG_OVERLAY_FS or the module overlay, needed by the overlay on /etc"
    (need,) = lacking(built_in(EVERY - {"CONFIG_RD_GZIP"}), layout_of(RICH))
    assert str(need) == "the kernel has no CONFIG_RD_GZIP, needed by the initrd, which is packed by gzip"


def test_nobody_knows_and_so_nothing_is_lacking() -> None:
    assert lacking(KernelFacts(), layout_of(RICH)) == []
    assert unverifiable(KernelFacts(), ARCHES["arm64"]) == ""


def test_an_index_of_modules_alone_tells_of_modules_and_of_nothing_else() -> None:
    """modules.builtin names what could have been a module, not an option that is yes or no."""
    facts = KernelFacts(builtin=frozenset({"ext4"}), modules=frozenset({"squashfs"}))
    assert [need.option for need in lacking(facts, layout_of(KEPT))] == ["CONFIG_OVERLAY_FS"]


HAS = [
    ({"CONFIG_X": "y"}, (), (), "x", True),
    ({"CONFIG_X": "m"}, ("x",), (), "x", True),
    ({"CONFIG_X": "m"}, ("other",), (), "x", False),
    ({"CONFIG_X": "m"}, (), (), "", False),
    ({}, (), (), "x", False),
    ({}, ("x",), (), "x", True),
    ({}, ("a_b",), (), "a-b", True),
    (None, ("x",), (), "x", True),
    (None, (), ("x",), "x", True),
    (None, (), ("other",), "x", False),
    (None, ("other",), (), "x", None),
    (None, (), ("other",), "", None),
    (None, (), (), "x", None),
]


@pytest.mark.parametrize(("config", "modules", "builtin", "module", "wanted"), HAS)
def test_whether_a_kernel_has_something(
    config: dict[str, str] | None, modules: tuple[str, ...], builtin: tuple[str, ...], module: str, wanted: bool | None
) -> None:
    facts = KernelFacts(config=config, builtin=frozenset(builtin), modules=frozenset(modules))
    assert has(facts, "CONFIG_X", module) is wanted


NEEDED_BY_QEMU = {
    "amd64": {"CONFIG_VIRTIO_PCI", "CONFIG_VIRTIO_BLK", "CONFIG_VIRTIO_CONSOLE", "CONFIG_SERIAL_8250_CONSOLE"},
    "arm64": {
        "CONFIG_VIRTIO_PCI",
        "CONFIG_VIRTIO_BLK",
        "CONFIG_VIRTIO_CONSOLE",
        "CONFIG_SERIAL_AMBA_PL011_CONSOLE",
        "CONFIG_PCI_HOST_GENERIC",
    },
}


@pytest.mark.parametrize("arch", NEEDED_BY_QEMU)
def test_what_verification_lacks_is_named(arch: str) -> None:
    assert unverifiable(built_in(EVERY), ARCHES[arch]) == ""
    for option in EVERY:
        reason = unverifiable(built_in(EVERY - {option}), ARCHES[arch])
        assert (f" {option}," in reason) == (option in NEEDED_BY_QEMU[arch]), reason
        assert bool(reason) == (option in NEEDED_BY_QEMU[arch])


def test_virtio_may_be_modules_but_the_console_may_not() -> None:
    virtio = frozenset({"virtio_pci", "virtio_blk", "virtio_console"})
    config = {"CONFIG_VIRTIO_PCI": "m", "CONFIG_VIRTIO_BLK": "m", "CONFIG_VIRTIO_CONSOLE": "m"}
    serial = {"CONFIG_SERIAL_8250_CONSOLE": "y"}
    assert unverifiable(KernelFacts(config=config | serial, modules=virtio), ARCHES["amd64"]) == ""
    assert "8250" in unverifiable(KernelFacts(config=config, modules=virtio), ARCHES["amd64"])
    assert "VIRTIO_BLK" in unverifiable(
        KernelFacts(config=config | serial, modules=virtio - {"virtio_blk"}), ARCHES["amd64"]
    )


def test_every_architecture_has_a_machine_we_know() -> None:
    for arch in ARCHES.values():
        assert "CONFIG_SERIAL" in unverifiable(built_in(frozenset()), arch)


CONFIG = """\
#
# Linux/arm64 6.1.0 Kernel Configuration
#
CONFIG_CC_VERSION_TEXT="gcc (Debian 12.2.0) 12.2.0"
CONFIG_SQUASHFS=m
# CONFIG_TMPFS_XATTR is not set
CONFIG_NR_CPUS=64
CONFIG_EMPTY=""
  CONFIG_INDENTED=y
"""


def test_configuration_is_read() -> None:
    assert parse_config(CONFIG.replace("\n", "\r\n")) == parse_config(CONFIG)
    assert parse_config(CONFIG) == {
        "CONFIG_CC_VERSION_TEXT": "gcc (Debian 12.2.0) 12.2.0",
        "CONFIG_SQUASHFS": "m",
        "CONFIG_NR_CPUS": "64",
        "CONFIG_EMPTY": "",
    }


BANNER = b"\0Linux version 6.6.31-v8+ (me@here) (gcc) #1 SMP\n\0"
EMBEDDED = b"code IKCFG_ST as text\0" + BANNER + b"IKCFG_ST" + gzip.compress(CONFIG.encode()) + b"IKCFG_ED more code"
NOISE = b"MZ\x1f\x8b\x08\xfd7zXZ\0\x28\xb5\x2f\xfd" + bytes(range(256)) * 8
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip inside": lambda data: NOISE + gzip.compress(data) + NOISE,
    "xz inside": lambda data: NOISE + lzma.compress(data) + b"\x11\x22\x33\x44",
    "zstd inside": lambda data: NOISE + zstandard.compress(data) + b"\x11\x22\x33\x44",
}


@pytest.mark.parametrize("how", PACKERS)
def test_configuration_and_release_are_found_in_an_image(how: str) -> None:
    image = PACKERS[how](EMBEDDED)
    assert find_ikconfig(image) == CONFIG.encode()
    assert find_release(image) == "6.6.31-v8+"


@pytest.mark.parametrize(
    "image", [b"", NOISE, b"IKCFG_ST", b"IKCFG_STIKCFG_ED", EMBEDDED[: EMBEDDED.index(b"\x1f\x8b")] + b"\x1f\x8b"]
)
def test_an_image_without_a_configuration(image: bytes) -> None:
    assert find_ikconfig(image) is None


def test_an_image_without_a_banner_has_no_release() -> None:
    assert find_release(NOISE + b"Linux version %s (%s) #1") == ""


def test_a_bzimage_says_its_release_in_its_header() -> None:
    """However it is packed: Debian's is lz4."""
    image = bytearray(0x4000)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x3000).to_bytes(2, "little")
    image[0x3200:] = b"6.1.0-56-cloud-amd64 (debian-kernel@lists) #1 SMP\0"
    assert find_release(bytes(image)) == "6.1.0-56-cloud-amd64"


MODULE = b"\x7fELF" + random.Random(1).randbytes(400_000)
"""More than one block of any packer, so that a part of it can be had."""
PACKED = {
    "x.ko": MODULE,
    "x.ko.gz": gzip.compress(MODULE),
    "x.ko.xz": lzma.compress(MODULE, check=lzma.CHECK_CRC32),
    "x.ko.zst": zstandard.compress(MODULE),
}


@pytest.mark.parametrize("name", PACKED)
def test_modules_are_unpacked(name: str) -> None:
    assert unpack_module(name, PACKED[name]) == MODULE
    assert (plain_module(name), is_packed_module(name)) == ("x.ko", name != "x.ko")


def test_a_stream_of_unknown_length_is_unpacked_too() -> None:
    """As `zstd <x.ko >x.ko.zst` makes it, and in two frames."""
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(MODULE)
    assert unpack_module("x.ko.zst", unsized + unsized) == MODULE * 2


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "no stream": lambda data: b"no" + data,
    "empty": lambda data: b"",
    "cut short": lambda data: data[:-5],
    "followed by rubbish": lambda data: data + b"rubbish",
}


@pytest.mark.parametrize("name", [name for name in PACKED if name != "x.ko"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_broken_module_is_named(name: str, harm: str) -> None:
    with pytest.raises(SourceError, match=rf"module k/{name} cannot be unpacked: ."):
        unpack_module(f"k/{name}", HARMS[harm](PACKED[name]))


def test_what_is_no_stream_unpacks_to_nothing() -> None:
    assert [unpack(data) for data in (b"", b"abc", b"\x1f\x8bno", b"\xfd7zXZno", b"\x28\xb5\x2f\xfdno")] == [b""] * 5


@pytest.mark.parametrize("path", ["kernel/fs/overlay-x.ko", "overlay_x.ko.zst", "overlay-x"])
def test_names_of_modules(path: str) -> None:
    assert module_name(path) == "overlay_x"
