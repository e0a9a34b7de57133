# SPDX-License-Identifier: MIT
"""A kernel, an initrd and disks -> QEMU's command line, and how that boot went.

The guest speaks through the virtio-serial port, which is QEMU's stdout. Its console goes to a file.
Its network ends inside QEMU: DHCP gives it an address, nothing it sends reaches the host or the
outside, and the host reaches it through one forwarded port at most, on the loopback. QEMU starts
paused, says over QMP which accelerator it uses and which port of the host it forwards, then runs; it
also says there why it ended, since its exit status is 0 for a power-off and a panic alike. A guest that
says more than a host can bear is ended.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rofs.errors import Interrupted, MachineError, ToolError
from rofs.machine.accel import Accel, AccelName, accel_args, query_accel
from rofs.machine.arch import Arch
from rofs.machine.bounds import LIMITS, MIB, Flooded, Limits, Lines, keep_ends
from rofs.machine.qmp import Qmp
from rofs.run import run

PROBE_PORT = "rofs.probe"
QMP_SOCKET = "qmp.sock"
CONNECT_EVERY_S = 0.02
LOOK_EVERY_S = 0.25
READ_BYTES = 64 * 1024
LOG_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One disk of the guest; the first is /dev/vda.

    `write_log` gets every write and flush of the boot, in the format of the kernel's dm-log-writes with
    sectors of 512 bytes; its superblock counts the entries up to the last flush.
    """

    path: Path
    format: Literal["raw", "qcow2"]
    read_only: bool = False
    write_log: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """A boot to be done. `work` is a directory for QEMU's own files, `console` where the console goes.

    `forward` is a TCP port of the guest that the host shall reach; `boot` says by which of its own. `clock` is
    the guest's at its start, as `2010-01-01T00:00:00`; None is the host's.
    """

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
    forward: int | None = None
    clock: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootResult:
    """How it went. "off": the guest powered itself off; "crash": it reset, panicked, said too much, or QEMU died.

    `reason` says so in words. `accel_seen` is QEMU's own word for what it ran with. Of a long console both ends
    are kept, here and in its file.
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
    node: dict[str, Any] = {"driver": disk.format, "read-only": disk.read_only, "file": _file_node(disk.path)}
    device = f"virtio-blk-pci,drive={name}"
    if disk.write_log is not None:
        log = {"log": _file_node(disk.write_log), "log-append": False, "log-sector-size": LOG_SECTOR_BYTES}
        node = {"driver": "blklogwrites", "file": node, **log}
        device += ",write-zeroes=off"  # QEMU before 9.0 garbles the log of these (its commit a9c8ea95470c)
    return ["-blockdev", json.dumps({"node-name": name, **node}), "-device", device]


def _file_node(path: Path) -> dict[str, str]:
    return {"driver": "file", "filename": str(path.absolute())}


def _net_args(forward: int | None) -> list[str]:
    """A network of QEMU's own with nothing behind it; port 0 of the host lets its kernel choose."""
    hostfwd = "" if forward is None else f",hostfwd=tcp:127.0.0.1:0-:{forward}"
    return ["-netdev", f"user,id=net,restrict=on{hostfwd}", "-device", "virtio-net-pci,netdev=net,romfile="]


def machine_argv(arch: Arch, accel: Accel, *, smp: int, memory_bytes: int, clock: str | None = None) -> list[str]:
    """QEMU and its machine, paused until `cont` on the QMP socket, which it makes where it runs."""
    argv = [arch.qemu, "-nodefaults", "-no-user-config", "-display", "none"]
    argv += accel_args(arch, accel.name)
    argv += ["-smp", str(smp), "-m", f"{-(-memory_bytes // MIB)}M", "-rtc", f"base={clock or 'utc'}", "-S"]
    # Relative, because the path of a unix socket must fit in 108 bytes.
    argv += ["-chardev", f"socket,id=qmp,path={QMP_SOCKET},server=on,wait=off"]
    return [*argv, "-mon", "chardev=qmp,mode=control"]


def device_args(forward: int | None, disks: Sequence[Disk]) -> list[str]:
    """Entropy, network and disks, in an order that a guest sees in its names."""
    argv = ["-object", "rng-builtin,id=entropy", "-device", "virtio-rng-pci,rng=entropy"]
    argv += _net_args(forward)  # before the disks: its slot, which names it in the guest, stays the same
    for number, disk in enumerate(disks):
        argv += _disk_args(number, disk)
    return argv


def machine_cmdline(shipped: str, arch: Arch) -> str:
    """The image's command line on this machine: with its root and its console, and without a board's consoles.

    The kernel takes the first console of a driver that it is told, be the port there or not.
    """
    kept = re.sub(r"(^|\s)console=\S*", "", shipped).strip()
    return f"{kept} root=/dev/vda console={arch.console}".strip()


