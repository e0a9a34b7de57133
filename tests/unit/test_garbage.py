# SPDX-License-Identifier: MIT
"""Guests that say garbage: each check of each example profile survives it, and takes none of it for a kept promise."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from guest import Answer, Guest
from layouts import EPOCH, busybox_tree, tree

from rofs.entry import Entry
from rofs.generate import generate
from rofs.inputs import load_inputs
from rofs.layout import Layout, build_layout
from rofs.profile import load_profile
from rofs.treefacts import Node
from rofs.verify import probe_wire as wire
from rofs.verify.answers import Answers
from rofs.verify.check import Check, Facts, Outcome, Verdict, kept
from rofs.verify.checks import MOST_SEEN, Plan, asked, boot_checks, judge, make_plan
from rofs.verify.identity import remember
from rofs.verify.scenario import Scenario, scenarios
from rofs.verify.shapes import SHAPES, find_flaw

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
NAMES = ("minimal", "appliance", "sensor-gateway", "busybox")
ROUNDS = 20
VALUES: Sequence[Any] = (
    None, True, False, 0, -1, 1 << 63, 1 << 70, 10**300, 0.5, 1e300, "", "x", "EROFS", "\0", "a\0b", "%", "%zz", "%00",
    "\x1b[2J", "\x9b2J", "\ud800", "\udcff", "\u2028", "=", "abc", "YQ==", "//79", "AAAA", " - ", [], {}, [None], [[]],
    [{}], ["a", 1], [{"name": 1}], [{"path": "\0", "how": []}], {"a": {"b": {"c": {"d": [[[[[]]]]]}}}}, "running\n",
    [{"name": "create", "errno": "EROFS", "effect": "no"}], [{"name": "create", "errno": [], "effect": False}],
)  # fmt: skip


@cache
def made(name: str) -> tuple[Layout, tuple[Entry, ...]]:
    """An example profile in a tree with all that rofs looks for."""
    profile = load_profile(PROFILES / f"{name}.yaml")
    facts = busybox_tree() if profile.init == "other" else tree({"/usr/sbin/sshd": Node("file", 0o755, 0, 0, 9)})
    layout = build_layout(profile, facts)
    return layout, generate(layout, load_inputs(profile), facts, EPOCH)


def boots(name: str) -> tuple[Scenario, ...]:
    """One boot of each kind."""
    profile = made(name)[0].profile
    every = (*scenarios(profile), *(s for s in scenarios(profile, kept=True) if s.state == "kept"))
    return tuple({s.state: s for s in reversed(every)}.values())


EVERY = [pytest.param(n, s, id=f"{n}-{s.state}") for n in NAMES for s in boots(n)]


@cache
def booted(name: str, scenario: Scenario) -> tuple[Plan, Mapping[int, Answer]]:
    """The whole plan of a boot, and what an honest guest answers."""
    layout, entries = made(name)
    plan = make_plan(boot_checks(layout, entries, scenario), wire.poweroff("clean"))
    guest = Guest(layout, entries, scenario)
    return plan, {n: guest(op) for n, op in enumerate(plan.ops[:-1], 1)}


def line_of(plan: Plan, number: int, facts: object) -> str:
    own = {"id": number, "op": plan.ops[number - 1].name}
    return json.dumps({**own, **facts} if isinstance(facts, dict) else facts)


def judged(plan: Plan, lines: Iterator[str]) -> list[Outcome]:
    """As a session does it."""
    answers = Answers(plan.ops)
    for line in lines:
        answers.take(line)
    remember(asked(plan, answers.facts))
    outcomes = list(judge(plan, 1, answers.facts))
    assert len(outcomes) == len(plan.checks)
    json.dumps([answers.outcome(1).verdict.seen, *(o.verdict.seen for o in outcomes)]).encode("ascii")
    for outcome in outcomes:
        assert "the guest's answer cannot be read" not in outcome.verdict.seen, (
            "a judge met what the forms of answers should keep out"
        )
        outcome.verdict.seen.encode("utf-8")
        assert len(outcome.verdict.seen) < MOST_SEEN + 100
    return outcomes


def garbage(rng: random.Random, keys: Sequence[str]) -> object:
    """Facts of the right names and wrong values, in any number; sometimes no object at all."""
    if rng.random() < 0.05:
        return rng.choice(VALUES)
    return {rng.choice([*keys, "x\0", "\ud800"]): rng.choice(VALUES) for _ in range(rng.randrange(6))}


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_an_honest_guest_is_believed(name: str, scenario: Scenario) -> None:
    plan, answers = booted(name, scenario)
    outcomes = judged(plan, (line_of(plan, n, facts) for n, facts in answers.items()))
    assert [o for o in outcomes if not o.verdict.ok] == []


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_empty_answers_keep_no_promise(name: str, scenario: Scenario) -> None:
    plan, _ = booted(name, scenario)
    for facts in ({}, {"errno": "EIO"}, {"error": "x"}):
        outcomes = judged(plan, (line_of(plan, n, facts) for n in range(1, len(plan.ops) + 1)))
        assert [o for o in outcomes if o.verdict.ok] == []


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_a_judge_survives_anything(name: str, scenario: Scenario) -> None:
    """Also with facts that no form was asked of."""
    rng = random.Random(f"{name} {scenario.state}")
    plan, answers = booted(name, scenario)
    keys = sorted({key for facts in answers.values() for key in facts})
    for _ in range(ROUNDS):
        found = {n: facts for n in answers if isinstance(facts := garbage(rng, keys), dict)}
        assert len(list(judge(plan, 1, found))) == len(plan.checks)
        judged(plan, (line_of(plan, n, facts) for n, facts in found.items()))


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_one_fact_of_a_wrong_form_breaks_every_check_that_asked(name: str, scenario: Scenario) -> None:
    """Of an honest guest's answers; whatever the fact is."""
    rng = random.Random(f"{name} {scenario.state}")
    plan, answers = booted(name, scenario)
    spoiled: dict[int, dict[str, Any]] = {}
    for number, facts in answers.items():
        op = plan.ops[number - 1].name
        key = rng.choice([k for k in facts if k in SHAPES[op].forms or k == "errno"])
        wrong = [value for value in VALUES if find_flaw(op, {**facts, key: value})]
        spoiled[number] = {**facts, key: rng.choice(wrong)}
    outcomes = judged(plan, (line_of(plan, n, facts) for n, facts in spoiled.items()))
    assert [o for o in outcomes if o.verdict.ok] == []


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_honest_forms_with_strange_contents(name: str, scenario: Scenario) -> None:
    """Files, outputs and names of any bytes: binary, huge, endless lines, another file's."""
    rng = random.Random(f"{name} {scenario.state}")
    plan, answers = booted(name, scenario)
    texts = [facts["data"] for facts in answers.values() if "data" in facts]
    strange = ["", "AAAA", "/////w==", "YQo=", "IC0gCg==", "Ojo6Cg==", "W01vdW50XQo=", "W01vdW50XQphPQogYgo=", "Cg==",
               "YWFh" * 100_000, "IC0g" * 10_000, "ICAK" * 10_000]  # fmt: skip
    strings = ["", "%", "%00", "%FF", "a/../..", "/", ".", "E1", "link", "x" * 5000]
    numbers = [0, -1, 1 << 62, (1 << 64) - 1]
    for _ in range(ROUNDS):
        told = {n: _odd(rng, facts, [*strange, *texts], strings, numbers) for n, facts in answers.items()}
        judged(plan, (line_of(plan, n, facts) for n, facts in told.items()))


