# SPDX-License-Identifier: MIT
"""rofs.sources.board: an image, modules however packed and a configuration -> what a kernel package gives."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

import hatch_build
from rofs.errors import SourceError
from rofs.image.initrd import choose_modules
from rofs.image.modules import ModuleFiles, read_kernel
from rofs.machine.arch import ARCHES
from rofs.sources.board import check_image, prepare_board
from rofs.sources.kernel import Boot, load_boot

RELEASE = "6.6.1-board"
EPOCH = 1700000000
CONFIG = b"CONFIG_SQUASHFS=m\n# CONFIG_TMPFS_XATTR is not set\n"
SOURCES = {
    "zlib-x": """
__attribute__((section(".modinfo"), used)) static const char info[] = "vermagic=6.6.1-board SMP mod_unload";
__attribute__((section("__ksymtab_strings"), used)) static const char exported[] = "unzip";
void unzip(void) {}
""",
    "squashfs": """
__attribute__((section(".modinfo"), used)) static const char info[] = "license=GPL\\0vermagic=6.6.1-board SMP";
void unzip(void);
void start(void) { unzip(); }
""",
    "stray": """
__attribute__((section(".modinfo"), used)) static const char info[] = "vermagic=5.10.0-other SMP";
void stray(void) {}
""",
}


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Objects like the kernel's modules: squashfs needs what zlib-x exports; stray is of another kernel."""
    directory, found = tmp_path_factory.mktemp("modules"), {}
    for name, source in SOURCES.items():
        file, out = directory / f"{name}.c", directory / f"{name}.o"
        file.write_text(source)
        argv = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
        with hatch_build._zig_environment() as environment:
            subprocess.run([*argv, "-c", str(file), "-o", str(out)], env=environment, check=True, timeout=300)
        found[name] = out.read_bytes()
    return found


def arm64_image(banner: bytes = b"", config: bytes = b"") -> bytes:
    image = bytearray(4096)
    image[0x38:0x3C] = b"ARM\x64"
    image += b"\0Linux version " + banner + b" (me@here) #1\0" if banner else b""
    return bytes(image + (b"IKCFG_ST" + gzip.compress(config) + b"IKCFG_ED" if config else b""))


def x86_image(protocol: int, xloadflags: int) -> bytes:
    image = bytearray(4096)
    image[0x202:0x208] = b"HdrS" + protocol.to_bytes(2, "little")
    image[0x236] = xloadflags
    return bytes(image)


def zimage() -> bytes:
    image = bytearray(4096)
    image[0x24:0x28] = (0x016F2818).to_bytes(4, "little")
    return bytes(image)


IMAGES = [
    (arm64_image(), {"arm64"}),
    (gzip.compress(arm64_image(), mtime=0), {"arm64"}),
    (x86_image(0x20F, 0x7F), {"amd64"}),
    (x86_image(0x20F, 0x7E), {"i386"}),
    (x86_image(0x20B, 0), {"amd64", "i386"}),
    (zimage(), {"armhf"}),
    (b"\xd0\x0d\xfe\xed" + bytes(4096), set(ARCHES)),
]


@pytest.mark.parametrize(("image", "fits"), IMAGES)
def test_an_image_is_for_the_architecture_that_its_magic_tells(tmp_path: Path, image: bytes, fits: set[str]) -> None:
    file = tmp_path / "Image"
    file.write_bytes(image)
    for name in ARCHES:
        reason = check_image(file, name)
        assert (reason == "") == (name in fits)
        assert not reason or (reason.startswith(f"{file} is a kernel for ") and reason.endswith(f", not for {name}"))


