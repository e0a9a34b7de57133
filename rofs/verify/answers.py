# SPDX-License-Identifier: MIT
"""The lines of a guest's port -> its answers to a plan. What nobody asked for is a broken promise, not noise.

The probe alone has the port, and answers each question once. So a guest that says more, or something else, has
been tampered with or is broken, and the answers that it concerns are worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from rofs.verify.check import Facts, Outcome, decide
from rofs.verify.probe_wire import Event, Op, parse_event
from rofs.verify.shapes import find_flaw

_MOST_KEPT = 8
_MOST_SHOWN = 120
_EVENTS = frozenset({"start", "end", "still-on"})
"""What may be said beside answers. `error` and `crash` are said by a probe that could not do its work."""


class Answers:
    """What a guest says, line by line. `facts` are the answers by the number of the operation.

    A bad one is `{"error": ...}` there, which no check takes for a kept promise.
    """

    def __init__(self, ops: Sequence[Op]) -> None:
        self._ops = ops
        self.facts: dict[int, Facts] = {}
        self._strange: list[str] = []
        self._spoiled: set[int] = set()
        self._lines = self._strangers = 0

    @property
    def count(self) -> int:
        """How many operations have an answer of the right form."""
        return len(self.facts) - len(self._spoiled)

    def take(self, line: str) -> Event | None:
        """One line -> the event, None where it is none."""
        self._lines += 1
        event = parse_event(line)
        if event is None:
            self._note(f"no answer: {_shown(line)}")
        elif event.id is not None:
            self._answer(event.id, event.facts)
        elif event.kind not in _EVENTS:
            self._note(f"the probe failed: {_shown(line)}")
        return event

    def _answer(self, number: int, facts: Facts) -> None:
        if not 1 <= number <= len(self._ops):
            self._note(f"an answer to operation {_shown(str(number))} of {len(self._ops)}")
            return
        name = self._ops[number - 1].name
        flaw = f"it is one to {_shown(facts['op'])}" if facts["op"] != name else find_flaw(name, facts)
        before = self.facts.get(number)
        if flaw:
            self._spoil(number, f"the answer to operation {number}, {name}, makes no sense: {flaw}")
        elif before is None:
            self.facts[number] = facts
        elif dict(before) == dict(facts):
            self._note(f"the same answer to operation {number}, {name}, again")
        else:
            self._spoil(number, f"another answer to operation {number}, {name}")

    def _spoil(self, number: int, words: str) -> None:
        """Whatever else was or will be said, it counts as no answer."""
        self._spoiled.add(number)
        self.facts[number] = {"error": words}
        self._note(words)

    def _note(self, words: str) -> None:
        self._strangers += 1
        if len(self._strange) < _MOST_KEPT:
            self._strange.append(words)

    def outcome(self, boot: int) -> Outcome:
        """Whether it said what it was asked, and nothing else."""
        more = self._strangers - len(self._strange)
        words = "; ".join([*self._strange, f"and {more} more"] if more else self._strange)
        seen = words or f"{self._lines} lines, {len(self.facts)} answers"
        verdict = decide(
            not self._strange, "an answer of the right form to each question, once, and nothing else", seen
        )
        return Outcome(boot=boot, promise="answers", subject="to what was asked", at=(), verdict=verdict)


def _shown(text: str) -> str:
    return ascii(text[:_MOST_SHOWN]) + ("..." if len(text) > _MOST_SHOWN else "")
