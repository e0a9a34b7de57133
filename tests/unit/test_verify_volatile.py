# SPDX-License-Identifier: MIT
"""Writable paths that are not, canaries that survive or were never left."""

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
        assert {f"writable: {path}", f"canary: {path}"} <= set(first)
    assert "writable: /srv/data" in first
    assert not [n for n in first if n.endswith(("/srv/shown", "/srv/doc", "/usr"))]
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


FULL = {"bavail": 0}
NO_ROOM = {"write": "ENOSPC", "read_back": "EIO", "writable": False}


@pytest.mark.parametrize(
    ("wrote", "space", "ok"),
    [
        (NO_ROOM, FULL, True),
        (NO_ROOM, {}, False),
        (NO_ROOM, {**FULL, "errno": "EIO"}, False),
        ({**NO_ROOM, "create": "ENOSPC"}, FULL, False),
        ({**NO_ROOM, "create": "EROFS"}, FULL, False),
        ({**NO_ROOM, "unlink": "EPERM"}, FULL, False),
        ({**NO_ROOM, "write": "EIO"}, FULL, False),
    ],
)
def test_what_is_full_is_writable_all_the_same(wrote: dict[str, Any], space: dict[str, Any], ok: bool) -> None:
    guest = lying("write /tmp", **wrote)
    guest.rules["statvfs /tmp"] = lambda true: {**true, **space}
    found = verdict("writable: /tmp", guest)
    assert found.ok is ok and ("writable but full" in found.seen) is ok


@pytest.mark.parametrize(("space", "ok"), [(FULL, True), ({}, False)])
def test_a_canary_where_nothing_more_fits_is_empty(space: dict[str, Any], ok: bool) -> None:
    guest = lying(f"canary /tmp/{CANARY} rofs%20boot%201", errno="ENOSPC")
    guest.rules["statvfs /tmp"] = lambda true: {**true, **space}
    guest.rules["list /tmp"] = lambda true: {**true, "names": ["a", CANARY]}
    assert verdict("canary: /tmp", guest).ok is ok
    guest.rules["list /tmp"] = lambda true: {**true, "names": ["a"]}
    assert not verdict("canary: /tmp", guest).ok
