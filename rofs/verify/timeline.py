# SPDX-License-Identifier: MIT
"""A boot's record -> its moments on the host's clock, and the phases between them.

The host saw QEMU start, the probe's first and last answer, and the end. What happened in between the console says, in
the kernel's seconds since its own start; the power-off, which both clocks saw, puts them onto the host's. A guest may
say any time it likes, so what lies outside the boot is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rofs.verify.findings import one_line
from rofs.verify.request import BootRecord

Source = Literal["host", "kernel", "initrd", "init"]
PHASES = ("firmware", "kernel", "initrd", "userspace", "checks", "shutdown")
MOST_LINES = 40
"""Of those that are kept as they are, at each end."""
LONGEST = 160
FIRST_ANSWER, LAST_ANSWER, PROBE_STARTED = "first answer", "last answer", "probe started"
"""The session's words for what it saw."""
KERNEL, INITRD, SYSTEMD = "the kernel starts", "the initrd starts", "systemd starts"

_STAMPED = re.compile(r"^\[ {0,8}(\d{1,7}\.\d{1,9})\] (.+)")
_ONCE: Mapping[str, tuple[Source, str]] = {
    "Run /init as init process": ("kernel", INITRD),
    "systemd[1]: Queued start job for default target": ("init", ""),
    "systemd[1]: ": ("init", SYSTEMD),
    "systemd-shutdown[1]: ": ("init", "systemd-shutdown starts"),
}
"""Beginnings of which the first line counts, and what to call it; "" keeps the line."""
_EACH: Mapping[str, Source] = {"rofs: ": "initrd", "Kernel panic": "kernel", "reboot: ": "kernel"}
_LAST_WORDS = ("Kernel panic", "reboot: ")


@dataclass(frozen=True, slots=True)
class Moment:
    """`seconds` since QEMU was started, and who said what."""

    seconds: float
    what: str
    source: Source


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a boot; where nobody saw one end and the next begin, `name` has both: `kernel, initrd`."""

    name: str
    begins: float
    ends: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ends - self.begins


def read_timeline(record: BootRecord) -> tuple[Moment, ...]:
    """Every moment of a boot, in order."""
    events = list(_events(record.result.console))
    events = events[:MOST_LINES] + events[MOST_LINES:][-MOST_LINES:]
    zero = _kernel_start(record, events)
    seen = [] if zero is None else [Moment(zero, KERNEL, "kernel")]
    seen += [Moment((zero or 0.0) + m.seconds, m.what, m.source) for m in events]
    seen += [Moment(seconds, one_line(what, LONGEST), "host") for seconds, what in record.moments]
    inside = (m for m in seen if 0 <= m.seconds <= record.result.seconds)
    return tuple(sorted(inside, key=lambda m: m.seconds))


def _events(console: str) -> Iterator[Moment]:
    """What is worth saying of a console, in the kernel's seconds."""
    left = dict(_ONCE)
    for line in console.splitlines():
        if (found := _STAMPED.match(line)) is None:
            continue
        seconds, text = float(found[1]), found[2]
        if (start := next((s for s in left if text.startswith(s)), None)) is not None:
            source, name = left.pop(start)
            yield Moment(seconds, name or one_line(text, LONGEST), source)
        elif (start := next((s for s in _EACH if text.startswith(s)), None)) is not None:
            yield Moment(seconds, one_line(text, LONGEST), _EACH[start])


def _kernel_start(record: BootRecord, events: Sequence[Moment]) -> float | None:
    """The host's second at which the kernel's clock began; None where no last word is on both clocks."""
    last = [m.seconds for m in events if m.what.startswith(_LAST_WORDS)]
    if record.result.status == "timeout" or not last:
        return None
    return max(0.0, record.result.seconds - last[-1])


def read_phases(record: BootRecord, init: Literal["systemd", "other"]) -> tuple[Phase, ...]:
    """What the boot's seconds went to, without a gap. An init that is not systemd starts the probe beside itself."""
    at = {m.what: m.seconds for m in reversed(read_timeline(record))}
    userspace = SYSTEMD if init == "systemd" else PROBE_STARTED
    begins = (0.0, *(at.get(what) for what in (KERNEL, INITRD, userspace, FIRST_ANSWER, LAST_ANSWER)))
    known: list[tuple[str, float]] = []
    for name, second in zip(PHASES, begins, strict=True):
        if second is None or (known and second < known[-1][1]):
            known[-1] = (f"{known[-1][0]}, {name}", known[-1][1])
        else:
            known.append((name, second))
    ends = [*known, ("", record.result.seconds)]
    return tuple(Phase(name, begin, end) for (name, begin), (_, end) in pairwise(ends))
