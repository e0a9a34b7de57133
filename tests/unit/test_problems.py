# SPDX-License-Identifier: MIT
"""Bad profiles and the very words they get: tests/golden_problems/NN-topic/{profile.yaml,problems.txt}.

`ROFS_REWRITE_GOLDENS=1 pytest tests/unit/test_problems.py` writes the words anew, to be read in review.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rofs.errors import Mark, Problem, ProfileError
from rofs.inputs import load_inputs
from rofs.problems import render_problems
from rofs.profile import load_profile

GOLDENS = Path(__file__).parents[1] / "golden_problems"
CASES = sorted(path.name for path in GOLDENS.iterdir())


def problems_of(path: Path) -> tuple[Problem, ...]:
    try:
        load_inputs(load_profile(path))
    except ProfileError as error:
        return error.problems
    return ()


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDENS / case)
    said = render_problems(problems_of(Path("profile.yaml")))
    golden = Path("problems.txt")
    if os.environ.get("ROFS_REWRITE_GOLDENS"):
        golden.write_text(said, "utf-8")
    assert said == golden.read_text("utf-8")
    assert said, "a bad profile without a problem"


def test_every_golden_has_its_files() -> None:
    assert len(CASES) >= 12
    for case in CASES:
        assert {"profile.yaml", "problems.txt"} <= {path.name for path in (GOLDENS / case).iterdir()}


PROBLEM = Problem(Mark("a,b:c.yaml", 3, 7), "100% wrong", "bad-value", ("mounts", 0, "size"), hint="write 64M")


def test_text_is_one_line_each_sorted() -> None:
    earlier = Problem(Mark("a,b:c.yaml", 2, 9), "line\nbreak", "bad-value")
    assert render_problems([PROBLEM, earlier]) == (
        "a,b:c.yaml:2:9: error: line\\nbreak (bad-value)\n"
        "a,b:c.yaml:3:7: error: 100% wrong (write 64M) [mounts[0].size] (bad-value)\n"
    )


def test_json() -> None:
    assert json.loads(render_problems([PROBLEM], "json")) == [
        {
            "file": "a,b:c.yaml",
            "line": 3,
            "column": 7,
            "severity": "error",
            "message": "100% wrong",
            "hint": "write 64M",
            "key": "mounts[0].size",
            "rule": "bad-value",
        }
    ]


def test_github_escapes_what_its_commands_are_made_of() -> None:
    assert render_problems([PROBLEM], "github") == (
        "::error file=a%2Cb%3Ac.yaml,line=3,col=7,title=bad-value::"
        "100%25 wrong (write 64M) [mounts[0].size] (bad-value)\n"
    )


def test_nothing_to_say() -> None:
    assert render_problems([]) == ""
    assert render_problems([], "github") == ""
    assert json.loads(render_problems([], "json")) == []
