# SPDX-License-Identifier: MIT
"""Report -> JSON for programs, as rofs/report.schema.json says it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rofs.verify.check import Outcome
from rofs.verify.findings import Report, group
from rofs.verify.request import BootRecord
from rofs.verify.timeline import read_timeline

SCHEMA = "rofs/report/v1"


def render_json(report: Report) -> str:
    """Everything but the console logs. What cannot be shown, a terminal's sequences too, stays escaped."""
    text = json.dumps(_report(report), indent=1, ensure_ascii=False) + "\n"
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _report(report: Report) -> dict[str, Any]:
    session = report.session
    return {
        "schema": SCHEMA,
        "profile": report.profile.name,
        "architecture": session.arch.name,
        "accelerator": {
            "chosen": session.accel.name,
            "reason": session.accel.reason,
            "ran": sorted({b.result.accel_seen for b in session.boots}),
        },
        "tools": dict(report.tools),
        "verdict": report.verdict,
        "counts": _counts(report),
        "notes": list(report.notes),
        "files": dict(session.files),
        "boots": [_boot(record) for record in session.boots],
        "checks": [_check(report, o) for o in session.outcomes],
    }


def _counts(report: Report) -> dict[str, Any]:
    checks, broken = len(report.session.outcomes), len(report.broken)
    promises = {g.promise: {"checks": g.checks, "broken": g.broken} for g in group(report.session.outcomes)}
    return {
        "checks": checks, "kept": checks - broken, "broken": broken, "boots": len(report.session.boots),
        "promises": promises,
    }  # fmt: skip


def _boot(record: BootRecord) -> dict[str, Any]:
    result = record.result
    return {
        "number": record.number,
        "title": record.title,
        "ended": result.status,
        "reason": result.reason,
        "seconds": round(result.seconds, 2),
        "accelerator": result.accel_seen,
        "cmdline": record.cmdline,
        "asked": record.asked,
        "answered": record.answered,
        "machine": asdict(record.machine),
        "timeline": [
            {"seconds": round(m.seconds, 3), "what": m.what, "source": m.source} for m in read_timeline(record)
        ],
    }


def _check(report: Report, outcome: Outcome) -> dict[str, Any]:
    return {
        "boot": outcome.boot, "promise": outcome.promise, "subject": outcome.subject, "ok": outcome.verdict.ok,
        "expected": outcome.verdict.expected, "seen": outcome.verdict.seen, "place": report.place(outcome.at),
    }  # fmt: skip
