# SPDX-License-Identifier: MIT
"""The mount table, units and fstab of a guest that lies in one place: the check of that place is broken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from guest import Answer, Guest, Rule, content, mounted, ran, rejected, replaced
from layouts import OTHER, RICH, busybox_tree, entries_of, layout_of
from state_layouts import boot_of, made

from rofs.layout import Layout
from rofs.verify.check import Verdict
from rofs.verify.mounts import mount_checks, parse_unit, unit_checks

LAYOUT = layout_of(RICH)
ENTRIES = entries_of(LAYOUT)


def verdict(name: str, guest: Guest, layout: Layout = LAYOUT) -> Verdict:
    (check,) = [c for c in (*mount_checks(layout), *unit_checks(layout)) if c.name.startswith(name)]
    return guest.ask(check)


def unit(**facts: str) -> Rule:
    """PID 1 says something else of tmp.mount."""

    def lie(true: Answer) -> Answer:
        return {**true, "units": [{**u, **facts} if u["name"] == "tmp.mount" else u for u in true["units"]]}

    return lie


def guest_with(old: str, new: str) -> Guest:
    """Another mount table."""
    guest = Guest(LAYOUT, ENTRIES)
    assert guest.table.count(old) == 1, old
    guest.table = guest.table.replace(old, new)
    return guest


def line(path: str) -> str:
    """The whole line of the table for one path."""
    (found,) = [row for row in Guest(LAYOUT, ENTRIES).table.splitlines(keepends=True) if row.split(" ")[4] == path]
    return found


def changed(path: str, old: str, new: str) -> Guest:
    """One word of one line differs."""
    assert old in line(path), line(path)
    return guest_with(line(path), line(path).replace(old, new))


@pytest.mark.parametrize(
    ("path", "old", "new", "seen"),
    [
        ("/tmp", " - tmpfs tmpfs", " - ramfs tmpfs", "type is ramfs, not tmpfs"),
        ("/tmp", ",size=32768k", "", "size is not set, not 32768k"),
        ("/tmp", ",size=32768k", ",size=65536k", "size is 65536k, not 32768k"),
        ("/tmp", ",nr_inodes=8192", "", "nr_inodes is not set"),
        ("/tmp", "rw,nosuid,nodev", "rw,nodev", "flags are nodev,rw, not nodev,nosuid,rw"),
        ("/tmp", "rw,nosuid,nodev", "ro,nosuid,nodev", "flags are nodev,nosuid,ro"),
        ("/tmp", "rw,nosuid,nodev", "rw,nosuid,nodev,noexec", "noexec"),
        ("/tmp", "inode64", "inode64,mpol=interleave:0", "undeclared options mpol"),
        ("/tmp", "tmpfs tmpfs", "tmpfs elsewhere", "source is elsewhere, not tmpfs"),
        ("/var", "lowerdir=/run/rofs/image/var", "lowerdir=/var", "lowerdir is /var"),
        ("/var", "tmpfs/var/upper", "tmpfs/var/other", "upperdir is /run/rofs/tmpfs/var/other"),
        ("/var", " - overlay overlay", " - overlay x", "source is x"),
        ("/var", "workdir=", "metacopy=on,workdir=", "undeclared options metacopy"),
        ("/", "254:0", "254:16", "it is on device 254:16, its disk is 254:0"),
        ("/", "ro,relatime", "rw,relatime", "flags are rw, not ro"),
        ("/etc/ssh", " /etc/ssh /etc/ssh", " /etc /etc/ssh", "shows /etc of 254:0, not /etc/ssh"),
        ("/etc/ssh", " 254:0 ", " 0:77 ", "shows /etc/ssh of 0:77"),
        ("/etc/ssh", "ro,relatime", "rw,relatime", "flags are rw, not ro"),
        ("/srv/data", " /www /srv/data", " /lib /srv/data", "shows /lib"),
        ("/srv/data", "relatime - ", "relatime master:1 - ", "receives mounts from elsewhere"),
        ("/srv/www", " /data ", " / ", "shows /"),
        ("/var/lib", " /lib /var/lib", " /cache /var/lib", "shows /cache"),
        ("/run/rofs/image", " / /run", " /usr /run", "shows /usr"),
        ("/srv/doc", "relatime - ", "relatime shared:9 - ", "passes mounts on to elsewhere"),
        ("/tmp", "tmpfs tmpfs rw", "tmpfs tmpfs ro", "its file system is read-only"),
        ("/srv/www", "tmpfs tmpfs rw", "tmpfs tmpfs ro", "its file system is read-only"),
    ],
)
def test_a_mount_that_differs(path: str, old: str, new: str, seen: str) -> None:
    found = verdict(f"mount: {path} (", changed(path, old, new))
    assert not found.ok
    assert seen in found.seen


@pytest.mark.parametrize("facts", [{"dev_minor": 77}, {"dev_major": None}, {"dev_minor": None}])
def test_a_mount_that_something_covers(facts: Answer) -> None:
    """The table has it, and whoever opens the path is elsewhere."""
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["lstat /srv/www"] = lambda true: {**true, **facts}
    found = verdict("mount: /srv/www (", guest)
    assert not found.ok and "what is seen there is on device" in found.seen


def test_a_file_of_an_overlay_has_a_number_of_its_own() -> None:
    layout = layout_of(
        "mounts: [{path: /var, type: overlay, upper: tmpfs}, {path: /srv/f, type: bind, source: /var/f}]\n"
    )
    guest = Guest(layout, entries_of(layout))
    own = {"dev_major": 0, "dev_minor": 99}
    guest.rules["lstat /srv/f"] = lambda true: {**true, **own, "type": "file"}
    assert verdict("mount: /srv/f (", guest, layout).ok
    guest.rules["lstat /srv/f"] = lambda true: {**true, **own}
    assert not verdict("mount: /srv/f (", guest, layout).ok


@pytest.mark.parametrize("option", ["nobarrier", "data=writeback", "noload"])
def test_a_persistent_file_system_that_a_power_cut_would_harm(option: str) -> None:
    layout, entries = made("state")
    guest = Guest(layout, entries, boot_of("state", "new"))
    found = rejected(mounted(guest, "/srv/store", "ext4 /dev/vdc rw", f"ext4 /dev/vdc rw,{option}"))
    assert list(found) == ["mount: /srv/store (partition)"] and option in found["mount: /srv/store (partition)"]


def test_a_bind_that_brought_what_is_mounted_below_its_source() -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.table += "90 1 0:90 / /srv/shown/dpkg ro - squashfs /dev/vda ro\n"
    assert not verdict("nothing undeclared", guest).ok


@pytest.mark.parametrize("where", [str(m.where) for m in LAYOUT.mounts])
def test_each_mount_is_missed_and_seen_twice(where: str) -> None:
    missing = verdict(f"mount: {where} (", guest_with(line(where), ""))
    assert not missing.ok and f"nothing is mounted on {where}" in missing.seen
    twice = verdict(f"mount: {where} (", guest_with(line(where), line(where) + line(where).replace(" - ", " - x")))
    assert not twice.ok and "mounted 2 times" in twice.seen


@pytest.mark.parametrize(("key", "value"), [("mode", 0o777), ("uid", 0), ("gid", 5)])
def test_the_mounted_root_differs(key: str, value: int) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["lstat /srv/www"] = lambda true: {**true, key: value}
    found = verdict("mount: /srv/www (", guest)
    assert not found.ok and f"{key} is" in found.seen


@pytest.mark.parametrize(
    "row",
    [
        "90 1 0:90 / /usr/local rw - tmpfs tmpfs rw\n",
        "90 1 0:90 / /dev/shm rw - ramfs tmpfs rw\n",
        "90 1 0:90 / /run rw - tmpfs tmpfs rw\n",
        "90 1 0:90 / /proc/sys/fs/binfmt_misc rw - binfmt_misc x rw\n",
        "90 1 0:90 / /run/credentials/../x.service rw - ramfs none rw\n",
        "90 1 0:90 / /run/credentials/x.service rw,nosuid - tmpfs none rw\n",
        "90 1 0:90 / /run/rofs/state rw - ext4 /dev/vdb rw\n",
        "90 1 0:90 / /etc/machine-id ro - tmpfs tmpfs rw\n",
        "90 1 0:90 / /sys/fs/cgroup/x rw - cgroup2 cgroup2 rw\n",
        "90 1\n - \n",
    ],
)
def test_a_mount_nobody_declared(row: str) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.table += row
    found = verdict("nothing undeclared", guest)
    assert not found.ok and "(" in found.seen


def test_what_pid_1_keeps_for_a_service_is_read_only() -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.table += "90 1 0:90 / /run/credentials/x.service ro,nosuid - tmpfs none rw\n"
    assert verdict("nothing undeclared", guest).ok


def test_a_transient_machine_id_is_the_systems_where_etc_is_read_only() -> None:
    layout = layout_of("")
    guest = Guest(layout, ())
    guest.table += "90 1 0:90 / /etc/machine-id ro - tmpfs tmpfs rw\n"
    assert verdict("nothing undeclared", guest, layout).ok


def test_half_a_table_proves_nothing() -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["read /proc/1/mountinfo"] = lambda true: {**true, "truncated": True}
    assert not verdict("nothing undeclared", guest).ok


@pytest.mark.parametrize(
    ("op", "lie", "seen"),
    [
        ("units", unit(FragmentPath="/usr/lib/systemd/system/tmp.mount"), "PID 1 uses /usr/lib"),
        ("units", unit(active="failed"), "it is failed"),
        ("units", unit(FragmentPath=""), "PID 1 uses no file"),
        ("units", unit(name="x.mount"), "PID 1 does not know it"),
        ("units", {"errno": "ENOENT"}, "no whole list of units: ENOENT"),
        ("read /run/systemd/generator/tmp.mount 65536", {"errno": "ENOENT"}, "fstab-generator says nothing"),
        ("read /run/systemd/generator/tmp.mount 65536", content("not a unit"), "fstab-generator says nothing"),
        ("read /run/systemd/generator/tmp.mount 65536", content("[Mount\nx"), "fstab-generator says nothing"),
        ("read /run/systemd/generator/tmp.mount 65536", replaced("nosuid,", ""), "fstab-generator says"),
        ("read /run/systemd/generator/tmp.mount 65536", replaced("Type=tmpfs", "Type=ramfs"), "ramfs"),
        ("read /run/systemd/generator/tmp.mount 65536", replaced("What=tmpfs", "What=x"), "fstab-generator says"),
        ("read /etc/systemd/system/tmp.mount 65536", replaced("size=32768k", "size=1k"), "the unit in the guest says"),
        ("lstat /run/systemd/generator/local-fs.target.requires/tmp.mount", {"errno": "ENOENT"}, "does not require it"),
    ],
)
def test_pid_1_sees_another_unit(op: str, lie: Rule, seen: str) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules[f"units {' '.join(LAYOUT.profile.verify.units)}" if op == "units" else op] = lie
    found = verdict("unit: tmp.mount", guest)
    assert not found.ok and seen in found.seen


def test_the_link_of_a_mount_that_may_be_missing_is_a_wish() -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["lstat /run/systemd/generator/local-fs.target.wants/srv-extra.mount"] = {"errno": "ENOENT"}
    found = verdict("unit: srv-extra.mount", guest)
    assert not found.ok and "does not want it" in found.seen


@pytest.mark.parametrize(
    ("op", "lie", "seen"),
    [
        ("read /etc/fstab", replaced("nosuid", "suid"), "another /etc/fstab"),
        ("run", ran("   [W] /x: target specified more than once\n0 parse errors, 1 warning\n"), "[W] /x"),
        ("run", ran("Success, no errors or warnings detected\n", status=1), "Success"),
        ("run", ran("", status=127), "findmnt ended 127"),
    ],
)
def test_another_fstab(op: str, lie: Rule, seen: str) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules[op] = lie
    found = verdict("fstab", guest)
    assert not found.ok and seen in found.seen


def test_units_are_compared_without_what_only_fstab_says() -> None:
    text = "[Unit]\nX=1\n[Mount]\nWhat=a=b\nWhere=/x;y\nType=none\nOptions=bind,nofail,x-initrd.mount,ro,x-a.b=c\n"
    assert parse_unit(text) == {"What": "a=b", "Where": "/x;y", "Type": "none", "Options": "bind,ro"}
    assert parse_unit("") == {}


@pytest.mark.parametrize("path", ["/etc", "/var"])
@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("uuid=on", True),
        ("uuid=off", True),
        ("uuid", True),
        ("redirect_dir=on", False),
        ("xino=on", False),
        ("index=on", False),
        ("nfs_export=on", False),
        ("verity=require", False),
        ("volatile", False),
        ("uuidx=on", False),
    ],
)
def test_what_a_kernel_shows_of_an_overlay_by_itself(path: str, option: str, known: bool) -> None:
    """Linux 6.6 and later show uuid=; all else would be somebody's decision."""
    found = rejected(mounted(Guest(LAYOUT, ENTRIES), path, "workdir=", f"{option},workdir="))
    assert list(found) == ([] if known else [f"mount: {path} (overlay-tmpfs)"])
    assert all(f"undeclared options {option.partition('=')[0]}" in seen for seen in found.values())


