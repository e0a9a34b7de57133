# SPDX-License-Identifier: MIT
"""A kernel, an initrd and disks -> QEMU's command line, and how that boot went.

The guest has no network and one way to speak: the virtio-serial port, which is QEMU's stdout. Its
console goes to a file. QEMU starts paused, says over QMP which accelerator it uses, then runs; it
also says there why it ended, since its exit status is 0 for a power-off and a panic alike.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rofs.errors import Interrupted, MachineError, ToolError
from rofs.machine.accel import Accel, AccelName, accel_args, query_accel
from rofs.machine.arch import Arch
from rofs.machine.qmp import Qmp
from rofs.run import run

MIB = 1024 * 1024
PROBE_PORT = "rofs.probe"
QMP_SOCKET = "qmp.sock"
CONNECT_EVERY_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One disk of the guest; the first is /dev/vda."""

    path: Path
    format: Literal["raw", "qcow2"]
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """A boot to be done. `work` is a directory for QEMU's own files, `console` where the console goes."""

    arch: Arch
    accel: Accel
    kernel: Path
    initrd: Path
    cmdline: str
    disks: tuple[Disk, ...]
    work: Path
    console: Path
    memory_bytes: int = 512 * MIB
    smp: int = 2
    port: str = PROBE_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class BootResult:
    """How it went. "off": the guest powered itself off; "crash": it reset, panicked, or QEMU died.

    `reason` says so in words. `accel_seen` is QEMU's own word for what it ran with.
    """

    status: Literal["off", "timeout", "crash"]
    reason: str
    seconds: float
    accel_seen: AccelName
    console: str


def _escaped(value: Path) -> str:
    """A value inside one of QEMU's comma-separated lists."""
    return str(value.absolute()).replace(",", ",,")


def _disk_args(number: int, disk: Disk) -> list[str]:
    """A block device in JSON, where no path needs escaping, and the virtio disk on it."""
    name = f"disk{number}"
    file = {"driver": "file", "filename": str(disk.path.absolute())}
    node = {"driver": disk.format, "node-name": name, "read-only": disk.read_only, "file": file}
    return ["-blockdev", json.dumps(node), "-device", f"virtio-blk-pci,drive={name}"]


