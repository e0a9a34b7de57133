# SPDX-License-Identifier: MIT
"""What builds with nothing cached cost, beside the same by hand: medians of interleaved rounds.

`python tests/bench/bench_cold.py [--rounds N] [--only CASE]`. Packages are fetched once before, into rofs's store and
into a directory that apt reads, so that no mirror is measured. No image is booted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bigtree import FILES, write_tar
from rounds import Cost, render_table, run_once, run_rounds

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


Cases = Mapping[str, Callable[[int], Cost]]
"""Of one table: the floor first."""


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
        env = {"ROFS_CACHE_DIR": str(self.cache)}
        return run_once([*argv, "--output", self.work / "images", profile], env=env, memory=True)

    def forget(self, *kinds: str) -> None:
        """Of what was built before; `debs`, the downloads, stay."""
        for kind in kinds or ("tree", "kernel", "blocks"):
            shutil.rmtree(self.cache / kind, ignore_errors=True)
        shutil.rmtree(self.work / "images", ignore_errors=True)

    def prepare(self, profile: Path) -> dict[str, ArchLock]:
        """Lock a profile and fetch its packages."""
        env = {"ROFS_CACHE_DIR": str(self.cache)}
        run_once([sys.executable, "-m", "rofs", "lock", profile], env=env)
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
        cost = run_once(["unshare", "--uts", *argv], env=env)
        return cost + self.image(here / "tree.tar", "--no-xattr") if squashfs else cost  # systemd's has an ACL

    def image(self, tar: Path, *options: str) -> Cost:
        """tar2sqfs alone."""
        program, *argv = tar2sqfs_argv(self.work / "floor", OPTIONS, DEFAULT_EPOCH, os.cpu_count() or 1)
        return run_once([program, *options, *argv], stdin=tar)


def bench_many(bench: Bench) -> Cases:
    """The kernel is there already: it is no part of the tree."""
    write_tar(bench.work / "tree.tar", FILES)
    profile = bench.profile("many", "init: other\nsource: {tar: {path: tree.tar}}")
    bench.build(profile)

    def build(_: int) -> Cost:
        bench.forget("tree", "blocks")
        return bench.build(profile)

    return {"tar2sqfs": lambda _: bench.image(bench.work / "tree.tar"), "rofs": build}


def bench_first(bench: Bench) -> Cases:
    profile = bench.profile("first", PACKAGES.format(NAMED))
    lock = bench.prepare(profile)["amd64"]

    def build(_: int) -> Cost:
        bench.forget()
        return bench.build(profile)

    return {"mmdebstrap, then tar2sqfs": lambda _: bench.by_hand(lock, "amd64", squashfs=True), "rofs": build}


def bench_added(bench: Bench) -> Cases:
    """Kernel and blocks of the set before are there, and the new package too."""
    before = bench.profile("before", PACKAGES.format(NAMED))
    bench.prepare(before)
    after = bench.profile("after", PACKAGES.format(f"{NAMED}, nano"))
    lock = bench.prepare(after)["amd64"]

    def build(_: int) -> Cost:
        bench.forget()
        bench.build(before)
        return bench.build(after)

    return {"mmdebstrap": lambda _: bench.by_hand(lock, "amd64", squashfs=False), "rofs": build}


def bench_both(bench: Bench) -> Cases:
    profile = bench.profile("both", PACKAGES.format(NAMED), "arm64, amd64")
    bench.prepare(profile)

    def build(*architectures: str) -> Cost:
        bench.forget()
        return bench.build(profile, *architectures)

    return {
        "arm64, the slower one, alone": lambda _: build("arm64"),
        "amd64 alone": lambda _: build("amd64"),
        "rofs": lambda _: build(),
    }


CASES: Mapping[str, tuple[str, Callable[[Bench], Cases], float]] = {
    "first": ("first build, amd64", bench_first, 1.10),
    "added": ("one package added, amd64", bench_added, 1.10),
    "both": ("first build, both architectures", bench_both, 1.25),
    "many": (f"a tar of {FILES} files", bench_many, 1.15),
}


def bench_cold(name: str, rounds: int) -> str:
    """The table of one case."""
    title, make, limit = CASES[name]
    with tempfile.TemporaryDirectory(prefix="rofs-bench-", dir="/var/tmp") as directory:
        print(title, file=sys.stderr, flush=True)
        costs = run_rounds(make(Bench(Path(directory))), rounds)
    return render_table(title, costs, {"rofs": limit})


def main(argv: Sequence[str]) -> None:
    """The tables asked for, on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=list(CASES))
    asked = parser.parse_args(argv)
    for name in CASES:
        if asked.only in (None, name):
            print(bench_cold(name, asked.rounds), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
