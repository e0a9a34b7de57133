# SPDX-License-Identifier: MIT
"""A session and its layout -> what every report says: the broken ones, their places, checks grouped over boots.

What a guest said is hostile: `one_line` and `clean` leave nothing in it that moves a cursor or hides a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rofs.errors import KeyPath, render_key_path
from rofs.layout import Layout
from rofs.profile import Profile
from rofs.verify.check import Outcome
from rofs.verify.request import BootRecord, Session

REPLACED = "\N{REPLACEMENT CHARACTER}"
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?"  # strings: titles, links
    r"|\x1b[ -/]*[0-~]?"
)
"""A terminal's sequences (ECMA-48)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A session, the layout it is about, and what a reader must know beside the checks.

    `tools` are versions by name, of what ran the machine.
    """

    layout: Layout
    session: Session
    notes: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)

    @property
    def profile(self) -> Profile:
        """What the image was built from."""
        return self.layout.profile

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """The outcomes that reject the image."""
        return tuple(o for o in self.session.outcomes if not o.verdict.ok)

    @property
    def verdict(self) -> str:
        """One word."""
        return "accepted" if self.session.accepted else "rejected"

    def place(self, at: KeyPath) -> str:
        """`minimal.yaml:12:5 mounts[0]`, or '' where no key of the profile speaks."""
        if not at:
            return ""
        mark = self.profile.marks.find(at)
        return f"{Path(mark.file).name}:{mark.line}:{mark.column} {render_key_path(at)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check over all boots that made it, in the order of the boots."""

    promise: str
    subject: str
    at: KeyPath
    outcomes: tuple[Outcome, ...]

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """Where it was not kept."""
        return tuple(o for o in self.outcomes if not o.verdict.ok)


@dataclass(frozen=True, slots=True)
class Group:
    """All checks of one promise."""

    promise: str
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> int:
        """How many outcomes are broken."""
        return sum(len(f.broken) for f in self.findings)

    @property
    def checks(self) -> int:
        """How many outcomes there are."""
        return sum(len(f.outcomes) for f in self.findings)


def group(outcomes: Iterable[Outcome]) -> tuple[Group, ...]:
    """By promise, then by subject and key; what is broken first, else in the order of the checks."""
    found: dict[str, dict[tuple[str, KeyPath], list[Outcome]]] = {}
    for o in outcomes:
        found.setdefault(o.promise, {}).setdefault((o.subject, o.at), []).append(o)
    groups = []
    for promise, rows in found.items():
        findings = [
            Finding(promise=promise, subject=subject, at=at, outcomes=tuple(same))
            for (subject, at), same in rows.items()
        ]
        groups.append(Group(promise, tuple(sorted(findings, key=lambda f: not f.broken))))
    return tuple(sorted(groups, key=lambda g: not g.broken))


def boot_name(record: BootRecord) -> str:
    """`boot 4 (state missing)`."""
    return f"boot {record.number}" + (f" ({record.title})" if record.title else "")


def boot_range(numbers: Iterable[int]) -> str:
    """`boots 1-3, 5`; boot 0 is the image itself."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1 and number > 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = ["image" for run in runs if run == [0]]
    booted = [run for run in runs if run != [0]]
    if booted:
        several = len(booted) > 1 or len(booted[0]) > 1
        shown = (f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in booted)
        words.append(f"boot{'s' if several else ''} {', '.join(shown)}")
    return ", ".join(words)


def one_line(text: str, limit: int | None = None) -> str:
    """Without control characters and at most `limit` long: what a guest says must not move a reader's cursor."""
    line = "".join(c if c.isprintable() else REPLACED for c in " ".join(text.split()))
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"


def clean(text: str) -> str:
    """Lines and tabs stay, a terminal's sequences go, any other control character is seen as one."""
    plain = _ESCAPE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(c if c in "\n\t" or c.isprintable() else REPLACED for c in plain)


def cut(text: str, keep: int) -> str:
    """The first and the last `keep` characters; between them how many were left out."""
    dropped = len(text) - 2 * keep
    return text if dropped <= 0 else f"{text[:keep]}\n[... {dropped} characters left out ...]\n{text[-keep:]}"
