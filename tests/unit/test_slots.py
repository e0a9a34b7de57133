# SPDX-License-Identifier: MIT
"""Who boots when: so many at once, the most urgent first, and nobody for ever."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from rofs.machine.capacity import guests_at_once
from rofs.machine.slots import Place, Slots


def granted(places: list[Place]) -> list[bool]:
    return [place.granted.is_set() for place in places]


def test_as_many_as_the_host_has_room_for() -> None:
    assert Slots().limit == guests_at_once()
    assert Slots(7).limit == 7


def test_the_most_urgent_and_then_the_first() -> None:
    slots = Slots(2)
    places = slots.line_up(1, 1, 3, 1)
    assert granted(places) == [True, False, True, False]
    with places[0]:
        pass
    assert granted(places) == [False, True, True, False]
    late = slots.line_up(2, 1)
    with places[1]:
        pass
    assert granted([*places, *late]) == [False, False, True, False, True, False]


def test_who_goes_on_is_before_who_is_less_urgent() -> None:
    """With no moment in between in which another could take the slot, and before its equals who came later."""
    slots = Slots(1)
    chain, *others = slots.line_up(3, 2, 1)
    with chain:
        chain.again(2)
        assert granted([chain, *others]) == [True, False, False]
    assert granted([chain, *others]) == [False, True, False]


def test_who_goes_on_waits_for_who_is_more_urgent() -> None:
    slots = Slots(1)
    chain, other = slots.line_up(3, 2)
    with ThreadPoolExecutor(1) as pool, chain:
        going_on: Future[None] = pool.submit(chain.again, 1)
        with other:
            assert not chain.granted.is_set() and not going_on.done()
        going_on.result(timeout=60)
        assert granted([chain, other]) == [True, False]


def test_a_failure_gives_the_slot_back() -> None:
    slots = Slots(1)
    first, second = slots.line_up(1, 1)
    with pytest.raises(ValueError, match="a test"), first:
        raise ValueError("a test")
    with second:
        assert granted([first, second]) == [False, True]


def test_never_more_than_the_limit() -> None:
    slots, lock, now, most = Slots(3), threading.Lock(), [0], [0]
    everyone = threading.Barrier(3, timeout=60)

    def boot(place: Place, number: int) -> None:
        with place:
            for left in (2, 1):
                with lock:
                    now[0] += 1
                    most[0] = max(most[0], now[0])
                if number < 3 and left == 2:
                    everyone.wait()  # the limit is reached, too
                with lock:
                    now[0] -= 1
                place.again(left)

    with ThreadPoolExecutor(12) as pool:
        places = slots.line_up(*range(12, 0, -1))
        list(pool.map(boot, places, range(12)))
    assert most == [3] and granted(slots.line_up(1, 1, 1, 1)) == [True, True, True, False]
