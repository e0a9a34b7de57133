# SPDX-License-Identifier: MIT
"""rofs.reaper: whatever happens to the tool, to rofs or to the reaper's patience, nobody is left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rofs.run import REAPER


def reaped(*argv: str, options: tuple[str, ...] = (), parent: int | None = None) -> list[str]:
    pid = os.getpid() if parent is None else parent
    return [sys.executable, "-I", "-S", str(REAPER), *options, str(pid), "--", *argv]


def gone(pid: int) -> bool:
    """Whether a process has ended; waits for it, on its pidfd rather than on a clock."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 10)[0])
    finally:
        os.close(fd)


STATUSES = [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("exec /nope", 127)]


@pytest.mark.parametrize(("script", "status"), STATUSES)
def test_status_is_the_tools(script: str, status: int) -> None:
    assert subprocess.run(reaped("sh", "-c", script), check=False, capture_output=True).returncode == status


def test_a_missing_program_is_127_with_a_word() -> None:
    done = subprocess.run(reaped("/no/such"), check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (127, "/no/such: No such file or directory\n")


def test_output_passes_untouched() -> None:
    done = subprocess.run(reaped("cat"), input=b"\0\xff\n", capture_output=True, check=True)
    assert done.stdout == b"\0\xff\n"


def test_a_parent_that_is_not_the_one_named_starts_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done = subprocess.run(reaped("touch", str(mark), parent=1), check=False)
    assert done.returncode == 128 + signal.SIGTERM and not mark.exists()


STUBBORN = "trap '' TERM HUP INT; echo $$; while :; do sleep 1; done"


def test_leftovers_go_when_the_tool_ends() -> None:
    script = 'setsid sh -c "$1" >/dev/null & echo $!; exit 4'
    done = subprocess.run(reaped("sh", "-c", script, "sh", STUBBORN), check=False, capture_output=True)
    assert done.returncode == 4 and gone(int(done.stdout))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_whole_family(number: signal.Signals) -> None:
    script = "setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait"
    with subprocess.Popen(reaped("sh", "-c", script), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        process.send_signal(number)
        assert process.wait(10) != 0
    assert all(gone(pid) for pid in pids)


def test_who_ignores_sigterm_is_killed() -> None:
    with subprocess.Popen(reaped("sh", "-c", STUBBORN), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGKILL
    assert gone(pid)


def test_a_stopped_process_ends_too() -> None:
    script = "sh -c 'echo $$; kill -STOP $$; echo woken'; exit 0"
    with subprocess.Popen(reaped("sh", "-c", script), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.terminate()
        process.wait(20)
    assert gone(pid)


MIDDLE = """
from rofs.run import run
script = "setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait"
run(["sh", "-c", script], on_line=lambda line: print(line, flush=True))
"""


def test_kill_minus_nine_of_rofs_leaves_nobody() -> None:
    """The real chain: rofs, sh, reaper, tool, a daemon of the tool in a session of its own."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(REAPER.parent.parent), *sys.path])}
    command = [sys.executable, "-c", MIDDLE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as rofs:
        assert rofs.stdout is not None
        pids = [int(rofs.stdout.readline()) for _ in range(2)]
        rofs.kill()
    assert all(gone(pid) for pid in pids)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mounts")
def test_mounts_of_a_tool_do_not_reach_the_host(tmp_path: Path) -> None:
    script = 'mount -t tmpfs none "$1" && touch "$1/inside" && grep -c "$1" /proc/self/mountinfo'
    command = reaped("sh", "-c", script, "sh", str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert not (tmp_path / "inside").exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mounts")
def test_keep_mounts_stays_in_the_hosts_namespace() -> None:
    here = Path("/proc/self/ns/mnt").readlink()
    show = ("readlink", "/proc/self/ns/mnt")
    kept = subprocess.run(reaped(*show, options=("--keep-mounts",)), capture_output=True, text=True, check=True)
    own = subprocess.run(reaped(*show), capture_output=True, text=True, check=True)
    assert kept.stdout.strip() == str(here) != own.stdout.strip()
