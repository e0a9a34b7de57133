# SPDX-License-Identifier: MIT
"""The wire without the probe: encoding of any byte, and events out of noise."""

from __future__ import annotations

import json
import os
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rofs.errors import ToolError
from rofs.verify import probe_wire as wire

ANY_BYTES = st.binary().filter(lambda b: b"\0" not in b)
LINE = b'{"id":3,"op":"read","errno":null,"data":"aGkK","truncated":false}'


def decode_plan(plan: bytes) -> list[tuple[str, list[bytes]]]:
    """An independent reading of the plan, as README.md has it."""
    rows = [line.split("\t") for line in plan.decode("ascii").split("\n")[:-1]]
    return [(row[0], [wire.unquote(field) for field in row[1:]]) for row in rows]


@given(st.lists(ANY_BYTES, max_size=4))
def test_any_bytes_come_back_from_the_plan(fields: list[bytes]) -> None:
    plan = wire.encode_plan([wire.run(5, *fields), wire.sync()])
    assert decode_plan(plan) == [("run", [b"5", *fields]), ("sync", [])]


@given(ANY_BYTES)
def test_quote_is_plain_ascii_and_has_an_inverse(data: bytes) -> None:
    quoted = wire.quote(data)
    assert wire.unquote(quoted) == data
    assert all(0x21 <= ord(c) <= 0x7E for c in quoted)
    assert wire.quote(os.fsdecode(data)) == quoted


@pytest.mark.parametrize(
    ("op", "line"),
    [
        (wire.read("/etc/os-release"), b"read\t/etc/os-release\n"),
        (wire.read("/a b", 10), b"read\t/a%20b\t10\n"),
        (wire.read(b"/\xff\t%\n"), b"read\t/%FF%09%25%0A\n"),
        (wire.list_dir(PurePosixPath("/usr")), b"list\t/usr\n"),
        (wire.lstat("/\udce4"), b"lstat\t/%E4\n"),
        (wire.attack("/usr"), b"attack\t/usr\n"),
        (wire.attack("/", only="rename-self"), b"attack\t/\tonly=rename-self\n"),
        (wire.compare("/a b", b"/\xff"), b"compare\t/a%20b\t/%FF\n"),
        (wire.compare("/a", "/b", upper=True), b"compare\t/a\t/b\tupper\n"),
        (wire.canary("/tmp/c", ""), b"canary\t/tmp/c\t\n"),
        (wire.files(["/a b", "/c"], 9), b"files\t9\t/a%20b\t/c\n"),
        (wire.sift(9, ["a b", "c"], "ls", "-l"), b"sift\t9\t2\ta%20b\tc\tls\t-l\n"),
        (wire.klog("I/O error"), b"klog\tI/O%20error\n"),
        (wire.listeners(3, ["tcp/22"]), b"listeners\t3\ttcp/22\n"),
        (wire.marked([("/a", "/b"), ("/c", "")]), b"marked\t/a\t/b\t/c\t\n"),
        (wire.brim(4096, ["/a", "/b"]), b"brim\t4096\t/a\t/b\n"),
        (wire.running(5), b"running\t5\n"),
        (wire.units(["a.service"]), b"units\ta.service\n"),
        (wire.timers(5), b"timers\t5\n"),
        (wire.shell(7, "echo 'x'; id"), b"exec\t7\techo%20'x';%20id\n"),
        (wire.Op("sync", timeout_s=90), b"sync@90\n"),
        (wire.settle(60), b"settle\t60\t2000\n"),
        (wire.settle(60, quiet_ms=500), b"settle\t60\t500\n"),
        (wire.poweroff("cut"), b"poweroff\tcut\n"),
    ],
)
def test_plan_lines(op: wire.Op, line: bytes) -> None:
    assert wire.encode_plan([op]) == line


def test_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL in an argument of 'read'"):
        wire.encode_plan([wire.read(b"/a\0b")])


def test_an_operation_reads_as_a_command() -> None:
    assert str(wire.shell(3, "true x")) == "exec 3 true%20x"


def test_an_answer() -> None:
    event = wire.parse_event(LINE)
    assert event is not None
    assert (event.kind, event.id, event.data()) == ("op", 3, b"hi\n")
    assert event.data("errno") is None
    assert event.data("absent") is None
    assert wire.Event("op", 3, {"data": "not base64!"}).data() is None


def test_an_event_of_the_run() -> None:
    event = wire.parse_event('{"event":"end","ops":4}')
    assert event is not None
    assert (event.kind, event.id, event.facts["ops"]) == ("end", None, 4)


@pytest.mark.parametrize(
    "noise",
    [
        b"", b"\n", b"[    1.234] systemd[1]: Started.", b"{}", b"[]", b"3", b"null", b'"x"', b"\xff\xfe{",
        b'{"id":true,"op":"read"}', b'{"id":"3","op":"read"}', b'{"id":3}', b'{"op":"read"}', b"[" * 100000,
        LINE + LINE, b"x" + LINE,
    ],
)  # fmt: skip
def test_noise_is_no_event(noise: bytes) -> None:
    assert wire.parse_event(noise) is None


@given(st.integers(0, len(LINE) - 1))
def test_a_line_cut_short_is_no_event(length: int) -> None:
    assert wire.parse_event(LINE[:length]) is None


@given(st.one_of(st.binary(), st.text()))
def test_nothing_makes_the_parser_fail(line: bytes | str) -> None:
    wire.parse_event(line)


def test_facts_cannot_be_changed() -> None:
    event = wire.parse_event(json.dumps({"event": "start"}))
    assert event is not None
    with pytest.raises(TypeError):
        event.facts["event"] = "x"  # type: ignore[index]


def test_a_missing_probe_says_what_builds_it() -> None:
    with pytest.raises(ToolError, match="guest probe for vax is not installed") as caught:
        wire.find_probe("vax")
    assert "pip install ." in caught.value.hint
