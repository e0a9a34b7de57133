# SPDX-License-Identifier: MIT
"""Everything that can go wrong, as values and as one tree of exceptions.

    RofsError
    ├── ProfileError   2   the profile, or a file it names
    ├── ToolError      3   a host tool failed, is missing, or ran out of time
    ├── SourceError    3   the packages, kernel or tree cannot be had
    ├── ImageError     3   the tree cannot become an image (an ACL, a clash)
    ├── Rejected       4   the image booted and broke a promise
    ├── MachineError   5   QEMU itself could not start or say anything
    └── Interrupted  130   SIGINT or SIGTERM

The number is the exit status. Library code raises, `cli.py` alone prints and exits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

KeyPath = tuple[str | int, ...]
"""Where in the document: ("mounts", 0, "type")."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


def render_key_path(at: KeyPath) -> str:
    """("mounts", 0, "type") -> "mounts[0].type"."""
    text = ""
    for key in at:
        text += f"[{key}]" if isinstance(key, int) else (f".{key}" if text else key)
    return text


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in a profile, with its place, its rule and what to do about it."""

    mark: Mark
    message: str
    rule: str
    at: KeyPath = field(default=(), compare=False)
    hint: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = f" [{render_key_path(self.at)}]" if self.at else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.mark}: {self.severity}: {self.message}{hint}{where} ({self.rule})"


class RofsError(Exception):
    """Base of all errors a user can do something about."""

    exit_status: ClassVar[int] = 1


class ProfileError(RofsError):
    """The profile is wrong; carries every problem found, sorted by place."""

    exit_status = 2

    def __init__(self, problems: list[Problem] | tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(p) for p in self.problems))


class ToolError(RofsError):
    """A host tool failed: what was run, how it ended, its last words, where the rest is."""

    exit_status = 3

    def __init__(
        self, argv: tuple[str, ...], reason: str, *, tail: str = "", log: Path | None = None, hint: str = ""
    ) -> None:
        self.argv, self.reason, self.tail, self.log, self.hint = argv, reason, tail, log, hint
        super().__init__(f"{argv[0] if argv else 'tool'}: {reason}")


class SourceError(RofsError):
    """The tree, the kernel or a package cannot be had."""

    exit_status = 3


class ImageError(RofsError):
    """The tree cannot become an image."""

    exit_status = 3


class Rejected(RofsError):
    """Verification found a broken promise."""

    exit_status = 4


class MachineError(RofsError):
    """QEMU itself failed."""

    exit_status = 5


class Interrupted(RofsError):
    """The user, or the pipeline, stopped us."""

    exit_status = 130
