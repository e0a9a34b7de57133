# SPDX-License-Identifier: MIT
"""Layout, session -> the reports beside an image: report.txt, report.json, report.xml (JUnit) and report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rofs import __version__
from rofs.layout import Layout
from rofs.run import run
from rofs.verify.findings import Report
from rofs.verify.report_html import render_html
from rofs.verify.report_json import render_json
from rofs.verify.report_junit import render_junit
from rofs.verify.report_text import render_summary, render_text
from rofs.verify.request import Session

__all__ = [
    "Report", "make_report", "render_html", "render_json", "render_junit", "render_summary", "render_text",
    "write_report",
]  # fmt: skip


def make_report(layout: Layout, session: Session, notes: Sequence[str]) -> Report:
    """With the versions of what verified."""
    said = run([session.arch.qemu, "--version"]).stdout.splitlines()
    tools = {"rofs": __version__, "qemu": said[0].removeprefix("QEMU emulator version ") if said else "unknown"}
    return Report(layout=layout, session=session, notes=tuple(notes), tools=tools)


def write_report(report: Report, directory: Path) -> None:
    """The four files."""
    for name, render in (
        ("report.json", render_json),
        ("report.xml", render_junit),
        ("report.txt", render_text),
        ("report.html", render_html),
    ):
        (directory / name).write_text(render(report), encoding="utf-8")
