# SPDX-License-Identifier: MIT
"""What a build costs in which one thing changed since the last, or nothing: medians of interleaved rounds.

`python tests/bench/bench_again.py [--arch ARCH] [--only zstd|xz|no-op] [--rounds N]`. The floor of a change is tar2sqfs
as `rofs/image/squashfs.py` runs it, on the merged tar of the same image; that of nothing is a Python that imports what
reads a profile. The profile is profiles/minimal.yaml with one small file more. Each build is a whole `rofs build
--no-verify` in a process of its own, and must give another image than the one before. The packages come from the
cache, where a first build puts them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rounds import Cost, render_table, run_once, run_rounds

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
COMPRESSORS = {"zstd": "{compression: zstd, level: 15}", "xz": "{compression: xz}"}
LIMITS = {"zstd": 0.15, "xz": 0.10}
NOTHING = 2.0
FLOOR, MOUNT, FILE = "tar2sqfs alone", "one mount changed", "one small file changed"


class Bench:
    """A profile of one architecture and compressor, in a directory of its own."""

    def __init__(self, directory: Path, arch: str, compression: str) -> None:
        self.directory, self.arch, self.compression, self.size, self.word = directory, arch, compression, 32, "word"
        self.profile, self.output = directory / "minimal.yaml", directory / "images"
        self.image = self.output / "minimal" / arch
        self._count = 0

    def write(self) -> None:
        text = (PROFILES / "minimal.yaml").read_text("utf-8").replace("size: 32M", f"size: {self.size}M")
        files = f"files: [{{path: /etc/bench.conf, content: {self.word}}}]\n"
        self.profile.write_text(f"{text}\n{files}image: {COMPRESSORS[self.compression]}\n", encoding="utf-8")

    def build(self) -> Cost:
        argv: list[str | Path] = ["build", self.profile, "--arch", self.arch, "--no-verify", "--output", self.output]
        return run_once([sys.executable, "-m", "rofs", *argv, "--progress", "quiet"])

    def digest(self) -> str:
        with (self.image / "rootfs.squashfs").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def change(self, what: str) -> Cost:
        """Build after one change that was never there before."""
        self._count += 1
        if what == MOUNT:
            self.size += 1
        else:
            self.word = f"word{self._count}"
        self.write()
        before = self.digest()
        cost = self.build()
        assert self.digest() != before, what
        return cost

    def tar2sqfs(self, tar: Path) -> Cost:
        from rofs.build import DEFAULT_EPOCH
        from rofs.image.squashfs import tar2sqfs_argv
        from rofs.profile import load_profile

        argv = tar2sqfs_argv(
            self.directory / "alone", load_profile(self.profile).image, DEFAULT_EPOCH, os.cpu_count() or 1
        )
        return run_once(argv, stdin=tar, env={"SOURCE_DATE_EPOCH": str(DEFAULT_EPOCH)})

    def nothing(self) -> Cost:
        return self.build()


def merged(image: Path, out: Path) -> Path:
    """The tar of a published image."""
    from rofs.run import run

    run(["sqfs2tar", image / "rootfs.squashfs"], stdout=out)
    return out


@contextlib.contextmanager
def place(arch: str, compression: str) -> Iterator[Bench]:
    """A first build, which fills the cache; its blocks, too."""
    with tempfile.TemporaryDirectory(prefix="rofs-bench-", dir="/var/tmp") as name:
        bench = Bench(Path(name), arch, compression)
        bench.write()
        print(f"{arch}, {compression}: the first build", file=sys.stderr, flush=True)
        bench.build()
        yield bench


def bench_change(arch: str, compression: str, rounds: int) -> str:
    with place(arch, compression) as bench:
        tar = merged(bench.image, bench.directory / "tree.tar")
        costs = run_rounds(
            {
                FLOOR: lambda _: bench.tar2sqfs(tar),
                MOUNT: lambda _: bench.change(MOUNT),
                FILE: lambda _: bench.change(FILE),
            },
            rounds,
        )
        return render_table(f"{arch}, {compression}", costs, {MOUNT: LIMITS[compression], FILE: LIMITS[compression]})


def bench_nothing(arch: str, rounds: int) -> str:
    floor = [sys.executable, "-c", "import yaml, jsonschema"]
    with place(arch, "zstd") as bench:
        bench.build()  # a file of the host that changed just before the first one would not be believed
        cases = {"import yaml, jsonschema": lambda _: run_once(floor), "nothing changed": lambda _: bench.nothing()}
        return render_table("no-op", run_rounds(cases, rounds), {"nothing changed": NOTHING})


def main(argv: Sequence[str]) -> None:
    """The tables asked for, on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", choices=("amd64", "arm64"))
    parser.add_argument("--only", choices=(*COMPRESSORS, "no-op"))
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(argv)
    if shutil.which("tar2sqfs") is None:
        sys.exit("tar2sqfs is not here (apt-get install squashfs-tools-ng)")
    for arch in asked.arch or ("amd64", "arm64"):
        for compression in COMPRESSORS:
            if asked.only in (None, compression):
                print(bench_change(arch, compression, asked.rounds), flush=True)
    if asked.only in (None, "no-op"):
        print(bench_nothing((asked.arch or ["amd64"])[0], asked.rounds), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
