# SPDX-License-Identifier: MIT
"""What a generator put into a tar is what another tool reads from the image, entry by entry."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any

import hostile
import pytest
from hostile import COMPRESSORS, Pieces, header, long_name, padded, pax, sparse_gnu, sparse_pax
from tarmaker import EPOCH
from treeseen import Seen, Tree, differences, see_directory, see_records

from rofs.image.squashfs import write_squashfs
from rofs.profile import ImageOptions
from rofs.sources.archive import unpack_tar
from rofs.treefacts import read_facts

OPTIONS = ImageOptions(format="squashfs", compression="gzip", level=1, block_size=131072, acl="error")
MANY, FEW = 50_000, 2_000
SIZES = (0, 1, 511, 512, 513, 4095, 4096, 4097, 131_071, 131_072, 131_073, 300_000)
TIMES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)
OWNERS = (0, 1, 65_535, 65_536, 2**21 - 1, 2**21, 2**31, 2**32 - 2)
DEVICES = ((0, 0), (1, 3), (8, 255), (259, 256), (4095, 1_048_575))
TYPES = {"file": b"0", "dir": b"5", "symlink": b"2", "char": b"3", "block": b"4", "fifo": b"6"}


@dataclass
class Generator:
    """Writes members into `out` and keeps its own list of what they are."""

    out: IO[bytes]
    rng: random.Random
    tree: Tree = field(default_factory=dict)
    folders: list[bytes] = field(default_factory=lambda: [b""])
    recent: deque[Seen] = field(default_factory=lambda: deque(maxlen=40))
    """What a hard link may mean."""
    later: list[bytes] = field(default_factory=list)
    """Directories that come after what is in them."""

    def run(self, count: int) -> Tree:
        self.put(b"/", "dir")
        makers: list[tuple[int, Callable[[bytes], None]]] = [
            (55, self.file), (9, self.folder), (12, self.symlink), (10, self.hardlink), (7, self.device),
            (3, lambda path: self.put(path, "fifo")), (4, self.holes),
        ]  # fmt: skip
        weights, calls = [weight for weight, _ in makers], [call for _, call in makers]
        for number in range(count - 1):
            self.rng.choices(calls, weights)[0](self.path(number))
        for path in self.later:
            self.put(path, "dir")
        self.out.write(hostile.END)
        return self.tree

    def path(self, number: int) -> bytes:
        """A new one, of every kind of name."""
        rng, unique = self.rng, b"%05d" % number
        style = rng.choice(
            [b"a.txt", b" x ", b"\n", b"\xe9\xff", "ü".encode(), b"'\"\\$`*", b"-", b"L" * 250, b"M" * 90]
        )
        return rng.choice(self.folders) + b"/" + unique + style[: 255 - len(unique)]

    def put(self, path: bytes, kind: str, **more: Any) -> None:
        """One member with any owner, mode and time, in any format that can say it."""
        rng = self.rng
        seen = Seen(
            kind=kind,
            mode=0o777 if kind == "symlink" else rng.randrange(0o10000),
            uid=rng.choice(OWNERS),
            gid=rng.choice(OWNERS),
            mtime=rng.choice([*TIMES, rng.randrange(2**32)]),
            first=os.fsdecode(path),
            xattrs=more.pop("xattrs", None) or self.xattrs(kind),
            **{key: value for key, value in more.items() if key != "content"},
        )
        self.tree[seen.first] = seen
        if kind != "dir":
            self.recent.append(seen)
        content = more.get("content", b"")
        link = os.fsencode(seen.target)
        self.out.write(self.headers(b"." + path, TYPES[kind], seen, link) + padded(content))

    def headers(self, name: bytes, type: bytes, seen: Seen, link: bytes) -> bytes:  # noqa: A002
        ids = {"mode": seen.mode, "uid": seen.uid, "gid": seen.gid, "mtime": seen.mtime, "dev": seen.rdev}
        size = seen.size if type == b"0" else 0
        form = "pax" if seen.xattrs else self.rng.choice(["ustar", "gnu", "pax"])
        is_small = max(len(name), len(link)) <= 100 and max(seen.uid, seen.gid) < 2**21
        if form == "ustar" and is_small:
            return header(name, type, size=size, link=link, **ids)  # type: ignore[arg-type]
        if form == "gnu":
            long = long_name(link, b"K") if len(link) > 100 else b""
            long += long_name(name) if len(name) > 100 else b""
            return long + header(name, type, size=size, link=link, magic=hostile.GNU, **ids)  # type: ignore[arg-type]
        records = [(b"path", name), (b"mtime", b"%d.%d" % (seen.mtime, self.rng.choice([0, 5, 999_999_999])))]
        records += [(b"linkpath", link)] if link else []
        records += [(b"uid", b"%d" % seen.uid), (b"gid", b"%d" % seen.gid)]
        records += [(b"SCHILY.xattr." + key.encode(), value) for key, value in seen.xattrs.items()]
        records.insert(0, (b"hdrcharset", b"BINARY"))
        ids |= {"uid": 0, "gid": 0, "mtime": 0}
        return pax(*records) + header(b"short", type, size=size, link=link[:100], **ids)  # type: ignore[arg-type]

    def xattrs(self, kind: str) -> dict[str, bytes]:
        rng = self.rng
        if rng.random() < 0.9:
            return {}
        found = {"trusted.t": rng.randbytes(rng.randrange(1, 100))}
        if kind in ("file", "dir"):
            found |= {"user.u": b"a=b\n\0" + rng.randbytes(3), "user.empty": b""}
        if kind == "file":
            found["security.capability"] = hostile.CAPS
        return found

    def file(self, path: bytes) -> None:
        rng = self.rng
        size = rng.choice(SIZES) if rng.random() < 0.05 else rng.randrange(3000)
        content = rng.randbytes(min(size, 600)) * (size // 600 + 1)
        self.put(path, "file", size=size, content=content[:size], sha256=hashlib.sha256(content[:size]).hexdigest())

    def folder(self, path: bytes) -> None:
        """At once, later, or only as the parent of others."""
        if len(path) > 1500:
            return
        way = self.rng.choice(["at once", "at once", "later", "never"])
        self.folders.append(path)
        if way == "at once":
            self.put(path, "dir")
        elif way == "later":
            self.later.append(path)
        else:
            self.put(path + b"/below", "fifo")
            plain = Seen(kind="dir", mode=0o755, uid=0, gid=0, mtime=EPOCH, first=os.fsdecode(path))
            self.tree[plain.first] = plain

    def symlink(self, path: bytes) -> None:
        depth = path.count(b"/") - 1
        target = self.rng.choice([b"x", b"/usr/bin", b"../" * depth + b"\xe9 n", b"t" * 200, b"./a/../b", b"a\nb"])
        self.put(path, "symlink", target=os.fsdecode(target))

    def device(self, path: bytes) -> None:
        self.put(path, self.rng.choice(["char", "block"]), rdev=self.rng.choice(DEVICES))

    def hardlink(self, path: bytes) -> None:
        """To a file, a link, a device or a fifo, and to another hard link."""
        if not self.recent:
            return
        original = self.rng.choice(self.recent)
        self.tree[os.fsdecode(path)] = original
        name, target = b"." + path, b"." + os.fsencode(original.first)
        self.out.write(self.headers(name, b"1", replace(original, xattrs={}, rdev=(0, 0)), target))

    def holes(self, path: bytes) -> None:
        """With a hole before, between and after, in each of the four forms."""
        rng = self.rng
        pieces: Pieces = [(at * 4096, rng.randbytes(512)) for at in sorted(rng.sample(range(1, 40), rng.randrange(5)))]
        size = 40 * 4096 + rng.randrange(5000)
        content = bytearray(size)
        for at, data in pieces:
            content[at : at + len(data)] = data
        ids = {"mode": rng.randrange(0o10000), "uid": 1, "gid": 2, "mtime": rng.randrange(2**32)}
        form = rng.choice(["gnu", "0.0", "0.1", "1.0"])
        if form == "gnu":
            long = long_name(b"." + path) if len(path) > 99 else b""
            self.out.write(long + sparse_gnu(b"." + path, size, pieces, **ids))
        else:
            extra = [(b"path", b"." + path)] if form == "0.0" else []
            self.out.write(sparse_pax(b"." + path, size, pieces, form, *extra, **ids))
        name, sha256 = os.fsdecode(path), hashlib.sha256(content).hexdigest()
        self.tree[name] = Seen(kind="file", size=size, sha256=sha256, first=name, **ids)  # type: ignore[arg-type]


def generate(out: Path, count: int, seed: int) -> Tree:
    """Write a tar and say what is in it."""
    with out.open("wb") as file:
        return firsts(Generator(file, random.Random(seed)).run(count))


def firsts(tree: Tree) -> Tree:
    """With every group of hard links named after its first path by name, as `treeseen` does."""
    first: dict[str, str] = {}
    for path in sorted(tree):
        first.setdefault(tree[path].first, path)
    return {path: replace(seen, first=first[seen.first]) for path, seen in tree.items()}


def read_back(tmp_path: Path, source: Path, expected: Tree) -> None:
    """Through all of rofs, then by rofs's own list and by unsquashfs and the kernel."""
    tree, image, root = tmp_path / "plain.tar", tmp_path / "o.squashfs", tmp_path / "root"
    unpack_tar(source, tree, None)
    resolve = read_facts(tree).resolve
    records = list(write_squashfs(image, [tree], [], options=OPTIONS, epoch=EPOCH, resolve=resolve, keep_times=True))
    assert differences(expected, see_records(records)) == []
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-d", root, image], check=True)
    try:
        assert differences(expected, see_directory(root)) == []
    finally:
        shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.needs("tar2sqfs", "unsquashfs", "root")
