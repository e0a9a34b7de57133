# SPDX-License-Identifier: MIT
"""What the initrd does with the state partition, on directories: seeding, policy, reset, machine-id, power cuts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import HOSTILE_KEPT, KEPT, PARTED, layout_of
from rehearsal import MACHINE_ID, SHELLS, Boot, Device, contents, new_device

from rofs.generate.initrd import APPLETS
from rofs.layout import Role, Stage, as_volatile

Make = Callable[[str], Device]
APP = "data/bind/var-lib-app"
ID = "data/identity/machine-id"
SMALL = """\
users: [{name: bob, uid: 1000}]
files: [{path: /var/lib/app/first.json, content: x}]
state: {on_failure: volatile, volatile_size: 4M}
mounts: [{path: /var/lib/app, type: bind, source: state, owner: bob, mode: "0750"}]
"""
REFUSING = SMALL.replace("volatile, volatile_size: 4M", "refuse")


@pytest.fixture(params=SHELLS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A device by its profile, run by the host's shell and by the initrd's own."""
    return lambda text: new_device(tmp_path, text, request.param)


@pytest.fixture
def host(tmp_path: Path) -> Make:
    """The same by the host's shell alone, for what takes many boots."""
    return lambda text: new_device(tmp_path, text, "host")


def state_of(device: Device) -> Path:
    """A new state partition, by the name that the profiles give it."""
    return device.disk("LABEL=state")


# A new state.


def test_a_new_state_is_seeded_whole(make: Make) -> None:
    device = make(KEPT)
    state = state_of(device)
    boot = device.boot()
    assert boot.reached_init and boot.status == 0
    assert boot.events == ["/var/lib/app: seeded", "/var/lib/empty: seeded", "/var/www: seeded", "state: new"]
    seeded, image = state / APP, device.image / "var/lib/app"
    assert contents(seeded) == contents(image)
    assert seeded.stat().st_mode & 0o7777 == 0o755, "the mode is the profile's, not what the image's directory has"
    first, again = seeded / "first.json", seeded / "a b/again"
    assert first.stat().st_ino == again.stat().st_ino and first.stat().st_mtime == 1_600_000_000
    assert os.getxattr(first, "user.kept") == b"yes"
    assert contents(state / "data/bind/var-lib-empty") == {}
    modes = {name: mode for name, (kind, mode, _) in contents(state / "data").items() if kind == "dir"}
    assert {name: modes[name] for name in ("bind/var-lib-empty", "bind/var-www", "identity")} == {
        "bind/var-lib-empty": 0o700, "bind/var-www": 0o2750, "identity": 0o700,
    }  # fmt: skip
    assert (modes["overlay/etc/upper"], modes["overlay/etc/work"], modes["overlay/srv/upper"]) == (0o755, 0o700, 0o755)
    assert state.stat().st_mode & 0o7777 == (state / "data").stat().st_mode & 0o7777 == 0o700, "root's alone"
    assert sorted(p.name for p in state.iterdir()) == ["data"], "no proof, no old data"
    assert sorted(p.name for p in (state / "data").iterdir()) == ["bind", "identity", "overlay"]
    assert device.root.joinpath("run/rofs/identity").resolve() == (state / "data/identity").resolve()


def test_everything_belongs_to_whom_the_layout_says(make: Make) -> None:
    device = make(KEPT)
    state_of(device)
    owners: dict[str, list[str]] = {}
    for program, *words in device.boot().of("chown", "chmod", "mv"):
        if program == "mv":
            owners[words[1]] = owners.pop(words[0])
        else:
            owners.setdefault(words[1], []).append(words[0])
    for prepare in device.layout.prepares:
        assert owners[str(prepare.path)] == [f"{prepare.uid}:{prepare.gid}", f"{prepare.mode:04o}"], prepare
    for path in ("", "/data", "/data/identity"):
        assert owners[f"/run/rofs/state{path}"] == ["0:0", "0700"]


