# SPDX-License-Identifier: MIT
"""A session as text, JSON and JUnit: counts, places, and a guest that says control characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from layouts import RICH, profile_of

from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES
from rofs.machine.qemu import BootResult
from rofs.verify.check import Outcome, broken, kept
from rofs.verify.report import Report, render_json, render_junit, render_text, write_report
from rofs.verify.session import BootRecord, Session

EVIL = "a\x00b\x1b[31mred\x07\ufffe <&>\"' ü\r\n\ttail"


def result() -> BootResult:
    from dataclasses import MISSING, fields

    values: dict[str, Any] = {
        "status": "off",
        "reason": "powered off",
        "seconds": 8.25,
        "accel_seen": "tcg",
        "console": "",
    }
    for field in fields(BootResult):
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            values[field.name] = None
    return BootResult(**values)


def report(*outcomes: Outcome) -> Report:
    accel = Accel(name="tcg", reason="no /dev/kvm")
    boots = tuple(
        BootRecord(number=n, title=title, result=result(), answered=9, asked=9, cmdline="ro root=/dev/vda")
        for n, title in ((1, ""), (2, "state missing"))
    )
    session = Session(arch=ARCHES["arm64"], accel=accel, boots=boots, outcomes=outcomes)
    return Report(profile=profile_of(RICH), session=session, notes=("a note",))


GOOD = Outcome(boot=1, promise="mount", subject="/tmp", at=("mounts", 3), verdict=kept("tmpfs", "tmpfs, 32M"))
BAD = Outcome(boot=2, promise="size cap", subject=EVIL, at=("mounts", 0, "size"), verdict=broken(EVIL, EVIL))
PLAIN = Outcome(boot=2, promise="boot", subject="it boots", at=(), verdict=kept("a boot", "a boot"))
THREE = report(GOOD, BAD, PLAIN)


def test_text_lists_the_broken_first_with_their_places() -> None:
    lines = render_text(THREE).splitlines()
    assert lines[0] == "sample arm64: REJECTED"
    assert "3 checks over 2 boots, 1 broken" in lines and "a note" in lines
    boots = [line for line in lines if line.startswith("boot ")]
    assert boots == [
        "boot 1: 8.2 s, powered off, cmdline: ro root=/dev/vda",
        "boot 2 (state missing): 8.2 s, powered off, cmdline: ro root=/dev/vda",
    ]
    assert lines.index("-- broken") < lines.index("-- kept")
    (head,) = [line for line in lines if line.startswith("BROKEN")]
    assert "boot 2  size cap: " in head and head.endswith("[profile.yaml:13:53 mounts[0].size]")
    assert lines[lines.index(head) + 1].count("(expected: ") == 1
    (kept_line,) = [line for line in lines if "mount: /tmp" in line]
    assert kept_line.startswith("ok ") and "[profile.yaml:16:5 mounts[3]]" in kept_line
    assert not [c for c in render_text(THREE) if not c.isprintable() and c != "\n"]


def test_accepted_needs_a_check() -> None:
    assert render_text(report(GOOD)).startswith("sample arm64: accepted\n")
    assert render_text(report()).startswith("sample arm64: REJECTED\n")


def test_junit() -> None:
    root = ET.fromstring(render_junit(THREE))
    suites = root.findall("testsuite")
    counts = [(s.get("name"), s.get("tests"), s.get("failures"), len(s.findall("testcase"))) for s in suites]
    assert counts == [("boot 1", "1", "0", 1), ("boot 2 (state missing)", "2", "1", 2)]
    (failure,) = root.iter("failure")
    text = failure.text or ""
    assert "\ufffd" in text and "<&>" in text and "ü" in text and "profile.yaml:13:53" in text
    assert failure.get("message")
    assert next(root.iter("testcase")).get("name") == "/tmp"
    assert {c.get("classname") for c in root.iter("testcase")} == {
        "sample.arm64.mount", "sample.arm64.size cap", "sample.arm64.boot",
    }  # fmt: skip


def test_json() -> None:
    data = json.loads(render_json(THREE))
    assert (data["verdict"], data["profile"], data["architecture"]) == ("rejected", "sample", "arm64")
    assert data["accelerator"] == {"chosen": "tcg", "reason": "no /dev/kvm", "ran": ["tcg"]}
    assert [(b["number"], b["title"]) for b in data["boots"]] == [(1, ""), (2, "state missing")]
    assert [c["ok"] for c in data["checks"]] == [True, False, True]
    assert data["checks"][1]["subject"] == EVIL and data["checks"][2]["place"] == ""


def test_the_three_files(tmp_path: Path) -> None:
    write_report(THREE, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"report.json", "report.xml", "report.txt"}
    assert ET.parse(tmp_path / "report.xml").getroot().tag == "testsuites"
