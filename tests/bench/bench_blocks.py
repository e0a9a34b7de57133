# SPDX-License-Identifier: MIT
"""What a squashfs costs with the cache of compressed blocks, as ratios to tar2sqfs on the same tar.

`python tests/bench/bench_blocks.py TREE.tar [--rounds N] [--jobs N]`. Medians over interleaved rounds; each run is
a process of its own that measures itself from the first line of `write_squashfs` to its last. "one file changed" is
a small file in the middle of the tar, with other bytes each round. CPU is of the process and its children; memory is
the most anonymous memory that a look every few milliseconds saw, of the process alone. The bytes of each image are
compared with tar2sqfs's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EPOCH = 2_000_000_000
COMPRESSORS = (("zstd", 15), ("xz", None))
CASES = ("tar2sqfs", "tar2sqfs through rofs", "cold", "nothing changed", "one file changed")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: seconds, and of the process itself bytes."""

    wall_s: float
    cpu_s: float
    anon_bytes: int


def measure(work: Path, tar: Path, blocks: str, compression: str, level: int | None, jobs: int) -> None:
    """Be the process of one run: write an image, print what it cost."""
    from rofs.image.squashfs import write_squashfs
    from rofs.profile import ImageOptions

    options = ImageOptions(format="squashfs", compression=compression, level=level, block_size=131072, acl="drop")  # type: ignore[arg-type]
    peak, done = [0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, done))
    watcher.start()
    began, cpu = time.monotonic(), cpu_s()
    notes: list[str] = []
    write_squashfs(
        work / "image", [tar], [], options=options, epoch=EPOCH, resolve=lambda path: path, jobs=jobs,
        blocks=Path(blocks) if blocks else None, note=notes.append,
    )  # fmt: skip
    wall, cpu = time.monotonic() - began, cpu_s() - cpu
    done.set()
    watcher.join()
    if blocks and any("not reused" in text or "not kept" in text for text in notes):
        sys.exit("\n".join(notes))
    print(json.dumps([wall, cpu, peak[0]]))


def cpu_s() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)


def watch(peak: list[int], done: threading.Event) -> None:
    """Resident pages less shared ones are the anonymous ones."""
    while True:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text("ascii").split())
        peak[0] = max(peak[0], (resident - shared) * os.sysconf("SC_PAGESIZE"))
        if done.wait(0.005):
            return


def through_rofs(work: Path, tar: Path, blocks: Path | None, options: tuple[str, int | None], jobs: int) -> Cost:
    words = [*map(str, (work, tar, blocks or "", options[0], options[1] or 0, jobs))]
    said = subprocess.run([sys.executable, __file__, "--run", *words], check=True, capture_output=True, text=True)
    return Cost(*json.loads(said.stdout))


def tool(work: Path, tar: Path, options: tuple[str, int | None], jobs: int) -> Cost:
    """tar2sqfs alone, as `write_squashfs` asks for it, from the tar itself."""
    from rofs.image.squashfs import tar2sqfs_argv
    from rofs.profile import ImageOptions

    asked = ImageOptions(format="squashfs", compression=options[0], level=options[1], block_size=131072, acl="drop")  # type: ignore[arg-type]
    began, cpu = time.monotonic(), cpu_s()
    with tar.open("rb") as file:
        argv = tar2sqfs_argv(work / "alone", asked, EPOCH, jobs)
        subprocess.run(argv, check=True, stdin=file, stderr=subprocess.DEVNULL)
    return Cost(time.monotonic() - began, cpu_s() - cpu, 0)


def take(tar: Path, copy: Path) -> Path:
    """A copy without what tar2sqfs refuses."""
    from rofs.image.merge import merge

    with copy.open("wb") as out:
        merge([tar], [], [], out.fileno(), epoch=EPOCH, acl="drop", resolve=lambda path: path)
    return copy


def change(tar: Path, number: int) -> None:
    """Write other bytes into a small file in the middle, in place."""
    with tarfile.open(tar, "r:") as archive:
        infos = archive.getmembers()
    small = next(info for info in infos[len(infos) // 2 :] if info.isreg() and 200 < info.size < 5000)
    with tar.open("r+b") as file:
        file.seek(small.offset_data)
        file.write(f"{number:08}".encode())


def digest(image: Path) -> str:
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bench(work: Path, tar: Path, options: tuple[str, int | None], rounds: int, jobs: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {case: [] for case in CASES}
    for number in range(rounds):
        blocks = work / "blocks"
        shutil.rmtree(blocks, ignore_errors=True)
        costs["tar2sqfs"].append(tool(work, tar, options, jobs))
        costs["tar2sqfs through rofs"].append(through_rofs(work, tar, None, options, jobs))
        right = digest(work / "image")
        for case in ("cold", "nothing changed"):
            costs[case].append(through_rofs(work, tar, blocks, options, jobs))
            assert digest(work / "image") == right, case
        change(tar, number)
        costs["one file changed"].append(through_rofs(work, tar, blocks, options, jobs))
        seen = digest(work / "image")
        assert seen != right
        if number == rounds - 1:
            through_rofs(work, tar, None, options, jobs)
            assert digest(work / "image") == seen
    return costs


def table(name: str, costs: dict[str, list[Cost]]) -> None:
    floor = costs["tar2sqfs"]
    print(f"\n{name:24} {'wall s':>8} {'ratio':>7} {'CPU s':>8} {'ratio':>7} {'anon MB':>8}")
    for case, found in costs.items():
        wall, cpu = (statistics.median(getattr(c, part) for c in found) for part in ("wall_s", "cpu_s"))
        ratios = [
            statistics.median(getattr(c, part) / getattr(f, part) for c, f in zip(found, floor, strict=True))
            for part in ("wall_s", "cpu_s")
        ]
        anon = max(c.anon_bytes for c in found) / 1e6
        print(f"{case:24} {wall:8.2f} {ratios[0]:7.3f} {cpu:8.2f} {ratios[1]:7.3f} {anon:8.1f}")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tar", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=[name for name, _ in COMPRESSORS])
    asked = parser.parse_args(argv)
    for options in COMPRESSORS:
        if asked.only in (None, options[0]):
            with tempfile.TemporaryDirectory() as name:
                tar = take(asked.tar, Path(name) / "tree.tar")
                costs = bench(Path(name), tar, options, asked.rounds, asked.jobs)
                table(f"{options[0]}-{options[1] or 'default'}", costs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        work, tar, blocks, compression, level, jobs = sys.argv[2:]
        measure(Path(work), Path(tar), blocks, compression, int(level) or None, int(jobs))
    else:
        main(sys.argv[1:])