def kernel_args(kernel: Path, initrd: Path, cmdline: str) -> list[str]:
    """What QEMU loads, and the kernel's command line."""
    return ["-kernel", str(kernel.absolute()), "-initrd", str(initrd.absolute()), "-append", cmdline]


def qemu_argv(request: Boot) -> list[str]:
    """QEMU's command line; it must run in `request.work`, and waits for `cont` on its QMP socket."""
    argv = machine_argv(
        request.arch, request.accel, smp=request.smp, memory_bytes=request.memory_bytes, clock=request.clock
    )
    argv += ["-no-reboot"]
    argv += ["-chardev", f"file,id=console,path={_escaped(request.console)}", "-serial", "chardev:console"]
    argv += ["-device", "virtio-serial-pci", "-chardev", "stdio,id=probe,signal=off"]
    argv += ["-device", f"virtserialport,chardev=probe,name={request.port}"]
    return [
        *argv,
        *device_args(request.forward, request.disks),
        *kernel_args(request.kernel, request.initrd, request.cmdline),
    ]


def find_forward(qmp: Qmp, guest_port: int) -> int:
    """The host's port that a running QEMU forwards to `guest_port`, by its own word."""
    said = " ".join(str(qmp.execute("human-monitor-command", command_line="info usernet")).split())
    found = re.search(rf"TCP\[HOST_FORWARD\] \d+ 127\.0\.0\.1 (\d+) \S+ {guest_port} ", said)
    if found is None:
        raise MachineError(f"QEMU does not forward to the guest's port {guest_port}: {said or 'no network'}")
    return int(found[1])


class Overseer(threading.Thread):
    """Asks a starting QEMU for accelerator and port, lets the guest go, and listens for why it ends."""

    def __init__(self, socket: Path, forward: int | None, on_forward: Callable[[int], None] | None) -> None:
        super().__init__(name="rofs-qmp", daemon=True)
        self._socket, self._over = socket, threading.Event()
        self._forward, self._on_forward = forward, on_forward
        self._qmp: Qmp | None = None
        self.accel: AccelName | None = None
        self.ended = ""
        self.error: Exception | None = None
        self.failure: Exception | None = None

    def run(self) -> None:
        """From the first answer of the socket to the end of QEMU."""
        try:
            qmp = self._connect()
            if qmp is not None:
                with qmp:
                    self._oversee(qmp)
        except (MachineError, OSError, ValueError, LookupError) as error:
            self.error = error

    def _connect(self) -> Qmp | None:
        """The monitor, as soon as there is one; None if QEMU was gone before."""
        while not self._over.is_set():
            try:
                return Qmp(self._socket)
            except (FileNotFoundError, ConnectionRefusedError):
                self._over.wait(CONNECT_EVERY_S)
        return None

    def _oversee(self, qmp: Qmp) -> None:
        try:
            accel = query_accel(qmp)
            port = None if self._forward is None else find_forward(qmp, self._forward)
        except (MachineError, ValueError, LookupError):
            qmp.execute("quit")  # or it would stay paused until the time is up
            raise
        self.accel, self._qmp = accel, qmp
        qmp.execute("cont" if self._told(port) else "quit")
        for event in qmp.events():
            if event.get("event") == "SHUTDOWN":
                self.ended = str(event["data"]["reason"])
            elif event.get("event") == "BLOCK_IO_ERROR" and event["data"].get("nospace"):
                work = self._socket.parent
                self.failure = MachineError(f"the host has no space left for what the guest writes (its work: {work})")
                self.stop()  # or the guest would stay paused until the time is up

    def _told(self, port: int | None) -> bool:
        """Hand on the port; whether the guest may go."""
        if port is not None and self._on_forward is not None:
            try:
                self._on_forward(port)
            except Exception as error:  # noqa: BLE001 -- raised by boot() in the caller's thread
                self.failure = error
        return self.failure is None

    def stop(self) -> None:
        """End a guest that runs, from any thread."""
        if self._qmp is not None:
            with suppress(OSError):  # it is gone already
                self._qmp.order("quit")

    def finish(self) -> None:
        """QEMU is gone: stop looking for it and read what it said last."""
        self._over.set()
        self.join(timeout=10)


