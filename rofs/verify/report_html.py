# SPDX-License-Identifier: MIT
"""Report -> one HTML page that needs nothing else: no script, no request, and no style but its own.

Everything that a guest may have said is cleaned here and escaped by the template. The page's policy allows the one
style sheet by its hash, so that what slips through all the same is neither run, fetched nor drawn.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rofs.generate.render import render
from rofs.verify.check import Outcome
from rofs.verify.drawings import draw_times, draw_tree
from rofs.verify.findings import Finding, Group, Report, boot_name, boot_range, clean, cut, group
from rofs.verify.report_text import render_accelerator
from rofs.verify.request import BootRecord

CONSOLE_KEPT = 200_000
"""Characters of each end of a console log."""
EVIDENCE_KEPT = 4_000


def render_html(report: Report) -> str:
    """The whole page."""
    style = render("report.css")
    groups = group(report.session.outcomes)
    return render(
        "report.html.j2",
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        report=report,
        notes=[clean(note) for note in report.notes],
        facts=list(_facts(report)),
        broken=[_group(report, g, only_broken=True) for g in groups if g.broken],
        groups=[_group(report, g) for g in groups],
        tree=draw_tree(report),
        times=draw_times(report),
        boots=[_boot(record) for record in report.session.boots],
    )


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    session, profile = report.session, report.profile
    yield "profile", f"{profile.name} ({profile.file.name})"
    if profile.description:
        yield "description", profile.description
    yield "architecture", session.arch.name
    yield "accelerator", render_accelerator(report)
    yield from report.tools.items()
    for machine in dict.fromkeys(b.machine for b in session.boots):
        yield "machine", str(machine)
    for cmdline in dict.fromkeys(b.cmdline for b in session.boots):
        yield "command line", cmdline
    yield from ((name, f"sha256 {digest}") for name, digest in session.files.items())


# --- what was promised and seen ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The same words of several boots."""

    ok: bool
    expected: str
    seen: str
    boots: tuple[int, ...]

    @property
    def name(self) -> str:
        return boot_range(self.boots)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A row of the table."""

    subject: str
    place: str
    ok: bool
    evidence: tuple[_Evidence, ...]


@dataclass(frozen=True, slots=True)
class _ShownGroup:
    promise: str
    checks: int
    broken: int
    rows: tuple[_Shown, ...]


def _group(report: Report, found: Group, *, only_broken: bool = False) -> _ShownGroup:
    findings = [f for f in found.findings if f.broken] if only_broken else found.findings
    rows = tuple(_shown(report, f, f.broken if only_broken else f.outcomes) for f in findings)
    return _ShownGroup(clean(found.promise), found.checks, found.broken, rows)


def _shown(report: Report, finding: Finding, outcomes: Iterable[Outcome]) -> _Shown:
    same: dict[tuple[bool, str, str], list[int]] = {}
    for o in outcomes:
        same.setdefault((o.verdict.ok, o.verdict.expected, o.verdict.seen), []).append(o.boot)
    evidence = tuple(
        _Evidence(ok, _words(expected), _words(seen), tuple(boots)) for (ok, expected, seen), boots in same.items()
    )
    broken_first = tuple(sorted(evidence, key=lambda e: e.ok))
    return _Shown(_words(finding.subject), report.place(finding.at), not finding.broken, broken_first)


def _words(text: str) -> str:
    return cut(clean(text), EVIDENCE_KEPT)


# --- the boots --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Boot:
    record: BootRecord
    name: str
    reason: str
    kilobytes: int
    console: str


def _boot(record: BootRecord) -> _Boot:
    console = record.result.console
    shown = clean(cut(console, CONSOLE_KEPT))
    return _Boot(record, boot_name(record), clean(record.result.reason), -(-len(console) // 1000), shown)
