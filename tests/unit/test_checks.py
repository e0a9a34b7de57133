# SPDX-License-Identifier: MIT
"""Every check of a layout with all promises: kept by an honest guest, broken by one that says too little."""

from __future__ import annotations

from functools import cache

import pytest
from guest import Guest
from layouts import HOSTILE, RICH, entries_of, layout_of

from rofs.layout import Layout
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check
from rofs.verify.checks import BOOTS, boot_checks, judge, make_plan


@cache
def checks(text: str, boot: int) -> tuple[Layout, Guest, tuple[Check, ...]]:
    layout = layout_of(text)
    entries = entries_of(layout)
    return layout, Guest(layout, entries, boot), boot_checks(layout, entries, boot)


EVERY = [
    pytest.param(text, boot, index, id=f"{name}-{boot}-{check.name}")
    for name, text in (("rich", RICH), ("hostile", HOSTILE))
    for boot in (1, 2)
    for index, check in enumerate(checks(text, boot)[2])
]


@pytest.mark.parametrize(("text", "boot", "index"), EVERY)
def test_an_honest_guest_keeps_it(text: str, boot: int, index: int) -> None:
    _, guest, every = checks(text, boot)
    verdict = guest.ask(every[index])
    assert verdict.ok, verdict
    assert verdict.expected and verdict.seen


@pytest.mark.parametrize(("text", "boot", "index"), EVERY)
def test_no_answer_is_a_broken_promise(text: str, boot: int, index: int) -> None:
    check = checks(text, boot)[2][index]
    troubles = {"timeout": True}, {"stuck": True}, {"signal": 11}, {"error": "bad line"}
    for facts in ({}, *troubles, {"errno": "ENOENT"}, {"errno": "EIO"}):
        verdict = check.judge([facts for _ in check.ops])
        assert not verdict.ok, facts
        assert verdict.seen, facts


@pytest.mark.parametrize(("text", "boot", "index"), EVERY)
def test_one_lost_answer_breaks_it(text: str, boot: int, index: int) -> None:
    _, guest, every = checks(text, boot)
    plan = make_plan([every[index]], wire.poweroff("cut"))
    good = {n: guest(op) for n, op in enumerate(plan.ops[:-1], 1)}
    (outcome,) = judge(plan, boot, good)
    assert outcome.verdict.ok
    for lost, true in good.items():
        for instead in (None, {**true, "timeout": True}, {**true, "exit_signal": 9}, {"signal": 6}):
            answers = {n: a for n, a in good.items() if n != lost} | ({lost: instead} if instead else {})
            (outcome,) = judge(plan, boot, answers)
            assert not outcome.verdict.ok, plan.ops[lost - 1]


def test_looking_comes_before_touching() -> None:
    for boot in range(1, BOOTS + 1):
        phases = [c.phase for c in checks(RICH, boot)[2]]
        assert phases == sorted(phases, key=["quiet", "loud", "after"].index)
        assert phases[0] == "quiet" and phases[-1] == "after"
    assert checks(RICH, 1)[2][0].name == "system: running", "which waits for the boot to end"


def test_names_are_one_each() -> None:
    for boot in range(1, BOOTS + 1):
        names = [c.name for c in checks(RICH, boot)[2]]
        assert len(set(names)) == len(names)


def test_what_only_looks_is_asked_once_and_the_rest_each_time() -> None:
    every = checks(RICH, 1)[2]
    plan = make_plan(every, wire.poweroff("clean"))
    quiet = [op for c in every if c.phase == "quiet" for op in c.ops]
    touching = [op for c in every if c.phase != "quiet" for op in c.ops]
    assert len(plan.ops) == len(set(quiet)) + len(touching) + 1
    assert plan.ops[-1] == wire.poweroff("clean")
    for check, numbers in zip(plan.checks, plan.numbers, strict=True):
        assert tuple(plan.ops[n - 1] for n in numbers) == check.ops


def test_the_table_is_read_before_and_after_everything() -> None:
    plan = make_plan(checks(RICH, 1)[2], wire.poweroff("clean"))
    reads = [n for n, op in enumerate(plan.ops, 1) if op == wire.read("/proc/1/mountinfo")]
    assert plan.numbers[-1] == (reads[-1],) and len(reads) > 2


def test_an_answer_that_never_came_is_told() -> None:
    _, guest, every = checks(RICH, 1)
    plan = make_plan(every, wire.poweroff("clean"))
    outcomes = list(judge(plan, 1, {}))
    assert len(outcomes) == len(every) and not any(o.verdict.ok for o in outcomes)
    honest = {n: guest(op) for n, op in enumerate(plan.ops[:-1], 1)}
    assert all(o.verdict.ok for o in judge(plan, 1, honest))
