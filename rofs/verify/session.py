# SPDX-License-Identifier: MIT
"""An image directory -> boots in QEMU -> outcomes. The files under test are the files that ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from rofs.errors import RofsError
from rofs.image.manifest import hash_file
from rofs.layout import store_file
from rofs.machine.bounds import last_lines
from rofs.machine.disk import Extent, allocated
from rofs.machine.qemu import Disk
from rofs.machine.slots import Place
from rofs.progress import Progress
from rofs.run import stoppable
from rofs.verify.booting import Booted, boot_once, make_disks
from rofs.verify.check import Outcome, Verdict, decide
from rofs.verify.checks import asked, judge
from rofs.verify.identity import Seen, compare_boots, remember
from rofs.verify.request import BootRecord, Request, Session
from rofs.verify.scenario import Scenario, tracks
from rofs.verify.tree import tree_outcomes

SHIPPED = ("rootfs.squashfs", "vmlinuz", "initrd.img")


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
                disks = make_disks(self.request, way[0])
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

    def _boot(self, scenario: Scenario, disks: tuple[Disk, ...]) -> Booted:
        name = f"boot {scenario.number} of {len(self.sequence)}" + (f", {scenario.title}" if scenario.title else "")
        with self.progress.step(f"{self.request.arch.name}: {name} ({self.request.accel.name})") as step:
            booted = boot_once(self.request, scenario, disks, step)
        if booted.record.result.status == "timeout":
            self.over = self.over or f"since boot {scenario.number} ran out of time"
        elif booted.record.answered == 0 and not self.request.refuses(scenario):
            self.over = self.over or f"since boot {scenario.number} answered nothing"
        return booted


def _judge(request: Request, scenario: Scenario, booted: Booted, seen: Seen) -> tuple[list[Outcome], Seen]:
    """The outcomes of one boot, and what the next on the same disks is compared with."""
    record, layout = booted.record, request.contract.layout
    if request.refuses(scenario):
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
