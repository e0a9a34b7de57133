# SPDX-License-Identifier: MIT
"""What the verification of an image costs beside bare boots of it, as a table of medians over interleaved rounds.

`python tests/bench/bench_verify.py [IMAGE_DIR] [--rounds N] [--jobs N]`. A bare boot is the boot that verification
makes, by the same code, disks and command line of QEMU, with a plan that powers off as soon as the system runs
(and leaves the wish for a factory reset where the next boot needs it). Its disks are made before the clock starts;
those of verification are in its time, and so are hashes, judgements and the look at the disks. The commands of the
profile's `verify.commands` are left out. Seconds of CPU time differ less from run to run on a shared host.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from rofs.machine.accel import find_accel
from rofs.machine.arch import ARCHES, host_arch
from rofs.machine.capacity import guests_at_once
from rofs.machine.qemu import Disk
from rofs.machine.slots import Place, Slots
from rofs.progress import Lines, Progress
from rofs.run import stoppable
from rofs.store import default_cache_dir
from rofs.verify import booting
from rofs.verify.check import Check
from rofs.verify.checks import boot_checks
from rofs.verify.contract import Contract, load_contract
from rofs.verify.request import Request
from rofs.verify.scenario import Scenario, tracks
from rofs.verify.session import verify_image

ROOT = Path(__file__).resolve().parents[2]
ONE_BY_ONE, SIDE_BY_SIDE, VERIFICATION = "bare boots, one after another", "bare boots, side by side", "verification"


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of the clock, and of CPU time in all programs that were run."""

    wall_s: float
    cpu_s: float

    def over(self, other: Cost) -> Cost:
        return Cost(self.wall_s / other.wall_s, self.cpu_s / other.cpu_s)


def bare_checks(*about: Any) -> tuple[Check, ...]:
    """Wait until the system runs, and nothing but what makes the next boot another one."""
    waits, *others = boot_checks(*about)
    flag = [check for check in others if check.promise == "factory reset" and check.phase == "after"]
    return (replace(waits, ops=waits.ops[:1]), *flag)


def boot_bare(request: Request, progress: Progress) -> Callable[[], None]:
    """Everything made ready -> what boots it all."""
    ways = tracks(request.sequence)
    disks = {way: booting.make_disks(request, way[0]) for way in ways}

    def boot_all() -> None:
        with mock.patch.object(booting, "boot_checks", bare_checks):
            places = request.slots.line_up(*map(len, ways))
            found = stoppable(*(partial(walk, way, disks[way], place) for way, place in zip(ways, places, strict=True)))
        for each in found:
            if isinstance(each, BaseException):
                raise each

    def walk(way: Sequence[Scenario], disks: tuple[Disk, ...], place: Place) -> None:
        with place:
            for left, scenario in zip(range(len(way), 0, -1), way, strict=True):
                place.again(left)
                with progress.step(f"bare boot {scenario.number}") as step:
                    record = booting.boot_once(request, scenario, disks, step).record
                if record.result.status != "off" and not request.refuses(scenario):
                    raise AssertionError(f"boot {scenario.number}: {record.result.reason}")

    return boot_all


def verify(request: Request, progress: Progress) -> Callable[[], None]:
    """The whole of it; a rejected image is no measure."""

    def verify_all() -> None:
        found = verify_image(request, progress)
        wrong = [f"{o.boot} {o.promise}: {o.subject}: {o.verdict.seen}" for o in found.outcomes if not o.verdict.ok]
        assert not wrong, "\n".join(wrong)

    return verify_all


def measure(request: Request, name: str, progress: Progress) -> Cost:
    with tempfile.TemporaryDirectory(prefix="rofs-bench-") as directory:
        request = replace(request, work=Path(directory, "work"), logs=Path(directory, "logs"))
        request.work.mkdir()
        request.logs.mkdir()
        prepare = verify if name == VERIFICATION else boot_bare
        work = prepare(request, progress)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        work()
        wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def without_commands(contract: Contract) -> Contract:
    profile = contract.layout.profile
    profile = replace(profile, verify=replace(profile.verify, commands=()))
    return replace(contract, layout=replace(contract.layout, profile=profile))


def build_minimal(directory: Path) -> Path:
    """`profiles/minimal.yaml` for this host's architecture."""
    arch = host_arch() or "amd64"
    words = ["build", str(ROOT / "profiles/minimal.yaml"), "--arch", arch, "--output", str(directory), "--no-verify"]
    subprocess.run([sys.executable, "-m", "rofs", *words], check=True, cwd=ROOT)
    return directory / "minimal" / arch


def bench(image: Path, rounds: int, jobs: int) -> None:
    """Rounds of all three, then the table."""
    contract = without_commands(load_contract(image))
    accel = find_accel(ARCHES[contract.architecture], default_cache_dir())
    request = Request(image=image, contract=contract, accel=accel, work=image, logs=image)
    costs: dict[str, list[Cost]] = {ONE_BY_ONE: [], SIDE_BY_SIDE: [], VERIFICATION: []}
    progress = Lines(sys.stderr)
    for number in range(1, rounds + 1):
        for name, seen in costs.items():
            seen.append(measure(replace(request, slots=Slots(1 if name == ONE_BY_ONE else jobs)), name, progress))
            progress.note(f"round {number}, {name}: {seen[-1].wall_s:.1f} s, {seen[-1].cpu_s:.1f} s of CPU time")
    print(f"{image}: {len(request.sequence)} boots ({accel.name}), {jobs} at once, medians of {rounds}")
    print(f"{'':42} {'wall s':>8} {'CPU s':>8}")
    medians = {name: median(seen) for name, seen in costs.items()}
    for name, cost in medians.items():
        print(f"{name:42} {cost.wall_s:8.1f} {cost.cpu_s:8.1f}")
    for name in (ONE_BY_ONE, SIDE_BY_SIDE):
        ratio = medians[VERIFICATION].over(medians[name])
        print(f"{f'ratio to {name}':42} {ratio.wall_s:8.2f} {ratio.cpu_s:8.2f}")


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(c.wall_s for c in costs), statistics.median(c.cpu_s for c in costs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, nargs="?", help="a published image (default: build profiles/minimal.yaml)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=guests_at_once(), help="boots at once (default: as verify does)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rofs-bench-") as directory:
        image = options.image or build_minimal(Path(directory))
        bench(image.absolute(), options.rounds, options.jobs)


if __name__ == "__main__":
    main()
