# SPDX-License-Identifier: MIT
"""A board's own kernel image, modules and configuration -> what boots a tree, as from a kernel package.

Modules come out plain and indexed anew, however they were packed and whatever index came with them: the
host's depmod need not know their packing, the squashfs packs them better, and every init can load them.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from rofs.errors import SourceError
from rofs.kernelfacts import (
    find_ikconfig,
    find_release,
    is_packed_module,
    parse_config,
    plain_module,
    unpack,
    unpack_module,
)
from rofs.machine.arch import Arch
from rofs.sources.archive import unpack_tar
from rofs.sources.kernel import Boot, index_modules, save_boot, write_modules_tar

MIN_IMAGE_BYTES = 1024
MAGICS = (
    (0x38, b"ARM\x64", ("arm64",)),
    (0x38, b"RSC\x05", ("riscv64",)),
    (0x24, b"\x18\x28\x6f\x01", ("armhf",)),
    (0x202, b"HdrS", ("amd64", "i386")),
)
"""Documentation/arch/ of the kernel: arm64/booting.rst, riscv/boot-image-header.rst, arm/zImage, x86/boot.rst."""
_PLACES = (("lib", "modules"), ("usr", "lib", "modules"))
_TO_HEADERS = ("build", "source")

_Reader = Callable[[], bytes]


def check_image(image: Path, arch_name: str) -> str:
    """Why this is no kernel for the architecture; "" if it is one, or has no mark that tells."""
    try:
        with image.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        return f"{image}: {error.strerror}"
    if head.startswith(b"\x1f\x8b"):
        head = unpack(head)
    if len(head) < MIN_IMAGE_BYTES:
        return f"{image} is too small for a kernel"
    made_for = _architectures(head)
    if made_for and arch_name not in made_for:
        return f"{image} is a kernel for {' or '.join(made_for)}, not for {arch_name}"
    return ""


def _architectures(head: bytes) -> tuple[str, ...]:
    found = next((names for at, magic, names in MAGICS if head.startswith(magic, at)), ())
    if len(found) > 1 and int.from_bytes(head[0x206:0x208], "little") >= 0x20C:  # from then on it says its width
        return ("amd64",) if head[0x236] & 1 else ("i386",)
    return found


def prepare_board(
    image: Path,
    modules: Path | None,
    config: Path | None,
    busybox_dir: Path,
    out_dir: Path,
    log: Path,
    epoch: int,
    *,
    arch: Arch,
) -> Boot:
    """Fill `out_dir` as `fetch_boot` does: vmlinuz, modules.tar, busybox, config, boot.json.

    `modules` is a directory or a tar with lib/modules/RELEASE, usr/lib/modules/RELEASE or RELEASE in it,
    of one kernel. Without `config` the one inside the image is taken, if there is one. `busybox_dir` is
    what `fetch_busybox` filled. Raises SourceError, also for an image that `check_image` refuses, or ToolError.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    if reason := check_image(image, arch.name):
        raise SourceError(f"kernel.image: {reason}")
    kernel = _read(image, "kernel.image")
    (out_dir / "vmlinuz").write_bytes(kernel)
    text = find_ikconfig(kernel) if config is None else _config(config)
    if text is not None:
        (out_dir / "config").write_bytes(text)
    shutil.copy2(busybox_dir / "busybox", out_dir / "busybox")
    release = find_release(kernel)
    if modules is None:
        tarfile.open(out_dir / "modules.tar", "w").close()
    else:
        found = _put_modules(modules, out_dir, log, epoch)
        if release not in ("", found):
            raise SourceError(f"{modules}: the modules are of kernel {found}, {image} is {release}")
        release = found
    version = (busybox_dir / "busybox.version").read_text(encoding="utf-8")
    return save_boot(out_dir, release=release, busybox_version=version)


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{key}: {path}: {error.strerror}") from error


def _config(path: Path) -> bytes:
    """The text of a .config, also as /proc/config.gz has it."""
    data = _read(path, "kernel.config")
    text = unpack(data) if data.startswith(b"\x1f\x8b") else data
    if not parse_config(text.decode("utf-8", "replace")):
        raise SourceError(f"{path}: no kernel configuration: it has no line CONFIG_...=")
    return text


