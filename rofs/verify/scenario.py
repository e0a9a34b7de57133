# SPDX-License-Identifier: MIT
"""Profile -> the boots that verification makes of an image, in order, and what each is about.

Without anything persistent: two cold boots. With it: the state as published, the same state again, the
state after a factory reset, and one boot for each thing that may be wrong with a persistent disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rofs.layout import persistent_stores
from rofs.profile import Profile
from rofs.verify.faults import FAULTS

State = Literal["none", "new", "used", "reset", "kept", "lost"]
"""Of the persistent disks: not there by design, as published, of the boot before, with the flag of a
factory reset on it, brought by the caller from a device, broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One boot. `fault` is for `lost`; `attacked` boots take all attacks, `last` is nobody's past."""

    number: int
    state: State
    ends: Literal["clean", "cut"]
    fault: str = ""
    attacked: bool = False
    last: bool = False

    @property
    def title(self) -> str:
        """For people."""
        words = {
            "none": "", "new": "state new", "used": "state used", "reset": "factory reset",
            "kept": "state of a device", "lost": f"state {self.fault}",
        }  # fmt: skip
        return words[self.state]

    @property
    def leaves_canaries(self) -> bool:
        """Whether the next boot looks for what this one wrote."""
        return not self.last

    @property
    def finds_canaries(self) -> bool:
        """Whether the boot before wrote something to the same disks."""
        return self.number > 1 and self.state != "lost"


def scenarios(profile: Profile, *, kept: bool = False) -> tuple[Scenario, ...]:
    """`kept`: the persistent disks are a device's own, so nothing is reset and nothing broken.

    The second boot is a cold restart on the same disks: only then do volatile and persistent differ
    (note 43). It ends by a power cut.
    """
    if not persistent_stores(profile):
        return _plain("none", "none")
    if kept:
        return _plain("kept", "kept")
    first = (
        Scenario(number=1, state="new", ends="clean", attacked=True),
        Scenario(number=2, state="used", ends="cut", attacked=True),
        Scenario(number=3, state="reset", ends="clean", last=True),
    )
    faults = enumerate(FAULTS, start=4)
    return (*first, *(Scenario(number=n, state="lost", ends="clean", fault=f, last=True) for n, f in faults))


def tracks(sequence: Sequence[Scenario]) -> tuple[tuple[Scenario, ...], ...]:
    """The boots that need not wait for one another: those on the same disks in order, each broken disk alone."""
    chain = tuple(s for s in sequence if s.state != "lost")
    alone = tuple((s,) for s in sequence if s.state == "lost")
    return (chain, *alone) if chain else alone


def _plain(first: State, second: State) -> tuple[Scenario, ...]:
    return (
        Scenario(number=1, state=first, ends="clean", attacked=True),
        Scenario(number=2, state=second, ends="cut", last=True),
    )
