# SPDX-License-Identifier: MIT
"""The network, memory, rights and command line of a guest that differs in one of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from guest import COLD, MIB, Answer, Guest, content
from layouts import OTHER, RICH, busybox_tree, entries_of, layout_of, profile_of
from state_layouts import boot_of, made

from rofs.machine.arch import ARCHES
from rofs.verify.check import Verdict
from rofs.verify.cmdline import cmdline_checks, expected_cmdline
from rofs.verify.memory import memory_checks
from rofs.verify.network import network_checks
from rofs.verify.rights import rights_checks

LAYOUT = layout_of(RICH)
ENTRIES = entries_of(LAYOUT)

# --- the network ------------------------------------------------------------------------------------

SSH = {"proto": "tcp", "address": "0.0.0.0", "port": 22, "loopback": False, "program": "sshd"}
SSH6 = {**SSH, "address": "::"}
DHCP = {"proto": "udp", "address": "10.0.2.15", "port": 68, "loopback": False, "program": "systemd-network"}
LOCAL = {"proto": "tcp", "address": "127.0.0.1", "port": 1883, "loopback": True, "program": "mosquitto"}
RAW = {"proto": "raw", "address": "::", "port": 58, "loopback": False, "program": "systemd-network"}


def listens(declared: str, *sockets: Answer, **facts: Any) -> Verdict:
    (check,) = network_checks(profile_of(f"verify: {{{declared}}}\n"))
    return check.judge([{"errno": None, "sockets": list(sockets), "truncated": False, **facts}])


@pytest.mark.parametrize(
    ("declared", "sockets", "ok", "seen"),
    [
        ("listen: [tcp/22, udp/68]", [SSH, SSH6, DHCP, LOCAL, RAW], True, "tcp 0.0.0.0:22 sshd"),
        ("listen: [tcp/22]", [SSH, DHCP], False, "not declared: udp/68"),
        ("listen: [tcp/22, tcp/80]", [SSH], False, "not there: tcp/80"),
        ("listen: [udp/22]", [SSH], False, "not declared: tcp/22; not there: udp/22"),
        ("listen: [tcp/1883]", [LOCAL], False, "not there: tcp/1883"),
        ("listen: []", [LOCAL, RAW], True, "raw [::]:58"),
        ("listen: []", [SSH6], False, "tcp [::]:22 sshd"),
        ("listen: []", [{"proto": "tcp", "port": 9}], False, "not declared: tcp/9"),
        ("units: []", [SSH], True, "not declared, only reported"),
    ],
)
def test_what_others_can_reach(declared: str, sockets: list[Answer], ok: bool, seen: str) -> None:
    found = listens(declared, *sockets)
    assert found.ok is ok and seen in found.seen


@pytest.mark.parametrize(
    "facts", [{"errno": "ENOENT"}, {"sockets": None}, {"truncated": True}, {"timeout": True, "errno": "x"}]
)
@pytest.mark.parametrize("declared", ["listen: []", "units: []"])
def test_a_list_of_sockets_that_is_not_whole(declared: str, facts: Answer) -> None:
    assert listens(declared).ok
    assert not listens(declared, **facts).ok


def test_the_probe_waits_for_what_is_declared() -> None:
    (check,) = network_checks(profile_of("verify: {listen: [udp/68, tcp/22]}\n"))
    assert str(check.ops[0]) == "listeners 30 tcp/22 udp/68" and check.at == ("verify", "listen")
    (check,) = network_checks(profile_of(""))
    assert str(check.ops[0]) == "listeners 30" and check.at == ()


# --- memory -----------------------------------------------------------------------------------------

MEMORY = {c.name: c for c in memory_checks(LAYOUT)}
VOLATILE = ("/etc", "/srv/extra", "/srv/www", "/tmp", "/var", "/var/cache")


def filled(where: str = "", row: Answer | None = None, **facts: Any) -> list[Answer]:
    """The honest answer, with one mount or the memory otherwise."""
    (op,) = MEMORY["memory: all caps filled"].ops
    true = Guest(LAYOUT, ENTRIES)(op)
    mounts = [{**m, **(row or {})} if m["path"] == where else m for m in true["mounts"]]
    return [{**true, "mounts": mounts, **facts}]


def test_all_are_filled_at_once_and_each_is_judged_by_it() -> None:
    sizes = {c.subject for c in MEMORY.values() if c.promise == "size cap"}
    assert sizes == {c.subject for c in MEMORY.values() if c.promise == "inode cap"} == set(VOLATILE)
    ops = {op for c in MEMORY.values() if c.promise != "inode cap" for op in c.ops}
    assert len(ops) == 1 and all(c.phase == "loud" for c in MEMORY.values())
    assert all(c.judge(filled()).ok for c in MEMORY.values() if c.promise != "inode cap")
    assert not list(memory_checks(layout_of("")))


@pytest.mark.parametrize(
    ("row", "seen"),
    [
        ({"errno": None}, "then None"),
        ({"errno": "EDQUOT"}, "EDQUOT"),
        ({"size": 64 << 20}, "67108864 bytes in all"),
        ({"size": None}, "None bytes in all"),
        ({"left": 4096}, "then ENOSPC"),
        ({"left": -1}, "then ENOSPC"),
        ({"memory": True, "errno": None}, "memory ran low"),
    ],
)
def test_a_size_that_does_not_cap(row: Answer, seen: str) -> None:
    found = MEMORY["size cap: /tmp"].judge(filled("/tmp", row))
    assert not found.ok and seen in found.seen
    assert MEMORY["size cap: /var"].judge(filled("/tmp", row)).ok, "which is another"


def test_one_that_was_full_before_is_full() -> None:
    row = {"fitted": 0}
    assert MEMORY["size cap: /tmp"].judge(filled("/tmp", row)).ok
    assert MEMORY["memory: all caps filled"].judge(filled("/tmp", row)).ok


@pytest.mark.parametrize(
    "facts",
    [
        {"available": (16 * MIB) - 1},
        {"oom_kills": 1},
        {"oom_kills": 1, "total": 200 * MIB},
        {"available": -1},
        {"available": None},
        {"oom_kills": None},
        {"mounts": []},
        {"mounts": 5},
    ],
)
def test_too_little_is_left(facts: Answer) -> None:
    check = MEMORY["memory: all caps filled"]
    found = check.judge(filled())
    assert found.ok and found.seen == "6 of 6 full, 200 MiB of 470 MiB left, 0 killed"
    assert not check.judge(filled(**facts)).ok
    assert check.judge(filled(available=16 * MIB)).ok


def test_a_mount_that_could_not_be_filled() -> None:
    check = MEMORY["memory: all caps filled"]
    for row in ({"errno": "ENOMEM"}, {"memory": True, "errno": None}, {"errno": "EROFS"}):
        assert not check.judge(filled("/tmp", row)).ok


def test_on_a_machine_with_less_memory_than_the_profile_asks_for_it_is_only_told() -> None:
    row = {"memory": True, "errno": None, "left": 1 << 20}
    small = {"total": 215 * MIB, "available": 12 * MIB}
    found = MEMORY["memory: all caps filled"].judge(filled("/var", row, **small))
    assert found.ok and "only reported" in found.seen
    assert MEMORY["size cap: /var"].judge(filled("/var", row, **small)).ok
    assert not MEMORY["size cap: /var"].judge(filled("/var", {**row, "size": 1}, **small)).ok


@pytest.mark.parametrize(
    ("op", "facts"), [("fillinodes", {"errno": None}), ("fillinodes", {"errno": "EIO"}), ("statvfs", {"files": 0})]
)
def test_inodes_that_do_not_cap(op: str, facts: Answer) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    assert guest.ask(MEMORY["inode cap: /etc"]).ok
    guest.rules[op] = lambda true: {**true, **facts}
    assert not guest.ask(MEMORY["inode cap: /etc"]).ok


def test_so_many_inodes_are_not_tried_but_compared() -> None:
    assert [op.name for op in MEMORY["inode cap: /var"].ops] == ["statvfs"]
    assert [str(op) for op in MEMORY["inode cap: /srv/www"].ops][1:] == ["fillinodes /run/rofs/tmpfs/srv-www 2049"]
    assert [str(op) for op in MEMORY["inode cap: /var/cache"].ops][1:] == ["fillinodes /var/cache 1025"]


# --- rights -----------------------------------------------------------------------------------------


def rights(*found: Answer, **facts: Any) -> Verdict:
    (check,) = rights_checks(LAYOUT)
    true = Guest(LAYOUT, ENTRIES)(check.ops[0])
    trees = [{**true["trees"][0], "found": list(found), **facts}, *true["trees"][1:]]
    return check.judge([{**true, "trees": trees}])


def mark(*marks: str, image: bool = False) -> Answer:
    return {"path": "/etc/x", "mode": 0o4755, "uid": 0, "marks": list(marks), "image": image}


def test_what_gives_rights_must_be_the_images() -> None:
    assert rights().ok and rights(mark("setuid", image=True)).seen.endswith("1 marked as in the image")
    for marks in (["setuid"], ["setgid"], ["capabilities"], ["device"], ["world-writable"]):
        found = rights(mark(*marks))
        assert not found.ok and found.seen == f"/etc/x 4755 {marks[0]}"
    assert not rights(mark("world-writable", image=True)).ok, "anybody may write it, whoever brought it"
    assert not rights({}).ok and not rights({"image": True, "marks": 3}).ok


@pytest.mark.parametrize("facts", [{"errno": "EIO"}, {"truncated": True}, {"truncated": None}])
def test_a_tree_that_was_not_walked(facts: Answer) -> None:
    assert not rights(**facts).ok


def test_which_trees_and_what_excuses_them() -> None:
    (check,) = rights_checks(LAYOUT)
    words = [a.decode() for a in check.ops[0].args]
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs == {
        "/etc": "/run/rofs/image/etc", "/var": "/run/rofs/image/var", "/var/cache": "", "/tmp": "", "/srv/extra": "",
        "/srv/www": "/run/rofs/image/srv/www", "/srv/data": "/run/rofs/image/var/www",
    }  # fmt: skip
    (check,) = rights_checks(layout_of(OTHER, busybox_tree()))
    assert check.name == "setuid: on writable mounts"
    assert not list(rights_checks(layout_of("")))


# --- the command line -------------------------------------------------------------------------------


def line(words: str, arch: str | None = "amd64") -> Verdict:
    layout = layout_of("kernel: {cmdline: {amd64: panic=10 quiet}, console: ttyS1}\n")
    (check,) = cmdline_checks(layout, COLD, ARCHES[arch] if arch else None)
    return check.judge([content(f"{words}\n")])


def test_the_words_of_the_kernel() -> None:
    words = "ro panic=10 quiet root=/dev/vda console=ttyS0 panic=-1"
    assert expected_cmdline(layout_of("kernel: {cmdline: panic=10}\n"), ARCHES["amd64"], COLD) == (
        "ro panic=10 root=/dev/vda console=ttyS0 panic=-1"
    )
    assert line(words).ok and line(words, None).ok
    for other in (f"{words} rw", f"{words} systemd.mask=x.service", words.replace("ro ", "rw ", 1), words[3:], ""):
        for arch in ("amd64", None):
            assert not line(other, arch).ok, other
    assert "not the contract's: systemd.mask=x" in line(f"{words} systemd.mask=x").seen
    arm = "ro root=/dev/vda console=ttyAMA0 panic=-1"
    assert line(arm, None).ok and line(arm, "arm64").ok and not line(arm, "amd64").ok


def test_an_unread_command_line() -> None:
    (check,) = cmdline_checks(LAYOUT, COLD, None)
    for answer in ({}, {"errno": "EIO"}, {"timeout": True}):
        assert not check.judge([answer]).ok


def test_a_reset_without_a_state_partition_is_asked_for_by_a_word() -> None:
    arch = ARCHES["arm64"]
    layout, _ = made("partitions")
    assert expected_cmdline(layout, arch, boot_of("partitions", "reset")).endswith(" panic=-1 rofs.reset=1")
    layout, _ = made("state")
    assert "rofs.reset" not in expected_cmdline(layout, arch, boot_of("state", "reset"))
    assert "rofs.reset" not in expected_cmdline(layout, arch, dataclasses.replace(COLD, state="none"))
