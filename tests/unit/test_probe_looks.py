# SPDX-License-Identifier: MIT
"""The real probe on this host: many files at once, sifted output, sockets, rights, and full file systems."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from probing import Facts, content, run_plan
from test_probe_attacks import in_namespace, needs_namespace

from rofs.verify import probe_wire as wire
from rofs.verify.shapes import find_flaw

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # linux/capability.h, revision 2: cap_net_raw+ep


def ask(tmp_path: Path, *ops: wire.Op) -> list[Facts]:
    plan = tmp_path / "plan"
    plan.write_bytes(wire.encode_plan(ops))
    answers = run_plan(plan)[1:-1]
    assert [find_flaw(op.name, answer) for op, answer in zip(ops, answers, strict=True)] == [""] * len(ops)
    return answers


def test_files_are_looked_at_and_read_together(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a b")
    paths = [tmp_path / "a b", tmp_path / "link", tmp_path, tmp_path / "none"]
    read, short, unread, alone = ask(
        tmp_path, wire.files(paths, 100), wire.files(paths, 3), wire.files(paths), wire.lstat(tmp_path / "a b")
    )
    file, link, directory, none = read["files"]
    assert file["path"] == wire.quote(tmp_path / "a b") and content(file["read"]) == b"content"
    assert {k: v for k, v in file.items() if k not in ("path", "read")} == {
        k: v for k, v in alone.items() if k not in ("id", "op")
    }
    assert (link["type"], link["target"], "read" in link) == ("link", "a%20b", False)
    assert (directory["type"], "read" in directory, none["errno"], "read" in none) == ("dir", False, "ENOENT", False)
    assert (content(short["files"][0]["read"]), short["files"][0]["read"]["truncated"]) == (b"con", True)
    assert not [f for f in unread["files"] if "read" in f]


def test_of_an_output_only_the_lines_with_a_word_are_kept(tmp_path: Path) -> None:
    said = "one\nTwo words\nthree two\n\nnothing\nlast tWO"
    found, none, failed, missing = ask(
        tmp_path,
        wire.sift(5, ["two", "Zero"], "printf", "%s", said),
        wire.sift(5, ["five"], "printf", "%s", said),
        wire.sift(5, ["two"], "sh", "-c", "echo two; exit 3"),
        wire.sift(5, ["cannot"], "/nonexistent"),
    )
    assert content(found) == b"Two words\nthree two\nlast tWO\n"
    assert (found["lines"], found["status"], found["dropped"]) == (6, 0, 0)
    assert (content(none), none["lines"]) == (b"", 6)
    assert (content(failed), failed["status"]) == (b"two\n", 3)
    assert (missing["status"], missing["lines"]) == (127, 1)


def test_a_flood_is_sifted_whole(tmp_path: Path) -> None:
    flood = "i=0; while [ $i -lt 20000 ]; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); done; echo here"
    long = "head -c 100000 /dev/zero | tr '\\0' y; echo; echo here"
    found, one = ask(tmp_path, wire.sift(60, ["here"], "sh", "-c", flood), wire.sift(60, ["here"], "sh", "-c", long))
    assert (content(found), found["lines"], found["dropped"]) == (b"here\n", 20001, 0)
    assert (content(one), one["lines"]) == (b"here\n", 2)


def test_the_kernels_log_or_why_not(tmp_path: Path) -> None:
    everything, nothing = ask(tmp_path, wire.klog(""), wire.klog("no such words anywhere"))
    if everything["errno"] is None:
        assert everything["found"] and everything["lines"] >= len(everything["found"])
        assert nothing["found"] == [] and nothing["lines"] > 0
    else:
        assert everything["errno"] == nothing["errno"] == "EPERM"


# --- sockets ----------------------------------------------------------------------------------------


@contextmanager
def bound(kind: int, address: str, family: int = socket.AF_INET) -> Iterator[int]:
    with socket.socket(family, kind) as own:
        own.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            own.listen()
        yield own.getsockname()[1]


def test_sockets_and_who_holds_them(tmp_path: Path) -> None:
    with (
        bound(socket.SOCK_STREAM, "0.0.0.0") as tcp,
        bound(socket.SOCK_DGRAM, "0.0.0.0") as udp,
        bound(socket.SOCK_STREAM, "127.0.0.1") as local,
        socket.create_connection(("127.0.0.1", local)) as client,
    ):
        (found,) = ask(tmp_path, wire.listeners(5, [f"tcp/{tcp}", f"udp/{udp}"]))
        peer = client.getsockname()[1]
    rows = {(s["proto"], s["port"]): s for s in found["sockets"]}
    mine = {"address": "0.0.0.0", "loopback": False, "pid": os.getpid()}
    assert mine.items() <= rows["tcp", tcp].items() and mine.items() <= rows["udp", udp].items()
    assert rows["tcp", tcp]["program"] == wire.quote(Path("/proc/self/comm").read_text().strip())
    assert (rows["tcp", local]["address"], rows["tcp", local]["loopback"]) == ("127.0.0.1", True)
    assert ("tcp", peer) not in rows, "which only has a peer"
    assert found["seconds"] < 4, "all were there"


def test_what_is_not_there_is_waited_for_and_no_longer(tmp_path: Path) -> None:
    with bound(socket.SOCK_STREAM, "127.0.0.1") as local:
        (found,) = ask(tmp_path, wire.listeners(1, [f"tcp/{local}"]))
    assert found["errno"] is None and found["seconds"] >= 1, "the loopback does not count"


@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="this kernel has no IPv6")
def test_addresses_of_six_bytes_and_more(tmp_path: Path) -> None:
    with (
        bound(socket.SOCK_STREAM, "::1", socket.AF_INET6) as one,
        bound(socket.SOCK_DGRAM, "::", socket.AF_INET6) as all_,
    ):
        (found,) = ask(tmp_path, wire.listeners(5, []))
    rows = {(s["proto"], s["port"]): (s["address"], s["loopback"]) for s in found["sockets"]}
    assert rows["tcp", one] == ("::1", True) and rows["udp", all_] == ("::", False)


# --- rights -----------------------------------------------------------------------------------------


def grow(top: Path) -> None:
    """Everything that is marked, and what only looks like it."""
    (top / "d/inner").mkdir(parents=True)
    for name, mode in {"plain": 0o755, "suid": 0o4755, "d/sgid": 0o2755, "d/inner/all": 0o666, "caps": 0o755}.items():
        (top / name).write_text("x")
        (top / name).chmod(mode)
    os.setxattr(top / "caps", "security.capability", CAPABILITY)
    os.mknod(top / "d/null", 0o20666, os.makedev(1, 3))
    os.mkfifo(top / "fifo", 0o666)
    (top / "link").symlink_to("suid")
    (top / "away").symlink_to("/usr")
    (top / "d").chmod(0o2777)


@pytest.mark.needs("root")
def test_what_gives_rights_is_found_and_looked_for_in_the_reference(tmp_path: Path) -> None:
    top, other = tmp_path / "top", tmp_path / "other"
    grow(top)
    grow(other)
    (other / "suid").chmod(0o755)
    os.setxattr(other / "caps", "security.capability", CAPABILITY[:-4] + b"\1\0\0\0")
    (other / "d/null").unlink()
    found, bare, none, file = ask(
        tmp_path, wire.marked([(top, other)]), wire.marked([(top, "")]), wire.marked([(tmp_path / "none", "")]),
        wire.marked([(top / "suid", other / "suid"), (other / "d/sgid", top / "d/sgid")]),
    )  # fmt: skip
    (tree,) = found["trees"]
    rows = {str(Path(row["path"]).relative_to(top)): (row["marks"], row["image"]) for row in tree["found"]}
    assert rows == {
        "suid": (["setuid"], False), "d/sgid": (["setgid"], True), "d/inner/all": (["world-writable"], True),
        "caps": (["capabilities"], False), "d/null": (["device"], False),
    }  # fmt: skip
    assert (tree["errno"], tree["truncated"], tree["looked"]) == (None, False, 11)
    assert not [row for row in bare["trees"][0]["found"] if row["image"]]
    assert none["trees"][0] == {
        "root": wire.quote(tmp_path / "none"), "errno": "ENOENT", "found": [], "looked": 0, "truncated": False,
    }  # fmt: skip
    assert [[row["image"] for row in t["found"]] for t in file["trees"]] == [[False], [True]]


@needs_namespace
def test_no_other_mount_is_walked(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(wire.encode_plan([wire.marked([("/run/w", "")])]))
    setup = "mkdir -p w/d; mount -t tmpfs none w/d; touch w/d/x w/y; chmod 4755 w/d/x w/y"
    answer = in_namespace(tmp_path, setup, "@probe")[1]
    assert [row["path"] for row in answer["trees"][0]["found"]] == ["/run/w/y"]


# --- full -------------------------------------------------------------------------------------------

TWO = "mkdir a b; mount -t tmpfs -o size=128k,nr_inodes=20 none a; mount -t tmpfs -o size=20m none b"


@needs_namespace
def test_all_are_full_at_once_and_empty_again(tmp_path: Path) -> None:
    """The large one is so large that what others of this host free meanwhile hardly makes up for it."""
    ops = [wire.brim(0, ["/run/a", "/run/b", "/run/none"]), wire.list_dir("/run/a"), wire.statvfs("/run/b")]
    (tmp_path / "plan").write_bytes(wire.encode_plan(ops))
    _, answer, names, space, _ = in_namespace(tmp_path, TWO.replace("size=20m", "size=512m"), "@probe")
    assert find_flaw("brim", answer) == ""
    a, b, none = answer["mounts"]
    full = {"errno": "ENOSPC", "memory": False, "left": 0, "how": "fallocate"}
    assert full.items() <= a.items() and full.items() <= b.items()
    assert (a["size"], a["fitted"], a["inodes"]) == (128 << 10, 128 << 10, 20)
    assert b["size"] == b["fitted"] == 512 << 20
    assert none["errno"] == "ENOENT"
    assert answer["before"] - answer["available"] > 0 <= answer["oom_kills"]
    assert names["names"] == [] and space["bfree"] == space["blocks"]


@needs_namespace
def test_what_is_full_already_is_full(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(wire.encode_plan([wire.brim(0, ["/run/a"]), wire.write("/run/a")]))
    _, answer, wrote, _ = in_namespace(tmp_path, TWO, "cat /dev/zero >a/file 2>@tmp/said || true", "@probe")
    assert {"errno": "ENOSPC", "fitted": 0, "left": 0}.items() <= answer["mounts"][0].items()
    assert (wrote["create"], wrote["write"], wrote["unlink"], wrote["writable"]) == (None, "ENOSPC", None, False)


@needs_namespace
def test_memory_is_left(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(wire.encode_plan([wire.brim(1 << 50, ["/run/a"])]))
    answer = in_namespace(tmp_path, TWO, "@probe")[1]
    assert {"errno": None, "memory": True, "fitted": 0}.items() <= answer["mounts"][0].items()
