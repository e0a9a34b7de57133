# SPDX-License-Identifier: MIT
"""A built image -> a copy of it that differs in one way, in a few seconds.

The squashfs is unpacked by sqfs2tar and written again with what shall differ; the initrd gets a further
archive with another /init, since the kernel lets the last one win.
"""

from __future__ import annotations

import gzip
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rofs.entry import Entry
from rofs.image.cpio import CpioEntry, append, write_newc
from rofs.image.squashfs import write_squashfs
from rofs.profile import ImageOptions
from rofs.treefacts import read_facts

EPOCH = 1704067200
QUICK = ImageOptions(format="squashfs", compression="zstd", level=1, block_size=1 << 17, acl="error")

Edit = Callable[[str], str]
Meta = Callable[[tarfile.TarInfo], None]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What shall differ: paths taken away or put in, texts of the image, of /init and of the command line
    edited, headers of the tree's tar changed, the other files of the directory touched.

    `files` gets the published directory and the copy. `pack` writes the squashfs anew though nothing in it differs.
    """

    drop: Sequence[str] = ()
    put: Sequence[Entry] = ()
    edit: Mapping[str, Edit] = field(default_factory=dict)
    meta: Mapping[str, Meta] = field(default_factory=dict)
    init: Edit | None = None
    cmdline: Edit | None = None
    files: Callable[[Path, Path], None] | None = None
    pack: ImageOptions | None = None


@dataclass(frozen=True, kw_only=True)
class Mutation(Change):
    """A change that breaks promises, and what must be said of it.

    `names` are the broken promises that a report must name, as the begin of "promise: subject"; `seen` are
    words that it must have seen. `boots` is how many of the sequence it takes, `options` are for `rofs
    verify`. `sample` ones are run by the tests.
    """

    names: Sequence[str]
    profile: str = "minimal"
    boots: int = 1
    seen: Sequence[str] = ()
    options: Sequence[str] = ()
    sample: bool = False


_unpacking = threading.Lock()


def mutate(image: Path, scratch: Path, copy: Path, what: Change) -> Path:
    """Write the mutant of `image` to `copy`; `scratch` keeps the unpacked tree for the next one."""
    shutil.copytree(image, copy, ignore=shutil.ignore_patterns("logs", "report.*"))
    if what.drop or what.put or what.edit or what.meta or what.pack:
        _write_root(image, scratch, copy / "rootfs.squashfs", what)
    if what.init is not None:
        _write_init(image / "initrd.img", copy / "initrd.img", what.init)
    if what.cmdline is not None:
        (copy / "cmdline").write_text(what.cmdline((copy / "cmdline").read_text()))
    if what.files is not None:
        what.files(image, copy)
    return copy


def read_file(squashfs: Path, path: str) -> bytes:
    """One file of a squashfs, by unsquashfs."""
    return subprocess.run(["unsquashfs", "-cat", squashfs, path], capture_output=True, check=True).stdout


def _write_root(image: Path, scratch: Path, out: Path, what: Change) -> None:
    squashfs = image / "rootfs.squashfs"
    plain = _unpack(squashfs, scratch)
    tar = _with_headers(plain, out.with_suffix(".tar"), what.meta) if what.meta else plain
    facts = read_facts(tar)
    edited = []
    for path, edit in what.edit.items():
        node = facts.nodes[path]
        content = edit(read_file(squashfs, path).decode()).encode()
        edited.append(
            Entry(path=PurePosixPath(path), kind="file", mode=node.mode, uid=node.uid, gid=node.gid, content=content)
        )
    write_squashfs(
        out, [tar], [*what.put, *edited], options=what.pack or QUICK, epoch=EPOCH, resolve=facts.resolve, drop=what.drop
    )
    if tar != plain:
        tar.unlink()


def _unpack(squashfs: Path, scratch: Path) -> Path:
    out = scratch / f"{squashfs.parent.parent.name}-{squashfs.parent.name}.tar"
    with _unpacking:
        if not out.exists():
            with out.with_suffix(".part").open("wb") as file:
                subprocess.run(["sqfs2tar", squashfs], stdout=file, check=True)
            out.with_suffix(".part").rename(out)
    return out


def _with_headers(plain: Path, out: Path, meta: Mapping[str, Meta]) -> Path:
    """The same tar, some headers of it changed."""
    left = dict(meta)
    with tarfile.open(plain, errors="surrogateescape") as old, tarfile.open(out, "w", errors="surrogateescape") as new:
        for member in old:
            change = left.pop("/" + member.name.strip("/"), None)
            if change is not None:
                change(member)
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    assert not left, f"nothing to break: {sorted(left)} is not in the tree"
    return out


def _write_init(initrd: Path, out: Path, edit: Edit) -> None:
    content = edit(read_init(initrd)).encode()
    second = out.with_suffix(".second")
    with second.open("wb") as file:
        write_newc([CpioEntry(path=PurePosixPath("init"), mode=stat.S_IFREG | 0o755, content=content)], file)
    append(initrd, second.read_bytes(), out)
    second.unlink()


def read_init(initrd: Path) -> str:
    """/init out of the compressed archive (initramfs buffer format, kernel documentation)."""
    data, at = gzip.decompress(initrd.read_bytes()), 0
    while data[at : at + 6] == b"070701":
        size, name_size = (int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in (6, 11))
        name = data[at + 110 : at + 110 + name_size - 1]
        start = (at + 110 + name_size + 3) & ~3
        if name == b"init":
            return data[start : start + size].decode()
        at = (start + size + 3) & ~3
    raise AssertionError(f"{initrd} has no /init")