def test_fifty_thousand_entries(tmp_path: Path) -> None:
    expected = generate(tmp_path / "s.tar", MANY, 1)
    kinds = [seen.kind for seen in expected.values()]
    assert len(expected) > 0.98 * MANY and all(kinds.count(kind) > MANY // 100 for kind in TYPES)
    assert sum(path != seen.first for path, seen in expected.items()) > MANY // 20
    read_back(tmp_path, tmp_path / "s.tar", expected)


@pytest.mark.slow
@pytest.mark.needs("tar2sqfs", "unsquashfs", "root")
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_each_compression(tmp_path: Path, compressor: str) -> None:
    expected = generate(tmp_path / "s.tar", FEW, 2)
    source = tmp_path / "source"
    source.write_bytes(COMPRESSORS[compressor]((tmp_path / "s.tar").read_bytes()))
    read_back(tmp_path, source, expected)


SAMPLE = Seen(
    kind="char", mode=0o644, uid=1, gid=2, mtime=3, size=4, target="t", rdev=(5, 6), sha256="7",
    xattrs={"user.a": b"8"}, first="/a",
)  # fmt: skip


@pytest.mark.parametrize("name", [each.name for each in fields(Seen)])
def test_the_comparison_looks_at_every_field(name: str) -> None:
    values = {"kind": "block", "target": "u", "rdev": (5, 7), "sha256": "6", "first": "/b", "xattrs": {"user.a": b"9"}}
    value: Any = values[name] if name in values else getattr(SAMPLE, name) ^ 1
    assert differences({"/a": SAMPLE}, {"/a": SAMPLE}) == []
    (said,) = differences({"/a": SAMPLE}, {"/a": replace(SAMPLE, **{name: value})})
    assert said.startswith(f"'/a': {name}: ")


def test_the_comparison_misses_no_path() -> None:
    tree = {"/a": SAMPLE}
    assert differences(tree, {}) == ["'/a': missing"] and differences({}, tree) == ["'/a': not expected"]


def _flip_content(path: Path) -> None:
    told = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, (told.st_atime, told.st_mtime))


