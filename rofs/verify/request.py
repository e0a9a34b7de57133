# SPDX-License-Identifier: MIT
"""What is to be verified, on which machine, and what came of it: the values that verification takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rofs.layout import persistent_stores
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES, Arch
from rofs.machine.bounds import MIB
from rofs.machine.qemu import Boot, BootResult
from rofs.machine.slots import Slots
from rofs.profile import Persistent
from rofs.verify.check import Outcome
from rofs.verify.contract import Contract
from rofs.verify.login import Identity
from rofs.verify.scenario import Scenario, scenarios

BOOT_TIMEOUT_S = 600
"""A Debian boot takes 10 s under TCG; shared machines have been seen ten times slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """Another machine than the profile's and the host's; None leaves it as it is."""

    memory_bytes: int | None = None
    cpus: int | None = None
    clock: str | None = None

    def of(self, machine: Boot) -> Boot:
        """The same with what is varied."""
        memory_bytes, smp = self.memory_bytes or machine.memory_bytes, self.cpus or machine.smp
        return replace(machine, memory_bytes=memory_bytes, smp=smp, clock=self.clock or machine.clock)

    @property
    def note(self) -> str:
        """For the report: `machine: 256M, 4 CPUs, clock 2010-01-01`, or "" where nothing differs."""
        words = [
            f"{-(-self.memory_bytes // MIB)}M" if self.memory_bytes else "",
            f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}" if self.cpus else "",
            f"clock {self.clock}" if self.clock else "",
        ]
        return f"machine: {', '.join(filter(None, words))}" if any(words) else ""


AS_IT_IS = Variation()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What QEMU was told to be. `clock` is the guest's at its start, None the host's."""

    memory_bytes: int
    cpus: int
    clock: str | None = None

    def __str__(self) -> str:
        words = [f"{-(-self.memory_bytes // MIB)} MiB", f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"]
        return ", ".join([*words, *([f"clock {self.clock}"] if self.clock else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRecord:
    """What is worth saying of one boot. `moments` are seconds since QEMU was started, and what was then."""

    number: int
    title: str
    result: BootResult
    answered: int
    asked: int
    cmdline: str
    machine: Machine
    moments: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """All boots of one image; an outcome with boot 0 is the image's. `notes` are for the reader of a report.

    `files` are the sha256 of the shipped files, by name, before the first boot.
    """

    arch: Arch
    accel: Accel
    boots: tuple[BootRecord, ...]
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether every promise was kept, and there was one."""
        return bool(self.outcomes) and all(o.verdict.ok for o in self.outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be verified, and with what.

    `state` are disks of a device to use instead of the published ones, by the store's name. `identity`
    is the private key of one of the image's users, to prove that a login works; `boots` ends it early.
    `hashes` are those of the shipped files, by name, where they were just taken. `slots` are shared with
    whatever else boots meanwhile.
    """

    image: Path
    contract: Contract
    accel: Accel
    work: Path
    logs: Path
    state: Mapping[str, Path] = field(default_factory=dict)
    identity: Identity | None = None
    boots: int | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    slots: Slots = field(default_factory=Slots)
    variation: Variation = AS_IT_IS
    timeout_s: float = BOOT_TIMEOUT_S

    @property
    def arch(self) -> Arch:
        """The image's."""
        return ARCHES[self.contract.architecture]

    @property
    def sequence(self) -> tuple[Scenario, ...]:
        """Every boot that is due; `boots` may end it early."""
        return scenarios(self.contract.layout.profile, kept=bool(self.state))

    @property
    def stores(self) -> tuple[Persistent, ...]:
        """What persists, in the order of the disks."""
        return persistent_stores(self.contract.layout.profile)

    def refuses(self, scenario: Scenario) -> bool:
        """Whether the initrd must give up in this boot."""
        return scenario.state == "lost" and any(store.on_failure == "refuse" for store in self.stores)
