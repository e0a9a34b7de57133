# SPDX-License-Identifier: MIT
"""rofs.image.modules: what has to be loaded, and in which order; rofs.image.initrd: what of it goes along."""

from __future__ import annotations

import gzip
import io
import lzma
import subprocess
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import rofs.image.initrd
from rofs.errors import ImageError, SourceError
from rofs.image.cpio import compress
from rofs.image.initrd import choose_modules, module_paths, write_initrd
from rofs.image.modules import ModuleFiles, module_closure, parse_alias, parse_softdep, read_kernel
from rofs.kernelfacts import KernelFacts, module_name
from rofs.store import Cache

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


SOFTDEP = """\
# Soft dependencies extracted from modules themselves.
softdep overlay pre: virtio_blk crc32c missing post: sdhci-pci
softdep overlay pre: sdhci-pci
softdep virtio post: overlay
softdep ring-a pre: ring_b
softdep ring_b pre: ring_a
softdep virtio_ring pre: virtio_blk
softdep nfsd gcm
"""
ALIAS = """\
# Aliases extracted from modules themselves.
alias crc32c-x86 other
alias crc32c slow
alias crc32c fast-one
alias pci:v*d* sdhci_pci
alias fs-over overlay
alias of:N*T*Cx,y-zC* overlay
"""
MORE = "k/slow.ko:\nk/fast-one.ko: k/base.ko\nk/base.ko:\nk/ring-a.ko:\nk/ring_b.ko:\n"


def test_soft_dependencies_and_aliases_are_read() -> None:
    assert parse_softdep(SOFTDEP) == {
        "overlay": ("virtio_blk", "crc32c", "missing", "sdhci-pci"),
        "ring_a": ("ring_b",),
        "ring_b": ("ring_a",),
        "virtio_ring": ("virtio_blk",),
    }
    assert parse_alias(ALIAS) == {
        "crc32c_x86": ("other",),
        "crc32c": ("slow", "fast-one"),
        "fs_over": ("overlay",),
    }


SOFT = [
    (["overlay"], ["virtio", "virtio_ring", "virtio_blk", "slow", "base", "fast_one", "sdhci_pci", "overlay"]),
    (["virtio"], ["virtio"]),
    (["ring_a"], ["ring_b", "ring_a"]),
    (["ring_b"], ["ring_a", "ring_b"]),
    # What cannot go first, since it needs the module itself, does not.
    (["virtio_blk"], ["virtio", "virtio_ring", "virtio_blk"]),
    (["virtio_ring"], ["virtio", "virtio_ring"]),
    (["crc32c"], ["slow", "base", "fast_one"]),
    (["fs-over", "slow"], ["virtio", "virtio_ring", "virtio_blk", "slow", "base", "fast_one", "sdhci_pci", "overlay"]),
]


@pytest.mark.parametrize(("names", "wanted"), SOFT)
def test_closure_with_soft_dependencies_and_aliases(names: list[str], wanted: list[str]) -> None:
    found = module_closure(DEP + MORE, names, softdep=SOFTDEP, alias=ALIAS)
    assert [module_name(path) for path in found] == wanted


def test_an_alias_of_nothing_is_unknown() -> None:
    with pytest.raises(ImageError, match=r"no module crc32c-x86$"):
        module_closure(DEP, ["crc32c-x86"], alias=ALIAS)


RELEASE = "6.6.1-board"
MODULE = b"\x7fELF module"
FILES = {
    "modules.dep": b"k/squashfs.ko.zst: k/zlib-x.ko.gz\nk/zlib-x.ko.gz:\nk/overlay.ko.xz:\nk/virtio_blk.ko:\n",
    "modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
    "k/squashfs.ko.zst": zstandard.compress(MODULE + b" 1"),
    "k/zlib-x.ko.gz": gzip.compress(MODULE + b" 2"),
    "k/overlay.ko.xz": lzma.compress(MODULE + b" 3"),
    "k/virtio_blk.ko": MODULE + b" 4",
}


