# SPDX-License-Identifier: MIT
"""rofs.machine.console: QEMU's words, the disks of a console, and a terminal that is always put back.

QEMU is a fake first on PATH; qemu-img is the real one. What a guest sees is shown by tests/boot.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
import tty
from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import profile_of
from state_layouts import PARTITIONS, STATE
from test_cli import image_of, rofs
from test_qemu import FAKE, USERNET

from rofs.errors import Interrupted, MachineError
from rofs.layout import persistent_stores
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES
from rofs.machine.console import (
    Console,
    Wishes,
    attend,
    check_stores,
    console_argv,
    keep_disk,
    kept_file,
    kept_terminal,
    make_disks,
    render_cmdline,
    render_ssh,
)
from rofs.machine.qemu import Boot, Disk, qemu_argv
from rofs.profile import Persistent

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
needs_qemu_img = pytest.mark.needs("qemu-img")


def stores_of(text: str) -> tuple[Persistent, ...]:
    return persistent_stores(profile_of(text))


def request(work: Path, **changes: object) -> Console:
    values: dict[str, object] = {
        "arch": ARCHES["amd64"],
        "accel": Accel("tcg", "a test"),
        "kernel": Path("/boot/vmlinuz"),
        "initrd": Path("/boot/initrd.img"),
        "cmdline": "quiet",
        "disks": (Disk(path=Path("/root.qcow2"), format="qcow2"), Disk(path=Path("/kept,.img"), format="raw")),
        "work": work,
        "memory_bytes": 256 * MIB,
    }
    return Console(**(values | changes))  # type: ignore[arg-type]


def words(argv: list[str], option: str) -> list[str]:
    return [argv[i + 1] for i, word in enumerate(argv) if word == option]


# --- QEMU's words ---------------------------------------------------------------------------------


def test_the_console_is_here_and_shares_the_keys_with_the_monitor(tmp_path: Path) -> None:
    argv = console_argv(request(tmp_path))
    assert "stdio,id=console,mux=on,signal=off" in words(argv, "-chardev")
    assert words(argv, "-serial") == ["chardev:console"]
    assert "chardev=console,mode=readline" in words(argv, "-mon")
    assert "-no-reboot" not in argv and "-S" in argv
    assert (words(argv, "-m"), words(argv, "-smp"), words(argv, "-append")) == (["256M"], ["2"], ["quiet"])


def test_the_guest_finds_the_devices_where_verification_showed_them(tmp_path: Path) -> None:
    console = request(tmp_path)
    boot = Boot(
        arch=console.arch, accel=console.accel, kernel=console.kernel, initrd=console.initrd, cmdline="quiet",
        disks=console.disks, work=tmp_path, console=tmp_path / "log",
    )  # fmt: skip
    verified = [word for word in words(qemu_argv(boot), "-device") if not word.startswith("virtserialport")]
    assert words(console_argv(console), "-device") == verified
    assert words(console_argv(console), "-blockdev") == words(qemu_argv(boot), "-blockdev")


@pytest.mark.parametrize(
    ("forward", "netdev"),
    [(None, "user,id=net,restrict=on"), (22, "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22")],
)
def test_the_network_ends_in_qemu_but_for_a_port_of_the_loopback(
    forward: int | None, netdev: str, tmp_path: Path
) -> None:
    assert words(console_argv(request(tmp_path, forward=forward)), "-netdev") == [netdev]


@pytest.mark.parametrize(
    ("shipped", "append", "cmdline"),
    [
        ("ro panic=10\n", "", "ro panic=10 root=/dev/vda console=ttyS0"),
        ("ro\n", "debug x=1", "ro root=/dev/vda console=ttyS0 debug x=1"),
        ("\n", "", "root=/dev/vda console=ttyS0"),
        ("ro console=ttyS1,115200 x=console=y\n", "", "ro x=console=y root=/dev/vda console=ttyS0"),
        ("console=tty0 console=ttymxc0 ro\n", "console=ttyS9", "ro root=/dev/vda console=ttyS0 console=ttyS9"),
    ],
)
def test_the_command_line_is_the_shipped_one_and_more(shipped: str, append: str, cmdline: str, tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_text(shipped)
    assert render_cmdline(tmp_path, ARCHES["amd64"], append) == cmdline


def test_the_ssh_command_is_ready() -> None:
    assert render_ssh(4022, "bob").startswith("ssh -p 4022 ") and render_ssh(1, "bob").endswith(" bob@127.0.0.1")


# --- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The files that disks are made from, as of PARTITIONS and STATE."""
    image = tmp_path / "images" / "amd64"
    image.mkdir(parents=True)
    for number, name in enumerate(
        ("rootfs.squashfs", "state.img", "partition-var.img", "partition-srv-store.img"), start=1
    ):
        (image / name).write_bytes(bytes([number]) * MIB)
    return image


