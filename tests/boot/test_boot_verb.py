# SPDX-License-Identifier: MIT
"""`rofs boot` on a terminal of its own: the guest's console, Ctrl-C for the guest, and nothing left behind."""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.boot

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600
"""A Debian boot takes 10 s under TCG; shared machines have been seen ten times slower."""
LOGIN = b"minimal login:"


class Terminal:
    """A pseudo terminal with `rofs boot` on it, in a session of its own as a shell's child is."""

    def __init__(self, image: Path, *args: str) -> None:
        self.screen, self.line = os.openpty()
        self.before = self.settings()
        argv: list[str | Path] = [sys.executable, "-m", "rofs", "boot", image, *args]
        self.rofs = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *argv], stdin=self.line, stdout=self.line, stderr=self.line, cwd=ROOT
        )
        self.seen = b""

    def settings(self) -> tuple[object, int]:
        """Those of the terminal, and whether reading from it waits."""
        return termios.tcgetattr(self.line), fcntl.fcntl(self.line, fcntl.F_GETFL)

    def until(self, words: bytes) -> None:
        """Read the screen until it shows `words` after all that was waited for before."""
        deadline = time.monotonic() + TIMEOUT_S
        start = len(self.seen)
        while words not in self.seen[start:]:
            left = deadline - time.monotonic()
            assert left > 0 and self.rofs.poll() is None, self.seen.decode(errors="replace")
            if select.select([self.screen], [], [], min(left, 1))[0]:
                self.seen += os.read(self.screen, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.screen, keys)

    def close(self) -> None:
        self.rofs.kill()
        self.rofs.wait()
        os.close(self.screen)
        os.close(self.line)


@pytest.fixture
def terminal(built: Callable[[str], Path]) -> Iterator[tuple[Terminal, Path]]:
    image = built("minimal") / "amd64"
    terminal = Terminal(image, "--ssh", "--append", "rofs.said=this")
    yield terminal, image
    terminal.close()


def hashes(image: Path) -> dict[str, str]:
    files = sorted(path for path in image.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def machines(image: Path) -> list[str]:
    """Command lines of QEMUs that run this image."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended while we read
        if line.partition(" ")[0].rpartition("/")[2].startswith("qemu-system") and str(image) in line:
            lines.append(line)
    return lines


def test_a_console_that_is_left(terminal: tuple[Terminal, Path]) -> None:
    tty, image = terminal
    before = hashes(image)
    tty.until(LOGIN)
    text = tty.seen.decode(errors="replace")
    assert text.index("Ctrl-A X leaves") < text.index("rofs: log in with: ssh -p ") < text.index("Linux version")
    assert "the image has no sshd" in text and "NOT the files" not in text
    assert "rofs.said=this" in text
    (machine,) = machines(image)
    assert "hostfwd=tcp:127.0.0.1:0-:22" in machine
    assert tty.settings() != tty.before, "a raw terminal while the guest has it"
    tty.type(b"nobody\r")
    tty.until(b"Password:")
    tty.type(b"\x03")  # for the guest's login, which asks again; as a signal it would end rofs
    tty.until(LOGIN)
    assert tty.rofs.poll() is None
    tty.type(b"\x01x")
    assert tty.rofs.wait(timeout=60) == 0
    assert machines(image) == []
    assert tty.settings() == tty.before
    assert hashes(image) == before
