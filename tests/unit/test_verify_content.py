# SPDX-License-Identifier: MIT
"""Generated files, users and the host name in a guest where one of them differs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from guest import Answer, Guest, content, ran
from layouts import DIRECTORIES, OTHER, RICH, P, busybox_tree, entries_of, layout_of

from rofs.treefacts import make_facts
from rofs.verify.check import Check, Verdict
from rofs.verify.content import MOST_READ_BYTES, content_checks

LAYOUT = layout_of(RICH)
ENTRIES = entries_of(LAYOUT)
BOB = "bob:x:1000:1000:Service:/home/bob:/bin/bash\n"


def verdict(name: str, guest: Guest) -> Verdict:
    (check,) = [c for c in content_checks(LAYOUT, ENTRIES) if c.name.startswith(name)]
    return guest.ask(check)


def paths(checks: Iterable[Check]) -> set[str]:
    """What is looked at."""
    return {arg.decode() for c in checks for op in c.ops if op.name == "files" for arg in op.args[1:]}


def lying(op: str, answer: Answer) -> Guest:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules[op] = lambda true: {**true, **answer}
    return guest


@pytest.mark.parametrize(
    ("facts", "seen"),
    [
        ({"mode": 0o644}, "mode is 0644, not 0640"),
        ({"mode": None}, "mode is 0000"),
        ({"uid": 0}, "uid is 0, not 1000"),
        ({"gid": None}, "gid is None, not 1000"),
        ({"type": "link", "target": "x"}, "is link, not file"),
        ({"type": None, "errno": "ENOENT"}, "is ENOENT, not file"),
        ({"size": 99}, "the content differs"),
    ],
)
def test_a_file_that_differs(facts: dict[str, Any], seen: str) -> None:
    found = verdict("generated: files[0]", lying("lstat /etc/app.conf", facts))
    assert not found.ok and f"/etc/app.conf: {seen}" in found.seen


def test_content_and_target_that_differ() -> None:
    op = f"read /etc/app.conf {MOST_READ_BYTES}"
    assert "content differs" in verdict("generated: files[0]", lying(op, content("a: 2\n"))).seen
    found = verdict("generated: files[2]", lying("lstat /etc/link", {"target": "elsewhere"}))
    assert not found.ok and "points to elsewhere" in found.seen


def test_one_check_a_key_and_each_entry_in_one() -> None:
    names = [c.name for c in content_checks(LAYOUT, ENTRIES)]
    assert len(set(names)) == len(names)
    asked = paths(content_checks(LAYOUT, ENTRIES))
    for path in ("/etc/passwd", "/etc/fstab", "/etc/hostname", "/home/bob", "/srv/www/index.html"):
        assert path in asked
    # What a mount covers is no more the image's, and PID 1 puts its own machine-id.
    assert not {"/etc/machine-id", "/srv/doc", "/srv/extra"} & asked


def test_places_of_the_profile() -> None:
    ats = {c.at for c in content_checks(LAYOUT, ENTRIES)}
    assert {("files", 0), ("users", 0), ("users",), ("mounts", 0), ("hostname",), ("rofs",)} <= ats


@pytest.mark.parametrize(
    ("op", "answer", "seen"),
    [
        ("run 30 getent passwd bob", ran("", 2), "passwd says nothing"),
        ("run 30 getent passwd bob", ran(BOB.replace("1000:1000", "0:0")), "passwd says bob:x:0:0"),
        ("run 30 getent group", ran("dialout:x:20:bobby\n"), "not in dialout"),
        ("run 30 getent group", ran("", 2), "not in dialout"),
        ("read /etc/shadow", content("bob:$y$x:1::::::\n"), "the password field is not *"),
        ("read /etc/shadow", content("bob::1::::::\n"), "the password field is not *"),
        ("read /etc/shadow", content("bobby:*:1::::::\n"), "the password field is not *"),
        ("read /etc/shadow", content("bob:*:1::::::\nbob::1::::::\n"), "the password field is not *"),
    ],
)
def test_a_user_that_differs(op: str, answer: Answer, seen: str) -> None:
    assert verdict("user: bob", Guest(LAYOUT, ENTRIES)).ok
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules[op.replace("run 30", "run 30")] = answer
    found = verdict("user: bob", guest)
    assert not found.ok and seen in found.seen


ROOT = "root:x:0:0:root:/root:/bin/sh\n"


@pytest.mark.parametrize(
    ("op", "answer", "seen"),
    [
        ("read /etc/shadow", content("root::1::::::\nbob:*:1::::::\n"), "root in shadow"),
        ("read /etc/shadow", content("bob:*:1::::::\nsync\n"), "sync in shadow"),
        ("read /etc/passwd", content(f"{ROOT}eve::0:0::/:/bin/sh\n"), "eve in passwd"),
        ("read /etc/passwd", content(""), "None"),
        ("read /etc/passwd", {"errno": "EIO"}, "EIO"),
        ("read /etc/shadow", {"errno": "EACCES"}, "EACCES"),
        ("read /etc/shadow", {"timeout": True}, "timeout"),
    ],
)
def test_an_account_that_anybody_may_use(op: str, answer: Answer, seen: str) -> None:
    name = "user: no empty password"
    assert verdict(name, Guest(LAYOUT, ENTRIES)).ok
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules[op] = answer
    found = verdict(name, guest)
    assert not found.ok and seen in found.seen


def test_an_image_without_a_shadow_has_no_passwords() -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["read /etc/shadow"] = {"errno": "ENOENT"}
    assert verdict("user: no empty password", guest).ok


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        ("read /proc/sys/kernel/hostname", content("localhost\n")),
        ("read /proc/sys/kernel/hostname", content("")),
        ("run 30 getent hosts gateway", ran("", 2)),
    ],
)
def test_another_host_name(op: str, answer: Answer) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules[op] = answer
    assert not verdict("hostname: gateway", guest).ok


# --- where busybox is all that could be asked -------------------------------------------------------

PLAIN = layout_of(OTHER, busybox_tree())
PLAIN_ENTRIES = entries_of(PLAIN, busybox_tree())
PLAIN_CHECKS = {c.name: c for c in content_checks(PLAIN, PLAIN_ENTRIES)}
GROUP = "root:x:0:\ndialout:x:20:bob\nbob:x:1000:eve\nusers:x:100:\n"
EVE = "eve:x:1001:100::/home/eve:/bin/sh\n"


def plain(name: str, op: str = "", answer: Answer | None = None) -> Verdict:
    guest = Guest(PLAIN, PLAIN_ENTRIES)
    if answer is not None:
        guest.rules[op] = answer
    check: Check = PLAIN_CHECKS[name]
    assert not op or op in [str(o) for o in check.ops]
    return guest.ask(check)


def test_without_systemd_files_are_read_and_no_program_is_run() -> None:
    asked = {op.name for check in PLAIN_CHECKS.values() for op in check.ops}
    assert asked == {"read", "files"}
    found = plain("user: bob")
    assert found.ok and "groups dialout," in found.seen
    assert plain("user: eve").ok and plain("hostname: gateway").ok


@pytest.mark.parametrize(
    ("user", "op", "answer", "seen"),
    [
        ("bob", "read /etc/passwd", content(BOB.replace("bash", "sh").replace("1000:1000", "0:1000")), "says bob:x:0"),
        ("bob", "read /etc/passwd", content(""), "passwd says nothing"),
        ("bob", "read /etc/passwd", content(2 * BOB.replace("bash", "sh")), "passwd says nothing"),
        ("bob", "read /etc/passwd", content("bobby" + BOB[3:]), "passwd says nothing"),
        ("bob", "read /etc/passwd", {"errno": "ENOENT"}, "passwd says nothing"),
        ("bob", "read /etc/passwd", {"timeout": True}, "timeout"),
        ("bob", "read /etc/group", content(GROUP.replace("20:bob", "20:")), "not in dialout"),
        ("bob", "read /etc/group", content(GROUP.replace("20:bob", "20:bobby,rob")), "not in dialout"),
        ("bob", "read /etc/group", content(GROUP.replace("dialout", "uucp")), "not in dialout"),
        ("bob", "read /etc/group", {"errno": "ENOENT"}, "not in dialout"),
        ("eve", "read /etc/group", content(GROUP.replace("1000:eve", "1000:")), "not in bob"),
        ("eve", "read /etc/passwd", content(EVE.replace("100:", "0:")), "passwd says eve:x:1001:0:"),
        ("eve", "read /etc/shadow", content("bob:*:1::::::\neve::1::::::\n"), "the password field is not *"),
        ("eve", "read /etc/shadow", content("bob:*:1::::::\n"), "the password field is not *"),
        ("eve", "read /etc/shadow", {"errno": "EACCES"}, "the password field is not *"),
    ],
)
def test_a_user_that_differs_in_the_files(user: str, op: str, answer: Answer, seen: str) -> None:
    found = plain(f"user: {user}", op, answer)
    assert not found.ok and seen in found.seen


def test_files_with_more_than_the_user_are_fine() -> None:
    assert plain("user: bob", "read /etc/group", content("dialout:x:20:ann,bob\n" + GROUP.replace("20:bob", "20:"))).ok
    assert plain("user: eve", "read /etc/passwd", content(EVE + "other:x:5:5::/:/bin/sh\n")).ok


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        ("read /proc/sys/kernel/hostname", content("(none)\n")),
        ("read /proc/sys/kernel/hostname", {"errno": "ENOENT"}),
        ("read /etc/hosts", content("127.0.0.1\tlocalhost\n127.0.1.1\tgateway2\n")),
        ("read /etc/hosts", content("127.0.0.1\tlocalhost # gateway\n")),
        ("read /etc/hosts", content("gateway\n")),
        ("read /etc/hosts", content("")),
        ("read /etc/hosts", {"errno": "ENOENT"}),
    ],
)
def test_a_host_name_that_the_files_do_not_have(op: str, answer: Answer) -> None:
    assert not plain("hostname: gateway", op, answer).ok


@pytest.mark.parametrize("init", ["systemd", "other"])
def test_what_the_system_mounts_over_is_not_compared(init: str) -> None:
    """A tree may lack /proc or /run; the directory that rofs makes there is never seen again."""
    owned = ("/run", "/dev", "/proc", "/sys")
    facts = make_facts({path: node for path, node in DIRECTORIES.items() if path not in (*owned, "/var/tmp", "/tmp")})
    layout = layout_of(f"init: {init}\nmounts: [{{path: /new, type: overlay, upper: tmpfs}}]\n", facts)
    entries = entries_of(layout, facts)
    made = {str(e.path) for e in entries if e.kind == "dir"}
    assert made >= {*owned, "/var/tmp", "/tmp", "/new"}
    asked = paths(content_checks(layout, entries))
    assert {"/var/tmp", "/tmp"} <= asked
    assert not asked & {*owned, "/new"}
    inside = entries_of(layout_of("files: [{path: /running, content: x}]\n", facts), facts)
    assert [e for e in inside if e.path == P("/running")]
    assert "/running" in paths(content_checks(layout, inside)), "which only begins like one"
