# SPDX-License-Identifier: MIT
"""The probe's attacks, in a mount namespace of their own, on file systems made there.

Each is shown to take effect where it can, and to have none where it must not.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Protocol

import pytest
from probing import Facts, parse, rehearsal

from rofs.verify import probe_wire as wire
from rofs.verify.attacks import ATTACKS, NO_DIR, NO_FILE, NO_HANDLES, NO_IO_URING, kind_of
from rofs.verify.immutable import answer_of


class Attack(Protocol):
    def __call__(self, setup: str, path: str, *, only: str = "") -> Facts: ...


PRIVATE = ("unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c")
GUARD = 'test "$(readlink /proc/self/ns/mnt)" != "$HOST_NAMESPACE"; mount -t tmpfs none /run; cd /run'
FILL = """
    mkdir -p w/d/none; chmod 0755 w
    echo content > w/d/f; chown 7:8 w/d/f; chmod 4755 w/d/f; touch -d @1600000000 w/d/f
    echo x > w/g; ln -s f w/d/s
"""
DESCRIBE = r"""
    find w -printf '%p %y %m %U %G %s %n %l\n' | sort
    find w -type f -printf '%p %T@\n' | sort
    cat w/d/f; findmnt -rno TARGET,OPTIONS -R /run
"""
HARMLESS_ANYWHERE = {"ftruncate-ro": "EINVAL", "fallocate-ro": "EBADF", "mprotect": "EACCES"}
"""Through a descriptor for reading."""
NOT_OF_A_TMPFS = {"ns-device": "not on a device", "remount-super": "not the image"}
MAY_BE_UNSUPPORTED = {"setxattr-user", "setxattr-file", "removexattr", "setflags"}  # by tmpfs before 6.6
EXT4 = """
    truncate -s 8M @tmp/disk; mkfs.ext4 -q @tmp/disk; mkdir disk w
    mount -o loop @tmp/disk disk; mkdir disk/tree; mount --bind disk/tree w
"""
SQUASHFS = """
    mkdir -p tree/d/none w; echo content > tree/d/f; echo x > tree/g; ln -s f tree/d/s
    mksquashfs tree @tmp/disk -quiet -no-progress; mount -o loop,ro @tmp/disk w; rm -r tree
