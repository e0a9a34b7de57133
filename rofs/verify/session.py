# SPDX-License-Identifier: MIT
"""An image directory -> boots in QEMU -> outcomes. The files under test are the files that ship."""

from __future__ import annotations

import io
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from rofs.errors import MachineError
from rofs.image.cpio import CpioEntry, append, write_newc
from rofs.image.manifest import hash_file
from rofs.layout import persistent_stores, store_file
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES, Arch
from rofs.machine.disk import allocated, make_overlay
from rofs.machine.qemu import Boot, BootResult, Disk, boot, machine_cmdline
from rofs.profile import Persistent
from rofs.progress import Progress, Step
from rofs.verify import probe_wire as wire
from rofs.verify.check import Facts, Outcome, Verdict, decide
from rofs.verify.checks import Plan, asked, boot_checks, judge, make_plan
from rofs.verify.contract import Contract
from rofs.verify.faults import break_disk
from rofs.verify.identity import Seen, compare_boots, has_sshd, remember
from rofs.verify.login import Identity
from rofs.verify.outside import SSH_PORT, Outside
from rofs.verify.scenario import Scenario, scenarios

SHIPPED = ("rootfs.squashfs", "vmlinuz", "initrd.img")
SUFFIX = "panic=-1"
"""Added to the command line, which the report names whole: a panic ends the boot at once."""
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
class BootRecord:
    """What is worth saying of one boot."""

    number: int
    title: str
    result: BootResult
    answered: int
    asked: int
    cmdline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """All boots of one image."""

    arch: Arch
    accel: Accel
    boots: tuple[BootRecord, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def accepted(self) -> bool:
        """Whether every promise was kept, and there was one."""
        return bool(self.outcomes) and all(o.verdict.ok for o in self.outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be verified, and with what.

    `state` are disks of a device to use instead of the published ones, by the store's name. `identity`
    is the private key of one of the image's users, to prove that a login works; `boots` ends it early.
    """

    image: Path
    contract: Contract
    accel: Accel
    work: Path
    logs: Path
    state: Mapping[str, Path] = field(default_factory=dict)
    identity: Identity | None = None
    boots: int | None = None

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

    MachineError if QEMU cannot run at all; a guest that hangs or panics is an outcome.
    """
    arch = request.arch
    files = (*SHIPPED, *(store_file(store) for store in request.stores))
    before = {name: hash_file(request.image / name) for name in files}
    root = make_overlay(request.image / "rootfs.squashfs", request.work / "root.qcow2", log=request.logs / "qemu.log")
    stores = _store_disks(request)
    boots: list[BootRecord] = []
    outcomes: list[Outcome] = []
    seen: Seen = {}
    sequence = request.sequence[: request.boots]
    for scenario in sequence:
        name = f"boot {scenario.number} of {len(sequence)}" + (f", {scenario.title}" if scenario.title else "")
        with progress.step(f"{arch.name}: {name} ({request.accel.name})") as step:
            disks = (Disk(path=root, format="qcow2"), *_disks(request, scenario, stores))
            result = _boot(request, scenario, disks, step)
        boots.append(result.record)
        if scenario.state == "lost" and _refuses(request):
            outcomes.append(_refusal_outcome(request, scenario, result.record))
            continue
        outcomes.append(_boot_outcome(result.record))
        if result.record.answered == 0:
            break  # nothing to judge but that
        outcomes += judge(result.plan, scenario.number, result.answers)
        outcomes += result.outcomes
        now = remember(asked(result.plan, result.answers))
        if scenario.state != "lost":
            outcomes += compare_boots(request.contract.layout, scenario, seen, now)
            seen = now
    outcomes.append(_disk_outcome(root, len(boots)))
    outcomes.append(_files_outcome(before, {name: hash_file(request.image / name) for name in files}, len(boots)))
    return Session(arch=arch, accel=request.accel, boots=tuple(boots), outcomes=tuple(outcomes))


def _refuses(request: Request) -> bool:
    return any(store.on_failure == "refuse" for store in request.stores)


def _store_disks(request: Request) -> tuple[Disk, ...]:
    """Copy-on-write over the published images, or over those that the caller brought."""
    disks = []
    for number, store in enumerate(request.stores, start=1):
        base = request.state.get(store.name, request.image / store_file(store))
        out = request.work / f"store-{number}.qcow2"
        disks.append(Disk(path=make_overlay(base, out, log=request.logs / "qemu.log"), format="qcow2"))
    return tuple(disks)


def _disks(request: Request, scenario: Scenario, stores: tuple[Disk, ...]) -> tuple[Disk, ...]:
    if scenario.state != "lost":
        return stores
    broken = []
    for number, store in enumerate(request.stores, start=1):
        out = request.work / f"store-{number}.{scenario.fault}"
        broken.append(
            break_disk(scenario.fault, request.image / store_file(store), out, log=request.logs / "faults.log")
        )
    return tuple(disk for disk in broken if disk is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Booted:
    """One boot: how it went, what was asked and answered, and what was seen from outside."""

    record: BootRecord
    plan: Plan
    answers: dict[int, Facts]
    outcomes: tuple[Outcome, ...]


def _boot(request: Request, scenario: Scenario, disks: tuple[Disk, ...], step: Step) -> _Booted:
    contract, arch = request.contract, request.arch
    checks = boot_checks(contract.layout, contract.entries, scenario)
    login = None
    if request.identity and has_sshd(contract.entries):
        login = Outside(request.identity, scenario, work=request.work, logs=request.logs)
    if login is not None:
        checks = (*checks, login.check())
    plan = make_plan(checks, wire.poweroff(scenario.ends))
    initrd = request.work / f"initrd-{scenario.number}.img"
    append(request.image / "initrd.img", probe_archive(arch, plan.ops, contract.layout.profile.init), initrd)
    words = [machine_cmdline((request.image / "cmdline").read_text(), arch), SUFFIX]
    if scenario.state == "reset" and contract.layout.profile.state is None:
        words.append("rofs.reset=1")  # there is no place for the flag
    answers: dict[int, Facts] = {}

    def on_line(line: str) -> None:
        event = wire.parse_event(line)
        if event is not None and event.id is not None:
            answers[event.id] = event.facts
            step.update(f"{len(answers)} of {len(plan.ops)} answers")

    boot_request = Boot(
        arch=arch, accel=request.accel, kernel=request.image / "vmlinuz", initrd=initrd, cmdline=" ".join(words),
        disks=disks, work=request.work, console=request.logs / f"console-{scenario.number}.log",
        memory_bytes=contract.layout.profile.verify.memory_bytes, forward=SSH_PORT if login else None,
    )  # fmt: skip
    result = boot(
        boot_request, on_line, timeout_s=BOOT_TIMEOUT_S, log=request.logs / "qemu.log",
        on_forward=login.start if login else None,
    )  # fmt: skip
    initrd.unlink()
    record = BootRecord(
        number=scenario.number, title=scenario.title, result=result, answered=len(answers), asked=len(plan.ops),
        cmdline=" ".join(words),
    )  # fmt: skip
    return _Booted(record=record, plan=plan, answers=answers, outcomes=(login.outcome(),) if login else ())


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
    """The end of what it said, or what led to a panic: the registers after that help nobody."""
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    panic = next((number for number, line in enumerate(lines) if "Kernel panic" in line), len(lines))
    return " | ".join(lines[: panic + 1][-8:])


def _disk_outcome(disk: Path, number: int) -> Outcome:
    """The disk was writable outside: that nothing was written is the image's doing."""
    extents = allocated(disk)
    seen = "; ".join(f"{e.size_bytes} bytes at {e.start_bytes}" for e in extents[:4]) or "no cluster allocated"
    return _outcome(number, "image", "root disk never written", decide(not extents, "no write at all", seen))


def _files_outcome(before: dict[str, str], after: dict[str, str], number: int) -> Outcome:
    changed = [name for name in before if before[name] != after[name]]
    seen = ", ".join(f"{n} {after[n][:12]}" for n in after)
    verdict = decide(not changed, "the hashes from before the first boot", f"changed: {changed}" if changed else seen)
    return _outcome(number, "image", "shipped files unchanged", verdict)


def _outcome(boot_number: int, promise: str, subject: str, verdict: Verdict) -> Outcome:
    return Outcome(boot=boot_number, promise=promise, subject=subject, at=(), verdict=verdict)