def test_the_name_comes_last_and_all_is_flushed_before_and_after(make: Make) -> None:
    """What the rename publishes must be on the disk before it, and the rename before anything else."""
    device = make(SMALL)
    state_of(device)
    boot = device.boot()
    data, tree = "/run/rofs/state/data", "/run/rofs/state/data/seeding/tree"
    start = boot.calls.index(["mkdir", "-p", tree])
    assert boot.calls[start - 1 : start + 7] == [
        ["rm", "-rf", f"{data}/seeding"],
        ["mkdir", "-p", tree],
        ["chroot", "/sysroot", "cp", "-a", "--preserve=xattr", "/run/rofs/image/var/lib/app/.", tree],
        ["chown", "1000:1000", tree],
        ["chmod", "0750", tree],
        ["sync", "-f", data],
        ["mv", tree, f"{data}/bind/var-lib-app"],
        ["sync", "-f", data],
    ]


@pytest.mark.parametrize("text", [SMALL, KEPT, "state: {on_failure: refuse}\n"], ids=["small", "kept", "bare"])
def test_all_is_flushed_before_it_is_used(make: Make, text: str) -> None:
    device = make(text)
    state_of(device)
    calls = device.boot().calls
    used = calls.index(["ln", "-s", "/run/rofs/state/data/identity", "/run/rofs/identity"])
    assert calls[used - 1] == ["sync", "-f", "/run/rofs/state/data"]


def test_the_proof_is_flushed_before_anything_is_trusted(make: Make) -> None:
    device = make(SMALL)
    state = state_of(device)
    (state / ".rofs-proof").mkdir()  # whatever is in the way
    boot = device.boot()
    mounted = next(i for i, call in enumerate(boot.calls) if call[:3] == ["mount", "-t", "ext4"])
    proof = "/run/rofs/state/.rofs-proof"
    assert boot.calls[mounted + 1 : mounted + 4] == [["rm", "-rf", proof], ["sync", proof], ["rm", proof]]
    assert boot.events[-1] == "state: new"


def test_the_mounts_are_the_layouts(make: Make) -> None:
    device = make(KEPT)
    state_of(device)
    boot = device.boot()
    state = device.layout.mount_at(device.layout.mounts[0].where.joinpath("run/rofs/state"))
    assert state is not None
    assert ["mount", "-t", "ext4", "-o", ",".join(state.options), "/disks/LABEL=state", "/run/rofs/state"] in boot.calls
    etc = device.layout.mount_at(state.where.parents[2] / "etc")
    assert etc is not None
    assert ["mount", "-t", "overlay", "-o", ",".join(etc.options), "overlay", "/sysroot/etc"] in boot.calls


# A used state.


def test_a_used_state_is_kept(make: Make) -> None:
    device = make(SMALL)
    state = state_of(device)
    device.boot()
    (state / APP / "mine").write_text("mine")
    (state / APP / "first.json").unlink()
    (state / APP).chmod(0o777)
    before = contents(state / APP)
    boot = device.boot()
    assert boot.events == ["/var/lib/app: kept", "state: used"]
    assert contents(state / APP) == before, "neither restored nor overwritten"
    assert (state / APP).stat().st_mode & 0o7777 == 0o750, "what the profile says of the directory itself counts"
    assert ["chown", "1000:1000", "/run/rofs/state/data/bind/var-lib-app"] in boot.calls
    assert not boot.of("chroot", "head") and not [c for c in boot.of("mv") if "seeding" in c[1]]


def test_a_bind_that_is_new_in_an_update_is_seeded_beside_the_old(make: Make) -> None:
    device = make(SMALL)
    state = state_of(device)
    device.boot()
    (state / APP / "mine").write_text("mine")
    device.layout = layout_of(SMALL.replace("mounts: [", "mounts: [{path: /var/www, type: bind, source: state}, "))
    assert device.boot().events == ["/var/lib/app: kept", "/var/www: seeded", "state: used"]
    assert (state / APP / "mine").exists() and (state / "data/bind/var-www/index.html").exists()


