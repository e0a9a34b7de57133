# SPDX-License-Identifier: MIT
"""A published image -> its console on the user's own terminal: the files that ship, on disks to throw away.

QEMU is in a session of its own, as every tool of rofs, and is handed our stdin and stdout. It makes the
terminal raw, so that Ctrl-C is a byte for the guest and no signal for us; nobody else reads it. It dies
with rofs. Whatever happens to either, the terminal is put back as it was found.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rofs.errors import Interrupted, MachineError, ToolError
from rofs.image.manifest import check_outputs
from rofs.layout import store_file
from rofs.machine.accel import Accel, find_accel
from rofs.machine.arch import Arch
from rofs.machine.disk import check_names, check_state, make_overlay
from rofs.machine.qemu import (
    QMP_SOCKET,
    Disk,
    Overseer,
    device_args,
    kernel_args,
    machine_argv,
    machine_cmdline,
    no_start,
)
from rofs.profile import Persistent
from rofs.run import run, stoppable
from rofs.store import default_cache_dir, workspace

SSH_PORT = 22
STDIN, STDOUT = 0, 1
LEAVE = "Ctrl-A X leaves, Ctrl-A C is QEMU's monitor and back, Ctrl-A H says more; Ctrl-A Ctrl-A is a Ctrl-A"
CONVERT_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """A boot to be attended. `forward` is a TCP port of the guest that the host shall reach."""

    arch: Arch
    accel: Accel
    kernel: Path
    initrd: Path
    cmdline: str
    disks: tuple[Disk, ...]
    work: Path
    memory_bytes: int
    smp: int = 2
    forward: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asks for beside the image. Disks are by the store's name, "state" or a path.

    `state` are a device's raw images, shown copy-on-write: all of the image's, or none. `keep` says where
    disks live from run to run; None keeps none, a store that is not named is kept beside the image.
    """

    smp: int = 2
    append: str = ""
    ssh: bool = False
    state: Mapping[str, Path] = field(default_factory=dict)
    keep: Mapping[str, Path] | None = None


def console_argv(request: Console) -> list[str]:
    """QEMU's command line: like verification's, but the console is here and a reboot reboots."""
    argv = machine_argv(request.arch, request.accel, smp=request.smp, memory_bytes=request.memory_bytes)
    argv += ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"]
    argv += ["-mon", "chardev=console,mode=readline"]
    argv += ["-device", "virtio-serial-pci"]  # for nothing but the network's slot, and so its name
    return [
        *argv,
        *device_args(request.forward, request.disks),
        *kernel_args(request.kernel, request.initrd, request.cmdline),
    ]


def attend(request: Console, on_forward: Callable[[int], None] | None = None) -> None:
    """Run it until the guest powers off or the user leaves; `on_forward` gets the host's port before it runs.

    MachineError: QEMU failed. Interrupted: somebody stopped it.
    """
    overseer = Overseer(request.work / QMP_SOCKET, request.forward, on_forward)
    overseer.start()
    error: ToolError | None = None
    try:
        run(console_argv(request), cwd=request.work, stdin=STDIN, stdout=STDOUT)
    except ToolError as caught:
        error = caught
    finally:
        overseer.finish()
    if overseer.failure is not None:
        raise overseer.failure
    if overseer.accel is None and (error or overseer.error):
        raise MachineError(no_start(request.arch, error, overseer.error))
    if error is not None:
        raise MachineError(f"QEMU {error.reason}: {error.tail.strip()}".rstrip(": "))
    if overseer.ended == "host-signal":
        raise Interrupted("QEMU was stopped")


@contextmanager
def kept_terminal(fd: int = STDIN) -> Iterator[None]:
    """Put back what QEMU changes on a terminal or pipe: it does so itself, but not when it is killed."""
    if _in_background(fd):
        raise MachineError("the console needs the terminal, and this is in the background (or give it </dev/null)")
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    before = termios.tcgetattr(fd) if os.isatty(fd) else None
    try:
        yield
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        if before is not None and termios.tcgetattr(fd) != before:
            termios.tcsetattr(fd, termios.TCSANOW, before)


def _in_background(fd: int) -> bool:
    """Whether another process group has the terminal, a shell's say, which we would take the keys from."""
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        return False  # no terminal, or none of this session


# --- disks ----------------------------------------------------------------------------------------


def kept_file(image: Path, store: Persistent) -> Path:
    """Where a kept disk is if nobody says: beside the image, where the next build leaves it alone."""
    image = image.resolve()
    return image.with_name(f"{image.name}.{Path(store_file(store)).stem}.qcow2")


