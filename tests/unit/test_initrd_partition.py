# SPDX-License-Identifier: MIT
"""What the initrd does with partitions of their own, on directories: seeding, marks, wiping, policy, reset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import layout_of
from rehearsal import SHELLS, Device, contents, new_device

from rofs.layout import Promise, as_volatile

Make = Callable[[str], Device]
SEEDING, SEEDED = ".rofs-seeding", ".rofs-seeded"
APP = "{path: /var/lib/app, type: partition, device: LABEL=app, on_failure: volatile, volatile_size: 4M, owner: bob}"
HEAD = "users: [{name: bob, uid: 1000}]\nfiles: [{path: /var/lib/app/first.json, content: x}]\n"
ONE = f"{HEAD}mounts: [{APP}]\n"
WITH_STATE = f"{HEAD}state: {{on_failure: volatile}}\nmounts: [{APP}]\n"
EMPTY = ONE.replace("owner: bob", "seed: empty")
HARD_NAMES = (
    "a b", "new\nline", "-rf", "--", "*", "?[a]", "$(touch pwned)", "'", '"', "\\", "\\n", "~", "#", "ü", "..x", "...",
    ".hidden", ".a b", ".\n", ".-", ".[a]", ".!", "..!", "lost+found2", ".rofs-seeded", ".rofs-seeding2", ".lost+found",
)  # fmt: skip


@pytest.fixture(params=SHELLS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A device by its profile, run by the host's shell and by the initrd's own."""
    return lambda text: new_device(tmp_path, text, request.param)


def holds(disk: Path) -> dict[str, tuple[str, int, bytes]]:
    """What is on a partition beside the marks."""
    return {name: what for name, what in contents(disk).items() if name not in (SEEDING, SEEDED)}


def marks(disk: Path) -> list[str]:
    return [name for name in (SEEDING, SEEDED) if (disk / name).exists()]


def test_an_empty_partition_is_seeded(make: Make) -> None:
    device = make(ONE)
    disk = device.disk("LABEL=app")
    (disk / "lost+found").mkdir()
    boot = device.boot()
    assert boot.reached_init and boot.events == ["/var/lib/app: seeded"]
    found = holds(disk)
    assert found.pop("lost+found")[0] == "dir"
    assert found == contents(device.image / "var/lib/app")
    assert marks(disk) == [SEEDED] and disk.stat().st_mode & 0o7777 == 0o755
    mount = next(m for m in device.layout.mounts if m.promise is Promise.PARTITION)
    assert [
        "mount",
        "-t",
        "ext4",
        "-o",
        ",".join(mount.options),
        "/disks/LABEL=app",
        "/sysroot/var/lib/app",
    ] in boot.calls


def test_the_mark_comes_first_and_changes_last_and_all_is_flushed_between(make: Make) -> None:
    device = make(ONE)
    device.disk("LABEL=app")
    calls, at = device.boot().calls, "/sysroot/var/lib/app"
    flush = ["sync", "-f", at]
    start = calls.index(flush)
    assert calls[start : start + 7] == [
        flush,
        ["chroot", "/sysroot", "cp", "-a", "--preserve=xattr", "/run/rofs/image/var/lib/app/.", "/var/lib/app"],
        ["chown", "1000:1000", at],
        ["chmod", "0755", at],
        flush,
        ["mv", f"{at}/{SEEDING}", f"{at}/{SEEDED}"],
        flush,
    ]


def test_the_mark_is_there_before_the_copy(make: Make) -> None:
    device = make(ONE)
    disk = device.disk("LABEL=app")
    boot = device.boot(fail="chroot *", times=1)
    assert boot.events[0] == "/var/lib/app: volatile, /var/lib/app has no room for its seed"
    assert marks(disk) == [SEEDING]
    boot = device.boot()
    assert boot.events == ["/var/lib/app: seeded"] and marks(disk) == [SEEDED]


def test_a_seeded_partition_is_kept(make: Make) -> None:
    device = make(ONE)
    disk = device.disk("LABEL=app")
    device.boot()
    (disk / "mine").write_text("mine")
    (disk / "first.json").unlink()
    disk.chmod(0o777)
    before = contents(disk)
    boot = device.boot()
    assert boot.events == ["/var/lib/app: kept"] and contents(disk) == before
    assert disk.stat().st_mode & 0o7777 == 0o755 and ["chown", "1000:1000", "/sysroot/var/lib/app"] in boot.calls
    assert not boot.of("chroot")


