# SPDX-License-Identifier: MIT
"""rofs.machine.qemu: the command line as data, and every way a QEMU can end. QEMU is a fake first on PATH."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rofs.errors import Interrupted, MachineError
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES
from rofs.machine.bounds import LIMITS, Limits
from rofs.machine.qemu import Boot, BootResult, Disk, boot, qemu_argv

MIB = 1024 * 1024

FAKE = """#!{python}
import contextlib, json, os, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind("qmp.sock")
listener.listen()

def serve(kvm=False):
    global connection
    connection = listener.accept()[0]
    connection.sendall(b'{{"QMP": {{}}}}\\r\\n')
    for line in connection.makefile():
        request = json.loads(line)
        command = request["execute"]
        say({{"event": "NOISE", "data": {{}}}})
        say({{"return": answer(command, request.get("arguments"), kvm)}})
        if command == "cont":
            return
        if command == "quit":
            with contextlib.suppress(OSError):  # who says quit may hang up at once
                end("host-qmp-quit")
            sys.exit(0)

def answer(command, arguments, kvm):
    if command == "query-kvm":
        return {{"present": True, "enabled": kvm}}
    if command == "human-monitor-command":
        return usernet if arguments == {{"command-line": "info usernet"}} else "unknown command"
    return {{}}

usernet = {usernet!r}

def say(message):
    connection.sendall(json.dumps(message).encode() + b"\\r\\n")

def end(reason):
    say({{"event": "SHUTDOWN", "data": {{"guest": True, "reason": reason}}}})

