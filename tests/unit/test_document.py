# SPDX-License-Identifier: MIT
"""YAML text -> Document: data, marks, and problems at their places."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rofs.document import MAX_BYTES, MAX_DEPTH, load, parse
from rofs.errors import KeyPath, Problem, ProfileError

FILE = Path("p.yaml")
TEXT = b"""\
# a comment
name: x
mounts:
  - path: /tmp
    mode: 0755
  - {path: /var, on: no}
"""


def refused(raw: bytes) -> tuple[Problem, ...]:
    with pytest.raises(ProfileError) as caught:
        parse(raw, FILE)
    return caught.value.problems


@pytest.mark.parametrize(
    ("at", "value", "key"),
    [
        ((), (2, 1), (2, 1)),
        (("name",), (2, 7), (2, 1)),
        (("mounts",), (4, 3), (3, 1)),
        (("mounts", 0), (4, 5), (4, 5)),
        (("mounts", 0, "mode"), (5, 11), (5, 5)),
        (("mounts", 1, "path"), (6, 12), (6, 6)),
        (("mounts", 0, "absent", "deeper"), (4, 5), (4, 5)),
        (("absent",), (2, 1), (2, 1)),
    ],
)
def test_marks(at: KeyPath, value: tuple[int, int], key: tuple[int, int]) -> None:
    marks = parse(TEXT, FILE).marks
    assert (marks.find(at).line, marks.find(at).column) == value
    assert (marks.key(at).line, marks.key(at).column) == key
    assert marks.find(at).file == "p.yaml"


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("0755", 493, "0755"),
        ("1:30", 90, "1:30"),
        ("no", False, "no"),
        ("On", True, "On"),
        ("~", None, "~"),
        ("", None, ""),
        ("1.5", 1.5, "1.5"),
        ('"0755"', "0755", None),
        ("'no'", "no", None),
        ("!!str 0755", "0755", None),
        ("plain", "plain", None),
        ("2024-01-01", "2024-01-01", None),
        ("=", "=", None),
        ("0b_", "0b_", None),
        ("9" * 5000, "9" * 5000, None),
    ],
)
def test_scalars_and_how_they_were_written(text: str, value: object, written: str | None) -> None:
    document = parse(f"a: {text}\n".encode(), FILE)
    assert document.data["a"] == value
    assert type(document.data["a"]) is type(value)
    assert document.marks.written(("a",)) == written


def test_duplicate_key_is_at_the_second_and_the_first_stays() -> None:
    document = parse(b"a: 1\nb: {c: 1, c: 2}\na: 2\n", FILE)
    assert document.data == {"a": 1, "b": {"c": 1}}
    assert [(p.mark.line, p.mark.column, p.at, p.rule) for p in document.problems] == [
        (2, 11, ("b", "c"), "duplicate-key"),
        (3, 1, ("a",), "duplicate-key"),
    ]


@pytest.mark.parametrize(
    ("raw", "place", "rule"),
    [
        (b"", (1, 1), "empty"),
        (b"# only a comment\n", (1, 1), "empty"),
        (b"---\n", (1, 1), "empty"),
        (b"\n- a\n", (2, 1), "wrong-type"),
        (b"text\n", (1, 1), "wrong-type"),
        (b"''\n", (1, 1), "wrong-type"),
        (b"a: 'x\n", (2, 1), "yaml-syntax"),
        (b"a: b: c\n", (1, 5), "yaml-syntax"),
        (b"a:\n\tb: 1\n", (2, 1), "yaml-syntax"),
        (b"a: [1\n", (2, 1), "yaml-syntax"),
        (b"a: 1\nb: \xff\n", (2, 4), "not-utf8"),
        (b"a: \xc3\xa9\xff\n", (1, 5), "not-utf8"),
        (b"a: 1\nb: x\x07\n", (2, 5), "control-character"),
        ("a: 1\n".encode("utf-16"), (1, 1), "not-utf8"),
        (b"a: &x 1\n", (1, 4), "yaml-extra"),
        (b"a: *x\n", (1, 4), "yaml-extra"),
        (b"a: !!binary aGk=\n", (1, 4), "yaml-extra"),
        (b"a: !!python/object:os.system x\n", (1, 4), "yaml-extra"),
        (b"a: !mine x\n", (1, 4), "yaml-extra"),
        (b"a: 1\n---\nb: 2\n", (2, 1), "yaml-extra"),
        (b"a: " + b"[" * 100_000, (1, 4 + MAX_DEPTH - 1), "yaml-extra"),
    ],
)
def test_nothing_usable(raw: bytes, place: tuple[int, int], rule: str) -> None:
    problem, *more = refused(raw)
    assert (problem.mark.line, problem.mark.column, problem.rule) == (*place, rule)
    assert not more


def test_tab_is_named() -> None:
    assert refused(b"a:\n\tb: 1\n")[0].hint == "indent with spaces, not tabs"
    assert parse(b"a: |\n  b\tc\n", FILE).data == {"a": "b\tc\n"}


def test_alias_bomb_is_refused_before_it_is_composed() -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 30))
    problems = refused(f"l0: &l0 x\n{levels}\n".encode())
    assert {problem.rule for problem in problems} == {"yaml-extra"}


@pytest.mark.parametrize("key", ["on", "1", "1.5", "~", "[a]", "{a: b}", "<<"])
def test_keys_are_strings(key: str) -> None:
    document = parse(f"a: 1\n? {key}\n: 2\n".encode(), FILE)
    assert document.data == {"a": 1}
    assert [(p.mark.line, p.mark.column, p.rule) for p in document.problems] == [(2, 3, "bad-key")]


def test_byte_order_mark_is_not_a_character() -> None:
    document = parse(b"\xef\xbb\xbfa: 1\n", FILE)
    assert document.data == {"a": 1}
    assert document.marks.key(("a",)).column == 1


def test_files_that_cannot_be_a_profile(tmp_path: Path) -> None:
    large, pipe, loop = tmp_path / "large", tmp_path / "pipe", tmp_path / "loop"
    large.write_bytes(b"a: " + b"x" * MAX_BYTES)
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    expected = {
        tmp_path / "absent": "missing-file",
        tmp_path: "unreadable-file",
        pipe: "unreadable-file",
        loop: "unreadable-file",
        Path("nul\0"): "unreadable-file",
        large: "too-large",
    }
    for path, rule in expected.items():
        with pytest.raises(ProfileError) as caught:
            load(path)
        assert [problem.rule for problem in caught.value.problems] == [rule], path
        assert caught.value.problems[0].mark.file == str(path)


def test_load_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(TEXT)
    assert load(path).file == path
    assert load(path).data["mounts"][0] == {"path": "/tmp", "mode": 493}


def only_profile_errors(raw: bytes) -> None:
    try:
        document = parse(raw, FILE)
    except ProfileError as error:
        found = len(error.problems)
    else:
        assert all(isinstance(key, str) for key in document.data)
        return
    assert found


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    only_profile_errors(raw)


@given(st.text(alphabet="ab01 :-?[]{},&*!|>'\"%@`#~<=_.\n\t\\", max_size=60))
def test_any_text_of_yaml_characters(text: str) -> None:
    only_profile_errors(text.encode())