# --- fstab where nobody but people reads it ---------------------------------------------------------

PLAIN = layout_of(OTHER, busybox_tree())
PLAIN_ENTRIES = entries_of(PLAIN, busybox_tree())
BUSY = "mount: mounting tmpfs on /x failed: No such file or directory\n"


def plain(fstab: Answer | None = None, mount: Answer | None = None, *tables: Answer) -> Verdict:
    """The verdict on fstab with other answers: the file, `mount -a`, the mount table before and after."""
    (check,) = unit_checks(PLAIN)
    assert check.name == "fstab: /etc/fstab" and check.phase == "loud"
    guest = Guest(PLAIN, PLAIN_ENTRIES)
    before, file, said, after = (guest(op) for op in check.ops)
    before, after = tables or (before, after)
    return check.judge([before, file if fstab is None else fstab, said if mount is None else mount, after])


def test_mount_a_has_nothing_to_do() -> None:
    found = plain()
    assert found.ok and found.seen == f"{len(PLAIN.mounts)} lines, mount -a ended 0"
    found = plain(mount=ran("mount: nothing to do\n"))
    assert found.ok and found.seen.endswith("ended 0: mount: nothing to do")


@pytest.mark.parametrize("answer", [ran("/bin/sh: mount: not found\n", 127), {"errno": "ENOENT"}])
def test_an_image_without_mount_cannot_mount_anything(answer: Answer) -> None:
    found = plain(mount=answer)
    assert found.ok and found.seen.endswith("no mount(8) in the image")


