# SPDX-License-Identifier: MIT
"""What long work says while it goes on: live on a terminal, plain lines in a pipe, both on stderr."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

HEARTBEAT_S = 30.0
"""A pipe hears of a long step this often, so that no CI takes it for dead."""

REFRESH_HZ = 8
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Step(Protocol):
    """One running step; `update` replaces its last word."""

    def update(self, text: str) -> None:
        """Show `text` beside the step."""


class Progress(Protocol):
    """Where steps are shown."""

    def step(self, label: str) -> AbstractContextManager[Step]:
        """Show `label` as running until the context ends, then its seconds and whether it failed."""

    def note(self, text: str) -> None:
        """Say one line that stays. It holds as long as nothing is changed."""

    def remark(self, text: str) -> None:
        """As `note`, of something that was so in this run alone."""


class _Silent:
    def update(self, text: str) -> None:
        """Say nothing."""


class Quiet:
    """Says nothing."""

    def step(self, label: str) -> AbstractContextManager[Step]:  # noqa: ARG002 -- as the protocol has it
        """No words."""
        return nullcontext(_Silent())

    def note(self, text: str) -> None:
        """No words."""

    remark = note


class Noted:
    """Another progress, whose notes are kept in a list too, and its remarks not."""

    def __init__(self, progress: Progress, notes: list[str]) -> None:
        self.step, self.remark = progress.step, progress.remark
        self._progress, self._notes = progress, notes

    def note(self, text: str) -> None:
        """Say it, and keep it."""
        self._notes.append(text)
        self._progress.note(text)


def age(seconds: float) -> str:
    """For people: `40 s`, `12 min`, `3 h`, `8 d`."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def printable(text: str) -> str:
    """One line without control characters: updates may come from a tool or a guest."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "done"
    return "failed" if isinstance(error, Exception) else "stopped"


class Lines:
    """Plain lines, flushed one by one: `[  12.3s] amd64: packages: done (3.2 s)`."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock, self._start = stream, clock, clock()
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Print one line; lines of several threads never mix."""
        with self._lock:
            self._stream.write(f"[{self._clock() - self._start:7.1f}s] {printable(text)}\n")
            self._stream.flush()

    remark = note

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        """Print a line at the start, at each heartbeat with the last update, and at the end."""
        began = self._clock()
        self.note(f"{label} ...")
        error: BaseException | None = None
        try:
            yield _LinesStep(self, label, self._clock)
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.note(f"{label}: {_outcome(error)} ({self._clock() - began:.1f} s)")


class _LinesStep:
    def __init__(self, lines: Lines, label: str, clock: Callable[[], float]) -> None:
        self._lines, self._label, self._clock, self._said = lines, label, clock, clock()

    def update(self, text: str) -> None:
        """Print `text` if nothing was said of this step for a heartbeat."""
        if self._clock() - self._said >= HEARTBEAT_S:
            self._said = self._clock()
            self._lines.note(f"{self._label}: {text}")


class _LiveStep:
    def __init__(self, label: str, began: float) -> None:
        self.label, self.began, self.text = label, began, ""

    def update(self, text: str) -> None:
        """Show `text` at the next refresh."""
        self.text = printable(text)


class Live:
    """Running steps at the foot of a terminal, each with its seconds and last update; ended ones above."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(file=stream, highlight=False)
        self._lock = threading.Lock()
        # A tuple that is replaced, not a list that changes: rich's thread reads it without our lock.
        self._running: tuple[_LiveStep, ...] = ()
        self._live: Any = RichLive(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=REFRESH_HZ,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _render(self) -> RenderableType:
        """One line for each step, cut at the edge of the terminal from its least important end."""
        from rich.console import Group
        from rich.text import Text

        now = time.monotonic()
        sign = (SPINNER[int(now * REFRESH_HZ) % len(SPINNER)], "cyan")
        rows = ((f" {s.label} {now - s.began:.0f} s ", (s.text, "dim")) for s in self._running)
        return Group(*(Text.assemble(sign, *row, no_wrap=True, overflow="ellipsis") for row in rows))

    def note(self, text: str) -> None:
        """Print one line above the running steps."""
        self._console.print(printable(text), markup=False, soft_wrap=True)

    remark = note

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        """Show the step while it runs, then one line that stays."""
        step = _LiveStep(printable(label), time.monotonic())
        self._show(lambda running: (*running, step))
        error: BaseException | None = None
        try:
            yield step
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._show(lambda running: tuple(s for s in running if s is not step))
            self._end(step, _outcome(error))

    def _show(self, change: Callable[[tuple[_LiveStep, ...]], tuple[_LiveStep, ...]]) -> None:
        """Change what runs; the live display is up only while something does."""
        with self._lock:
            before, self._running = self._running, change(self._running)
            if self._running and not before:
                self._live.start()
            elif before and not self._running:
                self._live.stop()

    def _end(self, step: _LiveStep, outcome: str) -> None:
        from rich.text import Text

        sign, style = ("✓", "green") if outcome == "done" else ("✗", "bold red")
        words = f" {step.label}" + ("" if outcome == "done" else f": {outcome}")
        seconds = f" ({time.monotonic() - step.began:.1f} s)"
        self._console.print(Text.assemble((sign, style), words, (seconds, "dim")), soft_wrap=True)


def make_progress(stream: TextIO, mode: Literal["auto", "plain", "quiet"] = "auto") -> Progress:
    """The progress that suits `stream`; "auto" is live on a terminal that can, lines elsewhere."""
    if mode == "quiet":
        return Quiet()
    if mode == "auto" and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Live(stream)
    return Lines(stream)
