# SPDX-License-Identifier: MIT
"""rofs.machine.capacity: what a host or a container has room for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rofs.machine import capacity
from rofs.machine.capacity import GUEST_BYTES, cores, free_bytes, guests_at_once

GIB = 1 << 30
MEMINFO = "MemTotal:       24577652 kB\nMemFree:          100000 kB\nMemAvailable:    8388608 kB\n"


def test_the_processors_that_may_be_used(tmp_path: Path) -> None:
    own = os.sched_getaffinity(0)
    assert cores(tmp_path) == len(own)
    os.sched_setaffinity(0, {min(own)})
    try:
        assert cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, own)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
        ("0 0", 8),
        ("garbage", 8),
    ],
)
def test_a_containers_share_of_eight(
    limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        ("max", "100", 8 * GIB),
        (str(4 * GIB), str(GIB), 3 * GIB),
        (str(GIB), str(2 * GIB), 0),
        (str(40 * GIB), "0", 8 * GIB),
        (None, None, 8 * GIB),
    ],
)
def test_a_containers_memory(limit: str | None, used: str | None, expected: int, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    for name, text in (("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(text + "\n")
    assert free_bytes(meminfo, tmp_path) == expected


def test_this_host_says_how_much_it_has() -> None:
    assert 0 < free_bytes() < 1 << 60


def test_where_nobody_says_nothing_is_withheld(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "none", tmp_path) == 1 << 60


@pytest.mark.parametrize(("processors", "free", "expected"), [(8, 20, 8), (8, 3, 3), (2, 20, 2), (8, 0, 1)])
def test_guests_are_bounded_by_what_is_scarce(
    processors: int, free: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: processors)
    monkeypatch.setattr(capacity, "free_bytes", lambda: free * GUEST_BYTES)
    assert guests_at_once() == expected
