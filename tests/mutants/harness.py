# SPDX-License-Identifier: MIT
"""A mutant -> what `rofs verify --no-manifest` says of it: killed by name, or survived."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.mutants.bases import ROOT
from tests.mutants.mutation import Mutation, mutate

REJECTED = 4
TIMEOUT_S = 3600


@dataclass(frozen=True, kw_only=True)
class Result:
    """How it went. `by` are the named promises that were found broken, with the first boot that saw each;
    `missed` those that were not; `broken` is all that was."""

    name: str
    arch: str
    profile: str
    status: int
    seconds: float
    by: tuple[tuple[str, int], ...] = ()
    missed: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    said: str = ""

    @property
    def killed(self) -> bool:
        """By the right promises, and by a verdict and not an accident."""
        return self.status == REJECTED and not self.missed

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify_argv(image: Path, reports: Path, options: Sequence[str]) -> list[str]:
    """The command line of `rofs verify`."""
    argv = [sys.executable, "-m", "rofs", "verify", str(image), "--report", str(reports), "--progress", "quiet"]
    return [*argv, *options]


def run_mutant(name: str, what: Mutation, image: Path, work: Path) -> Result:
    """Break a copy of `image`, verify it, and take the copy away again; reports stay in `work`."""
    arch, profile = image.name, image.parent.name
    copy, reports = work / profile / arch, work / "report"
    shutil.rmtree(work, ignore_errors=True)
    reports.mkdir(parents=True)
    mutate(image, work.parent, copy, what)
    began = time.monotonic()
    argv = verify_argv(copy, reports, ["--no-manifest", "--boots", str(what.boots), *what.options])
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    seconds = time.monotonic() - began
    shutil.rmtree(work / profile)
    broken = read_broken(reports)
    by, missed = judge(what, broken)
    return Result(
        name=name, arch=arch, profile=profile, status=done.returncode, seconds=round(seconds, 1), by=by, missed=missed,
        broken=tuple(dict.fromkeys(label(check) for check in broken)),
        said="" if done.returncode == REJECTED else done.stderr[-2000:],
    )  # fmt: skip


def read_broken(reports: Path) -> list[dict[str, Any]]:
    """The checks of a report.json that reject; none where there is no report."""
    path = reports / "report.json"
    return [check for check in json.loads(path.read_text())["checks"] if not check["ok"]] if path.exists() else []


def label(check: dict[str, Any]) -> str:
    """As it is named in `names`."""
    return f"{check['promise']}: {check['subject']}"


def judge(what: Mutation, broken: Sequence[dict[str, Any]]) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """Which of the names, and of the words to be seen, are among what is broken, and in which boot; and which not."""
    by: list[tuple[str, int]] = []
    missed: list[str] = []
    for want in what.names:
        boots = [check["boot"] for check in broken if label(check).startswith(want)]
        if boots:
            by.append((want, min(boots)))
        else:
            missed.append(want)
    everything = "\n".join(str(check["seen"]) for check in broken)
    missed += [f"the words {words!r}" for words in what.seen if words not in everything]
    return tuple(by), tuple(missed)
