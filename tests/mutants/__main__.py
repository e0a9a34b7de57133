# SPDX-License-Identifier: MIT
"""`python -m tests.mutants`: break good images and count what is caught; `--variations`: see that nothing else is."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.mutants.bases import build_missing
from tests.mutants.catalogue import MUTANTS, SAMPLE, THIRD
from tests.mutants.harness import Result, run_mutant
from tests.mutants.table import render_document, render_tables
from tests.mutants.variations import VARIATIONS, run_variation

JOBS = max(1, (os.cpu_count() or 1) // 2)
"""At once: a guest has two processors."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="published images; what is missing is built there")
    parser.add_argument("--work", type=Path, default=Path("build/mutants"), help="for copies, reports and results")
    parser.add_argument("--arch", choices=["amd64", "arm64"], default="amd64")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="those whose name or profile holds one of these")
    parser.add_argument("--sample", action="store_true", help="those that the tests run")
    parser.add_argument("--third", action="store_true", help="every third")
    parser.add_argument("--variations", action="store_true", help="the good ones, of which none may be rejected")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--write", type=Path, help="make the document of all results that are in --work")
    parser.add_argument("--list", action="store_true", help="say which, and run none")
    return parser.parse_args(argv)


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """Name -> mutant or variation, as the options ask for."""
    everything: Mapping[str, Any] = VARIATIONS if args.variations else MUTANTS
    names = list(everything)
    if args.sample:
        names = list(SAMPLE)
    elif args.third:
        names = list(THIRD)
    if args.variations:
        names = [name for name in names if args.arch in everything[name].arches]
    if args.only:
        names = [n for n in names if any(word in n or word == everything[n].profile for word in args.only)]
    return {name: everything[name] for name in names}


def run_all(args: argparse.Namespace, what: Mapping[str, Any], run: Callable[..., Result]) -> list[Result]:
    """All of them, some at once, a line for each as it ends."""
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {
            pool.submit(run, name, each, args.images.absolute() / each.profile / args.arch, work / f"{args.arch}-{n}"):
            name for n, (name, each) in enumerate(what.items())
        }  # fmt: skip
        for future in as_completed(futures):
            try:
                result = future.result()
            except Exception as error:  # noqa: BLE001 -- the others go on
                name = futures[future]
                result = Result(name=name, arch=args.arch, profile=what[name].profile, status=-1, seconds=0,
                                missed=("everything: no mutant could be made",), said=repr(error))  # fmt: skip
            results.append(result)
            save(work, [result], variations=args.variations)
            say(f"{len(results):3} of {len(what)}  {line(result, variations=args.variations)}")
    return results


def line(result: Result, *, variations: bool) -> str:
    good = result.status == 0 if variations else result.killed
    word = ("accepted" if good else "REJECTED") if variations else ("killed" if good else "SURVIVED")
    why = ", ".join(f"{name} (boot {boot})" for name, boot in result.by)
    if not good:
        why = f"status {result.status}; not named: {', '.join(result.missed) or '-'}"
        why += f"; broken: {', '.join(result.broken) or 'nothing'} {result.said[-600:]}"
    return f"{word:8} {result.arch} {result.profile:14} {result.seconds:6.1f} s  {result.name}: {why}"


def save(work: Path, results: Sequence[Result], *, variations: bool) -> None:
    """Into the results of this and earlier runs, by architecture and name."""
    path = work / ("variations.json" if variations else "mutants.json")
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for result in results:
        known[f"{result.arch} {result.name}"] = result.as_data()
    path.write_text(json.dumps(known, indent=1) + "\n")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    what = chosen(args)
    if args.list:
        for name, each in what.items():
            say(f"{each.profile:16} {name}")
        return 0
    needed = {each.profile for each in what.values()} | {"appliance", "minimal"} if what else set()
    build_missing(needed, args.arch, args.images.absolute())
    results = run_all(args, what, run_variation if args.variations else run_mutant)
    if results and not args.variations:
        say(render_tables([result.as_data() for result in results]))
    if args.write:
        args.write.write_text(render_document(args.work))
    bad = [r for r in results if (r.status != 0 if args.variations else not r.killed)]
    say(f"{len(results) - len(bad)} of {len(results)} as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