def test_what_cannot_be_a_kernel(tmp_path: Path) -> None:
    file = tmp_path / "Image"
    assert "No such file" in check_image(file, "arm64")
    for content in (b"", b"short", gzip.compress(b"", mtime=0), b"\x1f\x8bno"):
        file.write_bytes(content)
        assert check_image(file, "arm64") == f"{file} is too small for a kernel"


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Boot]:
    """`prepare(image, modules, config)` with a busybox that was fetched before."""
    busybox = tmp_path / "busybox-dir"
    busybox.mkdir()
    (busybox / "busybox").write_bytes(b"busybox")
    (busybox / "busybox.version").write_text("1:1.35")

    def call(
        image: bytes = arm64_image(), modules: Path | None = None, config: bytes | None = None, name: str = "out"
    ) -> Boot:
        (tmp_path / "Image").write_bytes(image)
        if config is not None:
            (tmp_path / "given").write_bytes(config)
        given = None if config is None else tmp_path / "given"
        out = tmp_path / name
        log, arch = tmp_path / "log", ARCHES["arm64"]
        return prepare_board(tmp_path / "Image", modules, given, busybox, out, log, EPOCH, arch=arch)

    return call


def test_a_kernel_with_everything_in_it(prepare: Callable[..., Boot], tmp_path: Path) -> None:
    image = arm64_image(b"6.6.1-board", CONFIG)
    boot = prepare(image)
    assert boot.vmlinuz.read_bytes() == image
    assert boot.config is not None
    assert (boot.config.read_bytes(), boot.busybox.read_bytes()) == (CONFIG, b"busybox")
    assert (boot.release, boot.package, boot.version, boot.busybox_version) == (RELEASE, "", "", "1:1.35")
    with tarfile.open(boot.modules_tar) as tar:
        assert tar.getnames() == []
    assert load_boot(tmp_path / "out") == boot
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "vmlinuz", "modules.tar", "busybox", "config", "boot.json",
    }  # fmt: skip


def test_of_a_bare_image_nothing_is_known(prepare: Callable[..., Boot]) -> None:
    boot = prepare()
    assert (boot.config, boot.release) == (None, "")
    assert read_kernel(ModuleFiles(boot.modules_tar, boot.release), boot.config).config is None


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_configuration_that_is_given_wins(prepare: Callable[..., Boot], pack: Callable[[bytes], bytes]) -> None:
    boot = prepare(arm64_image(b"", b"CONFIG_OLD=y\n"), config=pack(CONFIG))
    assert boot.config is not None
    assert boot.config.read_bytes() == CONFIG


@pytest.mark.parametrize("wrong", [b"", b"# nothing\n", gzip.compress(b"text", mtime=0), b"\x1f\x8bno"])
def test_a_configuration_that_is_none_is_refused(prepare: Callable[..., Boot], wrong: bytes) -> None:
    with pytest.raises(SourceError, match="no kernel configuration"):
        prepare(config=wrong)


def files_of(modules: Mapping[str, bytes], pack: str = "") -> dict[str, bytes]:
    """A kernel's files as its build installs them: no index but what the build itself knows."""
    return {
        f"kernel/fs/squashfs.ko{pack}": PACKERS[pack](modules["squashfs"]),
        f"kernel/lib/zlib-x.ko{pack}": PACKERS[pack](modules["zlib-x"]),
        "modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
        "modules.order": b"kernel/lib/zlib-x.ko\nkernel/fs/squashfs.ko\n",
        "modules.builtin.modinfo": b"ext4.license=GPL\0",
    }


def put(top: Path, files: Mapping[str, bytes], below: str) -> Path:
    for name, content in files.items():
        path = top / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".tar": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def pack_tar(top: Path, out: Path) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.add(top, ".")
    out.write_bytes(PACKERS[out.suffix](plain.getvalue()))
    return out


def listed(boot: Boot) -> dict[str, bytes]:
    """The modules of the result, by their path below RELEASE; the index left out."""
    found, prefix = {}, f"lib/modules/{boot.release}/"
    with tarfile.open(boot.modules_tar) as tar:
        for member in tar:
            assert member.name.startswith(prefix.rstrip("/")) and member.uid == 0 and member.mtime == EPOCH
            if member.isfile() and ".ko" in member.name:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name.removeprefix(prefix)] = file.read()
    return found


FORMS = ["", ".gz", ".xz", ".zst"]
PLACES = [f"lib/modules/{RELEASE}", f"usr/lib/modules/{RELEASE}", RELEASE]