def content(image: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in image.iterdir()}


def backing(disk: Disk) -> str:
    out = subprocess.run(
        ["qemu-img", "info", "--output=json", disk.path], capture_output=True, check=True, text=True
    ).stdout
    return str(json.loads(out).get("backing-filename", ""))


def raw_bytes(disk: Disk, tmp_path: Path) -> bytes:
    out = tmp_path / "as-raw"
    subprocess.run(["qemu-img", "convert", "-f", disk.format, "-O", "raw", disk.path, out], check=True)
    return out.read_bytes()


@needs_qemu_img
def test_disks_are_thrown_away_if_nobody_wants_them(image: Path, tmp_path: Path) -> None:
    before = content(image)
    disks = make_disks(image, stores_of(PARTITIONS), Wishes(), tmp_path)
    assert [(disk.format, disk.path.parent, disk.read_only) for disk in disks] == [("qcow2", tmp_path, False)] * 3
    assert [backing(disk) for disk in disks] == [
        str(image / name) for name in ("rootfs.squashfs", "partition-var.img", "partition-srv-store.img")
    ]
    assert content(image) == before and sorted(p.name for p in image.parent.iterdir()) == ["amd64"]


@needs_qemu_img
def test_a_device_s_disks_are_shown_and_not_written(image: Path, tmp_path: Path) -> None:
    devices = {name: tmp_path / f"device{i}" for i, name in enumerate(("/srv/store", "/var"))}
    for path in devices.values():
        path.write_bytes(b"d" * MIB)
    _, var, store = make_disks(image, stores_of(PARTITIONS), Wishes(state=devices), tmp_path)
    assert (backing(var), backing(store)) == (str(devices["/var"]), str(devices["/srv/store"]))


@needs_qemu_img
def test_kept_disks_are_copies_that_the_next_run_finds(image: Path, tmp_path: Path) -> None:
    before = content(image)
    named = tmp_path / "elsewhere" / "kept.img"
    wishes = Wishes(keep={"/var": named})
    _, var, store = make_disks(image, stores_of(PARTITIONS), wishes, tmp_path)
    assert (var.path, var.format) == (named, "raw") and named.read_bytes() == before["partition-var.img"]
    assert (store.path, store.format) == (image.parent / "amd64.partition-srv-store.qcow2", "qcow2")
    assert backing(store) == "" and raw_bytes(store, tmp_path) == before["partition-srv-store.img"]
    named.write_bytes(b"mine" * 1024)
    (image / "partition-srv-store.img").write_bytes(b"the next build's")
    again = make_disks(image, stores_of(PARTITIONS), wishes, tmp_path)
    assert again[1:] == (var, store) and named.read_bytes() == b"mine" * 1024
    assert raw_bytes(store, tmp_path) == before["partition-srv-store.img"]
    assert sorted(p.name for p in named.parent.iterdir()) == ["kept.img"]


