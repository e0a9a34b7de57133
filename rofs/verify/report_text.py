# SPDX-License-Identifier: MIT
"""Report -> text for people: the whole of it, and the summary that a terminal shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rofs.machine.bounds import last_lines
from rofs.verify.check import Outcome
from rofs.verify.findings import Finding, Report, boot_name, boot_range, group, one_line

MOST_SHOWN = 20
"""Broken checks in a summary; all of them are in the report."""
EXPECTED_LENGTH, SEEN_LENGTH = 120, 240


def render_text(report: Report) -> str:
    """The verdict, then every check with what was seen, the broken ones first."""
    session = report.session
    lines = [
        f"{report.profile.name} {session.arch.name}: {'accepted' if session.accepted else 'REJECTED'}",
        f"{len(session.outcomes)} checks over {len(session.boots)} boots, {len(report.broken)} broken",
        f"accelerator: {render_accelerator(report)}",
        f"machine: {', '.join(_machine_words(report))}",
        *(
            f"{boot_name(b)}: {b.result.seconds:.1f} s, {one_line(b.result.reason)}, cmdline: {b.cmdline}"
            for b in session.boots
        ),
        *report.notes,
    ]
    for title, chosen in (("broken", report.broken), ("kept", [o for o in session.outcomes if o.verdict.ok])):
        if chosen:
            lines += ["", f"-- {title}"]
            lines += [line for o in chosen for line in render_outcome(report, o)]
    return "\n".join(lines) + "\n"


def render_accelerator(report: Report) -> str:
    """What QEMU said it ran with, and why that was chosen."""
    ran = "/".join(sorted({b.result.accel_seen for b in report.session.boots})) or "nothing"
    return f"{ran} ({report.session.accel.reason})"


def render_outcome(report: Report, outcome: Outcome) -> list[str]:
    """One check in two lines."""
    word, place = "ok" if outcome.verdict.ok else "BROKEN", report.place(outcome.at)
    seen = one_line(outcome.verdict.seen)
    expected = "" if outcome.verdict.ok else f" (expected: {one_line(outcome.verdict.expected)})"
    head = f"{word:6} {boot_range([outcome.boot])}  {outcome.promise}: {one_line(outcome.subject)}"
    return [head + (f"  [{place}]" if place else ""), f"       {seen}{expected}"]


def render_summary(report: Report, name: str | Path, reports: Path) -> str:
    """The verdict on `name`, what is broken by promise, the machine, and where in `reports` the rest is."""
    session, broken = report.session, report.broken
    verdict, checks = "verified" if session.accepted else "REJECTED", len(session.outcomes)
    lines = [
        f"{name}: {verdict}, {checks - len(broken)} of {checks} checks kept over {len(session.boots)} boots",
        *_broken_lines(report),
        f"  machine: {', '.join([render_accelerator(report), *_machine_words(report)])}",
        f"  boots:   {', '.join(_boot_words(report)) or 'none'}",
        *(f"  note:    {one_line(note)}" for note in report.notes),
        *_last_words(report),
        f"  report:  {reports / 'report.html'} (and report.txt, report.json, report.xml)",
    ]
    return "\n".join(lines) + "\n"


def _last_words(report: Report) -> Iterator[str]:
    """How the consoles ended of guests that did not boot, answer and power off."""
    broken = {o.boot for o in report.broken if o.promise == "boot"}
    for b in (b for b in report.session.boots if b.number in broken):
        yield f"  console of {boot_name(b)}, at its end:"
        yield from (f"    | {one_line(line)}" for line in last_lines(b.result.console) or ["(nothing was said)"])


def _machine_words(report: Report) -> Iterator[str]:
    if machines := dict.fromkeys(str(b.machine) for b in report.session.boots):
        yield " or ".join(machines)
    yield from (f"{name} {version}" for name, version in report.tools.items())


def _boot_words(report: Report) -> Iterator[str]:
    for b in report.session.boots:
        ended = "" if b.result.status == "off" else f" {b.result.status}"
        yield f"{b.title or b.number} {b.result.seconds:.1f} s{ended}"


def _broken_lines(report: Report) -> Iterator[str]:
    """One line a check, whatever the number of boots, below the promise that it breaks."""
    groups = [g for g in group(report.session.outcomes) if g.broken]
    rows = [(g, f) for g in groups for f in g.findings if f.broken]
    last = None
    for g, finding in islice(rows, MOST_SHOWN):
        if g is not last:
            yield f"  {one_line(g.promise)}"
        last = g
        yield f"    {_finding(report, finding)}"
    if len(rows) > MOST_SHOWN:
        yield f"  and {len(rows) - MOST_SHOWN} more: all {len(rows)} are in the report"


def _finding(report: Report, finding: Finding) -> str:
    """The first boot's evidence stands for all."""
    first, place = finding.broken[0], report.place(finding.at)
    where = f" [{place}]" if place else ""
    expected, seen = one_line(first.verdict.expected, EXPECTED_LENGTH), one_line(first.verdict.seen, SEEN_LENGTH)
    boots = boot_range(o.boot for o in finding.broken)
    return f"{one_line(finding.subject)}{where}, {boots}: expected {expected}; seen {seen}"