"""


# As QEMU 7.2 prints it; a connection from outside of the guest's is a row too.
USERNET = (
    "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
    "  TCP[ESTABLISHED]   9       127.0.0.1 40000       10.0.2.15    22     0     0\r\n"
    "  TCP[HOST_FORWARD]   7       127.0.0.1 44066       10.0.2.15    80     0     0\r\n"
    "  TCP[HOST_FORWARD]   8       127.0.0.1 44067       10.0.2.15    22     0     0\r\n"
)


def request(tmp_path: Path, name: str = "amd64", **changes: object) -> Boot:
    work = tmp_path / "work"
    values: dict[str, object] = {
        "arch": ARCHES[name],
        "accel": Accel("tcg", "a test"),
        "kernel": Path("/boot/vmlinuz"),
        "initrd": Path("/boot/initrd.img"),
        "cmdline": "console=ttyS0 quiet",
        "disks": (Disk(path=Path("/root,.qcow2"), format="qcow2"),),
        "work": work,
        "console": work / "console.log",
    }
    return Boot(**(values | changes))  # type: ignore[arg-type]


def _values(argv: list[str], option: str) -> list[str]:
    return [argv[i + 1] for i, word in enumerate(argv) if word == option]


@pytest.mark.parametrize(
    ("changes", "option", "expected"),
    [
        ({}, "-kernel", ["/boot/vmlinuz"]),
        ({}, "-append", ["console=ttyS0 quiet"]),
        ({}, "-netdev", ["user,id=net,restrict=on"]),
        ({"forward": 22}, "-netdev", ["user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"]),
        ({}, "-accel", ["tcg"]),
        ({}, "-cpu", [ARCHES["amd64"].tcg_cpu]),
        ({"accel": Accel("kvm", "")}, "-accel", ["kvm"]),
        ({"accel": Accel("kvm", "")}, "-cpu", [ARCHES["amd64"].kvm_cpu]),
        ({"name": "arm64"}, "-cpu", ["cortex-a72"]),
        ({"name": "i386"}, "-cpu", ["qemu32"]),
        ({"name": "armhf"}, "-cpu", ["cortex-a15"]),
        ({"name": "armhf"}, "-machine", ["virt,highmem=off"]),
        ({}, "-m", ["512M"]),
        ({"memory_bytes": 300 * MIB + 1}, "-m", ["301M"]),
        ({"smp": 1}, "-smp", ["1"]),
        ({}, "-rtc", ["base=utc"]),
        ({"clock": "2010-01-01T00:00:00"}, "-rtc", ["base=2010-01-01T00:00:00"]),
    ],
)
def test_a_word_of_the_command_line(
    changes: dict[str, object], option: str, expected: list[str], tmp_path: Path
) -> None:
    assert _values(qemu_argv(request(tmp_path, **changes)), option) == expected  # type: ignore[arg-type]


def test_the_guest_has_a_port_entropy_a_network_and_a_disk(tmp_path: Path) -> None:
    argv = qemu_argv(request(tmp_path))
    assert argv[0] == "qemu-system-x86_64"
    assert {"-nodefaults", "-no-user-config", "-no-reboot", "-S"} <= set(argv)
    assert _values(argv, "-device") == [
        "virtio-serial-pci",
        "virtserialport,chardev=probe,name=rofs.probe",
        "virtio-rng-pci,rng=entropy",
        "virtio-net-pci,netdev=net,romfile=",
        "virtio-blk-pci,drive=disk0",
    ]
    assert not {"-nic", "-net", "-monitor", "-qmp", "-nographic"} & set(argv)


def test_paths_with_commas_are_one_path(tmp_path: Path) -> None:
    argv = qemu_argv(request(tmp_path, console=Path("/logs/a,b")))
    assert "file,id=console,path=/logs/a,,b" in _values(argv, "-chardev")
    (node,) = (json.loads(text) for text in _values(argv, "-blockdev"))
    assert node["file"] == {"driver": "file", "filename": "/root,.qcow2"}


def test_disks_keep_their_order(tmp_path: Path) -> None:
    disks = (
        Disk(path=Path("/a"), format="qcow2"),
        Disk(path=Path("/b"), format="raw", read_only=True),
    )
    nodes = [json.loads(text) for text in _values(qemu_argv(request(tmp_path, disks=disks)), "-blockdev")]
    assert [(n["node-name"], n["driver"], n["read-only"]) for n in nodes] == [
        ("disk0", "qcow2", False),
        ("disk1", "raw", True),
    ]


def test_a_write_log_is_between_guest_and_disk(tmp_path: Path) -> None:
    disks = (Disk(path=Path("/a"), format="qcow2"), Disk(path=Path("/b"), format="raw", write_log=Path("/b,log")))
    argv = qemu_argv(request(tmp_path, disks=disks))
    node = json.loads(_values(argv, "-blockdev")[1])
    assert (node["driver"], node["node-name"], node["log-append"]) == ("blklogwrites", "disk1", False)
    assert node["log"] == {"driver": "file", "filename": "/b,log"}
    assert node["file"]["driver"] == "raw"
    assert node["file"]["file"] == {"driver": "file", "filename": "/b"}
    assert _values(argv, "-device")[-2:] == [
        "virtio-blk-pci,drive=disk0",
        "virtio-blk-pci,drive=disk1,write-zeroes=off",
    ]


class Qemu:
    """A fake QEMU; `runs` boots it with a body after the monitor's helpers."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path, self.lines, self.ports = tmp_path, list[str](), list[int]()
        self.usernet = USERNET
        self.on_forward: Callable[[int], None] = self.ports.append
        self.limits = LIMITS

    def boots(self, body: str, *, timeout_s: float = 60, **changes: object) -> BootResult:
        script = self.tmp_path / "qemu-system-x86_64"
        script.write_text(FAKE.format(python=sys.executable, usernet=self.usernet) + body)
        script.chmod(0o755)
        log = self.tmp_path / "log"
        return boot(
            request(self.tmp_path, **changes),  # type: ignore[arg-type]
            self.lines.append,
            on_forward=self.on_forward,
            timeout_s=timeout_s,
            log=log,
            limits=self.limits,
        )


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qemu:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Qemu(tmp_path)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ('serve(); end("guest-shutdown")', "off", "the guest powered off"),
        ('serve(); end("guest-reset")', "crash", "(guest-reset)"),
        ('serve(); end("guest-panic")', "crash", "(guest-panic)"),
        ("serve()", "crash", "no reason given"),
        ('serve(); sys.exit("qemu: bad luck")', "crash", "exit status 1: qemu: bad luck"),
        ('serve(); end("guest-shutdown"); os.abort()', "crash", "SIGABRT"),
    ],
)
def test_an_end_and_its_reason(body: str, status: str, reason: str, qemu: Qemu) -> None:
    result = qemu.boots(body)
    assert (result.status, result.accel_seen, result.console) == (status, "tcg", "")
    assert reason in result.reason


def test_a_guest_that_hangs_is_ended(qemu: Qemu) -> None:
    body = 'serve(); open("console.log", "w").write("so far\\n"); print("said", flush=True); time.sleep(600)'
    result = qemu.boots(body, timeout_s=2)
    assert (result.status, result.console) == ("timeout", "so far\n")
    assert "2 s" in result.reason
    assert qemu.lines == ["said"]