@pytest.mark.parametrize("rest", ["lost+found/x", "a b/c", ".rofs-seeded", "first.json", "old/.rofs-seeding"])
def test_half_a_seed_is_wiped_and_done_again(make: Make, rest: str) -> None:
    """What is in lost+found is the file system's own."""
    device = make(ONE)
    disk = device.disk("LABEL=app")
    (disk / SEEDING).write_text("")
    (disk / rest).parent.mkdir(parents=True, exist_ok=True)
    (disk / rest).write_text("half")
    assert device.boot().events == ["/var/lib/app: seeded"]
    found = holds(disk)
    kept = {name: found.pop(name) for name in list(found) if name.startswith("lost+found")}
    assert found == contents(device.image / "var/lib/app") and marks(disk) == [SEEDED]
    assert sorted(kept) == (["lost+found", "lost+found/x"] if "lost" in rest else [])
    assert (disk / SEEDED).read_text().strip() == ""


def test_whatever_the_names_all_is_wiped(make: Make) -> None:
    device = make(EMPTY)
    disk = device.disk("LABEL=app")
    (disk / SEEDING).write_text("")
    (disk / "lost+found").mkdir()
    for name in HARD_NAMES:
        (disk / name).write_text("x")
    (disk / "dangling").symlink_to("nowhere")
    outside = device.root / "outside"
    outside.mkdir()
    (outside / "x").write_text("x")
    (disk / "out").symlink_to(outside)
    (disk / ".out").symlink_to(outside)
    (disk / "deep/er/.still").mkdir(parents=True)
    assert device.boot().events == ["/var/lib/app: seeded"]
    assert sorted(contents(disk)) == [SEEDED, "lost+found"]
    assert (outside / "x").exists() and not list(device.root.rglob("pwned"))


@pytest.mark.parametrize("name", ["x", ".x", "..x", " ", "-n", "\n", "*", "dangling", "dir"])
@pytest.mark.parametrize("words", ["", "rofs.reset=1"])
def test_what_somebody_else_filled_is_left_alone(make: Make, name: str, words: str) -> None:
    """Also by a reset: rofs did not put it there."""
    device = make(ONE)
    disk = device.disk("LABEL=app")
    if name == "dangling":
        (disk / name).symlink_to("nowhere")
    elif name == "dir":
        (disk / name).mkdir()
    else:
        (disk / name).write_text("theirs")
    before = contents(disk)
    boot = device.boot(words)
    assert boot.events == ["/var/lib/app: kept"] and contents(disk) == before
    assert disk.stat().st_mode & 0o7777 == 0o755, "the directory itself is as the profile says"


def test_a_partition_that_starts_empty(make: Make) -> None:
    device = make(EMPTY)
    disk = device.disk("LABEL=app")
    boot = device.boot()
    assert boot.events == ["/var/lib/app: seeded"] and contents(disk).keys() == {SEEDED}
    assert not boot.of("chroot")
    (disk / "mine").write_text("mine")
    assert device.boot().events == ["/var/lib/app: kept"] and (disk / "mine").exists()


# Reset.


def test_a_reset_seeds_anew(make: Make) -> None:
    device = make(WITH_STATE)
    state, disk = device.disk("LABEL=state"), device.disk("LABEL=app")
    device.boot()
    for name in ("mine", ".mine"):
        (disk / name).write_text("mine")
    (state / "factory-reset").write_text("")
    boot = device.boot()
    assert boot.events == ["state: reset", "/var/lib/app: seeded"]
    assert holds(disk) == contents(device.image / "var/lib/app") and marks(disk) == [SEEDED]
    assert not (state / "factory-reset").exists()
    forgot = boot.calls.index(["rm", "-rf", "/run/rofs/state/factory-reset"])
    marked = ["mv", f"/sysroot/var/lib/app/{SEEDING}", f"/sysroot/var/lib/app/{SEEDED}"]
    assert boot.calls.index(marked) < forgot, "when all else is done"
    assert device.boot().events == ["state: used", "/var/lib/app: kept"]


def test_a_reset_marks_before_it_wipes(make: Make) -> None:
    device = make(ONE)
    disk = device.disk("LABEL=app")
    device.boot()
    (disk / "mine").write_text("mine")
    calls, at = device.boot("rofs.reset=1").calls, "/sysroot/var/lib/app"
    start = calls.index(["mv", f"{at}/{SEEDED}", f"{at}/{SEEDING}"])
    assert calls[start + 1] == ["sync", "-f", at]
    assert ["rm", "-rf", f"{at}/mine"] in calls[start + 2 :] and ["rm", "-rf", f"{at}/mine"] not in calls[:start]
    assert not (disk / "mine").exists()


# The power goes.