@pytest.mark.parametrize(
    "answer", [ran(BUSY, 1), ran(BUSY, 32), {"exit_signal": 9}, {"timeout": True}, {}, {"errno": "EIO"}]
)
def test_a_mount_a_that_fails(answer: Answer) -> None:
    found = plain(mount=answer)
    assert not found.ok
    assert "status" not in answer or f"ended {answer['status']}: mount: mounting tmpfs on /x failed" in found.seen


@pytest.mark.parametrize(
    "answer", [content("tmpfs /x tmpfs rw 0 0\n"), content(""), {"errno": "ENOENT"}, {"timeout": True}]
)
def test_an_fstab_of_somebody_else(answer: Answer) -> None:
    found = plain(answer)
    assert not found.ok
    assert found.seen == ("timeout: True" if "timeout" in answer else "another /etc/fstab")


def test_a_mount_a_that_mounts_something() -> None:
    before = Guest(PLAIN, PLAIN_ENTRIES).table
    more = content(f"{before}90 1 0:90 / /x rw - tmpfs tmpfs rw\n")
    for tables in ((content(before), more), (more, content(before))):
        found = plain(None, None, *tables)
        assert not found.ok and found.seen == "mount -a changes the mount table"


@pytest.mark.parametrize("answer", [{}, {"errno": "EIO"}, {"timeout": True}])
def test_a_table_that_nobody_saw_proves_nothing(answer: Answer) -> None:
    table = content(Guest(PLAIN, PLAIN_ENTRIES).table)
    assert not plain(None, None, answer, answer).ok
    assert not plain(None, None, answer, table).ok and not plain(None, None, table, answer).ok


