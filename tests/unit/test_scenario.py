# SPDX-License-Identifier: MIT
"""Which boots are made of an image, and what each leaves and finds."""

from __future__ import annotations

import itertools

import pytest
from state_layouts import made

from rofs.verify.faults import FAULTS
from rofs.verify.scenario import Scenario, scenarios


def of(name: str, *, kept: bool = False) -> tuple[Scenario, ...]:
    return scenarios(made(name)[0].profile, kept=kept)


PERSISTENT = ["state", "bound", "transient", "partitions"]


@pytest.mark.parametrize("name", ["rich", "hostile"])
@pytest.mark.parametrize("kept", [False, True])
def test_without_anything_persistent_two_cold_boots(name: str, kept: bool) -> None:
    assert of(name, kept=kept) == (
        Scenario(number=1, state="none", ends="clean", attacked=True),
        Scenario(number=2, state="none", ends="cut", last=True),
    )


@pytest.mark.parametrize("name", PERSISTENT)
def test_with_it_new_used_reset_and_every_fault(name: str) -> None:
    found = of(name)
    assert found[:3] == (
        Scenario(number=1, state="new", ends="clean", attacked=True),
        Scenario(number=2, state="used", ends="cut", attacked=True),
        Scenario(number=3, state="reset", ends="clean", last=True),
    )
    assert tuple(s.fault for s in found[3:]) == FAULTS and len(FAULTS) == 5
    assert {(s.state, s.attacked, s.last) for s in found[3:]} == {("lost", False, True)}
    assert [s.number for s in found] == list(range(1, 9))


@pytest.mark.parametrize("name", PERSISTENT)
def test_on_the_state_of_a_device_nothing_is_reset_or_broken(name: str) -> None:
    assert of(name, kept=True) == (
        Scenario(number=1, state="kept", ends="clean", attacked=True),
        Scenario(number=2, state="kept", ends="cut", last=True),
    )


@pytest.mark.parametrize(("name", "kept"), [("rich", False), ("state", True), *((n, False) for n in PERSISTENT)])
def test_canaries_are_left_for_who_looks_for_them(name: str, kept: bool) -> None:
    found = of(name, kept=kept)
    for earlier, later in itertools.pairwise(found):
        assert earlier.leaves_canaries == later.finds_canaries, (earlier, later)
    assert not found[0].finds_canaries and not found[-1].leaves_canaries


def test_a_power_cut_comes_before_a_look_at_what_survived_it() -> None:
    for name in PERSISTENT:
        cut = [s.number for s in of(name) if s.ends == "cut"]
        assert cut == [2]


def test_titles() -> None:
    assert [s.title for s in of("state")] == [
        "state new", "state used", "factory reset", "state missing", "state corrupt", "state foreign",
        "state read-only", "state full",
    ]  # fmt: skip
    assert [s.title for s in of("rich")] == ["", ""]
    assert {s.title for s in of("state", kept=True)} == {"state of a device"}