@pytest.mark.parametrize("reset", [False, True])
def test_a_partition_survives_any_power_cut(tmp_path: Path, reset: bool) -> None:
    device = new_device(tmp_path, WITH_STATE if reset else ONE, "host")
    state = device.disk("LABEL=state") if reset else None
    disk = device.disk("LABEL=app")
    (disk / "lost+found").mkdir()
    if state is not None:
        device.boot()
        (disk / "mine").write_text("mine")
        (state / "factory-reset").write_text("")
    cuts = device.power_cuts()
    assert len(cuts) > 7
    for when, disks in cuts.items():
        device.restore(disks)
        boot = device.boot()
        assert boot.reached_init and not [e for e in boot.events if "volatile" in e], when
        found = holds(disk)
        assert found.pop("lost+found")[0] == "dir", when
        assert found == contents(device.image / "var/lib/app"), when
        assert marks(disk) == [SEEDED] and (state is None or not (state / "factory-reset").exists()), when


# What fails.

FAILURES = {
    "missing": ("", "no file system LABEL=app after 5 s"),
    "no ext4": ("mount -t ext4 *", "cannot be mounted as ext4"),
    "read-only in fact": ("sync */.rofs-proof", "cannot be written"),
    "mark not flushed": ("sync -f */var/lib/app", "has no room for its seed"),
    "no copy": ("chroot *", "has no room for its seed"),
    "no owner": ("chown 1000:1000 *", "has no room for its seed"),
    "no mode": ("chmod 0755 *", "has no room for its seed"),
    "no mark": ("mv */.rofs-seeding *", "has no room for its seed"),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("policy", ["volatile", "refuse"])
@pytest.mark.parametrize("required", [True, False])
def test_without_it_the_policy_decides(tmp_path: Path, case: str, policy: str, required: bool) -> None:
    """`required: false` is about mounting; that there must be a file system is said by refuse."""
    pattern, why = FAILURES[case]
    text = ONE.replace("on_failure: volatile", f"on_failure: {policy}")
    device = new_device(tmp_path, text.replace("owner: bob", f"owner: bob, required: {str(required).lower()}"), "host")
    disk = None if case == "missing" else device.disk("LABEL=app")
    boot = device.boot(fail=pattern, times=1)
    assert boot.of("umount") == [["umount", "/sysroot/var/lib/app"]]
    assert disk is None or SEEDED not in marks(disk)
    if policy == "refuse":
        assert (boot.status, boot.reached_init) == (1, False)
        assert "rofs: cannot boot: /var/lib/app: " in boot.console
        assert why in boot.console and "(on_failure: refuse)" in boot.console
        return
    assert boot.reached_init
    assert boot.events[0].startswith("/var/lib/app: volatile, ") and why in boot.events[0]
    assert boot.events[1:] == ["/var/lib/app: seeded"]
    stand_in = next(m for m in as_volatile(device.layout).mounts if m.promise is Promise.PARTITION)
    options = ",".join(stand_in.options)
    assert ["mount", "-t", "tmpfs", "-o", options, "tmpfs", "/sysroot/var/lib/app"] in boot.calls
    memory = device.sysroot / "var/lib/app"
    assert not memory.is_symlink() and holds(memory) == contents(device.image / "var/lib/app")


def test_a_tmpfs_knows_no_options_of_a_disk(make: Make) -> None:
    device = make(ONE.replace("owner: bob", "options: [nodev, errors=remount-ro], owner: bob"))
    (mount,) = (c for c in device.boot().of("mount") if c[-1] == "/sysroot/var/lib/app")
    assert mount[1:5] == ["-t", "tmpfs", "-o", "rw,nodev,noatime,size=4096k,nr_inodes=1024,mode=0755"]


@pytest.mark.parametrize("required", [True, False])
def test_without_memory_either(tmp_path: Path, required: bool) -> None:
    """The seed does not fit into the tmpfs: then the mount has failed, and `required` counts."""
    text = ONE.replace("owner: bob", f"owner: bob, required: {str(required).lower()}")
    device = new_device(tmp_path, text, "host")
    device.disk("LABEL=app")
    boot = device.boot(fail="chroot *")
    assert boot.reached_init is not required
    assert "rofs: cannot mount /var/lib/app" in boot.kernel_log


def test_each_store_has_its_own_fate(make: Make) -> None:
    """State is there, one partition is, one is not."""
    other = "{path: /srv/b, type: partition, device: LABEL=b, on_failure: volatile}"
    device = make(WITH_STATE.replace(APP, f"{APP}, {other}"))
    state, disk = device.disk("LABEL=state"), device.disk("LABEL=b")
    boot = device.boot()
    assert boot.events == [
        "state: new",
        "/srv/b: seeded",
        "/var/lib/app: volatile, no file system LABEL=app after 5 s",
        "/var/lib/app: seeded",
    ]
    assert (state / "data").is_dir() and marks(disk) == [SEEDED]


def test_only_what_is_mounted_by_the_initrd_is_waited_for(make: Make) -> None:
    device = make(HEAD)
    assert not device.boot().of("findfs", "sync")
    assert layout_of(HEAD).prepares == ()
