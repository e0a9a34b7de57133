# SPDX-License-Identifier: MIT
"""A whole verification with a machine that boots in no time: which disks, which words, and what is judged."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from guest import KEPT_ID, SEED, WHY_LOST, Guest
from layouts import HEAD, NO_INPUTS, entries_of, layout_of
from state_layouts import TEXTS, made

from rofs.errors import MachineError, ToolError
from rofs.image.manifest import hash_file, hash_outputs
from rofs.layout import RESET_FLAG, Layout, persistent_stores, store_file
from rofs.machine.accel import Accel
from rofs.machine.disk import allocated, make_overlay
from rofs.machine.qemu import Boot, BootResult, Disk
from rofs.machine.slots import Slots
from rofs.progress import Quiet
from rofs.verify import again, booting, outside, session
from rofs.verify import probe_wire as wire
from rofs.verify.again import verify_again
from rofs.verify.check import Outcome, Verdict, kept
from rofs.verify.check import broken as not_kept
from rofs.verify.contract import FILE, PROFILE, Contract, render_contract
from rofs.verify.faults import FAULTS
from rofs.verify.login import Identity
from rofs.verify.outside import find_identity
from rofs.verify.request import Request, Session
from rofs.verify.scenario import Scenario, State
from rofs.verify.session import verify_image

PORT = 40022
EMPTY = re.compile(r"state\.img|partition-.*\.img")
"""What is published; any other file is a device's."""
FILES: dict[str, bytes] = {
    "rootfs.squashfs": b"squashfs" * 512, "vmlinuz": b"kernel", "initrd.img": b"initrd", "cmdline": b"ro panic=10\n",
}  # fmt: skip
PANIC = "[    1.2] Kernel panic - not syncing: Attempted to kill init!\n"
RESET = "the guest reset itself, as after a kernel panic (guest-panic)"


def refusal(name: str) -> str:
    """What the initrd says on the console."""
    return f"[    1.1] rofs: {name}: {WHY_LOST} (on_failure: refuse)\n{PANIC}"


