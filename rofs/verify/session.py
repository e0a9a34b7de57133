# SPDX-License-Identifier: MIT
"""An image directory -> boots in QEMU -> outcomes. The files under test are the files that ship."""

from __future__ import annotations

import io
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from rofs.errors import MachineError, RofsError
from rofs.image.cpio import CpioEntry, append, write_newc
from rofs.image.manifest import hash_file
from rofs.layout import persistent_stores, store_file
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES, Arch
from rofs.machine.bounds import MIB, last_lines
from rofs.machine.disk import Extent, allocated, make_overlay
from rofs.machine.qemu import Boot, BootResult, Disk, boot, machine_cmdline
from rofs.machine.slots import Place, Slots
from rofs.profile import Persistent
from rofs.progress import Progress, Step
from rofs.run import stoppable
from rofs.verify import probe_wire as wire
from rofs.verify.answers import Answers
from rofs.verify.check import Outcome, Verdict, decide
from rofs.verify.checks import Plan, asked, boot_checks, judge, make_plan
from rofs.verify.cmdline import added_words
from rofs.verify.contract import Contract
from rofs.verify.faults import break_disk
from rofs.verify.identity import Seen, compare_boots, has_sshd, remember
from rofs.verify.login import Identity
from rofs.verify.outside import SSH_PORT, Outside
from rofs.verify.scenario import Scenario, scenarios, tracks
from rofs.verify.tree import tree_outcomes

SHIPPED = ("rootfs.squashfs", "vmlinuz", "initrd.img")
BOOT_TIMEOUT_S = 600
"""A Debian boot takes 10 s under TCG; shared machines have been seen ten times slower."""

_UNIT = """\
[Unit]
Description=rofs probe
DefaultDependencies=no
After=multi-user.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=exec
ExecStart=/run/rofs-probe/rofs-probe --poweroff-on-exit /run/rofs-probe/plan
StandardInput=null
"""

_ENTER_SYSTEMD = """\
mkdir -m 0700 /run/rofs-probe
cp /rofs-probe/rofs-probe /rofs-probe/plan /run/rofs-probe/
for target in default emergency; do
    mkdir -p /run/systemd/system/$target.target.wants
    ln -s ../rofs-probe.service /run/systemd/system/$target.target.wants/rofs-probe.service
done
cp /rofs-probe/rofs-probe.service /run/systemd/system/
"""

_ENTER_OTHER = """\
mkdir -m 0700 /run/rofs-probe
cp /rofs-probe/rofs-probe /rofs-probe/plan /run/rofs-probe/
set -- --init "$init" /run/rofs-probe/plan --poweroff-on-exit -- "$@"
init=/run/rofs-probe/rofs-probe
"""
"""It starts the init in its place, as PID 1; of an init that is not systemd nobody can ask for a service."""


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


def verify_image(request: Request, progress: Progress) -> Session:
    """Boot the image cold, again and again, on copy-on-write disks, and judge every check.

    What does not share a disk boots side by side. MachineError if QEMU cannot run at all; a guest that
    hangs or panics is an outcome, and one that does nothing else is the last.
    """
    files = (*SHIPPED, *(store_file(store) for store in request.stores))
    before = {name: request.hashes.get(name) or hash_file(request.image / name) for name in files}
    tour = _Tour(request, progress)
    walks = tour.walk_all()
    after = {name: hash_file(request.image / name) for name in files}
    boots = sorted((record for walk in walks for record in walk.boots), key=lambda b: b.number)
    outcomes = [_disk_outcome(walks), _files_outcome(before, after), *(o for walk in walks for o in walk.outcomes)]
    notes = (request.variation.note, _missing_note(len(boots), len(request.sequence), tour.over))
    return Session(
        arch=request.arch, accel=request.accel, boots=tuple(boots),
        outcomes=tuple(sorted(outcomes, key=lambda o: o.boot)), notes=tuple(filter(None, notes)), files=before,
    )  # fmt: skip


