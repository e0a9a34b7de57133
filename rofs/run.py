# SPDX-License-Identifier: MIT
"""A command line -> its result, or a ToolError. The only importer of `sh`.

Every tool runs behind `reaper.py`, in a session of its own: it ends when rofs ends, however rofs ends,
and takes its descendants and mounts with it. Its environment is built, not inherited. What it says goes
to a log, line by line; data goes through descriptors given to it, never through Python.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from rofs.errors import Interrupted, ToolError

PACKAGES: dict[str, str] = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "arch-test": "arch-test",
    "busybox": "busybox-static",
    "cp": "coreutils",
    "cpio": "cpio",
    "debugfs": "e2fsprogs",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "mkfs.ext4": "e2fsprogs",
    "mksquashfs": "squashfs-tools",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-arm-static": "qemu-user-static",
    "qemu-i386-static": "qemu-user-static",
    "qemu-x86_64-static": "qemu-user-static",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-i386": "qemu-system-x86",
    "qemu-system-x86_64": "qemu-system-x86",
    "rdsquashfs": "squashfs-tools-ng",
    "setpriv": "util-linux",
    "sqfs2tar": "squashfs-tools-ng",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-analyze": "systemd",
    "systemd-escape": "systemd",
    "tar2sqfs": "squashfs-tools-ng",
    "unshare": "util-linux",
    "unsquashfs": "squashfs-tools",
    "update-binfmts": "binfmt-support",
    "zstd": "zstd",
}
"""Program -> the Debian package that brings it."""

_CLOCK = (
    "LD_PRELOAD", "FAKETIME", "FAKETIME_SHARED", "NO_FAKE_STAT", "DONT_FAKE_MONOTONIC", "FAKETIME_DONT_FAKE_MONOTONIC",
)  # fmt: skip
"""What faketime(1) tells a program through."""
REAPER = Path(__file__).with_name("reaper.py")
TAIL_LINES = 20
WAKE_S = 0.2
"""The kernel may give a signal to any thread, and Python's handler then waits until the main one wakes."""

_SH: dict[str, Any] = {
    "_bg": True,  # to have a handle while it runs; _execute waits for it all the same
    "_bg_exc": False,
    "_new_session": True,
    "_tty_out": False,
    "_no_pipe": True,
    "_return_cmd": True,
    "_decode_errors": "replace",
    "_ok_code": range(-64, 256),  # run() judges; sh would keep the first 750 bytes of stderr, not the last
}

Argv = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Result:
    """How a tool ended. `status` is 128+n where a signal ended it; `stdout` is "" where it was redirected."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr_tail: str
    seconds: float


class _Running:
    """The tools that run now; once stopped, none starts until `resume`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # re-entrant: stop_all may come from a signal handler
        self.commands: dict[int, Any] = {}  # by id: sh's commands cannot be hashed
        self.stopped = False


_running = _Running()


def stop_all() -> None:
    """End every running tool and let none start: their `run` raises Interrupted. Safe in a signal handler."""
    with _running.lock:
        _running.stopped = True
        for command in tuple(_running.commands.values()):
            _signal(command, signal.SIGTERM)


def resume() -> None:
    """Let tools start again after `stop_all`."""
    with _running.lock:
        _running.stopped = False


def check_stopped() -> None:
    """Interrupted after `stop_all`: for long work that is no tool."""
    if _running.stopped:
        raise Interrupted("stopped")


_T = TypeVar("_T")


def stoppable(*work: Callable[[], _T]) -> list[_T | BaseException]:
    """Do all `work` side by side -> what each returned or raised; a signal's exception ends every tool first.

    In threads of their own even where there is but one: a signal handler's exception, which only the main
    thread gets, could come between a tool's start and the note of it, and nobody would ever end that tool.
    """
    with ThreadPoolExecutor(max_workers=len(work)) as pool:
        try:
            futures = [pool.submit(each) for each in work]
            while wait(futures, timeout=WAKE_S).not_done:
                pass
        except BaseException:
            stop_all()  # or the pool would wait for tools that nobody waits for
            raise
    return [f.exception() or f.result() for f in futures]


_First = TypeVar("_First")
_Second = TypeVar("_Second")