@pytest.mark.needs("depmod")
@pytest.mark.parametrize("pack", FORMS)
def test_modules_come_out_plain_and_indexed_however_they_were_packed(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path, pack: str
) -> None:
    top = put(tmp_path / "given-modules", files_of(modules, pack), RELEASE)
    boot = prepare(modules=top)
    assert boot.release == RELEASE
    assert listed(boot) == {
        "kernel/fs/squashfs.ko": modules["squashfs"],
        "kernel/lib/zlib-x.ko": modules["zlib-x"],
    }
    facts = read_kernel(ModuleFiles(boot.modules_tar, boot.release), boot.config)
    assert (facts.modules, facts.builtin) == (frozenset({"squashfs", "zlib_x"}), frozenset({"ext4"}))
    assert choose_modules(ModuleFiles(boot.modules_tar, boot.release), ["ext4"], facts) == [
        "kernel/lib/zlib-x.ko",
        "kernel/fs/squashfs.ko",
    ]


@pytest.mark.needs("depmod")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["directory", "m.tar", "m.tar.gz", "m.tar.xz", "m.tar.zst"])
def test_every_place_and_form_gives_the_same_bytes(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path, place: str, form: str
) -> None:
    """The rest of a tree beside lib/modules does not matter, nor links to headers, nor a stale index."""
    top = put(tmp_path / "top", files_of(modules), place)
    (top / place / "build").symlink_to("/usr/src/linux")
    (top / place / "modules.dep").write_text("stale")
    if "lib" in place:
        put(top, {"fstab": b"", "x/modules.order": b""}, "etc")
    boot = prepare(modules=top if form == "directory" else pack_tar(top, tmp_path / form))
    plain = prepare(modules=put(tmp_path / "plain", files_of(modules), RELEASE), name="plain-out")
    assert boot.modules_tar.read_bytes() == plain.modules_tar.read_bytes()


@pytest.mark.needs("depmod")
def test_the_directory_may_be_the_release_itself(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path
) -> None:
    top = put(tmp_path / RELEASE, files_of(modules), ".")
    assert listed(prepare(modules=top)).keys() == {"kernel/fs/squashfs.ko", "kernel/lib/zlib-x.ko"}


@pytest.mark.needs("depmod")
@pytest.mark.parametrize("form", ["directory", "m.tar"])
def test_a_link_to_another_module_is_that_module(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path, form: str
) -> None:
    top = put(tmp_path / "top", files_of(modules), RELEASE)
    (top / RELEASE / "weak").mkdir()
    (top / RELEASE / "weak/other.ko").symlink_to("../kernel/lib/zlib-x.ko")
    boot = prepare(modules=top if form == "directory" else pack_tar(top, tmp_path / form))
    assert listed(boot)["weak/other.ko"] == modules["zlib-x"]


@pytest.mark.parametrize("target", ["/etc/passwd", "nowhere.ko", "../../outside.ko"])
@pytest.mark.parametrize("form", ["directory", "m.tar"])
def test_a_link_to_anything_else_is_refused(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path, target: str, form: str
) -> None:
    (tmp_path / "outside.ko").write_bytes(b"\x7fELF secret")
    top = put(tmp_path / "top", files_of(modules), RELEASE)
    (top / RELEASE / "other.ko").symlink_to(target)
    given = top if form == "directory" else pack_tar(top, tmp_path / form)
    with pytest.raises(SourceError, match=r"other\.ko"):
        prepare(modules=given)
    assert not (tmp_path / "out/boot.json").exists()


def test_modules_of_more_or_of_no_kernel_are_refused(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path
) -> None:
    top = put(tmp_path / "top", {"readme": b"", "kernel.txt": b""}, "doc")
    with pytest.raises(SourceError, match="modules of one kernel, found none"):
        prepare(modules=top)
    put(top, files_of(modules), f"lib/modules/{RELEASE}")
    put(top, {"modules.order": b""}, "lib/modules/5.10.0")
    with pytest.raises(SourceError, match=rf"found those of 5\.10\.0, {RELEASE}$"):
        prepare(modules=top)