def _missing_note(made: int, due: int, why: str) -> str:
    if made == due:
        return ""
    return f"NOT the whole verification: {made} of {due} boots" + (f", {why}" if why else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Booted:
    """One boot: how it went, what was asked and answered, and what was seen from outside."""

    record: BootRecord
    plan: Plan
    answers: Answers
    outcomes: tuple[Outcome, ...]


@dataclass(slots=True)
class _Walk:
    """What came of one track."""

    boots: list[BootRecord] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    written: list[Extent] = field(default_factory=list)


class _Tour:
    """All tracks of one image, each in a thread. `over` says why no further boot is to begin, "" while they may."""

    def __init__(self, request: Request, progress: Progress) -> None:
        self.request, self.progress = request, progress
        self.sequence = request.sequence[: request.boots]
        self.over = ""

    def walk_all(self) -> list[_Walk]:
        """Every track; where one fails, what already boots comes to its end before that is raised."""
        ways = tracks(self.sequence)
        places = self.request.slots.line_up(*map(len, ways))
        boots = (partial(self._walk, way, place) for way, place in zip(ways, places, strict=True))
        found = stoppable(self._look, *boots)
        errors = [each for each in found if isinstance(each, BaseException)]
        for error in sorted(errors, key=lambda e: isinstance(e, RofsError)):  # a bug of ours first
            raise error
        return [each for each in found if isinstance(each, _Walk)]

    def _look(self) -> _Walk:
        """What needs no boot, beside the first of them."""
        try:
            request = self.request
            found = tree_outcomes(request.image, request.contract.layout, log=request.logs / "tree.log")
        except BaseException:
            self.over = self.over or "another failed"
            raise
        return _Walk(outcomes=list(found))

    def _walk(self, way: Sequence[Scenario], place: Place) -> _Walk:
        walk = _Walk()
        try:
            with place:
                if self.over:
                    return walk
                disks = _make_disks(self.request, way[0])
                self._boot_in_turn(way, place, disks, walk)
            walk.written = allocated(disks[0].path)
        except BaseException:
            self.over = self.over or "another failed"
            raise
        return walk

    def _boot_in_turn(self, way: Sequence[Scenario], place: Place, disks: tuple[Disk, ...], walk: _Walk) -> None:
        """Boot after boot on the same disks; in between, the slot is for whoever has more before it."""
        seen: Seen = {}
        for left, scenario in zip(range(len(way), 0, -1), way, strict=True):
            if walk.boots:
                place.again(left)
            if self.over:
                return
            booted = self._boot(scenario, disks)
            walk.boots.append(booted.record)
            outcomes, seen = _judge(self.request, scenario, booted, seen)
            walk.outcomes += outcomes

    def _boot(self, scenario: Scenario, disks: tuple[Disk, ...]) -> _Booted:
        name = f"boot {scenario.number} of {len(self.sequence)}" + (f", {scenario.title}" if scenario.title else "")
        with self.progress.step(f"{self.request.arch.name}: {name} ({self.request.accel.name})") as step:
            booted = _boot(self.request, scenario, disks, step)
        if booted.record.result.status == "timeout":
            self.over = self.over or f"since boot {scenario.number} ran out of time"
        elif booted.record.answered == 0 and not _is_refusal(self.request, scenario):
            self.over = self.over or f"since boot {scenario.number} answered nothing"
        return booted


def _is_refusal(request: Request, scenario: Scenario) -> bool:
    """Whether this boot must give up."""
    return scenario.state == "lost" and any(store.on_failure == "refuse" for store in request.stores)


def _judge(request: Request, scenario: Scenario, booted: _Booted, seen: Seen) -> tuple[list[Outcome], Seen]:
    """The outcomes of one boot, and what the next on the same disks is compared with."""
    record, layout = booted.record, request.contract.layout
    if _is_refusal(request, scenario):
        said = booted.answers.outcome(record.number)
        return [_refusal_outcome(request, scenario, record), *(() if said.verdict.ok else (said,))], seen
    outcomes = [_boot_outcome(record), booted.answers.outcome(record.number)]
    if record.answered == 0:
        return outcomes, seen  # nothing to judge but that
    outcomes += judge(booted.plan, scenario.number, booted.answers.facts)
    outcomes += booted.outcomes
    if scenario.state == "lost":
        return outcomes, seen
    now = remember(asked(booted.plan, booted.answers.facts))
    return [*outcomes, *compare_boots(layout, scenario, seen, now)], now


def _make_disks(request: Request, scenario: Scenario) -> tuple[Disk, ...]:
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


def _boot(request: Request, scenario: Scenario, disks: tuple[Disk, ...], step: Step) -> _Booted:
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
    return _Booted(record=record, plan=plan, answers=listener.answers, outcomes=outcomes)


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


def _refusal_outcome(request: Request, scenario: Scenario, record: BootRecord) -> Outcome:
    """The initrd must give up before anything of the system runs, and say why."""
    lines = [line for line in record.result.console.splitlines() if "(on_failure: refuse)" in line]
    reset = "reset itself" in record.result.reason
    ok = record.answered == 0 and reset and bool(lines)
    seen = (
        lines[0].partition("rofs: ")[2] if lines else f"no refusal on the console; {_last_words(record.result.console)}"
    )
    seen += f"; {record.result.reason}" + (f"; {record.answered} answers" if record.answered else "")
    at = next(store.at for store in request.stores if store.on_failure == "refuse")
    return Outcome(
        boot=scenario.number, promise="state", subject=f"refused ({scenario.title})", at=at,
        verdict=decide(ok, "the initrd refuses, says why, and the kernel's panic reboots", seen),
    )  # fmt: skip


def probe_archive(arch: Arch, ops: Sequence[wire.Op], init: Literal["systemd", "other"] = "systemd") -> bytes:
    """The second archive of the initrd: probe, plan, unit, and the few lines that put them into /run."""
    base = PurePosixPath("rofs-probe")
    try:
        probe = wire.find_probe(arch.name).read_bytes()
    except OSError as error:
        raise MachineError(f"the probe for {arch.name} cannot be read: {error}") from None
    archive = io.BytesIO()
    files = [
        ("rofs-probe", 0o755, probe),
        ("plan", 0o644, wire.encode_plan(ops)),
        ("enter", 0o644, (_ENTER_SYSTEMD if init == "systemd" else _ENTER_OTHER).encode()),
    ]
    if init == "systemd":
        files.append(("rofs-probe.service", 0o644, _UNIT.encode()))
    write_newc(
        (CpioEntry(path=base / name, mode=stat.S_IFREG | mode, content=content) for name, mode, content in files),
        archive,
    )
    return archive.getvalue()


def _boot_outcome(record: BootRecord) -> Outcome:
    result = record.result
    seen = f"{result.reason} after {result.seconds:.1f} s ({result.accel_seen})"
    seen += f", {record.answered} of {record.asked} answers"
    ok = result.status == "off" and record.answered >= record.asked - 1  # the power-off itself may not answer
    if not ok:
        seen += f"; the console's last words: {_last_words(result.console)}"
    return _outcome(record.number, "boot", "the system boots, answers and powers off", decide(ok, "a whole boot", seen))


def _last_words(console: str) -> str:
    return " | ".join(last_lines(console))


def _disk_outcome(walks: Sequence[_Walk]) -> Outcome:
    """The disks were writable outside: that nothing was written is the image's doing."""
    written = [
        f"boot {'-'.join(str(b.number) for b in walk.boots)}: {e.size_bytes} bytes at {e.start_bytes}"
        for walk in walks
        for e in walk.written[:4]
    ]
    disks = sum(bool(walk.boots) for walk in walks)
    seen = "; ".join(written) or f"no cluster allocated in {disks} copy-on-write disk{'s' if disks > 1 else ''}"
    return _outcome(0, "image", "root disk never written", decide(not written, "no write at all", seen))


def _files_outcome(before: Mapping[str, str], after: Mapping[str, str]) -> Outcome:
    changed = [name for name in before if before[name] != after[name]]
    seen = ", ".join(f"{n} {after[n][:12]}" for n in after)
    verdict = decide(not changed, "the hashes from before the first boot", f"changed: {changed}" if changed else seen)
    return _outcome(0, "image", "shipped files unchanged", verdict)


def _outcome(boot_number: int, promise: str, subject: str, verdict: Verdict) -> Outcome:
    return Outcome(boot=boot_number, promise=promise, subject=subject, at=(), verdict=verdict)