@pytest.mark.parametrize(
    ("row", "mine"),
    [
        ("90 1 0:90 / /proc rw - proc proc rw\n", "other"),
        ("90 1 0:90 / /sys rw - sysfs sysfs rw\n", ""),
        ("90 1 0:90 / /proc rw - tmpfs tmpfs rw\n", ""),
        ("90 1 0:90 / /run rw - tmpfs tmpfs rw\n", ""),
        ("90 1 0:90 / /dev/pts rw - devpts devpts rw\n", "systemd"),
        ("90 1 0:90 / /dev/shm rw - tmpfs tmpfs rw\n", "systemd"),
        ("90 1 0:90 / /tmp/x rw - tmpfs tmpfs rw\n", ""),
    ],
)
def test_what_the_system_mounts_by_itself_depends_on_its_init(row: str, mine: str) -> None:
    """For another init the initrd has made /dev/pts and /dev/shm, once; its inittab may mount /proc again."""
    for layout, init in ((LAYOUT, "systemd"), (PLAIN, "other")):
        guest = Guest(layout, entries_of(layout, busybox_tree() if init == "other" else None))
        assert verdict("nothing undeclared", guest, layout).ok
        guest.table += row
        assert verdict("nothing undeclared", guest, layout).ok == (init == mine)


# --- what changes while it is looked at ---------------------------------------------------------------

