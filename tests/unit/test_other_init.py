# SPDX-License-Identifier: MIT
"""`init: other`, from the layout to a whole boot: the initrd mounts everything, and nothing of systemd's is left.

The guest has busybox and nothing else to answer with.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from guest import Answer, Guest, content, mounted, rejected, replaced
from layouts import OTHER, OTHERS, P, busybox_tree, entries_of, layout_of, profile_of, tree
from rehearsal import SHELLS, Boot, Device, contents, fill
from test_layout import closed, orders, prepared

from rofs.entry import Entry
from rofs.generate.escape import unfstab
from rofs.generate.initrd import render_initrd
from rofs.generate.mounts import render_fstab
from rofs.layout import Layout, Promise, Role, Stage, build_layout
from rofs.lint import lint
from rofs.treefacts import Node, TreeFacts
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check
from rofs.verify.checks import Plan, boot_checks, judge, make_plan
from rofs.verify.scenario import Scenario, scenarios

SSHD = {"/usr/sbin/sshd": Node("file", 0o755, 0, 0, 9)}
FACTS = busybox_tree(SSHD)
KEY_SCRIPT = "/usr/lib/rofs/ssh-host-key"
NAMES = tuple(OTHERS)


@cache
def made(name: str) -> tuple[Layout, tuple[Entry, ...]]:
    """A layout of OTHERS and all that is generated for it."""
    layout = layout_of(OTHERS[name], FACTS)
    return layout, entries_of(layout, FACTS)


def paths(name: str) -> dict[str, Entry]:
    return {str(entry.path): entry for entry in made(name)[1]}


# --- what is mounted, and who is told ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_are_good(name: str) -> None:
    assert [str(p) for p in lint(profile_of(OTHERS[name]), FACTS)] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_initrd_mounts_everything_in_order(name: str) -> None:
    layout, _ = made(name)
    assert {m.stage for m in layout.mounts} == {Stage.INITRD}
    orders(layout)
    closed(layout)
    prepared(layout)


@pytest.mark.parametrize("name", NAMES)
def test_who_mounts_and_the_machine_id_are_all_that_differs_from_systemd(name: str) -> None:
    other, _ = made(name)
    systemd = layout_of(OTHERS[name].replace("init: other\n", ""), FACTS)
    both = [{replace(m, stage=Stage.INITRD) for m in x.mounts if m.role is not Role.IDENTITY} for x in (other, systemd)]
    assert both[0] == both[1]
    assert Stage.SYSTEMD in {m.stage for m in systemd.mounts} or name == "bare"
    assert sorted(other.prepares, key=str) == sorted(systemd.prepares, key=str)


@pytest.mark.parametrize("name", NAMES)
def test_fstab_is_there_to_be_read(name: str) -> None:
    layout, _ = made(name)
    rows = [line.split(" ") for line in render_fstab(layout).splitlines() if not line.startswith("#")]
    assert [unfstab(row[1]) for row in rows] == [str(m.where) for m in layout.mounts]
    for row, mount in zip(rows, layout.mounts, strict=True):
        options = row[3].split(",")
        assert options == [*mount.options, "noauto"]
        assert not [o for o in options if o.startswith("x-") or o == "nofail"], "which busybox takes for data"
        assert row[4:] == ["0", "0"], "there is no fsck.squashfs, and sysvinit's scripts look for one"
        assert (unfstab(row[0]), row[2]) == (mount.what, mount.type)
    assert "systemd" not in render_fstab(layout) and "busybox" not in render_fstab(layout)


def test_a_mount_that_may_be_missing_is_only_said() -> None:
    """nofail is a word of fstab; the initrd has to know it from the layout."""
    script = render_initrd(made("rich")[0], [])
    assert script.count('\n    say "cannot mount "') == 1 and 'say "cannot mount "/srv/extra\n' in script
    assert 'fail "cannot mount "/srv/www\n' in script


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_systemd_is_generated(name: str) -> None:
    texts = {
        f"/usr/lib/systemd/system/{unit}": b"[Unit]\n"
        for unit in ("ssh.service", "man-db.timer", "systemd-random-seed.service", "systemd-firstboot.service")
    }
    facts = busybox_tree({**SSHD, "/var/lib/systemd": Node("dir", 0o755, 0, 0)}, texts)  # left over from a package
    layout = layout_of(OTHERS[name], facts)
    entries = entries_of(layout, facts)
    assert [str(e.path) for e in entries if "systemd" in str(e.path) or e.target == "/dev/null"] == []
    assert [e.path for e in entries if "systemctl" in e.content.decode() or ".service" in e.content.decode()] == []
    systemd = entries_of(layout_of(OTHERS[name].replace("init: other\n", ""), facts), facts)
    assert len([e for e in systemd if "systemd" in str(e.path)]) > 5, "with systemd the same tree gets them"


# --- what makes a machine this one ------------------------------------------------------------------

ETC = "mounts: [{path: /etc, type: overlay, upper: tmpfs, size: 4M}]\n"
KEPT = "state: {on_failure: volatile}\n"
RUN_ID, STATE_ID = "/run/rofs/machine-id", "/run/rofs/state/data/identity/machine-id"


@pytest.mark.parametrize(
    ("text", "file", "bound"),
    [
        ("", RUN_ID, True),
        (ETC, RUN_ID, False),
        (f"immutable: [/etc/ssh]\n{ETC}", RUN_ID, False),
        ("mounts: [{path: /etc, type: bind, source: /usr/share/doc}]\n", RUN_ID, True),
        (KEPT, STATE_ID, True),
        (KEPT + ETC, STATE_ID, False),
        (f"machine_id: transient\n{KEPT}", RUN_ID, True),
        (f"machine_id: transient\n{KEPT}{ETC}", RUN_ID, False),
    ],
)
def test_the_initrd_makes_the_machine_id(text: str, file: str, bound: bool) -> None:
    """No one else would: only systemd makes one as PID 1."""
    layout = layout_of(f"init: other\n{text}", FACTS)
    mount = layout.mount_at(P("/etc/machine-id"))
    assert (mount is not None) == bound
    if mount is not None:
        assert (mount.what, mount.promise, mount.read_only) == (file, Promise.MACHINE_ID, True)
    script = render_initrd(layout, [])
    assert ("make_id /run/rofs/machine-id || say" in script) == (file == RUN_ID)
    assert ('echo "$machine_id" >/sysroot/etc/machine-id' in script) != bound
    assert "echo -n >/sysroot/etc/machine-id" not in script, "which is for a PID 1 that fills it"


def test_systemd_makes_its_own_where_nothing_is_kept() -> None:
    for text in ("", ETC):
        layout = layout_of(text)
        assert layout.mount_at(P("/etc/machine-id")) is None and "machine-id" not in render_initrd(layout, [])


def test_the_host_key_is_made_by_the_initrd() -> None:
    found = paths("bare")
    assert found[KEY_SCRIPT].mode == 0o755 and b"ssh-keygen" in found[KEY_SCRIPT].content
    assert found["/etc/ssh/sshd_config.d/10-rofs.conf"].content.startswith(b"HostKey /run/rofs/identity/")
    assert [path for path in found if path.endswith((".service", ".service.d/10-rofs.conf"))] == []
    bare = entries_of(layout_of(OTHERS["bare"], busybox_tree()), busybox_tree())
    assert [e.path for e in bare if "ssh" in str(e.path)] == [], "without sshd there is no key"


# --- the initrd's script, run on directories --------------------------------------------------------

_FAKES = """
# chroot runs the image's own programs, and here that is the script of the host key alone.
chroot() { step chroot "$@"; }

