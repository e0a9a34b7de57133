# SPDX-License-Identifier: MIT
"""Commands side by side, as often as there are rounds -> what each costs, as ratios of medians in a table.

The commands of a round follow each other, so that what else the machine does meets all of them. CPU is that of the
command and of all it waited for; memory the most anonymous memory of the command alone that a look every few
milliseconds saw.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_LOOK_EVERY_S = 0.005


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: seconds, and bytes."""

    wall_s: float
    cpu_s: float
    anon_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        anon_bytes = max(self.anon_bytes, other.anon_bytes)
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, anon_bytes)


def run_once(
    argv: Sequence[str | Path],
    *,
    stdin: Path | None = None,
    env: Mapping[str, str] | None = None,
    memory: bool = False,
) -> Cost:
    """Run a command with its words thrown away; SystemExit with what it said where it fails."""
    words, peak = [os.fspath(word) for word in argv], 0
    with Path(stdin or os.devnull).open("rb") as given, tempfile.TemporaryFile() as said:
        before, began = _children_cpu_s(), time.monotonic()
        process = subprocess.Popen(
            words, stdin=given, stdout=subprocess.DEVNULL, stderr=said, env={**os.environ, **(env or {})}
        )
        while memory and process.poll() is None:
            peak = max(peak, _anon_bytes(process.pid))
            time.sleep(_LOOK_EVERY_S)
        status = process.wait()
        cost = Cost(time.monotonic() - began, _children_cpu_s() - before, peak)
        if status:
            said.seek(0)
            raise SystemExit(f"{' '.join(words)}: exit status {status}\n{said.read().decode(errors='replace')}")
    return cost


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _anon_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def run_rounds(cases: Mapping[str, Callable[[int], Cost]], rounds: int) -> dict[str, list[Cost]]:
    """Every case once a round, told its number."""
    costs: dict[str, list[Cost]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in cases.items():
            costs[name].append(case(number))
            print(f"  round {number + 1}: {name}: {costs[name][-1].wall_s:.2f} s", file=sys.stderr, flush=True)
    return costs


def render_table(title: str, costs: Mapping[str, Sequence[Cost]], limits: Mapping[str, float]) -> str:
    """Medians in Markdown, and those of each round's ratios to its first case; `limits` are of the wall clock's."""
    floor, *_ = costs.values()
    lines = [f"| {title:32} | wall s | ratio |  CPU s | ratio | at most | MB |"]
    lines.append(f"|{'-' * 34}|-------:|------:|-------:|------:|--------:|---:|")
    for name, found in costs.items():
        seconds = {part: statistics.median(getattr(cost, part) for cost in found) for part in ("wall_s", "cpu_s")}
        ratios = {
            part: statistics.median(
                getattr(cost, part) / getattr(base, part) for cost, base in zip(found, floor, strict=True)
            )
            for part in seconds
        }
        limit = f"{limits[name]:.2f}" if name in limits else ""
        megabytes = max(cost.anon_bytes for cost in found) // 1_000_000
        lines.append(
            f"| {name:32} | {seconds['wall_s']:6.2f} | {ratios['wall_s']:5.3f} | {seconds['cpu_s']:6.2f} "
            f"| {ratios['cpu_s']:5.3f} | {limit:>7} | {megabytes or '':>2} |"
        )
    return "\n".join(lines)


def describe_machine(*programs: Sequence[str]) -> str:
    """When, on what, and with which versions of programs, as they say them; no names of machines."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0))
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = [
        subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0] for argv in programs
    ]
    words = [f"{cores} cores of {model}", f"{gibibytes:.0f} GiB", f"Python {platform.python_version()}", *versions]
    return f"{', '.join(words)}, {datetime.now(UTC):%Y-%m-%d}"
