# SPDX-License-Identifier: MIT
"""The real probe on this host: what it sees, writes, runs, and survives."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from probing import Facts, content, rehearsal, run_plan

from rofs.verify import probe_wire as wire

Ask = Callable[..., list[Facts]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Operations -> their answers; start and end are taken off after a look at them."""

    def run(*ops: wire.Op) -> list[Facts]:
        plan = tmp_path / "plan"
        plan.write_bytes(wire.encode_plan(ops))
        events = run_plan(plan)
        assert events[0]["event"] == "start"
        assert events[-1] == {"event": "end", "ops": len(ops)}
        assert [e["id"] for e in events[1:-1]] == list(range(1, len(ops) + 1))
        return events[1:-1]

    return run


# --- looking -----------------------------------------------------------------------------------------


def test_the_start_says_where_it_runs(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"\n# nothing to do\n")
    start, end = run_plan(tmp_path / "plan")
    assert start["wire"] == wire.WIRE_VERSION
    assert (start["release"], start["machine"]) == (os.uname().release, os.uname().machine)
    assert end == {"event": "end", "ops": 0}


def test_read(ask: Ask, tmp_path: Path) -> None:
    every_byte = bytes(range(256)) * 3
    (tmp_path / "all").write_bytes(every_byte)
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    answers = ask(
        wire.read(tmp_path / "all"), wire.read(tmp_path / "all", 10), wire.read(tmp_path / "all", 768),
        wire.read(tmp_path / "empty"), wire.read("/proc/self/mountinfo"),
        wire.read(tmp_path / "none"), wire.read(tmp_path), wire.read(tmp_path / "fifo"),
        wire.read("/a", 10**9),
    )  # fmt: skip
    whole, cut, exact, empty, proc, missing, directory, fifo, too_much = answers
    assert (whole["errno"], content(whole), whole["truncated"]) == (None, every_byte, False)
    assert (content(cut), cut["truncated"]) == (every_byte[:10], True)
    assert (content(exact), exact["truncated"]) == (every_byte, False)
    assert content(empty) == b""
    assert b" - " in content(proc)
    assert [missing["errno"], directory["errno"], fifo["errno"]] == ["ENOENT", "EISDIR", "EINVAL"]
    assert too_much["error"] == "bad number of bytes"


@pytest.mark.parametrize("length", range(5))
def test_base64_of_every_remainder(ask: Ask, tmp_path: Path, length: int) -> None:
    (tmp_path / "f").write_bytes(b"\xfb\xff\xfe\x00\x01"[:length])
    assert content(ask(wire.read(tmp_path / "f"))[0]) == b"\xfb\xff\xfe\x00\x01"[:length]


def test_any_name_is_found_and_listed(ask: Ask, tmp_path: Path) -> None:
    names = [bytes(b for b in range(1, 128) if b != 0x2F), bytes(range(128, 256)), b"%41", b" ", b"a\n"]
    room = tmp_path / "room"
    room.mkdir()
    paths = [room / os.fsdecode(name) for name in names]
    for path in paths:
        path.touch()
    (room / "link").symlink_to(os.fsdecode(b"\xff %"))
    listed, link, *found = ask(wire.list_dir(room), wire.lstat(room / "link"), *map(wire.exists, paths))
    assert sorted(wire.unquote(n) for n in listed["names"]) == sorted([*names, b"link"])
    assert sorted(listed["names"]) == sorted(wire.quote(n) for n in [*names, b"link"])
    assert sorted(listed["types"]) == sorted("f" * len(names) + "l")
    assert wire.unquote(link["target"]) == b"\xff %"
    assert all(f["exists"] for f in found)


