# SPDX-License-Identifier: MIT
"""rofs.progress: stable lines for pipes, a live display for terminals."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import threading

import pytest

from rofs.progress import HEARTBEAT_S, Lines, Live, Progress, Quiet, make_progress, printable


class Clock:
    """A clock the test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stream(io.StringIO):
    """A stream that remembers what was flushed."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()


def test_a_step_has_a_beginning_and_an_end() -> None:
    stream, clock = Stream(), Clock()
    lines = Lines(stream, clock)
    clock.now += 9.1
    with lines.step("amd64: packages") as step:
        step.update("not worth a line yet")
        clock.now += 3.2
    lines.note("published")
    assert stream.flushed.splitlines() == [
        "[    9.1s] amd64: packages ...",
        "[   12.3s] amd64: packages: done (3.2 s)",
        "[   12.3s] published",
    ]


def test_a_long_step_is_heard_of() -> None:
    stream, clock = Stream(), Clock()
    with Lines(stream, clock).step("boot") as step:
        for second in range(1, 71):
            clock.now += 1
            step.update(f"line {second}")
    assert stream.flushed.splitlines()[1:3] == ["[   30.0s] boot: line 30", "[   60.0s] boot: line 60"]
    assert HEARTBEAT_S == 30


@pytest.mark.parametrize(("error", "word"), [(ValueError, "failed"), (KeyboardInterrupt, "stopped")])
def test_an_error_ends_the_step_and_goes_on(error: type[BaseException], word: str) -> None:
    stream = Stream()
    with pytest.raises(error), Lines(stream, Clock()).step("image"):
        raise error
    assert stream.flushed.endswith(f"image: {word} (0.0 s)\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\x1b[31mb", "a [31mb"),
        ("two\nlines\r", "two lines"),
        ("é ✓", "é ✓"),
        ("\x07", ""),
    ],
)
def test_no_control_character_gets_out(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_lines_of_two_architectures_never_mix() -> None:
    stream = Stream()
    lines = Lines(stream)

    def work(name: str) -> None:
        for number in range(50):
            with lines.step(f"{name} {number}"):
                pass

    threads = [threading.Thread(target=work, args=(name,)) for name in ("amd64", "arm64")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pattern = re.compile(r"\[ +\d+\.\ds\] a(md|rm)64 \d+( \.\.\.|: done \(\d\.\d s\))")
    assert len(stream.flushed.splitlines()) == 200
    assert all(pattern.fullmatch(line) for line in stream.flushed.splitlines())


def drain(terminal: int, said: list[bytes]) -> None:
    """All that is written to a terminal: one read gives only what has arrived. EIO when the other end is closed."""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 65536):
            said.append(data)


def test_live_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs is drawn, what ended stays, and the cursor comes back."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    ours, theirs = pty.openpty()
    said: list[bytes] = []
    reader = threading.Thread(target=drain, args=(ours, said))
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        progress = make_progress(stream)
        assert isinstance(progress, Live)
        with progress.step("amd64: packages") as step:
            step.update("[bold] and\x1b[31m a very long word " + "x" * 200)
            progress._live.refresh()
            with pytest.raises(ValueError, match="boom"), progress.step("arm64: boot"):
                raise ValueError("boom")
        progress.note("[published]")
    reader.join(timeout=30)
    os.close(ours)
    seen = b"".join(said).decode()
    assert "amd64: packages" in seen
    assert "[bold] and [31m a very long" in seen
    assert "✗\x1b[0m arm64: boot: failed" in seen
    assert "[published]" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")  # cursor shown after it was last hidden
    drawn = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in seen.splitlines()]
    assert all(len(line) <= 60 for line in drawn), drawn


@pytest.mark.parametrize(("mode", "kind"), [("auto", Lines), ("plain", Lines), ("quiet", Quiet)])
def test_a_pipe_never_gets_the_live_display(mode: str, kind: type[Progress]) -> None:
    assert type(make_progress(io.StringIO(), mode)) is kind  # type: ignore[arg-type]


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(Terminal()), Lines)
    assert isinstance(make_progress(Terminal(), "plain"), Lines)


def test_quiet_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Quiet()
    with progress.step("x") as step:
        step.update("y")
    progress.note("z")
    assert capfd.readouterr() == ("", "")