@pytest.mark.parametrize("rest", ["seeding/tree/half", "seeding/half", "seeding"])
def test_a_leftover_of_seeding_is_thrown_away(make: Make, rest: str) -> None:
    device = make(SMALL)
    state = state_of(device)
    path = state / "data" / rest
    path.parent.mkdir(parents=True)
    path.write_text("half")
    boot = device.boot()
    assert boot.events == ["/var/lib/app: seeded", "state: used"]
    assert contents(state / APP) == contents(device.image / "var/lib/app")
    assert not (state / "data/seeding").exists()


def test_a_leftover_goes_also_where_nothing_is_seeded(make: Make) -> None:
    """A bind that an update has taken away while its seeding was cut short."""
    device = make("state: {on_failure: refuse}\n")
    state = state_of(device)
    (state / "data/seeding/tree").mkdir(parents=True)
    assert device.boot().events == ["state: used"]
    assert not (state / "data/seeding").exists()


def test_what_the_profile_has_not_is_left_alone(make: Make) -> None:
    device = make(SMALL)
    state = state_of(device)
    for name in ("data/bind/other", "lost+found", "elsewhere"):
        (state / name).mkdir(parents=True)
        (state / name / "x").write_text("x")
    device.boot()
    device.boot()
    assert [(state / name / "x").read_text() for name in ("data/bind/other", "lost+found", "elsewhere")] == ["x"] * 3


# The power goes.


def whole(device: Device, boot: Boot, when: str) -> None:
    """Seeded as in the image, an id that is one, nothing half done, and no word of trouble."""
    state = device.disks / "LABEL=state"
    assert boot.reached_init, when
    assert not [event for event in boot.events if "volatile" in event], when
    seeded = {k: v for k, v in contents(state / APP).items() if k != "mine"}
    assert seeded == contents(device.image / "var/lib/app"), when
    assert (state / ID).read_text() == f"{MACHINE_ID}\n", when
    left = {p.name for p in (*state.iterdir(), *(state / "data").iterdir(), *(state / "data/identity").iterdir())}
    assert left == {"data", "bind", "identity", "overlay", "machine-id"}, when


def test_a_new_state_survives_any_power_cut(host: Make) -> None:
    device = host(SMALL)
    state_of(device)
    cuts = device.power_cuts()
    assert len(cuts) > 12 and any("empty" in when for when in cuts)
    for when, disks in cuts.items():
        device.restore(disks)
        whole(device, device.boot(), when)


def test_a_used_state_survives_any_power_cut(host: Make) -> None:
    """Also one that was cut before; what a service has written and flushed is there afterwards."""
    device = host(SMALL)
    state = state_of(device)
    device.boot()
    (state / APP / "mine").write_text("mine")
    (state / ID).chmod(0o600)
    for leftover in ("data/seeding/tree", "data.old/bind"):
        (state / leftover).mkdir(parents=True)
    for when, disks in device.power_cuts().items():
        device.restore(disks)
        whole(device, device.boot(), when)
        assert (state / APP / "mine").read_text() == "mine", when


def test_a_reset_survives_any_power_cut(host: Make) -> None:
    """By the flag it is done in the end, however often it begins; nothing of the old data is left."""
    device = host(SMALL)
    state = state_of(device)
    device.boot()
    (state / APP / "mine").write_text("mine")
    (state / "factory-reset").write_text("")
    cuts = device.power_cuts()
    assert len(cuts) > 12
    for when, disks in cuts.items():
        device.restore(disks)
        boot = device.boot()
        whole(device, boot, when)
        assert not (state / APP / "mine").exists(), when


# What fails.

