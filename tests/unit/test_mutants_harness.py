# SPDX-License-Identifier: MIT
"""The mutation harness itself: what counts as killed, and that no edit is secretly none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.mutants import edits
from tests.mutants.catalogue import MUTANTS, SAMPLE, THIRD
from tests.mutants.harness import Result, judge
from tests.mutants.mutation import Mutation
from tests.mutants.table import by_mutant, by_promise
from tests.mutants.variations import VARIATIONS

WHAT = Mutation(names=["mount: /tmp", "size cap: /tmp"], seen=["fits"])


def check(promise: str, subject: str, boot: int = 1, seen: str = "") -> dict[str, Any]:
    return {"promise": promise, "subject": subject, "boot": boot, "seen": seen, "ok": False}


def result(status: int, broken: list[dict[str, Any]], what: Mutation = WHAT) -> Result:
    by, missed = judge(what, broken)
    return Result(name="size cap gone", arch="amd64", profile="minimal", status=status, seconds=1, by=by, missed=missed)


ALL = [check("mount", "/tmp (tmpfs)", 2), check("mount", "/tmp (tmpfs)"), check("size cap", "/tmp", 2, "it fits, all")]


def test_killed_is_rejected_by_every_name() -> None:
    assert result(4, ALL).killed
    assert result(4, ALL).by == (("mount: /tmp", 1), ("size cap: /tmp", 2))


@pytest.mark.parametrize("status", [0, 1, 2, 3, 5, 130, -1])
def test_another_end_is_none(status: int) -> None:
    assert not result(status, ALL).killed


def test_rejected_for_something_else_has_survived() -> None:
    others = [check("image tree", "as built"), check("boot", "the system boots, answers and powers off")]
    assert not result(4, others).killed
    assert result(4, ALL[:2]).missed == ("size cap: /tmp", "the words 'fits'")
    assert result(4, [*ALL[:2], check("size cap", "/tmp")]).missed == ("the words 'fits'",)
    assert not result(4, []).killed


@pytest.mark.parametrize(
    "edit",
    [edits.replaced("a", "b", "x", "y"), edits.no_line("c"), edits.no_mount("/etc"), edits.initrd_mounts("true")],
)
def test_an_edit_that_finds_nothing_is_an_error(edit: Callable[[str], str]) -> None:
    with pytest.raises(AssertionError, match="nothing to break"):
        edit("a\nb\n")


def test_every_mutant_changes_something_and_names_a_promise() -> None:
    for name, what in MUTANTS.items():
        changes = (what.drop, what.put, what.edit, what.meta, what.init, what.cmdline, what.files)
        assert any(changes), name
        assert what.names and all(": " in promise for promise in what.names), name


def test_there_are_enough_of_each() -> None:
    assert len(MUTANTS) >= 60 and len(VARIATIONS) >= 20
    assert 15 <= len(SAMPLE) <= 24 and len(THIRD) >= len(MUTANTS) // 3


def test_the_tables_count_what_was_killed() -> None:
    rows = [result(4, ALL).as_data(), result(0, []).as_data()]
    assert "| **mutants** | 1 | 1 |" in by_promise(rows)
    assert "| size cap | 1 | 1 |" in by_promise(rows)
    assert "| minimal | mount: /tmp (1); size cap: /tmp (2) |" in by_mutant(rows)
    assert "**survived**" in by_mutant(rows)
