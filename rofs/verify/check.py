# SPDX-License-Identifier: MIT
"""One check: what is asked of the guest, and how its answers are judged. The guest only reports facts."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rofs.errors import KeyPath
from rofs.verify.probe_wire import Op, unquote

Facts = Mapping[str, Any]
"""The answer to one operation; empty where the guest gave none."""
Judge = Callable[[Sequence[Facts]], "Verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was promised and what was seen, in words."""

    ok: bool
    expected: str
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`promise` groups checks in reports, `subject` is the path or unit, `at` the key that promises it.

    `recalls` are quiet operations: their answers come first, as they were when the checks began.
    `phase`: `quiet` only looks, `loud` writes, attacks and runs commands, `late` starts what the system would by
    itself, `after` looks again and leaves canaries. Quiet checks share their operations; others that `shares` do
    so with those of their phase.
    """

    promise: str
    subject: str
    at: KeyPath
    ops: tuple[Op, ...]
    judge: Judge
    phase: Literal["quiet", "loud", "late", "after"] = "quiet"
    shares: bool = False
    recalls: tuple[Op, ...] = ()

    @property
    def name(self) -> str:
        """Stable over boots and architectures."""
        return f"{self.promise}: {self.subject}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A check that was judged, in one boot."""

    boot: int
    promise: str
    subject: str
    at: KeyPath
    verdict: Verdict


def kept(expected: str, seen: str) -> Verdict:
    """The promise was kept."""
    return Verdict(ok=True, expected=expected, seen=seen)


def broken(expected: str, seen: str) -> Verdict:
    """The promise was broken, or nobody could see that it was kept."""
    return Verdict(ok=False, expected=expected, seen=seen)


def decide(ok: bool, expected: str, seen: str) -> Verdict:
    """Either."""
    return Verdict(ok=ok, expected=expected, seen=seen)


def data(facts: Facts) -> bytes | None:
    """The bytes of a `read`, an `exec` or a `run`; None where the guest could not give them."""
    text = facts.get("data")
    return base64.b64decode(text) if isinstance(text, str) else None


def text(facts: Facts) -> str:
    """The same for people, the cut middle of a long output left out."""
    head = (data(facts) or b"").decode("utf-8", "replace")
    tail = base64.b64decode(facts.get("tail") or "").decode("utf-8", "replace")
    return f"{head}\n[...]\n{tail}" if facts.get("dropped") else head + tail


def names(facts: Facts) -> tuple[str, ...] | None:
    """The names of a `list`, quoted; None where the directory could not be read, or not to its end."""
    found = facts.get("names")
    whole = found is not None and facts.get("errno", "") is None and not facts.get("truncated")
    return tuple(found) if whole and isinstance(found, list) else None


def parts(facts: Facts, key: str) -> tuple[Facts, ...]:
    """The objects in a list of an answer; none where there is no such list."""
    found = facts.get(key)
    return tuple(p for p in found if isinstance(p, dict)) if isinstance(found, list) else ()


def by_path(facts: Facts) -> dict[str, Facts]:
    """The answer to a `files` by path, as text."""
    return {unquote(str(p.get("path"))).decode("utf-8", "surrogateescape"): p for p in parts(facts, "files")}


def content_of(file: Facts) -> Facts:
    """What the `read` of such a file would say; empty where it was not read."""
    found = file.get("read")
    return found if isinstance(found, dict) else {}


def trouble(facts: Facts) -> str:
    """Why an operation gave no answer, or ''."""
    if not facts:
        return "the guest gave no answer"
    for key in ("timeout", "stuck", "signal", "exit_signal", "error"):
        if facts.get(key):
            return f"{key}: {facts[key]}"
    return ""
