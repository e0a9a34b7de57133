# SPDX-License-Identifier: MIT
"""Profile -> checks of what the boot's journal says: nothing went round in circles, no service was refused a write.

The journal is read by one program, and of its lines the probe hands on only those that some check wants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rofs.profile import Profile
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, kept, text, trouble
from rofs.verify.scenario import Scenario
from rofs.verify.units import PROBE_UNIT

READ_ONLY, FULL = "Read-only file system", "No space left on device"
_CYCLE = "ordering cycle"
_FIRST_WORDS = "Queued start job for default target"
"""PID 1 says of the boot's cycles just before this."""
JOURNAL = wire.sift(
    60, (_CYCLE, _FIRST_WORDS, READ_ONLY, FULL),
    "journalctl", "--boot", "--no-pager", "--quiet", "--output=with-unit", "--no-hostname",
)  # fmt: skip
_LINE = re.compile(r"\S+ \S+ \S+ \S+ (?P<unit>\S+?)(\[[0-9]+\])?: (?P<message>.*)")
_PID_1 = ("systemd", "init.scope")
"""Before journald runs PID 1 writes to the kernel's log, and what comes from there has no unit."""
_OF_UNIT = re.compile(r"(?P<unit>\S+\.[a-z]+): ")
_MOST_SHOWN = 8

KERNEL_TROUBLE = ("EXT4-fs error", "SQUASHFS error", "I/O error, dev vd", "Out of memory:", "oom-kill:")


@dataclass(frozen=True, slots=True)
class Line:
    """One message and whose it is: a unit, or the name a program gives itself."""

    unit: str
    message: str


def journal_checks(profile: Profile, scenario: Scenario) -> Iterator[Check]:
    """The journal is systemd's; the kernel's log is there whatever the init."""
    if profile.init == "systemd":
        yield Check(
            promise="system", subject="no ordering cycle", at=(), ops=(JOURNAL,), judge=_judge_cycles,
        )  # fmt: skip
        tolerated = profile.verify.tolerate_write_errors
        yield Check(
            promise="journal", subject="writes refused", at=("verify",), ops=(JOURNAL,),
            judge=partial(_judge_writes, (READ_ONLY, FULL), tolerated),
        )  # fmt: skip
        if scenario.number == 1:
            yield Check(
                promise="journal", subject="after the attacks", at=("verify",), ops=(JOURNAL,),
                judge=partial(_judge_writes, (READ_ONLY,), tolerated), phase="after", shares=True,
            )  # fmt: skip
    if scenario.state != "lost":  # a broken disk is an error
        yield Check(
            promise="system", subject="no error in the kernel's log", at=(), ops=(wire.klog(*KERNEL_TROUBLE),),
            judge=_judge_kernel,
        )  # fmt: skip


def parse_journal(facts: Facts) -> tuple[Line, ...]:
    """The lines that were kept, those of PID 1 about a unit under the unit's name."""
    return tuple(_line(row) for row in text(facts).splitlines() if row.strip())


def _line(row: str) -> Line:
    match = _LINE.match(row)
    return Line(match["unit"], match["message"]) if match else Line("", row)


def _is_whole(facts: Facts, lines: Sequence[Line]) -> bool:
    first = any(line.message.startswith(_FIRST_WORDS) for line in lines if line.unit in _PID_1)
    return facts.get("status") == 0 and not facts.get("dropped") and first


def _why_not(facts: Facts) -> str:
    return trouble(facts) or f"the journal is not whole: {facts.get('lines', 'no')} lines"


def _judge_cycles(facts: Sequence[Facts]) -> Verdict:
    """PID 1 breaks a cycle by deleting a job at random and says so (note 9)."""
    lines, expected = parse_journal(facts[0]), "none in PID 1's journal"
    cycles = [line.message for line in lines if line.unit in _PID_1 and _CYCLE in line.message.lower()]
    if cycles or not _is_whole(facts[0], lines):
        return broken(expected, "; ".join(cycles[:4]) or _why_not(facts[0]))
    return kept(expected, f"none in {facts[0].get('lines')} lines, from the first job on")


def _judge_writes(refusals: Sequence[str], tolerated: Sequence[str], facts: Sequence[Facts]) -> Verdict:
    """A service that does not know that it cannot write loses something, quietly."""
    lines = parse_journal(facts[0])
    expected = f"no unit but those of verify.tolerate_write_errors is told {' or '.join(repr(r) for r in refusals)}"
    if not _is_whole(facts[0], lines):
        return broken(expected, _why_not(facts[0]))
    first: dict[str, str] = {}
    for line in lines:
        unit = _unit_of(line)
        if unit not in ("kernel", PROBE_UNIT) and any(r.lower() in line.message.lower() for r in refusals):
            first.setdefault(unit, line.message)
    wrong = [f"{unit}: {message}" for unit, message in first.items() if unit not in tolerated]
    fine = [f"{unit}: {message} (tolerated)" for unit, message in first.items() if unit in tolerated]
    if wrong:
        return broken(expected, "; ".join([*wrong, *fine][:_MOST_SHOWN]))
    return kept(expected, "; ".join(fine[:_MOST_SHOWN]) or f"none in {facts[0].get('lines')} lines")


def _unit_of(line: Line) -> str:
    """PID 1 speaks for a unit that it could not even start."""
    match = _OF_UNIT.match(line.message) if line.unit in _PID_1 else None
    return match["unit"] if match else line.unit


def _judge_kernel(facts: Sequence[Facts]) -> Verdict:
    answer, expected = facts[0], "no error of a disk, and nobody killed for memory"
    found, lines = answer.get("found"), answer.get("lines")
    if not isinstance(found, list) or not lines:
        return broken(expected, trouble(answer) or f"the kernel's log cannot be read: {answer.get('errno')}")
    if found:
        return broken(expected, "; ".join(str(line) for line in found[:_MOST_SHOWN]))
    return kept(expected, f"none in {lines} lines")
