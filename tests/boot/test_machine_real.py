# SPDX-License-Identifier: MIT
"""rofs.machine against real QEMUs: a kernel, a handful of modules, and an init that does as it is told."""

from __future__ import annotations

import io
import socket
import struct
import tarfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import pytest

from rofs.errors import MachineError
from rofs.machine.accel import Accel, find_accel, run_probe
from rofs.machine.arch import ARCHES, Arch
from rofs.machine.disk import allocated, make_overlay
from rofs.machine.qemu import Boot, BootResult, Disk, boot

pytestmark = pytest.mark.boot

QEMUS = [arch.qemu for arch in ARCHES.values()]
TCG = Accel("tcg", "the test says so")
DISK_BYTES = 1024 * 1024 + 300
"""No multiple of a sector, and more than one cluster of qcow2."""

# Insmod's order; one that is built in has no file.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
)
ECHO_PORT = 7

INIT = r"""#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for m in @MODULES@; do $b insmod "/$m"; done
for try in 1 2 3 4 5 6 7 8 9; do
    for p in /sys/class/virtio-ports/vport*; do
        [ "$($b cat "$p/name" 2>/dev/null)" = rofs.probe ] && break 2
    done
    $b sleep 1
done
exec 3>"/dev/${p##*/}"
echo "hello from $($b uname -m)" >&3
echo "words on the console"
case " $($b cat /proc/cmdline) " in
*" do=read "*)
    echo "vda $($b head -c 1048876 /dev/vda | $b sha256sum | $b cut -d' ' -f1)" >&3
    $b seq 1 20000 >&3
    ;;
*" do=write "*) echo written | $b dd of=/dev/vda seek=1000 conv=fsync 2>/dev/null ;;
*" do=net "*)
    $b ip link set eth0 up
    $b udhcpc -n -q -f -i eth0 -s /lease >/dev/null 2>&1
    $b cat /leased >&3
    read -r answer <<EOF
$($b nc -w 5 10.0.2.2 "$out" </dev/null 2>&1)
EOF
    echo "the host says: $answer" >&3
    echo welcome | $b nc -l -p @PORT@ &
    until $b grep -q '^ *[0-9]*: [0-9A-F]*:000@PORT@ [0-9A-F:]* 0A ' /proc/net/tcp /proc/net/tcp6; do $b sleep 0.1; done
    echo listening >&3
    wait
    ;;
*" do=panic "*) exit 3 ;;
*" do=hang "*) while :; do $b sleep 1000; done ;;
esac
$b poweroff -f
"""


LEASE = """#!/bin/busybox sh
[ "$1" = bound ] || exit 0
/bin/busybox ifconfig eth0 "$ip" netmask "$subnet"
echo "lease $ip, router ${router:-none}" >/leased
"""


class BootFiles(Protocol):
    """What the `boot_files` fixture gives for an architecture."""

    vmlinuz: Path
    busybox: Path
    modules_tar: Path


def _cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Paths with mode and content -> a newc archive; directories are those with a directory's mode."""
    out = io.BytesIO()
    for number, (name, (mode, data)) in enumerate({**files, "TRAILER!!!": (0, b"")}.items(), 1):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        out.write(b"\0" * (-out.tell() % 4) + data)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def _modules(archive: Path) -> dict[str, bytes]:
    """The few modules of `MODULES` that are in the archive, in the order in which to load them."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name.partition(".ko")[0].replace("-", "_")
            if ".ko" in member.name and name in MODULES:
                file = tar.extractfile(member)
                assert file is not None
                found[name] = file.read()
    return {name: found[name] for name in MODULES if name in found}


class Guest:
    """One architecture's kernel and initrd, ready to be told what to do."""

    def __init__(self, arch: Arch, files: BootFiles, directory: Path) -> None:
        self.arch, self.files, self.directory = arch, files, directory
        modules = _modules(files.modules_tar)
        init = INIT.replace("@MODULES@", " ".join(f"{name}.ko" for name in modules)).replace("@PORT@", str(ECHO_PORT))
        tree = {"bin": (0o40755, b""), "dev": (0o40755, b""), "init": (0o100755, init.encode())}
        tree["lease"] = (0o100755, LEASE.encode())
        tree["bin/busybox"] = (0o100755, files.busybox.read_bytes())
        tree |= {f"{name}.ko": (0o100644, data) for name, data in modules.items()}
        self.initrd = directory / "initrd"
        self.initrd.write_bytes(_cpio(tree))

    def request(self, do: str, *disks: Disk, forward: int | None = None) -> Boot:
        """A boot with `do=` on the command line."""
        work = self.directory / f"{do}, with a comma"
        return Boot(
            arch=self.arch,
            accel=TCG,
            kernel=self.files.vmlinuz,
            initrd=self.initrd,
            cmdline=f"console={self.arch.console} panic=-1 do={do} ",
            disks=disks,
            work=work,
            console=work / "console.log",
            memory_bytes=256 * 1024 * 1024,
            forward=forward,
        )

    def boot(self, do: str, disk: Disk, *, timeout_s: float = 300) -> tuple[BootResult, list[str]]:
        """Boot -> the result and the lines on the port."""
        lines: list[str] = []
        return boot(self.request(do, disk), lines.append, timeout_s=timeout_s, log=self.directory / "log"), lines


