# SPDX-License-Identifier: MIT
"""A boot's moments and phases: of a good boot, one without a word, and one that lies about the time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from reported import CONSOLE, SECONDS, record, result

from rofs.verify.timeline import PHASES, Phase, read_phases, read_timeline


def phases(console: str = CONSOLE, **more: object) -> dict[str, float]:
    found = read_phases(record(made=result(console), **more), "systemd")  # type: ignore[arg-type]
    return {p.name: round(p.seconds, 3) for p in found}


def test_the_guest_is_put_onto_the_hosts_clock_by_its_power_off() -> None:
    moments = [(m.seconds, m.what, m.source) for m in read_timeline(record())]
    assert moments == [
        (0.75, "the kernel starts", "kernel"),
        (2.25, "the initrd starts", "kernel"),
        (2.75, "rofs: state: new", "initrd"),
        (3.25, "systemd starts", "init"),
        (3.75, "systemd[1]: Queued start job for default target multi-user.target.", "init"),
        (4.0, "probe started", "host"),
        (4.5, "first answer", "host"),
        (7.0, "last answer", "host"),
        (7.75, "systemd-shutdown starts", "init"),
        (8.25, "reboot: Power down", "kernel"),
        (8.25, "ended", "host"),
    ]


def test_the_phases_of_a_whole_boot() -> None:
    found = read_phases(record(), "systemd")
    assert tuple(p.name for p in found) == PHASES
    assert [(p.begins, p.ends) for p in found] == [
        (0, 0.75), (0.75, 2.25), (2.25, 3.25), (3.25, 4.5), (4.5, 7.0), (7.0, 8.25),
    ]  # fmt: skip


def test_another_init_begins_where_the_probe_does() -> None:
    found = read_phases(record(made=result(CONSOLE.replace("systemd", "init"))), "other")
    assert [(p.name, p.begins) for p in found][2:4] == [("initrd", 2.25), ("userspace", 4.0)]


@pytest.mark.parametrize(
    ("console", "moments", "names"),
    [
        ("", (), ["firmware, kernel, initrd, userspace, checks, shutdown"]),
        ("noise\n", ((SECONDS, "ended"),), ["firmware, kernel, initrd, userspace, checks, shutdown"]),
        (CONSOLE, (), ["firmware", "kernel", "initrd", "userspace, checks, shutdown"]),
        (CONSOLE.replace("Run /init", "Ran"), (), ["firmware", "kernel, initrd", "userspace, checks, shutdown"]),
        ("", ((4.5, "first answer"),), ["firmware, kernel, initrd, userspace", "checks, shutdown"]),
    ],
)
def test_what_nobody_saw_is_joined(console: str, moments: tuple[tuple[float, str], ...], names: list[str]) -> None:
    found = read_phases(record(made=result(console), moments=moments), "systemd")
    assert [p.name for p in found] == names and found[-1].ends == SECONDS


def test_without_a_power_off_the_guests_times_count_from_qemus_start() -> None:
    hung = record(made=result(CONSOLE[: CONSOLE.index("[    7")], "timeout", 600), moments=((4.0, "probe started"),))
    assert [(m.seconds, m.what) for m in read_timeline(hung)][:2] == [
        (1.5, "the initrd starts"),
        (2.0, "rofs: state: new"),
    ]
    assert read_phases(hung, "systemd")[0].name == "firmware, kernel"


def test_what_a_guest_that_hangs_afterwards_said_of_its_end_is_on_no_other_clock() -> None:
    hung = record(made=result(CONSOLE, "timeout", 600), moments=())
    assert read_timeline(hung)[0].seconds == 1.5 and read_timeline(hung)[-1].what == "reboot: Power down"


def test_a_panic_is_the_last_word_of_a_guest_that_resets() -> None:
    panic = CONSOLE[: CONSOLE.index("[    7")] + "[    5.000000] Kernel panic - not syncing: no root\n"
    moments = read_timeline(record(made=result(panic, "crash", 6.0), moments=()))
    assert (moments[0].seconds, moments[0].what) == (1.0, "the kernel starts")
    assert moments[-1].what.startswith("Kernel panic") and moments[-1].seconds == 6.0


@pytest.mark.parametrize(
    "lie",
    [
        "[ 9999999.000000] reboot: Power down\n",
        "[99999999999999.0] reboot: Power down\n",
        "[    0.000000] reboot: Power down\n" * 2000,
        "[    9.000000] Run /init as init process\n[    1.0] systemd[1]: \x1b[2J\n[    2.0] reboot: \n",
        "".join(f"[    {n}.000000] rofs: {n}\n" for n in range(10)) * 500,
        f"[    1.000000] rofs: {'x' * 99999}\n",
    ],
)
def test_a_guest_that_lies_about_the_time(lie: str) -> None:
    made = record(made=result(lie + CONSOLE + lie))
    moments, found = read_timeline(made), read_phases(made, "systemd")
    assert all(0 <= m.seconds <= SECONDS and len(m.what) <= 160 and m.what.isprintable() for m in moments)
    assert len(moments) <= 100
    assert [m.seconds for m in moments] == sorted(m.seconds for m in moments)
    assert (found[0].begins, found[-1].ends) == (0, SECONDS)
    assert all(a.ends == b.begins and a.seconds >= 0 for a, b in pairwise(found))
    assert ", ".join(p.name for p in found) == ", ".join(PHASES)


def test_a_phase_knows_how_long_it_took() -> None:
    assert Phase("checks", 4.5, 7.0).seconds == 2.5
    assert sum(phases().values()) == SECONDS
