# SPDX-License-Identifier: MIT
"""The probe beside an init that is not systemd: entering in its place, waiting for rest, asking for the end."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from probing import Facts, content, parse, rehearsal

from rofs.verify import probe_wire as wire

TIMEOUT_S = 60
POWER_OFF = "--poweroff-on-exit"
REQUESTS = {
    "/bin/systemctl": "poweroff --no-block",
    "/usr/bin/systemctl": "poweroff --no-block",
    "/sbin/poweroff": "",
    "/usr/sbin/poweroff": "",
    "/sbin/shutdown": "-h -P now",
    "/usr/sbin/shutdown": "-h -P now",
    "/bin/busybox": "poweroff",
    "/usr/bin/busybox": "poweroff",
}


def make_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def make_plan(tmp_path: Path, *ops: wire.Op) -> Path:
    plan = tmp_path / "plan"
    plan.write_bytes(wire.encode_plan(ops))
    return plan


def entering(init: str | Path, plan: Path, *arguments: str, args: Sequence[str] = (), output: str = "-") -> list[str]:
    """The command line that the initrd of verification ends with."""
    return [str(rehearsal()), "--init", str(init), str(plan), "--output", output, *arguments, "--", *args]


def run(argv: Sequence[str], **more: Any) -> subprocess.CompletedProcess[bytes]:
    """To the end of the init and of the probe: both hold the pipes."""
    return subprocess.run(argv, capture_output=True, check=False, timeout=TIMEOUT_S, **more)


def run_without(closed: str, argv: Sequence[str]) -> None:
    """To the end of the init and of the probe, where some of the first three descriptors are closed."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as ends, os.fdopen(writer, "wb") as held:
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *argv]
        subprocess.run(shell, check=True, timeout=TIMEOUT_S, start_new_session=True, pass_fds=[writer])
        held.close()
        assert ends.read() == b"", "both have closed what they inherited"


# --- entering ----------------------------------------------------------------------------------------

LOOK_AROUND = """{
printf '<%s>' "$@"; echo
env; umask; pwd
grep -E '^Sig(Pnd|Blk|Ign)' /proc/self/status
cut -d' ' -f1,4-8 /proc/$$/stat | tr ' ' '\\n' | sed "s/^$$\\$/own/"
ls /proc/$$/fd
cat /proc/$$/oom_score_adj /proc/$$/limits
} >"$1\""""