def plan_of(initrd: Path) -> list[wire.Op]:
    """The plan in the second archive, as the probe would read it."""
    raw = initrd.read_bytes()
    assert raw.startswith(FILES["initrd.img"]), "the shipped initrd comes first"
    files, at = {}, raw.index(b"070701")
    while at < len(raw):
        fields = [int(raw[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_at, size, name_size = at + 110, fields[6], fields[11]
        data_at = name_at + name_size + -(name_at + name_size) % 4
        files[raw[name_at : name_at + name_size - 1].decode()] = raw[data_at : data_at + size]
        at = data_at + size + -size % 4
    ops = []
    for line in files["rofs-probe/plan"].decode("ascii").splitlines():
        name, *args = line.split("\t")
        name, _, timeout = name.partition("@")
        ops.append(wire.Op(name, tuple(wire.unquote(a) for a in args), int(timeout) if timeout else None))
    return ops


@dataclass
class Machine:
    """Stands for rofs.machine.qemu.boot: a guest that keeps its promises, with what its disks remember."""

    contract: Contract
    change: Callable[[int, Guest], None] = lambda _number, _guest: None
    ends: Callable[[int, BootResult], BootResult] = lambda _number, result: result
    answers: Callable[[int, list[str]], list[str]] = lambda _number, lines: lines
    obeys: bool = True
    booted: dict[int, tuple[Boot, list[wire.Op], Guest]] = field(default_factory=dict)
    memory: dict[Path, dict[str, bytes]] = field(default_factory=dict)

    def __call__(
        self,
        request: Boot,
        on_line: Callable[[str], None],
        *,
        on_forward: Callable[[int], None] | None = None,
        timeout_s: float = 300,
        log: Path | None = None,
    ) -> BootResult:
        number = int(request.console.stem.removeprefix("console-"))
        assert all(disk.path.exists() for disk in request.disks)
        ops = plan_of(request.initrd)
        guest = self.start(number, request)
        self.booted[number] = (request, ops, guest)
        self.change(number, guest)
        assert (on_forward is None) == (request.forward is None)
        if on_forward is not None:
            on_forward(PORT)
        refusing = [s.name for s in persistent_stores(self.contract.layout.profile) if s.on_failure == "refuse"]
        refused = self.obeys and guest.scenario.state == "lost" and bool(refusing)
        for line in self.answers(number, [] if refused else list(self.said(guest, ops))):
            on_line(line)
        for disk in request.disks[1:]:
            if disk.format == "qcow2":
                self.memory[disk.path] = guest.disk()
        result = BootResult(status="off", reason="the guest powered off", seconds=8.0, accel_seen="tcg", console="")
        if refused:
            result = replace(result, status="crash", reason=RESET, console=refusal(refusing[0]))
        return self.ends(number, result)

    def start(self, number: int, request: Boot) -> Guest:
        """What a guest finds, by its disks alone."""
        layout, entries = self.contract.layout, self.contract.entries
        disks = request.disks[1:]
        found: dict[str, bytes] = {}
        state: State = "new"
        if not persistent_stores(layout.profile):
            state = "none"
        elif not disks or any(disk.format == "raw" for disk in disks):
            state = "lost"
        elif disks[0].path in self.memory:
            found = self.memory[disks[0].path]
            state = "used"
        elif any(not EMPTY.fullmatch(backing(disk.path).name) for disk in disks):
            state = "kept"
        if state == "used" and (str(RESET_FLAG) in found or "rofs.reset=1" in request.cmdline.split()):
            found, state = {}, "reset"
        return Guest(layout, entries, Scenario(number=number, state=state, ends="clean"), found)

    @staticmethod
    def said(guest: Guest, ops: list[wire.Op]) -> Iterator[str]:
        """The probe's lines; what it says of the power-off gets lost."""
        yield json.dumps({"event": "start", "version": 1})
        for number, op in enumerate(ops[:-1], 1):
            yield json.dumps({"id": number, "op": op.name, **guest(op)})

    @property
    def boots(self) -> list[Boot]:
        """By their numbers, whenever they were."""
        return [self.booted[number][0] for number in sorted(self.booted)]

    @property
    def plans(self) -> list[list[wire.Op]]:
        return [self.booted[number][1] for number in sorted(self.booted)]

    @property
    def guests(self) -> list[Guest]:
        return [self.booted[number][2] for number in sorted(self.booted)]

    def states(self) -> list[str]:
        return [guest.scenario.state for guest in self.guests]


def pretended_overlay(base: Path, out: Path, *, log: Path | None = None) -> Path:
    """qemu-img takes a while; this says what it is over."""
    out.write_text(f"over {base}")
    return out


def backing(overlay: Path) -> Path:
    """The file a disk shows where nothing was written."""
    if overlay.read_bytes().startswith(b"over "):
        return Path(overlay.read_text().removeprefix("over "))
    argv = ["qemu-img", "info", "--output=json", str(overlay)]
    return Path(json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)["backing-filename"])


class Room:
    """An image directory and all that a verification of it needs."""

    def __init__(self, path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        layout, entries = made(name)
        self.contract = Contract(architecture="amd64", layout=layout, entries=entries)
        self.machine = Machine(self.contract)
        self.image, self.broken = path / "image", list[tuple[str, Path]]()
        for directory in (self.image, path / "work", path / "logs"):
            directory.mkdir()
        for file, raw in FILES.items():
            (self.image / file).write_bytes(raw)
        for store in persistent_stores(layout.profile):
            (self.image / store_file(store)).write_bytes(store.name.encode() * 4096)
        self.request = Request(
            image=self.image, contract=self.contract, accel=Accel("tcg", "a test"), work=path / "work",
            logs=path / "logs", slots=Slots(1),
        )  # fmt: skip
        self.tree: Verdict | ToolError = kept("a tree", "that tree")
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(booting, "boot", self.machine)
        monkeypatch.setattr(booting, "make_overlay", pretended_overlay)
        monkeypatch.setattr(session, "allocated", lambda _: [])
        monkeypatch.setattr(booting, "break_disk", self.break_disk)
        monkeypatch.setattr(session, "tree_outcomes", self.tree_outcomes)

    def break_disk(self, fault: str, good: Path, out: Path, log: Path | None = None) -> Disk | None:
        """The real one has tests of its own."""
        self.broken.append((fault, good))
        if fault == "missing":
            return None
        out.write_bytes(b"")
        return Disk(path=out, format="raw", read_only=fault == "read-only")

    def tree_outcomes(self, image: Path, layout: Layout, *, log: Path | None = None) -> tuple[Outcome, ...]:
        """The real one has tests of its own."""
        assert (image, layout.mounts) == (self.image, self.contract.layout.mounts) and log is not None
        if isinstance(self.tree, ToolError):
            raise self.tree
        return (Outcome(boot=0, promise="image tree", subject="as built", at=(), verdict=self.tree),)

    def with_real_disks(self) -> Room:
        """Those that qemu-img makes."""
        self.monkeypatch.setattr(booting, "make_overlay", make_overlay)
        self.monkeypatch.setattr(session, "allocated", allocated)
        return self

    def verify(self, **changed: Any) -> Session:
        self.machine.memory.clear()  # the disks are made anew
        return verify_image(replace(self.request, **changed), Quiet())


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Room]:
    return lambda name: Room(tmp_path, name, monkeypatch)


MakeRoom = Callable[[str], Room]


def broken(found: Session) -> dict[str, str]:
    return {f"{o.boot} {o.promise}: {o.subject}": o.verdict.seen for o in found.outcomes if not o.verdict.ok}


def outcome(found: Session, boot: int, promise: str) -> Outcome:
    (one,) = [o for o in found.outcomes if (o.boot, o.promise) == (boot, promise)]
    return one


# --- which boots, on which disks --------------------------------------------------------------------


def test_an_image_with_nothing_persistent(room: MakeRoom) -> None:
    here = room("rich")
    found = here.verify()
    assert broken(found) == {} and found.accepted
    assert [b.title for b in found.boots] == ["", ""] and here.machine.states() == ["none", "none"]
    assert [[d.path.name for d in b.disks] for b in here.machine.boots] == [["root.qcow2"]] * 2
    assert [plan[-1] for plan in here.machine.plans] == [wire.poweroff("clean"), wire.poweroff("cut")]


@pytest.mark.parametrize("name", ["state", "transient"])
def test_an_image_with_state(room: MakeRoom, name: str) -> None:
    here = room(name)
    found = here.verify()
    assert broken(found) == {} and found.accepted
    assert here.machine.states() == ["new", "used", "reset", *["lost"] * 5]
    assert [b.title for b in found.boots][2:5] == ["factory reset", "state missing", "state corrupt"]
    assert [plan[-1] == wire.poweroff("cut") for plan in here.machine.plans] == [False, True, *[False] * 6]
    stores = [str(d.path.name) for d in here.machine.boots[0].disks[1:]]
    assert stores == ["store-1.qcow2", "store-2.qcow2"][: len(stores)]
    for boot in here.machine.boots[:3]:
        assert [d.path.name for d in boot.disks] == ["root.qcow2", *stores]
        assert all(d.format == "qcow2" and not d.read_only for d in boot.disks)
    assert not [b for b in here.machine.boots if "rofs.reset" in b.cmdline], "the flag is on the partition"


def test_a_broken_disk_is_made_of_the_published_one(room: MakeRoom) -> None:
    here = room("state")
    here.verify()
    goods = [here.image / "state.img", here.image / "partition-srv-store.img"]
    assert here.broken == [(fault, good) for fault in FAULTS for good in goods]
    found = [[(d.path.name, d.format, d.read_only) for d in b.disks[1:]] for b in here.machine.boots[3:]]
    assert found[0] == [], "both are missing"
    assert found[1] == [("store-1.corrupt", "raw", False), ("store-2.corrupt", "raw", False)]
    assert found[3] == [("store-1.read-only", "raw", True), ("store-2.read-only", "raw", True)]
    assert [b.disks[0].path.name for b in here.machine.boots] == ["root.qcow2"] * 8


@pytest.mark.needs("qemu-img")
def test_the_stores_are_copies_on_write_of_the_published_ones(room: MakeRoom) -> None:
    here = room("state").with_real_disks()
    before = {p: hash_file(p) for p in here.image.iterdir()}
    here.verify()
    disks = here.machine.boots[0].disks
    names = ["rootfs.squashfs", "state.img", "partition-srv-store.img"]
    assert [backing(d.path) for d in disks] == [here.image / name for name in names]
    assert {p: hash_file(p) for p in here.image.iterdir()} == before


def test_a_reset_without_a_state_partition_is_a_word(room: MakeRoom) -> None:
    here = room("partitions")
    found = here.verify()
    words = [b.cmdline.split() for b in here.machine.boots]
    assert ["rofs.reset=1" in w for w in words] == [False, False, True, *[False] * 5]
    assert here.machine.states()[:3] == ["new", "used", "reset"]
    assert words[0][:2] == ["ro", "panic=10"] and {"root=/dev/vda", "console=ttyS0", "panic=-1"} <= {*words[0]}
    assert [b.cmdline.split() for b in found.boots] == words, "the report says what was added"
    assert broken(found) == {}


@pytest.mark.needs("qemu-img")
def test_a_devices_own_state(room: MakeRoom, tmp_path: Path) -> None:
    here = room("state").with_real_disks()
    mine = {"/srv/store": tmp_path / "store.img", "state": tmp_path / "mine.img"}
    for path in mine.values():
        path.write_bytes(b"what a device knows" * 500)
        path.chmod(0o400)
    before = [(hash_file(path), path.stat().st_mtime_ns) for path in mine.values()]
    found = here.verify(state=mine)
    assert broken(found) == {} and found.accepted
    assert here.machine.states() == ["kept", "used"] and here.broken == []
    assert [b.title for b in found.boots] == ["state of a device"] * 2
    for boot in here.machine.boots:
        assert [backing(d.path) for d in boot.disks[1:]] == [mine["state"], mine["/srv/store"]]
        assert not {*mine.values()} & {d.path for d in boot.disks}
    assert [(hash_file(path), path.stat().st_mtime_ns) for path in mine.values()] == before
    assert [plan[-1] for plan in here.machine.plans] == [wire.poweroff("clean"), wire.poweroff("cut")]


@pytest.mark.parametrize(("boots", "states"), [(1, ["new"]), (3, ["new", "used", "reset"]), (99, [])])
def test_only_the_first_boots(room: MakeRoom, boots: int, states: list[str]) -> None:
    here = room("transient")
    found = here.verify(boots=boots)
    assert broken(found) == {} and here.machine.states() == (states or ["new", "used", "reset", *["lost"] * 5])


def test_the_shipped_initrd_is_not_written(room: MakeRoom) -> None:
    here = room("rich")
    here.verify()
    assert (here.image / "initrd.img").read_bytes() == FILES["initrd.img"]
    assert not list(here.request.work.rglob("initrd*")), "one a boot, and gone after it"
    assert [b.initrd.relative_to(here.request.work) for b in here.machine.boots] == [
        Path("boot-1/initrd.img"), Path("boot-2/initrd.img"),
    ]  # fmt: skip


# --- what is judged ---------------------------------------------------------------------------------


def test_a_lie_in_one_boot_is_of_that_boot(room: MakeRoom) -> None:
    here = room("state")

    def change(number: int, guest: Guest) -> None:
        if number == 2:
            guest.files.pop("/etc/.rofs-canary")

    here.machine.change = change
    found = here.verify()
    assert list(broken(found)) == ["2 persistent: /etc"] and not found.accepted


ID, KEPT, NOISE = "/etc/machine-id", KEPT_ID, SEED


@pytest.mark.parametrize(
    ("subject", "boot", "change"),
    [
        ("machine-id", 2, lambda guest, _: guest.files.update({ID: b"f" * 32, KEPT: b"f" * 32})),
        ("machine-id", 3, lambda guest, past: guest.files.update({ID: past.files[ID], KEPT: past.files[KEPT]})),
        ("ssh host key", 2, lambda guest, _: setattr(guest, "public_key", "ssh-ed25519 AAAAanother")),
        ("ssh host key", 3, lambda guest, past: setattr(guest, "public_key", past.public_key)),
        ("random seed", 2, lambda guest, past: guest.files.update({NOISE: past.files[NOISE]})),
        ("random seed", 3, lambda guest, past: guest.files.update({NOISE: past.files[NOISE]})),
    ],
)
def test_who_a_machine_is_over_its_boots(
    room: MakeRoom, subject: str, boot: int, change: Callable[[Guest, Guest], None]
) -> None:
    """Another one in the second boot, the same in the third after a reset; a seed is never used twice."""
    here = room("bound")
    here.machine.change = lambda number, guest: change(guest, here.machine.guests[boot - 2]) if number == boot else None
    assert list(broken(here.verify())) == [f"{boot} identity: {subject}"]


@pytest.mark.parametrize(
    ("name", "kept", "boots"),
    [("state", False, {2, 3}), ("bound", False, {2, 3}), ("state", True, {2}), ("rich", False, {2})],
)
def test_only_boots_on_the_same_disks_are_compared(room: MakeRoom, name: str, kept: bool, boots: set[int]) -> None:
    here = room(name)
    found = here.verify(state={"state": here.image / "vmlinuz"} if kept else {})
    assert {o.boot for o in found.outcomes if o.promise == "identity"} == boots


# --- a boot that goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [[], ["[    0.1] Linux version 6.1", "{", '{"event": "start", "version": 1}']])
@pytest.mark.parametrize("number", [1, 4])
def test_a_guest_that_never_answers_ends_it(room: MakeRoom, number: int, lines: list[str]) -> None:
    here = room("transient")
    here.machine.answers = lambda boot, said: lines if boot == number else said
    here.machine.ends = lambda boot, result: (
        replace(result, status="timeout", reason="ran out of time", console=f"one\n\n{PANIC}RAX: 0\n")
        if boot == number
        else result
    )
    found = here.verify()
    assert [b.number for b in found.boots] == [*range(1, number + 1)] and not found.accepted
    assert found.notes == (f"NOT the whole verification: {number} of 8 boots, since boot {number} ran out of time",)
    names = ["boot: the system boots, answers and powers off", *(["answers: to what was asked"] if lines else [])]
    assert sorted(broken(found)) == sorted(f"{number} {name}" for name in names)
    seen = outcome(found, number, "boot").verdict.seen
    assert "ran out of time after 8.0 s (tcg), 0 of " in seen and "last words: one | [" in seen
    assert "Kernel panic" in seen and "RAX" not in seen
    subjects = {o.subject for o in found.outcomes if not o.boot}
    assert subjects == {"as built", "root disk never written", "shipped files unchanged"}


def test_a_guest_that_stops_half_way(room: MakeRoom) -> None:
    here = room("rich")
    here.machine.answers = lambda boot, said: said[: len(said) // 2] if boot == 1 else said
    found = here.verify()
    assert "1 boot: the system boots, answers and powers off" in broken(found)
    assert "1 nothing undeclared: mount table after all checks" in broken(found)
    assert {name.partition(" ")[0] for name in broken(found)} == {"1"} and len(found.boots) == 2


@pytest.mark.parametrize("status", ["crash", "timeout"])
def test_a_guest_that_answers_and_does_not_power_off(room: MakeRoom, status: Literal["crash", "timeout"]) -> None:
    here = room("rich")
    here.machine.ends = lambda boot, result: replace(result, status=status) if boot == 2 else result
    assert list(broken(here.verify())) == ["2 boot: the system boots, answers and powers off"]


@pytest.mark.needs("qemu-img", "qemu-io")
def test_a_root_disk_that_was_written(room: MakeRoom) -> None:
    here = room("rich").with_real_disks()

    def change(number: int, _guest: Guest) -> None:
        disk = here.machine.boots[0].disks[0].path
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 512", str(disk)], check=True, capture_output=True)

    here.machine.change = change
    found = broken(here.verify())
    assert list(found) == ["0 image: root disk never written"]
    assert found[next(iter(found))].startswith("boot 1-2: ") and "bytes at 0" in found[next(iter(found))]


def test_a_shipped_file_that_changed(room: MakeRoom) -> None:
    here, names = room("state"), ["rootfs.squashfs", "vmlinuz", "initrd.img", "state.img", "partition-srv-store.img"]

    def change(number: int, _guest: Guest) -> None:
        for name in names if number == 8 else ():
            (here.image / name).write_bytes(b"initrd" * 1024)

    here.machine.change = change
    assert broken(here.verify()) == {"0 image: shipped files unchanged": f"changed: {names}"}


# --- on_failure: refuse -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "at"), [("bound", ("state",)), ("partitions", ("mounts", 1))])
def test_a_refusal_is_said_and_ends_in_a_panic(room: MakeRoom, name: str, at: tuple[str | int, ...]) -> None:
    here = room(name)
    found = here.verify()
    assert broken(found) == {} and len(found.boots) == 8
    refusals = [o for o in found.outcomes if o.subject.startswith("refused")]
    assert [o.subject for o in refusals] == [f"refused (state {fault})" for fault in FAULTS]
    assert {o.at for o in refusals} == {at} and {o.boot for o in refusals} == {4, 5, 6, 7, 8}
    store = "state" if name == "bound" else "/srv/store"
    assert refusals[0].verdict.seen == f"{store}: {WHY_LOST} (on_failure: refuse); {RESET}"
    assert not [o for o in found.outcomes if o.boot in range(4, 8) and o not in refusals], "nothing else is judged"


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"console": f"[    1.0] sd 0:0\n{PANIC}"}, "no refusal on the console; [    1.0] sd 0:0 | [    1.2] Kernel"),
        ({"console": f"[    1.0] rofs: state: x\n{PANIC}"}, "no refusal on the console"),
        ({"console": ""}, "no refusal on the console; "),
        ({"status": "off", "reason": "the guest powered off"}, "(on_failure: refuse); the guest powered off"),
        ({"status": "timeout", "reason": "ran out of time"}, "(on_failure: refuse); ran out of time"),
    ],
)
def test_what_is_no_refusal(room: MakeRoom, change: dict[str, Any], seen: str) -> None:
    here = room("bound")
    here.machine.ends = lambda boot, result: replace(result, **change) if boot == 5 else result
    found = broken(here.verify())
    assert list(found) == ["5 state: refused (state corrupt)"]
    assert seen in found["5 state: refused (state corrupt)"]