def test_modules_of_another_kernel_are_refused(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path
) -> None:
    top = put(tmp_path / "top", {"stray.ko": modules["stray"]}, f"lib/modules/{RELEASE}")
    with pytest.raises(SourceError, match=rf"stray\.ko: a module of kernel 5\.10\.0-other, not of {RELEASE}"):
        prepare(modules=top)
    (top / f"lib/modules/{RELEASE}/stray.ko").write_bytes(b"text")
    with pytest.raises(SourceError, match="no module, though it is named like one"):
        prepare(modules=top)


@pytest.mark.needs("depmod")
def test_an_image_that_is_not_of_the_modules_kernel_is_refused(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path
) -> None:
    top = put(tmp_path / "top", files_of(modules), RELEASE)
    assert prepare(arm64_image(b"6.6.1-board"), top).release == RELEASE
    with pytest.raises(SourceError, match=rf"modules are of kernel {RELEASE}, .*Image is 6\.6\.2-board"):
        prepare(arm64_image(b"6.6.2-board"), top)


def test_a_broken_module_or_a_broken_tar_is_named(prepare: Callable[..., Boot], tmp_path: Path) -> None:
    top = put(tmp_path / "top", {"x.ko.xz": b"no"}, RELEASE)
    with pytest.raises(SourceError, match=r"x\.ko\.xz cannot be unpacked"):
        prepare(modules=top)
    (tmp_path / "m.tar").write_bytes(b"no tar at all" * 99)
    with pytest.raises(SourceError, match=r"m\.tar"):
        prepare(modules=tmp_path / "m.tar")
    with pytest.raises(SourceError, match=r"nowhere"):
        prepare(modules=tmp_path / "nowhere")


@pytest.mark.parametrize("image", [x86_image(0x20F, 1), b"short"])
def test_an_image_that_cannot_be_the_kernel_is_refused(prepare: Callable[..., Boot], image: bytes) -> None:
    with pytest.raises(SourceError, match=r"^kernel\.image: .*Image is "):
        prepare(image)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    image, nope, out, log, arch = (tmp_path / "Image", tmp_path / "no", tmp_path / "out", tmp_path / "log", "arm64")
    with pytest.raises(SourceError, match=r"kernel\.image: .*/Image: No such file"):
        prepare_board(image, None, None, tmp_path, out, log, EPOCH, arch=ARCHES[arch])
    image.write_bytes(arm64_image())
    with pytest.raises(SourceError, match=r"kernel\.config: .*/no: No such file"):
        prepare_board(image, None, nope, tmp_path, out, log, EPOCH, arch=ARCHES[arch])


def test_a_directory_that_cannot_be_read_is_no_empty_one(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, scandir = put(tmp_path / "top", files_of(modules), RELEASE), os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("kernel/fs"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"kernel/fs: Permission denied"):
        prepare(modules=top)


def test_a_hostile_tar_leaves_nothing_outside(prepare: Callable[..., Boot], tmp_path: Path) -> None:
    out = tmp_path / "m.tar"
    with tarfile.open(out, "w") as tar:
        for name in (f"{RELEASE}/x.ko", f"{RELEASE}/../../../climbed.ko"):
            info = tarfile.TarInfo(name)
            info.size = 8
            tar.addfile(info, io.BytesIO(b"\x7fELF..ok"))
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(SourceError, match=r"climbed\.ko"):
        prepare(modules=out)
    assert {p.name for p in tmp_path.iterdir()} - before <= {"Image", "out", "log"}


@pytest.mark.needs("depmod")
def test_the_same_twice_gives_the_same_files(
    prepare: Callable[..., Boot], modules: dict[str, bytes], tmp_path: Path
) -> None:
    top = put(tmp_path / "top", files_of(modules, ".zst"), RELEASE)
    one, two = (prepare(arm64_image(b"6.6.1-board"), top, CONFIG, name) for name in ("one", "two"))
    assert one.modules_tar.read_bytes() == two.modules_tar.read_bytes()
    assert replace(one, vmlinuz=two.vmlinuz, modules_tar=two.modules_tar, busybox=two.busybox, config=two.config) == two
