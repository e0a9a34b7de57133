# SPDX-License-Identifier: MIT
"""The whole system: what PID 1 says of its units, and commands, and what that proves."""

from __future__ import annotations

import pytest
from guest import AGAIN, COLD, Answer, Guest, ran
from layouts import RICH, entries_of, layout_of

from rofs.verify.check import Verdict
from rofs.verify.checks import judge, make_plan
from rofs.verify.probe_wire import poweroff
from rofs.verify.system import SETTLE_TIMEOUT_S, system_checks

LAYOUT = layout_of(RICH)
CHECKS = {c.name: c for c in system_checks(LAYOUT, COLD)}
FAILED = "system: no failed unit"
LOOP = "system: no restart loop"


def verdict(name: str, *answers: Answer) -> Verdict:
    check = CHECKS[name]
    assert len(answers) == len(check.ops)
    return check.judge(answers)


def units(**rows: Answer) -> Answer:
    """What the honest guest says of units, with more of them; a dot in a name is written as __."""
    true = Guest(LAYOUT, entries_of(LAYOUT))(CHECKS[FAILED].ops[0])
    more = [{"name": name.replace("__", "."), "load": "loaded", **row} for name, row in rows.items()]
    return {**true, "units": [*true["units"], *more]}


def without(name: str) -> Answer:
    true = units()
    return {**true, "units": [row for row in true["units"] if row["name"] != name]}


@pytest.mark.parametrize("state", ["degraded", "starting", "maintenance", "", "not running", None, 7])
def test_any_other_state_than_running(state: object) -> None:
    running: Answer = {"errno": None, "state": "running", "jobs": []}
    assert verdict("system: running", running).ok
    found = verdict("system: running", {**running, "state": state, "jobs": ["x.service start waiting"]})
    assert not found.ok and "still waiting: x.service start waiting" in found.seen
    assert not verdict("system: running", {**running, "errno": "ETIMEDOUT"}).ok


def test_failed_units_are_named_with_why() -> None:
    assert verdict(FAILED, units()).ok
    failed = {"active": "failed", "sub": "failed"}
    found = verdict(
        FAILED, units(a__service={**failed, "Result": "exit-code", "ExecMainStatus": "255"}, b__mount=failed)
    )
    assert not found.ok and found.seen == "a.service (exit-code 255), b.mount"


@pytest.mark.parametrize(("times", "sub"), [("1", "running"), ("0", "auto-restart"), ("0", "auto-restart-queued")])
def test_what_comes_back_again_and_again(times: str, sub: str) -> None:
    assert verdict(LOOP, units(a__service={"active": "active", "sub": "running", "NRestarts": "0"})).ok
    found = verdict(LOOP, units(a__service={"active": "activating", "sub": sub, "NRestarts": times}))
    assert not found.ok and found.seen == f"a.service restarted {times} times, is {sub}"


@pytest.mark.parametrize("name", [FAILED, LOOP, "verify.units: ssh.service"])
@pytest.mark.parametrize(
    "answer",
    [
        without("rofs-probe.service"), {**units(), "errno": "EPROTO"}, {**units(), "units": []},
        {**units(), "units": 5}, {**units(), "units": [1, {}, {"name": 7}]}, {}, {"errno": None}, {"errno": "ENOENT"},
    ],
    ids=["not-whole", "errno", "none", "no-list", "no-units", "empty", "no-field", "no-manager"],
)  # fmt: skip
def test_a_list_of_units_that_proves_nothing(name: str, answer: Answer) -> None:
    assert verdict(name, units()).ok
    assert not verdict(name, answer).ok


def test_after_everything_it_is_looked_at_again_once() -> None:
    again = [c for c in CHECKS.values() if c.phase == "after"]
    assert [c.name for c in again] == [f"{FAILED} after all checks", f"{LOOP} after all checks"]
    assert {c.ops for c in again} == {again[0].ops} and all(c.shares for c in again)
    later = [c.name for c in system_checks(LAYOUT, AGAIN)]
    assert LOOP in later and not [n for n in later if "after" in n or n.startswith("timers")]


@pytest.mark.parametrize("state", ["inactive", "failed", "activating", ""])
def test_a_unit_that_is_not_active(state: str) -> None:
    name = "verify.units: ssh.service"
    assert verdict(name, units()).ok
    rows = [{**row, "active": state, "Result": "exit-code"} if row["name"] == "ssh.service" else row
            for row in units()["units"]]  # fmt: skip
    found = verdict(name, {**units(), "units": rows})
    assert not found.ok and found.seen == f"{state}, running: ssh.service (exit-code)"
    assert verdict(name, without("ssh.service")).seen == "ssh.service is not loaded"