LATE = "nothing undeclared: mount table after all checks"
Happens = Callable[[Guest], object]


def later(happens: Happens, guest: Guest | None = None) -> dict[str, str]:
    """The checks of a boot in which that happens as soon as /tmp is written."""
    guest = guest or Guest(LAYOUT, ENTRIES)

    def written(true: Answer) -> Answer:
        happens(guest)
        return true

    guest.rules["write /tmp"] = written
    return rejected(guest)


def gone(guest: Guest) -> None:
    guest.table = guest.table.replace(line("/tmp"), "")


def shadowed(guest: Guest) -> None:
    """By a mount on a directory above that hides itself, so only who opens the path sees it."""
    guest.rules["lstat /srv/www"] = lambda true: {**true, "dev_minor": 77}


@pytest.mark.parametrize(
    ("happens", "seen"),
    [
        (lambda guest: mounted(guest, "/tmp", "rw,nosuid,nodev", "rw"), "/tmp: flags are rw, not nodev,nosuid,rw"),
        (lambda guest: mounted(guest, "/tmp", ",size=32768k", ""), "/tmp: size is not set, not 32768k"),
        (lambda guest: mounted(guest, "/etc/ssh", "ro,relatime", "rw,relatime"), "/etc/ssh: flags are rw, not ro"),
        (lambda guest: mounted(guest, "/", "ro,relatime", "rw,relatime"), "/: flags are rw, not ro"),
        (gone, "/tmp: nothing is mounted on /tmp"),
        (shadowed, "/srv/www: what is seen there is on device"),
        (lambda guest: guest.rules.update({"lstat /srv/www": lambda true: {**true, "mode": 0o777}}), "mode is 0777"),
    ],
)  # fmt: skip
def test_a_declared_mount_that_changes_during_the_checks(happens: Happens, seen: str) -> None:
    found = later(happens)
    assert list(found) == [LATE] and seen in found[LATE]


ROW = "90 1 0:90 / /usr/local rw - tmpfs tmpfs rw\n"


def add_row(guest: Guest) -> None:
    guest.table += ROW


def test_the_late_look_tells_what_the_first_could_not() -> None:
    assert list(later(add_row)) == [LATE]
    both = Guest(LAYOUT, ENTRIES)
    add_row(both)
    assert list(later(lambda guest: None, both)) == ["nothing undeclared: mount table"], "it was there from the start"
    again = Guest(LAYOUT, ENTRIES)
    add_row(again)
    found = later(add_row, again)
    assert list(found) == ["nothing undeclared: mount table", LATE] and found[LATE].count("/usr/local (") == 1


def test_a_mount_that_was_wrong_and_is_wrong_in_another_way() -> None:
    wrong = mounted(Guest(LAYOUT, ENTRIES), "/tmp", "rw,nosuid,nodev", "rw,nosuid")
    found = later(lambda guest: mounted(guest, "/tmp", "rw,nosuid", "rw"), wrong)
    assert {"mount: /tmp (tmpfs)", LATE} == set(found) and "flags are rw, not" in found[LATE]


def test_what_ends_wrong_has_become_wrong() -> None:
    """A mount that is mended during the checks is no news of theirs."""
    wrong = mounted(Guest(LAYOUT, ENTRIES), "/tmp", "rw,nosuid,nodev", "rw,nosuid")
    found = later(lambda guest: mounted(guest, "/tmp", "rw,nosuid", "rw,nosuid,nodev"), wrong)
    assert list(found) == ["mount: /tmp (tmpfs)"]


def test_half_a_table_at_the_end_proves_nothing() -> None:
    cut = {"read /proc/1/mountinfo": lambda true: {**true, "truncated": True}}
    assert LATE in later(lambda guest: guest.rules.update(cut))
