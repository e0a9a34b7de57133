# SPDX-License-Identifier: MIT
"""A kernel package's name -> vmlinuz, its modules as a tar, its configuration and a static busybox.

All of the target's architecture, and nothing of it is run: a private apt fetches two packages, dpkg-deb
unpacks them, the host's depmod indexes the modules. The kernel's own dependencies (an initramfs
generator, above all) are left alone.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rofs.errors import SourceError, ToolError
from rofs.machine.arch import Arch
from rofs.run import run
from rofs.sources.apt import PrivateApt, default_sources, host_options, make_private_apt
from rofs.sources.debian import UnknownPackage, explain_apt

BUSYBOX = "busybox-static"


@dataclass(frozen=True, slots=True)
class Boot:
    """What boots a tree. `modules_tar` holds lib/modules/RELEASE/..., owned by root, indexed; or nothing.

    `release` is "" where nobody knows it. `package` and `version` are the kernel's, "" of a board's own;
    `busybox_version` is that of the static busybox. `files` is for the manifest: the board's own.
    """

    vmlinuz: Path
    modules_tar: Path
    busybox: Path
    config: Path | None
    release: str
    package: str = ""
    version: str = ""
    busybox_version: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)


def fetch_boot(
    kernel_package: str,
    arch: Arch,
    suite: str,
    apt_sources: bytes | None,
    out_dir: Path,
    log: Path,
    epoch: int,
    on_line: Callable[[str], None] | None = None,
) -> Boot:
    """Fetch a kernel into `out_dir`: vmlinuz, modules.tar, busybox, config, boot.json.

    The architecture's suffix is put behind `kernel_package` where it is not there. `epoch` is the mtime
    of every member of the tar. Raises UnknownPackage, SourceError or ToolError.
    """
    say = on_line or (lambda _: None)
    suffix = f"-{arch.kernel_suffix}"
    with _private_apt(arch, suite, apt_sources, out_dir, log, say) as apt:
        package = resolve_kernel(apt, kernel_package.removesuffix(suffix) + suffix)
        say(package)
        versions = _download(apt, [package, BUSYBOX])
        tree = _extract(apt)
        say("modules")
        release = index_modules(tree, log)
        _publish(tree, release, out_dir, epoch)
    return save_boot(
        out_dir, release=release, package=package, version=versions[package], busybox_version=versions[BUSYBOX]
    )


def fetch_busybox(
    arch: Arch,
    suite: str,
    apt_sources: bytes | None,
    out_dir: Path,
    log: Path,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Fetch what a board's own kernel does not bring into `out_dir`: busybox, busybox.version.

    Raises SourceError or ToolError.
    """
    say = on_line or (lambda _: None)
    with _private_apt(arch, suite, apt_sources, out_dir, log, say) as apt:
        say(BUSYBOX)
        versions = _download(apt, [BUSYBOX])
        _put_busybox(_extract(apt), out_dir)
    (out_dir / "busybox.version").write_text(versions[BUSYBOX], encoding="utf-8")


