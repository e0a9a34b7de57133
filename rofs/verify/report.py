# SPDX-License-Identifier: MIT
"""Session -> report.json, report.xml (JUnit) and report.txt, with the evidence of every check."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from rofs.errors import render_key_path
from rofs.profile import Profile
from rofs.verify.check import Outcome
from rofs.verify.session import BootRecord, Session

SCHEMA = "rofs/report/v1"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A session, the profile it is about, and what a reader must know beside the checks."""

    profile: Profile
    session: Session
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """The outcomes that reject the image."""
        return tuple(o for o in self.session.outcomes if not o.verdict.ok)

    def place(self, outcome: Outcome) -> str:
        """`minimal.yaml:12:5 mounts[0]`, or '' where no key of the profile speaks."""
        if not outcome.at:
            return ""
        mark = self.profile.marks.find(outcome.at)
        return f"{Path(mark.file).name}:{mark.line}:{mark.column} {render_key_path(outcome.at)}"


def render_json(report: Report) -> str:
    """Everything, for programs."""
    session = report.session
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "profile": report.profile.name,
        "architecture": session.arch.name,
        "accelerator": {
            "chosen": session.accel.name,
            "reason": session.accel.reason,
            "ran": sorted({b.result.accel_seen for b in session.boots}),
        },
        "verdict": "accepted" if session.accepted else "rejected",
        "notes": list(report.notes),
        "boots": [
            {
                "number": b.number, "title": b.title, "ended": b.result.status, "reason": b.result.reason,
                "seconds": round(b.result.seconds, 2), "accelerator": b.result.accel_seen, "cmdline": b.cmdline,
            }
            for b in session.boots
        ],
        "checks": [
            {
                "boot": o.boot, "promise": o.promise, "subject": o.subject, "ok": o.verdict.ok,
                "expected": o.verdict.expected, "seen": o.verdict.seen, "place": report.place(o),
            }
            for o in session.outcomes
        ],
    }  # fmt: skip
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def render_junit(report: Report) -> str:
    """One test suite a boot, one test case a check, as CI systems read it."""
    root = ET.Element("testsuites", name=f"rofs {report.profile.name} {report.session.arch.name}")
    for record in report.session.boots:
        outcomes = [o for o in report.session.outcomes if o.boot == record.number]
        suite = ET.SubElement(
            root, "testsuite", name=_boot_name(record), tests=str(len(outcomes)), errors="0", skipped="0",
            failures=str(sum(not o.verdict.ok for o in outcomes)), time=f"{record.result.seconds:.3f}",
        )  # fmt: skip
        for outcome in outcomes:
            classname = f"{report.profile.name}.{report.session.arch.name}.{outcome.promise}"
            case = ET.SubElement(suite, "testcase", name=_xml(outcome.subject), classname=_xml(classname))
            text = _xml(f"expected: {outcome.verdict.expected}\nseen: {outcome.verdict.seen}\n{report.place(outcome)}")
            if not outcome.verdict.ok:
                message = _xml(outcome.verdict.seen)
                ET.SubElement(case, "failure", message=message).text = text
            else:
                ET.SubElement(case, "system-out").text = text
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _boot_name(record: BootRecord) -> str:
    return f"boot {record.number}" + (f" ({record.title})" if record.title else "")


def _xml(text: str) -> str:
    """XML 1.0 has no way to say a control character."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def render_text(report: Report) -> str:
    """For people: the verdict, then every check with what was seen, the broken ones first."""
    session = report.session
    ran = "/".join(sorted({b.result.accel_seen for b in session.boots})) or "nothing"
    lines = [
        f"{report.profile.name} {session.arch.name}: {'accepted' if session.accepted else 'REJECTED'}",
        f"{len(session.outcomes)} checks over {len(session.boots)} boots, {len(report.broken)} broken",
        f"accelerator: {ran} ({session.accel.reason})",
        *(f"{_boot_name(b)}: {b.result.seconds:.1f} s, {b.result.reason}, cmdline: {b.cmdline}" for b in session.boots),
        *report.notes,
    ]
    for title, chosen in (("broken", report.broken), ("kept", [o for o in session.outcomes if o.verdict.ok])):
        if chosen:
            lines += ["", f"-- {title}"]
            lines += [line for o in chosen for line in render_outcome(report, o)]
    return "\n".join(lines) + "\n"


def render_outcome(report: Report, outcome: Outcome) -> list[str]:
    """One check in two lines."""
    word, place = "ok" if outcome.verdict.ok else "BROKEN", report.place(outcome)
    seen = _one_line(outcome.verdict.seen)
    expected = "" if outcome.verdict.ok else f" (expected: {_one_line(outcome.verdict.expected)})"
    head = f"{word:6} boot {outcome.boot}  {outcome.promise}: {_one_line(outcome.subject)}"
    return [head + (f"  [{place}]" if place else ""), f"       {seen}{expected}"]


def _one_line(text: str) -> str:
    """Without control characters: what a guest says must not move a reader's cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def write_report(report: Report, directory: Path) -> None:
    """The three files beside the image."""
    for name, render in (
        ("report.json", render_json),
        ("report.xml", render_junit),
        ("report.txt", render_text),
    ):
        (directory / name).write_text(render(report), encoding="utf-8")
