# SPDX-License-Identifier: MIT
"""Boots side by side: which wait for which, how many at once, and what ends them all."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from test_session import MakeRoom, Room, broken, room

from rofs.errors import Interrupted, MachineError
from rofs.image.manifest import hash_file
from rofs.machine.accel import Accel, AccelName
from rofs.machine.disk import Extent
from rofs.machine.qemu import Boot, BootResult
from rofs.machine.slots import Place, Slots
from rofs.progress import Quiet
from rofs.run import stoppable
from rofs.verify import booting, request, session
from rofs.verify.request import Variation
from rofs.verify.scenario import tracks
from rofs.verify.session import verify_image

__all__ = ["room"]  # a fixture
WAIT_S = 60
Act = Callable[[int], object]
"""What a boot waits for, or raises, by its number."""


@dataclass
class Floor:
    """Stands around a machine: it counts who boots at once, and lets each go on as `act` says."""

    machine: Callable[..., BootResult]
    act: Act = lambda _number: None
    begun: list[int] = field(default_factory=list)
    now: dict[Path, int] = field(default_factory=dict)
    together: list[list[int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Boot, *args: Any, **named: Any) -> BootResult:
        number = int(request.console.stem.removeprefix("console-"))
        with self.lock:
            self.begun.append(number)
            self.now[request.console] = number
            self.together.append(sorted(self.now.values()))
        try:
            self.act(number)
            return self.machine(request, *args, **named)
        finally:
            with self.lock:
                del self.now[request.console]


def floor_of(here: Room, act: Act = lambda _number: None) -> Floor:
    floor = Floor(here.machine, act)
    here.monkeypatch.setattr(booting, "boot", floor)
    return floor


CHAIN, FAULTS = {1, 2, 3}, {4, 5, 6, 7, 8}


# --- which waits for which --------------------------------------------------------------------------


def test_boots_on_the_same_disks_are_a_track_and_each_broken_disk_is_one(room: MakeRoom) -> None:
    due = room("state").request.sequence
    assert [[s.number for s in track] for track in tracks(due)] == [[1, 2, 3], [4], [5], [6], [7], [8]]
    assert [[s.number for s in track] for track in tracks(due[:2])] == [[1, 2]]
    assert [[s.number for s in track] for track in tracks(due[4:])] == [[5], [6], [7], [8]]


def test_plain_boots_are_one_track(room: MakeRoom) -> None:
    here = room("rich")
    assert [[s.number for s in track] for track in tracks(here.request.sequence)] == [[1, 2]]
    floor = floor_of(here)
    here.verify(slots=Slots(8))
    assert floor.together == [[1], [2]]


def test_everything_that_may_boots_at_once(room: MakeRoom) -> None:
    """Six tracks meet; were one of them to wait for another, the barrier would break."""
    here, meeting = room("state"), threading.Barrier(6, timeout=WAIT_S)
    floor = floor_of(here, lambda number: meeting.wait() if number in {1} | FAULTS else None)
    found = here.verify(slots=Slots(6))
    assert broken(found) == {} and [1, 4, 5, 6, 7, 8] in floor.together
    assert all(len(CHAIN & {*at_once}) <= 1 for at_once in floor.together)
    assert [n for n in floor.begun if n in CHAIN] == [1, 2, 3]
    assert [b.number for b in found.boots] == [*range(1, 9)], "in their order, whenever they ended"
    assert [o.boot for o in found.outcomes] == sorted(o.boot for o in found.outcomes)
    assert [o.subject for o in found.outcomes if o.boot == 0][:2] == [
        "root disk never written", "shipped files unchanged"
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_limit_is_kept_and_reached(room: MakeRoom, limit: int) -> None:
    here, full = room("state"), threading.Barrier(limit, timeout=WAIT_S)
    first = [*range(1, 2), *range(4, 3 + limit)]
    floor = floor_of(here, lambda number: full.wait() if number in first else None)
    found = here.verify(slots=Slots(limit))
    assert broken(found) == {} and max(map(len, floor.together)) == limit


def test_the_longest_way_is_begun_first(room: MakeRoom) -> None:
    here = room("state")
    floor = floor_of(here)
    here.verify(slots=Slots(1))
    assert floor.begun == [*range(1, 9)], "the chain has three boots before it, then two, then as many as a fault"


def test_the_chain_is_not_held_up_by_faults(room: MakeRoom) -> None:
    """With two slots the faults share what the chain leaves."""
    here, begun = room("state"), {n: threading.Event() for n in range(1, 9)}

    def act(number: int) -> None:
        begun[number].set()
        if number in FAULTS:  # as slow as the whole chain
            assert begun[3].wait(WAIT_S)

    floor = floor_of(here, act)
    here.verify(slots=Slots(2))
    assert {*floor.begun[:4]} == {1, 2, 3, 4}


def test_two_images_share_the_slots(room: MakeRoom, tmp_path: Path) -> None:
    here, slots = room("state"), Slots(2)
    floor = floor_of(here)
    there = replace(here.request, work=tmp_path / "work-2", logs=tmp_path / "logs-2", slots=slots)
    for directory in (there.work, there.logs):
        directory.mkdir()
    both = stoppable(
        lambda: verify_image(replace(here.request, slots=slots), Quiet()), lambda: verify_image(there, Quiet())
    )
    assert [each.accepted for each in both if not isinstance(each, BaseException)] == [True, True]
    assert len(floor.begun) == 16 and max(map(len, floor.together)) <= 2


def test_of_two_images_neither_has_to_wait_for_the_faults_of_the_other(room: MakeRoom, tmp_path: Path) -> None:
    """Between two boots of a chain the slot is for whoever has more before it."""
    here, slots, lined_up = room("state"), Slots(1), threading.Barrier(2, timeout=WAIT_S)
    floor = floor_of(here)
    there = replace(here.request, work=tmp_path / "work-2", logs=tmp_path / "logs-2", slots=slots)
    for directory in (there.work, there.logs):
        directory.mkdir()

    def line_up(*urgencies: int) -> list[Place]:
        lined_up.wait()  # both are here, and the slot is taken
        places = ask(*urgencies)
        if not lined_up.wait():
            first.__exit__(None, None, None)
        return places

    (first,), ask = slots.line_up(9), slots.line_up
    here.monkeypatch.setattr(slots, "line_up", line_up)
    stoppable(lambda: verify_image(replace(here.request, slots=slots), Quiet()), lambda: verify_image(there, Quiet()))
    assert floor.begun[:4] == [1, 1, 2, 2] and len(floor.begun) == 16


def test_each_boot_has_a_directory_and_each_track_disks(room: MakeRoom) -> None:
    here = room("state")
    here.verify(slots=Slots(8))
    boots = here.machine.boots
    assert len({b.work for b in boots}) == len({b.console for b in boots}) == len({b.initrd for b in boots}) == 8
    roots = [b.disks[0].path for b in boots]
    assert roots[0] == roots[1] == roots[2] and len({*roots}) == 6


# --- what ends them all -----------------------------------------------------------------------------


def test_a_failure_ends_it_and_is_raised(room: MakeRoom) -> None:
    here, fault_runs = room("state"), threading.Event()

    def act(number: int) -> None:
        if number == 1:
            assert fault_runs.wait(WAIT_S)
            raise MachineError("no QEMU")
        fault_runs.set()

    floor = floor_of(here, act)
    with pytest.raises(MachineError, match="no QEMU"):
        here.verify(slots=Slots(2))
    assert not {2, 3} & {*floor.begun}


def test_with_one_slot_nothing_begins_after_a_failure(room: MakeRoom) -> None:
    here, slots = room("state"), Slots(1)

    def act(number: int) -> None:
        if number == 2:
            raise Interrupted("stopped")

    floor = floor_of(here, act)
    with pytest.raises(Interrupted):
        here.verify(slots=slots)
    assert floor.begun == [1, 2]
    assert slots.line_up(1)[0].granted.is_set(), "the slot is free again"


def test_a_bug_of_ours_is_raised_before_what_it_led_to(room: MakeRoom) -> None:
    here, both = room("state"), threading.Barrier(2, timeout=WAIT_S)

    def act(number: int) -> None:
        both.wait()
        raise {1: MachineError("no QEMU"), 4: ZeroDivisionError("a bug")}[number]

    floor_of(here, act)
    with pytest.raises(ZeroDivisionError):
        here.verify(slots=Slots(2))


@pytest.mark.parametrize("number", [1, 4])
def test_a_boot_that_runs_out_of_time_is_the_last_to_begin(room: MakeRoom, number: int) -> None:
    """What goes on already goes on to its end, and is judged."""
    here, begun = room("state"), threading.Barrier(2, timeout=WAIT_S)
    floor = floor_of(here, lambda n: begun.wait() if n in (1, 4) else None)
    other, ended = 5 - number, threading.Event()
    here.machine.ends = lambda n, result: replace(result, status="timeout") if n == number else waited(ended, result)
    here.monkeypatch.setattr(session, "_judge", told(ended, number, session._judge))
    found = here.verify(slots=Slots(2))
    assert sorted(floor.begun) == [1, 4] == [b.number for b in found.boots]
    assert list(broken(found)) == [f"{number} boot: the system boots, answers and powers off"]
    assert [o.verdict.ok for o in found.outcomes if o.boot == other]
    assert found.notes == (f"NOT the whole verification: 2 of 8 boots, since boot {number} ran out of time",)


def waited(event: threading.Event, result: BootResult) -> BootResult:
    assert event.wait(WAIT_S)
    return result


def told(event: threading.Event, number: int, judge: Callable[..., Any]) -> Callable[..., Any]:
    """`_judge`, which comes after it is decided whether this boot was the last."""

    def wrapper(request: Any, scenario: Any, booted: Any, seen: Any) -> Any:
        if scenario.number == number:
            event.set()
        return judge(request, scenario, booted, seen)

    return wrapper


def test_a_boot_without_an_answer_is_the_last_to_begin(room: MakeRoom) -> None:
    here = room("state")
    here.machine.answers = lambda number, lines: [] if number == 2 else lines
    found = here.verify()
    assert found.notes == ("NOT the whole verification: 2 of 8 boots, since boot 2 answered nothing",)
    assert not found.accepted
    assert {p.name for p in here.request.work.iterdir()} == {"boot-1", "boot-2"}, "nor are disks made in vain"


def test_a_refusal_is_meant_to_answer_nothing(room: MakeRoom) -> None:
    found = room("bound").verify(slots=Slots(3))
    assert len(found.boots) == 8 and found.notes == () and found.accepted


def test_an_early_end_is_no_early_end_of_what_was_due(room: MakeRoom) -> None:
    here = room("state")
    here.machine.ends = lambda number, result: replace(result, status="timeout") if number == 8 else result
    found = here.verify()
    assert found.notes == () and len(found.boots) == 8 and not found.accepted
    assert here.verify(boots=2).notes == ("NOT the whole verification: 2 of 8 boots",)


# --- the image's own outcomes -----------------------------------------------------------------------


def test_every_root_disk_is_looked_at(room: MakeRoom) -> None:
    here, looked = room("state"), list[Path]()

    def look(disk: Path) -> list[Extent]:
        looked.append(disk)
        return []

    here.monkeypatch.setattr(session, "allocated", look)
    found = here.verify(slots=Slots(4))
    assert {*looked} == {b.disks[0].path for b in here.machine.boots} and len(looked) == 6
    seen = [o.verdict.seen for o in found.outcomes if o.subject == "root disk never written"]
    assert seen == ["no cluster allocated in 6 copy-on-write disks"]


def test_a_write_is_named_with_its_boots(room: MakeRoom) -> None:
    here = room("state")
    written = {"boot-1": [Extent(4096, 512)], "boot-6": [Extent(0, 1), Extent(1 << 20, 2)]}
    here.monkeypatch.setattr(session, "allocated", lambda disk: written.get(disk.parent.name, []))
    seen = broken(here.verify(slots=Slots(4)))["0 image: root disk never written"]
    assert seen == "boot 1-2-3: 512 bytes at 4096; boot 6: 1 bytes at 0; boot 6: 2 bytes at 1048576"


def test_files_are_hashed_once_before_and_once_after(room: MakeRoom) -> None:
    here, hashed = room("state"), list[str]()

    def hash_it(path: Path) -> str:
        hashed.append(path.name)
        return hash_file(path)

    def verify(known: dict[str, str]) -> dict[str, str]:
        hashed.clear()
        return broken(here.verify(hashes=known))

    here.monkeypatch.setattr(session, "hash_file", hash_it)
    names = ["rootfs.squashfs", "vmlinuz", "initrd.img", "state.img", "partition-srv-store.img"]
    known = {name: hash_file(here.image / name) for name in names}
    assert verify({}) == {} and hashed == names * 2
    assert verify(known) == {} and hashed == names
    found = verify(known | {"vmlinuz": "0" * 64})
    assert found == {"0 image: shipped files unchanged": "changed: ['vmlinuz']"}


# --- another machine, and when was what -------------------------------------------------------------


def test_the_machine_is_the_profiles(room: MakeRoom) -> None:
    here = room("rich")
    found = here.verify()
    profile = here.contract.layout.profile
    assert {(b.memory_bytes, b.clock) for b in here.machine.boots} == {(profile.verify.memory_bytes, None)}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("variation", "note"),
    [
        (Variation(memory_bytes=256 << 20, cpus=4, clock="2010-01-01"), "machine: 256M, 4 CPUs, clock 2010-01-01"),
        (Variation(cpus=1), "machine: 1 CPU"),
        (Variation(clock="1990-01-01T12:00:00"), "machine: clock 1990-01-01T12:00:00"),
    ],
)
def test_another_machine(room: MakeRoom, variation: Variation, note: str) -> None:
    here = room("rich")
    here.verify()
    usual = tuple(here.machine.boots)
    found = here.verify(variation=variation, timeout_s=90)
    for boot, plain in zip(here.machine.boots, usual, strict=True):
        assert boot.memory_bytes == (variation.memory_bytes or plain.memory_bytes)
        assert (boot.smp, boot.clock) == (variation.cpus or plain.smp, variation.clock)
    assert found.notes == (note,) and found.accepted


@pytest.mark.parametrize(("accel", "processors"), [("tcg", [2, 1]), ("kvm", [2, 2])])
def test_processors_that_cost_a_core_each_are_in_the_first_boot(
    room: MakeRoom, accel: AccelName, processors: list[int]
) -> None:
    here = room("rich")
    found = here.verify(accel=Accel(accel, "a test"))
    assert [boot.smp for boot in here.machine.boots] == processors
    assert [record.machine.cpus for record in found.boots] == processors


def test_the_time_a_boot_may_take(room: MakeRoom) -> None:
    here, given = room("rich"), list[float]()

    def boot(*args: Any, timeout_s: float, **named: Any) -> BootResult:
        given.append(timeout_s)
        return here.machine(*args, timeout_s=timeout_s, **named)

    here.monkeypatch.setattr(booting, "boot", boot)
    here.verify()
    here.verify(timeout_s=90)
    assert given == [request.BOOT_TIMEOUT_S] * 2 + [90] * 2


def test_moments(room: MakeRoom) -> None:
    here = room("rich")
    ticks = itertools.count(0.0)
    here.monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    here.machine.answers = lambda number, lines: lines[:4]
    record = here.verify(boots=1).boots[0]
    assert record.moments == ((1.0, "probe started"), (2.0, "first answer"), (4.0, "last answer"), (8.0, "ended"))


def test_what_is_read_after_the_end_was_written_before_it(room: MakeRoom) -> None:
    """A power cut ends QEMU at once, and the last line is read a little later."""
    here = room("rich")
    ticks = itertools.count(0.0, 3.0)
    here.monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    here.machine.answers = lambda number, lines: lines[:4]
    record = here.verify(boots=1).boots[0]
    assert record.moments == ((3.0, "probe started"), (6.0, "first answer"), (8.0, "last answer"), (8.0, "ended"))


def test_moments_of_a_guest_that_says_nothing_and_of_one_that_only_starts(room: MakeRoom) -> None:
    here = room("rich")
    here.machine.answers = lambda number, lines: []
    assert here.verify().boots[0].moments == ((8.0, "ended"),)
    here.machine.answers = lambda number, lines: lines[:1]
    assert [word for _, word in here.verify().boots[0].moments] == ["probe started", "ended"]