def keep_disk(published: Path, kept: Path) -> Disk:
    """The kept disk, made from the published one at first; a copy, since a build replaces what it came from.

    Its name says the format: a guest could write the head of a qcow2 into a raw disk, and name there a
    file of the host to be shown.
    """
    form = "qcow2" if kept.suffix == ".qcow2" else "raw"
    if kept.resolve().parent == published.resolve().parent:
        raise MachineError(f"{kept} is in the published image, which is never written: name a file elsewhere")
    if kept.exists() and not kept.is_file():
        raise MachineError(f"{kept} is no file for a disk")
    if not kept.exists():
        with workspace(kept.parent) as work:
            convert = ["qemu-img", "convert", "-q", "-f", "raw", "-O", form]
            run([*convert, published.absolute(), work / "disk"], timeout_s=CONVERT_TIMEOUT_S)
            (work / "disk").rename(kept)
    return Disk(path=kept, format="qcow2" if form == "qcow2" else "raw")


def check_stores(stores: Sequence[Persistent], wishes: Wishes) -> None:
    """Disks of what the image has, and of all of it where a device's are given."""
    if wishes.keep is not None and not stores:
        raise MachineError("the image keeps nothing: it has no state and no partition")
    check_names(stores, wishes.keep or {})
    check_state(stores, wishes.state)


def make_disks(image: Path, stores: Sequence[Persistent], wishes: Wishes, work: Path) -> tuple[Disk, ...]:
    """The root and every store in the layout's order: copy-on-write in `work`, but for what is kept."""
    check_stores(stores, wishes)
    root = make_overlay(image / "rootfs.squashfs", work / "root.qcow2")
    disks = [Disk(path=root, format="qcow2")]
    for number, store in enumerate(stores, start=1):
        published = image / store_file(store)
        if wishes.keep is not None:
            disks.append(keep_disk(published, wishes.keep.get(store.name, kept_file(image, store))))
        else:
            base = wishes.state.get(store.name, published)
            disks.append(Disk(path=make_overlay(base, work / f"store-{number}.qcow2"), format="qcow2"))
    return tuple(disks)


# --- the verb -------------------------------------------------------------------------------------


def find_differences(image: Path) -> list[str]:
    """Files that are not what the manifest says, or what is wrong with the manifest itself."""
    try:
        return check_outputs(image, json.loads((image / "manifest.json").read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return [f"manifest.json ({error})"]


def render_cmdline(image: Path, arch: Arch, append: str) -> str:
    """The shipped words, where the root and the console are, and the user's, which come last and so win."""
    return f"{machine_cmdline((image / 'cmdline').read_text('utf-8'), arch)} {append}".strip()


def render_ssh(port: int, user: str) -> str:
    """Ready to be pasted; the key of a machine whose state is thrown away is another one each time."""
    hosts = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    return shlex.join(["ssh", "-p", str(port), *hosts, f"{user}@127.0.0.1"])


def boot_console(
    image: Path,
    arch: Arch,
    stores: Sequence[Persistent],
    memory_bytes: int,
    wishes: Wishes,
    *,
    user: str,
    say: Callable[[str], None],
) -> None:
    """Boot `image` on stdin and stdout until it powers off or the user leaves; `say` gets rofs's own lines.

    MachineError: QEMU failed, or a disk is not what it should be.
    """

    def attended() -> None:
        accel = find_accel(arch, default_cache_dir())
        with workspace(default_cache_dir() / "boot") as work:
            request = Console(
                arch=arch, accel=accel, kernel=image / "vmlinuz", initrd=image / "initrd.img",
                cmdline=render_cmdline(image, arch, wishes.append), disks=make_disks(image, stores, wishes, work),
                work=work, memory_bytes=memory_bytes, smp=wishes.smp, forward=SSH_PORT if wishes.ssh else None,
            )  # fmt: skip
            for store, disk in zip(stores, request.disks[1:], strict=True):
                say(_render_disk(store, disk, wishes))
            say(f"{image} in QEMU ({accel.name}: {accel.reason}); {LEAVE}")
            attend(request, lambda port: say(f"log in with: {render_ssh(port, user)}"))

    with kept_terminal():
        result = stoppable(attended)[0]
    if isinstance(result, BaseException):
        raise result


def _render_disk(store: Persistent, disk: Disk, wishes: Wishes) -> str:
    if wishes.keep is not None:
        return f"{store.name} is kept in {disk.path}"
    if store.name in wishes.state:
        return f"{store.name} is that of {wishes.state[store.name]}, which is not written; changes are thrown away"
    return f"{store.name} is thrown away at the end (--keep-state keeps it)"