def _remake(path: Path, make: Callable[[Path], None]) -> None:
    told = path.lstat()
    path.unlink()
    make(path)
    os.utime(path, (told.st_atime, told.st_mtime), follow_symlinks=False)


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "mode": ("'/f': mode", lambda root: (root / "f").chmod(0o640 ^ 1)),
    "owner": ("'/f': uid", lambda root: os.chown(root / "f", 8 ^ 1, 9)),
    "group": ("'/f': gid", lambda root: os.chown(root / "f", 8, 9 ^ 1)),
    "mtime": ("'/f': mtime", lambda root: os.utime(root / "f", (0, EPOCH ^ 1))),
    "content": ("'/f': sha256", lambda root: _flip_content(root / "f")),
    "an attribute": ("'/f': xattrs", lambda root: os.setxattr(root / "f", "user.a", bytes([ord("1") ^ 1]))),
    "an attribute more": ("'/d': xattrs", lambda root: os.setxattr(root / "d", "trusted.b", b"")),
    "a link": ("'/l': target", lambda root: _remake(root / "l", lambda at: at.symlink_to("e"))),
    "a device": ("'/c': rdev", lambda root: _remake(root / "c", lambda at: os.mknod(at, 0o20600, os.makedev(1, 2)))),
    "a kind": ("'/c': kind", lambda root: _remake(root / "c", lambda at: os.mknod(at, 0o60600, os.makedev(1, 3)))),
    "a directory's mode": ("'/d': mode", lambda root: (root / "d").chmod(0o755 ^ 1)),
}  # fmt: skip


@pytest.mark.needs("root")
@pytest.mark.parametrize("case", CHANGES)
def test_one_bit_on_the_disk_is_noticed(tmp_path: Path, case: str) -> None:
    (tmp_path / "d").mkdir(mode=0o755)
    (tmp_path / "f").write_bytes(b"content")
    (tmp_path / "f").chmod(0o640)
    os.chown(tmp_path / "f", 8, 9)
    os.setxattr(tmp_path / "f", "user.a", b"1")
    (tmp_path / "l").symlink_to("d")
    os.mknod(tmp_path / "c", 0o20600, os.makedev(1, 3))
    for name in "dflc":
        os.utime(tmp_path / name, (0, EPOCH), follow_symlinks=False)
    before = see_directory(tmp_path)
    words, change = CHANGES[case]
    change(tmp_path)
    said = [line for line in differences(before, see_directory(tmp_path)) if not line.startswith("'/': mtime")]
    assert [line.partition(": ")[0] + ": " + line.split(": ")[1] for line in said] == [words]


@pytest.mark.needs("root")
def test_a_broken_hard_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    os.link(tmp_path / "a", tmp_path / "b")
    before = see_directory(tmp_path)
    shutil.copy2(tmp_path / "a", tmp_path / "c")
    (tmp_path / "c").replace(tmp_path / "b")
    assert [line for line in differences(before, see_directory(tmp_path)) if ": first: " in line] == [
        "'/b': first: '/a', '/b'"
    ]