def test_lstat(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    path.chmod(0o4751)
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    paths = (str(path), "/dev/null", str(tmp_path), str(tmp_path / "none"))
    file, null, directory, missing = ask(*map(wire.lstat, paths))
    assert (file["type"], file["mode"], file["size"], file["nlink"]) == ("file", 0o4751, 5, 1)
    assert (file["mtime"], file["mtime_ns"], file["ino"]) == (1_700_000_000, 123_456_789, path.stat().st_ino)
    assert (file["uid"], file["gid"]) == (os.getuid(), os.getgid())
    assert (null["type"], null["rdev_major"], null["rdev_minor"]) == ("char", 1, 3)
    assert directory["type"] == "dir"
    assert missing == {"id": 4, "op": "lstat", "errno": "ENOENT"}


def test_statvfs(ask: Ask, tmp_path: Path) -> None:
    here, proc, missing = ask(wire.statvfs(tmp_path), wire.statvfs("/proc"), wire.statvfs("/none/x"))
    seen = os.statvfs(tmp_path)
    assert (here["frsize"], here["blocks"], here["files"]) == (seen.f_frsize, seen.f_blocks, seen.f_files)
    assert ("ro" in here["flags"]) == bool(seen.f_flag & os.ST_RDONLY)
    assert proc["f_type"] == 0x9FA0
    assert missing["errno"] == "ENOENT"


# --- writing -----------------------------------------------------------------------------------------


def test_write_and_canary_and_exists(ask: Ask, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    done, canary, there, not_there, refused = ask(
        wire.write(room), wire.canary(room / "c", "a\tb\n"), wire.exists(room / "c"), wire.exists(room / "d"),
        wire.write(tmp_path / "none"),
    )  # fmt: skip
    steps = ("create", "write", "read_back", "rename", "unlink")
    assert done["writable"] is True
    assert [done[step] for step in steps] == [None] * 5
    assert canary["errno"] is None
    assert (room / "c").read_bytes() == b"a\tb\n"
    assert (there["exists"], not_there["exists"], not_there["errno"]) == (True, False, "ENOENT")
    assert refused["writable"] is False
    assert {refused[step] for step in steps} == {"ENOENT"}
    assert [p.name for p in room.iterdir()] == ["c"]


def test_blkwrite_writes_what_was_there(ask: Ask, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(4096))
    before = image.read_bytes()
    answer, missing = ask(wire.blkwrite(image), wire.blkwrite(tmp_path / "none"))
    assert [answer[k] for k in ("open", "read", "write", "fsync", "roget")] == [None] * 4 + ["ENOTTY"]
    assert answer["read_only"] == -1
    assert image.read_bytes() == before
    assert missing == {"id": 2, "op": "blkwrite", "open": "ENOENT"}


def test_sync_answers(ask: Ask) -> None:
    assert ask(wire.sync())[0]["errno"] is None


# --- programs ----------------------------------------------------------------------------------------


def test_exec_has_a_clean_environment(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    answer = ask(wire.shell(5, "env; pwd; cat; echo wrong >&2; ls -l /proc/self/fd | grep -c ' -> '; exit 7"))[0]
    lines = content(answer).decode().splitlines()
    assert answer["status"] == 7
    assert {"HOME=/root", "LANG=C.UTF-8"} <= set(lines)
    assert not any(line.startswith("SECRET") for line in lines)
    assert lines[-3:] == ["/", "wrong", "4"], "a descriptor of the probe leaks: 0, 1, 2 and ls's own are four"


def test_run_needs_no_shell(ask: Ask) -> None:
    said, absent, killed = ask(
        wire.run(5, "printf", "%s|", "a b", "$HOME", b"\xff\t"), wire.run(5, "rofs-no-such-program"),
        wire.run(5, "sh", "-c", "kill -TERM $$"),
    )  # fmt: skip
    assert (said["status"], content(said)) == (0, b"a b|$HOME|\xff\t|")
    assert (absent["status"], content(absent)) == (127, b"rofs-probe: cannot execute: ENOENT\n")
    assert (killed["exit_signal"], "status" in killed) == (15, False)


def test_a_program_out_of_time_is_killed_with_its_children(ask: Ask, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    slow, next_one = ask(wire.shell(1, f"sleep 300 & echo $! > {pids}; echo early; wait"), wire.shell(5, "echo after"))
    assert (slow["timeout"], content(slow)) == (True, b"early\n")
    assert content(next_one) == b"after\n"
    assert not is_running(int(pids.read_text()))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_endless_output_is_kept_at_both_ends(ask: Ask) -> None:
    answer = ask(wire.shell(20, "echo first; seq 1 200000; echo last"))[0]
    head, tail = content(answer), content(answer, "tail")
    assert head.startswith(b"first\n1\n2\n")
    assert tail.endswith(b"200000\nlast\n")
    whole = len("first\nlast\n") + sum(len(str(n)) + 1 for n in range(1, 200001))
    assert len(head) + len(tail) + answer["dropped"] == whole
    assert len(head) == len(tail) == 128 * 1024


def test_a_program_that_never_pauses_is_stopped_too(ask: Ask) -> None:
    answer = ask(wire.run(1, "yes"))[0]
    assert answer["timeout"] is True
    assert answer["dropped"] > 0


def test_a_daemon_left_behind_does_not_hold_the_answer(ask: Ask, tmp_path: Path) -> None:
    answer = ask(wire.shell(30, f"sleep 300 & echo $! > {tmp_path}/pid; echo started"))[0]
    pid = int((tmp_path / "pid").read_text())
    try:
        assert (answer["status"], content(answer)) == (0, b"started\n")
        assert answer["seconds"] < 20
        assert is_running(pid)
    finally:
        os.kill(pid, 9)


# --- faults ------------------------------------------------------------------------------------------


def test_a_crash_is_reported_and_the_run_goes_on(ask: Ask) -> None:
    crash, next_one = ask(wire.shell(5, "kill -SEGV $PPID; sleep 5"), wire.exists("/"))
    assert crash["signal"] == 11
    assert next_one["exists"] is True


def test_an_operation_out_of_time_is_reported_and_the_run_goes_on(ask: Ask) -> None:
    slow = wire.Op("run", (b"60", b"sleep", b"60"), timeout_s=1)
    answer, next_one = ask(slow, wire.exists("/"))
    assert answer["timeout"] is True
    assert next_one["exists"] is True


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"nonsense\t/", "unknown operation"),
        (b"read", "wrong number of arguments"),
        (b"read\ta\t1\tb", "wrong number of arguments"),
        (b"read\t%4", "bad percent encoding"),
        (b"read\t%zz", "bad percent encoding"),
        (b"read\t%00", "NUL in a field"),
        (b"read@0\t/", "bad time limit"),
        (b"read@x\t/", "bad time limit"),
        (b"exec\tsoon\ttrue", "bad time limit"),
        (b"exec\t-1\ttrue", "bad time limit"),
        (b"brim\t99999999999999999999999\t/nowhere", "bad number of bytes"),
        (b"files\t99999999999\t/nowhere", "bad number of bytes"),
        (b"sift\t5\t3\ta\tb", "bad number of words"),
        (b"marked\t/a\t/b\t/c", "a path without its reference"),
        (b"listeners\tsoon", "bad time limit"),
        (b"timers\t0", "bad time limit"),
        (b"attack\t/nowhere\tfully", "unknown option"),
        (b"compare\t/nowhere", "wrong number of arguments"),
        (b"compare\t/nowhere\t/nowhere\tlower", "unknown option"),
        (b"settle", "wrong number of arguments"),
        (b"settle\tsoon", "bad time limit"),
        (b"settle\t0", "bad time limit"),
        (b"settle\t1\t0", "bad quiet time"),
        (b"settle\t1\tlong", "bad quiet time"),
        (b"poweroff\tcut", "poweroff needs --poweroff-on-exit"),
        (b"poweroff\tclean", "poweroff needs --poweroff-on-exit"),
        (b"poweroff", "poweroff needs --poweroff-on-exit"),
    ],
)
def test_a_bad_line_spoils_no_other(tmp_path: Path, line: bytes, error: str) -> None:
    (tmp_path / "plan").write_bytes(b"\n" + line + b"\nexists\t/\n")
    _, bad, good, end = run_plan(tmp_path / "plan")
    assert (bad["id"], bad["error"]) == (2, error)
    assert (good["id"], good["exists"]) == (3, True)
    assert end == {"event": "end", "ops": 2}


@pytest.mark.parametrize("data", [None, b"sync\n\0sync\n"])
def test_a_plan_that_cannot_be_read(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "plan").write_bytes(data)
    _, error, end = run_plan(tmp_path / "plan")
    assert (error["event"], error["errno"]) == ("error", "ENOENT" if data is None else "EINVAL")
    assert end == {"event": "end", "ops": 0}


def test_the_supervisor_outlives_the_runner(tmp_path: Path) -> None:
    kill_runner = "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat); sleep 5"
    (tmp_path / "plan").write_bytes(wire.encode_plan([wire.shell(9, kill_runner), wire.sync()]))
    assert run_plan(tmp_path / "plan")[1:] == [{"event": "crash", "signal": 9}]
    assert run_plan(tmp_path / "plan", "--poweroff-on-exit")[1:] == [
        {"event": "crash", "signal": 9},
        {"event": "rehearsal", "poweroff": 0},
    ]


@pytest.mark.parametrize(("mode", "ending"), [("clean", 10), ("cut", 11)])
def test_power_off_comes_after_the_end(tmp_path: Path, mode: Any, ending: int) -> None:
    (tmp_path / "plan").write_bytes(wire.encode_plan([wire.sync(), wire.poweroff(mode), wire.sync()]))
    assert run_plan(tmp_path / "plan", "--poweroff-on-exit")[2:] == [
        {"id": 2, "op": "poweroff", "mode": mode},
        {"event": "end", "ops": 2},
        {"event": "rehearsal", "poweroff": ending},
    ]


@pytest.mark.parametrize("plan", ["", "exists\t/\n", None])
def test_the_machine_is_ended_whatever_happens(tmp_path: Path, plan: str | None) -> None:
    if plan is not None:
        (tmp_path / "plan").write_text(plan)
    events = run_plan(tmp_path / "plan", "--poweroff-on-exit")
    assert events[-1] == {"event": "rehearsal", "poweroff": 0}


def test_wrong_arguments() -> None:
    done = subprocess.run([rehearsal()], capture_output=True, text=True, check=False, timeout=10)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: rofs-probe PLAN")