def both(first: Callable[[], _First], second: Callable[[], _Second]) -> tuple[_First, _Second]:
    """Do two things side by side, `stoppable`; what the first raised counts before what the second did."""
    done: list[Any] = stoppable(first, second)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return done[0], done[1]


def _signal(command: Any, number: int) -> None:
    if command.process.exit_code is None:
        with suppress(ProcessLookupError):
            command.signal(number)


class _Lines:
    """What `sh` writes a tool's output to: whole lines -> log, tail, collected text, `on_line`.

    `sh` would swallow an exception in its reader thread, so the first one is kept for `run` to raise.
    """

    def __init__(self, log: IO[bytes] | None, on_line: Callable[[str], None] | None, *, keep: bool) -> None:
        self.log, self.on_line = log, on_line
        self.kept: list[bytes] | None = [] if keep else None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.failure: Exception | None = None

    def write(self, chunk: bytes) -> None:
        """Take one line, or the unfinished last one."""
        try:
            if self.kept is not None:
                self.kept.append(chunk)
            line = chunk.decode(errors="replace").rstrip("\r\n")
            self.tail.append(line)
            if self.log is not None:
                self.log.write(chunk)
            if self.on_line is not None:
                self.on_line(line)
        except Exception as error:  # noqa: BLE001 -- raised by run() in the caller's thread
            self.failure = self.failure or error

    def text(self) -> str:
        """All of it."""
        return b"".join(self.kept or ()).decode(errors="replace")


def run(
    argv: Argv,
    *,
    log: Path | None = None,
    timeout_s: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | bytes | None = None,
    stdout: Path | int | None = None,
    on_line: Callable[[str], None] | None = None,
    ok: Container[int] = (0,),
    hint: str = "",
    keep_mounts: bool = False,
) -> Result:
    """Run a tool to its end.

    `env` is the whole environment beside PATH, HOME, LANG and TMPDIR. `stdin` and `stdout` may be
    descriptors (left open), also the user's terminal: the tool is in a session of its own, so it may read
    it and no signal of its keys comes here once the tool has made it raw, as QEMU does. Bytes are fed from
    memory; a path is overwritten. `log` is appended to.
    `on_line` sees stdout, where not redirected, and stderr. `keep_mounts` leaves the tool's mounts on the
    host. Raises ToolError for a missing program, a status not in `ok` or a timeout; Interrupted after
    `stop_all`. Safe from several threads.
    """
    words = tuple(os.fspath(word) for word in argv)
    environment = _environment(env or {})
    program = _find(words, _environment({})["PATH"], log)
    began = time.monotonic()
    with ExitStack() as stack:
        log_file = stack.enter_context(_open_log(log, words)) if log else None
        out = _Lines(log_file, on_line, keep=True)
        err = _Lines(log_file, on_line, keep=False)
        options: dict[str, Any] = {
            "_in": stack.enter_context(_stdin(stdin)),
            "_out": out if stdout is None else stack.enter_context(_stdout(stdout)),
            "_err": err,
            "_env": environment,
            "_cwd": os.fspath(cwd) if cwd else None,
        }
        reaped = [str(os.getpid()), "--", program, *words[1:]]
        status = _execute(["--keep-mounts", *reaped] if keep_mounts else reaped, options, words, timeout_s)
    failure = out.failure or err.failure
    if failure is not None:
        raise failure
    tail = "\n".join(err.tail)
    if status is None or status not in ok:
        if _running.stopped:
            raise Interrupted("stopped")
        reason = _reason(status, timeout_s)
        raise ToolError(words, reason, tail=tail or "\n".join(out.tail), log=log, hint=hint)
    return Result(words, status, out.text(), tail, time.monotonic() - began)


def _execute(reaped: list[str], options: dict[str, Any], words: tuple[str, ...], timeout_s: float | None) -> int | None:
    """Start the reaper through `sh` and wait -> the status, None for a timeout."""
    import sh  # lazily: 30 ms that `rofs check` need not pay

    reaper = sh.Command(os.path.realpath(sys.executable))  # a venv may lie where only its owner finds programs
    try:
        with _running.lock:
            if _running.stopped:
                raise Interrupted("stopped")
            command = reaper("-I", "-S", os.fspath(REAPER), *reaped, **_fixed(options["_out"]), **options)
            _running.commands[id(command)] = command
    except sh.ForkException as error:
        last = str(error).strip().splitlines()[-1:]
        raise ToolError(words, f"cannot be started: {''.join(last)}") from None
    except OSError as error:
        raise ToolError(words, f"cannot be started: {error.strerror}") from error
    deadline = _Deadline(command, timeout_s)
    try:
        command.wait()
        return None if deadline.passed else _status(command.exit_code)
    except sh.ErrorReturnCode as error:
        return None if deadline.passed else _status(error.exit_code)
    except BaseException:  # KeyboardInterrupt: leave nothing running behind the exception
        _signal(command, signal.SIGTERM)
        command.process.wait()
        raise
    finally:
        deadline.forget()
        with _running.lock:
            _running.commands.pop(id(command), None)


