# SPDX-License-Identifier: MIT
"""The real probe asks a manager on a socket: units, jobs, timers, and a manager that says nonsense."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakepid1 import Manager, listening, path_of
from probing import Facts, run_plan

from rofs.verify import probe_wire as wire

UNITS = (
    ("a-b.service", "loaded", "active", "running"),
    ("bad.service", "loaded", "failed", "failed"),
    ("dead.service", "loaded", "inactive", "dead"),
    ("srv-x\\x2dy.mount", "loaded", "active", "mounted"),
    ("dev-vda.device", "loaded", "active", "plugged"),
    ("gone.service", "not-found", "inactive", "dead"),
    ("1.timer", "loaded", "active", "waiting"),
    ("2.timer", "loaded", "active", "waiting"),
)
PROPERTIES: dict[tuple[str, str], str | int] = {
    ("a-b.service", "NRestarts"): 3,
    ("bad.service", "NRestarts"): 0,
    ("bad.service", "Result"): "exit-code",
    ("bad.service", "ExecMainStatus"): 255,
    ("srv-x\\x2dy.mount", "FragmentPath"): "/etc/systemd/system/srv-x\\x2dy.mount",
    ("alias.service", "Id"): "a-b.service",
    ("1.timer", "Unit"): "one.service",
    ("2.timer", "Unit"): "bad.service",
    ("one.service", "ActiveState"): "inactive",
    ("bad.service", "ActiveState"): "failed",
}


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short one: a socket's path has 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="rofs-") as scratch:
        monkeypatch.setenv("ROFS_REHEARSAL_ROOT", scratch)
        yield Path(scratch)


def ask(root: Path, *ops: wire.Op) -> list[Facts]:
    (root / "plan").write_bytes(wire.encode_plan(ops))
    return run_plan(root / "plan")[1:-1]


def test_units_with_what_each_kind_has(root: Path) -> None:
    with listening(root, Manager(UNITS, PROPERTIES)) as manager:
        (found,) = ask(root, wire.units(["alias.service", "nobody.service"]))
    assert found["errno"] is None and found["names"] == {"alias.service": "a-b.service"}
    rows = {row.pop("name"): row for row in found["units"]}
    assert list(rows) == [n for n, load, *_ in UNITS if load == "loaded" and not n.endswith(".device")]
    assert rows["a-b.service"] == {
        "description": "of%20a-b.service", "load": "loaded", "active": "active", "sub": "running", "NRestarts": "3",
    }  # fmt: skip
    assert (rows["bad.service"]["Result"], rows["bad.service"]["ExecMainStatus"]) == ("exit-code", "255")
    assert "NRestarts" not in rows["dead.service"]
    assert rows["srv-x\\x2dy.mount"]["FragmentPath"] == "/etc/systemd/system/srv-x\\x2dy.mount"
    assert ("Get", path_of("dead.service")) not in {call[:2] for call in manager.asked}


def test_the_end_of_the_boot_is_waited_for(root: Path) -> None:
    jobs = [("late.service", "start", "running"), ("more.service", "start", "waiting")]
    with listening(root, Manager(states=["initializing", "starting", "degraded"], jobs=[jobs])) as manager:
        (found,) = ask(root, wire.running(20))
    assert found["state"] == "degraded"
    assert found["jobs"] == ["late.service start running", "more.service start waiting"]
    assert [call[0] for call in manager.asked] == ["Get", "Get", "Get", "ListJobs"]
    assert 0.2 <= found["seconds"] < 15, "two looks, a tenth of a second apart"


def test_a_boot_that_does_not_end_is_not_waited_for_longer(root: Path) -> None:
    with listening(root, Manager(states=["starting"])):
        (found,) = ask(root, wire.running(1))
    assert (found["errno"], found["state"]) == (None, "starting") and found["seconds"] >= 1


def test_what_timers_start_is_started_and_waited_for(root: Path) -> None:
    jobs = [[("one.service", "start", "running")], [("one.service", "start", "running")], []]
    with listening(root, Manager(UNITS, PROPERTIES, jobs=jobs)) as manager:
        (found,) = ask(root, wire.timers(20))
    assert found["errno"] is None
    assert found["started"] == [
        {"unit": "one.service", "error": "", "waiting": False},
        {"unit": "bad.service", "error": "failed", "waiting": False},
    ]
    starts = [call[2:] for call in manager.asked if call[0] == "StartUnit"]
    assert starts == [("one.service", "replace"), ("bad.service", "replace")]
    assert sum(call[0] == "ListJobs" for call in manager.asked) == 3


def test_a_timer_whose_unit_cannot_be_started_or_takes_too_long(root: Path) -> None:
    busy = [[("one.service", "start", "running")]] * 100
    refused = {"bad.service": "org.freedesktop.systemd1.UnitMasked"}
    with listening(root, Manager(UNITS, PROPERTIES, jobs=busy, refused=refused)):
        (found,) = ask(root, wire.timers(1))
    assert found["started"] == [
        {"unit": "one.service", "error": "", "waiting": True},
        {"unit": "bad.service", "error": "org.freedesktop.systemd1.UnitMasked", "waiting": False},
    ]


def test_no_timers(root: Path) -> None:
    with listening(root, Manager(UNITS[:1], PROPERTIES)):
        (found,) = ask(root, wire.timers(5))
    assert (found["errno"], found["started"]) == (None, [])


def test_without_systemd_there_is_nobody_to_ask(root: Path) -> None:
    found = ask(root, wire.running(5), wire.units(), wire.timers(5))
    assert [f["errno"] for f in found] == ["ENOENT"] * 3


def head(kind: int, body: int, fields: int, serial: int) -> bytes:
    """A header whose only field is REPLY_SERIAL, which says `fields` bytes."""
    return struct.pack("=cBBBIII", b"l", kind, 0, 1, body, 9, fields) + struct.pack("=B3sI", 5, b"\1u\0", serial)


@pytest.mark.parametrize(
    "answer",
    [
        head(2, 8, 8, 1) + struct.pack("=II", 1 << 20, 0),  # an array longer than the body
        head(2, 24, 8, 1) + struct.pack("=II", 16, 0) + struct.pack("=II", 1 << 30, 0) * 2,  # a string that is
        head(2, 12, 8, 1) + struct.pack("=II", 3, 0) + b"abcd",  # half a struct
        head(2, 0, 8, 1),
        head(2, 1 << 31, 8, 1),
        head(2, 0, 1 << 30, 1),
    ],
    ids=["array", "string", "struct", "empty", "body", "fields"],
)
def test_a_manager_that_says_nonsense(root: Path, answer: bytes) -> None:
    with listening(root, Manager(UNITS, PROPERTIES, answer=answer, noise=False)):
        (found,) = ask(root, wire.units())
    assert found["errno"] in ("EPROTO", "EMSGSIZE") and found["units"] == []
