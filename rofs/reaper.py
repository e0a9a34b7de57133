# SPDX-License-Identifier: MIT
"""A command line -> the same command, with an end that is certain.

    python -I -S reaper.py [--keep-mounts] PPID -- argv...

Stands in front of every tool that rofs runs. Whatever the tool leaves behind, and whatever it is doing
when rofs dies (even by SIGKILL) or when SIGTERM, SIGINT or SIGHUP arrives, all descendants are killed and
reaped before this process ends. As root the tool also gets a mount namespace of its own, so that its
mounts die with its processes; `--keep-mounts` is for the one tool whose mount is wanted.

Exits with the tool's status, 128+n where a signal ended it. Standard library only, nothing of rofs: it
must start in a few milliseconds.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
CLONE_NEWNS, MS_REC, MS_SLAVE = 0x20000, 0x4000, 0x80000
STOP = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
GRACE_S = 2.0
"""What tools have between SIGTERM and SIGKILL to remove their temporary files."""


def descendants() -> list[int]:
    """Every process below this one, from the parents that /proc/PID/stat names."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 -- pathlib would cost 5 ms at each start
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue  # ended while we read
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def send(number: int) -> None:
    """Signal every descendant."""
    for pid in descendants():
        try:  # noqa: SIM105 -- contextlib would cost 3 ms at each start
            os.kill(pid, number)
        except OSError:
            pass  # gone, or a set-user-id helper that ends by itself


def reap(child: int, status: int | None) -> tuple[int | None, bool]:
    """Collect whatever has ended -> (the child's wait status once known, are any children left)."""
    while True:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status, False
        if pid == 0:
            return status, True
        if pid == child:
            status = ended


def end_all(child: int, status: int | None, *, grace_s: float) -> int | None:
    """Terminate all descendants, after `grace_s` kill them, until none is left.

    Being the subreaper, every orphan below becomes our child: no child left means no descendant left.
    """
    status, left = reap(child, status)
    deadline = time.monotonic() + grace_s
    if left and grace_s:
        send(signal.SIGTERM)
        send(signal.SIGCONT)  # a stopped process does not see SIGTERM
    while left:
        if time.monotonic() >= deadline:
            send(signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, 0.02)
        status, left = reap(child, status)
    return status


def own_mounts(libc: ctypes.CDLL) -> None:
    """Leave the host's mount namespace if we may; its mounts still come in, ours do not go out."""
    if os.geteuid() == 0 and libc.unshare(CLONE_NEWNS) == 0:
        libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None)


def start(argv: list[str], libc: ctypes.CDLL, inherited: set[signal.Signals]) -> int:
    """Fork and exec `argv`, signals as they were; 127 and a word on stderr if it cannot start."""
    child = os.fork()
    if child:
        return child
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # should somebody kill the reaper itself
        for number in (*STOP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, inherited)
        os.execvp(argv[0], argv)  # noqa: S606
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def main(args: list[str]) -> int:
    """`[--keep-mounts] PPID -- argv...` -> exit status."""
    keep_mounts = args[0] == "--keep-mounts"
    split = args.index("--")
    parent, argv = int(args[split - 1]), args[split + 1 :]
    watched = STOP | {signal.SIGCHLD}
    inherited = signal.pthread_sigmask(signal.SIG_BLOCK, watched) - watched
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM  # it died before we asked to be told
    if not keep_mounts:
        own_mounts(libc)
    child = start(argv, libc, {s for s in inherited if isinstance(s, signal.Signals)})
    status: int | None = None
    while status is None:
        if signal.sigwait(watched) in STOP:
            status = end_all(child, status, grace_s=GRACE_S)
            break
        status, _ = reap(child, status)
    status = end_all(child, status, grace_s=0)
    return 128 + signal.SIGKILL if status is None else shell_status(status)


def shell_status(status: int) -> int:
    """A wait status -> what a shell would say."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # nothing to flush, and tearing down costs 3 ms