FAILURES = {
    "missing": ("", "no file system LABEL=state after 5 s"),
    "no ext4": ("mount -t ext4 *", "cannot be mounted as ext4"),
    "read-only in fact": ("sync */.rofs-proof", "cannot be written"),
    "old data stays": ("rm -rf */data.old", "no room for what must be on it"),
    "no directory": ("mkdir -p */data/overlay *", "no room for what must be on it"),
    "no owner": ("chown 0:0 */data/identity", "no room for what must be on it"),
    "id not flushed": ("sync */machine-id.new", "no room for what must be on it"),
    "id not named": ("mv */machine-id.new *", "no room for what must be on it"),
    "seeding stays": ("rm -rf */data/seeding", "no room for what must be on it"),
    "no copy": ("chroot *", "no room for what must be on it"),
    "no owner of the copy": ("chown 1000:1000 *", "no room for what must be on it"),
    "no mode of the copy": ("chmod 0750 *", "no room for what must be on it"),
    "not flushed": ("sync -f */data", "no room for what must be on it"),
    "no name": ("mv */seeding/tree *", "no room for what must be on it"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_without_state_it_goes_on_in_memory(host: Make, case: str) -> None:
    device, (pattern, why) = host(SMALL), FAILURES[case]
    disk = None if case == "missing" else state_of(device)
    boot = device.boot(fail=pattern, times=1)
    assert boot.reached_init
    assert boot.events[0].startswith("state: volatile, ") and why in boot.events[0]
    assert boot.events[1:] == ["/var/lib/app: seeded", "state: new"], "nothing of what did not come to be"
    (loud,) = [line for line in boot.kernel_log.splitlines() if line.startswith("<2>")]
    assert loud.startswith("<2>rofs: state is volatile until the next boot: ") and why in loud
    stand_in = next(m for m in as_volatile(device.layout).mounts if m.role is Role.STATE)
    assert (
        boot.calls.count(["mount", "-t", "tmpfs", "-o", ",".join(stand_in.options), "tmpfs", str(stand_in.where)]) == 1
    )
    memory = device.root / "run/rofs/state"
    assert not memory.is_symlink() and contents(memory / APP) == contents(device.image / "var/lib/app")
    assert (memory / ID).read_text() == f"{MACHINE_ID}\n"
    assert disk is None or not (disk / APP).exists(), "never half a name on the disk"
    assert boot.of("umount") == [["umount", "/run/rofs/state"]]


@pytest.mark.parametrize("case", FAILURES)
def test_without_state_it_refuses_where_the_profile_says_so(host: Make, case: str) -> None:
    device, (pattern, why) = host(REFUSING), FAILURES[case]
    if case != "missing":
        state_of(device)
    boot = device.boot(fail=pattern, times=1)
    assert (boot.status, boot.reached_init) == (1, False)
    assert boot.calls[-1] == ["umount", "/run/rofs/state"], "the disk is left clean, and no shell is started"
    assert "rofs: cannot boot: state: " in boot.console and why in boot.console
    assert "(on_failure: refuse)" in boot.console
    assert boot.kernel_log.splitlines()[-1].startswith("<2>rofs: state: ")
    assert not [c for c in boot.of("mount") if c[-1].startswith("/sysroot/") and c[-1] != "/sysroot/run"]


def test_what_was_on_the_disk_is_not_said_of_the_memory(make: Make) -> None:
    device = make(KEPT)
    state_of(device)
    boot = device.boot(fail="chroot * */var/www/. *", times=1)
    names = [event.partition(":")[0] for event in boot.events]
    assert names == ["state", "/var/lib/app", "/var/lib/empty", "/var/www", "state"], "each once, and the reason first"


def test_a_shell_only_where_it_is_asked_for(make: Make) -> None:
    device = make(REFUSING)
    boot = device.boot("rofs.shell")
    assert (boot.status, boot.calls[-1]) == (1, ["sh"])


def test_a_state_that_failed_once_is_whole_the_next_time(make: Make) -> None:
    device = make(SMALL)
    state = state_of(device)
    device.boot(fail="chroot *", times=1)
    assert device.boot().events == ["/var/lib/app: seeded", "state: used"]
    assert contents(state / APP) == contents(device.image / "var/lib/app")


def test_without_memory_there_is_no_boot(make: Make) -> None:
    device = make(SMALL)
    boot = device.boot(fail="chroot *", times=2)
    assert (boot.status, boot.reached_init) == (1, False)
    assert "the tmpfs that stands in for state is too small" in boot.console
    boot = device.boot(fail="mount -t tmpfs *,size=4096k,* tmpfs @/run/rofs/state")
    assert boot.status == 1 and "no tmpfs at" in boot.console


def test_it_waits_for_a_disk_that_comes_late(make: Make) -> None:
    boot = make(SMALL).boot()
    assert boot.of("findfs") == [["findfs", "LABEL=state"]] * 51
    assert boot.of("sleep") == [["sleep", "0.1"]] * 50


def test_a_memory_that_stands_in_need_not_keep_xattrs_but_a_disk_must(make: Make) -> None:
    other = "{path: /var/www, type: partition, device: LABEL=www, on_failure: volatile}"
    device = make(SMALL.replace("mounts: [", f"mounts: [{other}, "))
    device.disk("LABEL=www")
    copies = {call[-2]: call[2:-2] for call in device.boot().of("chroot")}
    assert copies == {
        "/run/rofs/image/var/lib/app/.": ["cp", "-a"],
        "/run/rofs/image/var/www/.": ["cp", "-a", "--preserve=xattr"],
    }


# Factory reset.


@pytest.mark.parametrize("how", ["flag", "directory", "word"])
def test_a_reset_takes_all_data_away(make: Make, how: str) -> None:
    device = make(KEPT)
    state = state_of(device)
    device.boot()
    for path in (APP, "data/overlay/etc/upper", "data/identity", "data/bind/gone"):
        (state / path).mkdir(exist_ok=True)
        (state / path / "mine").write_text("mine")
    (state / ID).chmod(0o600)
    (state / ID).write_text("f" * 32 + "\n")
    (state / "elsewhere").write_text("not ours")
    flag = state / "factory-reset"
    if how == "flag":
        flag.write_text("")
    elif how == "directory":
        (flag / "x").mkdir(parents=True)
    boot = device.boot("rofs.reset=1" if how == "word" else "")
    assert boot.events == ["/var/lib/app: seeded", "/var/lib/empty: seeded", "/var/www: seeded", "state: reset"]
    assert not list(state.rglob("mine")) and not flag.exists() and not (state / "data.old").exists()
    assert (state / ID).read_text() == f"{MACHINE_ID}\n", "another machine"
    assert (state / "elsewhere").read_text() == "not ours"
    assert device.boot().events[-1] == "state: used", "once"


def test_a_reset_renames_first_and_forgets_its_flag_last(make: Make) -> None:
    device = make(SMALL)
    state = state_of(device)
    device.boot()
    (state / "factory-reset").write_text("")
    calls = device.boot().calls
    at = "/run/rofs/state"
    start = calls.index(["mv", f"{at}/data", f"{at}/data.old"])
    assert calls[start - 1 : start + 3] == [
        ["rm", "-rf", f"{at}/data.old"],
        ["mv", f"{at}/data", f"{at}/data.old"],
        ["sync", "-f", at],
        ["rm", "-rf", f"{at}/data.old"],
    ]
    end = calls.index(["rm", "-rf", f"{at}/factory-reset"])
    assert calls[end + 1] == ["sync", "-f", at]
    changing = [c[0] for c in calls[end + 2 :] if c[0] in ("mv", "rm", "mkdir", "sync", "chroot", "chown", "ln")]
    assert changing == [], "all else is done"
    assert calls.index(["mv", f"{at}/data/seeding/tree", f"{at}/{APP}"]) < end


@pytest.mark.parametrize("words", ["rofs.reset", "rofs.reset=0", "rofs.reset=10", "xrofs.reset=1", "reset=1"])
def test_other_words_reset_nothing(make: Make, words: str) -> None:
    device = make(SMALL)
    state = state_of(device)
    device.boot()
    (state / APP / "mine").write_text("mine")
    assert device.boot(words).events[-1] == "state: used"
    assert (state / APP / "mine").exists()


def test_a_reset_of_a_new_state_is_none_to_fear(make: Make) -> None:
    device = make(SMALL)
    state = state_of(device)
    (state / "factory-reset").write_text("")
    assert device.boot().events == ["/var/lib/app: seeded", "state: reset"]
    assert not (state / "factory-reset").exists()


def test_old_data_that_was_left_goes_at_the_next_boot(make: Make) -> None:
    device = make(SMALL)
    state = state_of(device)
    device.boot()
    shutil.copytree(state / "data", state / "data.old", symlinks=True)
    assert device.boot().events[-1] == "state: used"
    assert not (state / "data.old").exists() and (state / APP / "first.json").exists()


def test_a_reset_that_fails_keeps_its_flag(make: Make) -> None:
    device = make(SMALL)
    state = state_of(device)
    device.boot()
    (state / "factory-reset").write_text("")
    boot = device.boot(fail="mv */data */data.old")
    assert boot.events[0].startswith("state: volatile, ")
    assert (state / "factory-reset").exists()
    assert device.boot().events[-1] == "state: reset"


# The machine-id.

GOOD_ID = "00ff" * 8
BAD_IDS = {
    "empty": b"",
    "blank": b"\n",
    "short": GOOD_ID[:-1].encode() + b"\n",
    "long": GOOD_ID.encode() + b"0\n",
    "upper case": GOOD_ID.upper().encode() + b"\n",
    "no hexadecimal": b"g" * 32 + b"\n",
    "blanks inside": b"0123 567 89abcdef0123456789abcde\n",
    "two lines": GOOD_ID[:16].encode() + b"\n" + GOOD_ID[:15].encode() + b"\n",
    "uninitialized": b"uninitialized\n",
    "bytes": bytes(range(1, 33)),
    "zeros": bytes(33),
    "a pattern": b"*" * 32 + b"\n",
    "a command": b"$(touch pwned)`touch pwned`00000\n",
    "with dashes": b"0123-567-89abcdef0123456789abcde\n",
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_a_machine_id_that_is_none_is_replaced(make: Make, case: str) -> None:
    device = make(SMALL)
    path = state_of(device) / ID
    path.parent.mkdir(parents=True)
    path.write_bytes(BAD_IDS[case])
    boot = device.boot()
    assert (path.read_text(), path.stat().st_mode & 0o7777) == (f"{MACHINE_ID}\n", 0o444)
    assert boot.of("head") == [["head", "-c", "1", "/dev/random"]], "entropy first"
    new = "/run/rofs/state/data/identity/machine-id.new"
    start = boot.calls.index(["sync", new])
    assert boot.calls[start - 2 : start + 2] == [
        ["chown", "0:0", new], ["chmod", "0444", new], ["sync", new], ["mv", new, new.removesuffix(".new")],
    ]  # fmt: skip
    assert not list(device.root.rglob("pwned"))


@pytest.mark.parametrize("name", [ID, f"{ID}.new"])
def test_a_directory_in_its_way_goes(make: Make, name: str) -> None:
    """A rename would move the file into it, and a directory cannot be shown on a file."""
    device = make(SMALL)
    state = state_of(device)
    (state / name / "x").mkdir(parents=True)
    assert device.boot().events[-1] == "state: used"
    assert (state / ID).read_text() == f"{MACHINE_ID}\n"


@pytest.mark.parametrize("content", [GOOD_ID, f"{GOOD_ID}\n"])
def test_a_good_machine_id_is_kept(make: Make, content: str) -> None:
    device = make(SMALL)
    path = state_of(device) / ID
    path.parent.mkdir(parents=True)
    path.write_text(content)
    before = path.stat().st_ino
    boot = device.boot()
    assert (path.read_text(), path.stat().st_ino) == (content, before)
    assert not boot.of("head", "tr")
    assert ["mount", "-o", "bind", f"/run/rofs/state/{ID}", "/sysroot/etc/machine-id"] in boot.calls
    assert [
        "mount",
        "-o",
        "remount,bind,ro,nosuid,nodev,noatime",
        f"/run/rofs/state/{ID}",
        "/sysroot/etc/machine-id",
    ] in (boot.calls)


@pytest.mark.parametrize("there", [None, "", f"{GOOD_ID}\n", f"{MACHINE_ID}\n"])
def test_a_writable_etc_is_given_the_machine_id(make: Make, there: str | None) -> None:
    """In place of whatever id an update or PID 1 has left there."""
    device = make(KEPT)
    state_of(device)
    path = device.sysroot / "etc/machine-id"
    device.sysroot_has = {} if there is None else {"etc/machine-id": there}
    boot = device.boot()
    assert path.read_text() == f"{MACHINE_ID}\n"
    assert path.stat().st_mode & 0o7777 == 0o444 or there == f"{MACHINE_ID}\n", "written or left alone"
    assert (["rm", "-f", "/sysroot/etc/machine-id"] in boot.calls) == (there != f"{MACHINE_ID}\n")
    mounted = boot.calls.index(next(c for c in boot.of("mount") if c[-1] == "/sysroot/etc"))
    assert boot.calls.index(["cat", "/sysroot/etc/machine-id"]) > mounted
    assert not [c for c in boot.of("mount") if c[-1].endswith("machine-id")]


@pytest.mark.parametrize("upper", ["state", "tmpfs"])
def test_a_transient_id_does_not_outlive_the_boot(make: Make, upper: str) -> None:
    """PID 1 writes its new one into a writable /etc, which on state would make it the next boot's."""
    text = KEPT.replace("/etc, type: overlay, upper: state", f"/etc, type: overlay, upper: {upper}")
    device = make(f"machine_id: transient\n{text}")
    state_of(device)
    device.sysroot_has = {"etc/machine-id": f"{GOOD_ID}\n"}
    assert device.boot().reached_init
    assert (device.sysroot / "etc/machine-id").read_text() == ("" if upper == "state" else f"{GOOD_ID}\n")


# Words.


@pytest.mark.parametrize("text", [KEPT, PARTED, HOSTILE_KEPT], ids=["kept", "parted", "hostile"])
def test_words_survive_and_all_is_mounted_in_order(make: Make, text: str) -> None:
    device = make(text)
    for mount in device.layout.mounts:
        if mount.type == "ext4":
            device.disk(mount.what)
    boot = device.boot()
    assert boot.reached_init and not [e for e in boot.events if "volatile" in e]
    assert {call[0] for call in boot.calls} <= set(APPLETS), "each program is in the initrd"
    mounted = [c[-1] for c in boot.of("mount") if "remount" not in c[2]]
    declared = [m for m in device.layout.mounts if m.stage is Stage.INITRD]
    backings = [str(m.where) for m in declared if m.role is Role.BACKING]
    rest = [f"/sysroot{m.where}" for m in declared if m.role not in (Role.ROOT, Role.IMAGE, Role.BACKING, Role.STATE)]
    fixed = ["/dev", "/proc", "/sys", "/sysroot", "/sysroot/run", "/run/rofs/image"]
    moved = ["/sysroot/dev", "/sysroot/proc", "/sysroot/sys"]
    assert mounted == [*fixed, *backings, "/run/rofs/state", *rest, *moved]
    found = {c[1] for c in boot.of("findfs")}
    assert found == {m.what for m in device.layout.mounts if m.type == "ext4"}
    events = [event for event in boot.events if not event.startswith("state:")]
    made_once = [
        p.of for p in device.layout.prepares if p.path.name not in ("upper", "work") and "tmpfs" not in str(p.path)
    ]
    assert sorted(events) == sorted(f"{path}: seeded" for path in made_once)
    state = device.root / "run/rofs/state"
    for prepare in device.layout.prepares:
        if prepare.path.is_relative_to("/run/rofs/state"):
            assert (state / prepare.path.relative_to("/run/rofs/state")).is_dir(), prepare.path
