# SPDX-License-Identifier: MIT
"""The probe's comparison of trees, on a tree of every kind of file; overlays are the kernel's own.

A copy is made by `cp -a`, then one thing of it is changed: that must be the one thing reported.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from probing import Facts, parse, rehearsal

from rofs.verify import probe_wire as wire

pytestmark = pytest.mark.needs("root", "cp")  # it owns, makes devices, and sets attributes

BLOCK = 64 << 10
WHEN = 1_600_000_000
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # linux/capability.h, revision 2: cap_net_raw+ep
NULL, ZERO, DISK = os.makedev(1, 3), os.makedev(1, 5), os.makedev(7, 200)
ODD = b'odd \t\n%41\xff\\"'
OPAQUE = "trusted.overlay.opaque"
Change = Callable[[Path], object]
Compare = Callable[..., Facts]


def touch(path: Path, seconds: float = WHEN) -> None:
    os.utime(path, (seconds, seconds), follow_symlinks=False)


def edit(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    touch(path)


def mark(path: Path, value: bytes = b"one", name: str = "trusted.rofs") -> None:
    os.setxattr(path, name, value, follow_symlinks=False)


def unmark(path: Path, name: str = "trusted.rofs") -> None:
    os.removexattr(path, name, follow_symlinks=False)


def node(path: Path, kind: int, device: int = 0) -> None:
    """A device, fifo or socket in place of what is there."""
    path.unlink(missing_ok=True)
    os.mknod(path, kind | 0o644, device)
    touch(path)


def link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    touch(path)


def each(*steps: Change) -> Change:
    def change(path: Path) -> None:
        for step in steps:
            step(path)

    return change


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Every kind of file; the link `loop` would never end if it were followed, `zero` if it were read."""
    root = tmp_path / "image"
    for directory in (root, root / "dir", root / "dir" / "deeper"):
        directory.mkdir()
    for name in ("file", "empty", "suid", "capable", "marked", ".hidden", "...", "dir/deeper/leaf", "-f", "first"):
        (root / name).write_bytes(b"" if name == "empty" else b"content")
    (root / "big").write_bytes(bytes(range(256)) * (2 * BLOCK // 256) + b"!")
    (root / os.fsdecode(ODD)).write_bytes(b"odd")
    (root / "second").hardlink_to(root / "first")
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    os.chown(root / "suid", 7, 8)
    (root / "suid").chmod(0o4755)
    os.chown(root / "dir", 7, 8)
    (root / "dir").chmod(0o1755)
    mark(root / "dir")
    mark(root / "marked")
    mark(root / "capable", CAPABILITY, "security.capability")
    for path in root.rglob("*"):
        touch(path)
    for name, target in (("link", "file"), ("dangling", "nowhere"), ("loop", "."), ("dirlink", "dir")):
        link(root / name, target)
    mark(root / "dangling")
    for name, kind, device in (("zero", stat.S_IFCHR, ZERO), ("disk", stat.S_IFBLK, DISK),
                               ("fifo", stat.S_IFIFO, 0), ("socket", stat.S_IFSOCK, 0)):  # fmt: skip
        node(root / name, kind, device)
    return root


@pytest.fixture
def copy(tmp_path: Path, image: Path) -> Path:
    subprocess.run(["cp", "-a", image, tmp_path / "copy"], check=True)
    return tmp_path / "copy"


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    (tmp_path / "upper").mkdir()
    return tmp_path / "upper"


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """`by` starts the probe; `before` are shell steps in a mount namespace of its own, in tmp_path."""

    def run(
        path: Path, reference: Path, *, upper: bool = False, by: tuple[str, ...] = (), before: str | None = None
    ) -> Facts:
        plan = tmp_path / "plan"
        plan.write_bytes(wire.encode_plan([wire.compare(path, reference, upper=upper)]))
        argv = [*by, str(rehearsal()), str(plan), "--output", "-"]
        if before:
            argv = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", f'{before}\nexec "$@"', "sh", *argv]
        done = subprocess.run(argv, cwd=tmp_path, stdout=subprocess.PIPE, check=True, timeout=150)
        return parse(done.stdout)[1]

    return run


def count(root: Path) -> tuple[int, int]:
    """All entries of a tree, and the regular files of them."""
    modes = [path.lstat().st_mode for path in root.rglob("*")]
    return len(modes), sum(map(stat.S_ISREG, modes))


def findings(answer: Facts) -> dict[str, str]:
    """{path: how, and what}; no path twice."""
    found = {e["path"]: " ".join([e["how"], *e.get("what", [])]) for e in answer["entries"]}
    assert len(found) == len(answer["entries"])
    return found


def without_times(answer: Facts, root: Path | None = None) -> list[dict[str, Any]]:
    """The entries by path; `root` is the side that must have the times they say."""
    found = sorted(answer["entries"], key=lambda e: str(e["path"]))
    for entry in found:
        assert root is None or entry["mtime"] == int(
            (root / os.fsdecode(wire.unquote(entry["path"]))).lstat().st_mtime
        ), entry
    return [{k: v for k, v in entry.items() if k != "mtime"} for entry in found]


# --- is it a whole copy? -----------------------------------------------------------------------------


def test_a_copy_is_equal_in_all(compare: Compare, copy: Path, image: Path) -> None:
    entries, files = count(image)
    assert compare(copy, image) == {
        "id": 1, "op": "compare", "errno": None, "entries": [], "truncated": False,
        "compared": entries, "equal": entries, "files": files,
    }  # fmt: skip


CHANGES: dict[str, tuple[Change, str, list[str]]] = {
    "first byte": (lambda c: edit(c / "file", b"Content"), "file", ["content"]),
    "byte after the first block": (
        lambda c: edit(c / "big", (c / "big").read_bytes()[:BLOCK] + b"?" + (c / "big").read_bytes()[BLOCK + 1 :]),
        "big", ["content"],
    ),
    "last byte": (lambda c: edit(c / "big", (c / "big").read_bytes()[:-1] + b"?"), "big", ["content"]),
    "cut short": (lambda c: edit(c / "big", (c / "big").read_bytes()[:BLOCK]), "big", ["size", "content"]),
    "nothing left": (lambda c: edit(c / "file", b""), "file", ["size", "content"]),
    "no more empty": (lambda c: edit(c / "empty", b"\0"), "empty", ["size", "content"]),
    "further down": (lambda c: edit(c / "dir/deeper/leaf", b"CONTENT"), "dir/deeper/leaf", ["content"]),
    "hidden": (lambda c: edit(c / ".hidden", b"CONTENT"), ".hidden", ["content"]),
    "two dots and more": (lambda c: edit(c / "...", b"CONTENT"), "...", ["content"]),
    "mtime": (lambda c: touch(c / "file", WHEN + 1), "file", ["mtime"]),
    "mtime of a link": (lambda c: touch(c / "link", WHEN + 1), "link", ["mtime"]),
    "mtime of a device": (lambda c: touch(c / "disk", WHEN + 1), "disk", ["mtime"]),
    "setuid": (lambda c: (c / "suid").chmod(0o755), "suid", ["mode"]),
    "setgid": (lambda c: (c / "suid").chmod(0o6755), "suid", ["mode"]),
    "sticky": (lambda c: (c / "dir").chmod(0o755), "dir", ["mode"]),
    "mode of a fifo": (lambda c: (c / "fifo").chmod(0o600), "fifo", ["mode"]),
    "user": (lambda c: os.chown(c / "file", 5, -1), "file", ["owner"]),
    "group": (lambda c: os.chown(c / "dir", -1, 5), "dir", ["owner"]),
    "owner of a link": (lambda c: os.lchown(c / "link", 5, 5), "link", ["owner"]),
    "target": (lambda c: link(c / "link", "elif"), "link", ["target"]),
    "shorter target": (lambda c: link(c / "link", "fil"), "link", ["target"]),
    "longer target": (lambda c: link(c / "link", "file/"), "link", ["target"]),
    "target of a link to nothing": (
        each(lambda c: link(c / "dangling", "Nowhere"), lambda c: mark(c / "dangling")), "dangling", ["target"],
    ),
    "device number": (lambda c: node(c / "zero", stat.S_IFCHR, NULL), "zero", ["rdev"]),
    "number of a block device": (lambda c: node(c / "disk", stat.S_IFBLK, DISK + 1), "disk", ["rdev"]),
    "kind of device": (lambda c: node(c / "zero", stat.S_IFBLK, ZERO), "zero", ["type"]),
    "fifo or socket": (lambda c: node(c / "socket", stat.S_IFIFO), "socket", ["type"]),
    "link to an equal file": (lambda c: link(c / "first", "second"), "first", ["type"]),
    "link to an equal directory": (
        each(lambda c: (c / "dir").rename(c / "moved"), lambda c: link(c / "dir", "moved")), "dir", ["type"],
    ),
    "file in place of a directory": (
        each(lambda c: shutil.rmtree(c / "dir"), lambda c: edit(c / "dir", b"")), "dir", ["type"],
    ),
    "directory in place of a file": (
        each(lambda c: (c / "file").unlink(), lambda c: (c / "file").mkdir()), "file", ["type"],
    ),
    "whiteout of an upper": (lambda c: node(c / "file", stat.S_IFCHR), "file", ["type"]),
    "value": (lambda c: mark(c / "marked", b"two"), "marked", ["xattrs"]),
    "shorter value": (lambda c: mark(c / "marked", b"on"), "marked", ["xattrs"]),
    "longer value": (lambda c: mark(c / "marked", b"one\0"), "marked", ["xattrs"]),
    "attribute too few": (lambda c: unmark(c / "marked"), "marked", ["xattrs"]),
    "attribute too many": (lambda c: mark(c / "file"), "file", ["xattrs"]),
    "empty attribute": (lambda c: mark(c / "file", b""), "file", ["xattrs"]),
    "as many other attributes": (
        each(lambda c: unmark(c / "marked"), lambda c: mark(c / "marked", name="trusted.other")), "marked", ["xattrs"],
    ),
    "attribute of a directory": (lambda c: mark(c / "dir", b"two"), "dir", ["xattrs"]),
    "attribute of a link": (lambda c: mark(c / "link"), "link", ["xattrs"]),
    "value of a link to nothing": (lambda c: mark(c / "dangling", b"two"), "dangling", ["xattrs"]),
    "attribute of a device": (lambda c: mark(c / "zero"), "zero", ["xattrs"]),
    "attribute further down": (lambda c: mark(c / "dir/deeper/leaf"), "dir/deeper/leaf", ["xattrs"]),
    "lost capability": (lambda c: unmark(c / "capable", "security.capability"), "capable", ["xattrs"]),
    "other capability": (
        lambda c: mark(c / "capable", CAPABILITY.replace(b"\x00\x20", b"\x00\x10"), "security.capability"),
        "capable", ["xattrs"],
    ),
    "all at once": (
        each(
            lambda c: edit(c / "suid", b"x"), lambda c: os.chown(c / "suid", 0, 0), lambda c: mark(c / "suid"),
            lambda c: touch(c / "suid", 1),
        ),
        "suid", ["mode", "owner", "size", "content", "mtime", "xattrs"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_one_change_is_the_one_reported(compare: Compare, copy: Path, image: Path, name: str) -> None:
    change, path, what = CHANGES[name]
    change(copy)
    answer = compare(copy, image)
    assert without_times(answer, copy) == [{"path": path, "how": "differs", "what": what}]
    if what == ["type"]:  # then it is no pair of files, and no pair of directories to go into
        subprocess.run(["rm", "-r", image / path], check=True)
        link(image / path, "elsewhere")
    entries, files = count(image)
    assert (answer["compared"], answer["equal"], answer["files"]) == (entries, entries - 1, files)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: touch(c / "file", WHEN + 0.75),
        lambda c: touch(c / "dir", 1),
        lambda c: (c / "new").touch(),
        each(lambda c: (c / "dir/new").mkdir(), lambda c: (c / "dir/new/leaf").touch()),
        each(lambda c: c.chmod(0o700), lambda c: os.chown(c, 5, 5), mark),
        lambda c: mark(c / "file", name="trusted.overlay.origin"),
        each(lambda c: mark(c / "dir", b"y", OPAQUE), lambda c: mark(c / "dir", b"y", "trusted.overlay.impure")),
        each(lambda c: (c / "second").unlink(), lambda c: edit(c / "second", b"content")),
        lambda c: edit(c / "empty", b""),
    ],
    ids=["fraction", "time of a directory", "new file", "new directory", "the roots", "overlay's origin",
         "overlay's opaque", "no hard link any more", "written but the same"],
)  # fmt: skip
def test_what_a_copy_may_have_otherwise(compare: Compare, copy: Path, image: Path, change: Change) -> None:
    change(copy)
    answer = compare(copy, image)
    assert (answer["entries"], answer["compared"], answer["equal"]) == ([], count(image)[0], count(image)[0])


def test_holes_are_zeros(compare: Compare, copy: Path, image: Path) -> None:
    edit(image / "sparse", b"\0" * (3 * BLOCK))
    edit(copy / "sparse", b"")
    os.truncate(copy / "sparse", 3 * BLOCK)
    touch(copy / "sparse")
    answer = compare(copy, image)
    assert (answer["entries"], answer["compared"], answer["files"]) == ([], *count(image))


def test_what_is_missing_is_said_once(compare: Compare, copy: Path, image: Path) -> None:
    shutil.rmtree(copy / "dir")
    for name in ("dangling", "zero", os.fsdecode(ODD)):
        (copy / name).unlink()
    (image / "dir/deeper/none").mkdir()
    answer = compare(copy, image)
    assert not [e for e in answer["entries"] if "mtime" in e]
    gone = ["dir", "dangling", "zero", wire.quote(ODD)]
    assert findings(answer) == dict.fromkeys(gone, "missing")
    left = count(copy)[0]
    assert (answer["compared"], answer["equal"], answer["files"]) == (left, left, count(copy)[1])


def test_nothing_is_compared_with_an_empty_directory(compare: Compare, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    answer = compare(copy, tmp_path / "nothing")
    assert (answer["errno"], answer["entries"], answer["compared"], answer["files"]) == (None, [], 0, 0)


def test_what_links_lead_to_is_not_compared(compare: Compare, tmp_path: Path) -> None:
    for name, content in (("copy", "a"), ("image", "b")):
        (tmp_path / f"{name}-of").mkdir()
        (tmp_path / f"{name}-of" / "leaf").write_text(content)
        (tmp_path / name).mkdir()
        link(tmp_path / name / "dir", f"../{name}-of")
        link(tmp_path / name / "leaf", f"../{name}-of/leaf")
    answer = compare(tmp_path / "copy", tmp_path / "image")
    assert findings(answer) == {"dir": "differs target", "leaf": "differs target"}
    assert (answer["compared"], answer["files"]) == (2, 0)


def test_any_name_is_found(compare: Compare, tmp_path: Path) -> None:
    names = [bytes(b for b in range(1, 128) if b != 0x2F), bytes(range(128, 256)), b"%41", b" ", b"a\n", b"\xff" * 255]
    for root in (tmp_path / "copy", tmp_path / "image"):
        for name in names:
            (root / os.fsdecode(name)).mkdir(parents=True)
            (root / os.fsdecode(name) / os.fsdecode(name)).write_text(root.name[:4])
    answer = compare(tmp_path / "copy", tmp_path / "image")
    found = {wire.unquote(path) for path in findings(answer)}
    assert found == {name + b"/" + name for name in names}
    assert {e["path"] for e in answer["entries"]} == {wire.quote(path) for path in found}


@pytest.mark.parametrize("wanted", [1000, 1001])
def test_a_thousand_entries_are_told_and_all_are_counted(compare: Compare, tmp_path: Path, wanted: int) -> None:
    for root in (tmp_path / "copy", tmp_path / "image"):
        root.mkdir()
        for number in range(wanted + 2):
            (root / str(number)).touch()
            touch(root / str(number), WHEN + (number < wanted and root.name == "copy"))
    answer = compare(tmp_path / "copy", tmp_path / "image")
    assert (len(answer["entries"]), answer["truncated"]) == (1000, wanted > 1000)
    assert (answer["compared"], answer["equal"], answer["files"]) == (wanted + 2, 2, wanted + 2)


def dig(root: Path, levels: int, content: bytes) -> None:
    """Directories with names so long that no path leads to the file in the deepest one."""
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("n" * 255, dir_fd=here)
        below = os.open("n" * 255, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    file = os.open("leaf", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here)
    os.write(file, content)
    os.utime(file, (WHEN, WHEN))
    os.close(file)
    os.close(here)


@pytest.mark.parametrize(
    ("levels", "leaf", "what", "compared"), [(64, "/leaf", "content", 65), (65, "/" + "n" * 255, "depth", 65)]
)
def test_deep_trees(compare: Compare, tmp_path: Path, levels: int, leaf: str, what: str, compared: int) -> None:
    dig(tmp_path / "copy", levels, b"a")
    dig(tmp_path / "image", levels, b"b")
    answer = compare(tmp_path / "copy", tmp_path / "image")
    assert without_times(answer) == [{"path": "/".join(["n" * 255] * 64) + leaf, "how": "differs", "what": [what]}]
    assert (answer["compared"], answer["equal"]) == (compared, 64)


def test_a_hundred_directories_beside_each_other_need_no_more_than_one(compare: Compare, tmp_path: Path) -> None:
    for root in (tmp_path / "copy", tmp_path / "image"):
        for number in range(100):
            (root / str(number) / "deeper").mkdir(parents=True)
    answer = compare(tmp_path / "copy", tmp_path / "image", by=("sh", "-c", 'ulimit -n 32; exec "$@"', "sh"))
    assert (answer["entries"], answer["compared"], answer["equal"]) == ([], 200, 200)


@pytest.mark.needs("unshare")
def test_a_file_whose_size_says_nothing_is_read_to_its_end(compare: Compare, copy: Path, image: Path) -> None:
    """As in /proc, or while a program writes: the environments of two processes, one the beginning of the other."""
    short, long = (subprocess.Popen(["sleep", "300"], env=env) for env in ({"A": "1"}, {"A": "1", "B": "2"}))
    try:
        before = f"mount --bind /proc/{short.pid}/environ copy/file; mount --bind /proc/{long.pid}/environ image/file"
        answer = compare(copy, image, before=before)
    finally:
        for process in (short, long):
            process.kill()
            process.wait()
    assert findings(answer)["file"].split()[:2] == ["differs", "content"]


# --- what cannot be looked at -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reference", "errno"),
    [
        ("none", "image", "ENOENT"), ("image", "none", "ENOENT"), ("image/file", "none", "ENOTDIR"),
        ("image", "image/file", "ENOTDIR"), ("image/dirlink", "image/dir", "ENOTDIR"),
        ("image/dir", "image/dirlink", "ENOTDIR"), ("image/fifo", "image", "ENOTDIR"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("upper", [False, True])
def test_roots_must_be_directories(
    compare: Compare, image: Path, path: str, reference: str, errno: str, upper: bool
) -> None:
    answer = compare(image.parent / path, image.parent / reference, upper=upper)
    assert (answer["errno"], answer["entries"], answer["compared"]) == (errno, [], 0)


AS_ANYONE = ("setpriv", *(f"--{kind}=-dac_override,-dac_read_search" for kind in ("inh-caps", "bounding-set")))


@pytest.mark.needs("setpriv")
def test_what_cannot_be_read_is_not_equal(compare: Compare, copy: Path, image: Path) -> None:
    """Root without the capabilities to read what its mode forbids."""
    (image / "dir/deeper/none").mkdir()
    for root in (copy, image):
        os.chown(root / "dir", 0, 0)
        (root / "dir").chmod(0o600)  # its names can be read and nothing else
        (root / "file").chmod(0)
        (root / "shut").mkdir()
        (root / "shut" / "leaf").write_text(root.name)
        (root / "shut").chmod(0)
    (image / "big").chmod(0o200)
    (copy / "marked").chmod(0o4000)
    answer = compare(copy, image, by=AS_ANYONE)
    assert findings(answer) == dict.fromkeys(["dir/deeper", "file", "shut", "big", "marked"], "differs unreadable")
    assert answer["compared"] - answer["equal"] == 5
    assert not [e for e in answer["entries"] if e["path"] == "dir/deeper" and "mtime" in e], "what has no attributes"
    (copy / "shut").chmod(0o700)
    assert findings(compare(copy, image, by=AS_ANYONE))["shut"] == "differs unreadable"
    assert compare(copy / "shut", image / "shut", by=AS_ANYONE)["errno"] == "EACCES"


@pytest.mark.needs("unshare")
@pytest.mark.parametrize("where", ["copy", "image"])
def test_another_file_system_is_told_and_not_entered(compare: Compare, copy: Path, image: Path, where: str) -> None:
    before = f"mount -t tmpfs -o mode=0755 none {where}/dir/deeper; echo other > {where}/dir/deeper/leaf"
    answer = compare(copy, image, before=before)
    assert without_times(answer) == [{"path": "dir/deeper", "how": "differs", "what": ["mount"]}]
    assert answer["compared"] == count(image)[0] - 1


@pytest.mark.needs("unshare")
def test_a_file_bound_from_another_file_system_is_compared(compare: Compare, copy: Path, image: Path) -> None:
    """Its device says nothing: overlayfs gives each of its files the device of the layer below."""
    before = """
        mkdir t; mount -t tmpfs none t; cp -a image/file image/big t; echo >> t/file; touch -r image/file t/file
        mount --bind t/file copy/file; mount --bind t/big copy/big
    """
    answer = compare(copy, image, before=before)
    assert answer["entries"] == [{"path": "file", "how": "differs", "what": ["size", "content"], "mtime": WHEN}]


@pytest.mark.needs("unshare")
def test_a_file_system_without_attributes_has_none(compare: Compare, tmp_path: Path, image: Path) -> None:
    before = "mkdir copy; mount -t ramfs none copy; cp -dR --preserve=mode,ownership,timestamps image/. copy"
    answer = compare(tmp_path / "copy", image, before=before)
    assert findings(answer) == dict.fromkeys(["dir", "marked", "capable", "dangling"], "differs xattrs")
    assert answer["compared"] == count(image)[0]


# --- what does an upper directory hide? ---------------------------------------------------------------


def into(name: str, *more: Callable[[Path], object]) -> Change:
    """The image's own, with its parents, copied to the upper directory; then changed there."""

    def change(upper: Path) -> None:
        subprocess.run(["cp", "-a", "--parents", name, upper], check=True, cwd=upper.parent / "image")
        for step in more:
            step(upper / name)

    return change


def opaque(path: Path) -> None:
    mark(path, b"y", OPAQUE)


UPPERS: dict[str, tuple[Change, list[dict[str, Any]]]] = {
    "nothing": (lambda u: None, []),
    "new names": (each(lambda u: (u / "new").touch(), lambda u: (u / "d/dir/file").mkdir(parents=True)), []),
    "a file as it is": (into("file"), [{"path": "file", "how": "same"}]),
    "overlayfs's own attributes": (
        into("file", lambda p: mark(p, name="trusted.overlay.origin")), [{"path": "file", "how": "same"}],
    ),
    "a link as it is": (into("dirlink"), [{"path": "dirlink", "how": "same"}]),
    "a device as it is": (into("zero"), [{"path": "zero", "how": "same"}]),
    "a fifo as it is": (into("fifo"), [{"path": "fifo", "how": "same"}]),
    "a file further down": (
        each(into("dir/deeper/leaf"), lambda u: mark(u / "dir")),  # which cp leaves out of a parent
        [{"path": "dir/deeper/leaf", "how": "same"}],
    ),
    "another content": (
        into("file", lambda p: edit(p, b"CONTENT")), [{"path": "file", "how": "differs", "what": ["content"]}],
    ),
    "a directory as it is": (into("dir"), [{"path": "dir/deeper/leaf", "how": "same"}]),
    "an attribute of a directory": (
        into("dir", lambda p: shutil.rmtree(p / "deeper"), unmark),
        [{"path": "dir", "how": "differs", "what": ["xattrs"]}],
    ),
    "a deleted file": (lambda u: whiteout(u / "file"), [{"path": "file", "how": "deleted"}]),
    "a deleted directory": (lambda u: whiteout(u / "dir"), [{"path": "dir", "how": "deleted"}]),
    "a deleted link to nothing": (lambda u: whiteout(u / "dangling"), [{"path": "dangling", "how": "deleted"}]),
    "a deleted device": (lambda u: whiteout(u / "zero"), [{"path": "zero", "how": "deleted"}]),
    "a whiteout of nothing": (lambda u: whiteout(u / "new"), []),
    "a device that is no whiteout": (
        lambda u: node(u / "file", stat.S_IFCHR, os.makedev(0, 1)),
        [{"path": "file", "how": "differs", "what": ["type"]}],
    ),
    "a block device 0:0": (
        lambda u: node(u / "file", stat.S_IFBLK, 0), [{"path": "file", "how": "differs", "what": ["type"]}],
    ),
    "an opaque directory": (
        into("dir", lambda p: shutil.rmtree(p / "deeper"), opaque), [{"path": "dir", "how": "opaque"}],
    ),
    "an opaque one with attributes of its own": (
        into("dir", lambda p: shutil.rmtree(p / "deeper"), opaque, lambda p: p.chmod(0o700)),
        [{"path": "dir", "how": "opaque", "what": ["mode"]}],
    ),
    "an opaque one with a file": (
        into("dir", opaque), [{"path": "dir", "how": "opaque"}, {"path": "dir/deeper/leaf", "how": "same"}],
    ),
    "a new opaque directory": (
        each(lambda u: (u / "new").mkdir(), lambda u: opaque(u / "new"), lambda u: (u / "new/file").touch()), [],
    ),
    "one that is not opaque": (
        into("dir", lambda p: shutil.rmtree(p / "deeper"), lambda p: mark(p, b"x", OPAQUE)), [],
    ),
    "one that says more than y": (
        into("dir", lambda p: shutil.rmtree(p / "deeper"), lambda p: mark(p, b"yes", OPAQUE)), [],
    ),
    "an opaque directory in place of a file": (
        each(lambda u: (u / "file").mkdir(), lambda u: opaque(u / "file")),
        [{"path": "file", "how": "differs", "what": ["type"]}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UPPERS)
def test_what_an_upper_directory_hides(compare: Compare, upper: Path, image: Path, name: str) -> None:
    change, expected = UPPERS[name]
    change(upper)
    answer = compare(upper, image, upper=True)
    assert without_times(answer, upper) == expected
    there = [p for p in upper.rglob("*") if os.path.lexists(image / p.relative_to(upper))]
    deleted = sum(e["how"] == "deleted" for e in expected)
    assert answer["compared"] == len(there) - deleted
    assert answer["equal"] == answer["compared"] - sum("what" in e for e in expected)


OVERLAY = """
    mkdir t; mount -t tmpfs none t; mkdir t/upper t/work t/merged
    layers=lowerdir=$PWD/image,upperdir=$PWD/t/upper,workdir=$PWD/t/work
    mount -t overlay -o $layers,index=off,redirect_dir=off,metacopy=off,xino=off overlay t/merged
    cd t/merged
    rm file; rm -r dir; mkdir dir; echo new > dir/deeper; mv first renamed
    chmod 0600 suid; chmod 0600 marked; chmod 0644 marked
    echo more >> big; touch new; mkdir one; touch one/two
"""


@pytest.mark.needs("unshare")
def test_an_overlay_that_the_kernel_made(compare: Compare, tmp_path: Path, image: Path) -> None:
    start = int(time.time())
    answer = compare(tmp_path / "t/upper", image, upper=True, before=OVERLAY)
    old = {e["path"] for e in answer["entries"] if e["mtime"] < start}
    assert old == {"marked", "suid"}, "a file that is copied up for its mode alone keeps its time"
    assert without_times(answer) == [
        {"path": "big", "how": "differs", "what": ["size", "content", "mtime"]},
        {"path": "dir", "how": "opaque", "what": ["mode", "owner", "xattrs"]},
        {"path": "dir/deeper", "how": "differs", "what": ["type"]},
        {"path": "file", "how": "deleted"},
        {"path": "first", "how": "deleted"},
        {"path": "marked", "how": "same"},
        {"path": "suid", "how": "differs", "what": ["mode"]},
    ]
    assert (answer["compared"], answer["equal"], answer["files"]) == (5, 1, 3)
