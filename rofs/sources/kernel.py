# SPDX-License-Identifier: MIT
"""The packages of a kernel and of a static busybox -> vmlinuz, modules as a tar, its configuration, busybox.

All of the target's architecture, and nothing of it is run: dpkg-deb unpacks the two, the host's depmod
indexes the modules. The kernel's own dependencies (an initramfs generator, above all) are left alone.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rofs.errors import SourceError
from rofs.packages import Deb
from rofs.run import run


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


def make_boot(
    debs: Sequence[Deb],
    out_dir: Path,
    log: Path,
    epoch: int,
    on_line: Callable[[str], None] | None = None,
) -> Boot:
    """Unpack a kernel and a busybox into `out_dir`: vmlinuz, modules.tar, busybox, config, boot.json.

    `epoch` is the mtime of every member of the tar. Raises SourceError or ToolError.
    """
    say = on_line or (lambda _: None)
    with _unpacked(debs, out_dir, log) as tree:
        say("modules")
        release = index_modules(tree, log)
        _publish(tree, release, out_dir, epoch)
    kernel, busybox = (package for package, _ in debs)
    return save_boot(
        out_dir,
        release=release,
        package=kernel.name,
        version=kernel.version,
        busybox_version=busybox.version,
    )


def make_busybox(debs: Sequence[Deb], out_dir: Path, log: Path) -> None:
    """Unpack what a board's own kernel does not bring into `out_dir`: busybox, busybox.version.

    Raises SourceError or ToolError.
    """
    with _unpacked(debs, out_dir, log) as tree:
        _put_busybox(tree, out_dir)
    (out_dir / "busybox.version").write_text(debs[0][0].version, encoding="utf-8")


def save_boot(directory: Path, **about: str) -> Boot:
    """Write boot.json beside the files it is about; `about` are the fields of Boot that are text."""
    (directory / "boot.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return load_boot(directory)


def load_boot(directory: Path) -> Boot:
    """What `make_boot` or `prepare_board` left in a directory."""
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
def _unpacked(debs: Iterable[Deb], out_dir: Path, log: Path) -> Iterator[Path]:
    """The files of packages, in a directory that goes with `out_dir` if we are killed."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".work-", dir=out_dir) as name:
        tree = Path(name, "tree")
        for _, path in debs:
            run(["dpkg-deb", "--extract", path, tree], log=log)
        yield tree


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
        raise SourceError("the package of busybox lacks busybox")
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