def test_a_system_that_runs_all_the_same(room: MakeRoom) -> None:
    """Even if it says that it refuses, and ends as such a boot does."""
    here = room("bound")
    here.machine.obeys = False
    here.machine.ends = lambda boot, result: (
        replace(result, status="crash", reason=RESET, console=refusal("state")) if boot > 3 else result
    )
    found = here.verify()
    assert len(found.boots) == 8
    assert set(broken(found)) == {f"{n} state: refused (state {fault})" for n, fault in enumerate(FAULTS, 4)}
    assert " answers" in broken(found)["4 state: refused (state missing)"]


# --- a login from outside ---------------------------------------------------------------------------


class Login:
    """Stands for rofs.verify.login.Login."""

    made: ClassVar[list[Login]] = []
    ok = True

    def __init__(self, identity: Identity, port: int, known_hosts: Path, command: str, log: Path) -> None:
        self.identity, self.port, self.known_hosts, self.command, self.log = identity, port, known_hosts, command, log
        self.started = self.finished = False
        self.made.append(self)

    def start(self) -> None:
        self.started = True

    def finish(self) -> tuple[bool, str]:
        self.finished = True
        return self.ok, "what ssh said"


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> list[Login]:
    monkeypatch.setattr(outside, "Login", Login)
    monkeypatch.setattr(Login, "made", [])
    monkeypatch.setattr(Login, "ok", True)
    return Login.made


