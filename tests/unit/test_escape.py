# SPDX-License-Identifier: MIT
"""Spellings of paths, held against systemd-escape, libmount and PID 1's own parsers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import P

from rofs.generate.escape import fstab_field, unfstab, unit_name, unit_value, unit_words
from rofs.values import BadValue, image_path

ALPHABET = st.sampled_from("aZ09:_.-/ \\\"'%#$`;,=~äü\u20ac\U0001f600&|<>()[]{}*?!@^+")


def _is_path(text: str) -> bool:
    try:
        image_path(text)
    except BadValue:
        return False
    return True


HOSTILE = st.text(ALPHABET, min_size=1, max_size=24).map(lambda t: "/" + t).filter(_is_path)


@pytest.mark.needs("systemd-escape")
@given(st.lists(HOSTILE, min_size=1, max_size=60))
def test_unit_names_are_systemds(paths: list[str]) -> None:
    argv = ["systemd-escape", "--path", "--suffix=mount", "--", *paths]
    theirs = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert [unit_name(P(path)) for path in paths] == theirs


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "-.mount"),
        ("/var/lib/a-b", "var-lib-a\\x2db.mount"),
        ("/.a/.b", "\\x2ea-.b.mount"),
        ("/ü", "\\xc3\\xbc.mount"),
    ],
)
def test_unit_names(path: str, name: str) -> None:
    assert unit_name(P(path)) == name


@given(st.text())
def test_fstab_is_read_back_as_it_was(text: str) -> None:
    assert unfstab(fstab_field(text)) == text


@given(HOSTILE)
def test_a_field_is_one_word(text: str) -> None:
    assert not set(fstab_field(text)) & set(" \t\n")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a\\040b", "a b"),
        ("a\\043b", "a#b"),
        ("\\134040", "\\040"),
        ("a\\", "a\\"),
        ("a\\9", "a\\9"),
        ("\\08x", "\\08x"),
    ],
)
def test_what_the_kernel_writes(text: str, read: str) -> None:
    assert unfstab(text) == read


@pytest.mark.needs("findmnt")
def test_libmount_reads_the_same(tmp_path: Path) -> None:
    paths = ["/a b", "/a\\b", "/a#b", "/#", "/ä ö", "/a,b", '/q"q', "/it's", "/%h", "/$HOME", "/a\\040b"]
    tab = tmp_path / "fstab"
    tab.write_text("".join(f"{fstab_field(p)} {fstab_field(p)} none bind 0 0\n" for p in paths), "utf-8")
    argv = ["findmnt", "--fstab", "--tab-file", str(tab), "--noheadings", "--json", "--output", "SOURCE,TARGET"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, env={"LC_ALL": "C.UTF-8", "PATH": "/bin"})
    import json

    rows = json.loads(said.stdout)["filesystems"]
    assert [(row["source"], row["target"]) for row in rows] == [(p, p) for p in paths]


def test_values_of_units() -> None:
    assert unit_value("/%h $x") == "/%%h $x"
    assert unit_words("/plain") == "/plain"
    assert unit_words('/a "b"\\%c') == '"/a \\"b\\"\\\\%%c"'
