# SPDX-License-Identifier: MIT
"""Attacks that had an effect, met the wrong errno or were never made, and the three strengths of read-only."""

from __future__ import annotations

from typing import Any

import pytest
from guest import Answer, Guest, content
from layouts import RICH, P, entries_of, layout_of

from rofs.verify.check import Verdict
from rofs.verify.immutable import attack_targets, find_strength, immutable_checks

LAYOUT = layout_of(RICH)
ENTRIES = entries_of(LAYOUT)


def verdict(path: str, guest: Guest, promise: str = "immutable") -> Verdict:
    (check,) = [c for c in immutable_checks(LAYOUT) if c.name == f"{promise}: {path}"]
    return guest.ask(check)


def attacked(path: str, name: str, **facts: Any) -> Guest:
    """A guest in which one attack ends otherwise."""
    guest = Guest(LAYOUT, ENTRIES)

    def lie(true: Answer) -> Answer:
        return {**true, "attacks": [a | facts if a["name"] == name else a for a in true["attacks"]]}

    guest.rules[f"attack {path}"] = lie
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


@pytest.mark.parametrize("path", ["/usr", "/etc/ssh", "/srv/doc", "/srv/shown"])
@pytest.mark.parametrize(
    ("name", "facts", "seen"),
    [
        ("chmod", {"errno": None, "effect": True, "detail": "0755 then 0777"}, "chmod had an effect (0755 then 0777)"),
        ("unlink", {"effect": True}, "unlink had an effect (EROFS)"),
        ("rename-parents", {"errno": None, "effect": True}, "rename-parents had an effect (no error)"),
        ("create", {"errno": "ENOSPC"}, "create failed with ENOSPC, not EROFS"),
        ("create", {"errno": "EACCES"}, "create failed with EACCES, not EROFS"),
        ("mkdir", {"errno": None}, "mkdir was allowed"),
        ("unlink", {"errno": None}, "unlink was allowed"),
        ("remount-super", {"errno": None}, ""),
    ],
)
def test_an_attack_that_was_not_repelled(path: str, name: str, facts: dict[str, Any], seen: str) -> None:
    found = verdict(path, attacked(path, name, **facts))
    assert found.ok == (not seen)
    assert seen in found.seen


@pytest.mark.parametrize("path", ["/", "/usr", "/etc/ssh", "/srv/doc"])
def test_a_remount_has_no_effect_but_on_a_bind_of_something_writable(path: str) -> None:
    found = verdict(path, attacked(path, "remount", effect=True, detail="/ then 0"))
    assert not found.ok and "remount had an effect (/ then 0)" in found.seen
    allowed = verdict("/srv/shown", Guest(LAYOUT, ENTRIES))
    assert allowed.ok and "mount-ro" in allowed.seen and "remount takes effect" in allowed.seen


@pytest.mark.parametrize(
    "attacks",
    [
        [],
        [{"name": "create", "errno": None, "effect": False, "skipped": "no victim"}],
        [{"name": "remount", "errno": None, "effect": False}],
        [{"name": "create", "errno": "ENOENT", "effect": False}],
    ],
)
def test_no_attack_proves_nothing(attacks: list[dict[str, Any]]) -> None:
    guest = Guest(LAYOUT, ENTRIES)
    guest.rules["attack /usr"] = {"errno": None, "attacks": attacks}
    assert not verdict("/usr", guest).ok


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
