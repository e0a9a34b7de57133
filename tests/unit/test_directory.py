# SPDX-License-Identifier: MIT
"""Directories of this machine -> tars: compared with the disk by GNU tar, the same for nobody, and every refusal."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from rofs.errors import ProfileError, RofsError, SourceError
from rofs.image.tarstream import caps_text, find_acl
from rofs.ownership import parse_ownership
from rofs.sources import directory as module
from rofs.sources.directory import write_directory_tar
from rofs.tarmembers import decode_xattrs
from rofs.treefacts import read_facts

TIME = 1_600_000_000
NOBODY = 65534
ROOT = Path(__file__).resolve().parents[2]
PASSWD = "root:x:0:0::/root:/bin/sh\nmqtt:x:101:102::/:/bin/false\n"
GROUP = "root:x:0:\nmqtt:x:102:\ndialout:x:20:\n"
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, who)
    for tag, perm, who in [
        (1, 6, 0xFFFFFFFF),
        (2, 6, 1000),
        (4, 4, 0xFFFFFFFF),
        (16, 6, 0xFFFFFFFF),
        (32, 4, 0xFFFFFFFF),
    ]
)
"""user::rw-, user:1000:rw-, group::r--, mask::rw-, other::r--, as in linux/posix_acl_xattr.h."""
PING = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small root file system; umask and build time leave no trace in it."""
    root = tmp_path / "root"
    make_tree(root)
    return root


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that nobody may enter and write to: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def make_tree(root: Path) -> None:
    for name in ("etc", "usr/bin", "a", "var/lib/mqtt", "dev"):
        (root / name).mkdir(parents=True)
    write(root / "etc/passwd", PASSWD)
    write(root / "etc/group", GROUP)
    write(root / "usr/bin/ping", "x" * 1000, 0o4755)
    write(root / "usr/bin/sh", "shell", 0o755)
    (root / "usr/bin/ash").hardlink_to(root / "usr/bin/sh")
    (root / "bin").symlink_to("usr/bin")
    (root / "dangling").symlink_to("/nowhere/at all")
    os.link(root / "dangling", root / "a/dangling too", follow_symlinks=False)
    write(root / "a-b", "", 0o600)  # "-" is before "/", and yet this comes after what is in a
    write(root / "a/c", "c")
    write(root / ("n" * 200), "long")
    write(Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")), "latin 1")
    write(root / "new\nline", "n" * 512)
    (root / "var/lib/mqtt").chmod(0o2770)
    os.mkfifo(root / "dev/pipe")
    (root / "dev/pipe").chmod(0o640)
    settle(root)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


def settle(root: Path) -> None:
    """Times that are not now, modes that no umask decides."""
    for number, (directory, folders, files) in enumerate(os.walk(root, topdown=False)):
        for name in (*folders, *files):
            os.utime(Path(directory, name), (0, TIME + number), follow_symlinks=False)
        if not Path(directory).stat().st_mode & 0o2000:
            Path(directory).chmod(0o755)
    os.utime(root, (0, TIME))


def tar_of(root: Path, table: str = "") -> dict[str, tarfile.TarInfo]:
    """The tar of `root` -> its members by name."""
    out = root.parent / "out.tar"
    write_directory_tar(root, out, parse_ownership(table.encode(), "table") if table else None)
    return members_of(out)


def members_of(tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(tar, "r:", encoding="utf-8", errors="surrogateescape") as archive:
        return {info.name: info for info in archive}


def refused(root: Path, table: str = "", on_line: Callable[[str], None] = lambda _: None) -> str:
    """What the one who asks for the tar of `root` is told; nothing may be left."""
    out = root.parent / "out.tar"
    with pytest.raises(RofsError) as caught:
        write_directory_tar(root, out, parse_ownership(table.encode(), "table") if table else None, on_line)
    assert not out.exists()
    assert isinstance(caught.value, ProfileError if table else SourceError)
    return str(caught.value)


def disk_of(root: Path) -> dict[str, object]:
    """What an image is made of, by path: kind and mode, time, content or target, and which names are one file."""
    seen: dict[tuple[int, int], str] = {}
    found: dict[str, object] = {}
    paths = [root, *sorted(root.rglob("*"))]
    for path in paths:
        at, name = path.lstat(), str(path.relative_to(root))
        first = seen.setdefault((at.st_dev, at.st_ino), name) if not path.is_fifo() else name
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        target = str(path.readlink()) if path.is_symlink() else ""
        xattrs = {} if path.is_symlink() else {key: os.getxattr(path, key) for key in os.listxattr(path)}
        found[name] = (oct(at.st_mode), int(at.st_mtime), content, target, first, at.st_rdev, xattrs)
    return found


# What is there


@pytest.mark.needs("tar")
def test_gnu_tar_makes_the_same_tree_of_it(tree: Path, tmp_path: Path) -> None:
    out, copy = tmp_path / "out.tar", tmp_path / "copy"
    write_directory_tar(tree, out, None)
    copy.mkdir()
    subprocess.run(["tar", "-xpP", "--xattrs", "--xattrs-include=*", f"-f{out}", f"-C{copy}"], check=True)
    assert disk_of(copy) == disk_of(tree)
    listing = subprocess.run(["tar", "-tv", "--numeric-owner", f"-f{out}"], check=True, capture_output=True).stdout
    owners = {line.split()[1] for line in listing.splitlines()}
    assert owners == {b"0/0"}
    assert len(listing.splitlines()) == len(disk_of(tree))


def in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: os.fsencode(name).split(b"/"))


def test_members_are_sorted_by_bytes_and_the_root_comes_first(tree: Path) -> None:
    names = list(tar_of(tree))
    assert names[:5] == [".", "./a", "./a/c", "./a/dangling too", "./a-b"]
    assert names == in_order(names)
    assert "./caf\udce9" in names


def test_everything_is_root_s_and_the_rest_is_the_disk_s(tree: Path) -> None:
    members = tar_of(tree)
    assert {(info.uid, info.gid, info.uname, info.gname) for info in members.values()} == {(0, 0, "", "")}
    assert members["./usr/bin/ping"].mode == 0o4755
    assert members["./var/lib/mqtt"].mode == 0o2770
    assert members["."].mtime == TIME
    assert members["./a/c"].mtime == int((tree / "a/c").stat().st_mtime)
    assert (members["./dev/pipe"].type, members["./dev/pipe"].mode) == (tarfile.FIFOTYPE, 0o640)
    assert (members["./dangling"].type, members["./dangling"].linkname) == (tarfile.LNKTYPE, "./a/dangling too")
    assert members["./a/dangling too"].linkname == "/nowhere/at all"


def test_a_file_of_two_names_is_stored_once(tree: Path) -> None:
    members = tar_of(tree)
    assert (members["./usr/bin/ash"].type, members["./usr/bin/ash"].size) == (tarfile.REGTYPE, 5)
    assert (members["./usr/bin/sh"].type, members["./usr/bin/sh"].linkname) == (tarfile.LNKTYPE, "./usr/bin/ash")


def test_a_second_name_outside_the_directory_makes_no_link(tree: Path) -> None:
    (tree.parent / "outside").hardlink_to(tree / "a/c")
    assert tar_of(tree)["./a/c"].type == tarfile.REGTYPE


def test_the_rest_of_rofs_reads_it(tree: Path) -> None:
    tar_of(tree)
    facts = read_facts(tree.parent / "out.tar")
    assert facts.users()["mqtt"].uid == 101
    node = facts.lookup("/bin/sh")
    assert node is not None
    assert (node.kind, node.size) == ("file", 5)


def test_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    assert list(tar_of(tmp_path / "root")) == ["."]


def test_a_tree_deeper_than_a_path_can_be_long(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    at = os.open(root, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("deep", dir_fd=at)
        below = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    try:
        assert f".{'/deep' * 900}" in tar_of(root)
    finally:
        subprocess.run(["rm", "-rf", root], check=True)  # shutil's would recurse too deep


def test_on_line_says_how_much_there_is(tree: Path) -> None:
    said: list[str] = []
    write_directory_tar(tree, tree.parent / "out.tar", None, said.append)
    assert said == [f"{tree}: {len(disk_of(tree))} paths"]


@pytest.mark.needs("root", "tar")
def test_device_nodes(tree: Path) -> None:
    os.mknod(tree / "dev/null", 0o20666, os.makedev(1, 3))
    os.mknod(tree / "dev/sda", 0o60660, os.makedev(259, 70000))
    members = tar_of(tree)
    null, disk = members["./dev/null"], members["./dev/sda"]
    assert (null.type, null.devmajor, null.devminor) == (tarfile.CHRTYPE, 1, 3)
    assert (disk.type, disk.devmajor, disk.devminor) == (tarfile.BLKTYPE, 259, 70000)


# The same bytes


def test_the_order_of_the_disk_leaves_no_trace(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar_of(tree)
    before = (tree.parent / "out.tar").read_bytes()
    listdir = os.listdir

    def shuffled(at: int) -> list[str]:
        names = listdir(at)
        random.shuffle(names)
        return names

    monkeypatch.setattr(os, "listdir", shuffled)
    for _ in range(5):
        tar_of(tree)
        assert (tree.parent / "out.tar").read_bytes() == before


def test_a_copy_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    tar_of(tree)
    copy = tmp_path / "elsewhere/copy"
    copy.parent.mkdir()
    subprocess.run(["cp", "-a", tree, copy], check=True)
    tar_of(copy)
    assert (copy.parent / "out.tar").read_bytes() == (tmp_path / "out.tar").read_bytes()


def as_nobody(work: Callable[[], None]) -> str:
    """Do `work` in a child without privilege -> what it raised, or ""."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
        except BaseException as error:  # noqa: BLE001 -- whatever it is, the parent shall see it
            said = f"{type(error).__name__}: {error}"
        os.write(send, said.encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as stream:
        said = stream.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return said


@pytest.mark.needs("root")
def test_nobody_gets_the_bytes_of_root(shared: Path) -> None:
    make_tree(shared / "root")
    root = shared / "root"
    (root / "a-b").chmod(0o604)
    (root / "var/lib/mqtt").chmod(0o2775)
    os.chown(root / "a/c", 1000, 1000)
    os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))
    os.setxattr(root / "usr/bin/sh", "security.capability", PING)
    os.setxattr(root / "usr/bin/sh", "trusted.overlay.origin", b"seen by root alone")
    os.setxattr(root / "usr/bin/sh", "user.kept", b"value")
    table = parse_ownership(b"/var/lib/mqtt r -1 mqtt mqtt\n/dev/tty c 660 0 dialout 4 0 0 1 3\n", "table")
    assert as_nobody(lambda: write_directory_tar(root, shared / "nobody.tar", table)) == ""
    write_directory_tar(root, shared / "root.tar", table)
    assert (shared / "nobody.tar").read_bytes() == (shared / "root.tar").read_bytes()
    assert (shared / "nobody.tar").stat().st_uid == NOBODY


@pytest.mark.needs("root")
def test_what_nobody_may_not_read_is_an_error_that_names_all_of_it(shared: Path) -> None:
    root = shared / "root"
    make_tree(root)
    for number in range(7):
        write(root / f"etc/secret{number}", "", 0o600)
    for name, mode in [("closed", 0o700), ("listed", 0o744), ("entered", 0o711)]:
        (root / name).mkdir()
        write(root / name / "inside", "")
        (root / name).chmod(mode)
    said = as_nobody(lambda: write_directory_tar(root, shared / "out.tar", None))
    denied = "(permission denied)"
    named = ["a-b", "closed", "entered", *(f"etc/secret{number}" for number in range(5))]
    shown = ", ".join(f"'/{name}' {denied}" for name in named)
    assert said == (
        f"SourceError: {root}: cannot be read: {shown} and 4 more; "
        "make it readable with chmod, run rofs as a user who may read it, or make a tar as root and use `source: tar`"
    )
    assert not (shared / "out.tar").exists()


# Extended attributes


@pytest.fixture
def labelled(tree: Path) -> Path:
    try:
        os.setxattr(tree / "a/c", "user.name", b"\xff\0\n=1 x")
    except OSError as error:
        pytest.skip(f"no extended attributes below {tree}: {error.strerror}")
    return tree


def test_attributes_of_users_are_the_tree_s(labelled: Path) -> None:
    os.setxattr(labelled / "a/c", "user.empty", b"")
    os.setxattr(labelled / "a", "user.of.a.directory", b"1")
    members = tar_of(labelled)
    assert decode_xattrs(members["./a/c"].pax_headers) == {"user.empty": b"", "user.name": b"\xff\0\n=1 x"}
    assert decode_xattrs(members["./a"].pax_headers) == {"user.of.a.directory": b"1"}
    assert decode_xattrs(members["./etc/passwd"].pax_headers) == {}


@pytest.mark.needs("root")
def test_labels_of_the_host_and_of_root_stay_behind(labelled: Path) -> None:
    for name in ("security.selinux", "security.ima", "trusted.overlay.opaque"):
        os.setxattr(labelled / "a/c", name, b"host")
    os.setxattr(labelled / "a/c", "security.capability", PING)
    found = decode_xattrs(tar_of(labelled)["./a/c"].pax_headers)
    assert sorted(found) == ["security.capability", "user.name"]
    assert caps_text(found["security.capability"]) == "cap_net_raw=ep"


@pytest.mark.parametrize("name", ["a/c", "dev/pipe"])
def test_a_real_acl_is_carried_so_that_the_image_writer_sees_it(labelled: Path, name: str) -> None:
    os.setxattr(labelled / name, "system.posix_acl_access", ACL)
    member = tar_of(labelled)[f"./{name}"]
    assert decode_xattrs(member.pax_headers)["system.posix_acl_access"] == ACL
    assert find_acl(member) == "system.posix_acl_access"


def test_a_default_acl_is_carried(labelled: Path) -> None:
    os.setxattr(labelled / "a", "system.posix_acl_default", ACL)
    assert find_acl(tar_of(labelled)["./a"]) == "system.posix_acl_default"


def test_an_acl_that_only_repeats_the_mode_is_none(labelled: Path) -> None:
    plain = ACL[:4] + ACL[4:12] + ACL[20:28] + ACL[36:]
    os.setxattr(labelled / "etc/group", "system.posix_acl_access", plain)
    assert find_acl(tar_of(labelled)["./etc/group"]) is None


@pytest.mark.parametrize("name", [b"user.a=b", b"user.\xff"])
def test_an_attribute_that_no_tar_can_hold_is_an_error(labelled: Path, name: bytes) -> None:
    os.setxattr(labelled / "a/c", name, b"1")
    assert "cannot be read: '/a/c' (a tar cannot hold the name of its attribute 'user." in refused(labelled)


# What cannot be read


@pytest.mark.parametrize("name", ["missing", "file", "file/below"])
def test_the_directory_must_be_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / name).startswith(f"{tmp_path / name}: cannot be read: N")


def test_a_socket(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)  # the path of a socket is at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("dev/log")
    assert refused(tree) == (
        f"{tree}: cannot be read: '/dev/log' (a socket); delete it: only the program that listens there can use it"
    )


@pytest.mark.needs("root", "unshare", "mount")
def test_a_file_system_that_is_mounted_inside(tree: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rofs.sources.directory import write_directory_tar\n"
        "write_directory_tar(Path(sys.argv[1]), Path(sys.argv[2]), None)"
    )
    script = 'mount -t tmpfs none "$1/var/lib" && touch "$1/var/lib/x" && exec "$2" -c "$3" "$1" "$4"'
    words = [str(tree), sys.executable, code, str(tree.parent / "out.tar")]
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", *words]
    said = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False).stderr
    assert f"{tree}: cannot be read: '/var/lib' (another file system, mounted there); unmount it" in said
    assert not (tree.parent / "out.tar").exists()


def write_again(path: Path) -> None:
    path.write_text("d")
    os.utime(path, (0, TIME + 99))


def put_another_there(path: Path) -> None:
    path.rename(path.with_name("c2"))
    path.write_text("c")


def link_to_a_secret(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def make_it_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_it_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def move_all_behind_a_link(path: Path) -> None:
    moved = path.parents[2] / "moved"
    path.parent.rename(moved)
    path.parent.symlink_to(moved)


CHANGES: list[Callable[[Path], object]] = [
    lambda path: path.write_text("longer than before"),
    lambda path: path.write_text(""),
    lambda path: path.unlink(),
    write_again,
    put_another_there,
    link_to_a_secret,
    make_it_a_pipe,
    make_it_a_directory,
    move_all_behind_a_link,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_looking_and_reading(tree: Path, change: Callable[[Path], object]) -> None:
    def on_line(_: str) -> None:
        change(tree / "a/c")

    said = refused(tree, on_line=on_line)
    assert "'/a/c' (changed while it was read)" in said
    assert said.endswith("; build while nothing writes to it")


@pytest.mark.parametrize(("size", "what"), [(0, "shrinks"), (1000, "stays as long"), (3000, "grows")])
def test_a_file_that_changes_while_it_is_read(
    tree: Path, monkeypatch: pytest.MonkeyPatch, size: int, what: str
) -> None:
    read, ping = os.read, tree / "usr/bin/ping"

    def writing(fd: int, count: int) -> bytes:
        piece = read(fd, count)
        if piece == b"x" * 100 and ping.stat().st_mtime != TIME + 99:
            ping.write_text("y" * size)
            os.utime(ping, (0, TIME + 99))
        return piece

    monkeypatch.setattr(module, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(os, "read", writing)
    assert "'/usr/bin/ping' (changed while it was read)" in refused(tree), what


def test_a_file_that_is_shorter_than_its_file_system_says(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, count: b"" if count == 1000 else read(fd, count))
    assert "'/usr/bin/ping' (changed while it was read)" in refused(tree)


def test_a_directory_swapped_for_a_link_before_we_looked(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    write(outside / "secret", "of the host")
    names = module._Disk.names

    def swapping(disk: module._Disk, path: str) -> list[str]:
        found = names(disk, path)
        if path == "/":
            shutil.rmtree(tree / "etc")
            (tree / "etc").symlink_to(outside)
        return found

    monkeypatch.setattr(module._Disk, "names", swapping)
    members = tar_of(tree)
    assert (members["./etc"].type, members["./etc"].linkname) == (tarfile.SYMTYPE, str(outside))
    assert not [name for name in members if name.startswith("./etc/")]


def test_a_directory_swapped_for_a_link_after_we_looked(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    write(outside / "secret", "of the host")
    names = module._Disk.names

    def swapping(disk: module._Disk, path: str) -> list[str]:
        if path == "/etc":
            shutil.rmtree(tree / "etc")
            (tree / "etc").symlink_to(outside)
        return names(disk, path)

    monkeypatch.setattr(module._Disk, "names", swapping)
    assert "cannot be read: '/etc' (changed while it was read)" in refused(tree)


def test_an_interrupt_leaves_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tree.parent / "out.tar"

    def interrupted(*_: object) -> None:
        assert out.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_directory_tar(tree, out, None)
    assert not out.exists()


def test_a_tar_that_cannot_be_written_is_not_blamed_on_the_tree(tree: Path) -> None:
    with pytest.raises(SourceError, match=r"/none/out\.tar: cannot be written: No such file or directory"):
        write_directory_tar(tree, tree.parent / "none/out.tar", None)


def test_no_descriptor_is_left_open(tree: Path) -> None:
    tar_of(tree)
    before = len(list(Path("/proc/self/fd").iterdir()))
    tar_of(tree)
    refused(tree, on_line=lambda _: (tree / "a/c").unlink())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# The ownership table


def owner(info: tarfile.TarInfo) -> tuple[int, int, int]:
    return info.mode, info.uid, info.gid


@pytest.mark.parametrize(
    ("table", "name", "expected"),
    [
        ("/usr/bin/ping f 755 1 2", "usr/bin/ping", (0o755, 1, 2)),
        ("/usr/bin/ping f -1 1 2", "usr/bin/ping", (0o4755, 1, 2)),
        ("/usr/bin/ping f 4711 - -", "usr/bin/ping", (0o4711, 0, 0)),
        ("/usr/bin/ping f 755 mqtt dialout", "usr/bin/ping", (0o755, 101, 20)),
        ("/bin/ping f 755 1 2", "usr/bin/ping", (0o755, 1, 2)),
        ("/bin/sh f 700 1 2", "usr/bin/ash", (0o700, 1, 2)),
        ("/usr/bin/ping F 755 1 2", "usr/bin/ping", (0o755, 1, 2)),
        ("/none F 755 1 2", "usr/bin/ping", (0o4755, 0, 0)),
        ("/usr/bin F 700 1 2", "usr/bin", (0o755, 0, 0)),
        ("/var/lib/mqtt d 750 mqtt mqtt", "var/lib/mqtt", (0o750, 101, 102)),
        ("/var/lib/mqtt d - mqtt mqtt", "var/lib/mqtt", (0o2770, 101, 102)),
        ("/bin d 711 1 1", "usr/bin", (0o711, 1, 1)),
        ("/ d 711 0 0", ".", (0o711, 0, 0)),
        ("/srv/www/x d 700 1 2", "srv/www/x", (0o700, 1, 2)),
        ("/srv/www/x d 700 1 2", "srv/www", (0o755, 0, 0)),
        ("/srv/x d - - -", "srv/x", (0o755, 0, 0)),
        ("/usr r 640 1 2", "usr/bin", (0o640, 1, 2)),
        ("/usr r 640 1 2", "usr/bin/ping", (0o640, 1, 2)),
        ("/usr r 640 1 2", "a/c", (0o644, 0, 0)),
        ("/a r -1 1 2", "a/c", (0o644, 1, 2)),
        ("/a r -1 1 2", "a-b", (0o600, 0, 0)),
        ("/a r 600 1 2", "a/dangling too", (0o777, 1, 2)),
        ("/ r -1 1 2", ".", (0o755, 1, 2)),
        ("/ r -1 1 2", "dev/pipe", (0o640, 1, 2)),
        ("/bin/ping r -1 1 2", "usr/bin/ping", (0o4755, 1, 2)),
        ("/dev/pipe p 600 1 2", "dev/pipe", (0o600, 1, 2)),
        ("/usr r 640 1 2\n/bin/ping f 4755 0 0", "usr/bin/ping", (0o4755, 0, 0)),
        ("/bin/ping f 4755 0 0\n/usr r 640 1 2", "usr/bin/ping", (0o640, 1, 2)),
        ("/a/c f 644 3000000000 0", "a/c", (0o644, 3000000000, 0)),
    ],
)
def test_a_row(tree: Path, table: str, name: str, expected: tuple[int, int, int]) -> None:
    members = tar_of(tree, table)
    assert owner(members[name if name == "." else f"./{name}"]) == expected


def test_nodes_are_made(tree: Path) -> None:
    table = (
        "/dev/null c 666 0 0 1 3\n"
        "/dev/sda b 660 0 dialout 8 0 0 0 -\n"
        "/dev/sda b 660 0 dialout 8 1 1 1 2\n"
        "/var/run d 755 0 0\n"
        "/var/run/fifo p 600 mqtt mqtt\n"
        "/dev/null c 600 0 0 1 3\n"
    )
    members = tar_of(tree, table)
    made = {
        name: (info.type, oct(info.mode), info.uid, info.gid, info.devmajor, info.devminor)
        for name, info in members.items()
        if name.startswith(("./dev/null", "./dev/sda", "./var/run/"))
    }
    assert made == {
        "./dev/null": (tarfile.CHRTYPE, "0o600", 0, 0, 1, 3),
        "./dev/sda": (tarfile.BLKTYPE, "0o660", 0, 20, 8, 0),
        "./dev/sda1": (tarfile.BLKTYPE, "0o660", 0, 20, 8, 1),
        "./dev/sda2": (tarfile.BLKTYPE, "0o660", 0, 20, 8, 2),
        "./var/run/fifo": (tarfile.FIFOTYPE, "0o600", 101, 102, 0, 0),
    }
    assert list(members) == in_order(members)
    assert members["./var/run/fifo"].mtime == members["./var/run"].mtime == members["./var"].mtime < TIME + 99


@pytest.mark.needs("root")
def test_a_node_that_is_there_takes_mode_and_owner(tree: Path) -> None:
    os.mknod(tree / "dev/null", 0o20666, os.makedev(1, 3))
    assert owner(tar_of(tree, "/dev/null c 600 1 2 1 3")["./dev/null"]) == (0o600, 1, 2)
    said = refused(tree, "/dev/null c 600 1 2 1 5")
    assert "'/dev/null' is in the tree already, as a character device 1:3" in said


def test_capabilities_of_the_table(tree: Path) -> None:
    members = tar_of(tree, "/bin/ping f 755 0 0\n|xattr cap_net_raw+ep\n/none F 755 0 0\n|xattr cap_kill+ep\n")
    assert decode_xattrs(members["./usr/bin/ping"].pax_headers) == {"security.capability": PING}


def test_names_are_those_of_the_tree_through_its_links(tree: Path) -> None:
    (tree / "usr/etc").mkdir()
    (tree / "etc/passwd").rename(tree / "usr/etc/passwd")
    (tree / "etc/passwd").symlink_to("/usr/etc/passwd")  # of the host it would be no file, or another
    assert owner(tar_of(tree, "/a/c f - mqtt -")["./a/c"]) == (0o644, 101, 0)


@pytest.mark.parametrize("how", ["missing", "a loop", "a directory"])
def test_without_a_passwd_there_are_numbers(tree: Path, how: str) -> None:
    (tree / "etc/passwd").unlink()
    if how == "a loop":
        (tree / "etc/passwd").symlink_to("passwd")
    if how == "a directory":
        (tree / "etc/passwd").mkdir()
    assert owner(tar_of(tree, "/a/c f - 5 -")["./a/c"]) == (0o644, 5, 0)
    assert owner(tar_of(tree, "/a/c f - root -")["./a/c"]) == (0o644, 0, 0)  # whom rofs gives such a tree
    assert refused(tree, "/a/c f - mqtt -").startswith("table:1:10: error: the tree has no user 'mqtt'")


def test_rows_that_do_not_fit_the_tree_are_all_told(tree: Path) -> None:
    (tree / "loop").symlink_to("loop")
    table = [
        ("/missing f 644 0 0", "1: error: '/missing' is not in the tree (type F for a file that may be missing)"),
        ("/etc f 644 0 0", "1: error: '/etc' is a directory, no file"),
        ("/bin f 644 0 0", "1: error: '/bin' is a directory, no file"),
        ("/dangling f 644 0 0", "1: error: '/dangling' is not in the tree"),
        ("/missing r -1 0 0", "1: error: '/missing' is not in the tree"),
        ("/bin r -1 0 0", "1: error: '/bin' is a symbolic link (write /usr/bin)"),
        ("/a/c d 755 0 0", "1: error: '/a/c' is a file, no directory"),
        ("/a/c/d d 755 0 0", "1: error: '/a/c' is a file, no directory"),
        ("/loop/x d 755 0 0", "1: error: '/loop/x': too many levels of symbolic links"),
        ("/loop f 755 0 0", "1: error: '/loop': too many levels of symbolic links"),
        ("/dev/x/y c 600 0 0 1 3", "1: error: '/dev/x/y': its directory is not in the tree"),
        ("/a/c/d c 600 0 0 1 3", "1: error: '/a/c/d': its directory is not in the tree"),
        ("/a/c c 600 0 0 1 3", "1: error: '/a/c' is in the tree already, as a file"),
        ("/dangling p 600 0 0", "1: error: '/dangling' is in the tree already, as a symbolic link"),
        ("/a/c f 644 nouser 0", "12: error: the tree has no user 'nouser' (write its number)"),
        ("/a/c f 644 0 nogroup", "14: error: the tree has no group 'nogroup' (write its number)"),
    ]
    said = refused(tree, "\n".join(row for row, _ in table)).splitlines()
    assert len(said) == len(table)
    for number, (line, (_, expected)) in enumerate(zip(said, table, strict=True), start=1):
        assert line.startswith(f"table:{number}:{expected}")
        assert line.endswith("(bad-ownership)")


def test_a_table_never_reaches_the_host_through_a_link(tree: Path) -> None:
    (tree / "host").symlink_to(tree.parent / "victim")
    write(tree.parent / "victim", "x")
    assert "'/host' is not in the tree" in refused(tree, "/host f 600 1 1")
