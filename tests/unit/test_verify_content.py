# SPDX-License-Identifier: MIT
"""Generated files, users and the host name in a guest where one of them differs."""

from __future__ import annotations

from typing import Any

import pytest
from guest import Answer, Guest, content, ran
from layouts import RICH, entries_of, layout_of

from rofs.verify.check import Verdict
from rofs.verify.content import MOST_READ_BYTES, content_checks

LAYOUT = layout_of(RICH)
ENTRIES = entries_of(LAYOUT)
BOB = "bob:x:1000:1000:Service:/home/bob:/bin/bash\n"


def verdict(name: str, guest: Guest) -> Verdict:
    (check,) = [c for c in content_checks(LAYOUT, ENTRIES) if c.name.startswith(name)]
    return guest.ask(check)


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
    asked = {str(op) for c in content_checks(LAYOUT, ENTRIES) for op in c.ops if op.name == "lstat"}
    for path in ("/etc/passwd", "/etc/fstab", "/etc/hostname", "/home/bob", "/srv/www/index.html"):
        assert f"lstat {path}" in asked
    # What a mount covers is no more the image's, and PID 1 puts its own machine-id.
    assert not {"lstat /etc/machine-id", "lstat /srv/doc", "lstat /srv/extra"} & asked


def test_places_of_the_profile() -> None:
    ats = {c.at for c in content_checks(LAYOUT, ENTRIES)}
    assert {("files", 0), ("users", 0), ("users",), ("mounts", 0), ("hostname",), ("rofs",)} <= ats


@pytest.mark.parametrize(
    ("op", "answer", "seen"),
    [
        ("run 30 getent passwd bob", ran("", 2), "passwd says nothing"),
        ("run 30 getent passwd bob", ran(BOB.replace("1000:1000", "0:0")), "passwd says bob:x:0:0"),
        ("run 30 id -Gn bob", ran("bob\n"), "not in dialout"),
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
