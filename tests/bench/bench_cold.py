# SPDX-License-Identifier: MIT
"""What builds with nothing cached cost, as ratios to the same by hand.

`python tests/bench/bench_cold.py [--rounds N] [--only CASE]`. Medians over interleaved rounds, of wall time
and of CPU (of a process and its children). Packages of the first build are fetched once before, into rofs's store and
into a directory that apt reads, so that no mirror is measured. Memory is the most anonymous memory of rofs itself that
a look every few milliseconds saw.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigtree import FILES, write_tar

from rofs.build import DEFAULT_EPOCH
from rofs.image.squashfs import tar2sqfs_argv
from rofs.lock import ArchLock, load_lock, lock_path
from rofs.machine.arch import ARCHES
from rofs.packages import Deb
from rofs.profile import DebianSource, ImageOptions
from rofs.sources.debian import SYSTEM_PATH, mmdebstrap_argv
from rofs.sources.repository import write_repository

OPTIONS = ImageOptions(format="squashfs", compression="zstd", level=15, block_size=131072, acl="error")
TEXT = """\
schema: rofs/v1
name: {name}
description: of a bench
architectures: [{architectures}]
hostname: bench
{rest}
kernel: {{suite: bookworm, package: linux-image-cloud, cmdline: "panic=10", install_modules: false}}
immutable: [/usr]
mounts:
  - {{path: /tmp, type: tmpfs, size: 32M}}
"""
"""Without the kernel's modules in the image, which the floors have not."""
PACKAGES = "source: {{debian: {{suite: bookworm, packages: [{}]}}}}"
NAMED = "systemd-sysv, udev, dbus"


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: seconds, and of the process itself bytes."""

    wall_s: float
    cpu_s: float
    anon_bytes: int = 0


Case = Callable[[], Cost]


def timed(argv: Sequence[str | Path], env: Mapping[str, str] | None = None, stdin: Path | None = None) -> Cost:
    """Run it to its end; an error ends the bench."""
    before, began, peak = cpu_s(), time.monotonic(), 0
    with (stdin or Path(os.devnull)).open("rb") as file, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            argv, stdin=file, stdout=subprocess.DEVNULL, stderr=said, env={**os.environ, **(env or {})}
        )
        while process.poll() is None:
            peak = max(peak, anon_bytes(process.pid))
            time.sleep(0.005)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{argv}: {process.returncode}\n{said.read().decode(errors='replace')}")
    return Cost(time.monotonic() - began, cpu_s() - before, peak)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def anon_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")), 0)


class Bench:
    """Everything below one directory, with a cache of its own."""

    def __init__(self, work: Path) -> None:
        self.work, self.cache = work, work / "cache"

    def profile(self, name: str, rest: str, architectures: str = "amd64") -> Path:
        path = self.work / f"{name}.yaml"
        path.write_text(TEXT.format(name=name, rest=rest, architectures=architectures), encoding="utf-8")
        return path

    def build(self, profile: Path, *architectures: str) -> Cost:
        """`rofs build --no-verify`; a lock beside the profile keeps apt's answers out of it."""
        chosen = [word for name in architectures for word in ("--arch", name)]
        argv = [sys.executable, "-m", "rofs", "build", "--no-verify", "--progress", "quiet", *chosen]
        return timed([*argv, "--output", self.work / "images", profile], {"ROFS_CACHE_DIR": str(self.cache)})

    def forget(self, *kinds: str) -> None:
        """Of what was built before; `debs`, the downloads, stay."""
        for kind in kinds or ("tree", "kernel", "blocks"):
            shutil.rmtree(self.cache / kind, ignore_errors=True)
        shutil.rmtree(self.work / "images", ignore_errors=True)

    def prepare(self, profile: Path) -> dict[str, ArchLock]:
        """Lock a profile and fetch its packages."""
        env = {"ROFS_CACHE_DIR": str(self.cache)}
        timed([sys.executable, "-m", "rofs", "lock", profile], env)
        self.build(profile)
        return dict(load_lock(lock_path(profile)).architectures)

    def by_hand(self, lock: ArchLock, arch: str, *, squashfs: bool) -> Cost:
        """mmdebstrap of the same packages, from a directory, and of its tar a squashfs."""
        here = self.work / f"hand-{arch}"
        shutil.rmtree(here, ignore_errors=True)
        repository = here / "repository"
        repository.mkdir(parents=True)
        debs: list[Deb] = [(p, self.cache / "debs" / f"{p.sha256}.deb") for p in lock.packages]
        write_repository(repository, debs, "bookworm")
        source = DebianSource(suite="bookworm", packages=(), variant="minbase", docs=False, locales=(), sources=None)
        names = [package.name for package, _ in debs]
        argv = mmdebstrap_argv(
            source, ARCHES[arch], names, repository=repository, out=here / "tree.tar", root=os.geteuid() == 0
        )
        env = {"SOURCE_DATE_EPOCH": str(DEFAULT_EPOCH), "PATH": SYSTEM_PATH}
        cost = timed(["unshare", "--uts", *argv], env)
        return sum_of(cost, self.image(here / "tree.tar", "--no-xattr")) if squashfs else cost  # systemd's has an ACL

    def image(self, tar: Path, *options: str) -> Cost:
        """tar2sqfs alone."""
        program, *argv = tar2sqfs_argv(self.work / "floor", OPTIONS, DEFAULT_EPOCH, os.cpu_count() or 1)
        return timed([program, *options, *argv], stdin=tar)


