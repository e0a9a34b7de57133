# SPDX-License-Identifier: MIT
"""Layout, entries -> the checks of one boot, in order, and the plan that the probe executes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rofs.entry import Entry
from rofs.layout import Layout, as_volatile
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Outcome, trouble
from rofs.verify.content import content_checks
from rofs.verify.identity import identity_checks
from rofs.verify.immutable import immutable_checks
from rofs.verify.mounts import TABLE, judge_undeclared, mount_checks, unit_checks
from rofs.verify.scenario import Scenario
from rofs.verify.state import state_checks
from rofs.verify.system import system_checks
from rofs.verify.volatile import volatile_checks

_PHASES = ("quiet", "loud", "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Checks and the operations they share: each operation asked once a phase, by its number from 1."""

    checks: tuple[Check, ...]
    numbers: tuple[tuple[int, ...], ...]
    ops: tuple[wire.Op, ...]


def boot_checks(layout: Layout, entries: Sequence[Entry], scenario: Scenario) -> tuple[Check, ...]:
    """Everything that is looked at comes before anything that writes; the mount table is read again last."""
    lost = scenario.state == "lost"
    live = as_volatile(layout) if lost else layout
    checks: list[Check] = [
        *system_checks(layout.profile),
        *mount_checks(live),
        *(() if lost else unit_checks(layout)),  # the same files, and findmnt(8) would rightly miss the disk
        *content_checks(layout, entries, kept=scenario.state == "kept"),
        *identity_checks(layout, entries),
        *state_checks(layout, scenario),
        *volatile_checks(live, scenario),
        *(immutable_checks(layout) if scenario.attacked else ()),
        _late_table(live),
    ]
    return tuple(sorted(checks, key=lambda c: _PHASES.index(c.phase)))


def _late_table(layout: Layout) -> Check:
    return Check(
        promise="nothing undeclared", subject="mount table after all checks", at=("mounts",), ops=(TABLE,),
        judge=partial(judge_undeclared, layout), phase="after",
    )  # fmt: skip


def make_plan(checks: Sequence[Check], last: wire.Op) -> Plan:
    """Number the operations. What only looks is shared within the quiet phase; the rest is done each time."""
    ops: list[wire.Op] = []
    shared: dict[wire.Op, int] = {}
    numbers = []
    for check in checks:
        row = []
        for op in check.ops:
            number = shared.get(op) if check.phase == "quiet" else None
            if number is None:
                ops.append(op)
                number = len(ops)
                shared.setdefault(op, number)
            row.append(number)
        numbers.append(tuple(row))
    return Plan(checks=tuple(checks), numbers=tuple(numbers), ops=(*ops, last))


def asked(plan: Plan, answers: Mapping[int, Facts]) -> dict[wire.Op, Facts]:
    """The first answer to each operation."""
    found: dict[wire.Op, Facts] = {}
    for number, op in enumerate(plan.ops, start=1):
        found.setdefault(op, answers.get(number, {}))
    return found


def judge(plan: Plan, boot: int, answers: Mapping[int, Facts]) -> Iterator[Outcome]:
    """Each check, in the plan's order; an answer that never came is a broken promise, not a skipped one."""
    for check, numbers in zip(plan.checks, plan.numbers, strict=True):
        facts = [answers.get(n, {}) for n in numbers]
        verdict = check.judge(facts)
        lost = [f"{plan.ops[n - 1]}: {trouble(f)}" for n, f in zip(numbers, facts, strict=True) if trouble(f)]
        if lost and verdict.ok:
            verdict = replace(verdict, ok=False, seen=f"{lost[0]}; {verdict.seen}")
        yield Outcome(boot=boot, promise=check.promise, subject=check.subject, at=check.at, verdict=verdict)