"""


def in_namespace(tmp_path: Path, *steps: str) -> list[Facts]:
    """Shell steps on a private, empty /run, where `probe` executes tmp_path/plan -> its events."""
    probe = f"{rehearsal()} {tmp_path}/plan --output {tmp_path}/events"
    script = "\n".join([GUARD, *steps]).replace("@probe", probe).replace("@tmp", str(tmp_path))
    env = {"PATH": os.environ["PATH"], "HOST_NAMESPACE": str(Path("/proc/self/ns/mnt").readlink())}
    subprocess.run([*PRIVATE, script], check=True, env=env, timeout=60)
    return parse((tmp_path / "events").read_bytes())


@pytest.fixture
def attack(tmp_path: Path) -> Attack:
    """Shell text that makes /run/w, and a path -> the answer; tree and mounts must be the same afterwards."""

    def run(setup: str, path: str, *, only: str = "") -> Facts:
        (tmp_path / "plan").write_bytes(wire.encode_plan([wire.attack(path, only=only)]))
        look = f"({DESCRIBE}) > @tmp/"
        events = in_namespace(tmp_path, setup, look + "before", "@probe", look + "after")
        assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
        return events[1]

    return run


def by_name(answer: Facts) -> dict[str, Facts]:
    return {a["name"]: a for a in answer["attacks"]}


needs_namespace = pytest.mark.needs("unshare", "findmnt")


@needs_namespace
def test_every_attack_takes_effect_on_a_writable_directory_and_is_undone(attack: Attack) -> None:
    answer = attack(f"{FILL} mount --bind w w", "/run/w/d")
    for name, one in by_name(answer).items():
        if name in HARMLESS_ANYWHERE:
            assert (one["effect"], one["errno"]) == (False, HARMLESS_ANYWHERE[name])
        elif name in NOT_OF_A_TMPFS:
            assert (one["effect"], one["skipped"]) == (False, NOT_OF_A_TMPFS[name])
        elif name == "rename-over":
            assert (one["effect"], one["errno"]) == (False, "EXDEV")
        elif name in MAY_BE_UNSUPPORTED and not one["effect"]:
            assert one["errno"] in ("ENOTSUP", "ENODATA", "ENOTTY")
        elif name == "rename-parents":
            assert one["detail"] == "/run/w: EBUSY, /run: EBUSY"
        else:
            assert one["effect"], one
            assert one["restored"], one
    assert (answer["type"], answer["file"], answer["dir"]) == ("dir", "/run/w/d/f", "/run/w/d/none")


@needs_namespace
def test_rename_over_and_the_parents_take_effect_in_one_mount(attack: Attack) -> None:
    found = by_name(attack(FILL, "/run/w/d"))
    for name in ("rename-over", "rename-parents"):
        assert (found[name]["effect"], found[name]["restored"]) == (True, True), found[name]
    assert found["rename-parents"]["detail"] == "/run/w: renamed, /run: EBUSY"


FLAGS = "nosuid,nodev,noexec,nosymfollow"


@needs_namespace
@pytest.mark.parametrize("access", ["ro", "rw"])
@pytest.mark.parametrize("times", ["noatime", "nodiratime", "relatime", "strictatime"])
def test_a_mount_has_its_own_flags_again(attack: Attack, access: str, times: str) -> None:
    """findmnt, which the fixture asks before and after, shows each of them."""
    found = by_name(attack(f"{FILL} mount --bind w w; mount -o remount,bind,{access},{times},{FLAGS} w", "/run/w/d"))
    assert found["remount"]["effect"] and found["remount"]["restored"]


@needs_namespace
@pytest.mark.parametrize("path", ["/run/w/d/f", "/run/w/g"])
def test_every_attack_takes_effect_on_a_writable_file(attack: Attack, path: str) -> None:
    found = by_name(attack(FILL, path))
    assert "create" not in found
    for name in set(found) - {*HARMLESS_ANYWHERE, *NOT_OF_A_TMPFS} - MAY_BE_UNSUPPORTED:
        assert (found[name]["effect"], found[name]["restored"]) == (True, True), found[name]


@needs_namespace
@pytest.mark.parametrize("path", ["/run/w", "/run/w/d", "/run/w/d/f", "/run/w/d/s"])
def test_no_attack_takes_effect_on_a_read_only_file_system(attack: Attack, path: str) -> None:
    answer = attack(f"mkdir w; mount -t tmpfs none w; {FILL} mount -o remount,ro w", path)
    found = by_name(answer)
    assert not [one for one in found.values() if one["effect"]]
    assert {n: one["skipped"] for n, one in found.items() if one.get("skipped")} == {
        name: why for name, why in NOT_OF_A_TMPFS.items() if name in found
    }
    allowed = {"EROFS", "EXDEV", "EBUSY", "EINVAL", "EBADF", "EACCES", "ENOTTY"}
    assert {one["errno"] for one in found.values() if not one.get("skipped")} <= allowed
    assert found["remount"]["errno"] == "EROFS", "remount,bind,rw succeeds: the write after it counts"
    assert found["remount"]["detail"] == "/run/w then EROFS"
    assert found["chown"]["errno"] == "EROFS"
    assert answer["mount"]["super"].split(",")[0] == "ro"


@needs_namespace
@pytest.mark.parametrize(
    ("path", "gives_way"),
    [
        ("/run/w", {"remount", "ns-remount", "ns-bind", "ns-handle"}),
        ("/run/w/d/f", {"remount", "ns-remount", "ns-bind", "ns-handle"}),
        ("/run/w/d/s", {"remount"}),
    ],
)
def test_a_read_only_bind_gives_way_to_who_may_mount(attack: Attack, path: str, gives_way: set[str]) -> None:
    answer = attack(f"{FILL} mount --bind w w; mount -o remount,bind,ro,nosuid w", path)
    effects = [one for one in answer["attacks"] if one["effect"]]
    assert {one["name"] for one in effects} == gives_way
    assert all(one["restored"] and one["errno"] is None for one in effects)
    assert by_name(answer)["remount"]["detail"] == "/run/w then written"
    assert answer["mount"]["options"].startswith("ro,nosuid")


@pytest.mark.needs("unshare", "findmnt", "mkfs.ext4")
@pytest.mark.parametrize("path", ["/run/w", "/run/w/d", "/run/w/d/f"])
def test_a_second_mount_of_the_device_shows_the_same_files(attack: Attack, path: str) -> None:
    found = by_name(attack(f"{EXT4}{FILL} mount -o remount,bind,ro w", path))
    effects = {name for name, one in found.items() if one["effect"]}
    assert effects == {"remount", "ns-remount", "ns-bind", "ns-handle", "ns-device"}
    assert all(found[name]["restored"] for name in effects)


@pytest.mark.needs("unshare", "findmnt", "mksquashfs")
@pytest.mark.parametrize("path", ["/run/w", "/run/w/d", "/run/w/d/f", "/run/w/g", "/run/w/d/s"])
def test_nothing_gets_at_a_squashfs_on_a_read_only_device(attack: Attack, path: str) -> None:
    """The table, word for word; mksquashfs makes one whose files have handles."""
    answer = attack(SQUASHFS, path)
    kind = kind_of(answer["type"])
    rows = {name: row for name, row in ATTACKS.items() if kind in row.kinds}
    found = by_name(answer)
    assert list(found) == list(rows)
    for name, row in rows.items():
        honest = row.honest("pinned-ro", kind, mount_point=path == "/run/w")
        assert answer_of(found[name]) in honest - {NO_FILE, NO_DIR, NO_HANDLES, NO_IO_URING}, found[name]
        assert not found[name]["effect"]


@needs_namespace
def test_one_attack_can_be_asked_for(attack: Attack) -> None:
    answer = attack(FILL, "/run/w/d", only="rename-self")
    assert [(one["name"], one["effect"], one["restored"]) for one in answer["attacks"]] == [("rename-self", True, True)]


@needs_namespace
def test_a_file_system_that_can_be_remounted_is_found_out_and_put_back(attack: Attack) -> None:
    setup = f"mkdir w; mount -t tmpfs none w; {FILL} mount -o remount,ro w"
    (one,) = attack(setup, "/run/w", only="remount-super")["attacks"]
    assert (one["errno"], one["effect"], one["restored"]) == (None, True, True)


@needs_namespace
def test_a_naked_bind_is_walked_around_by_its_parent(attack: Attack) -> None:
    """Why the layout pins the directories between (design, "pinned-ro")."""
    setup = f"""{FILL}
        mkdir -p w/d/ssl/certs; mount --bind w/d/none w/d/ssl/certs
        mount -o remount,bind,ro w/d/ssl/certs"""
    found = by_name(attack(setup, "/run/w/d/ssl/certs"))
    assert found["rename-self"]["errno"] == "EBUSY"
    assert found["rename-parents"]["detail"].startswith("/run/w/d/ssl: renamed, ")
    assert (found["rename-parents"]["effect"], found["rename-parents"]["restored"]) == (True, True)


@needs_namespace
def test_without_a_victim_the_attack_says_so(attack: Attack) -> None:
    found = by_name(attack(f"{FILL} mkdir w/d/empty", "/run/w/d/empty"))
    assert found["unlink"]["skipped"] == "no regular file below"
    assert found["rmdir"]["skipped"] == "no directory below"
    assert found["unlink"]["errno"] is None
    assert found["create"]["effect"] is True


@needs_namespace
def test_victims_are_of_the_same_mount(attack: Attack) -> None:
    """A bind has the device number of what it shows, so only the mount tells the two apart."""
    setup = f"""{FILL}
        mkdir w/d/empty w/d/empty/under; mount --bind w/d/none w/d/empty/under
        echo > w/d/none/file"""
    answer = attack(setup, "/run/w/d/empty")
    assert (answer["file"], answer["dir"]) == ("", "")


@needs_namespace
def test_a_path_that_is_not_there(attack: Attack) -> None:
    assert attack(FILL, "/run/w/none") == {"id": 1, "op": "attack", "errno": "ENOENT"}


@needs_namespace
@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (wire.fillinodes("/run/small", 4), {"errno": None, "made": 4, "removed": None}),
        (wire.fillinodes("/run/small", 100), {"errno": "ENOSPC", "made": 18, "removed": None}),
    ],
)
def test_fill_finds_the_cap_and_leaves_nothing(tmp_path: Path, op: wire.Op, expected: Facts) -> None:
    plan = wire.encode_plan([op, wire.list_dir("/run/small"), wire.statvfs("/run/small")])
    (tmp_path / "plan").write_bytes(plan)
    mount = "mkdir small; mount -t tmpfs -o size=128k,nr_inodes=20 none small"
    _, answer, names, space, _ = in_namespace(tmp_path, mount, "@probe")
    assert {key: answer[key] for key in expected} == expected
    assert names["names"] == []
    assert space["bfree"] == space["blocks"]
