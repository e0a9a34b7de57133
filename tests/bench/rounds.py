# SPDX-License-Identifier: MIT
"""Commands side by side, as often as there are rounds -> what each costs, as ratios of medians in a table.

The commands of a round follow each other, so that what else the machine does meets all of them. CPU is that of the
command and of all it waited for.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one run."""

    wall_s: float
    cpu_s: float


def run_once(argv: Sequence[str | Path], *, stdin: Path | None = None, env: Mapping[str, str] | None = None) -> Cost:
    """Run a command with its words thrown away; an error where it fails."""
    words = [os.fspath(word) for word in argv]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.fspath(stdin or os.devnull), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    began = time.monotonic()
    pid = os.posix_spawnp(words[0], words, {**os.environ, **(env or {})}, file_actions=actions)
    _, status, used = os.wait4(pid, 0)
    wall_s = time.monotonic() - began
    if status:
        raise SystemExit(f"{' '.join(words)}: exit status {os.waitstatus_to_exitcode(status)}")
    return Cost(wall_s, used.ru_utime + used.ru_stime)


def run_rounds(cases: Mapping[str, Callable[[int], Cost]], rounds: int) -> dict[str, list[Cost]]:
    """Every case once a round, told its number."""
    costs: dict[str, list[Cost]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in cases.items():
            costs[name].append(case(number))
            print(f"  round {number + 1}: {name}: {costs[name][-1].wall_s:.2f} s", file=sys.stderr, flush=True)
    return costs


def render_table(title: str, costs: Mapping[str, Sequence[Cost]], limits: Mapping[str, float]) -> str:
    """Medians, and their ratios to the first case; `limits` are of the wall clock's."""
    (floor, *_) = costs.values()
    lines = [f"\n{title:40} {'wall s':>8} {'ratio':>7} {'CPU s':>8} {'ratio':>7} {'at most':>8}"]
    for name, found in costs.items():
        wall_s, cpu_s = (statistics.median(getattr(cost, part) for cost in found) for part in ("wall_s", "cpu_s"))
        base_wall_s, base_cpu_s = (statistics.median(getattr(cost, p) for cost in floor) for p in ("wall_s", "cpu_s"))
        limit = f"{limits[name]:8.2f}" if name in limits else ""
        ratios = wall_s / base_wall_s, cpu_s / base_cpu_s
        lines.append(f"{name:40} {wall_s:8.2f} {ratios[0]:7.3f} {cpu_s:8.2f} {ratios[1]:7.3f} {limit}".rstrip())
    return "\n".join(lines)
