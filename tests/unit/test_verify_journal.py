# SPDX-License-Identifier: MIT
"""The boot's journal and the kernel's log: cycles, refused writes, errors of disks; half a journal proves nothing."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from guest import AGAIN, COLD, JOURNAL, WHEN, Answer, ran
from layouts import RICH, profile_of

from rofs.verify.check import Verdict
from rofs.verify.journal import journal_checks, parse_journal

PROFILE = profile_of(RICH)
CHECKS = {c.name: c for c in journal_checks(PROFILE, COLD)}
CYCLES, WRITES, LATER = "system: no ordering cycle", "journal: writes refused", "journal: after the attacks"
CYCLE = f"{WHEN} systemd[1]: a.service: Found ordering cycle on b.service/start\n"
LATE = f"{WHEN} init.scope[1]: a.service: Job b.service/start deleted to break ordering cycle starting with a.service\n"
EROFS = f"{WHEN} app.service[200]: touch: cannot touch '/usr/x': Read-only file system\n"
ENOSPC = f"{WHEN} log.service[201]: write: No space left on device\n"


def said(text: str, **facts: object) -> Answer:
    return {**ran(text), "lines": 500, **facts}


def verdict(name: str, answer: Answer) -> Verdict:
    return CHECKS[name].judge([answer])


@pytest.mark.parametrize("name", [CYCLES, WRITES, LATER])
@pytest.mark.parametrize(
    "answer",
    [
        said(""), said("-- No entries --\n"), said(JOURNAL.replace("Queued start job", "x")), said(JOURNAL, status=1),
        said(JOURNAL, dropped=5), said(JOURNAL.replace("systemd[1]", "liar.service[9]")), {}, {"errno": "ENOENT"},
    ],
    ids=["empty", "no-entries", "not-from-the-first-job", "status", "cut", "not-pid-1", "nothing", "errno"],
)  # fmt: skip
def test_a_journal_that_could_not_show_anything(name: str, answer: Answer) -> None:
    assert verdict(name, said(JOURNAL)).ok
    assert not verdict(name, answer).ok


@pytest.mark.parametrize("journal", [CYCLE + JOURNAL, JOURNAL + LATE], ids=["at-boot", "later"])
def test_a_cycle(journal: str) -> None:
    found = verdict(CYCLES, said(journal))
    assert not found.ok and "ordering cycle" in found.seen
    talk = journal.replace("systemd[1]", "talk.service[5]", 1).replace("init.scope[1]", "talk.service[5]")
    if JOURNAL in talk:
        assert verdict(CYCLES, said(talk)).ok, "of somebody who only speaks of one"


def test_who_is_refused_a_write() -> None:
    found = verdict(WRITES, said(JOURNAL + EROFS + EROFS + ENOSPC))
    assert not found.ok
    assert found.seen.split("; ") == [
        "app.service: touch: cannot touch '/usr/x': Read-only file system",
        "log.service: write: No space left on device",
    ]
    assert verdict(LATER, said(JOURNAL + ENOSPC)).ok, "the caps are filled by then"
    assert not verdict(LATER, said(JOURNAL + EROFS)).ok


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        (
            f"{WHEN} init.scope[1]: x.service: Failed to set up mount namespacing: /x: Read-only file system\n",
            "x.service",
        ),
        (f"{WHEN} init.scope[1]: Failed to create /x: Read-only file system\n", "init.scope"),
        (f"{WHEN} mkdir[77]: cannot create '/x': read-only file system\n", "mkdir"),
        ("alone: Read-only file system\n", ""),
    ],
)
def test_whose_message_it_is(line: str, unit: str) -> None:
    found = verdict(WRITES, said(JOURNAL + line))
    assert not found.ok and found.seen.startswith(f"{unit}: ")


def test_the_kernel_and_the_probe_are_no_services() -> None:
    lines = (EROFS.replace("app.service[200]", who) for who in ("kernel", "rofs-probe.service[300]"))
    assert verdict(WRITES, said(JOURNAL + "".join(lines))).ok


def test_units_that_may_be_refused_are_reported() -> None:
    verify = dataclasses.replace(PROFILE.verify, tolerate_write_errors=("app.service",))
    checks = {c.name: c for c in journal_checks(dataclasses.replace(PROFILE, verify=verify), COLD)}
    found = checks[WRITES].judge([said(JOURNAL + EROFS)])
    assert found.ok and "app.service: touch" in found.seen and "(tolerated)" in found.seen
    found = checks[WRITES].judge([said(JOURNAL + EROFS + ENOSPC)])
    assert not found.ok and found.seen.startswith("log.service") and "(tolerated)" in found.seen


def test_when_and_where_it_is_asked() -> None:
    assert {c.name: c.phase for c in CHECKS.values()}[LATER] == "after"
    assert LATER not in {c.name for c in journal_checks(PROFILE, AGAIN)}
    assert {c.ops for c in CHECKS.values() if c.name != "system: no error in the kernel's log"} == {CHECKS[WRITES].ops}
    other = [c.name for c in journal_checks(profile_of("init: other\n"), COLD)]
    assert other == ["system: no error in the kernel's log"]
    lost = dataclasses.replace(COLD, state="lost", fault="corrupt")
    assert not [c for c in journal_checks(PROFILE, lost) if "kernel" in c.name]


@pytest.mark.parametrize(
    ("facts", "ok"),
    [
        ({}, True),
        ({"found": ["<3>[ 9.1] EXT4-fs error (device vdb): x"]}, False),
        ({"lines": 0}, False),
        ({"found": None}, False),
        ({"errno": "EPERM", "found": None, "lines": None}, False),
    ],
)
def test_the_kernels_log(facts: Answer, ok: bool) -> None:
    true: Answer = {"errno": None, "found": [], "lines": 300, "truncated": False}
    found = verdict("system: no error in the kernel's log", {**true, **facts})
    assert found.ok is ok and (ok or found.seen)


def test_bytes_that_are_no_text() -> None:
    raw = base64.b64encode(JOURNAL.encode() + b"\xff\xfe \x00: \n").decode()
    assert len(parse_journal({**said(""), "data": raw})) == 2
