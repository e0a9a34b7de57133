# SPDX-License-Identifier: MIT
"""What a guest says -> no more of it than a host can bear: of its port's lines, and of its console's file.

A guest may be broken or hostile. What it says is cut into lines and counted as it comes, and `Flooded` is raised
for too much; of a long console both ends are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
LINES_SHOWN, LINE_SHOWN = 8, 240
"""What is shown of a console that did not end well: lines, and characters of one."""


class Flooded(Exception):
    """Says of what there was too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a guest may say in one boot, and how much of each end of its console is worth keeping."""

    line_bytes: int = 32 * MIB
    """An answer may hold 16 MiB in base64."""
    port_bytes: int = 512 * MIB
    port_lines: int = 100_000
    console_bytes: int = 8 * MIB
    """A boot says 0.1 MiB; an emulated port passes on 0.2 MiB a second."""
    kept_bytes: int = MIB

    def check_console(self, path: Path) -> None:
        """Flooded if the guest wrote too much there."""
        if path.exists() and path.stat().st_size > self.console_bytes:
            raise Flooded(f"its console with more than {self.console_bytes} bytes")


LIMITS = Limits()


class Lines:
    """Takes bytes in pieces, hands on whole lines."""

    def __init__(self, on_line: Callable[[str], None], limits: Limits) -> None:
        self._on_line, self._limits = on_line, limits
        self._pieces: list[bytes] = []
        self._held = self._bytes = self._lines = 0

    def take(self, chunk: bytes) -> None:
        """Flooded as soon as there is too much; what `on_line` raises."""
        self._bytes += len(chunk)
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            self._hold(piece)
            self._hand_on()
        self._hold(rest)
        if self._bytes > self._limits.port_bytes:
            raise Flooded(f"the probe's port with more than {self._limits.port_bytes} bytes")

    def finish(self) -> None:
        """There is no more: hand on a line without an end."""
        if self._held:
            self._hand_on()

    def _hold(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > self._limits.line_bytes:
            raise Flooded(f"the probe's port with a line of more than {self._limits.line_bytes} bytes")

    def _hand_on(self) -> None:
        line = b"".join(self._pieces).decode("utf-8", "replace").rstrip("\r\n")
        self._pieces.clear()
        self._held = 0
        self._lines += 1
        if self._lines > self._limits.port_lines:
            raise Flooded(f"the probe's port with more than {self._limits.port_lines} lines")
        self._on_line(line)


def last_lines(console: str) -> list[str]:
    """The end of what it said, or what led to a panic: the registers after that help nobody."""
    lines = [line.rstrip() for line in console.split("\n") if line.strip()]
    panic = next((number for number, line in enumerate(lines) if "Kernel panic" in line), len(lines))
    last = lines[: panic + 1][-LINES_SHOWN:]
    return [line if len(line) <= LINE_SHOWN else f"...{line[-LINE_SHOWN:]}" for line in last]


def keep_ends(path: Path, most: int) -> str:
    """Cut the middle out of a file, so that `most` bytes of each end are left -> its text; "" of none."""
    if not path.exists():
        return ""
    size = path.stat().st_size
    with path.open("r+b") as file:
        head = file.read(most)
        file.seek(max(most, size - most))
        tail = file.read(most)
        if (dropped := size - len(head) - len(tail)) > 0:
            tail = b"\n[... %d bytes left out ...]\n" % dropped + tail
            file.seek(len(head))
            file.write(tail)
            file.truncate()
    return (head + tail).decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