def modules_tar(directory: Path, files: Mapping[str, bytes]) -> Path:
    out = directory / "modules.tar"
    with tarfile.open(out, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"lib/modules/{RELEASE}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out


def test_a_kernel_is_read(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("CONFIG_SQUASHFS=m\n")
    assert read_kernel(ModuleFiles(modules_tar(tmp_path, FILES), RELEASE), tmp_path / "config") == KernelFacts(
        release=RELEASE,
        config={"CONFIG_SQUASHFS": "m"},
        builtin=frozenset({"ext4"}),
        modules=frozenset({"squashfs", "zlib_x", "overlay", "virtio_blk"}),
    )
    assert read_kernel(ModuleFiles(modules_tar(tmp_path, {}), ""), None) == KernelFacts()


CHOSEN: list[tuple[list[str], list[str]]] = [
    ([], ["k/zlib-x.ko.gz", "k/squashfs.ko.zst", "k/virtio_blk.ko"]),
    (["overlay", "ext4"], ["k/zlib-x.ko.gz", "k/squashfs.ko.zst", "k/overlay.ko.xz", "k/virtio_blk.ko"]),
]


@pytest.mark.parametrize(("wanted", "paths"), CHOSEN)
def test_what_is_wanted_and_the_disks_of_verification_go_along(
    tmp_path: Path, wanted: list[str], paths: list[str]
) -> None:
    archive = ModuleFiles(modules_tar(tmp_path, FILES), RELEASE)
    assert choose_modules(archive, wanted, read_kernel(archive, None)) == paths


def test_virtio_is_not_demanded_but_squashfs_is(tmp_path: Path) -> None:
    dep = b"k/overlay.ko.xz:\n"
    archive = ModuleFiles(modules_tar(tmp_path, {**FILES, "modules.dep": dep}), RELEASE)
    with pytest.raises(ImageError, match=r"no module squashfs$"):
        choose_modules(archive, [], read_kernel(archive, None))
    archive = ModuleFiles(
        modules_tar(tmp_path, {**FILES, "modules.dep": dep, "modules.builtin": b"kernel/fs/squashfs.ko\n"}), RELEASE
    )
    assert choose_modules(archive, ["overlay"], read_kernel(archive, None)) == ["k/overlay.ko.xz"]


CONFIGS = [
    ({"CONFIG_SQUASHFS": "y", "CONFIG_OVERLAY_FS": "y"}, ""),
    ({"CONFIG_SQUASHFS": "y"}, "no module overlay$"),
    ({"CONFIG_SQUASHFS": "m", "CONFIG_OVERLAY_FS": "y"}, "no module squashfs$"),
    (None, ""),
]


@pytest.mark.parametrize(("config", "error"), CONFIGS)
def test_a_kernel_without_modules_says_by_its_configuration(
    tmp_path: Path, config: dict[str, str] | None, error: str
) -> None:
    """`mmc_block` is the board's own matter: no option of that name is known here."""
    archive, facts = ModuleFiles(modules_tar(tmp_path, {}), RELEASE), KernelFacts(config=config)
    if error:
        with pytest.raises(ImageError, match=error):
            choose_modules(archive, ["overlay", "mmc_block"], facts)
    else:
        assert choose_modules(archive, ["overlay", "mmc_block"], facts) == []


def initrd(
    directory: Path, files: Mapping[str, bytes], chosen: list[str], firmware: Mapping[str, bytes],
    script: str = "#!/bin/busybox sh\n", cache: Cache | None = None,
) -> Path:  # fmt: skip
    out, busybox = directory / "initrd.img", directory / "busybox"
    busybox.write_bytes(b"busybox")
    write_initrd(
        out, script=script, applets=["sh"], busybox=busybox, chosen=chosen,
        modules=ModuleFiles(modules_tar(directory, files), RELEASE), firmware=firmware, cache=cache,
    )  # fmt: skip
    return out


def archives(out: Path) -> list[bytes]:
    """What is compressed in an initrd, one after the other with nothing between."""
    data, found = out.read_bytes(), []
    while data:
        stream = zlib.decompressobj(wbits=31)
        found.append(stream.decompress(data))
        assert stream.eof
        data = stream.unused_data
    return found


@pytest.mark.needs("cpio")
def test_modules_are_plain_in_the_initrd_and_firmware_is_where_the_kernel_looks(tmp_path: Path) -> None:
    chosen = [name for name in FILES if name.startswith("k/")]
    out = initrd(tmp_path, FILES, chosen, {"brcm/fmac.bin": b"firmware", "one.fw": b"1"})
    tree = tmp_path / "tree"
    tree.mkdir()
    for plain in archives(out):
        wanted = ["init", "lib/*", "bin/*"]
        subprocess.run(["cpio", "-id", "--quiet", *wanted], input=plain, cwd=tree, check=True, timeout=60)
    found = {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file() and not p.is_symlink()}
    assert found == {
        "init": b"#!/bin/busybox sh\n",
        "bin/busybox": b"busybox",
        "lib/modules/squashfs.ko": MODULE + b" 1",
        "lib/modules/zlib-x.ko": MODULE + b" 2",
        "lib/modules/overlay.ko": MODULE + b" 3",
        "lib/modules/virtio_blk.ko": MODULE + b" 4",
        "lib/firmware/brcm/fmac.bin": b"firmware",
        "lib/firmware/one.fw": b"1",
    }
    assert module_paths(["k/squashfs.ko.zst"]) == [PurePosixPath("/lib/modules/squashfs.ko")]


def test_only_the_script_of_an_initrd_is_packed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are those of a build without a cache; another module, firmware or busybox is packed."""
    chosen, cache = ["k/overlay.ko.xz"], Cache(tmp_path / "cache")
    files = {name: content for name, content in FILES.items() if name in chosen}
    packed: list[int] = []

    def count(data: bytes) -> bytes:
        packed.append(len(data))
        return compress(data)

    monkeypatch.setattr(rofs.image.initrd, "compress", count)

    def build(script: str, cache: Cache | None, **firmware: bytes) -> tuple[bytes, int]:
        packed.clear()
        content = initrd(tmp_path, files, chosen, firmware, script, cache).read_bytes()
        return content, len(packed)

    alone, _ = build("one\n", None)
    assert build("one\n", cache) == (alone, 2)
    assert build("one\n", cache) == (alone, 1)
    assert build("two\n", cache) == (build("two\n", None)[0], 1)
    assert build("two\n", cache, fw=b"1")[1] == 2
    files[chosen[0]] = lzma.compress(MODULE + b" another")
    assert build("two\n", cache) == (build("two\n", None)[0], 2)


def test_a_module_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no file k/nope\.ko"):
        initrd(tmp_path, FILES, ["k/nope.ko"], {})
    with pytest.raises(SourceError, match=r"k/overlay\.ko\.xz cannot be unpacked"):
        initrd(tmp_path, {**FILES, "k/overlay.ko.xz": b"no"}, ["k/overlay.ko.xz"], {})