BOB = Identity(user="bob", key=Path("/nowhere/key"))


def welcome(room: Room, user: str = "bob") -> None:
    room.machine.change = lambda _, guest: setattr(guest, "visitor", user)


def test_a_login_in_every_boot(room: MakeRoom, logins: list[Login]) -> None:
    here = room("state")
    welcome(here)
    found = here.verify(identity=BOB)
    assert broken(found) == {} and len(logins) == 8
    assert all(login.started and login.finished and login.port == PORT for login in logins)
    assert {b.forward for b in here.machine.boots} == {22} and {login.identity for login in logins} == {BOB}
    marks = [login.command.removeprefix("touch ") for login in logins]
    assert len(set(marks)) == 8 and all(mark.startswith("/dev/shm/rofs-login-") for mark in marks)
    for mark, plan in zip(marks, here.machine.plans, strict=True):
        waits = [number for number, op in enumerate(plan) if mark in str(op)]
        assert waits == [len(plan) - 2], "the last thing before the power-off"
    for number in range(1, 9):
        said = {o.subject: o.verdict.seen for o in found.outcomes if (o.boot, o.promise) == (number, "ssh")}
        assert said == {"bob logs in with the key": "a file of bob", "seen from outside": "what ssh said"}


@pytest.mark.parametrize(
    ("name", "kept", "hosts"),
    [
        ("state", False, ["", "", "-3", "-4", "-5", "-6", "-7", "-8"]),
        ("state", True, ["", ""]),
        ("partitions", False, ["", "", "-3", "-4", "-5", "-6", "-7", "-8"]),
    ],
)
def test_the_same_host_key_is_asked_for_where_it_is_kept(
    room: MakeRoom, logins: list[Login], name: str, kept: bool, hosts: list[str]
) -> None:
    here = room(name)
    welcome(here)
    here.verify(identity=BOB, state={"state": here.image / "vmlinuz"} if kept else {})
    assert [login.known_hosts.name for login in logins] == [f"known_hosts{number}" for number in hosts]