def qemu_argv(request: Boot) -> list[str]:
    """QEMU's command line; it must run in `request.work`, and waits for `cont` on its QMP socket."""
    arch = request.arch
    argv = [arch.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"]
    argv += accel_args(arch, request.accel.name)
    argv += ["-smp", str(request.smp), "-m", f"{-(-request.memory_bytes // MIB)}M"]
    argv += ["-no-reboot", "-rtc", "base=utc", "-S"]
    # Relative, because the path of a unix socket must fit in 108 bytes.
    argv += ["-chardev", f"socket,id=qmp,path={QMP_SOCKET},server=on,wait=off"]
    argv += ["-mon", "chardev=qmp,mode=control"]
    argv += ["-chardev", f"file,id=console,path={_escaped(request.console)}", "-serial", "chardev:console"]
    argv += ["-device", "virtio-serial-pci", "-chardev", "stdio,id=probe,signal=off"]
    argv += ["-device", f"virtserialport,chardev=probe,name={request.port}"]
    argv += ["-object", "rng-builtin,id=entropy", "-device", "virtio-rng-pci,rng=entropy"]
    for number, disk in enumerate(request.disks):
        argv += _disk_args(number, disk)
    argv += ["-kernel", str(request.kernel.absolute()), "-initrd", str(request.initrd.absolute())]
    return [*argv, "-append", request.cmdline]


class _Overseer(threading.Thread):
    """Asks a starting QEMU for its accelerator, lets the guest go, and listens for why it ends."""

    def __init__(self, socket: Path) -> None:
        super().__init__(name="rofs-qmp", daemon=True)
        self._socket, self._over = socket, threading.Event()
        self.accel: AccelName | None = None
        self.ended = ""
        self.error: Exception | None = None

    def run(self) -> None:
        """From the first answer of the socket to the end of QEMU."""
        while not self._over.is_set():
            try:
                with Qmp(self._socket) as qmp:
                    self._oversee(qmp)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                self._over.wait(CONNECT_EVERY_S)
            except (MachineError, OSError, ValueError, LookupError) as error:
                self.error = error
                return

    def _oversee(self, qmp: Qmp) -> None:
        self.accel = query_accel(qmp)
        qmp.execute("cont")
        for event in qmp.events():
            if event.get("event") == "SHUTDOWN":
                self.ended = str(event["data"]["reason"])

    def finish(self) -> None:
        """QEMU is gone: stop looking for it and read what it said last."""
        self._over.set()
        self.join(timeout=10)


class _Port:
    """QEMU's stdin and stdout, the guest's port.

    stdout is read here, since `run` would mix QEMU's stderr into it. stdin is a pipe into which nobody
    writes: at an end of file QEMU takes the port for closed, and the guest's writes block for ever.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        reader, self.stdout = os.pipe2(os.O_CLOEXEC)
        self.stdin, self._idle = os.pipe2(os.O_CLOEXEC)
        self._on_line = on_line
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(reader,), name="rofs-port", daemon=True)
        self._thread.start()

    def _read(self, reader: int) -> None:
        """Hand on each line; after a failure only drain, lest the guest block on a full pipe."""
        with open(reader, encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:
                if self.failure is None:
                    try:
                        self._on_line(line.rstrip("\r\n"))
                    except Exception as error:  # noqa: BLE001 -- raised by boot() in the caller's thread
                        self.failure = error

    def finish(self) -> None:
        """QEMU is gone: close our ends and read the rest."""
        for end in (self.stdout, self.stdin, self._idle):
            os.close(end)
        self._thread.join()


def boot(
    request: Boot, on_line: Callable[[str], None], *, timeout_s: float = 300, log: Path | None = None
) -> BootResult:
    """Boot and wait for the end; `on_line` gets each line of the probe's port, in a thread of its own.

    A guest that hangs or crashes is a result. What `on_line` raises is raised after the boot.
    MachineError: QEMU could not start, or never answered. Interrupted: somebody stopped it.
    """
    request.work.mkdir(parents=True, exist_ok=True)
    for stale in (request.work / QMP_SOCKET, request.console):
        stale.unlink(missing_ok=True)
    port, overseer = _Port(on_line), _Overseer(request.work / QMP_SOCKET)
    began = time.monotonic()
    overseer.start()
    error: ToolError | None = None
    try:
        argv = qemu_argv(request)
        run(argv, log=log, timeout_s=timeout_s, cwd=request.work, stdin=port.stdin, stdout=port.stdout)
    except ToolError as caught:
        error = caught
    finally:
        port.finish()
        overseer.finish()
    seconds = time.monotonic() - began
    if port.failure is not None:
        raise port.failure
    if overseer.accel is None:
        raise MachineError(_no_start(request, error, overseer.error))
    if error is None and overseer.ended == "host-signal":
        raise Interrupted("QEMU was stopped")
    status, reason = _judge(error, overseer.ended, timed_out=seconds >= timeout_s)
    return BootResult(
        status=status,
        reason=reason,
        seconds=seconds,
        accel_seen=overseer.accel,
        console=_read_console(request.console),
    )


def _judge(error: ToolError | None, ended: str, *, timed_out: bool) -> tuple[Literal["off", "timeout", "crash"], str]:
    """How QEMU ended, and its own word on why (ShutdownCause in qemu-qmp-ref(7)) -> status and reason."""
    if error is not None and timed_out:
        return "timeout", error.reason
    if error is not None:
        return "crash", f"QEMU {error.reason}: {error.tail.strip()}".rstrip(": ")
    if ended == "guest-shutdown":
        return "off", "the guest powered off"
    if ended in ("guest-reset", "guest-panic"):
        return "crash", f"the guest reset itself, as after a kernel panic ({ended})"
    return "crash", f"QEMU ended by itself ({ended or 'no reason given'})"


def _no_start(request: Boot, error: ToolError | None, heard: Exception | None) -> str:
    """What to say of a QEMU that never let the guest run."""
    how = f"{error.reason}: {error.tail.strip()}" if error else str(heard or "it ended at once")
    hint = f" ({error.hint})" if error and error.hint else ""
    return f"{request.arch.qemu}: {how.rstrip(': ')}{hint}"


def _read_console(path: Path) -> str:
    """What the guest said on its console, "" if it never did."""
    return path.read_text(errors="replace") if path.exists() else ""