class _Deadline:
    """Ends a command when its time is up. `sh` has one, but looks every 0.1 s, and so ends each tool that late."""

    def __init__(self, command: Any, timeout_s: float | None) -> None:
        self.passed, self._command = False, command
        self._timer = threading.Timer(timeout_s or 0, self._end)
        self._timer.daemon = True
        if timeout_s is not None:
            self._timer.start()

    def _end(self) -> None:
        self.passed = True
        _signal(self._command, signal.SIGTERM)

    def forget(self) -> None:
        """The command has ended."""
        self._timer.cancel()


def _fixed(out: object) -> dict[str, Any]:
    """`_SH`; of a stdout that is the user's own terminal `sh` refuses to be told that it shall make none."""
    on_terminal = isinstance(out, int) and os.isatty(out)
    return {key: value for key, value in _SH.items() if not (on_terminal and key == "_tty_out")}


def _status(code: int) -> int:
    """The status as `sh` gives it, -n for a signal -> 128+n."""
    return 128 - code if code < 0 else code


def _reason(status: int | None, timeout_s: float | None) -> str:
    if status is None:
        return f"did not end within {timeout_s:g} s"
    if status > 128:
        try:
            return f"was ended by {signal.Signals(status - 128).name}"
        except ValueError:
            pass  # a tool's own number
    return f"exit status {status}"


def find_program(name: str) -> Path | None:
    """Where a host tool is, on the PATH that `run` uses."""
    found = shutil.which(name, path=_environment({})["PATH"])
    return Path(found) if found else None


def _find(words: tuple[str, ...], path: str, log: Path | None) -> str:
    """The full path of a program, or the word on how to get it."""
    found = shutil.which(words[0], path=path)
    if found is None:
        package = PACKAGES.get(Path(words[0]).name, "")
        hint = f"apt-get install {package}" if package else ""
        raise ToolError(words, "not found", log=log, hint=hint)
    return str(Path(found).absolute())  # unresolved: some programs look at their name


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The small fixed base and what the caller asks for; administrators' tools are on PATH for everyone."""
    path = os.environ.get("PATH") or "/usr/local/bin:/usr/bin:/bin"
    missing = [part for part in ("/usr/sbin", "/sbin") if part not in path.split(":")]
    base = {"PATH": ":".join([path, *missing]), "HOME": str(Path("~").expanduser()), "LANG": "C.UTF-8"}
    if "TMPDIR" in os.environ:
        base["TMPDIR"] = os.environ["TMPDIR"]
    if "FAKETIME" in os.environ:  # rofs itself runs by another clock: see reproduce.py
        base |= {name: value for name, value in os.environ.items() if name in _CLOCK}
    return base | dict(extra)


@contextmanager
def _open_log(log: Path, words: tuple[str, ...]) -> Iterator[IO[bytes]]:
    """The log, appended to without a buffer (several tools may share it), the command line first."""
    import shlex

    with log.open("ab", buffering=0) as file:
        file.write(f"+ {shlex.join(words)}\n".encode(errors="replace"))
        yield file


@contextmanager
def _stdin(source: int | bytes | None) -> Iterator[int]:
    """A descriptor to read from: the caller's, bytes in memory, or nothing at all."""
    if isinstance(source, int):
        yield source
        return
    fd = os.open(os.devnull, os.O_RDONLY) if source is None else os.memfd_create("stdin")
    try:
        if source:
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write(source)
            os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _stdout(target: Path | int) -> Iterator[int]:
    """A descriptor to write to."""
    if isinstance(target, int):
        yield target
        return
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        yield fd
    finally:
        os.close(fd)
