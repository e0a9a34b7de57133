# SPDX-License-Identifier: MIT
"""Small trees and entries -> the stream read back with `tarfile`."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pytest
from tarmaker import EPOCH, Row, device, file, folder, hardlink, raw_pax, symlink, write_tar

from rofs.entry import Entry
from rofs.errors import ImageError
from rofs.image.merge import Pieces, Stored, merge, merge_into
from rofs.image.records import FileRecord
from rofs.image.tarstream import Header
from rofs.image.union import drop_matcher
from rofs.treefacts import path_key, read_facts


@dataclass
class Merged:
    """What came out."""

    data: bytes
    infos: dict[str, tarfile.TarInfo]
    content: dict[str, bytes]
    records: dict[str, FileRecord]
    notes: list[str]


def merged(
    tmp_path: Path,
    *tars: Sequence[Row],
    entries: Sequence[Entry] = (),
    drop: Sequence[str] = (),
    acl: Literal["error", "drop"] = "error",
    keep_times: bool = False,
) -> Merged:
    return merged_files(
        tmp_path,
        *[write_tar(tmp_path / f"{n}.tar", *rows) for n, rows in enumerate(tars)],
        entries=entries,
        drop=drop,
        acl=acl,
        keep_times=keep_times,
    )


def merged_files(tmp_path: Path, *paths: Path, acl: Literal["error", "drop"] = "error", **parts: Any) -> Merged:
    facts = read_facts(paths[0], paths[1:])
    notes: list[str] = []
    out = tmp_path / "out.tar"
    with out.open("wb") as file:
        merged = merge(
            paths,
            parts.get("entries", ()),
            parts.get("drop", ()),
            file.fileno(),
            epoch=EPOCH,
            acl=acl,
            resolve=facts.resolve,
            keep_times=parts.get("keep_times", False),
            note=notes.append,
        )
    records = list(merged)
    with tarfile.open(out, "r:", encoding="utf-8") as archive:
        infos = archive.getmembers()
        content = {path_key(i.name): stream.read() for i in infos if i.isreg() and (stream := archive.extractfile(i))}
    names = [path_key(info.name) for info in infos]
    assert len(names) == len(set(names)), "a path is named twice"
    assert set(names) == {record.path for record in records}
    assert [record.path for record in records] == sorted(names)
    seen: set[str] = set()
    for name in names:
        assert name == "/" or (name.rpartition("/")[0] or "/") in seen, "parents come first"
        seen.add(name)
    return Merged(
        out.read_bytes(),
        dict(zip(names, infos, strict=True)),
        content,
        {record.path: record for record in records},
        notes,
    )


def entry(path: str, kind: Literal["file", "dir", "symlink"] = "file", **other: Any) -> Entry:
    return Entry(path=PurePosixPath(path), kind=kind, why=other.pop("why", "files[0]"), **other)


BASE = [
    folder("./", 0o711),
    folder("./etc", 0o750, uid=3),
    file("./etc/a", b"abc", mode=0o4755, uid=1, gid=2),
]


def test_untouched_members_keep_their_very_bytes(tmp_path: Path) -> None:
    rows = [*BASE, symlink("./l", "etc/a"), hardlink("./h", "./etc/a"), device("./c", tarfile.CHRTYPE, 1, 3)]
    rows += [
        file("./" + "long/" * 40 + "name", b"z" * 2_000_001),
        file("./etc/\u00e9", pax={"SCHILY.xattr.user.a": "1"}),
    ]
    out = merged(tmp_path, rows)
    source = (tmp_path / "0.tar").read_bytes()
    for name in ("/etc/a", "/l", "/c", "/" + "long/" * 40 + "name", "/etc/\u00e9"):
        info = out.infos[name]
        length = info.offset_data + (info.size + 511) // 512 * 512 - info.offset
        assert out.data[info.offset : info.offset + length] in source
    assert out.infos["/h"].linkname == "./etc/a"
    assert out.records["/etc/a"] == FileRecord(
        path="/etc/a", kind="file", mode=0o4755, uid=1, gid=2, size=3, mtime=EPOCH - 100,
        sha256=hashlib.sha256(b"abc").hexdigest(),
    )  # fmt: skip
    assert out.records["/h"].kind == "hardlink" and out.records["/h"].target == "/etc/a"
    assert out.records["/h"].sha256 == out.records["/etc/a"].sha256
    assert out.records["/c"].rdev == "1:3" and out.records["/l"].target == "etc/a"
    assert out.infos["/"].mode == 0o711


def test_entries_replace_and_add(tmp_path: Path) -> None:
    rows = [*BASE, symlink("./etc/mtab", "../proc/mounts"), symlink("./lib", "usr/lib"), folder("./usr/lib")]
    out = merged(
        tmp_path,
        rows,
        entries=[
            entry("/etc/a", content=b"new", mode=0o600, uid=7),
            entry("/etc/mtab", content=b"plain"),
            entry("/lib/systemd/system/x.mount", content=b"[Mount]"),
            entry("/etc/localtime", "symlink", target="/usr/share/zoneinfo/UTC"),
            entry("/etc", "dir", mode=0o700),
            entry("/var/lib/app", "dir", mode=0o2770, gid=9),
        ],
    )
    assert out.content["/etc/a"] == b"new" and out.content["/etc/mtab"] == b"plain"
    assert out.content["/usr/lib/systemd/system/x.mount"] == b"[Mount]"
    assert out.infos["/lib"].issym()
    for path, mode in {"/etc": 0o700, "/var": 0o755, "/var/lib": 0o755, "/var/lib/app": 0o2770}.items():
        assert out.infos[path].isdir() and out.infos[path].mode == mode
    made = out.infos["/etc/a"]
    assert (made.mode, made.uid, made.mtime, made.uname) == (0o600, 7, EPOCH, "")
    assert out.infos["/etc/localtime"].linkname == "/usr/share/zoneinfo/UTC"
    assert out.records["/etc/a"].sha256 == hashlib.sha256(b"new").hexdigest()


def test_the_same_bytes_again_and_in_any_order_of_entries(tmp_path: Path) -> None:
    entries = [entry("/b", content=b"1"), entry("/a/x", content=b"2"), entry("/c", "dir")]
    first = merged(tmp_path, BASE, entries=entries).data
    assert merged(tmp_path, BASE, entries=entries[::-1]).data == first


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ([entry("/etc", why="files[3]")], r"cannot replace the tree's dir \(files\[3\]\)"),
        ([entry("/etc/a", "dir", why="mounts[1]")], r"cannot replace the tree's file \(mounts\[1\]\)"),
        ([entry("/lib", "dir", why="x")], "cannot replace the tree's symlink"),
        ([entry("/etc/a/b", why="files[9]")], r"/etc/a is a file, no directory \(files\[9\]\)"),
        (
            [entry("/x", content=b"1", why="one"), entry("/x", content=b"2", why="two")],
            "twice: for one and for two",
        ),
        ([entry("/x"), entry("/x/y")], "/x is a file"),
    ],
)
def test_clashes(tmp_path: Path, entries: list[Entry], word: str) -> None:
    with pytest.raises(ImageError, match=word):
        merged(tmp_path, [*BASE, folder("./usr/lib"), symlink("./lib", "usr/lib")], entries=entries)


def test_two_that_want_the_same_agree(tmp_path: Path) -> None:
    out = merged(tmp_path, BASE, entries=[entry("/d", "dir", why="a"), entry("/d", "dir", why="b")])
    assert out.infos["/d"].isdir()


def test_a_directory_may_replace_a_dangling_link(tmp_path: Path) -> None:
    out = merged(tmp_path, [*BASE, symlink("./var", "/nowhere")], entries=[entry("/var", "dir")])
    assert out.infos["/var"].isdir()


LINKED = [*BASE, hardlink("./etc/b", "./etc/a"), hardlink("./etc/c", "./etc/a")]


@pytest.mark.parametrize("how", ["drop", "replace"])
def test_a_hard_link_outlives_its_file(tmp_path: Path, how: str) -> None:
    drop = ["/etc/a"] if how == "drop" else []
    entries = [entry("/etc/a", content=b"other")] if how == "replace" else []
    out = merged(tmp_path, LINKED, drop=drop, entries=entries)
    assert out.infos["/etc/b"].isreg() and out.content["/etc/b"] == b"abc"
    assert (out.infos["/etc/b"].mode, out.infos["/etc/b"].uid) == (0o4755, 1)
    assert out.infos["/etc/c"].islnk() and out.infos["/etc/c"].linkname == "./etc/b"
    assert out.content.get("/etc/a") == (b"other" if entries else None)
    assert out.records["/etc/c"].target == "/etc/b" and out.records["/etc/b"].kind == "file"


def test_a_replaced_link_leaves_the_others_alone(tmp_path: Path) -> None:
    out = merged(tmp_path, LINKED, entries=[entry("/etc/b", content=b"own")])
    assert out.content["/etc/b"] == b"own" and out.infos["/etc/c"].linkname == "./etc/a"


def test_drop_keeps_the_directory(tmp_path: Path) -> None:
    rows = [
        *BASE,
        folder("./var/lists", 0o700),
        folder("./var/lists/partial"),
        file("./var/lists/x"),
        file("./var/lists/.hidden"),
        file("./var/l"),
    ]
    out = merged(tmp_path, rows, drop=["/var/lists/*", "/nothing/*"])
    assert set(out.infos) == {"/", "/etc", "/etc/a", "/var", "/var/lists", "/var/l"}
    assert out.infos["/var/lists"].mode == 0o700


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/var/lists/*", ["/var/lists/a", "/var/lists/a/b", "/var/lists/.x"], ["/var/lists", "/var/listsa"]),
        ("/a", ["/a", "/a/b"], ["/ab", "/b/a"]),
        ("/a/*.pyc", ["/a/x.pyc"], ["/a/b/x.pyc", "/a/xpyc"]),
        ("/a/**/*.pyc", ["/a/b/x.pyc", "/a/b/c/x.pyc"], ["/a/x.py"]),
        ("/a/[!b]?", ["/a/cd", "/a/cd/e"], ["/a/bd", "/a/c"]),
        ("/a+(b)", ["/a+(b)"], ["/aab"]),
    ],
)
def test_drop_matcher(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = drop_matcher([pattern])
    assert all(map(matches, yes)) and not any(map(matches, no))
    assert not drop_matcher([])("/a")


def test_times_after_the_epoch_are_set_back(tmp_path: Path) -> None:
    rows = [
        folder("./", mtime=EPOCH + 5),
        file("./new", b"n", mtime=EPOCH + 1, uid=4),
        file("./old", mtime=1.5),
    ]
    out = merged(tmp_path, rows)
    assert {path: info.mtime for path, info in out.infos.items()} == {"/": EPOCH, "/new": EPOCH, "/old": 1.5}
    assert out.records["/old"].mtime == 1 and out.infos["/new"].uid == 4 and out.content["/new"] == b"n"


def test_the_times_of_a_tar_are_kept_and_its_headers_are_not(tmp_path: Path) -> None:
    rows = [folder("./", mtime=EPOCH + 5), file("./new", b"n", mtime=2**32 - 1), file("./old", mtime=1.5, uid=7)]
    out = merged(tmp_path, rows, entries=[entry("/made", content=b"m")], keep_times=True)
    times = {"/": EPOCH + 5, "/new": 2**32 - 1, "/old": 1, "/made": EPOCH}
    assert {path: info.mtime for path, info in out.infos.items()} == times
    assert {path: record.mtime for path, record in out.records.items()} == times
    assert out.infos["/old"].uid == 7 and out.infos["/old"].pax_headers == {} and out.content["/new"] == b"n"


def test_a_time_is_rounded_down_whatever_a_float_makes_of_it(tmp_path: Path) -> None:
    out = merged(tmp_path, [file("./a", pax={"mtime": f"{EPOCH - 1}.999999999"})], keep_times=True)
    assert out.records["/a"].mtime == EPOCH - 1


CAPS = bytes.fromhex("0100000200200000000000000000000000000000")


def test_attributes_survive_a_changed_header(tmp_path: Path) -> None:
    pax = {"SCHILY.xattr.security.capability": raw_pax(CAPS), "LIBARCHIVE.xattr.user.b": "AP8"}
    out = merged(tmp_path, [file("./ping", b"x", mtime=EPOCH + 9, pax=pax)])
    assert raw_pax(CAPS) == out.infos["/ping"].pax_headers["SCHILY.xattr.security.capability"]
    assert out.infos["/ping"].pax_headers["SCHILY.xattr.user.b"] == raw_pax(b"\0\xff")
    assert out.records["/ping"].caps == "cap_net_raw=ep"
    assert out.records["/ping"].xattrs == {"security.capability": CAPS.hex(), "user.b": "00ff"}


ACL = {
    "SCHILY.xattr.system.posix_acl_access": "x",
    "SCHILY.acl.default": "user::rwx,user:1:r--",
    "SCHILY.xattr.user.k": "v",
}


def test_acls(tmp_path: Path) -> None:
    rows = [file("./plain"), *[folder(f"./d{n}", 0o755, pax=ACL) for n in range(7)]]
    with pytest.raises(ImageError, match=r"/d0, /d1, .*/d4 and 2 more \(set `image.acl: drop`"):
        merged(tmp_path, rows)
    out = merged(tmp_path, rows, acl="drop")
    assert out.infos["/d0"].pax_headers == {"SCHILY.xattr.user.k": "v"}
    assert b"acl" not in out.data
    replaced = merged(tmp_path, [rows[0], rows[1]], entries=[entry("/d0", "dir")])
    assert "/d0" in replaced.infos, "the ACL of what is replaced is nobody's concern"


def test_an_attribute_squashfs_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"/a: .* system\.cifs"):
        merged(tmp_path, [file("./a", pax={"SCHILY.xattr.system.cifs": "1"})])


def test_a_path_twice_in_one_tar(tmp_path: Path) -> None:
    out = merged(
        tmp_path,
        [file("./a", b"1"), hardlink("./l", "./a"), file("a", b"22"), folder("d"), folder("d", 0o700)],
    )
    assert out.content["/a"] == b"22" and out.content["/l"] == b"1"
    assert out.infos["/d"].mode == 0o700
    assert [note.split(": ")[1].split()[0] for note in out.notes] == ["/a", "/d"]


def test_a_later_tar_adds_through_links(tmp_path: Path) -> None:
    base = [folder("./usr/lib", 0o750), symlink("./lib", "usr/lib"), file("./etc/x", b"old")]
    modules = [
        folder("./lib"),
        folder("./lib/modules"),
        file("./lib/modules/m.ko", b"ko"),
        hardlink("./lib/n.ko", "./lib/modules/m.ko"),
    ]
    out = merged(tmp_path, base, [*modules, file("./etc/x", b"new")])
    assert out.infos["/lib"].issym() and out.infos["/usr/lib"].mode == 0o750
    assert out.content["/usr/lib/modules/m.ko"] == b"ko" and out.content["/etc/x"] == b"new"
    assert out.infos["/usr/lib/n.ko"].linkname == "./usr/lib/modules/m.ko"
    assert out.notes == []


def test_a_hard_link_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="hard link to nothing"):
        merged(tmp_path, [hardlink("./a", "./b")])


def test_hidden_names_are_not_shortened(tmp_path: Path) -> None:
    out = merged(tmp_path, [file("./.a", b"1"), hardlink("./.b", "./.a")])
    assert set(out.infos) == {"/", "/.a", "/.b"} and out.infos["/.b"].linkname == "./.a"


SPARSE = ["--format=gnu", *[f"--format=pax --sparse-version={version}" for version in ("0.0", "0.1", "1.0")]]


@pytest.mark.needs("tar")
@pytest.mark.parametrize("options", SPARSE)
def test_sparse_files_of_every_form(tmp_path: Path, options: str) -> None:
    path = tmp_path / "tree" / "hole"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(5 << 20)
        file.seek(3_000_000)
        file.write(b"abc")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    for mtime, keep_times in ((EPOCH - 1, False), (EPOCH + 1, False), (EPOCH, True)):  # copied; encoded anew, twice
        os.utime(path, (mtime, mtime))
        tar = tmp_path / "s.tar"
        subprocess.run(["tar", *options.split(), "-S", "-cf", tar, "-C", path.parent, "./hole"], check=True)
        assert tar.stat().st_size < 1 << 20
        out = merged_files(tmp_path, tar, keep_times=keep_times)
        assert out.records["/hole"].sha256 == expected and out.records["/hole"].size == 5 << 20
        assert hashlib.sha256(out.content["/hole"]).hexdigest() == expected


MANY = 20_000


def measure_many(tar: Path) -> tuple[int, int, int]:
    """Merge into nothing -> the records, the bytes that Python holds at the end and held at most."""

    class Null:
        def add(self, header: Header, content: Pieces, stored: Stored | None) -> None:
            for _ in content:
                pass

    tracemalloc.start()
    records = merge_into(Null(), [tar], [], [], epoch=0, acl="error", resolve=lambda path: path, keep_times=True)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return len(records), held, peak


def test_a_member_of_many_costs_little_memory(tmp_path: Path) -> None:
    """In a process of its own: here other tests have left a table of names whose growth would be counted."""
    with tarfile.open(tmp_path / "tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(MANY):
            info = tarfile.TarInfo(f"usr/share/many/part-{number // 50:04}/source-{number:06}")
            info.size = number % 1000
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    code = "import sys, pathlib, test_merge; print(*test_merge.measure_many(pathlib.Path(sys.argv[1])))"
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{here}:{here.parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "tar"], env=env, check=True, capture_output=True, text=True
    )
    count, held, peak = map(int, done.stdout.split())
    assert count == MANY + 4 + MANY // 50  # directories that nobody named
    assert held < 300 * MANY
    assert peak < 600 * MANY