def _odd(rng: random.Random, facts: Any, raw: Sequence[str], strings: Sequence[str], numbers: Sequence[int]) -> Any:
    """Another value of the same type, here and there."""
    if isinstance(facts, dict):
        return {
            key: rng.choice(raw) if key in ("data", "tail") else _odd(rng, value, raw, strings, numbers)
            for key, value in facts.items()
        }
    if rng.random() < 0.5:
        return facts
    if isinstance(facts, list):
        return [_odd(rng, row, raw, strings, numbers) for row in facts * rng.randrange(3)]
    if isinstance(facts, bool):
        return not facts
    if isinstance(facts, int):
        return rng.choice(numbers)
    return rng.choice(strings) if isinstance(facts, str) else facts


def test_evidence_is_not_endless() -> None:
    plan, answers = booted("minimal", boots("minimal")[0])
    numbers = [n for n, op in enumerate(plan.ops, 1) if op == wire.read("/proc/1/mountinfo")]
    rows = "IC0g" * 2 + "Cg=="
    many = "".join([rows[:8] + "ICAK"] * 20_000)
    told = {**answers, **{n: {**answers[n], "data": many} for n in numbers}}
    outcomes = judged(plan, (line_of(plan, n, facts) for n, facts in told.items()))
    (table,) = [o for o in outcomes if o.subject == "mount table"]
    assert not table.verdict.ok and " characters ...] " in table.verdict.seen


def test_a_judge_that_fails_is_a_broken_promise_with_the_error() -> None:
    def fails(facts: Sequence[Facts]) -> Verdict:
        return kept("anything", f"{facts[0]['mode']:04o}")

    check = Check(promise="mode", subject="/", at=(), ops=(wire.lstat("/"),), judge=fails)
    plan = make_plan([check], wire.poweroff("clean"))
    (good,) = judge(plan, 1, {1: {"mode": 0o755}})
    assert good.verdict.ok
    for facts, words in (({"mode": "x"}, "ValueError: Unknown format code 'o'"), ({"errno": None}, "KeyError: 'mode'")):
        (outcome,) = judge(plan, 1, {1: facts})
        assert not outcome.verdict.ok
        assert outcome.verdict.seen.startswith(f"the guest's answer cannot be read: {words}")
