# SPDX-License-Identifier: MIT
"""What a boot begins with: overlays over something else, upper directories with a past, seeds that are stale."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from guest import AGAIN, BOOTED, COLD, Answer, Guest, Rule, rejected
from layouts import RICH, P, entries_of, layout_of
from probing import parse, rehearsal
from state_layouts import boot_of, made

from rofs.verify import probe_wire as wire
from rofs.verify.begins import content_of_image_checks, shown_from_below
from rofs.verify.check import by_path
from rofs.verify.probe_wire import quote
from rofs.verify.scenario import Scenario

LAYOUT = layout_of(RICH)
ENTRIES = entries_of(LAYOUT)
ETC, VAR, WWW = "image content: /etc", "image content: /var", "image content: /srv/www"
UPPER = "/run/rofs/tmpfs/etc/upper"
COMPARED = f"compare {UPPER} /run/rofs/image/etc upper"
SEEDED = "compare /run/rofs/tmpfs/srv-www/data /run/rofs/image/srv/www"
ON_STATE = "compare /run/rofs/state/data/overlay/etc/upper /run/rofs/image/etc upper"


def lying(op: str, rule: Rule, scenario: Scenario = COLD) -> Guest:
    guest = Guest(LAYOUT, ENTRIES, scenario)
    guest.rules[op] = rule
    return guest


def with_entry(how: str, *what: str, **more: Any) -> Rule:
    """One more finding of `compare`."""
    entry = {"path": "x", "how": how, **({"what": list(what)} if what else {}), **more}
    return lambda true: {**true, "entries": [*true["entries"], entry]}


def ops_of(name: str, state: str, where: str = ETC) -> list[str]:
    layout, entries = made(name)
    checks = content_of_image_checks(layout, entries, boot_of(name, state))
    return [str(op) for c in checks if c.name == where for op in c.ops]


def test_which_paths_begin_as_the_image() -> None:
    assert {c.name for c in content_of_image_checks(LAYOUT, ENTRIES, COLD)} == {ETC, VAR, WWW}
    assert all(c.phase == "quiet" for c in content_of_image_checks(LAYOUT, ENTRIES, COLD))
    assert rejected(Guest(LAYOUT, ENTRIES)) == rejected(Guest(LAYOUT, ENTRIES, AGAIN)) == {}


@pytest.mark.parametrize(
    ("state", "fresh", "asked"),
    [("new", True, True), ("reset", True, True), ("lost", True, True), ("used", False, True), ("kept", False, False)],
)
def test_what_a_device_has_written_is_not_in_the_way(state: str, fresh: bool, asked: bool) -> None:
    ops = ops_of("state", state)
    assert bool(ops) is asked and (ON_STATE in ops) is fresh
    assert "compare /run/rofs/tmpfs/var/upper /run/rofs/image/var upper" in ops_of("state", state, VAR)


# --- upper directories --------------------------------------------------------------------------------

OLD = {"mtime": BOOTED - 11}
NEW = {"mtime": BOOTED - 10}


@pytest.mark.parametrize(
    ("rule", "seen"),
    [
        (with_entry("differs", "size", "content", "mtime", **OLD), "x differs in size and content and mtime"),
        (with_entry("differs", "content", **OLD), "x differs in content"),
        (with_entry("differs", "mtime", **OLD), "x differs in mtime"),
        (with_entry("differs", "type", **OLD), "x differs in type"),
        (with_entry("differs", "mode", "target", **OLD), "x differs in mode and target"),
        (with_entry("differs", "unreadable"), "x differs in unreadable"),
        (with_entry("deleted", **OLD), "x deleted"),
        (with_entry("opaque", **OLD), "x opaque"),
        (with_entry("opaque", "mode", **OLD), "x opaque in mode"),
        (lambda true: {**true, "truncated": True}, "more of the image is hidden than could be listed"),
        (lambda true: {**true, "errno": "EIO"}, "cannot be compared: EIO"),
    ],
)
@pytest.mark.parametrize("scenario", [COLD, AGAIN])
def test_an_upper_directory_that_was_not_empty(rule: Rule, seen: str, scenario: Scenario) -> None:
    found = rejected(lying(COMPARED, rule, scenario))
    assert list(found) == [ETC] and found[ETC].endswith(seen)


@pytest.mark.parametrize(
    "rule",
    [
        with_entry("differs", "size", "content", "mtime", **NEW),
        with_entry("differs", "type", **NEW),
        with_entry("deleted", **NEW),
        with_entry("opaque", **NEW),
        with_entry("same", **OLD),
        with_entry("differs", "mode", **OLD),
        with_entry("differs", "mode", "owner", "xattrs", **OLD),
    ],
)
def test_what_a_service_did_since(rule: Rule) -> None:
    """A change of mode copies the file up, and the copy has the file's own time."""
    assert rejected(lying(COMPARED, rule)) == {}


