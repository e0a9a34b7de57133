# SPDX-License-Identifier: MIT
"""This host -> how many guests may run at once: by its processors, its memory, and what a container leaves of both.

A container's limits are those of cgroup v2 at the root of its own namespace (cgroups(7)); where there is none, as on
a host itself, the kernel's figures stand alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

GUEST_BYTES = 1 << 30
"""What is kept for a guest: of 512 MiB, emulated, it has been seen to take 640."""

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def guests_at_once() -> int:
    """One for each processor, as an emulated guest keeps one busy, if there is memory for as many; at least one."""
    return max(1, min(cores(), free_bytes() // GUEST_BYTES))


def cores(cgroup: Path = _CGROUP) -> int:
    """How many processors this process may use; a container's share counts in whole ones."""
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        return max(1, min(allowed, int(quota) // int(period)))
    return allowed


def free_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Memory that can be had without swapping; where nobody says, as much as may be wished for."""
    said = re.search(r"^MemAvailable: +([0-9]+) kB$", _read(meminfo), re.MULTILINE)
    free = int(said[1]) << 10 if said else 1 << 60
    limit, used = _read(cgroup / "memory.max"), _read(cgroup / "memory.current")
    return min(free, max(0, int(limit) - int(used))) if limit.isdecimal() and used.isdecimal() else free


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
