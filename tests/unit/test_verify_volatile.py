# SPDX-License-Identifier: MIT
"""Writable paths that are not, caps that do not hold, canaries that survive or were never left."""

from __future__ import annotations

from typing import Any

import pytest
from guest import AGAIN, COLD, Guest
from layouts import RICH, entries_of, layout_of

from rofs.verify.check import Verdict
from rofs.verify.scenario import Scenario
from rofs.verify.volatile import CANARY, volatile_checks

LAYOUT = layout_of(RICH)
ENTRIES = entries_of(LAYOUT)


def verdict(name: str, guest: Guest) -> Verdict:
    (check,) = [c for c in volatile_checks(LAYOUT, guest.scenario) if c.name == name]
    return guest.ask(check)


def lying(op: str, scenario: Scenario = COLD, **facts: Any) -> Guest:
    guest = Guest(LAYOUT, ENTRIES, scenario)
    guest.rules[op] = lambda true: {**true, **facts}
    return guest


def test_which_paths() -> None:
    first = [c.name for c in volatile_checks(LAYOUT, COLD)]
    for path in ("/etc", "/var", "/var/cache", "/tmp", "/srv/www", "/srv/extra"):
        assert {f"writable: {path}", f"size cap: {path}", f"inode cap: {path}", f"canary: {path}"} <= set(first)
    assert "writable: /srv/data" in first and "size cap: /srv/data" not in first
    assert not [n for n in first if n.endswith(("/srv/shown", "/srv/doc", "/usr"))]
    shown = {n for n in first if n.startswith("image content")}
    assert shown == {"image content: /etc", "image content: /var", "image content: /srv/www"}
    second = list(volatile_checks(LAYOUT, AGAIN))
    gone = {c.subject: c.phase for c in second if c.promise == "volatile"}
    assert set(gone) == {c.subject for c in second if c.promise == "writable"} and set(gone.values()) == {"quiet"}


@pytest.mark.parametrize(
    ("names", "more", "ok"),
    [
        (["a", CANARY], {}, False),
        (["a"], {}, True),
        ([], {}, True),
        ([], {"errno": "ENOENT"}, False),
        (["a"], {"truncated": True}, False),
        (None, {"errno": "EIO"}, False),
    ],
)
def test_the_canary_after_a_cold_restart(names: list[str] | None, more: dict[str, Any], ok: bool) -> None:
    assert verdict("volatile: /tmp", lying("list /tmp", AGAIN, names=names, **more)).ok is ok


@pytest.mark.parametrize(
    ("op", "facts"),
    [
        (f"canary /tmp/{CANARY} rofs%20boot%201", {"errno": "ENOSPC"}),
        ("sync", {"errno": "EIO"}),
        ("list /tmp", {"names": ["a"]}),
        ("list /tmp", {"names": None, "errno": "EIO"}),
    ],
)
def test_a_canary_that_was_never_there(op: str, facts: dict[str, Any]) -> None:
    assert verdict("canary: /tmp", Guest(LAYOUT, ENTRIES)).ok
    assert not verdict("canary: /tmp", lying(op, **facts)).ok


def test_not_writable() -> None:
    found = verdict("writable: /tmp", lying("write /tmp", create="EROFS", writable=False))
    assert not found.ok and "create EROFS" in found.seen


@pytest.mark.parametrize(
    ("op", "facts", "seen"),
    [
        ("fill", {"errno": None, "fitted": 1 << 40}, "fits"),
        ("fill", {"errno": "EDQUOT"}, "EDQUOT"),
        ("statvfs", {"blocks": 16384}, "67108864 bytes in all"),
        ("statvfs", {"blocks": 0}, "0 bytes in all"),
    ],
)
def test_a_size_that_does_not_cap(op: str, facts: dict[str, Any], seen: str) -> None:
    found = verdict("size cap: /tmp", lying(op, **facts))
    assert not found.ok and seen in found.seen


@pytest.mark.parametrize(
    ("op", "facts"), [("fillinodes", {"errno": None}), ("fillinodes", {"errno": "EIO"}), ("statvfs", {"files": 0})]
)
def test_inodes_that_do_not_cap(op: str, facts: dict[str, Any]) -> None:
    assert not verdict("inode cap: /tmp", lying(op, **facts)).ok


def test_so_many_inodes_are_not_tried_but_compared() -> None:
    layout = layout_of("mounts: [{path: /tmp, type: tmpfs, inodes: 100k}]\n")
    (check,) = [c for c in volatile_checks(layout, COLD) if c.promise == "inode cap"]
    guest = Guest(layout, ())
    assert [op.name for op in check.ops] == ["statvfs"] and guest.ask(check).ok
    guest.rules["statvfs"] = lambda true: {**true, "files": 5}
    assert not guest.ask(check).ok


def test_content_of_the_image_that_is_not_shown() -> None:
    found = verdict("image content: /var", lying("list /var", names=["a"]))
    assert not found.ok and "missing: b%20c" in found.seen
    assert not verdict("image content: /var", lying("list /run/rofs/image/var", names=[], errno="ENOENT")).ok