def test_a_login_that_fails(room: MakeRoom, logins: list[Login], monkeypatch: pytest.MonkeyPatch) -> None:
    here = room("transient")
    monkeypatch.setattr(Login, "ok", False)
    welcome(here)
    assert set(broken(here.verify(identity=BOB))) == {f"{number} ssh: seen from outside" for number in range(1, 9)}


@pytest.mark.parametrize("user", ["", "root", "bobby"])
def test_a_file_of_somebody_else(room: MakeRoom, logins: list[Login], user: str) -> None:
    here = room("transient")
    welcome(here, user)
    found = broken(here.verify(identity=BOB))
    assert set(found) == {f"{number} ssh: bob logs in with the key" for number in range(1, 9)}
    assert found["1 ssh: bob logs in with the key"] == f"a file of {user or 'nobody'}"


def test_no_login_without_a_key_or_without_sshd(room: MakeRoom, logins: list[Login]) -> None:
    here = room("rich")
    found = here.verify(identity=BOB)
    assert broken(found) == {} and logins == [] and {b.forward for b in here.machine.boots} == {None}
    assert not [o for o in found.outcomes if o.promise == "ssh"]


def test_a_login_to_what_refuses_to_boot_is_waited_for_and_not_judged(room: MakeRoom, logins: list[Login]) -> None:
    here = room("bound")
    welcome(here)
    found = here.verify(identity=BOB)
    assert broken(found) == {} and all(login.finished for login in logins)
    assert {o.boot for o in found.outcomes if o.promise == "ssh"} == {1, 2, 3}


