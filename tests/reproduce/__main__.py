# SPDX-License-Identifier: MIT
"""`python -m tests.reproduce`: build profiles again and again in random circumstances, and compare every byte.

Each build starts from nothing but the packages, as those of `rofs build --check-reproducible` do; the first is as this
process is, every other one is drawn by lot from `--seed`.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rofs.build import DEFAULT_EPOCH, load
from rofs.fetch import Fetcher
from rofs.image.compare import compare_images
from rofs.image.manifest import hash_file
from rofs.machine.arch import ARCHES
from rofs.progress import Quiet
from rofs.reproduce import ZONES, Circumstances, Given, build_in, other_circumstances
from rofs.run import find_program, run
from rofs.sources.debian import scratch
from rofs.store import Cache, default_cache_dir, remove_tree

UMASKS = (0o000, 0o002, 0o022, 0o027, 0o077)
HEAD = """\
# Built again, the same bytes

Written by `make reproduce`. Each row is a build from nothing but the packages, in circumstances drawn by lot
({seed}); it is compared with the first of its image, every published file byte by byte. What is varied, how, and
what is not: [reproducibility.md](reproducibility.md).
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A build: of what, how, the squashfs it gave, and in what it differs from the first."""

    image: str
    circumstances: str
    sha256: str
    differences: tuple[str, ...]


def draw(lot: random.Random, most: Circumstances) -> Circumstances:
    """Some of what can be changed here, each to a value of its own."""
    cpus = sorted(os.sched_getaffinity(0))
    isolated = bool(most.hostname)
    zones = [zone for zone in ("Asia/Kathmandu", "America/St_Johns", "Pacific/Apia", "UTC") if (ZONES / zone).exists()]
    locales = run(["locale", "-a"]).stdout.split() if find_program("locale") else ["C"]
    return replace(
        most,
        user=most.user and lot.random() < 0.5,
        umask=lot.choice(UMASKS),
        cpus=tuple(lot.sample(cpus, lot.randint(1, len(cpus)))),
        hostname=f"host-{lot.randrange(1 << 20):x}" if isolated else "",
        time_zone=lot.choice(zones) if zones else "",
        locale=lot.choice(locales),
        days=lot.randint(-300, 3000) if most.days else 0,
    )


def build_all(profile_path: Path, arch_name: str, builds: int, lot: random.Random) -> Iterator[Row]:
    """The rows of one image, each as it ends."""
    profile, inputs, _ = load(profile_path)
    fetcher = Fetcher(
        profile, inputs, ARCHES[arch_name], Cache(default_cache_dir()), Quiet(), epoch=DEFAULT_EPOCH, refresh=False
    )
    most = other_circumstances()
    with TemporaryDirectory() as name, scratch(root=os.geteuid() == 0) as work:
        given = Given(profile_path, tuple(fetcher.debs(Path(name), Path(name))), tuple(fetcher.answers))
        first: Path | None = None
        for number in range(builds):
            circumstances = draw(lot, most) if first else Circumstances()
            home = work / f"{number}-{'x' * lot.randint(1, 40)}"
            log = Path(name, f"{number}.log")
            images = build_in(home, given, ["--arch", arch_name], circumstances, epoch=DEFAULT_EPOCH, log=log)
            image = images / profile.name / arch_name
            said = tuple(str(each) for each in compare_images(first, image)) if first else ()
            sha256 = hash_file(image / "rootfs.squashfs")
            yield Row(f"{profile.name} {arch_name}", str(circumstances) or "as it is here", sha256, said)
            if first is None:
                first = image
            else:
                remove_tree(home)


def render_row(row: Row) -> str:
    verdict = "the same" if not row.differences else "; ".join(line.replace("\n", " ") for line in row.differences)
    return f"| {row.image} | {row.circumstances} | `{row.sha256[:16]}` | {verdict} |"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reproduce", description=__doc__)
    parser.add_argument("profiles", type=Path, nargs="*", default=[Path("profiles/minimal.yaml")])
    parser.add_argument("--builds", type=int, default=20, help="of each image (default: 20)")
    parser.add_argument("--arch", action="append", choices=tuple(ARCHES), help="only this one (default: the profile's)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--write", type=Path, help="write the table there too")
    args = parser.parse_args(argv)
    lot, rows = random.Random(args.seed), list[Row]()
    for profile in args.profiles:
        for arch in args.arch or load(profile)[0].architectures:
            for row in build_all(profile, arch, args.builds, lot):
                rows.append(row)
                sys.stdout.write(render_row(row) + "\n")
                sys.stdout.flush()
    same = sum(not row.differences for row in rows)
    missing = ", ".join(other_circumstances().missing) or "nothing"
    summary = f"{same} of {len(rows)} builds gave the bytes of the first. Not varied on that host: {missing}."
    sys.stdout.write(summary + "\n")
    if args.write:
        table = ["| image | circumstances | sha256 of the squashfs | against the first |", "|---|---|---|---|"]
        text = "\n".join([HEAD.format(seed=f"--seed {args.seed}"), summary, "", *table, *map(render_row, rows)])
        args.write.write_text(text + "\n", "utf-8")
    return 0 if same == len(rows) else 4


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