@pytest.mark.parametrize("state", ["new", "used", "reset", "lost"])
def test_an_upper_directory_on_state(state: str) -> None:
    guest = Guest(*made("state"), boot_of("state", state))
    guest.rules[ON_STATE] = with_entry("deleted", **OLD)
    assert list(rejected(guest)) == ([] if state == "used" else [ETC])


# --- what is below an overlay -------------------------------------------------------------------------


def generated(where: str) -> list[str]:
    """The files that are looked at below an overlay."""
    (check,) = [c for c in content_of_image_checks(LAYOUT, ENTRIES, COLD) if c.name == f"image content: {where}"]
    (op,) = [op for op in check.ops if op.name == "files"]
    return [arg.decode() for arg in op.args[1:]]


def test_the_files_that_are_looked_at() -> None:
    paths = generated("/etc")
    live, image, upper = paths[::3], paths[1::3], paths[2::3]
    assert 0 < len(live) <= 8 and {str(LAYOUT.owner(P(p)).where) for p in live} == {"/etc"}
    assert image == [f"/run/rofs/image{p}" for p in live]
    assert upper == [p.replace("/etc", UPPER, 1) for p in live], "after what is seen, so that it was not there then"


@pytest.mark.parametrize(
    "rule", [lambda true: {**true, "ino": true["ino"] + 1}, lambda true: {**true, "ino": None}, {"errno": "ENOENT"}]
)
def test_an_overlay_over_something_else(rule: Rule) -> None:
    first, *_ = generated("/etc")
    found = rejected(lying(f"lstat {quote(first)}", rule))
    assert found[ETC] == f"not the image's own file: {first}"


def test_an_inode_number_may_have_the_layers_in_its_high_bits() -> None:
    """As with xino=on."""
    first, *_ = generated("/etc")
    assert rejected(lying(f"lstat {quote(first)}", lambda true: {**true, "ino": true["ino"] | 1 << 63})) == {}


def test_what_is_copied_up_is_not_the_images_file_any_more() -> None:
    first, _, upper, *_ = generated("/etc")
    guest = lying(f"lstat {quote(first)}", lambda true: {**true, "ino": 1})
    guest.rules[f"lstat {quote(upper)}"] = {"errno": None, "type": "file", "ino": 1}
    assert rejected(guest) == {}


def test_names_of_the_image_that_are_not_shown() -> None:
    found = rejected(lying("list /var", lambda true: {**true, "names": [n for n in true["names"] if n != "b%20c"]}))
    assert list(found) == [VAR] and "missing: b%20c" in found[VAR]
    found = rejected(lying("list /run/rofs/image/var", lambda true: {**true, "names": [], "errno": "ENOENT"}))
    assert list(found) == [VAR]


OVERLAY = """
    cd @tmp; mkdir t; mount -t tmpfs none t; cd t; mkdir tree lower upper work merged
    for n in 1 2 3; do echo $n > tree/f$n; done
    mksquashfs tree disk -quiet -no-progress; mount -o loop,ro disk lower
    @below
    mount -t overlay -o lowerdir=$lower,upperdir=upper,workdir=work,@options overlay merged
    echo more >> merged/f3
    exec @probe
"""


@pytest.mark.needs("root", "unshare", "mksquashfs")
@pytest.mark.parametrize("options", ["xino=off", "xino=on", "index=off"])
@pytest.mark.parametrize(
    ("below", "strange"), [("lower=lower", []), ("mkdir x; cp -a lower/. x; lower=x", ["f1", "f2"])]
)
def test_overlays_that_the_kernel_made(tmp_path: Path, options: str, below: str, strange: list[str]) -> None:
    rows = [tuple(str(tmp_path / "t" / d / f"f{n}") for d in ("merged", "lower", "upper")) for n in (1, 2, 3)]
    triples = [(a, b, c) for a, b, c in rows]
    (tmp_path / "plan").write_bytes(wire.encode_plan([wire.files([p for row in triples for p in row])]))
    script = OVERLAY.replace("@below", below).replace("@options", options)
    script = script.replace("@probe", f"{rehearsal()} {tmp_path}/plan --output -").replace("@tmp", str(tmp_path))
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=60)
    answer: Answer = parse(done.stdout)[1]
    assert shown_from_below(triples, by_path(answer)) == (2, [str(tmp_path / "t/merged" / f) for f in strange])


# --- seeds in memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "seen"),
    [
        (with_entry("missing"), "x missing; "),
        (with_entry("differs", "content", "mtime", **OLD), "x differs in content and mtime; "),
        (with_entry("differs", "content"), "x differs in content; "),
        (lambda true: {**true, "errno": "ENOENT"}, "cannot be compared: ENOENT"),
    ],
)
def test_a_seed_in_memory_that_is_no_copy(rule: Rule, seen: str) -> None:
    found = rejected(lying(SEEDED, rule))
    assert list(found) == [WWW] and seen in found[WWW]


def test_a_seed_in_memory_that_a_service_writes_to() -> None:
    assert rejected(lying(SEEDED, with_entry("differs", "content", "mtime", **NEW))) == {}
