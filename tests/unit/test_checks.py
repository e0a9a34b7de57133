# SPDX-License-Identifier: MIT
"""Every check of a layout with all promises: kept by an honest guest, broken by one that says too little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import pytest
from guest import Answer, Guest
from state_layouts import TEXTS, boot_of, boots, made

from rofs.verify import probe_wire as wire
from rofs.verify.check import Check
from rofs.verify.checks import Plan, asked, boot_checks, judge, make_plan
from rofs.verify.scenario import Scenario

LAST = wire.poweroff("clean")
EVERY = [
    pytest.param(name, scenario, id=f"{name}-{scenario.number}-{scenario.state}")
    for name in TEXTS
    for scenario in boots(name)
]
COLD = boot_of("rich", "none")


@cache
def booted(name: str, scenario: Scenario) -> tuple[Plan, Mapping[int, Answer]]:
    """The whole plan of a boot, and what the honest guest answers."""
    layout, entries = made(name)
    plan = make_plan(boot_checks(layout, entries, scenario), LAST)
    guest = Guest(layout, entries, scenario)
    return plan, {n: guest(op) for n, op in enumerate(plan.ops[:-1], 1)}


def alone(check: Check, facts: Sequence[Answer | None]) -> bool:
    """Whether one check is kept by these answers, None for one that never came."""
    plan = make_plan([check], LAST)
    answers = {n: facts[row] for row, n in enumerate(plan.numbers[0])}
    (outcome,) = judge(plan, 1, {n: answer for n, answer in answers.items() if answer is not None})
    return outcome.verdict.ok


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_an_honest_guest_keeps_them_all(name: str, scenario: Scenario) -> None:
    plan, answers = booted(name, scenario)
    outcomes = list(judge(plan, scenario.number, answers))
    assert [o for o in outcomes if not o.verdict.ok] == []
    assert len(outcomes) == len(plan.checks) > 20
    assert all(o.verdict.expected and o.verdict.seen and o.boot == scenario.number for o in outcomes)


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_no_answer_is_a_broken_promise(name: str, scenario: Scenario) -> None:
    troubles = {"timeout": True}, {"stuck": True}, {"signal": 11}, {"error": "bad line"}
    for check in booted(name, scenario)[0].checks:
        for facts in ({}, *troubles, {"errno": "ENOENT"}, {"errno": "EIO"}):
            verdict = check.judge([facts for _ in (*check.recalls, *check.ops)])
            assert not verdict.ok, (check.name, facts)
            assert verdict.seen, (check.name, facts)


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_one_lost_answer_breaks_it(name: str, scenario: Scenario) -> None:
    plan, answers = booted(name, scenario)
    for check, numbers in zip(plan.checks, plan.numbers, strict=True):
        facts = [answers[n] for n in numbers]
        assert alone(check, facts), check.name
        for row, true in enumerate(facts):
            for instead in (None, {**true, "timeout": True}, {**true, "exit_signal": 9}, {"signal": 6}):
                assert not alone(check, [*facts[:row], instead, *facts[row + 1 :]]), (check.name, row)


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_looking_comes_before_touching(name: str, scenario: Scenario) -> None:
    checks = booted(name, scenario)[0].checks
    phases = [c.phase for c in checks]
    assert phases == sorted(phases, key=["quiet", "loud", "late", "after"].index)
    assert phases[0] == "quiet" and phases[-1] == "after"
    assert checks[0].name == "system: running", "which waits for the boot to end"


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_names_are_one_each(name: str, scenario: Scenario) -> None:
    names = [c.name for c in booted(name, scenario)[0].checks]
    assert len(set(names)) == len(names)


def test_what_only_looks_is_asked_once_and_the_rest_each_time() -> None:
    plan = booted("rich", COLD)[0]
    shared = {(c.phase, op) for c in plan.checks if c.phase == "quiet" or c.shares for op in c.ops}
    touching = [op for c in plan.checks if c.phase != "quiet" and not c.shares for op in c.ops]
    assert len(plan.ops) == len(shared) + len(touching) + 1
    assert [op.name for op in plan.ops].count("brim") == 1 < sum(op.name == "brim" for c in plan.checks for op in c.ops)
    assert plan.ops[-1] == LAST
    for check, numbers in zip(plan.checks, plan.numbers, strict=True):
        assert tuple(plan.ops[n - 1] for n in numbers) == (*check.recalls, *check.ops)


def test_the_first_answer_to_an_operation_is_the_one_remembered() -> None:
    plan = booted("rich", COLD)[0]
    table = wire.read("/proc/1/mountinfo")
    reads = [n for n, op in enumerate(plan.ops, 1) if op == table]
    found = asked(plan, {n: {"errno": None, "n": n} for n in reads})
    assert found[table]["n"] == reads[0] < reads[-1]
    assert found[LAST] == {}, "what was not answered"
    assert set(found) == set(plan.ops)


def test_the_table_is_read_before_and_after_everything() -> None:
    plan = booted("rich", COLD)[0]
    reads = [n for n, op in enumerate(plan.ops, 1) if op == wire.read("/proc/1/mountinfo")]
    assert plan.numbers[-1][0::2] == (reads[0], reads[-1]) and len(reads) > 2
    table, places = plan.checks[-1].ops
    looks = [n for n, op in enumerate(plan.ops, 1) if op == places]
    assert plan.numbers[-1] == (reads[0], looks[0], reads[-1], looks[1]) and plan.checks[-1].recalls == (table, places)


def test_what_is_recalled_is_asked_when_nobody_else_asks_it() -> None:
    check = booted("rich", COLD)[0].checks[-1]
    assert make_plan([check], LAST).numbers == ((1, 2, 3, 4),)


def test_an_answer_that_never_came_is_told() -> None:
    plan = booted("rich", COLD)[0]
    outcomes = list(judge(plan, 1, {}))
    assert len(outcomes) == len(plan.checks) and not any(o.verdict.ok for o in outcomes)


def test_which_boots_attack() -> None:
    for name in TEXTS:
        for scenario in boots(name):
            attacked = [c for c in booted(name, scenario)[0].checks if c.promise == "immutable"]
            assert bool(attacked) == scenario.attacked == (scenario.number <= (2 if scenario.state == "used" else 1))
