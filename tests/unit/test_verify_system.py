# SPDX-License-Identifier: MIT
"""The whole system: what `systemctl`, the journal and commands say, and what that proves."""

from __future__ import annotations

import pytest
from guest import JOURNAL, Answer, ran
from layouts import RICH, profile_of

from rofs.verify.check import Verdict
from rofs.verify.checks import judge, make_plan
from rofs.verify.probe_wire import poweroff
from rofs.verify.system import SETTLE_TIMEOUT_S, system_checks

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


# --- an init that is not systemd --------------------------------------------------------------------

OTHER = tuple(system_checks(profile_of("init: other\nverify: {commands: ['true', 'false']}\n")))
AT_REST: Answer = {
    "errno": None, "settled": True, "waited_ms": 2100, "processes": 31, "pid1": "/usr/bin/busybox",
    "pid1_args": "init", "uptime_ms": 6540,
}  # fmt: skip


def rest(**facts: object) -> Verdict:
    return OTHER[0].judge([{**AT_REST, **facts}])


def test_another_init_is_asked_whether_it_rests_and_nothing_of_systemd() -> None:
    assert [c.name for c in OTHER] == ["system: settled", "verify.commands: true", "verify.commands: false"]
    assert [op.name for c in OTHER for op in c.ops] == ["settle", "exec", "exec"]
    assert (OTHER[0].at, OTHER[0].phase) == (("init",), "quiet")
    assert OTHER[0].ops[0].args[0] == str(SETTLE_TIMEOUT_S).encode()


def test_a_boot_that_came_to_rest() -> None:
    found = rest()
    assert found.ok and "/usr/bin/busybox" in found.seen and "6.5 s after the kernel's start" in found.seen


def test_a_service_that_never_rests_is_told_and_is_no_fault() -> None:
    found = rest(settled=False, busy=["collectd", "mkfs.ext4"])
    assert found.ok and f"still busy after {SETTLE_TIMEOUT_S} s: collectd, mkfs.ext4" in found.seen
    found = rest(settled=False)
    assert found.ok and "new processes" in found.seen, "too short-lived to have a name"


@pytest.mark.parametrize(
    ("pid1", "seen"),
    [
        (None, "PID 1 is unknown"),
        ("", "PID 1 is unknown"),
        ("/run/rofs-probe/rofs-probe", "PID 1 is /run/rofs-probe/rofs-probe"),
        ("/run/rofs-probe/rofs-probe%20(deleted)", "rofs-probe"),
    ],
)
@pytest.mark.parametrize("settled", [True, False])
def test_a_boot_whose_pid_1_is_not_the_images(pid1: str | None, seen: str, settled: bool) -> None:
    """The probe starts the init in its own place: what is still the probe never became one."""
    found = rest(pid1=pid1, settled=settled)
    assert not found.ok and seen in found.seen


@pytest.mark.parametrize("answer", [None, {}, {"timeout": True}, {"errno": "EIO"}, {**AT_REST, "stuck": True}])
def test_no_answer_is_no_rest(answer: Answer | None) -> None:
    plan = make_plan(OTHER[:1], poweroff("clean"))
    (outcome,) = judge(plan, 1, {} if answer is None else {1: answer})
    assert not outcome.verdict.ok and outcome.verdict.seen
    (outcome,) = judge(plan, 1, {1: AT_REST})
    assert outcome.verdict.ok