@needs_qemu_img
def test_a_guest_cannot_turn_its_raw_disk_into_another_format(image: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert keep_disk(image / "state.img", kept).format == "raw"
    kept.write_bytes(b"QFI\xfb" + kept.read_bytes()[4:])
    assert keep_disk(image / "state.img", kept).format == "raw"


def test_a_kept_disk_stands_beside_the_image_however_that_is_named(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state, store) = stores_of(STATE)
    monkeypatch.chdir(image)
    for name in (image, Path(), Path("../amd64")):
        assert kept_file(name, state) == image.parent / "amd64.state.qcow2"
        assert kept_file(name, store) == image.parent / "amd64.partition-srv-store.qcow2"


@pytest.mark.parametrize(
    "make",
    [
        lambda image, _: image / "state.img",
        lambda image, _: image / "new.qcow2",
        lambda image, tmp: _link(tmp / "link", image / "state.img"),
        lambda _, tmp: tmp,
    ],
    ids=["the published one", "beside the published one", "a link to it", "a directory"],
)
def test_the_published_files_are_never_the_kept_ones(
    make: Callable[[Path, Path], Path], image: Path, tmp_path: Path
) -> None:
    before = content(image)
    with pytest.raises(MachineError):
        keep_disk(image / "state.img", make(image, tmp_path))
    assert content(image) == before


def _link(link: Path, target: Path) -> Path:
    link.symlink_to(target)
    return link


@pytest.mark.parametrize(
    ("text", "state", "keep", "message"),
    [
        (STATE, {"/data": "file"}, None, "the image has no /data, it has state, /srv/store"),
        (STATE, {}, {"/data": "file"}, "the image has no /data, it has state, /srv/store"),
        (STATE, {"state": "file"}, None, "give --state /srv/store=FILE too"),
        (STATE, {"state": "absent", "/srv/store": "file"}, None, "absent is no image of a disk"),
        ("", {"state": "file"}, None, "the image has no state"),
        ("", {}, {}, "the image keeps nothing"),
        (STATE, {"state": "file", "/srv/store": "file"}, None, None),
        (STATE, {}, {}, None),
        ("", {}, None, None),
    ],
)
def test_disks_that_the_image_has_no_place_for(
    text: str, state: dict[str, str], keep: dict[str, str] | None, message: str | None, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    wishes = Wishes(
        state={name: tmp_path / file for name, file in state.items()},
        keep=None if keep is None else {name: tmp_path / file for name, file in keep.items()},
    )
    if message is None:
        check_stores(stores_of(text), wishes)
        return
    with pytest.raises(MachineError, match=message):
        check_stores(stores_of(text), wishes)


# --- how it ends ----------------------------------------------------------------------------------


def fake_qemu(directory: Path, body: str) -> None:
    script = directory / "qemu-system-x86_64"
    script.write_text(FAKE.format(python=sys.executable, usernet=USERNET) + body)
    script.chmod(0o755)


@pytest.fixture
def attended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Attend a fake QEMU -> the ports that were told."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def call(body: str, forward: int | None = None) -> list[int]:
        fake_qemu(tmp_path, body)
        ports: list[int] = []
        attend(request(tmp_path, forward=forward), ports.append)
        return ports

    return call


@pytest.mark.parametrize("reason", ["guest-shutdown", "host-qmp-quit", "guest-panic"])
def test_a_guest_that_powers_off_and_a_user_who_leaves_are_both_fine(
    reason: str, attended: Callable[..., list[int]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert attended(f'serve(); print("login:", flush=True); end("{reason}")') == []
    assert capfd.readouterr().out == "login:\n"


def test_the_port_is_told_before_the_guest_runs(attended: Callable[..., list[int]]) -> None:
    assert attended('serve(); end("guest-shutdown")', forward=22) == [44067]


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ('sys.exit("qemu: no such disk")', MachineError, "qemu: no such disk"),
        ('serve(); sys.exit("qemu: bad luck")', MachineError, "exit status 1: qemu: bad luck"),
        ("serve(); os.abort()", MachineError, "SIGABRT"),
        ('serve(); end("host-signal")', Interrupted, "stopped"),
    ],
)
def test_a_qemu_that_fails(body: str, error: type[Exception], message: str, attended: Callable[..., list[int]]) -> None:
    with pytest.raises(error, match=message):
        attended(body)


def break_terminal(line: int) -> None:
    with kept_terminal(line):
        tty.setraw(line)
        os.set_blocking(line, False)
        raise RuntimeError


def test_the_terminal_and_its_flags_are_put_back() -> None:
    screen, line = os.openpty()
    try:
        before = termios.tcgetattr(line), fcntl.fcntl(line, fcntl.F_GETFL)
        with pytest.raises(RuntimeError):
            break_terminal(line)
        assert (termios.tcgetattr(line), fcntl.fcntl(line, fcntl.F_GETFL)) == before
    finally:
        os.close(screen)
        os.close(line)


def test_what_is_no_terminal_is_put_back_too() -> None:
    reader, writer = os.pipe()
    try:
        with kept_terminal(reader):
            os.set_blocking(reader, False)
        assert os.get_blocking(reader)
    finally:
        os.close(reader)
        os.close(writer)


# --- the verb, on a terminal, with a fake QEMU ----------------------------------------------------


class Terminal:
    """`rofs boot` on a pseudo terminal that is its session's; QEMU's stand-in makes it raw, as QEMU does."""

    def __init__(self, tmp_path: Path, body: str, *shell: str) -> None:
        image = image_of(tmp_path / "image", "")
        for name in ("rootfs.squashfs", "cmdline"):
            (image / name).write_bytes(b"ro\n")
        bin_dir = tmp_path / "bin"
        bin_dir.mkdir()
        raw = "import tty; tty.setraw(0); os.set_blocking(0, False); print('raw', os.getpid(), 'x', flush=True)\n"
        fake_qemu(bin_dir, f"serve()\n{raw}{body}\n")
        self.screen, self.line = os.openpty()
        self.before = self.settings()
        argv: list[str | Path] = [sys.executable, "-m", "rofs", "boot", image]
        env = {
            **os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "ROFS_ACCEL": "tcg",
            "ROFS_CACHE_DIR": str(tmp_path / "cache"),
        }  # fmt: skip
        self.rofs = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *shell, *argv], stdin=self.line, stdout=self.line, stderr=self.line, env=env
        )
        self.seen = b""

    def settings(self) -> tuple[object, int]:
        return termios.tcgetattr(self.line), fcntl.fcntl(self.line, fcntl.F_GETFL)

    def until(self, words: bytes) -> None:
        while words not in self.seen:
            ready, _, _ = select.select([self.screen], [], [], 60)
            assert ready, self.seen
            self.seen += os.read(self.screen, 4096)

    def close(self) -> None:
        self.rofs.kill()
        self.rofs.wait()
        os.close(self.screen)
        os.close(self.line)


