# SPDX-License-Identifier: MIT
"""A session as text, as a terminal's summary, as JSON and as JUnit: counts, places, and a guest that is hostile."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from jsonschema import Draft202012Validator, ValidationError
from layouts import OTHER, busybox_tree, layout_of
from reported import AGAIN, ALL, BAD, EVIL, GOOD, IMAGE, PLAIN, VAR, hostile, record, report, result
from state_layouts import TEXTS, made

from rofs.verify.check import Outcome, broken, kept
from rofs.verify.findings import boot_range, clean, cut, group, one_line
from rofs.verify.report import (
    Report,
    render_json,
    render_junit,
    render_summary,
    render_text,
    write_report,
)

ROOT = Path(__file__).resolve().parents[2]
SCHEMA: dict[str, Any] = json.loads((ROOT / "rofs/report.schema.json").read_text("utf-8"))
THREE = report(GOOD, BAD, PLAIN)


def is_printable(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


# --- text ---------------------------------------------------------------------------------------------


def test_text_lists_the_broken_first_with_their_places() -> None:
    lines = render_text(THREE).splitlines()
    assert lines[0] == "sample arm64: REJECTED"
    assert "3 checks over 2 boots, 1 broken" in lines and "a note" in lines
    assert "machine: 512 MiB, 2 CPUs, rofs 0.1.0, qemu 7.2.19" in lines
    boots = [line for line in lines if line.startswith("boot ")]
    assert boots == [
        "boot 1: 8.2 s, the guest powered off, cmdline: ro root=/dev/vda",
        "boot 2 (state missing): 8.2 s, the guest powered off, cmdline: ro root=/dev/vda",
    ]
    assert lines.index("-- broken") < lines.index("-- kept")
    (head,) = [line for line in lines if line.startswith("BROKEN")]
    assert "boot 2  size cap: " in head and head.endswith("[profile.yaml:13:53 mounts[0].size]")
    assert lines[lines.index(head) + 1].count("(expected: ") == 1
    (kept_line,) = [line for line in lines if "mount: /tmp" in line]
    assert kept_line.startswith("ok     boot 1  ") and "[profile.yaml:16:5 mounts[3]]" in kept_line
    assert is_printable(render_text(THREE))


def test_what_is_of_the_image_is_of_no_boot() -> None:
    assert "ok     image  image: files" in render_text(report(IMAGE)).splitlines()


def test_boots_may_have_had_other_machines() -> None:
    about = report(GOOD)
    first, second = about.session.boots
    boots = (first, replace(second, machine=replace(second.machine, cpus=1)))
    text = render_text(replace(about, session=replace(about.session, boots=boots)))
    assert "machine: 512 MiB, 2 CPUs or 512 MiB, 1 CPU, rofs 0.1.0, qemu 7.2.19" in text.splitlines()


def test_accepted_needs_a_check() -> None:
    assert render_text(report(GOOD)).startswith("sample arm64: accepted\n")
    assert render_text(report()).startswith("sample arm64: REJECTED\n")


# --- the summary on a terminal --------------------------------------------------------------------------


def test_a_summary_of_a_good_image_is_short() -> None:
    assert render_summary(report(IMAGE, GOOD, AGAIN), "images/x/arm64", Path("out")) == (
        "images/x/arm64: verified, 3 of 3 checks kept over 2 boots\n"
        "  machine: tcg (no /dev/kvm), 512 MiB, 2 CPUs, rofs 0.1.0, qemu 7.2.19\n"
        "  boots:   1 8.2 s, state missing 8.2 s\n"
        "  note:    a note\n"
        "  report:  out/report.html (and report.txt, report.json, report.xml)\n"
    )


def test_a_summary_has_each_broken_check_once_below_its_promise() -> None:
    def lost(boot: int, seen: str) -> Outcome:
        return Outcome(boot=boot, promise="mount", subject="/var", at=("mounts", 1), verdict=broken("overlay", seen))

    same = [lost(1, "squashfs"), lost(2, "tmpfs"), lost(3, "tmpfs"), lost(5, "tmpfs")]
    lines = render_summary(report(GOOD, *same, BAD), "x", Path()).splitlines()
    assert lines[0] == "x: REJECTED, 1 of 6 checks kept over 2 boots"
    assert lines[1:4] == [
        "  mount",
        "    /var [profile.yaml:14:5 mounts[1]], boots 1-3, 5: expected overlay; seen squashfs",
        "  size cap",
    ]
    assert lines[4].count("[profile.yaml:13:53 mounts[0].size], boot 2: expected ") == 1
    assert is_printable("\n".join(lines))


def test_a_summary_shows_twenty_and_counts_the_rest() -> None:
    many = [
        Outcome(boot=1, promise=f"p{n % 3}", subject=f"s{n}", at=(), verdict=broken("x" * 999, "y" * 9999))
        for n in range(50)
    ]
    lines = render_summary(report(*many), "x", Path()).splitlines()
    assert sum(line.startswith("    s") for line in lines) == 20
    assert "  and 30 more: all 50 are in the report" in lines
    assert max(map(len, lines)) < 500


def test_a_boot_that_did_not_end_well_says_so() -> None:
    boots = [record(made=result("", "timeout", 600))]
    assert "  boots:   1 600.0 s timeout" in render_summary(report(GOOD, boots=boots), "x", Path()).splitlines()


# --- JSON -----------------------------------------------------------------------------------------------


def test_json() -> None:
    data = json.loads(render_json(THREE))
    assert (data["verdict"], data["profile"], data["architecture"]) == ("rejected", "sample", "arm64")
    assert data["accelerator"] == {"chosen": "tcg", "reason": "no /dev/kvm", "ran": ["tcg"]}
    assert data["tools"] == {"rofs": "0.1.0", "qemu": "7.2.19"} and data["files"] == {"vmlinuz": "0a" * 32}
    assert [(b["number"], b["title"], b["seconds"]) for b in data["boots"]] == [
        (1, "", 8.25),
        (2, "state missing", 8.25),
    ]
    assert data["boots"][0]["machine"] == {"memory_bytes": 512 << 20, "cpus": 2, "clock": None}
    assert {"seconds": 2.25, "what": "the initrd starts", "source": "kernel"} in data["boots"][0]["timeline"]
    assert [c["ok"] for c in data["checks"]] == [True, False, True]
    assert data["checks"][1]["subject"] == EVIL and data["checks"][2]["place"] == ""
    assert data["counts"] == {
        "checks": 3, "kept": 2, "broken": 1, "boots": 2,
        "promises": {
            "mount": {"checks": 1, "broken": 0}, "size cap": {"checks": 1, "broken": 1},
            "boot": {"checks": 1, "broken": 0},
        },
    }  # fmt: skip


@cache
def many_reports() -> dict[str, Report]:
    return {
        **{f"layout {name}": report(*ALL, layout=made(name)[0]) for name in TEXTS},
        "all": report(*ALL), "nothing": report(boots=(), notes=(), tools={}), "hostile": hostile(),
        "other init": report(GOOD, layout=layout_of(OTHER, busybox_tree())),
        "a boot without a word": report(BAD, boots=[record(made=result("", "crash"), moments=())]),
    }  # fmt: skip


@pytest.mark.parametrize("name", many_reports())
def test_json_is_what_its_schema_says(name: str) -> None:
    Draft202012Validator(SCHEMA).validate(json.loads(render_json(many_reports()[name])))


def test_the_schema_is_a_schema_and_describes_every_key() -> None:
    Draft202012Validator.check_schema(SCHEMA)

    def check(node: dict[str, Any], path: str) -> None:
        if "properties" in node:
            assert node["additionalProperties"] is False, path
            assert set(node["required"]) == set(node["properties"]), path
            for key, value in node["properties"].items():
                assert value["description"].endswith("."), f"{path}.{key}"
                check(value, f"{path}.{key}")
        for key in ("items", "additionalProperties"):
            if isinstance(node.get(key), dict):
                check(node[key], f"{path}.{key}")

    check(SCHEMA, "")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["more"], 1),
        (["verdict"], "fine"),
        (["boots", 0, "more"], 1),
        (["boots", 0, "timeline", 0, "seconds"], -1),
        (["boots", 0, "machine", "cpus"], "2"),
        (["checks", 0, "boot"], None),
        (["files", "vmlinuz"], "0a"),
    ],
)
def test_the_schema_refuses_what_is_not_so(path: list[str | int], value: object) -> None:
    data: Any = json.loads(render_json(report(*ALL)))
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate(data)


# --- JUnit ----------------------------------------------------------------------------------------------


ALLOWED = {
    "testsuites": ({"name", "tests", "failures", "errors", "skipped", "time"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped", "time"}, {"testcase"}),
    "testcase": ({"name", "classname", "time"}, {"failure", "system-out"}),
    "failure": ({"message", "type"}, set()),
    "system-out": (set(), set()),
}
"""What rofs uses of the format that CI systems share: of an element all attributes, and any of these children."""


def junit(about: Report) -> ET.Element:
    root = ET.fromstring(render_junit(about).encode())
    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.attrib) == attributes and {c.tag for c in element} <= children
    return root


def test_junit_has_a_suite_for_the_image_and_for_each_boot() -> None:
    root = junit(report(*ALL))
    suites = root.findall("testsuite")
    counts = [(s.get("name"), s.get("tests"), s.get("failures"), len(s.findall("testcase"))) for s in suites]
    assert counts == [("image", "1", "0", 1), ("boot 1", "2", "1", 2), ("boot 2 (state missing)", "3", "1", 3)]
    failures = list(root.iter("failure"))
    text = failures[1].text or ""
    assert "\ufffd" in text and "<&>" in text and "ü" in text and "profile.yaml:13:53" in text
    assert failures[1].get("message")
    assert next(root.iter("testcase")).get("name") == "files"
    assert {c.get("classname") for c in root.iter("testcase")} == {
        "sample.arm64.image", "sample.arm64.mount", "sample.arm64.size cap", "sample.arm64.boot",
    }  # fmt: skip


@pytest.mark.parametrize("name", many_reports())
def test_the_sums_of_junit_are_right(name: str) -> None:
    about = many_reports()[name]
    root = junit(about)
    for key in ("tests", "failures", "errors", "skipped"):
        assert int(root.attrib[key]) == sum(int(s.attrib[key]) for s in root)
    assert int(root.attrib["tests"]) == len(about.session.outcomes) == len(list(root.iter("testcase")))
    assert int(root.attrib["failures"]) == len(about.broken) == len(list(root.iter("failure")))
    assert float(root.attrib["time"]) == pytest.approx(sum(b.result.seconds for b in about.session.boots))
    for suite in root:
        assert int(suite.attrib["tests"]) == len(suite)
        assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))


def test_the_time_of_a_boot_is_that_of_its_first_case() -> None:
    (image, first, second) = junit(report(IMAGE, GOOD, PLAIN))
    assert (image.get("time"), first.get("time"), second.get("time")) == ("0.000", "8.250", "8.250")
    assert [case.get("time") for case in second] == ["8.250"] and [case.get("time") for case in first] == ["0.000"]


# --- what they share ------------------------------------------------------------------------------------


def test_all_files(tmp_path: Path) -> None:
    for about in (THREE, hostile()):
        write_report(about, tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {"report.json", "report.xml", "report.txt", "report.html"}
        assert ET.parse(tmp_path / "report.xml").getroot().tag == "testsuites"
        assert json.loads((tmp_path / "report.json").read_text("utf-8"))["profile"] == "sample"


def test_no_form_for_people_moves_a_cursor() -> None:
    about = hostile()
    for text in (render_text(about), render_summary(about, "x", Path())):
        assert is_printable(text) and "red" in text


def test_no_form_for_programs_moves_a_cursor_either() -> None:
    """`--format` prints them on a terminal as well."""
    evil = replace(BAD, verdict=broken("\x9b2J", "\x9b2J \x7f \x85 \u202e"))
    about = report(evil)
    said = render_json(about)
    assert is_printable(said) and json.loads(said)["checks"][0]["seen"] == evil.verdict.seen
    assert not set(render_junit(about)) & {"\x9b", "\x7f", "\x85", "\x1b"}


def test_the_last_words_of_a_console_are_in_the_summary_where_a_boot_fails() -> None:
    failed = replace(BAD, boot=1, promise="boot")
    ended = [record(made=result("first\n\nlast \x1b[2Jwords\n", "timeout"))]
    said = render_summary(report(failed, boots=ended), "x", Path())
    assert "  console of boot 1, at its end:\n    | first\n    | last \ufffd[2Jwords\n" in said
    mute = [record(made=result("", "timeout"))]
    assert "(nothing was said)" in render_summary(report(failed, boots=mute), "x", Path())
    assert "console of" not in render_summary(report(replace(BAD, boot=1), boots=ended), "x", Path())


def test_groups_are_by_promise_and_the_broken_ones_come_first() -> None:
    groups = group(ALL)
    assert [(g.promise, g.broken, g.checks) for g in groups] == [
        ("mount", 1, 3), ("size cap", 1, 1), ("image", 0, 1), ("boot", 0, 1),
    ]  # fmt: skip
    assert [(f.subject, f.outcomes) for f in groups[0].findings] == [
        ("/var (overlay)", (VAR,)), ("/tmp (tmpfs)", (GOOD, AGAIN)),
    ]  # fmt: skip
    assert sum(len(f.outcomes) for g in groups for f in g.findings) == len(ALL)


def test_one_subject_that_two_keys_promise_stays_two() -> None:
    other = Outcome(boot=1, promise="mount", subject="/tmp (tmpfs)", at=("mounts", 4), verdict=kept("", ""))
    assert [len(f.outcomes) for f in group([GOOD, other])[0].findings] == [1, 1]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([0], "image"), ([1], "boot 1"), ([2, 1], "boots 1-2"), ([1, 2, 3, 5], "boots 1-3, 5"), ([1, 3], "boots 1, 3"),
        ([0, 1, 2], "image, boots 1-2"), ([1, 1], "boot 1"), ([], ""),
    ],
)  # fmt: skip
def test_ranges_of_boots(numbers: list[int], words: str) -> None:
    assert boot_range(numbers) == words


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a\x1b[31mred\x1b[0m b", "ared b"),
        ("\x1b]0;title\x07text \x1b]8;;http://example.org\x1b\\link", "text link"),
        ("\x1b(B\x1b=x\x1bMy\x9b2Jz", "xyz"),
        ("one\r\ntwo\rthree\tfour", "one\ntwo\nthree\tfour"),
        ("bell \x07 nul \x00 back \u202e half \ud800", "bell \ufffd nul \ufffd back \ufffd half \ufffd"),
        ("cut off \x1b[", "cut off "),
        ("ü €", "ü €"),
    ],
)
def test_a_terminal_is_not_what_reads_it(said: str, shown: str) -> None:
    assert clean(said) == shown
    assert re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]*", one_line(said))


def test_a_long_text_keeps_both_ends() -> None:
    assert cut("abcdef", 3) == "abcdef" and cut("abcdefg", 3) == "abc\n[... 1 characters left out ...]\nefg"
    assert one_line("abcdef", 6) == "abcdef" and one_line("abcdefg", 6) == "abcde…"