class _Warden(threading.Thread):
    """Ends a guest that floods; `reason` says with what, "" if it did not."""

    def __init__(self, console: Path, overseer: Overseer, limits: Limits) -> None:
        super().__init__(name="rofs-warden", daemon=True)
        self._console, self._overseer, self.limits = console, overseer, limits
        self._over = threading.Event()
        self.reason = ""

    def run(self) -> None:
        """Look at the console, which QEMU writes by itself, until `finish`."""
        while not self._over.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        try:
            self.limits.check_console(self._console)
        except Flooded as error:
            self.end(error)

    def end(self, why: Flooded) -> None:
        """The guest must go; the first reason counts."""
        if not self.reason:
            self.reason = f"stopped, since the guest flooded {why}"
            self._overseer.stop()

    def finish(self) -> None:
        """QEMU is gone: a last look."""
        self._over.set()
        self.join()
        self._look()


class _Port:
    """QEMU's stdin and stdout, the guest's port.

    stdout is read here, since `run` would mix QEMU's stderr into it. stdin is a pipe into which nobody
    writes: at an end of file QEMU takes the port for closed, and the guest's writes block for ever.
    """

    def __init__(self, on_line: Callable[[str], None], warden: _Warden) -> None:
        reader, self.stdout = os.pipe2(os.O_CLOEXEC)
        self.stdin, self._idle = os.pipe2(os.O_CLOEXEC)
        self._lines, self._warden = Lines(on_line, warden.limits), warden
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(reader,), name="rofs-port", daemon=True)
        self._thread.start()

    def _read(self, reader: int) -> None:
        """Hand on each line; after a failure only drain, lest the guest block on a full pipe."""
        with open(reader, "rb", buffering=0) as file:
            try:
                while chunk := file.read(READ_BYTES):
                    self._lines.take(chunk)
                self._lines.finish()
            except Flooded as error:
                self._warden.end(error)
            except Exception as error:  # noqa: BLE001 -- raised by boot() in the caller's thread
                self.failure = error
            while file.read(READ_BYTES):
                pass

    def finish(self) -> None:
        """QEMU is gone: close our ends and read the rest."""
        for end in (self.stdout, self.stdin, self._idle):
            os.close(end)
        self._thread.join()


def boot(
    request: Boot,
    on_line: Callable[[str], None],
    *,
    on_forward: Callable[[int], None] | None = None,
    timeout_s: float = 300,
    log: Path | None = None,
    limits: Limits = LIMITS,
) -> BootResult:
    """Boot and wait for the end; `on_line` gets each line of the probe's port, in a thread of its own.

    `on_forward` gets the host's port for `request.forward`, in a thread of its own, before the guest
    runs. A guest that hangs, crashes or says more than `limits` is a result. What `on_line` raises is
    raised after the boot; what `on_forward` raises is raised instead of it.
    MachineError: QEMU could not start, or never answered, or the host's disk is full. Interrupted: somebody stopped it.
    """
    _prepare(request)
    overseer = Overseer(request.work / QMP_SOCKET, request.forward, on_forward)
    warden = _Warden(request.console, overseer, limits)
    port = _Port(on_line, warden)
    began = time.monotonic()
    overseer.start()
    warden.start()
    error: ToolError | None = None
    try:
        argv = qemu_argv(request)
        run(argv, log=log, timeout_s=timeout_s, cwd=request.work, stdin=port.stdin, stdout=port.stdout)
    except ToolError as caught:
        error = caught
    finally:
        port.finish()
        overseer.finish()
        warden.finish()
    seconds = time.monotonic() - began
    failure = overseer.failure or port.failure
    if failure is not None:
        raise failure
    if overseer.accel is None:
        raise MachineError(no_start(request.arch, error, overseer.error))
    if error is None and overseer.ended == "host-signal":
        raise Interrupted("QEMU was stopped")
    status, reason = _judge(error, overseer.ended, timed_out=seconds >= timeout_s)
    if warden.reason:
        status, reason = "crash", warden.reason
    return BootResult(
        status=status,
        reason=reason,
        seconds=seconds,
        accel_seen=overseer.accel,
        console=keep_ends(request.console, limits.kept_bytes),
    )


def _prepare(request: Boot) -> None:
    """No leftovers of another boot; QEMU wants its write logs to exist."""
    request.work.mkdir(parents=True, exist_ok=True)
    for stale in (request.work / QMP_SOCKET, request.console):
        stale.unlink(missing_ok=True)
    for disk in request.disks:
        if disk.write_log is not None:
            disk.write_log.write_bytes(b"")


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


def no_start(arch: Arch, error: ToolError | None, heard: Exception | None) -> str:
    """What to say of a QEMU that never let the guest run."""
    how = f"{error.reason}: {error.tail.strip()}" if error else str(heard or "it ended at once")
    hint = f" ({error.hint})" if error and error.hint else ""
    return f"{arch.qemu}: {how.rstrip(': ')}{hint}"
