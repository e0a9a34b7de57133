# SPDX-License-Identifier: MIT
"""Tables of makedevs: rows and their fields, series, capabilities, and every refusal with its place."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rofs.errors import Mark, Problem, ProfileError
from rofs.image.tarstream import caps_text
from rofs.ownership import CAPABILITIES, Capabilities, Ownership, Row, parse_ownership

BUILDROOT = b"""\
# permissions of the target, as in Buildroot's manual
/usr/bin/foo\tf\t4755\t0\t0\t-\t-\t-\t-\t-
/data/buz      f  644  buz-user buz-group - - - - -
/data/baz      F  -1   baz baz -\r

/usr/share/myapp/ r -1 foo 12 - - - - -
/tmp d 1777 root root
/dev/hda b 640 root root 3 0 0 0 -   # the disk
/dev/hda b 640 root root 3 1 1 1 15
/dev/uio b 640 0 0 252 1 6 2 5
"""


def rows_of(text: str | bytes) -> tuple[Row, ...]:
    raw = text if isinstance(text, bytes) else text.encode()
    return parse_ownership(raw, "table").rows


def problems_of(text: str | bytes) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        rows_of(text)
    assert {problem.rule for problem in caught.value.problems} == {"bad-ownership"}
    return [str(problem) for problem in caught.value.problems]


def test_rows_and_their_places() -> None:
    table = parse_ownership(BUILDROOT, "dev.txt")
    assert isinstance(table, Ownership)
    assert table.file == "dev.txt"
    said = [(r.mark.line, r.path, r.type, r.mode, r.user.value, r.group.value) for r in table.rows]
    assert said == [
        (2, "/usr/bin/foo", "f", 0o4755, 0, 0),
        (3, "/data/buz", "f", 0o644, "buz-user", "buz-group"),
        (4, "/data/baz", "F", None, "baz", "baz"),
        (6, "/usr/share/myapp", "r", None, "foo", 12),
        (7, "/tmp", "d", 0o1777, "root", "root"),
        (8, "/dev/hda", "b", 0o640, "root", "root"),
        (9, "/dev/hda", "b", 0o640, "root", "root"),
        (10, "/dev/uio", "b", 0o640, 0, 0),
    ]
    assert table.rows[1].mark == Mark("dev.txt", 3, 1)
    assert table.rows[1].user.mark == Mark("dev.txt", 3, 24)
    assert table.rows[1].group.mark == Mark("dev.txt", 3, 33)


@pytest.mark.parametrize(
    ("row", "nodes"),
    [
        ("/dev/null c 666 0 0 1 3 - - -", [("/dev/null", (1, 3))]),
        ("/dev/null c 666 0 0 1 3", [("/dev/null", (1, 3))]),
        ("/dev/hda b 640 0 0 3 0 7 0 1", [("/dev/hda", (3, 0))]),
        ("/dev/hda b 640 0 0 3 1 1 1 3", [("/dev/hda1", (3, 1)), ("/dev/hda2", (3, 2)), ("/dev/hda3", (3, 3))]),
        ("/dev/uio b 640 0 0 252 1 6 2 2", [("/dev/uio6", (252, 1)), ("/dev/uio7", (252, 3))]),
        ("/dev/same c 640 0 0 5 1 0 0 2", [("/dev/same0", (5, 1)), ("/dev/same1", (5, 1))]),
        ("/run/p p 600 0 0 - - 0 1 2", [("/run/p0", (0, 0)), ("/run/p1", (0, 1))]),
    ],
)
def test_a_series(row: str, nodes: list[tuple[str, tuple[int, int]]]) -> None:
    assert list(rows_of(row)[0].nodes()) == nodes


@pytest.mark.parametrize("word", ["-", "-1"])
def test_an_empty_field_leaves_things_as_they_are(word: str) -> None:
    row = rows_of(f"/x r {word} {word} {word}")[0]
    assert (row.mode, row.user.value, row.group.value) == (None, None, None)


@pytest.mark.parametrize(("word", "mode"), [("0", 0), ("755", 0o755), ("0755", 0o755), ("06755", 0o6755)])
def test_modes_are_octal(word: str, mode: int) -> None:
    assert rows_of(f"/x f {word} 0 0")[0].mode == mode


def test_paths_are_as_the_tree_names_them() -> None:
    text = b"//usr//./lib/ d 755 0 0\n/ r -1 0 0\n/caf\xe9 f 644 0 0\n"
    assert [row.path for row in rows_of(text)] == ["/usr/lib", "/", "/caf\udce9"]


def test_no_rows() -> None:
    assert rows_of(b"") == ()
    assert rows_of("\n   \t\n# nothing\n   # here\n") == ()


BAD_ROWS = [
    ("/x", 1, "the row ends before TYPE"),
    ("/x f 644 0", 1, "the row ends before GID"),
    ("/x f 644 0 0 - - - - - extra", 24, "the row has more than 10 fields"),
    ("x/y f 644 0 0", 1, "'x/y' must be absolute (write /x/y)"),
    ("/x/../y f 644 0 0", 1, "'/x/../y' holds `..`"),
    ("/x\x0b f 644 0 0", 1, "holds a control character"),
    ("/x\x00y f 644 0 0", 1, "holds a control character"),
    (f"/{'n' * 256} f 644 0 0", 1, "has a part longer than 255 bytes"),
    ("/ f 644 0 0", 1, "the root cannot be of type f"),
    ("/x l 644 0 0", 4, "'l' is not a type (one of f F d r c b p)"),
    ("/x ff 644 0 0", 4, "'ff' is not a type"),
    ("/x f u+x 0 0", 6, "'u+x' is not a mode"),
    ("/x f 888 0 0", 6, "'888' is not a mode"),
    ("/x f 77777 0 0", 6, "'77777' is not a mode"),
    ("/x f -2 0 0", 6, "'-2' is not a mode"),
    ("/x f 644 -5 0", 10, "'-5' is neither a number nor a name"),
    ("/x f 644 4294967295 0", 10, "'4294967295' is too large"),
    (f"/x f 644 {'9' * 5000} 0", 10, "is too large"),
    ("/x f 644 0 a:b", 12, "'a:b' is neither a number nor a name"),
    ("/x f 644 0 0 x", 14, "'x' is not a number"),
    ("/x c 644 0 0 1 1048576", 16, "'1048576' is not a number"),
    ("/x c 644 0 0 - 3", 14, "a device needs MAJOR and MINOR"),
    ("/x b 644 0 0 3", 14, "a device needs MAJOR and MINOR"),
    ("/x c 644 0 0 4096 3", 14, "4096 is too large for a major number"),
    ("/x c -1 0 0 1 3", 6, "a node that is made needs a mode"),
    ("/x p - 0 0", 6, "a node that is made needs a mode"),
    ("/x c 644 0 0 1 3 - 1 4", 22, "COUNT without START and INC"),
    ("/x c 644 0 0 1 3 0 - 4", 22, "COUNT without START and INC"),
    ("/x c 644 0 0 1 1048575 0 1 2", 16, "the last minor number would be 1048576"),
    (f"/{'n' * 254} c 644 0 0 1 0 0 1 11", 1, "the last name would be longer than 255 bytes"),
    ("|xattr cap_net_raw+ep", 1, "capabilities without a file"),
    ("|acl user::rwx", 1, "'|acl' begins no row"),
]


@pytest.mark.parametrize(("row", "column", "message"), BAD_ROWS)
def test_a_bad_row_is_one_problem_at_its_place(row: str, column: int, message: str) -> None:
    (said,) = problems_of(f"# first\n{row}\n/good f 644 0 0\n")
    assert said.startswith(f"table:2:{column}: error: ")
    assert message in said


def test_every_problem_at_once() -> None:
    said = problems_of("/x z 9 -9 0\n\nrelative f 644 0 0\n|xattr cap_wrong+ep\n/y d 755 0\n")
    places = [line.split(": ")[0].removeprefix("table:") for line in said]
    assert places == ["1:4", "1:6", "1:8", "3:1", "4:8", "5:1"]


def test_capabilities_are_those_of_the_image_s_manifest() -> None:
    rows = rows_of("/ping F 755 0 0\n# why\n|xattr cap_net_raw+ep\n/x f 755 0 0\n")
    assert rows[0].caps is not None
    assert caps_text(rows[0].caps.encode()) == "cap_net_raw=ep"
    # as `setcap cap_net_raw+ep` writes it: linux/capability.h, revision 2, the effective bit
    assert rows[0].caps.encode() == struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    assert rows[1].caps is None


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["cap_sys_admin+eip", "cap_net_admin+eip"], "cap_net_admin,cap_sys_admin=eip"),
        (["CAP_CHOWN,cap_fowner=p"], "cap_chown,cap_fowner=p"),
        (["cap_chown+p", "cap_chown+e"], "cap_chown=ep"),
        (["cap_chown+eip", "cap_chown=p"], "cap_chown=p"),
        (["cap_checkpoint_restore+i", "cap_kill+p"], "cap_checkpoint_restore=i cap_kill=p"),
    ],
)
def test_several_xattr_lines_add_up(lines: list[str], text: str) -> None:
    row = rows_of("/x f 755 0 0\n" + "".join(f"|xattr {line}\n" for line in lines))[0]
    assert row.caps is not None
    assert caps_text(row.caps.encode()) == text


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("/x d 755 0 0\n|xattr cap_net_raw+ep", 1, "capabilities without a file"),
        ("/x f 755 0 0\n|xattr", 1, "'|xattr' begins no row"),
        ("/x f 755 0 0\n|xattr cap_kill+p cap_chown+p", 1, "'|xattr' begins no row"),
        ("/x f 755 0 0\n|xattr cap_everything+ep", 8, "'cap_everything' is not a capability"),
        ("/x f 755 0 0\n|xattr cap_kill,cap_oops+ep", 8, "'cap_oops' is not a capability"),
        ("/x f 755 0 0\n|xattr all+ep", 8, "'all+ep' is not a capability"),
        ("/x f 755 0 0\n|xattr cap_kill-p", 8, "'cap_kill-p' is not a capability"),
        ("/x f 755 0 0\n|xattr cap_kill+e", 8, "a file has one effective bit for all"),
        ("/x f 755 0 0\n|xattr cap_kill+ep cap_x", 1, "begins no row"),
    ],
)
def test_a_bad_xattr_line(text: str, column: int, message: str) -> None:
    (said,) = problems_of(text)
    assert said.startswith(f"table:2:{column}: error: ")
    assert message in said


def test_the_effective_bit_is_for_all_of_a_file() -> None:
    (said,) = problems_of("/x f 755 0 0\n|xattr cap_kill+p\n|xattr cap_chown+ep\n")
    assert said.startswith("table:3:8: error: 'cap_chown+ep': a file has one effective bit for all")


@given(st.sets(st.integers(0, len(CAPABILITIES) - 1), min_size=1), st.sampled_from(["ep", "eip", "ip", "p", "i"]))
def test_every_capability_is_read_back_by_the_manifest(numbers: set[int], flags: str) -> None:
    names = ",".join(f"cap_{CAPABILITIES[number]}" for number in sorted(numbers))
    row = rows_of(f"/x f 755 0 0\n|xattr {names}+{flags}\n")[0]
    assert row.caps is not None
    assert caps_text(row.caps.encode()) == f"{names}={flags}"


def test_no_capabilities_are_no_bits() -> None:
    assert Capabilities().encode() == struct.pack("<5I", 0x02000000, 0, 0, 0, 0)


WORDS = st.sampled_from(
    [*"fFdrcbp-", "/a", "/", "..", "-1", "755", "0", "root", "|xattr", "cap_kill+ep", "#", "\t", "\n"]
)


@given(st.one_of(st.binary(), st.lists(WORDS).map(lambda words: " ".join(words).encode())))
def test_any_bytes_are_a_table_or_problems_with_places(raw: bytes) -> None:
    rows, problems = tried(raw)
    assert all(row.path.startswith("/") for row in rows)
    lines = raw.count(b"\n") + 1
    assert all(1 <= problem.mark.line <= lines and problem.mark.column >= 1 for problem in problems)


def tried(raw: bytes) -> tuple[tuple[Row, ...], tuple[Problem, ...]]:
    try:
        return parse_ownership(raw, "t").rows, ()
    except ProfileError as error:
        return (), error.problems