END = {
    "it powers off": ('end("guest-shutdown")', b"", 0),
    "QEMU is killed": ("os.kill(os.getpid(), 9)", b"", 5),
    "QEMU fails": ('sys.exit("bad luck")', b"", 5),
    "Ctrl-C is the guest's": (
        "import select; select.select([0], [], []); sys.exit(0 if os.read(0, 1) == b'\\x03' else 1)", b"\x03", 0,
    ),
}  # fmt: skip


@needs_qemu_img
@pytest.mark.parametrize(("body", "keys", "status"), END.values(), ids=END)
def test_however_it_ends_the_terminal_is_as_before(body: str, keys: bytes, status: int, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, body)
    try:
        terminal.until(b" x")
        os.write(terminal.screen, keys)
        assert terminal.rofs.wait(timeout=60) == status, terminal.seen
        assert terminal.settings() == terminal.before
        assert b"Ctrl-A X leaves" in terminal.seen
        assert not list((tmp_path / "cache" / "boot").iterdir())
    finally:
        terminal.close()


@needs_qemu_img
def test_a_stopped_rofs_takes_qemu_along_and_puts_the_terminal_back(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "time.sleep(600)")
    try:
        terminal.until(b" x")
        assert terminal.settings() != terminal.before
        qemu = int(terminal.seen.split(b"raw ")[1].split()[0])
        terminal.rofs.send_signal(signal.SIGTERM)  # setsid has become rofs
        assert terminal.rofs.wait(timeout=60) == 130, terminal.seen
        assert terminal.settings() == terminal.before
        assert not Path(f"/proc/{qemu}").exists()
    finally:
        terminal.close()


@needs_qemu_img
def test_in_the_background_it_does_not_take_the_keys_of_the_shell(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "time.sleep(30)", "sh", "-mc", '"$@" & wait $!', "sh")
    try:
        terminal.until(b"in the background")
        assert terminal.rofs.wait(timeout=60) == 5
        assert b"raw" not in terminal.seen
    finally:
        terminal.close()


# --- what the command line refuses ----------------------------------------------------------------


def test_what_a_user_gets_wrong(tmp_path: Path) -> None:
    image = image_of(tmp_path / "image", "")
    for args, status, words_ in (
        ([tmp_path], 5, "is no image that rofs built"),
        ([image, "--memory", "32M"], 2, "64M to 64G"),
        ([image, "--keep-state", "a", "--state", "b"], 2, "not allowed with"),
        ([image, "--state", "a", "--state", "b"], 5, "two files for one file system"),
        ([image, "--cpus", "0"], 2, "--cpus"),
    ):
        done = rofs("boot", *args)
        assert (done.returncode, words_ in done.stderr) == (status, True), done.stderr


@needs_qemu_img
def test_what_is_odd_is_a_warning_and_no_refusal(tmp_path: Path) -> None:
    image = image_of(tmp_path / "image", "")
    for name in ("rootfs.squashfs", "cmdline"):
        (image / name).write_bytes(b"ro\n")
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    fake_qemu(bin_dir, 'serve(); print("login:", flush=True); end("guest-shutdown")')
    path = f"{bin_dir}:{os.environ['PATH']}"
    done = rofs("boot", image, "--ssh", PATH=path, ROFS_ACCEL="tcg", ROFS_CACHE_DIR=str(tmp_path / "cache"))
    assert (done.returncode, done.stdout) == (0, "login:\n")
    assert "NOT the files that were built: manifest.json" in done.stderr
    assert "the image has no sshd" in done.stderr
    assert "log in with: ssh -p 44067 " in done.stderr and " root@127.0.0.1\n" in done.stderr
