# SPDX-License-Identifier: MIT
"""Profile -> checks of the whole system: it is up, nothing failed, the profile's own wishes hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rofs.profile import Profile
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, decide, kept, text, trouble

RUNNING_TIMEOUT_S = 240
SETTLE_TIMEOUT_S = 90
"""How long an init that cannot say when a boot is over is given to come to rest."""
COMMAND_TIMEOUT_S = 120
_SAID_BY_PID_1 = ("_PID=1", "+", "_TRANSPORT=kernel", "SYSLOG_IDENTIFIER=systemd")
"""Before journald runs PID 1 writes to the kernel's log, and what comes from there has no _PID."""
_FIRST_WORDS = "Queued start job for default target"
"""Cycles of the boot are said just before this."""
_CYCLE = re.compile(r"ordering cycle", re.IGNORECASE)


def system_checks(profile: Profile) -> Iterator[Check]:
    """The first one waits for the boot to end; it must be the first of the plan."""
    yield from _systemd_checks(profile) if profile.init == "systemd" else _other_checks()
    for index, command in enumerate(profile.verify.commands):
        yield Check(
            promise="verify.commands", subject=command, at=("verify", "commands", index),
            ops=(wire.shell(COMMAND_TIMEOUT_S, command),), judge=_judge_command, phase="loud",
        )  # fmt: skip


def _other_checks() -> Iterator[Check]:
    yield Check(
        promise="system", subject="settled", at=("init",), ops=(wire.settle(SETTLE_TIMEOUT_S),), judge=_judge_settled,
    )  # fmt: skip


def _systemd_checks(profile: Profile) -> Iterator[Check]:
    yield Check(
        promise="system", subject="running", at=(),
        ops=(wire.run(RUNNING_TIMEOUT_S, "systemctl", "is-system-running", "--wait"),
             wire.run(30, "systemctl", "list-jobs", "--no-legend", "--plain")),
        judge=_judge_running,
    )  # fmt: skip
    yield Check(
        promise="system", subject="no failed unit", at=(),
        ops=(wire.run(30, "systemctl", "list-units", "--failed", "--all", "--no-legend", "--plain"),),
        judge=_judge_failed,
    )  # fmt: skip
    yield Check(
        promise="system", subject="no ordering cycle", at=(),
        ops=(wire.run(60, "journalctl", "--boot", "--no-pager", "--quiet", "--output=cat", *_SAID_BY_PID_1),),
        judge=_judge_cycles,
    )  # fmt: skip
    for index, unit in enumerate(profile.verify.units):
        yield Check(
            promise="verify.units", subject=unit, at=("verify", "units", index),
            ops=(
                wire.run(30, "systemctl", "is-active", "--", unit),
                wire.run(30, "systemctl", "status", "--no-pager", "--", unit),
            ),
            judge=_judge_active,
        )  # fmt: skip


def _judge_running(facts: Sequence[Facts]) -> Verdict:
    state = text(facts[0]).strip()
    jobs = text(facts[1]).strip().replace("\n", "; ")
    seen = trouble(facts[0]) or state or f"no word of it: {facts[0].get('errno')}"
    seen += f", still waiting: {jobs}" if jobs and state != "running" else ""
    return decide(state == "running" and not trouble(facts[0]), "running", seen)


def _judge_settled(facts: Sequence[Facts]) -> Verdict:
    """A device may well have a service that never rests, so that alone is no fault; an init that is none is."""
    answer, expected = facts[0], "PID 1 is the image's init, and the boot comes to rest"
    init = answer.get("pid1")
    if not init or "rofs-probe" in init:
        return broken(expected, trouble(answer) or f"PID 1 is {init or 'unknown'}")
    rest = f"at rest {answer.get('uptime_ms', 0) / 1000:.1f} s after the kernel's start"
    busy = f"still busy after {SETTLE_TIMEOUT_S} s: {', '.join(answer.get('busy') or ()) or 'new processes'}"
    return kept(expected, f"PID 1 is {init}, {rest if answer.get('settled') else busy}")


def _judge_failed(facts: Sequence[Facts]) -> Verdict:
    if facts[0].get("status") != 0:
        return broken("none", trouble(facts[0]) or text(facts[0]) or f"no list of units: {facts[0].get('errno')}")
    units = [line.split()[0] for line in text(facts[0]).splitlines() if line.strip()]
    return decide(not units, "none", ", ".join(units) or "none")


def _judge_cycles(facts: Sequence[Facts]) -> Verdict:
    """PID 1 breaks a cycle by deleting a job at random and says so (note 9)."""
    lines, expected = text(facts[0]).splitlines(), "none in PID 1's journal"
    cycles = [line for line in lines if _CYCLE.search(line)]
    if facts[0].get("status") != 0 or not lines:
        return broken(expected, trouble(facts[0]) or "the journal is empty")
    if cycles or facts[0].get("dropped") or not any(line.startswith(_FIRST_WORDS) for line in lines):
        return broken(expected, "; ".join(cycles[:4]) or f"the journal is not whole: {len(lines)} lines of PID 1")
    return kept(expected, f"none in {len(lines)} lines, from the first job on")


def _judge_active(facts: Sequence[Facts]) -> Verdict:
    state = text(facts[0]).strip()
    seen = state if state == "active" else f"{state}: {text(facts[1]).strip()[-600:]}"
    return decide(state == "active" and not trouble(facts[0]), "active", trouble(facts[0]) or seen)


def _judge_command(facts: Sequence[Facts]) -> Verdict:
    status = facts[0].get("status")
    said = text(facts[0]).strip()[-600:]
    seen = f"exit {status} in {facts[0].get('seconds')} s" + (f": {said}" if said else "")
    return decide(status == 0, "exit 0", trouble(facts[0]) or seen)
