# SPDX-License-Identifier: MIT
"""An image directory -> boots in QEMU -> outcomes. The files under test are the files that ship."""

from __future__ import annotations

import io
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rofs.errors import MachineError
from rofs.image.cpio import CpioEntry, append, write_newc
from rofs.image.manifest import hash_file
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES, Arch
from rofs.machine.disk import allocated, make_overlay
from rofs.machine.qemu import Boot, BootResult, Disk, boot
from rofs.progress import Progress, Step
from rofs.verify import probe_wire as wire
from rofs.verify.check import Facts, Outcome, Verdict, decide
from rofs.verify.checks import BOOTS, Plan, boot_checks, judge, make_plan
from rofs.verify.contract import Contract

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

_ENTER = """\
mkdir -m 0700 /run/rofs-probe
cp /rofs-probe/rofs-probe /rofs-probe/plan /run/rofs-probe/
for target in default emergency; do
    mkdir -p /run/systemd/system/$target.target.wants
    ln -s ../rofs-probe.service /run/systemd/system/$target.target.wants/rofs-probe.service
done
cp /rofs-probe/rofs-probe.service /run/systemd/system/
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRecord:
    """What is worth saying of one boot."""

    number: int
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


def verify_image(image: Path, contract: Contract, accel: Accel, work: Path, logs: Path, progress: Progress) -> Session:
    """Boot `image` cold twice on one copy-on-write disk and judge every check.

    `work` is scratch, `logs` gets console and QEMU output. MachineError if QEMU cannot run at all;
    a guest that hangs or panics is an outcome.
    """
    arch = ARCHES[contract.architecture]
    before = {name: hash_file(image / name) for name in SHIPPED}
    disk = make_overlay(image / "rootfs.squashfs", work / "root.qcow2", log=logs / "qemu.log")
    boots: list[BootRecord] = []
    outcomes: list[Outcome] = []
    for number in range(1, BOOTS + 1):
        with progress.step(f"{arch.name}: boot {number} of {BOOTS} ({accel.name})") as step:
            plan = _plan(contract, number)
            record, answers = _boot(image, contract, accel, number, plan, disk, work, logs, step)
        boots.append(record)
        outcomes.append(_boot_outcome(record))
        if record.answered == 0:
            break  # nothing to judge but that
        outcomes += judge(plan, number, answers)
    outcomes.append(_disk_outcome(disk, len(boots)))
    outcomes.append(_files_outcome(before, {name: hash_file(image / name) for name in SHIPPED}, len(boots)))
    return Session(arch=arch, accel=accel, boots=tuple(boots), outcomes=tuple(outcomes))


def _plan(contract: Contract, number: int) -> Plan:
    """The first boot ends by a clean shutdown, the last one by a power cut."""
    checks = boot_checks(contract.layout, contract.entries, number)
    return make_plan(checks, wire.poweroff("clean" if number < BOOTS else "cut"))


def _boot(
    image: Path,
    contract: Contract,
    accel: Accel,
    number: int,
    plan: Plan,
    disk: Path,
    work: Path,
    logs: Path,
    step: Step,
) -> tuple[BootRecord, dict[int, Facts]]:
    arch = ARCHES[contract.architecture]
    initrd = work / f"initrd-{number}.img"
    append(image / "initrd.img", probe_archive(arch, plan.ops), initrd)
    cmdline = f"{(image / 'cmdline').read_text().strip()} {suffix(arch)}"
    answers: dict[int, Facts] = {}

    def on_line(line: str) -> None:
        event = wire.parse_event(line)
        if event is not None and event.id is not None:
            answers[event.id] = event.facts
            step.update(f"{len(answers)} of {len(plan.ops)} answers")

    request = Boot(
        arch=arch, accel=accel, kernel=image / "vmlinuz", initrd=initrd, cmdline=cmdline,
        disks=(Disk(path=disk, format="qcow2"),), work=work, console=logs / f"console-{number}.log",
        memory_bytes=contract.layout.profile.verify.memory_bytes,
    )  # fmt: skip
    result = boot(request, on_line, timeout_s=BOOT_TIMEOUT_S, log=logs / "qemu.log")
    record = BootRecord(number=number, result=result, answered=len(answers), asked=len(plan.ops), cmdline=cmdline)
    return record, answers


def suffix(arch: Arch) -> str:
    """What verification adds to the shipped command line; the report says so."""
    return f"root=/dev/vda console={arch.console} panic=-1"


def probe_archive(arch: Arch, ops: Sequence[wire.Op]) -> bytes:
    """The second archive of the initrd: probe, plan, unit, and the few lines that put them into /run."""
    base = PurePosixPath("rofs-probe")
    try:
        probe = wire.find_probe(arch.name).read_bytes()
    except OSError as error:
        raise MachineError(f"the probe for {arch.name} cannot be read: {error}") from None
    archive = io.BytesIO()
    files = (
        ("rofs-probe", 0o755, probe),
        ("plan", 0o644, wire.encode_plan(ops)),
        ("rofs-probe.service", 0o644, _UNIT.encode()),
        ("enter", 0o644, _ENTER.encode()),
    )
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