@pytest.mark.parametrize("closed", ["", "0<&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_the_init_finds_itself_as_without_a_probe(tmp_path: Path, closed: str) -> None:
    """A console that could not be opened leaves the kernel's first process without descriptors."""
    init = make_script(tmp_path / "init", LOOK_AROUND)
    plan = make_plan(tmp_path, wire.shell(9, "echo out; echo err >&2"))
    words = ["two  words", "", "--", "--init"]
    events = tmp_path / "events"
    for name, argv in {
        "alone": [str(init), str(tmp_path / "seen"), *words],
        "beside": entering(init, plan, POWER_OFF, args=[str(tmp_path / "seen"), *words], output=str(events)),
    }.items():
        run_without(closed, argv)
        (tmp_path / "seen").rename(tmp_path / name)
    seen = (tmp_path / "beside").read_text()
    assert "<two  words><><--><--init>" in seen
    assert seen == (tmp_path / "alone").read_text()
    _, said, end, last = parse(events.read_bytes())
    assert content(said) == b"out\nerr\n"
    assert (end, last) == ({"event": "end", "ops": 1}, {"event": "rehearsal", "poweroff": 0})


def test_an_init_needs_no_arguments(tmp_path: Path) -> None:
    events = tmp_path / "events"
    argv = entering("/bin/cat", make_plan(tmp_path), output=str(events))[:-1]
    done = run(argv, input=b"the init has the console")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"the init has the console", b"")
    assert parse(events.read_bytes())[-1] == {"event": "end", "ops": 0}


def test_the_plan_may_be_covered_by_the_init(tmp_path: Path) -> None:
    """The probe waits for its port until the init is over; what it reads then is the file of the start."""
    port = tmp_path / "port"
    os.mkfifo(port)
    plan = make_plan(tmp_path, wire.exists("/"))
    with subprocess.Popen(entering("/bin/rm", plan, args=[str(plan)], output=str(port))) as process:
        assert process.wait(TIMEOUT_S) == 0
    assert not plan.exists()
    assert parse(port.read_bytes())[1]["exists"] is True


@pytest.mark.parametrize(
    ("mode", "text", "error"), [(None, "", "ENOENT"), (0o644, "", "EACCES"), (0o755, "?", "ENOEXEC")]
)
def test_without_an_init_there_is_no_report(tmp_path: Path, mode: int | None, text: str, error: str) -> None:
    init = tmp_path / "init"
    if mode is not None:
        init.write_text(text)
        init.chmod(mode)
    done = run(entering(init, make_plan(tmp_path, wire.exists("/")), POWER_OFF))
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr.decode() == f"rofs-probe: cannot execute {init}: {error}\n"


@pytest.mark.parametrize(
    "arguments", [["--init", "/bin/echo"], ["plan", "--", "a"], ["--init", "/bin/echo", "plan", "x"]]
)
def test_wrong_arguments_start_and_end_nothing(arguments: list[str]) -> None:
    done = run([str(rehearsal()), POWER_OFF, "--output", "-", *arguments])
    if "--init" in arguments:
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"rofs-probe --init INIT PLAN" in done.stderr
    else:
        assert parse(done.stdout) == [{"event": "rehearsal", "poweroff": 0}], "not understood, so at least ended"


def test_only_pid_1_can_be_replaced(tmp_path: Path) -> None:
    argv = entering("/bin/echo", make_plan(tmp_path), POWER_OFF, args=["the init runs"])
    done = run(argv, env={**os.environ, "ROFS_REHEARSAL_STRICT": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"rofs-probe: --init is for PID 1\n")


SUPERVISOR = "up() { cut -d' ' -f4 /proc/$1/stat; }; R=$(up $PPID); S=$(up $R)"


def test_the_probe_is_nobodys_process(tmp_path: Path) -> None:
    """Its own session, so that no terminal's hang-up finds it, and nothing of the console on stdin."""
    look = f"{SUPERVISOR}; cut -d' ' -f6 /proc/$S/stat; echo $S; readlink /proc/$S/fd/0"
    done = run(entering("/bin/cat", make_plan(tmp_path, wire.shell(9, look)), POWER_OFF), input=b"")
    session, pid, stdin = content(parse(done.stdout)[1]).decode().split()
    assert session == pid
    assert stdin == "/dev/null"


def test_a_probe_without_a_console_has_no_descriptor_in_its_place(tmp_path: Path) -> None:
    events = tmp_path / "events"
    plan = make_plan(tmp_path, wire.shell(9, f"{SUPERVISOR}; for n in 0 1 2; do readlink /proc/$S/fd/$n; done"))
    run_without("0<&- 1>&- 2>&-", entering("/bin/true", plan, output=str(events)))
    assert content(parse(events.read_bytes())[1]).decode().split() == ["/dev/null"] * 3


def test_only_its_own_end_ends_the_probe(tmp_path: Path) -> None:
    """An init that is asked for another run level asks everybody to end; programs still do."""
    signals = f"{SUPERVISOR}; for s in HUP INT TERM; do kill -$s $S $R $PPID; done; echo sent"
    ops = wire.shell(9, signals), wire.shell(9, "kill -TERM $$"), wire.shell(9, "kill -HUP $$"), wire.poweroff("clean")
    _, sent, terminated, hung_up, _, end, last = parse(
        run(entering("/bin/true", make_plan(tmp_path, *ops), POWER_OFF)).stdout
    )
    assert content(sent) == b"sent\n"
    assert (terminated["exit_signal"], hung_up["exit_signal"]) == (15, 1)
    assert end == {"event": "end", "ops": 4}
    assert last == {"event": "rehearsal", "poweroff": 10}


# --- a PID 1 in a namespace --------------------------------------------------------------------------


@contextmanager
def as_pid_1(argv: Sequence[str]) -> Iterator[Iterator[bytes]]:
    """The lines of a program that is PID 1 of its own world, which ends with the block."""
    namespace = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen([*namespace, *argv], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.kill()


def until_power_off(lines: Iterator[bytes]) -> list[Facts]:
    events: list[Facts] = []
    while not events or events[-1].get("event") != "rehearsal":
        events += parse(next(lines))
    return events


def uptime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


@pytest.mark.needs("unshare")
def test_pid_1_becomes_the_init_and_keeps_the_system_busy(tmp_path: Path) -> None:
    busy = tmp_path / "rofs-busy one"
    busy.symlink_to("/bin/sh")
    script = '"$0" -c "while :; do :; done" & wait'
    plan = make_plan(tmp_path, wire.settle(1, 100), wire.run(5, "cat", "/proc/1/comm"))
    began = uptime_ms()
    with as_pid_1(entering("/bin/sh", plan, POWER_OFF, args=["-c", script, str(busy), "", "x", "", ""])) as lines:
        start, rest, comm, *_ = until_power_off(lines)
    ended = uptime_ms()
    assert start["pid"] != 1
    assert content(comm) == b"sh\n"
    assert (rest["errno"], rest["settled"]) == (None, False)
    assert wire.unquote(rest["pid1"]) == os.fsencode(Path("/bin/sh").resolve())
    assert [wire.unquote(arg).decode() for arg in rest["pid1_args"]] == ["/bin/sh", "-c", script, str(busy), "", "x"]
    assert "rofs-busy%20one" in rest["busy"]
    assert "probe" not in rest["busy"]
    assert rest["processes"] > 0
    assert 1000 <= rest["waited_ms"] <= ended - began
    assert began + rest["waited_ms"] <= rest["uptime_ms"] <= ended


# --- coming to rest ----------------------------------------------------------------------------------

BEHIND = 'mount --bind "$1" /proc/stat; shift; exec "$@"'


def stat_of(**values: int) -> bytes:
    """/proc/stat, always of the same length so that it can be rewritten in place."""
    facts = {"processes": 100, "procs_running": 1, "procs_blocked": 0, **values}
    return b"cpu  1 2 3\nintr 9 8\n" + b"".join(b"%s %08d\n" % (name.encode(), n) for name, n in facts.items())


def write_stat(tmp_path: Path, data: bytes) -> Path:
    stat = tmp_path / "stat"
    stat.write_bytes(data)
    return stat


def settle(stat: Path, op: wire.Op) -> Facts:
    """The answer to `op` where /proc/stat is `stat`."""
    plan = make_plan(stat.parent, op)
    namespace = ["unshare", "--map-root-user", "--mount", "--propagation", "private", "sh", "-euc", BEHIND, "sh"]
    done = run([*namespace, str(stat), str(rehearsal()), str(plan), "--output", "-"])
    _, answer, _ = parse(done.stdout)
    return answer


@pytest.mark.needs("unshare")
def test_a_system_at_rest(tmp_path: Path) -> None:
    answer = settle(write_stat(tmp_path, stat_of()), wire.settle(50, 300))
    assert (answer["errno"], answer["settled"], answer["processes"]) == (None, True, 100)
    assert 300 <= answer["waited_ms"] < 50000
    assert "busy" not in answer


@pytest.mark.needs("unshare")
@pytest.mark.parametrize("values", [{"procs_running": 2}, {"procs_blocked": 1}])
def test_a_system_that_does_something(tmp_path: Path, values: Mapping[str, int]) -> None:
    answer = settle(write_stat(tmp_path, stat_of(**values)), wire.settle(1, 100))
    assert (answer["errno"], answer["settled"]) == (None, False)
    assert answer["waited_ms"] >= 1000
    assert len(answer["busy"]) <= 16


@pytest.mark.needs("unshare")
def test_a_system_that_starts_processes(tmp_path: Path) -> None:
    """Each of them is over before anybody looks, but all looks of 0.9 s would have to miss the counter."""
    stat, over = write_stat(tmp_path, stat_of()), threading.Event()

    def count() -> None:
        with stat.open("r+b", buffering=0) as file:
            processes = 100
            while not over.is_set():
                processes += 1
                os.pwrite(file.fileno(), stat_of(processes=processes), 0)

    starting = threading.Thread(target=count)
    starting.start()
    try:
        answer = settle(stat, wire.settle(1, 900))
    finally:
        over.set()
        starting.join()
    assert (answer["errno"], answer["settled"]) == (None, False)
    assert answer["processes"] > 100


class Looks:
    """inotify(7): who reads a file, and is done with it."""

    _IN_CLOSE_NOWRITE = 0x10

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._fd, os.fsencode(path), self._IN_CLOSE_NOWRITE) >= 0

    def wait(self) -> None:
        """For one more, or several since the last time."""
        os.read(self._fd, 4096)

    def close(self) -> None:
        os.close(self._fd)


@pytest.mark.needs("unshare")
def test_a_system_that_comes_to_rest(tmp_path: Path) -> None:
    """Three looks see something of the boot; what was before the last of them does not count any more."""
    stat = write_stat(tmp_path, stat_of())
    looks = Looks(stat)

    def come_to_rest() -> None:
        for values in ({"processes": 101}, {"processes": 102, "procs_running": 2}, {"processes": 103}):
            looks.wait()
            with stat.open("r+b", buffering=0) as file:
                file.write(stat_of(**values))

    booting = threading.Thread(target=come_to_rest, daemon=True)
    booting.start()
    try:
        answer = settle(stat, wire.settle(50, 1500))
    finally:
        booting.join(1)
        looks.close()
    assert (answer["errno"], answer["settled"], answer["processes"]) == (None, True, 103)


@pytest.mark.needs("unshare")
def test_a_kernel_that_does_not_say(tmp_path: Path) -> None:
    stat = write_stat(tmp_path, b"cpu  1 2 3\nprocesses 5\nprocs_running 1\n")
    answer = settle(stat, wire.settle(50, 100))
    assert (answer["errno"], answer["settled"]) == ("EINVAL", False)


# --- asking for the end ------------------------------------------------------------------------------


def ask_for_end(tmp_path: Path, programs: Mapping[str, int], mode: Any = "clean") -> list[str]:
    """Who was asked, in this order, where these programs are and end with these statuses."""
    root, asked = tmp_path / "root", tmp_path / "asked"
    asked.touch()
    for program, status in programs.items():
        ignored = "echo ignores $((0x$(sed -n 's/^SigIgn:[[:space:]]*//p' /proc/$$/status) & 0x4003))"
        make_script(root / program[1:], f'{{ echo "{program} $*"; {ignored}; }} >>{asked}; exit {status}')
    argv = entering("/bin/true", make_plan(tmp_path, wire.poweroff(mode)), POWER_OFF)
    done = run(argv, env={**os.environ, "ROFS_REHEARSAL_ROOT": str(root)})
    assert parse(done.stdout)[-1] == {"event": "rehearsal", "poweroff": 10 if mode == "clean" else 11}
    lines = asked.read_text().splitlines()
    assert set(lines[1::2]) <= {"ignores 0"}
    return [line.strip() for line in lines[::2]]


@pytest.mark.parametrize(("program", "words"), REQUESTS.items())
def test_each_program_is_asked_in_its_own_words(tmp_path: Path, program: str, words: str) -> None:
    assert ask_for_end(tmp_path, {program: 0}) == [f"{program} {words}".strip()]


def test_the_next_is_asked_where_one_refuses(tmp_path: Path) -> None:
    asked = ask_for_end(tmp_path, dict.fromkeys(REQUESTS, 1))
    assert asked == [f"{program} {words}".strip() for program, words in REQUESTS.items()]


def test_only_one_is_asked(tmp_path: Path) -> None:
    """busybox would send a signal that means something else to a sysvinit."""
    assert ask_for_end(tmp_path, {"/bin/busybox": 0, "/sbin/shutdown": 0}) == ["/sbin/shutdown -h -P now"]


def test_nobody_is_asked_where_there_is_nobody(tmp_path: Path) -> None:
    assert ask_for_end(tmp_path, {}) == []


def test_a_cut_asks_nobody(tmp_path: Path) -> None:
    assert ask_for_end(tmp_path, dict.fromkeys(REQUESTS, 0), mode="cut") == []