def sum_of(*costs: Cost) -> Cost:
    return Cost(sum(c.wall_s for c in costs), sum(c.cpu_s for c in costs), max(c.anon_bytes for c in costs))


def bench_many(bench: Bench, files: int) -> tuple[str, Case, Case]:
    """The kernel is there already: it is no part of the tree."""
    write_tar(bench.work / "tree.tar", files)
    profile = bench.profile("many", "init: other\nsource: {tar: {path: tree.tar}}")
    bench.build(profile)

    def build() -> Cost:
        bench.forget("tree", "blocks")
        return bench.build(profile)

    return "tar2sqfs", lambda: bench.image(bench.work / "tree.tar"), build


def bench_first(bench: Bench) -> tuple[str, Case, Case]:
    profile = bench.profile("first", PACKAGES.format(NAMED))
    lock = bench.prepare(profile)["amd64"]

    def build() -> Cost:
        bench.forget()
        return bench.build(profile)

    return "mmdebstrap, tar2sqfs", lambda: bench.by_hand(lock, "amd64", squashfs=True), build


def bench_added(bench: Bench) -> tuple[str, Case, Case]:
    """Kernel and blocks of the set before are there, and the new package too."""
    before = bench.profile("before", PACKAGES.format(NAMED))
    bench.prepare(before)
    after = bench.profile("after", PACKAGES.format(f"{NAMED}, nano"))
    lock = bench.prepare(after)["amd64"]

    def build() -> Cost:
        bench.forget()
        bench.build(before)
        return bench.build(after)

    return "mmdebstrap", lambda: bench.by_hand(lock, "amd64", squashfs=False), build


def bench_both(bench: Bench) -> tuple[str, Case, Case]:
    profile = bench.profile("both", PACKAGES.format(NAMED), "arm64, amd64")
    bench.prepare(profile)

    def build(*architectures: str) -> Cost:
        bench.forget()
        return bench.build(profile, *architectures)

    return "the slower one alone", lambda: max(build("arm64"), build("amd64"), key=lambda c: c.wall_s), build


CASES: Mapping[str, tuple[Callable[[Bench], tuple[str, Case, Case]], float]] = {
    "many": (lambda bench: bench_many(bench, FILES), 1.15),
    "first": (bench_first, 1.10),
    "added": (bench_added, 1.10),
    "both": (bench_both, 1.25),
}


def measure(name: str, rounds: int) -> None:
    """Print a line for the floor and one for rofs."""
    make, limit = CASES[name]
    with tempfile.TemporaryDirectory(prefix="rofs-bench-") as directory:
        bench = Bench(Path(directory))
        called, floor, build = make(bench)
        pairs = [(floor(), build()) for _ in range(rounds)]
    ratios = [statistics.median(getattr(b, of) / getattr(f, of) for f, b in pairs) for of in ("wall_s", "cpu_s")]
    for what, costs in ((called, [f for f, _ in pairs]), ("rofs", [b for _, b in pairs])):
        wall, cpu = (statistics.median(getattr(c, of) for c in costs) for of in ("wall_s", "cpu_s"))
        tail = "" if what == called else f" {ratios[0]:7.3f} {ratios[1]:7.3f} {limit:8.2f}"
        tail += "" if what == called else f" {max(c.anon_bytes for c in costs) / 1e6:8.1f}"
        print(f"{name:6} {what:22} {wall:8.2f} {cpu:8.2f}{tail}", flush=True)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=list(CASES))
    asked = parser.parse_args(argv)
    print(f"{'case':6} {'what':22} {'wall s':>8} {'CPU s':>8} {'wall':>7} {'CPU':>7} {'at most':>8} {'anon MB':>8}")
    for name in CASES:
        if asked.only in (None, name):
            measure(name, asked.rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