def test_the_accelerator_is_qemus_word_not_ours(qemu: Qemu) -> None:
    assert qemu.boots('serve(kvm=True); end("guest-shutdown")').accel_seen == "kvm"


def test_the_port_is_stdout_alone_and_all_of_it(qemu: Qemu) -> None:
    body = """
serve()
os.write(2, b"a warning of QEMU's\\n")
for n in range(20000): print(n)
sys.stdout.flush()
os.write(1, b"\\xff\\x85 x\\ry\\r\\nunfinished")
end("guest-shutdown")
"""
    assert qemu.boots(body).status == "off"
    assert qemu.lines[:20000] == [str(n) for n in range(20000)]
    assert qemu.lines[20000:] == ["\ufffd\ufffd x\ry", "unfinished"]


def test_the_port_does_not_close_before_qemu_ends(qemu: Qemu) -> None:
    """At an end of file on stdin QEMU takes the port for closed, and a guest that writes hangs."""
    body = """
import select
serve()
print("closed" if select.select([0], [], [], 0.3)[0] else "open", flush=True)
end("guest-shutdown")
"""
    qemu.boots(body)
    assert qemu.lines == ["open"]


def test_what_the_reader_raises_comes_out(qemu: Qemu, tmp_path: Path) -> None:
    qemu.boots('serve(); end("guest-shutdown")')

    def broken(line: str) -> None:
        raise KeyError(line)

    (tmp_path / "qemu-system-x86_64").write_text(
        FAKE.format(python=sys.executable, usernet="") + 'serve(); print("a\\nb", flush=True); end("guest-shutdown")'
    )
    with pytest.raises(KeyError, match="a"):
        boot(request(tmp_path), broken)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('sys.exit("qemu: -foo: invalid option")', "qemu: -foo: invalid option"),
        ("pass", "qemu-system-x86_64: "),
        ('connection = listener.accept()[0]; sys.exit("qemu: no such kernel")', "no such kernel"),
        ("connection = listener.accept()[0]; connection.sendall(b'no json\\n')", "qemu-system-x86_64: "),
        (
            (
                "connection = listener.accept()[0]; say({'QMP': {}}); connection.recv(99); "
                "say({'error': {'desc': 'not today'}})"
            ),
            "not today",
        ),
    ],
)
def test_a_qemu_that_never_starts_the_guest_is_an_error(body: str, words: str, qemu: Qemu) -> None:
    with pytest.raises(MachineError) as caught:
        qemu.boots(body)
    assert words in str(caught.value)
    assert caught.value.exit_status == 5


def test_a_missing_qemu_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rofs.run.shutil.which", lambda name, path: None)
    with pytest.raises(MachineError, match=r"not found.*qemu-system-x86"):
        boot(request(tmp_path), lambda line: None)


def test_a_qemu_that_somebody_stopped_is_an_interrupt(qemu: Qemu) -> None:
    with pytest.raises(Interrupted):
        qemu.boots('serve(); end("host-signal")')


FULL = """
serve()
say({{"event": "BLOCK_IO_ERROR", "data": {{"operation": "write", "action": "{action}", "nospace": {nospace}}}}})
if {nospace}:
    json.loads(connection.makefile().readline())["execute"] == "quit" or sys.exit("not asked to quit")
end("{end}")
"""


def test_a_full_disk_of_the_host_is_no_fault_of_the_guest(qemu: Qemu) -> None:
    with pytest.raises(MachineError, match="the host has no space left"):
        qemu.boots(FULL.format(action="stop", nospace=True, end="host-qmp-quit"))


def test_an_error_of_a_disk_that_the_guest_is_told_of_is_the_guests(qemu: Qemu) -> None:
    assert qemu.boots(FULL.format(action="report", nospace=False, end="guest-shutdown")).status == "off"


def test_leftovers_of_another_boot_do_not_confuse(qemu: Qemu, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "qmp.sock").touch()
    (tmp_path / "work" / "console.log").write_text("of another boot")
    result = qemu.boots('serve(); end("guest-shutdown")')
    assert (result.status, result.console) == ("off", "")


