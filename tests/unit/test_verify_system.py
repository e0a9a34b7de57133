# SPDX-License-Identifier: MIT
"""The whole system: what `systemctl`, the journal and commands say, and what that proves."""

from __future__ import annotations

import pytest
from guest import JOURNAL, Answer, ran
from layouts import RICH, profile_of

from rofs.verify.check import Verdict
from rofs.verify.system import system_checks

CHECKS = {c.name: c for c in system_checks(profile_of(RICH))}
CYCLE = "a.service: Found ordering cycle on b.service/start\n"
LATE = "a.service: Job b.service/start deleted to break ordering cycle starting with a.service/start\n"


def verdict(name: str, *answers: Answer) -> Verdict:
    check = CHECKS[name]
    assert len(answers) == len(check.ops)
    return check.judge(answers)


@pytest.mark.parametrize("state", ["degraded", "starting", "maintenance", "", "not running", "running\nrunning"])
def test_any_other_state_than_running(state: str) -> None:
    assert verdict("system: running", ran("running\n"), ran("")).ok
    found = verdict("system: running", ran(f"{state}\n", 1), ran("12 x.service start waiting\n"))
    assert not found.ok and "still waiting: 12 x.service" in found.seen


def test_running_is_waited_for_and_a_timeout_is_no_running() -> None:
    assert "--wait" in str(CHECKS["system: running"].ops[0])
    assert not verdict("system: running", {**ran("running\n"), "timeout": True}, ran("")).ok


def test_failed_units_are_named() -> None:
    assert verdict("system: no failed unit", ran("")).ok
    found = verdict("system: no failed unit", ran("a.service loaded failed failed A\nb.mount loaded failed failed B\n"))
    assert not found.ok and found.seen == "a.service, b.mount"
    assert not verdict("system: no failed unit", ran("", 1)).ok


@pytest.mark.parametrize(
    "journal",
    [
        ran(CYCLE + JOURNAL),
        ran(JOURNAL + LATE),
        ran(""),
        ran("-- No entries --\n"),
        ran(JOURNAL.replace("Queued start job", "x")),
        ran(JOURNAL, status=1),
        {**ran(JOURNAL), "dropped": 5},
    ],
    ids=["at-boot", "later", "empty", "no-entries", "not-from-the-first-job", "status", "cut"],
)
def test_a_cycle_or_a_journal_that_could_not_show_one(journal: Answer) -> None:
    assert verdict("system: no ordering cycle", ran(JOURNAL)).ok
    assert not verdict("system: no ordering cycle", journal).ok


def test_the_journal_is_asked_for_what_pid_1_said_before_journald_ran() -> None:
    """Seen in a guest: the first transaction's lines come from the kernel's log and have no _PID."""
    words = str(CHECKS["system: no ordering cycle"].ops[0]).split()
    assert words[-4:] == ["_PID=1", "+", "_TRANSPORT=kernel", "SYSLOG_IDENTIFIER=systemd"]


@pytest.mark.parametrize("state", ["inactive", "failed", "activating", ""])
def test_a_unit_that_is_not_active(state: str) -> None:
    assert verdict("verify.units: ssh.service", ran("active\n"), ran("")).ok
    found = verdict("verify.units: ssh.service", ran(f"{state}\n", 3), ran("code=exited, status=255\n"))
    assert not found.ok and "status=255" in found.seen


@pytest.mark.parametrize("answer", [ran("no\n", 1), {"exit_signal": 9}, {"timeout": True}, {"errno": "ENOENT"}])
def test_a_command_that_failed(answer: Answer) -> None:
    assert verdict("verify.commands: true", ran("")).ok
    assert not verdict("verify.commands: true", answer).ok