def _put_modules(modules: Path, out_dir: Path, log: Path, epoch: int) -> str:
    """Index the modules and write modules.tar -> their release."""
    with TemporaryDirectory(prefix=".work-", dir=out_dir) as name:
        work = Path(name)
        if modules.is_dir():
            release = _copy(modules, _in_directory(modules), work / "tree")
        else:
            unpack_tar(modules, work / "plain.tar", None)
            with tarfile.open(work / "plain.tar") as tar:
                release = _copy(modules, _in_tar(tar, modules), work / "tree")
        index_modules(work / "tree", log)
        write_modules_tar(work / "tree/lib/modules" / release, release, out_dir / "modules.tar", epoch)
    return release


def _in_directory(top: Path) -> dict[PurePosixPath, _Reader]:
    """Its files; where it is itself a RELEASE, as if it stood in its parent."""
    found: dict[PurePosixPath, _Reader] = {}
    for directory, _, names in os.walk(top, onerror=_unreadable):
        for name in names:
            path = Path(directory, name)
            found[PurePosixPath(path.relative_to(top))] = _reader(path, top)
    itself = any(str(name).startswith(("modules.", "kernel/")) for name in found)
    return {PurePosixPath(top.resolve().name, name): read for name, read in found.items()} if itself else found


def _unreadable(error: OSError) -> None:
    raise SourceError(f"kernel.modules: {error.filename}: {error.strerror}") from error


def _reader(path: Path, top: Path) -> _Reader:
    def read() -> bytes:
        if not path.is_file() or not path.resolve().is_relative_to(top.resolve()):
            raise SourceError(f"{path}: neither a file nor a link to one in {top}")
        return _read(path, "kernel.modules")

    return read


def _in_tar(tar: tarfile.TarFile, source: Path) -> dict[PurePosixPath, _Reader]:
    return {PurePosixPath(m.name): _member_reader(tar, m, source) for m in tar.getmembers() if not m.isdir()}


def _member_reader(tar: tarfile.TarFile, member: tarfile.TarInfo, source: Path) -> _Reader:
    def read() -> bytes:
        try:
            file = tar.extractfile(member)  # follows links within the archive
        except KeyError:
            file = None
        if file is None:
            raise SourceError(f"{source}: {member.name} is neither a file nor a link to one in it")
        return file.read()

    return read


def _copy(source: Path, files: Mapping[PurePosixPath, _Reader], tree: Path) -> str:
    """Write the plain modules and what lies beside them to TREE/lib/modules/RELEASE -> the release."""
    releases = _by_release(files)
    if len(releases) != 1:
        found = f"those of {', '.join(sorted(releases))}" if releases else "none"
        raise SourceError(f"{source}: expected lib/modules/RELEASE with the modules of one kernel, found {found}")
    ((release, names),) = releases.items()
    top = tree / "lib/modules" / release
    for inside, name in sorted(names.items()):
        content = files[name]()
        if is_packed_module(inside.name):
            inside, content = inside.with_name(plain_module(inside.name)), unpack_module(str(name), content)
        if inside.suffix == ".ko":
            _check_module(name, content, release)
        (top / inside).parent.mkdir(parents=True, exist_ok=True)
        (top / inside).write_bytes(content)
    return release


def _by_release(names: Iterable[PurePosixPath]) -> dict[str, dict[PurePosixPath, PurePosixPath]]:
    """{release: {path below it: the whole name}}, of all that looks like modules and their index."""
    placed = {PurePosixPath(*n.parts[len(p) :]): n for n in names for p in _PLACES if n.parts[: len(p)] == p}
    found: dict[str, dict[PurePosixPath, PurePosixPath]] = {}
    for below, name in (placed or {n: n for n in names}).items():
        if len(below.parts) > 1 and below.parts[1] not in _TO_HEADERS:
            release, *rest = below.parts
            found.setdefault(release, {})[PurePosixPath(*rest)] = name
    return {release: inside for release, inside in found.items() if any(map(_tells, inside))}


def _tells(inside: PurePosixPath) -> bool:
    """Whether a file is what only a directory of modules has."""
    return plain_module(inside.name).endswith(".ko") or str(inside) in ("modules.builtin", "modules.order")


def _check_module(name: PurePosixPath, content: bytes, release: str) -> None:
    """A kernel takes no module of another one."""
    if not content.startswith(b"\x7fELF"):
        raise SourceError(f"{name}: no module, though it is named like one")
    found = re.search(rb"vermagic=(\S+) ", content)
    made_for = found[1].decode("ascii", "replace") if found else release
    if made_for != release:
        raise SourceError(f"{name}: a module of kernel {made_for}, not of {release}")