# --- whose key it is --------------------------------------------------------------------------------


def make_key(path: Path, *words: str) -> tuple[Path, str]:
    """A new key and its public half."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bob@example.org", "-f", str(path), *words]
    subprocess.run(argv, check=True, capture_output=True)
    return path, path.with_suffix(".pub").read_text().strip()


# --- the tree, without a boot -------------------------------------------------------------------------


def test_the_tree_is_judged_with_the_boots(room: MakeRoom) -> None:
    here = room("state")
    assert here.verify().accepted
    here.tree = not_kept("a tree", "another tree")
    assert broken(here.verify()) == {"0 image tree: as built": "another tree"}


def test_a_tree_that_cannot_be_read_for_want_of_a_tool(room: MakeRoom) -> None:
    here = room("state")
    here.tree = ToolError(("sqfs2tar",), "not found")
    with pytest.raises(ToolError, match="not found"):
        here.verify()


USERS = """\
users:
  - {name: ann, uid: 1000, authorized_keys: [ann.pub]}
  - {name: bob, uid: 1001, home: /srv/bob, authorized_keys: [bob.pub]}
  - {name: eve, uid: 1002}
"""


def contract_of(*keys: tuple[str, ...]) -> Contract:
    """Users with these authorized_keys, in the profile's order."""
    layout = layout_of(USERS)
    inputs = replace(NO_INPUTS, authorized_keys=dict(enumerate(keys)))
    return Contract(architecture="amd64", layout=layout, entries=entries_of(layout, inputs=inputs))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    room = tmp_path_factory.mktemp("keys")
    return {name: make_key(room / name) for name in ("ann", "bob", "eve")}