def test_a_long_path_is_no_obstacle(qemu: Qemu, tmp_path: Path) -> None:
    work = tmp_path.joinpath(*["a-directory-with-a-long-name"] * 6)
    result = qemu.boots('serve(); end("guest-shutdown")', work=work, console=work / "console.log")
    assert result.status == "off"


def test_the_forwarded_port_is_told_before_the_guest_runs(qemu: Qemu) -> None:
    told: list[str] = []

    def on_forward(port: int) -> None:
        told.extend([str(port), *qemu.lines])

    qemu.on_forward = on_forward
    result = qemu.boots('serve(); print("running", flush=True); end("guest-shutdown")', forward=22)
    assert (result.status, result.reason) == ("off", "the guest powered off")
    assert told == ["44067"]
    assert qemu.lines == ["running"]


def test_without_a_forwarded_port_nobody_is_told(qemu: Qemu) -> None:
    assert qemu.boots('serve(); end("guest-shutdown")').status == "off"
    assert qemu.ports == []


@pytest.mark.parametrize(
    "usernet", ["", USERNET.replace("HOST_FORWARD", "SYN_SENT"), USERNET.replace("127.0.0.1", "0.0.0.0")]
)
def test_a_port_that_is_not_forwarded_is_an_error_at_once(usernet: str, qemu: Qemu) -> None:
    qemu.usernet = usernet
    with pytest.raises(MachineError, match="does not forward to the guest's port 22"):
        qemu.boots("serve(); time.sleep(600)", forward=22)
    assert qemu.ports == []


def test_what_the_forward_raises_comes_out_and_the_guest_never_runs(qemu: Qemu) -> None:
    def broken(port: int) -> None:
        raise FileNotFoundError(port)

    qemu.on_forward = broken
    with pytest.raises(FileNotFoundError, match="44067"):
        qemu.boots('serve(); print("running", flush=True); time.sleep(600)', forward=22)
    assert qemu.lines == []


def test_a_write_log_starts_empty(qemu: Qemu, tmp_path: Path) -> None:
    log = tmp_path / "writes"
    log.write_bytes(b"of another boot")
    disk = Disk(path=Path("/b"), format="raw", write_log=log)
    qemu.boots('serve(); end("guest-shutdown")', disks=(disk,))
    assert log.read_bytes() == b""


LOW = Limits(line_bytes=2000, port_bytes=10_000, port_lines=1000, console_bytes=5000, kept_bytes=100)
QUITS = """
serve()
{flood}
sys.stdout.flush()
line = connection.makefile().readline()
open("told", "w").write(json.loads(line)["execute"])
end("host-qmp-quit")
"""


@pytest.mark.parametrize(
    ("flood", "words"),
    [
        ("os.write(1, b'x' * 3000)", "the probe's port with a line of more than 2000 bytes"),
        ("print('\\n' * 1001)", "the probe's port with more than 1000 lines"),
        ("print('12345678\\n' * 999, 'x' * 1500, sep='')", "the probe's port with more than 10000 bytes"),
        ("open('console.log', 'w').write('x' * 5001)", "its console with more than 5000 bytes"),
    ],
)
def test_a_guest_that_says_too_much_is_ended(flood: str, words: str, qemu: Qemu, tmp_path: Path) -> None:
    qemu.limits = LOW
    result = qemu.boots(QUITS.format(flood=flood))
    assert (tmp_path / "work" / "told").read_text() == "quit", "QEMU was asked to end, not waited for"
    assert (result.status, result.reason) == ("crash", f"stopped, since the guest flooded {words}")
    assert len(result.console) < 300


def test_a_flood_of_a_qemu_that_does_not_listen_ends_with_the_time(qemu: Qemu) -> None:
    qemu.limits = LOW
    result = qemu.boots("serve()\nos.write(1, b'x' * 3000)\nwhile True: os.write(1, b'x' * 3000)", timeout_s=2)
    assert result.status == "crash" and "a line of more than 2000 bytes" in result.reason


def test_a_flood_right_before_the_end_is_seen(qemu: Qemu, tmp_path: Path) -> None:
    qemu.limits = LOW
    words = "open('console.log', 'w').write('first\\r\\n' + '-' * 5000 + 'last'); end('guest-shutdown')"
    result = qemu.boots(f"serve(); {words}")
    assert (result.status, result.console[:6], result.console[-5:]) == ("crash", "first\n", "-last")
    assert "4811 bytes left out" in result.console
    assert "4811 bytes left out" in (tmp_path / "work" / "console.log").read_text()
