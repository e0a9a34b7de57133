# SPDX-License-Identifier: MIT
"""What long work says while it goes on: live on a terminal, plain lines in a pipe, both on stderr."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TextIO


class Step(Protocol):
    """One running step; `update` replaces its last word."""

    def update(self, text: str) -> None:
        """Show `text` beside the step."""


class Progress(Protocol):
    """Where steps are shown."""

    def step(self, label: str) -> AbstractContextManager[Step]:
        """Show `label` as running until the context ends, then its seconds and whether it failed."""

    def note(self, text: str) -> None:
        """Say one line that stays."""


class _Silent:
    def update(self, text: str) -> None:
        """Say nothing."""


class Quiet:
    """Says nothing."""

    def step(self, label: str) -> AbstractContextManager[Step]:
        """No words."""
        return nullcontext(_Silent())

    def note(self, text: str) -> None:
        """No words."""
