# SPDX-License-Identifier: MIT
"""Report -> JUnit XML as CI systems read it: a suite for the image and for each boot, a case for each check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from rofs.verify.check import Outcome
from rofs.verify.findings import REPLACED, Report, boot_name

_NOT_XML = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
BOOTS = "boot"
"""The promise whose case carries a boot's time, so that the cases add up to the suite."""


def render_junit(report: Report) -> str:
    """The sums of each suite at the suite, those of all at the root."""
    outcomes, records = report.session.outcomes, {b.number: b for b in report.session.boots}
    root = ET.Element("testsuites", name=f"rofs {report.profile.name} {report.session.arch.name}")
    root.attrib |= _sums(outcomes, sum(b.result.seconds for b in records.values()))
    for number in sorted({*records, *(o.boot for o in outcomes)}):
        record = records.get(number)
        name = boot_name(record) if record else "image" if number == 0 else f"boot {number}"
        chosen, seconds = [o for o in outcomes if o.boot == number], record.result.seconds if record else 0.0
        suite = ET.SubElement(root, "testsuite", name=_xml(name))
        suite.attrib |= _sums(chosen, seconds)
        for outcome in chosen:
            suite.append(_case(report, outcome, seconds if outcome.promise == BOOTS else 0.0))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _sums(outcomes: Sequence[Outcome], seconds: float) -> dict[str, str]:
    failures = sum(not o.verdict.ok for o in outcomes)
    numbers = {"tests": len(outcomes), "failures": failures, "errors": 0, "skipped": 0}
    return {**{name: str(number) for name, number in numbers.items()}, "time": f"{seconds:.3f}"}


def _case(report: Report, outcome: Outcome, seconds: float) -> ET.Element:
    classname = f"{report.profile.name}.{report.session.arch.name}.{outcome.promise}"
    case = ET.Element("testcase", name=_xml(outcome.subject), classname=_xml(classname), time=f"{seconds:.3f}")
    verdict = outcome.verdict
    text = _xml(f"expected: {verdict.expected}\nseen: {verdict.seen}\n{report.place(outcome.at)}")
    if verdict.ok:
        ET.SubElement(case, "system-out").text = text
    else:
        ET.SubElement(case, "failure", message=_xml(verdict.seen), type="broken").text = text
    return case


def _xml(text: str) -> str:
    """XML 1.0 has no way to say most control characters, and discourages the rest."""
    return _NOT_XML.sub(REPLACED, text)
