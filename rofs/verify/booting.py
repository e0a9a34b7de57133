# SPDX-License-Identifier: MIT
"""One boot of a verification: its disks, its plan, QEMU, and the answers of the probe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rofs.image.cpio import append
from rofs.layout import store_file
from rofs.machine.disk import make_overlay
from rofs.machine.qemu import Boot, Disk, boot, machine_cmdline
from rofs.progress import Step
from rofs.verify import probe_wire as wire
from rofs.verify.answers import Answers
from rofs.verify.check import Outcome
from rofs.verify.checks import Plan, boot_checks, make_plan
from rofs.verify.cmdline import added_words
from rofs.verify.faults import break_disk
from rofs.verify.identity import has_sshd
from rofs.verify.outside import SSH_PORT, Outside
from rofs.verify.probe_archive import probe_archive
from rofs.verify.request import BootRecord, Machine, Request
from rofs.verify.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """One boot: how it went, what was asked and answered, and what was seen from outside."""

    record: BootRecord
    plan: Plan
    answers: Answers
    outcomes: tuple[Outcome, ...]


def make_disks(request: Request, scenario: Scenario) -> tuple[Disk, ...]:
    """For a boot and those after it: copy-on-write over what is published or what the caller brought, or broken."""
    work, log = _directory(request, scenario), request.logs / "qemu.log"
    root = make_overlay(request.image / "rootfs.squashfs", work / "root.qcow2", log=log)
    disks: list[Disk | None] = [Disk(path=root, format="qcow2")]
    for number, store in enumerate(request.stores, start=1):
        good, out = request.image / store_file(store), work / f"store-{number}"
        if scenario.state == "lost":
            made = break_disk(scenario.fault, good, out.with_suffix(f".{scenario.fault}"), request.logs / "faults.log")
        else:
            overlay = make_overlay(request.state.get(store.name, good), out.with_suffix(".qcow2"), log=log)
            made = Disk(path=overlay, format="qcow2")
        disks.append(made)
    return tuple(disk for disk in disks if disk is not None)


def _directory(request: Request, scenario: Scenario) -> Path:
    """Of one boot alone: QEMU's socket, its initrd, and the disks that were made for it."""
    directory = request.work / f"boot-{scenario.number}"
    directory.mkdir(exist_ok=True)
    return directory


def boot_once(request: Request, scenario: Scenario, disks: tuple[Disk, ...], step: Step) -> Booted:
    """Boot on these disks; MachineError if QEMU cannot run at all, whatever the guest does is in what is returned."""
    contract, arch = request.contract, request.arch
    checks = boot_checks(contract.layout, contract.entries, scenario, arch)
    login = None
    if request.identity and has_sshd(contract.entries):
        login = Outside(request.identity, scenario, work=request.work, logs=request.logs)
    if login is not None:
        checks = (*checks, login.check())
    plan = make_plan(checks, wire.poweroff(scenario.ends))
    work = _directory(request, scenario)
    initrd = work / "initrd.img"
    append(request.image / "initrd.img", probe_archive(arch, plan.ops, contract.layout.profile.init), initrd)
    shipped = machine_cmdline((request.image / "cmdline").read_text(), arch)
    words = [shipped, *added_words(contract.layout, scenario)]
    listener = _Listener(plan.ops, step)
    plain = Boot(
        arch=arch, accel=request.accel, kernel=request.image / "vmlinuz", initrd=initrd, cmdline=" ".join(words),
        disks=disks, work=work, console=request.logs / f"console-{scenario.number}.log",
        memory_bytes=contract.layout.profile.verify.memory_bytes, forward=SSH_PORT if login else None,
        smp=_processors(request, scenario),
    )  # fmt: skip
    machine = request.variation.of(plain)
    result = boot(
        machine, listener, timeout_s=request.timeout_s, log=request.logs / "qemu.log",
        on_forward=login.start if login else None,
    )  # fmt: skip
    initrd.unlink()
    record = BootRecord(
        number=scenario.number, title=scenario.title, result=result, answered=listener.answers.count,
        asked=len(plan.ops), cmdline=" ".join(words), moments=listener.moments(result.seconds),
        machine=Machine(memory_bytes=machine.memory_bytes, cpus=machine.smp, clock=machine.clock),
    )  # fmt: skip
    outcomes = (login.outcome(),) if login else ()
    return Booted(record=record, plan=plan, answers=listener.answers, outcomes=outcomes)


def _processors(request: Request, scenario: Scenario) -> int:
    """Two, as most devices have more than one; where each takes a core of the host, in the first boot only."""
    return 1 if request.accel.name == "tcg" and scenario.number > 1 else 2


class _Listener:
    """Takes the lines of a guest's port: the answers to what was asked, and when the first and the last came."""

    def __init__(self, ops: Sequence[wire.Op], step: Step) -> None:
        self.answers, self._asked, self._step = Answers(ops), len(ops), step
        self._began, self._seen = time.monotonic(), dict[str, float]()

    def __call__(self, line: str) -> None:
        event = self.answers.take(line)
        if event is None:
            return
        now = time.monotonic() - self._began
        if event.kind == "start":
            self._seen.setdefault("probe started", now)
        if event.id is not None:
            self._seen.setdefault("first answer", now)
            self._seen["last answer"] = now
            self._step.update(f"{self.answers.count} of {self._asked} answers")

    def moments(self, ended: float) -> tuple[tuple[float, str], ...]:
        """In their order, none after the end: a line that was written at a power cut may be read a little later."""
        seen = [(min(seconds, ended), word) for word, seconds in self._seen.items()]
        return (*sorted(seen, key=lambda each: each[0]), (ended, "ended"))
