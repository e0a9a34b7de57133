# SPDX-License-Identifier: MIT
"""rofs.verify.answers and shapes: what was asked is taken once and in its form, and all else is told."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from probing import SOURCES

import hatch_build
from rofs.verify import probe_wire as wire
from rofs.verify.answers import Answers
from rofs.verify.shapes import SHAPES, find_flaw

OPS = (wire.read("/etc/hostname"), wire.sync(), wire.lstat("/"), wire.poweroff("clean"))
READ = {"id": 1, "op": "read", "errno": None, "data": "aGkK", "truncated": False}
SYNC = {"id": 2, "op": "sync", "errno": None}
STAT = {"id": 3, "op": "lstat", "errno": None, "type": "dir", "mode": 0o755}
OFF = {"id": 4, "op": "poweroff", "mode": "clean"}
START, END = {"event": "start", "wire": 1}, {"event": "end", "ops": 4}
WHOLE = [START, READ, SYNC, STAT, OFF, END]


def heard(*lines: Any) -> Answers:
    answers = Answers(OPS)
    for line in lines:
        answers.take(line if isinstance(line, str) else json.dumps(line))
    return answers


def seen(answers: Answers) -> str:
    verdict = answers.outcome(3).verdict
    assert not verdict.ok
    return verdict.seen


def test_what_was_asked() -> None:
    answers = heard(*WHOLE)
    assert {n: dict(facts) for n, facts in answers.facts.items()} == {1: READ, 2: SYNC, 3: STAT, 4: OFF}
    outcome = answers.outcome(3)
    assert (answers.count, outcome.boot, outcome.name if hasattr(outcome, "name") else "") == (4, 3, "")
    assert outcome.verdict.ok and outcome.verdict.seen == "6 lines, 4 answers"


def test_the_event_is_handed_on() -> None:
    answers = Answers(OPS)
    event = answers.take(json.dumps(SYNC))
    assert event is not None and event.id == 2
    assert answers.take("nothing") is None


def test_nothing_said_is_nothing_strange() -> None:
    answers = heard()
    assert (answers.count, answers.facts, answers.outcome(1).verdict.ok) == (0, {}, True)


def test_a_second_answer_that_differs_spoils_the_first() -> None:
    answers = heard(*WHOLE, {**READ, "data": "eG8K"})
    assert answers.facts[1] == {"error": "another answer to operation 1, read"}
    assert (answers.count, seen(answers)) == (3, "another answer to operation 1, read")
    again = heard(*WHOLE, {**READ, "data": "eG8K"}, READ)
    assert again.facts[1] == {"error": "another answer to operation 1, read"}, "nor does a third mend it"


def test_the_same_answer_again_is_told_and_spoils_nothing() -> None:
    answers = heard(*WHOLE, SYNC)
    assert dict(answers.facts[2]) == SYNC
    assert (answers.count, seen(answers)) == (4, "the same answer to operation 2, sync, again")


def test_garbage_first_is_not_mended_by_an_answer() -> None:
    answers = heard({**READ, "data": 3}, READ)
    assert answers.facts[1] == {"error": "another answer to operation 1, read"}
    assert answers.count == 0


@pytest.mark.parametrize("number", [0, -1, 5, 1 << 70])
def test_an_answer_to_what_nobody_asked(number: int) -> None:
    answers = heard(*WHOLE, {**SYNC, "id": number})
    assert set(answers.facts) == {1, 2, 3, 4}
    assert seen(answers) == f"an answer to operation '{number}' of 4"


def test_an_answer_to_another_operation() -> None:
    answers = heard({**SYNC, "id": 1}, {**READ, "id": 2})
    assert answers.count == 0
    assert answers.facts[1]["error"] == "the answer to operation 1, read, makes no sense: it is one to 'sync'"
    assert "it is one to 'read'" in seen(answers)


@pytest.mark.parametrize(
    "line", ["", "[    1.0] systemd[1]: Started.", "{", "[]", '{"id":1}', '{"id":1,"op":"read","errno":NaN}', "\x1b[2J"]
)
def test_a_line_that_is_none(line: str) -> None:
    answers = heard(*WHOLE, line)
    assert answers.count == 4
    assert seen(answers) == f"no answer: {line!a}"


@pytest.mark.parametrize("kind", ["error", "crash", "surprise"])
def test_an_event_that_should_not_be(kind: str) -> None:
    assert seen(heard(START, {"event": kind, "signal": 11})).startswith("the probe failed: '{")


def test_much_of_it_is_told_in_few_words() -> None:
    answers = heard(*("x" * 5000 for _ in range(10_000)))
    assert len(seen(answers)) < 2000 and seen(answers).endswith("; and 9992 more")


@pytest.mark.parametrize(
    ("facts", "flaw"),
    [
        ({}, "it does not say errno and data and truncated"),
        ({"errno": None}, "it does not say data and truncated"),
        ({**READ, "errno": 13}, "'errno' is 13"),
        ({**READ, "errno": "erofs"}, "'errno' is 'erofs'"),
        ({**READ, "data": "aGkK="}, "'data' is 'aGkK='"),
        ({**READ, "data": "aG\nkK"}, r"'data' is 'aG\nkK'"),
        ({**READ, "data": None}, "'data' is None"),
        ({**READ, "truncated": 0}, "'truncated' is 0"),
        ({**READ, "timeout": "yes"}, "'timeout' is 'yes'"),
        ({**READ, "signal": 1 << 70}, "'signal' is 1180591620717411303424"),
        ({**READ, "seconds": float("inf")}, "'seconds' is inf"),
        ({**READ, "new": [[[[[]]]]]}, "'new' is a list of 1"),
        ({**READ, "new": "\ud800"}, r"'new' is '\ud800'"),
        ({**READ, "\u2028": 1}, r"'\u2028' is 1"),
        ({**READ, "data": "x" * 1000 + "!"}, "'data' is '" + "x" * 59 + "..."),
        (READ, ""),
        ({**READ, "new": {"list": [1, 2.5, "x", None]}}, ""),
        ({"errno": "ENOENT"}, ""),
        ({"timeout": True}, ""),
        ({"error": "bad number of bytes"}, ""),
        ({"signal": 11, "seconds": 0.25}, ""),
    ],
)
def test_the_form_of_a_read(facts: dict[str, Any], flaw: str) -> None:
    assert find_flaw("read", facts) == flaw


ATTACK = {"name": "create", "errno": "EROFS", "effect": False}
ENTRY = {"path": "a%20b", "how": "differs", "what": ["mode"]}
COUNTS = {"errno": None, "truncated": False, "compared": 1, "equal": 0, "files": 0}


@pytest.mark.parametrize(
    ("op", "facts", "fits"),
    [
        ("attack", {"errno": None, "attacks": [ATTACK]}, True),
        ("attack", {"errno": None, "attacks": [{**ATTACK, "detail": "at /x then EROFS", "restored": True}]}, True),
        ("attack", {"errno": None, "attacks": [{**ATTACK, "effect": 0}]}, False),
        ("attack", {"errno": None, "attacks": [{"name": "create", "errno": None}]}, False),
        ("attack", {"errno": None, "attacks": ["create"]}, False),
        ("attack", {"errno": None, "attacks": {}}, False),
        ("attack", {"errno": None, "attacks": [ATTACK] * 1001}, False),
        ("compare", {**COUNTS, "entries": [ENTRY]}, True),
        ("compare", {**COUNTS, "entries": [{**ENTRY, "path": "a b"}]}, False),
        ("compare", {**COUNTS, "entries": [{**ENTRY, "what": "mode"}]}, False),
        ("compare", {**COUNTS, "entries": [{**ENTRY, "mtime": -1}]}, True),
        ("compare", {**COUNTS, "entries": [{**ENTRY, "mtime": "1"}]}, False),
        ("compare", COUNTS, False),
        ("list", {"errno": None, "names": ["a", "b%0A"], "types": "ff", "truncated": False}, True),
        ("list", {"errno": None, "names": ["a", "b\n"], "types": "ff", "truncated": False}, False),
        ("list", {"errno": None, "names": ["a"] * 65537, "types": "f", "truncated": False}, False),
        ("lstat", {"errno": None, "type": "file", "mode": True}, False),
        ("exec", {"errno": None, "status": 0, "data": ""}, True),
        ("exec", {"errno": None, "data": ""}, False),
        ("exec", {"errno": None, "exit_signal": 9, "data": ""}, True),
        ("run", {"errno": "ENOENT", "seconds": 0.1}, True),
        ("no such operation", {"anything": 1}, True),
    ],
)
def test_the_forms_of_others(op: str, facts: dict[str, Any], fits: bool) -> None:
    assert (find_flaw(op, facts) == "") is fits


def test_every_operation_of_the_probe_has_a_form() -> None:
    source = (SOURCES / "runner.c").read_text()
    named = set(re.findall(r'^    \{"(\w+)", \d+, ', source, re.MULTILINE)) | {"poweroff"}
    assert len(named) > 10 and named == set(SHAPES), f"{hatch_build.PROBE_DIR}: shapes.py has a row for each operation"