@pytest.fixture(scope="module", params=list(ARCHES))
def guest(
    request: pytest.FixtureRequest,
    boot_files: Callable[[str], BootFiles],
    tmp_path_factory: pytest.TempPathFactory,
) -> Guest:
    arch = ARCHES[request.param]
    return Guest(arch, boot_files(arch.name), tmp_path_factory.mktemp(arch.name))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base, with a comma"
    path.write_bytes(bytes(range(256)) * (DISK_BYTES // 256) + b"x" * (DISK_BYTES % 256))
    return path


@pytest.mark.needs(*QEMUS, "qemu-img")
def test_a_guest_reads_its_disk_speaks_and_powers_off(guest: Guest, base: Path, tmp_path: Path) -> None:
    overlay = make_overlay(base, tmp_path / "root,.qcow2")
    result, lines = guest.boot("read", Disk(path=overlay, format="qcow2"))
    assert (result.status, result.accel_seen) == ("off", "tcg"), result
    assert lines[0] == f"hello from {guest.arch.uname}"
    assert lines[1] == f"vda {sha256(base.read_bytes()).hexdigest()}"
    assert lines[2:] == [str(n) for n in range(1, 20001)]  # all of it, though the power went at once
    assert "words on the console" in result.console
    assert allocated(overlay) == []


@pytest.mark.needs(*QEMUS, "qemu-img")
def test_what_a_guest_writes_is_seen_and_stays_off_the_base(guest: Guest, base: Path, tmp_path: Path) -> None:
    before = base.read_bytes()
    overlay = make_overlay(base, tmp_path / "root.qcow2")
    result, _ = guest.boot("write", Disk(path=overlay, format="qcow2"))
    assert result.status == "off", result
    extents = allocated(overlay)
    assert any(e.start_bytes <= 512000 < e.start_bytes + e.size_bytes for e in extents), extents
    assert base.read_bytes() == before


def _replay(log: bytes, disk: bytearray) -> int:
    """Do to `disk` what a log of dm-log-writes says was written -> the number of flushes."""
    magic, version, entries, sector_bytes = struct.unpack_from("<QQQI", log)
    assert (magic, version, sector_bytes) == (0x6A736677736872, 1, 512)
    at, flushes = 512, 0
    for _ in range(entries):
        sector, sectors, flags, _ = struct.unpack_from("<QQQQ", log, at)
        assert not flags & ~1, "neither FUA nor discard"
        at += 512
        disk[sector * 512 : (sector + sectors) * 512] = log[at : at + sectors * 512]
        at += sectors * 512
        flushes += flags & 1
    return flushes


@pytest.mark.needs(*QEMUS)
def test_a_write_log_holds_every_write_and_flush(guest: Guest, tmp_path: Path) -> None:
    path, log = tmp_path / "disk", tmp_path / "log,"
    before = b"\x5a" * (1024 * 1024)
    path.write_bytes(before)
    result, _ = guest.boot("write", Disk(path=path, format="raw", write_log=log))
    assert result.status == "off", result
    replayed = bytearray(before)
    assert _replay(log.read_bytes(), replayed) > 0
    assert replayed[512000:512008] == b"written\n"
    assert replayed == path.read_bytes()


def _sockets(word: str) -> set[tuple[str, str, str]]:
    """(family, address, state) of every socket of the processes with `word` on their command line."""
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if word in (process / "cmdline").read_text():
                inodes |= {link.readlink().name for link in (process / "fd").iterdir()}
    assert any(name.startswith("socket:") for name in inodes), "the monitor's is one"
    found = set()
    for family in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for row in Path("/proc/net", family).read_text().splitlines()[1:]:
            fields = row.split()
            if f"socket:[{fields[9]}]" in inodes:
                found.add((family, fields[1], fields[3]))
    return found


@pytest.mark.needs(*QEMUS)
@pytest.mark.parametrize("forward", [None, ECHO_PORT])
def test_qemu_listens_on_the_loopback_alone(forward: int | None, guest: Guest) -> None:
    request = guest.request("read", forward=forward)
    seen: list[tuple[int | None, set[tuple[str, str, str]]]] = []

    def look(port: int | None) -> None:
        seen.append((port, _sockets(str(guest.directory))))

    result = boot(request, lambda line: look(None) if "hello" in line else None, on_forward=look)
    assert result.status == "off", result
    assert [port is None for port, _ in seen] == ([True] if forward is None else [False, True])
    listening = set() if forward is None else {("tcp", f"0100007F:{seen[0][0]:04X}", "0A")}
    assert [sockets for _, sockets in seen] == [listening] * len(seen)


@pytest.mark.needs(*QEMUS)
def test_the_guest_is_reached_and_reaches_nobody(guest: Guest) -> None:
    """10.0.2.2 is the host's loopback to a guest of QEMU's, unless it is cut off."""
    lines: list[str] = []
    ports: list[int] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line == "listening":
            with socket.create_connection(("127.0.0.1", ports[0]), timeout=60) as connection:
                lines.append(connection.makefile().readline())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_shout, args=(listener,), daemon=True).start()
        request = guest.request("net", forward=ECHO_PORT)
        request = replace(request, cmdline=f"{request.cmdline} out={listener.getsockname()[1]}")
        result = boot(request, on_line, on_forward=ports.append)
    assert result.status == "off", result
    assert lines[1] == "lease 10.0.2.15, router none"
    assert lines[2].startswith("the host says: nc: "), lines
    assert lines[3:] == ["listening", "welcome\n"]


def _shout(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            with listener.accept()[0] as connection:
                connection.sendall(b"come in\n")


@pytest.mark.needs(*QEMUS)
def test_a_panic_is_a_crash(guest: Guest, base: Path) -> None:
    result, lines = guest.boot("panic", Disk(path=base, format="raw", read_only=True))
    assert result.status == "crash", result
    assert "guest-reset" in result.reason or "guest-panic" in result.reason
    assert "Kernel panic" in result.console
    assert lines == [f"hello from {guest.arch.uname}"]


@pytest.mark.needs(*QEMUS)
def test_a_guest_that_hangs_is_ended_and_its_console_kept(guest: Guest, base: Path) -> None:
    for timeout_s in (10, 40, 160):  # a busy host takes long to reach the kernel
        result, _ = guest.boot("hang", Disk(path=base, format="raw", read_only=True), timeout_s=timeout_s)
        assert result.status == "timeout", result
        assert f"{timeout_s} s" in result.reason
        if "Linux version" in result.console:
            return
    pytest.fail("the console's file has no word of the kernel's")


@pytest.mark.needs(*QEMUS)
def test_a_disk_that_is_no_disk_is_the_machines_error(guest: Guest, base: Path) -> None:
    with pytest.raises(MachineError, match="not in qcow2 format"):
        guest.boot("read", Disk(path=base, format="qcow2"))


@pytest.mark.needs(*QEMUS)
@pytest.mark.parametrize("name", ARCHES)
def test_the_accelerators_probe_can_succeed(name: str) -> None:
    """The very guest whose silence condemns KVM ends by itself where the CPU works."""
    run_probe(ARCHES[name], "tcg", timeout_s=60)


@pytest.mark.needs(*QEMUS)
@pytest.mark.parametrize("name", ARCHES)
def test_the_accelerator_found_is_remembered(name: str, tmp_path: Path) -> None:
    """Whatever this host has, twice the same answer with a reason."""
    first = find_accel(ARCHES[name], tmp_path)
    assert first.reason
    assert find_accel(ARCHES[name], tmp_path) == first
