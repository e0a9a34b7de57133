# SPDX-License-Identifier: MIT
"""Layout, entries -> the checks of one boot, in order, and the plan that the probe executes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rofs.entry import Entry
from rofs.layout import Layout, as_volatile
from rofs.machine.arch import Arch
from rofs.verify import probe_wire as wire
from rofs.verify.begins import content_of_image_checks
from rofs.verify.check import Check, Facts, Outcome, Verdict, broken, trouble
from rofs.verify.cmdline import cmdline_checks
from rofs.verify.content import content_checks
from rofs.verify.identity import identity_checks
from rofs.verify.immutable import immutable_checks
from rofs.verify.journal import journal_checks
from rofs.verify.memory import memory_checks
from rofs.verify.mounts import late_mount_check, mount_checks, unit_checks
from rofs.verify.network import network_checks
from rofs.verify.rights import rights_checks
from rofs.verify.scenario import Scenario
from rofs.verify.state import state_checks
from rofs.verify.system import system_checks
from rofs.verify.volatile import volatile_checks

_PHASES = ("quiet", "loud", "late", "after")
MOST_SEEN = 8000
"""Characters of evidence that a report has of one check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Checks and the operations they share: each operation asked once a phase, by its number from 1."""

    checks: tuple[Check, ...]
    numbers: tuple[tuple[int, ...], ...]
    ops: tuple[wire.Op, ...]


def boot_checks(
    layout: Layout, entries: Sequence[Entry], scenario: Scenario, arch: Arch | None = None
) -> tuple[Check, ...]:
    """Everything that is looked at comes before anything that writes; the mount table is read again last.

    Without `arch` the image may be for any of the profile's architectures.
    """
    lost = scenario.state == "lost"
    live = as_volatile(layout) if lost else layout
    checks: list[Check] = [
        *system_checks(layout, scenario),
        *cmdline_checks(layout, scenario, arch),
        *journal_checks(layout.profile, scenario),
        *mount_checks(live),
        *(() if lost else unit_checks(layout)),  # the same files, and findmnt(8) would rightly miss the disk
        *content_checks(layout, entries, kept=scenario.state == "kept"),
        *identity_checks(layout, entries),
        *state_checks(layout, scenario),
        *network_checks(layout.profile),
        *rights_checks(live),
        *content_of_image_checks(live, entries, scenario),
        *volatile_checks(live, scenario),
        *(memory_checks(live) if scenario.number == 1 else ()),
        *(immutable_checks(layout) if scenario.attacked else ()),
        late_mount_check(live),
    ]
    return tuple(sorted(checks, key=lambda c: _PHASES.index(c.phase)))


def make_plan(checks: Sequence[Check], last: wire.Op) -> Plan:
    """Number the operations. Within a phase checks that may share what they ask do; the rest is done each time."""
    ops: list[wire.Op] = []
    shared: dict[tuple[str, wire.Op], int] = {}
    numbers = []
    for check in checks:
        row = []
        asks = [("quiet", op) for op in check.recalls] + [(check.phase, op) for op in check.ops]
        for phase, op in asks:
            shares = check.shares or phase == "quiet"
            number = shared.get((phase, op)) if shares else None
            if number is None:
                ops.append(op)
                number = len(ops)
                if shares:
                    shared[phase, op] = number
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
        verdict = _verdict(check, facts)
        lost = [f"{plan.ops[n - 1]}: {trouble(f)}" for n, f in zip(numbers, facts, strict=True) if trouble(f)]
        if lost and verdict.ok:
            verdict = replace(verdict, ok=False, seen=f"{lost[0]}; {verdict.seen}")
        verdict = replace(verdict, seen=shortened(verdict.seen))
        yield Outcome(boot=boot, promise=check.promise, subject=check.subject, at=check.at, verdict=verdict)


def _verdict(check: Check, facts: Sequence[Facts]) -> Verdict:
    """answers.py takes answers of the right form alone; what they hold may still be beyond a judge."""
    try:
        return check.judge(facts)
    except Exception as error:  # noqa: BLE001 -- whatever a guest says, the other checks are judged
        return broken("an answer", f"the guest's answer cannot be read: {type(error).__name__}: {error}")


def shortened(seen: str) -> str:
    """Evidence for people: a guest may say megabytes."""
    dropped = len(seen) - MOST_SEEN
    if dropped <= 0:
        return seen
    end = len(seen) - MOST_SEEN // 4
    return f"{seen[: end - dropped]} [... {dropped} characters ...] {seen[end:]}"