@pytest.mark.needs("ssh-keygen")
def test_the_user_whose_key_it_is(keys: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    (ann, ann_pub), (bob, bob_pub) = keys["ann"], keys["bob"]
    contract = contract_of((ann_pub,), (ann_pub.replace("AAAA", "AAAB"), f'no-pty,from="10.0.2.2" {bob_pub}'))
    assert find_identity(contract, ann) == Identity(user="ann", key=ann)
    assert find_identity(contract, bob) == Identity(user="bob", key=bob), "by another home, behind options"
    monkeypatch.chdir(bob.parent)
    found = find_identity(contract, Path("bob"))
    assert found is not None and found.key == bob, "ssh runs elsewhere"
    assert find_identity(contract, None) is None


@pytest.mark.needs("ssh-keygen")
def test_a_key_of_nobody(keys: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    (_, ann_pub), (_, bob_pub), (eve, _) = keys.values()
    with pytest.raises(MachineError, match="is the key of no user of the image"):
        find_identity(contract_of((ann_pub,), (bob_pub,)), eve)
    with pytest.raises(MachineError, match="no user"):
        find_identity(contract_of(), eve)


@pytest.mark.needs("ssh-keygen")
def test_what_is_no_key_that_can_be_used(keys: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    locked, public = make_key(tmp_path / "locked")
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", locked], check=True, capture_output=True)
    (tmp_path / "text").write_text("no key\n")
    for path in (locked, tmp_path / "text", tmp_path / "none"):
        with pytest.raises(ToolError, match="ssh-keygen"):
            find_identity(contract_of((public,), ()), path)


# --- verify_again -----------------------------------------------------------------------------------


@pytest.fixture
def published(room: MakeRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    """With its promises beside it, as build leaves it."""
    here = room("transient")
    (here.image / PROFILE).write_text(HEAD + TEXTS["transient"])
    (here.image / FILE).write_bytes(render_contract(here.contract))
    outputs = {"outputs": hash_outputs(here.image)}
    (here.image / "manifest.json").write_text(json.dumps(outputs))
    monkeypatch.setattr(again, "find_accel", lambda *_: here.request.accel)
    monkeypatch.setenv("ROFS_CACHE_DIR", str(tmp_path / "cache"))
    return here


NOTE = "every file is as the manifest says"


def test_again_with_everything(published: Room, tmp_path: Path) -> None:
    report = verify_again(published.image, tmp_path / "reports", True, Quiet())
    assert report.session.accepted and report.notes == (NOTE,)
    assert {p.name for p in (tmp_path / "reports").iterdir()} == {
        "logs", "report.html", "report.json", "report.txt", "report.xml",
    }  # fmt: skip
    assert published.machine.states() == ["new", "used", "reset", *["lost"] * 5]


@pytest.mark.parametrize(("kept", "due"), [(False, 8), (True, 2)])
def test_again_for_a_quick_look_says_so(published: Room, tmp_path: Path, kept: bool, due: int) -> None:
    state = {"state": published.image / "vmlinuz"} if kept else {}
    report = verify_again(published.image, tmp_path / "reports", True, Quiet(), state=state, boots=1)
    assert report.notes == (NOTE, f"NOT the whole verification: 1 of {due} boots")
    assert [boot.title for boot in report.session.boots] == ["state of a device" if kept else "state new"]


def test_again_on_the_state_of_a_device(published: Room, tmp_path: Path) -> None:
    mine = tmp_path / "mine.img"
    mine.write_bytes(b"what a device knows")
    report = verify_again(published.image, tmp_path / "reports", True, Quiet(), state={"state": mine})
    assert report.session.accepted and report.notes == (NOTE,) and len(report.session.boots) == 2
    with pytest.raises(MachineError, match="the image has no /var, it has state"):
        verify_again(published.image, tmp_path / "no reports", True, Quiet(), state={"/var": mine})
    assert not (tmp_path / "no reports").exists()


def test_again_with_files_that_are_not_the_manifests(published: Room, tmp_path: Path) -> None:
    (published.image / "state.img").write_bytes(b"another")
    with pytest.raises(MachineError, match=r"these are not the files that were built: state\.img"):
        verify_again(published.image, tmp_path / "reports", True, Quiet())
    assert published.machine.boots == []
    report = verify_again(published.image, tmp_path / "reports", False, Quiet(), boots=1)
    assert report.notes[0] == "NOT the files that were built, verified with --no-manifest: state.img"
