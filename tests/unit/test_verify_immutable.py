# SPDX-License-Identifier: MIT
"""Attacks that had an effect, met the wrong errno or were never made, and the three strengths of read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from guest import Answer, Guest, content
from layouts import RICH, P, entries_of, layout_of

from rofs.verify.attacks import ATTACKS, NO_DIR, NO_FILE, STRENGTHS
from rofs.verify.check import Verdict
from rofs.verify.immutable import attack_targets, find_strength, immutable_checks

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "attacks.md"
LAYOUT = layout_of(RICH)
ENTRIES = entries_of(LAYOUT)


def verdict(path: str, guest: Guest, promise: str = "immutable") -> Verdict:
    (check,) = [c for c in immutable_checks(LAYOUT) if c.name == f"{promise}: {path}"]
    return guest.ask(check)


def attacked(path: str, name: str, /, **facts: Any) -> Guest:
    """A guest in which one attack ends otherwise."""
    guest = Guest(LAYOUT, ENTRIES)

    def lie(true: Answer) -> Answer:
        assert name in [a["name"] for a in true["attacks"]]
        return {**true, "attacks": [a | facts if a["name"] == name else a for a in true["attacks"]]}

    guest.rules |= dict.fromkeys((f"attack {path}", f"attack {path} only={name}"), lie)
    return guest


def test_what_is_attacked() -> None:
    targets = {str(p): at for p, at in attack_targets(LAYOUT).items()}
    assert {"/", "/usr", "/srv", "/root", "/etc/ssh", "/var/lib/dpkg", "/srv/shown", "/srv/doc"} <= set(targets)
    assert not {"/etc", "/var", "/run", "/dev", "/proc", "/sys", "/tmp", "/bin", "/var/lib"} & set(targets)
    assert targets["/usr"] == ("immutable", 0) and targets["/srv"] == ()
    assert len([c for c in immutable_checks(LAYOUT) if c.promise == "pinned"]) == 1


@pytest.mark.parametrize(
    ("path", "strength"),
    {
        "/": "image-ro",
        "/usr": "image-ro",
        "/etc/ssh": "pinned-ro",
        "/etc/passwd": "pinned-ro",
        "/srv/doc": "pinned-ro",
        "/srv/shown": "mount-ro",
    }.items(),
)
def test_the_strength_is_named(path: str, strength: str) -> None:
    found = verdict(path, Guest(LAYOUT, ENTRIES))
    assert found.ok and found.seen.startswith(f"{strength};")
    assert "EROFS" in found.seen


REFUSED = ["/usr", "/etc/ssh", "/srv/doc", "/srv/shown"]


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize(
    ("name", "facts", "seen"),
    [
        ("chmod", {"errno": None, "effect": True, "detail": "0755 then 0777"}, "chmod had an effect (0755 then 0777)"),
        ("unlink", {"effect": True}, "unlink had an effect (EROFS), not EROFS or no regular file below"),
        ("rename-parents", {"errno": None, "effect": True}, "rename-parents had an effect (no error)"),
        ("create", {"errno": "ENOSPC"}, "create failed with ENOSPC, not EROFS"),
        ("create", {"errno": "EACCES"}, "create failed with EACCES, not EROFS"),
        ("mkdir", {"errno": None}, "mkdir was allowed, not EROFS"),
        ("unlink", {"errno": None}, "unlink was allowed, not EROFS"),
        ("rename-over", {"errno": "EROFS"}, "rename-over failed with EROFS, not EXDEV"),
        ("mprotect", {"errno": None}, "mprotect was allowed, not EACCES"),
        ("create", {"skipped": "no namespace"}, "create was not tried (no namespace, EROFS), not EROFS"),
        ("create", {"skipped": "no regular file below"}, "create was not tried (no regular file below, EROFS)"),
        ("io-uring", {"errno": "ENOSYS"}, "io-uring failed with ENOSYS, not EROFS or no io_uring"),
        (
            "ns-bind",
            {"errno": "EPERM", "effect": False, "skipped": "no namespace"},
            "ns-bind was not tried (no namespace, EPERM)",
        ),
        ("rename-over", {"name": "rename-into"}, "rename-into is no known attack on a dir"),
        ("rename-over", {"name": "rename-into"}, "not tried: rename-over"),
        ("open-write", {"errno": None, "skipped": "no regular file below"}, ""),
        ("io-uring", {"errno": "EPERM", "skipped": "no io_uring"}, ""),
        ("setflags", {"errno": "ENOTTY"}, ""),
    ],
)
def test_an_attack_that_was_not_repelled(path: str, name: str, facts: dict[str, Any], seen: str) -> None:
    found = verdict(path, attacked(path, name, **facts))
    assert found.ok == (not seen)
    assert seen in found.seen


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("name", [row.name for row in ATTACKS.values() if "dir" in row.kinds])
def test_each_attack_must_be_made_and_may_not_just_succeed(path: str, name: str) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules[f"attack {path}"] = lambda true: {**true, "attacks": [a for a in true["attacks"] if a["name"] != name]}
    found = verdict(path, guest)
    assert not found.ok and f"not tried: {name};" in found.seen
    bare: dict[str, Any] = {"errno": None, "effect": False, "skipped": ""}
    assert f"{name} was allowed" in verdict(path, attacked(path, name, **bare)).seen
    assert f"{name} failed with ENOSPC" in verdict(path, attacked(path, name, **bare | {"errno": "ENOSPC"})).seen


BY_NATURE = {"remount", "ns-remount", "ns-bind", "ns-device", "ns-handle"}


@pytest.mark.parametrize("path", ["/", *REFUSED])
def test_an_effect_is_by_nature_only_on_a_bind_of_something_writable(path: str) -> None:
    effect = {"errno": None, "effect": True, "restored": True}
    names = {row.name for row in ATTACKS.values() if "dir" in row.kinds}
    kept = {name for name in names if verdict(path, attacked(path, name, **effect)).ok}
    assert kept == (BY_NATURE if path == "/srv/shown" else set())


def test_what_takes_effect_by_nature_is_said_and_undone() -> None:
    found = verdict("/srv/shown", Guest(LAYOUT, ENTRIES))
    assert found.ok and found.seen.startswith("mount-ro;")
    assert found.seen.endswith("as on any such bind remount, ns-remount, ns-bind, ns-device, ns-handle took effect")
    left = verdict("/srv/shown", attacked("/srv/shown", "remount", restored=False))
    assert not left.ok and "remount took effect, and it could not be undone" in left.seen


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"errno": "ENOENT"},
        {"errno": None, "type": "dir", "attacks": []},
        {"errno": None, "attacks": [{"name": "create", "errno": None, "effect": False, "skipped": "no victim"}]},
        {"errno": None, "type": "dir", "attacks": [{"name": "create", "errno": "EROFS", "effect": False}]},
        {"errno": None, "type": "dir", "attacks": [{"name": "create", "errno": "ENOENT", "effect": False}]},
    ],
)
def test_no_attack_proves_nothing(answer: dict[str, Any]) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["attack /usr"] = answer
    assert not verdict("/usr", guest).ok


@pytest.mark.parametrize(
    ("name", "errno", "inside", "at_mount_point"),
    [
        ("unlink", "EBUSY", False, True),
        ("unlink", "EROFS", True, True),
        ("link", "EXDEV", False, True),
        ("open-write", "EBUSY", False, False),
        ("chmod", "EBUSY", False, False),
    ],
)
def test_the_name_of_a_mount_point_is_busy(name: str, errno: str, inside: bool, at_mount_point: bool) -> None:
    """Of a file that is one; what is below a directory that is one has names of its own."""
    row = ATTACKS[name]
    assert (errno in row.honest("pinned-ro", "file", mount_point=False)) == inside
    assert (errno in row.honest("pinned-ro", "dir", mount_point=True)) == inside
    assert (errno in row.honest("pinned-ro", "file", mount_point=True)) == at_mount_point
    busy, free = (ATTACKS["rename-self"].honest("image-ro", "dir", mount_point=at) for at in (True, False))
    assert "EBUSY" in busy - free


def test_statvfs_must_say_read_only() -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["statvfs /usr"] = {"errno": None, "flags": ["relatime"]}
    found = verdict("/usr", guest)
    assert not found.ok and "statvfs does not say read-only (relatime)" in found.seen


def test_a_device_that_could_be_written() -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["read /sys/class/block/vda/ro"] = content("0\n")
    found = verdict("/usr", guest)
    assert not found.ok and "image-ro on a writable device" in found.seen


def test_read_only_by_something_weaker_than_promised() -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.table += "90 1 0:90 / /usr ro - tmpfs tmpfs ro\n"
    found = verdict("/usr", guest)
    assert not found.ok and "what makes it read-only is mount-ro" in found.seen
    guest.table += "91 1 0:90 / /usr rw - tmpfs tmpfs rw\n"
    assert "what makes it read-only is nothing" in verdict("/usr", guest).seen
    gone = Guest(LAYOUT, ENTRIES)
    gone.table = "".join(row for row in gone.table.splitlines(keepends=True) if " /etc/ssh " not in row)
    assert not verdict("/etc/ssh", gone).ok


def test_strengths() -> None:
    table = (
        "1 0 254:0 / / ro - squashfs /dev/vda ro\n"
        "2 1 0:2 / /var rw - tmpfs t rw\n"
        "3 2 254:0 /var/x /var/x ro - squashfs /dev/vda ro\n"
        "4 1 0:2 / /shown ro - tmpfs t rw\n"
    )
    assert find_strength(P("/usr"), table, device_ro=True) == "image-ro"
    assert find_strength(P("/usr"), table, device_ro=False) == "image-ro on a writable device"
    assert find_strength(P("/var/x/y"), table, device_ro=True) == "pinned-ro"
    assert find_strength(P("/shown"), table, device_ro=True) == "mount-ro"
    assert find_strength(P("/var/y"), table, device_ro=True) is None
    assert find_strength(P("/usr"), "", device_ro=True) is None


@pytest.mark.parametrize(
    "facts", [{"errno": None}, {"errno": "EROFS"}, {"effect": True}, {"errno": None, "skipped": "no", "effect": False}]
)
def test_a_pin_that_can_be_renamed(facts: dict[str, Any]) -> None:
    assert verdict("/var/lib", Guest(LAYOUT, ENTRIES), "pinned").ok
    assert not verdict("/var/lib", attacked("/var/lib", "rename-self", **facts), "pinned").ok


def test_the_device_is_written_to_in_each_boot_that_attacks() -> None:
    found = verdict("/dev/vda", Guest(LAYOUT, ENTRIES), "block device")
    assert found.ok and found.seen == "open None, write EPERM, read_only 1"


@pytest.mark.parametrize(
    ("facts", "seen"),
    [
        ({"write": None}, "a write took effect"),
        ({"write": "EIO"}, "a write failed with EIO"),
        ({"write": "ENOSPC"}, "a write failed with ENOSPC"),
        ({"open": "EACCES", "write": None}, ""),
        ({"open": "EBUSY", "write": None}, ""),
        ({"open": "ENOENT", "write": None}, "opening it for writing failed with ENOENT"),
        ({"read_only": 0}, "the kernel does not call it read-only"),
        ({"read_only": -1}, "the kernel does not call it read-only"),
    ],
)
def test_a_device_that_takes_a_write(facts: dict[str, Any], seen: str) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["blkwrite /dev/vda"] = lambda true: {**true, **facts}
    found = verdict("/dev/vda", guest, "block device")
    assert found.ok == (not seen) and seen in found.seen


def test_another_device_than_the_roots_proves_nothing() -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["lstat /dev/vda"] = {"errno": None, "type": "block", "rdev_major": 254, "rdev_minor": 16}
    found = verdict("/dev/vda", guest, "block device")
    assert not found.ok and "the root is on 254:0, this is 254:16" in found.seen
    guest.rules["blkwrite /dev/vda"] = {"timeout": True}
    assert "timeout" in verdict("/dev/vda", guest, "block device").seen


def test_the_document_is_the_table() -> None:
    """docs/attacks.md has each attack, on what, and its honest answers, as the code has them."""
    rows = [line.split("|")[1:-1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    told = {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in rows}
    assert list(told) == list(ATTACKS)
    for name, (tries, kinds, *answers) in told.items():
        row = ATTACKS[name]
        assert tries
        assert kinds == ", ".join(row.kinds), name
        assert [words(cell) for cell in answers] == [
            *(row.answers[s] - {NO_FILE, NO_DIR} for s in STRENGTHS),
            row.at_mount_point,
        ], name


def words(cell: str) -> frozenset[str]:
    """A cell of the document: answers with commas between, nothing, or a dash."""
    return frozenset(filter(None, (word.strip() for word in cell.replace("–", "").split(","))))
