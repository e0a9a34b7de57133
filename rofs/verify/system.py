# SPDX-License-Identifier: MIT
"""Layout -> checks of the whole system: it is up, nothing failed or goes round, the profile's own wishes hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath

from rofs.layout import Layout
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, decide, kept, parts, text, trouble
from rofs.verify.scenario import Scenario
from rofs.verify.units import find_unit, parse_units, shown, units_of, why_no_units

RUNNING_TIMEOUT_S = 240
SETTLE_TIMEOUT_S = 180
"""How long an init that cannot say when a boot is over is given to come to rest."""
COMMAND_TIMEOUT_S = 120
TIMERS_LIMIT_S = 60
_SHELLS = frozenset({"sh", "ash", "bash", "busybox", "dash", "ksh", "mksh", "toybox", "zsh"})
"""None of them is an init by its own name."""


def system_checks(layout: Layout, scenario: Scenario) -> Iterator[Check]:
    """The first one waits for the boot to end; it must be the first of the plan."""
    yield from _systemd_checks(layout, scenario) if layout.profile.init == "systemd" else _other_checks(layout)
    for index, command in enumerate(layout.profile.verify.commands):
        yield Check(
            promise="verify.commands", subject=command, at=("verify", "commands", index),
            ops=(wire.shell(COMMAND_TIMEOUT_S, command),), judge=_judge_command, phase="loud",
        )  # fmt: skip


def _other_checks(layout: Layout) -> Iterator[Check]:
    lines = layout.profile.kernel.cmdline.values()
    said = {word.partition("=")[2] for line in lines for word in line.split() if word.startswith("init=")}
    yield Check(
        promise="system", subject="settled", at=("init",), ops=(wire.settle(SETTLE_TIMEOUT_S),),
        judge=partial(_judge_settled, frozenset(PurePosixPath(path).name for path in said or {"/sbin/init"})),
    )  # fmt: skip


def _systemd_checks(layout: Layout, scenario: Scenario) -> Iterator[Check]:
    units = (units_of(layout.profile.verify.units),)
    yield Check(
        promise="system", subject="running", at=(), ops=(wire.running(RUNNING_TIMEOUT_S),), judge=_judge_running
    )
    yield Check(promise="system", subject="no failed unit", at=(), ops=units, judge=_judge_failed)
    yield Check(promise="system", subject="no restart loop", at=(), ops=units, judge=_judge_restarts)
    for index, unit in enumerate(layout.profile.verify.units):
        yield Check(
            promise="verify.units", subject=unit, at=("verify", "units", index), ops=units,
            judge=partial(_judge_active, unit),
        )  # fmt: skip
    if scenario.number != 1:
        return
    yield Check(
        promise="timers", subject="started early", at=(), ops=(wire.timers(TIMERS_LIMIT_S),), judge=_judge_timers,
        phase="late",
    )  # fmt: skip
    again = (units_of(()),)
    yield Check(
        promise="system", subject="no failed unit after all checks", at=(), ops=again, judge=_judge_failed,
        phase="after", shares=True,
    )  # fmt: skip
    yield Check(
        promise="system", subject="no restart loop after all checks", at=(), ops=again, judge=_judge_restarts,
        phase="after", shares=True,
    )  # fmt: skip


def _judge_running(facts: Sequence[Facts]) -> Verdict:
    """Any other state is said with the jobs that still wait."""
    answer, state = facts[0], facts[0].get("state")
    jobs = answer.get("jobs")
    waiting = "; ".join(map(str, jobs)) if isinstance(jobs, list) else ""
    seen = trouble(answer) or str(state or f"no word of it: {answer.get('errno')}")
    seen += f", still waiting: {waiting}" if waiting and state != "running" else ""
    return decide(state == "running" and answer.get("errno", "") is None, "running", seen)


def _judge_settled(names: frozenset[str], facts: Sequence[Facts]) -> Verdict:
    """A device may well have a service that never rests, so that alone is no fault; an init that is none is.

    One program may be the init and the shell: what it was called by says which. sysvinit adds its run level to that,
    and an init such as runit hands over to a program of another name.
    """
    answer, expected = facts[0], "PID 1 is the image's init, and the boot comes to rest"
    init, called = answer.get("pid1"), answer.get("pid1_args")
    if not init or "rofs-probe" in init:
        return broken(expected, trouble(answer) or f"PID 1 is {init or 'unknown'}")
    words = [
        word
        for arg in (called if isinstance(called, list) else [])
        for word in wire.unquote(arg).decode("utf-8", "replace").split()
    ]
    program = PurePosixPath(init).name
    handed_over = program not in _SHELLS and [program] == [PurePosixPath(word).name for word in words[:1]]
    if not handed_over and not names & {PurePosixPath(word).name for word in words}:
        return broken(expected, f"PID 1 is {init}, called as {' '.join(words) or 'nothing'}")
    rest = f"at rest {answer.get('uptime_ms', 0) / 1000:.1f} s after the kernel's start"
    busy = f"still busy after {SETTLE_TIMEOUT_S} s: {', '.join(answer.get('busy') or ()) or 'new processes'}"
    return kept(expected, f"PID 1 is {init}, {rest if answer.get('settled') else busy}")


def _judge_failed(facts: Sequence[Facts]) -> Verdict:
    units = parse_units(facts[0])
    if not units:
        return broken("none", why_no_units(facts[0]))
    failed = [u for u in units.values() if u.active == "failed"]
    return decide(not failed, "none", shown(failed) or f"none of {len(units)}")


def _judge_restarts(facts: Sequence[Facts]) -> Verdict:
    """What was started again and runs is as wrong as what waits for it: it will not stop."""
    units, expected = parse_units(facts[0]), "no service was restarted or waits for it"
    services = [u for u in units.values() if u.restarts]
    if not services:
        return broken(expected, why_no_units(facts[0]))
    loops = [u for u in services if u.restarts != "0" or u.sub.startswith("auto-restart")]
    words = ", ".join(f"{u} restarted {u.restarts} times, is {u.sub}" for u in loops)
    return decide(not loops, expected, words or f"none of {len(services)}")


def _judge_active(name: str, facts: Sequence[Facts]) -> Verdict:
    units = parse_units(facts[0])
    if not units:
        return broken("active", why_no_units(facts[0]))
    unit = find_unit(facts[0], units, name)
    if unit is None:
        return broken("active", f"{name} is not loaded")
    return decide(
        unit.active == "active", "active", f"{unit.active}, {unit.sub}" + (f": {unit}" if unit.result else "")
    )


def _judge_timers(facts: Sequence[Facts]) -> Verdict:
    """What a timer would do later is done now; what came of it is looked at after that."""
    answer, expected = facts[0], "what the timers start, started now, does not fail"
    if answer.get("errno", "") is not None or not isinstance(answer.get("started"), list):
        return broken(expected, trouble(answer) or f"not asked: {answer.get('errno')}")
    rows = parts(answer, "started")
    wrong = [f"{r.get('unit')}: {r.get('error')}" for r in rows if r.get("error")]
    busy = [str(r.get("unit")) for r in rows if r.get("waiting")]
    words = ", ".join(str(r.get("unit")) for r in rows) or "no timer is loaded"
    words += (
        f", still at work after {TIMERS_LIMIT_S} s: {', '.join(busy)}" if busy else f", in {answer.get('seconds')} s"
    )
    return decide(not wrong, expected, "; ".join([*wrong, words]))


def _judge_command(facts: Sequence[Facts]) -> Verdict:
    status = facts[0].get("status")
    said = text(facts[0]).strip()[-600:]
    seen = f"exit {status} in {facts[0].get('seconds')} s" + (f": {said}" if said else "")
    return decide(status == 0, "exit 0", trouble(facts[0]) or seen)