def test_a_unit_by_another_name() -> None:
    name = "verify.units: ssh.service"
    rows = [{**row, "name": "sshd.service"} if row["name"] == "ssh.service" else row for row in units()["units"]]
    assert not verdict(name, {**units(), "units": rows}).ok
    assert verdict(name, {**units(), "units": rows, "names": {"ssh.service": "sshd.service"}}).ok
    assert not verdict(name, {**units(), "units": rows, "names": {"ssh.service": None}}).ok


@pytest.mark.parametrize(
    ("facts", "ok", "seen"),
    [
        ({}, True, "fstrim.service, in 0.4 s"),
        ({"started": []}, True, "no timer is loaded"),
        (
            {"started": [{"unit": "a.service", "error": "", "waiting": True}]},
            True,
            "still at work after 60 s: a.service",
        ),
        ({"started": [{"unit": "a.service", "error": "failed", "waiting": False}]}, False, "a.service: failed"),
        ({"started": None}, False, "not asked"),
        ({"errno": "ENOENT"}, False, "ENOENT"),
        ({"timeout": True}, True, "fstrim"),
    ],
)
def test_what_the_timers_would_do(facts: Answer, ok: bool, seen: str) -> None:
    true: Answer = {
        "errno": None,
        "started": [{"unit": "fstrim.service", "error": "", "waiting": False}],
        "seconds": 0.4,
    }
    found = verdict("timers: started early", {**true, **facts})
    assert found.ok is ok and seen in found.seen
    assert CHECKS["timers: started early"].phase == "late"


@pytest.mark.parametrize("answer", [ran("no\n", 1), {"exit_signal": 9}, {"timeout": True}, {"errno": "ENOENT"}])
def test_a_command_that_failed(answer: Answer) -> None:
    assert verdict("verify.commands: true", ran("")).ok
    assert not verdict("verify.commands: true", answer).ok


# --- an init that is not systemd --------------------------------------------------------------------

OTHER = tuple(system_checks(layout_of("init: other\nverify: {commands: ['true', 'false']}\n"), COLD))
AT_REST: Answer = {
    "errno": None, "settled": True, "waited_ms": 2100, "processes": 31, "pid1": "/usr/bin/busybox",
    "pid1_args": ["init"], "uptime_ms": 6540,
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


@pytest.mark.parametrize(
    ("pid1", "args", "ok"),
    [
        ("/usr/bin/busybox", ["init"], True),
        ("/usr/bin/busybox", ["/sbin/init"], True),
        ("/usr/bin/busybox", ["busybox", "init"], True),
        ("/usr/sbin/init", ["init%20[2]"], True),
        ("/usr/bin/busybox", ["/bin/sh", "/sbin/init"], True),
        ("/usr/sbin/runit", ["runit"], True),
        ("/usr/bin/s6-svscan", ["s6-svscan", "-X3", "/run/service"], True),
        ("/usr/bin/busybox", ["/bin/sh"], False),
        ("/usr/bin/busybox", ["sh", "-i"], False),
        ("/usr/bin/busybox", ["busybox", "sh"], False),
        ("/usr/bin/bash", ["/bin/bash"], False),
        ("/usr/bin/busybox", ["/sbin/initial"], False),
        ("/usr/bin/busybox", [], False),
        ("/usr/bin/busybox", None, False),
    ],
)
def test_one_program_may_be_the_init_and_the_shell(pid1: str, args: list[str] | None, ok: bool) -> None:
    found = rest(pid1=pid1, pid1_args=args)
    assert found.ok is ok and found.seen.startswith(f"PID 1 is {pid1}, ")
    assert ok or "called as" in found.seen


def test_the_profile_may_name_another_init() -> None:
    layout = layout_of('init: other\nkernel: {cmdline: "init=/bin/start quiet"}\n')
    check = next(iter(system_checks(layout, COLD)))
    for args, ok in ((["/bin/start"], True), (["/bin/sh", "/bin/start"], True), (["init"], False)):
        assert check.judge([{**AT_REST, "pid1_args": args}]).ok is ok, args


@pytest.mark.parametrize("answer", [None, {}, {"timeout": True}, {"errno": "EIO"}, {**AT_REST, "stuck": True}])
def test_no_answer_is_no_rest(answer: Answer | None) -> None:
    plan = make_plan(OTHER[:1], poweroff("clean"))
    (outcome,) = judge(plan, 1, {} if answer is None else {1: answer})
    assert not outcome.verdict.ok and outcome.verdict.seen
    (outcome,) = judge(plan, 1, {1: AT_REST})
    assert outcome.verdict.ok
