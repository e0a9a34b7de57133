# SPDX-License-Identifier: MIT
"""All tables of what builds cost, and a document of them.

`python tests/bench/bench_builds.py [--rounds N] [--write FILE]`: those of bench_cold.py and bench_again.py. For an hour
nothing else should run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench_again import COMPRESSORS, bench_change, bench_nothing
from bench_cold import CASES, bench_cold
from rounds import describe_machine

HEAD = """\
# What builds cost

Written by `make bench-builds`: medians of {rounds} rounds, in which the commands of a table follow each other. The
first row of each table is the floor, the same by hand; ratios are to it, of wall time and of CPU, "at most" is of wall
time. MB is the anonymous memory of rofs itself at its height. Nothing is booted, and no mirror is asked. What each row
does stands in `tests/bench/bench_cold.py` and `tests/bench/bench_again.py`.

{machine}.
"""


def tables(rounds: int) -> Iterator[str]:
    """Each as it is there."""
    yield bench_nothing("amd64", rounds)
    for arch in ("amd64", "arm64"):
        for compression in COMPRESSORS:
            yield bench_change(arch, compression, rounds)
    for name in CASES:
        yield bench_cold(name, rounds)


def main(argv: Sequence[str]) -> None:
    """The tables on stdout, and in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="the document to write")
    asked = parser.parse_args(argv)
    found = []
    for table in tables(asked.rounds):
        print(f"\n{table}", flush=True)
        found.append(table)
    if asked.write:
        machine = describe_machine(["mmdebstrap", "--version"], ["tar2sqfs", "--version"])
        text = "\n".join([HEAD.format(rounds=asked.rounds, machine=machine), "\n\n".join(found)])
        asked.write.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