# The initrd's own, which sees the image below /sysroot; /run is mounted there.
cp() {
    step cp "$@" || return 1
    for word; do
        shift
        case $word in
        "$R/sysroot$R"/*) word=$R/${word#"$R/sysroot$R/"} ;;
        esac
        set -- "$@" "$word"
    done
    guard "$@" && host cp "$@"
}
"""
WORDS = ["single", "a b", "-x"]


class OtherDevice(Device):
    """A device whose image has no cp but busybox's; the kernel hands WORDS to its init."""

    has_key_script = False

    def script(self) -> str:
        return f"{_FAKES}\nset -- single 'a b' -x\n{super().script()}"

    def _power_on(self, words: str) -> None:
        super()._power_on(words)
        if self.has_key_script:
            (self.sysroot / KEY_SCRIPT[1:]).parent.mkdir(parents=True)
            (self.sysroot / KEY_SCRIPT[1:]).touch(0o755)


def device(root: Path, name: str, shell: str = "host", facts: TreeFacts = FACTS) -> OtherDevice:
    busybox = (shutil.which("busybox") or "") if shell == "busybox" else ""
    found = OtherDevice(root / "device", layout_of(OTHERS[name], facts), busybox)
    for directory in ("var/www", "var/lib", "srv/www", "etc"):
        fill(found.image / directory)
    found.sysroot_has = {"dev/kmsg": "", "etc/machine-id": ""}
    for tag in ("LABEL=state", "LABEL=lib"):
        found.disk(tag)
    return found


def booted(found: Device) -> Boot:
    boot = found.boot()
    assert boot.reached_init, boot.console
    return boot


def place(boot: Boot, *words: str) -> int:
    (index,) = [i for i, call in enumerate(boot.calls) if call[: len(words)] == list(words)]
    return index


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_takes_the_script(name: str) -> None:
    subprocess.run(["sh", "-n"], input=render_initrd(made(name)[0], []), text=True, check=True)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", NAMES)
def test_every_mount_is_made_before_init_starts(tmp_path: Path, name: str, shell: str) -> None:
    found = device(tmp_path, name, shell)
    boot = booted(found)
    targets = [call[-1] for call in boot.of("mount") if "remount" not in call[2]]
    backings = [str(m.where) for m in found.layout.mounts if m.role is Role.BACKING]
    state = [str(m.where) for m in found.layout.mounts if m.role is Role.STATE]
    rest = [m for m in found.layout.mounts if m.role not in (Role.ROOT, Role.IMAGE, Role.BACKING, Role.STATE)]
    early = [f"/sysroot{m.where}" for m in rest]
    fixed = ["/dev", "/proc", "/sys", "/sysroot", "/sysroot/run", "/run/rofs/image"]
    moved = ["/sysroot/dev", "/sysroot/proc", "/sysroot/sys"]
    assert targets == [*fixed, *backings, *state, *early, "/dev/pts", "/dev/shm", *moved]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_systemd_does_by_itself(tmp_path: Path, shell: str) -> None:
    found = device(tmp_path, "bare", shell)
    boot = booted(found)
    pts, shm = place(boot, "mount", "-t", "devpts"), place(boot, "mount", "-t", "tmpfs", "-o", "nosuid,nodev,mode=1777")
    assert boot.calls[pts][-2:] == ["devpts", "/dev/pts"] and boot.calls[shm][-2:] == ["tmpfs", "/dev/shm"]
    assert "gid=5" in boot.calls[pts][4] and "ptmxmode=0666" in boot.calls[pts][4]
    assert max(pts, shm) < place(boot, "mount", "-o", "move", "/dev"), "or they would be on the root"
    assert (found.root / "proc/sys/kernel/hostname").read_text() == "sample\n"
    assert (found.root / "dev/pts").is_dir() and (found.root / "dev/shm").is_dir()


def test_systemd_does_it_itself(tmp_path: Path) -> None:
    found = Device(tmp_path / "device", layout_of("hostname: gateway\n"))
    boot = booted(found)
    assert not [call for call in boot.of("mount") if "/dev/pts" in call or "/dev/shm" in call]
    assert not (found.root / "proc/sys/kernel/hostname").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_init_gets_the_words_that_the_kernel_had_for_it(tmp_path: Path, shell: str) -> None:
    boot = booted(device(tmp_path, "kept", shell))
    assert boot.calls[-1] == ["switch_root", "/sysroot", "/sbin/init", *WORDS]


@pytest.mark.parametrize("there", [True, False])
def test_the_host_key_is_made_where_the_system_will_be(tmp_path: Path, there: bool) -> None:
    """By the image's own ssh-keygen, which wants /dev/urandom; an image without sshd has no script."""
    found = device(tmp_path, "bare")
    found.has_key_script = there
    boot = booted(found)
    asked = [i for i, call in enumerate(boot.calls) if call == ["chroot", "/sysroot", KEY_SCRIPT]]
    assert len(asked) == there
    assert all(place(boot, "mount", "-o", "move", "/sys") < i == len(boot.calls) - 2 for i in asked)


def test_a_host_key_that_cannot_be_made_stops_no_boot(tmp_path: Path) -> None:
    found = device(tmp_path, "bare")
    found.has_key_script = True
    boot = found.boot(fail=f"chroot @/sysroot {KEY_SCRIPT}")
    assert boot.reached_init and "no ssh host key" in (found.sysroot / "dev/kmsg").read_text()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("name", "kept"), [("rich", False), ("kept", True)])
def test_a_writable_etc_gets_the_machine_id(tmp_path: Path, name: str, kept: bool, shell: str) -> None:
    found = device(tmp_path, name, shell)
    booted(found)
    machine_id = (found.sysroot / "etc/machine-id").read_text()
    assert len(machine_id) == 33 and int(machine_id, 16)
    disk = found.disks / "LABEL=state/data/identity/machine-id"
    assert disk.exists() == kept and (not kept or disk.read_text() == machine_id)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["bare", "transient", "bound"])
def test_a_read_only_etc_is_shown_the_machine_id(tmp_path: Path, name: str, shell: str) -> None:
    found = device(tmp_path, name, shell)
    boot = booted(found)
    file = {"bound": STATE_ID}.get(name, RUN_ID)
    bind = place(boot, "mount", "-o", "bind", file, "/sysroot/etc/machine-id")
    assert place(boot, "mount", "-o", "remount,bind,ro,nosuid,nodev" + ",noatime" * (name == "bound")) == bind + 1
    assert (found.sysroot / "etc/machine-id").read_text() == "", "the image's own is not written"
    made_id = found.root / file[1:] if name != "bound" else found.disks / "LABEL=state/data/identity/machine-id"
    assert len(made_id.read_text()) == 33


@pytest.mark.parametrize("shell", SHELLS)
def test_seeds_are_copied_by_the_initrd_where_the_image_has_no_cp_of_its_own(tmp_path: Path, shell: str) -> None:
    kept = device(tmp_path / "kept", "kept", shell)
    boot = booted(kept)
    assert boot.of("chroot") == [] and len(boot.of("cp")) == 2
    assert "state: new" in boot.events and "/var/www: seeded" in boot.events and "/var/lib: seeded" in boot.events
    assert contents(kept.disks / "LABEL=state/data/bind/var-www") == contents(kept.image / "var/www")
    seeded = contents(kept.disks / "LABEL=lib")
    del seeded[".rofs-seeded"]
    assert seeded == contents(kept.image / "var/lib")
    rich = device(tmp_path / "rich", "rich", shell)
    boot = booted(rich)
    copied = ["cp", "-a", "/run/rofs/image/srv/www/.", "/run/rofs/tmpfs/srv-www/data"]
    assert (boot.of("chroot"), boot.of("cp")) == ([], [copied])
    assert contents(rich.root / "run/rofs/tmpfs/srv-www/data") == contents(rich.image / "srv/www")


@pytest.mark.parametrize("name", ["rich", "kept"])
def test_with_the_images_own_cp_where_it_has_one(name: str) -> None:
    """Whatever the init: a tree may have coreutils and no systemd, and the other way round."""
    for facts, own in ((FACTS, False), (busybox_tree({"/usr/bin/cp": Node("file", 0o755, 0, 0, 9)}), True)):
        for text in (OTHERS[name], OTHERS[name].replace("init: other\n", "")):
            layout = build_layout(profile_of(text), facts)
            copies = [line for line in render_initrd(layout, []).splitlines() if " cp -a " in line]
            assert layout.own_cp is own and copies
            assert all(("chroot /sysroot cp -a " in line) is own for line in copies)
    assert build_layout(profile_of(OTHER), None).own_cp, "while the tree is unknown"
    assert layout_of(OTHER, tree()).own_cp


# --- a whole boot, as the guest reports it ----------------------------------------------------------

LAST = wire.poweroff("clean")
EVERY = [
    pytest.param(name, scenario, id=f"{name}-{scenario.number}-{scenario.state}")
    for name in NAMES
    for scenario in dict.fromkeys(
        s for kept in (False, True) for s in scenarios(made(name)[0].profile, kept=kept) if s.number <= 4
    )
]


def boot_of(name: str, state: str, number: int) -> Scenario:
    found = (s for kept in (False, True) for s in scenarios(made(name)[0].profile, kept=kept))
    return next(s for s in found if (s.state, s.number) == (state, number))


@cache
def answered(name: str, scenario: Scenario) -> tuple[Plan, Mapping[int, Answer]]:
    """The whole plan of a boot, and what the honest guest answers."""
    layout, entries = made(name)
    plan = make_plan(boot_checks(layout, entries, scenario), LAST)
    guest = Guest(layout, entries, scenario)
    return plan, {n: guest(op) for n, op in enumerate(plan.ops[:-1], 1)}


def alone(check: Check, facts: Sequence[Answer | None]) -> bool:
    plan = make_plan([check], LAST)
    answers = {n: facts[row] for row, n in enumerate(plan.numbers[0])}
    (outcome,) = judge(plan, 1, {n: answer for n, answer in answers.items() if answer is not None})
    return outcome.verdict.ok


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_an_honest_guest_keeps_them_all(name: str, scenario: Scenario) -> None:
    plan, answers = answered(name, scenario)
    outcomes = list(judge(plan, scenario.number, answers))
    assert [o for o in outcomes if not o.verdict.ok] == []
    assert len(outcomes) == len(plan.checks) > 10
    assert all(o.verdict.expected and o.verdict.seen for o in outcomes)


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_it_is_asked_nothing_that_busybox_cannot_say(name: str, scenario: Scenario) -> None:
    plan, _ = answered(name, scenario)
    assert plan.checks[0].name == "system: settled", "which waits for the boot to end"
    names = [c.name for c in plan.checks]
    assert len(set(names)) == len(names)
    assert not [n for n in names if n.startswith(("unit: ", "verify.units: ", "random seed: "))]
    programs = {str(op).split(" ")[2] for op in plan.ops if op.name == "run"}
    assert programs == {"sshd", "ssh-keygen"}
    assert ("fstab: /etc/fstab" in names) == (scenario.state != "lost")
    phase = {c.name: c.phase for c in plan.checks}
    assert phase.get("fstab: /etc/fstab", "loud") == "loud", "mount -a touches, so all that only looks comes before"


@pytest.mark.parametrize(("name", "scenario"), EVERY)
def test_no_answer_is_a_broken_promise(name: str, scenario: Scenario) -> None:
    plan, answers = answered(name, scenario)
    troubles = {"timeout": True}, {"stuck": True}, {"signal": 11}, {"error": "bad line"}
    for check, numbers in zip(plan.checks, plan.numbers, strict=True):
        for facts in ({}, *troubles, {"errno": "ENOENT"}, {"errno": "EIO"}):
            verdict = check.judge([facts for _ in (*check.recalls, *check.ops)])
            assert not verdict.ok and verdict.seen, (check.name, facts)
        true = [answers[n] for n in numbers]
        for row, answer in enumerate(true):
            for instead in (None, {**answer, "timeout": True}, {"signal": 6}):
                assert not alone(check, [*true[:row], instead, *true[row + 1 :]]), (check.name, row)


Lie = Callable[[Guest], object]
"""Makes a guest dishonest in one place."""


def said(op: str, rule: Answer | Callable[[Answer], Answer]) -> Lie:
    """One answer is another."""
    return lambda guest: guest.rules.update({op: rule})


def table(path: str, old: str, new: str) -> Lie:
    """One word of one line of the mount table is another."""
    return lambda guest: mounted(guest, path, old, new)


def kept_file(path: str) -> Lie:
    return lambda guest: guest.files.update({path: b"rofs boot 1"})


def lost_file(path: str) -> Lie:
    return lambda guest: guest.files.pop(path)


STRANGE = "90 1 0:90 / /media rw - tmpfs tmpfs rw\n"


def mount_all(guest: Guest) -> None:
    """`mount -a` finds something to mount."""

    def lie(true: Answer) -> Answer:
        guest.table += STRANGE
        return true

    guest.rules["exec 30 mount%20-a"] = lie


def strange(guest: Guest) -> None:
    guest.table += STRANGE


def settled(**facts: object) -> Lie:
    return said("settle", lambda true: {**true, **facts})


def hit(path: str, name: str) -> Lie:
    """An attack has an effect."""

    def lie(true: Answer) -> Answer:
        return {**true, "attacks": [{**a, "effect": a["name"] == name} for a in true["attacks"]]}

    return said(f"attack {path}", lie)


MACHINE_ID = "mount: /etc/machine-id (machine-id)"
EVENTS = "read /run/rofs/events"
LATE = "nothing undeclared: mount table after all checks"
LIES: list[tuple[str, str, int, Lie, set[str]]] = [
    # layout, state, boot, the lie, the checks that catch it
    ("rich", "none", 1, settled(pid1="/run/rofs-probe/rofs-probe"), {"system: settled"}),
    ("rich", "none", 1, settled(settled=False, busy=["mkfs"]), set()),
    ("rich", "none", 1, mount_all, {"fstab: /etc/fstab", LATE}),
    ("rich", "none", 2, mount_all, {"fstab: /etc/fstab", LATE}),
    ("rich", "none", 1, strange, {"nothing undeclared: mount table"}),
    ("rich", "none", 1, said("read /etc/fstab", replaced(",noauto", "")), {"fstab: /etc/fstab"}),
    ("rich", "none", 1, said("read /etc/passwd", replaced("bob:x:1000", "bob:x:0")), {"user: bob"}),
    ("rich", "none", 1, said("read /etc/group", replaced("dialout:x:20:bob", "dialout:x:20:")), {"user: bob"}),
    ("rich", "none", 1, said("read /etc/shadow", replaced("bob:*:", "bob::")),
     {"user: bob", "user: no empty password"}),
    ("rich", "none", 1, said("read /etc/hosts", replaced("gateway", "localhost")), {"hostname: gateway"}),
    ("rich", "none", 1, said("read /proc/sys/kernel/hostname", content("(none)\n")), {"hostname: gateway"}),
    ("rich", "none", 1, said("read /etc/machine-id", content("")), {"machine-id: transient"}),
    ("rich", "none", 1, table("/etc/ssh", "ro,relatime", "rw,relatime"), {"mount: /etc/ssh (pinned-ro)"}),
    ("rich", "none", 1, table("/etc", "workdir", "metacopy=on,workdir"), {"mount: /etc (overlay-tmpfs)"}),
    ("rich", "none", 1, table("/etc", "workdir", "uuid=on,workdir"), set()),
    ("rich", "none", 1, hit("/etc/ssh", "rename-over"), {"immutable: /etc/ssh"}),
    ("rich", "none", 1, said("write /srv/www", {"writable": False, "create": "EROFS"}), {"writable: /srv/www"}),
    ("rich", "none", 2, kept_file("/tmp/.rofs-canary"), {"volatile: /tmp"}),
    ("bare", "none", 1, table("/etc/machine-id", "/rofs/machine-id", "/rofs/id"), {MACHINE_ID}),
    ("bare", "none", 1, table("/etc/machine-id", "0:23", "254:0"), {MACHINE_ID}),
    ("bare", "none", 1, hit("/usr", "remount"), {"immutable: /usr"}),
    ("bound", "new", 1, said(f"read {STATE_ID}", content("0" * 32)), {"machine-id: state"}),
    ("kept", "new", 1, said(EVENTS, replaced("state: new", "state: used")), {"state: state (state new)"}),
    ("kept", "used", 2, lost_file("/etc/.rofs-canary"), {"persistent: /etc"}),
    ("kept", "used", 2, lost_file("/var/www/.rofs-canary"), {"persistent: /var/www", "persistent: /srv/shown"}),
    ("kept", "used", 2, table("/var/lib", "254:32", "254:16"), {"mount: /var/lib (partition)"}),
    ("kept", "lost", 4, table("/var/lib", "size=8192k", "size=64m"), {"mount: /var/lib (partition)"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "state", "number", "lie", "caught"), LIES, ids=range(len(LIES)))
def test_a_guest_that_lies(name: str, state: str, number: int, lie: Lie, caught: set[str]) -> None:
    guest = Guest(*made(name), boot_of(name, state, number))
    lie(guest)
    assert set(rejected(guest)) == caught


def test_systemd_in_the_place_of_another_init() -> None:
    """What it mounts by itself is nobody's declaration."""
    guest = Guest(*made("rich"), boot_of("rich", "none", 1))
    guest.table += "90 1 0:90 / /proc rw - proc proc rw\n"
    assert rejected(guest) == {}, "Buildroot's inittab mounts it once more"
    guest.table += "91 1 0:91 / /proc rw - proc proc rw\n"
    assert set(rejected(guest)) == {"nothing undeclared: mount table"}