def save_boot(directory: Path, **about: str) -> Boot:
    """Write boot.json beside the files it is about; `about` are the fields of Boot that are text."""
    (directory / "boot.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return load_boot(directory)


def load_boot(directory: Path) -> Boot:
    """What `fetch_boot` or `prepare_board` left in a directory."""
    about = json.loads((directory / "boot.json").read_text(encoding="utf-8"))
    config = directory / "config"
    return Boot(
        vmlinuz=directory / "vmlinuz",
        modules_tar=directory / "modules.tar",
        busybox=directory / "busybox",
        config=config if config.exists() else None,
        **about,
    )


@contextmanager
def _private_apt(
    arch: Arch, suite: str, apt_sources: bytes | None, out_dir: Path, log: Path, say: Callable[[str], None]
) -> Iterator[PrivateApt]:
    """An apt of the target's, its lists read, in a directory that goes with `out_dir` if we are killed."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".work-", dir=out_dir) as name:
        work = Path(name)
        sources = default_sources(suite, work, log) if apt_sources is None else apt_sources
        apt = make_private_apt(work / "apt", arch, sources, host_options(), log)
        say("package lists")
        _update(apt, suite)
        yield apt


def _update(apt: PrivateApt, suite: str) -> None:
    try:
        apt.run("apt-get", "update", "-q", "--error-on=any")
    except ToolError as error:
        raise explain_apt(error, suite) from error


def resolve_kernel(apt: PrivateApt, package: str) -> str:
    """The package that holds the kernel: a name like linux-image-cloud-arm64 only depends on the newest.

    Raises UnknownPackage.
    """
    try:
        about = apt.run("apt-cache", "show", "--no-all-versions", package).stdout
    except ToolError as error:
        raise UnknownPackage([package]) from error
    return kernel_of(package, about)


def kernel_of(package: str, about: str) -> str:
    """A kernel package's control fields -> the name of the image package it stands for, often itself."""
    depends = re.search(r"^Depends: (.*)$", about, re.MULTILINE)
    found = re.search(r"(?:^|[ ,|])(linux-image-\d\S*)", depends[1]) if depends else None
    return found[1].rstrip(",") if found else package


def _download(apt: PrivateApt, packages: list[str]) -> dict[str, str]:
    """Download the candidates -> versions; apt checks them against the signed release."""
    try:
        apt.run("apt-get", "download", "-q", *packages)
    except ToolError as error:
        raise explain_apt(error, "") from error
    versions = {}
    for deb in apt.root.glob("debs/*.deb"):
        shown = run(["dpkg-deb", "--show", "--showformat=${Package} ${Version}", deb], log=apt.log).stdout
        name, _, version = shown.partition(" ")
        versions[name] = version
    return versions


def _extract(apt: PrivateApt) -> Path:
    """Unpack what was downloaded -> the tree."""
    tree = apt.root / "tree"
    for deb in sorted(apt.root.glob("debs/*.deb")):
        run(["dpkg-deb", "--extract", deb, tree], log=apt.log)
    return tree


def index_modules(tree: Path, log: Path) -> str:
    """Run depmod over the one release in the tree -> its name."""
    if not (tree / "lib").exists():  # merged already, from trixie on; depmod reads BASE/lib/modules
        (tree / "lib").symlink_to("usr/lib")
    releases = [path.name for path in (tree / "lib/modules").glob("*")]
    if len(releases) != 1:
        raise SourceError(f"expected the modules of one kernel in its package, found {releases or 'none'}")
    run(["depmod", "-b", tree, releases[0]], log=log)
    return releases[0]


def _publish(tree: Path, release: str, out_dir: Path, epoch: int) -> None:
    """Move the results out of the unpacked tree."""
    found = {"vmlinuz": tree / f"boot/vmlinuz-{release}", "config": tree / f"boot/config-{release}"}
    if not all(path.is_file() for path in found.values()):
        raise SourceError(f"the package of kernel {release} lacks vmlinuz or config")
    for name, path in found.items():
        (out_dir / name).write_bytes(path.read_bytes())
    _put_busybox(tree, out_dir)
    write_modules_tar(tree / "lib/modules" / release, release, out_dir / "modules.tar", epoch)


def _put_busybox(tree: Path, out_dir: Path) -> None:
    busybox = next((tree / p for p in ("usr/bin/busybox", "bin/busybox") if (tree / p).is_file()), None)
    if busybox is None:
        raise SourceError(f"the package {BUSYBOX} lacks busybox")
    (out_dir / "busybox").write_bytes(busybox.read_bytes())
    (out_dir / "busybox").chmod(0o755)


def write_modules_tar(modules: Path, release: str, out: Path, epoch: int) -> None:
    """A module directory -> a tar of lib/modules/RELEASE: sorted, root's, one mtime. /lib may be a link in the tree.

    `build` and `source` point to headers that are not there. ustar, since every reader knows it and no
    module's path is longer than its 256 bytes.
    """
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in _walk(modules):
            name = Path("lib/modules", release, path.relative_to(modules))
            member = tar.gettarinfo(path, arcname=str(name))
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = epoch
            member.mode = 0o755 if path.is_dir() else 0o644
            if member.isfile():
                with path.open("rb") as file:
                    tar.addfile(member, file)
            else:
                tar.addfile(member)


def _walk(modules: Path) -> Iterator[Path]:
    """The directory and everything in it, parents first, but for the links to headers."""
    yield modules
    for path in sorted(modules.rglob("*")):
        if not (path.parent == modules and path.name in ("build", "source")):
            yield path
