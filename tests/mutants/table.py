# SPDX-License-Identifier: MIT
"""Results -> the tables that are printed, and docs/mutants.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rofs
from tests.mutants.catalogue import MUTANTS, SUBJECTS

Data = Mapping[str, Any]
HEAD = """\
# What verification catches

Made by `make mutants` and `make variations` ([tests/mutants](../tests/mutants/README.md)); do not edit.

Each mutant is a good, published image that was broken in one way. It is **killed** when `rofs verify --no-manifest`
ends with exit status 4 and the report names the very promises that were broken. That the tree differs from the manifest
(`image tree: as built`) is seen of every mutant of the squashfs, and counts only where nothing else is to be seen.
"""


def is_killed(result: Data) -> bool:
    return bool(result["status"] == 4 and not result["missed"])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines) + "\n"


def by_promise(results: Sequence[Data]) -> str:
    """How many mutants of each promise were killed, and how many not."""
    count: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for result in results:
        for promise in dict.fromkeys(name.partition(":")[0] for name in MUTANTS[result["name"]].names):
            count[promise][not is_killed(result)] += 1
    rows: list[list[Any]] = [[promise, *numbers] for promise, numbers in sorted(count.items())]
    killed = sum(map(is_killed, results))
    return table(["promise", "killed", "survived"], [*rows, ["**mutants**", killed, len(results) - killed]])


def by_mutant(results: Sequence[Data]) -> str:
    """What each was killed by, and in which boot; boot 0 is the image itself."""
    rows = []
    for result in results:
        by = "; ".join(f"{name.rstrip(': ')} ({boot})" for name, boot in result["by"])
        rows.append([result["name"], result["profile"], by if is_killed(result) else f"**survived** {by}"])
    return table(["mutant", "of", "killed by (in boot)"], rows)


def render_tables(results: Sequence[Data]) -> str:
    """For the terminal."""
    survived = [r for r in results if not is_killed(r)]
    lines = [by_promise(results)]
    lines += [f"survived: {r['name']} ({r['profile']}): {', '.join(r['missed'])}" for r in survived]
    return "\n".join(lines)


def load(path: Path) -> list[Data]:
    """Results of all runs, in the catalogue's order."""
    return list(json.loads(path.read_text()).values()) if path.exists() else []


def render_document(work: Path) -> str:
    """docs/mutants.md from what is in `work`."""
    parts = [HEAD, f"{circumstances()}\n"]
    order = {name: number for number, name in enumerate(MUTANTS)}
    known = [r for r in load(work / "mutants.json") if r["name"] in order]
    for arch in ("amd64", "arm64"):
        results = sorted((r for r in known if r["arch"] == arch), key=lambda r: order[r["name"]])
        if not results:
            continue
        killed = sum(map(is_killed, results))
        parts += [f"## {arch}: {killed} of {len(results)} killed\n", by_promise(results)]
        for subject, mutants in SUBJECTS.items():
            of = [r for r in results if r["name"] in mutants]
            parts += [f"### {subject}\n", by_mutant(of)] if of else []
    good = load(work / "variations.json")
    if good:
        accepted = sum(r["status"] == 0 for r in good)
        rows = [[r["name"], r["arch"], r["profile"], "yes" if r["status"] == 0 else "**no**"] for r in good]
        parts += [f"## Good variations: {accepted} of {len(good)} accepted\n"]
        parts += [table(["variation", "architecture", "of", "accepted"], rows)]
    return "\n".join(parts)


def circumstances() -> str:
    """When, with what, and on what; no names of machines."""
    said = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    model = next((line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())  # fmt: skip
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, rofs {rofs.__version__}, {said.splitlines()[0]}, Python "
        f"{sys.version.split()[0]}, {os.cpu_count()} processors ({model})."
    )
