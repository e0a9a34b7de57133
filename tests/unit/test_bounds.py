# SPDX-License-Identifier: MIT
"""rofs.machine.bounds: lines out of pieces, and no more of them, or of a console, than is bearable."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rofs.machine.bounds import LIMITS, LINE_SHOWN, MIB, Flooded, Limits, Lines, keep_ends, last_lines


def cut(chunks: list[bytes], limits: Limits = LIMITS) -> list[str]:
    found: list[str] = []
    lines = Lines(found.append, limits)
    for chunk in chunks:
        lines.take(chunk)
    lines.finish()
    return found


@given(st.lists(st.binary(max_size=9) | st.sampled_from([b"\n", b"a\n", b"\xc3", b"\xa9\n"]), max_size=12))
def test_pieces_do_not_matter(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    rows = whole.split(b"\n")
    expected = rows if rows[-1] else rows[:-1]
    assert cut(chunks) == [row.decode("utf-8", "replace").rstrip("\r\n") for row in expected]
    assert cut([whole]) == cut([bytes([byte]) for byte in whole])


def test_the_longest_answer_fits() -> None:
    longest = 16 * MIB * 4 // 3 + 1000
    assert LIMITS.line_bytes > longest
    assert [len(line) for line in cut([b"x" * MIB] * 22 + [b"\n"])] == [22 * MIB]


LOW = Limits(line_bytes=10, port_bytes=100, port_lines=20, console_bytes=50, kept_bytes=5)


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([b"x" * 11], "a line of more than 10 bytes"),
        ([b"x" * 6, b"x" * 6], "a line of more than 10 bytes"),
        ([b"ok\n", b"x" * 11 + b"\n"], "a line of more than 10 bytes"),
        ([b"\n" * 21], "more than 20 lines"),
        ([b"123456789\n"] * 11, "more than 100 bytes"),
    ],
)
def test_too_much_is_said_at_once(chunks: list[bytes], words: str) -> None:
    with pytest.raises(Flooded, match=words):
        cut(chunks, LOW)


def test_just_enough() -> None:
    assert cut([b"1234567890\n"] * 9, LOW) == ["1234567890"] * 9
    assert cut([b"\n" * 20], LOW) == [""] * 20


def test_a_console(tmp_path: Path) -> None:
    path = tmp_path / "console"
    LOW.check_console(path)
    path.write_bytes(b"x" * 50)
    LOW.check_console(path)
    path.write_bytes(b"x" * 51)
    with pytest.raises(Flooded, match="its console with more than 50 bytes"):
        LOW.check_console(path)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", b""),
        (b"abc", b"abc"),
        (b"abcdefg", b"abcdefg"),
        (b"abcdefghij", b"abcdefghij"),
        (b"abcdeXfghij", b"abcde\n[... 1 bytes left out ...]\nfghij"),
        (b"abcde" + b"-" * 5000 + b"fghij", b"abcde\n[... 5000 bytes left out ...]\nfghij"),
    ],
)
def test_both_ends_are_kept(content: bytes, kept: bytes, tmp_path: Path) -> None:
    path = tmp_path / "console"
    assert keep_ends(path, 5) == ""
    path.write_bytes(content)
    assert keep_ends(path, 5) == kept.decode()
    assert path.read_bytes() == kept, "the file too: it is published with the report"


def test_the_text_of_a_console_is_text(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_bytes(b"a\r\nb\rc\xff\n")
    assert keep_ends(path, 100) == "a\nb\nc\ufffd\n"


def test_the_last_lines_of_a_console() -> None:
    assert last_lines("") == last_lines("\n \n") == []
    assert last_lines("".join(f"line {n}  \n\n" for n in range(20))) == [f"line {n}" for n in range(12, 20)]
    panic = "".join(f"{n}\n" for n in range(20)) + "Kernel panic - not syncing\n" + "RAX: 0\n" * 50
    assert last_lines(panic)[-2:] == ["19", "Kernel panic - not syncing"], "the registers help nobody"
    (line,) = last_lines("x" * 100_000 + "the end")
    assert line.startswith("...x") and line.endswith("xthe end") and len(line) == LINE_SHOWN + 3
