# SPDX-License-Identifier: MIT
"""A built image -> a copy of it that is wrong in one way, in about two seconds.

The squashfs is unpacked by sqfs2tar and written again with what shall differ; the initrd gets a further
archive with another /init, since the kernel lets the last one win.
"""

from __future__ import annotations

import gzip
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from rofs.entry import Entry
from rofs.image.cpio import CpioEntry, append, write_newc
from rofs.image.squashfs import write_squashfs
from rofs.profile import ImageOptions
from rofs.treefacts import read_facts

UNITS = "/etc/systemd/system"
EPOCH = 1704067200
QUICK = ImageOptions(format="squashfs", compression="zstd", level=1, block_size=1 << 17, acl="error")

Edit = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """What shall differ: paths taken away, files put in, texts of the image and /init edited.

    `names` are the broken promises that a report must name, as "promise: subject"; `seen` are words
    that it must have seen.
    """

    profile: str = "minimal"
    drop: Sequence[str] = ()
    put: Sequence[Entry] = ()
    edit: dict[str, Edit] = field(default_factory=dict)
    init: Edit | None = None
    cmdline: Edit | None = None
    always: bool = False
    """Write the squashfs anew though nothing in it differs."""
    names: Sequence[str] = ()
    seen: Sequence[str] = ()


def replaced(old: str, new: str) -> Edit:
    """Text with `old` for `new`; it must be there, or the mutant would be none."""

    def edit(text: str) -> str:
        assert old in text, f"nothing to break: {old!r} is not in\n{text}"
        return text.replace(old, new)

    return edit


def unit(name: str, text: str, wanted_by: str = "multi-user.target") -> list[Entry]:
    """A unit and the link that starts it."""
    path = PurePosixPath(UNITS, name)
    link = PurePosixPath(UNITS, f"{wanted_by}.wants", name)
    return [
        Entry(path=path, kind="file", content=text.encode()),
        Entry(path=link, kind="symlink", mode=0o777, target=f"../{name}"),
    ]


def mutate(image: Path, scratch: Path, copy: Path, what: Mutation) -> Path:
    """Write the mutant of `image` to `copy`; `scratch` keeps the unpacked tree for the next one."""
    shutil.copytree(image, copy, ignore=shutil.ignore_patterns("logs", "report.*"))
    if what.drop or what.put or what.edit or what.always:
        _write_root(image, scratch, copy / "rootfs.squashfs", what)
    if what.init is not None:
        _write_init(image / "initrd.img", copy / "initrd.img", what.init)
    if what.cmdline is not None:
        (copy / "cmdline").write_text(what.cmdline((copy / "cmdline").read_text()))
    return copy


def read_file(squashfs: Path, path: str) -> bytes:
    """One file of a squashfs, by unsquashfs."""
    return subprocess.run(["unsquashfs", "-cat", squashfs, path], capture_output=True, check=True).stdout


def _write_root(image: Path, scratch: Path, out: Path, what: Mutation) -> None:
    squashfs = image / "rootfs.squashfs"
    tar = _unpack(squashfs, scratch)
    records = {path: read_file(squashfs, path).decode() for path in what.edit}
    edited = [Entry(path=PurePosixPath(p), kind="file", content=what.edit[p](t).encode()) for p, t in records.items()]
    write_squashfs(
        out, [tar], [*what.put, *edited], options=QUICK, epoch=EPOCH, resolve=read_facts(tar).resolve, drop=what.drop
    )


@cache
def _unpack(squashfs: Path, scratch: Path) -> Path:
    out = scratch / f"{squashfs.parent.parent.name}-{squashfs.parent.name}.tar"
    with out.open("wb") as file:
        subprocess.run(["sqfs2tar", squashfs], stdout=file, check=True)
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
