# SPDX-License-Identifier: MIT
"""Machine-id, host key and random seed: of one machine alone, kept where they must be, new where they must be."""

from __future__ import annotations

from typing import Any

import pytest
from guest import KEPT_ID, SEED, SSHD, Answer, Guest, Rule, content, ran, rejected
from layouts import entries_of, layout_of, tree
from state_layouts import boot_of, boots, made

from rofs.generate.identity import HOST_KEY
from rofs.treefacts import Node
from rofs.verify import probe_wire as wire
from rofs.verify.checks import asked, boot_checks, make_plan
from rofs.verify.identity import Seen, compare_boots, has_sshd, identity_checks, keeps_seed, remember
from rofs.verify.scenario import Scenario

ID = "0123456789abcdef" * 2
KEPT = ("state", "bound")
KEY = f"ssh host key: {HOST_KEY}"
PUBLIC = f"read {HOST_KEY}.pub"
DERIVED = f"run 60 ssh-keygen -y -P  -f {HOST_KEY}"


def lying(name: str, state: str, op: str, rule: Rule) -> Guest:
    guest = Guest(*made(name), boot_of(name, state))
    guest.rules[op] = rule
    return guest


def facts(**changed: Any) -> Rule:
    return lambda true: {**true, **changed}


def names_of(name: str) -> set[str]:
    layout, entries = made(name)
    return {c.promise for c in identity_checks(layout, entries)}


def test_which() -> None:
    assert names_of("rich") == {"machine-id"}, "no sshd, no state"
    assert names_of("partitions") == {"machine-id", "ssh host key"}
    assert names_of("state") == {"machine-id", "ssh host key", "random seed"}


def test_what_the_image_has_decides() -> None:
    entries = made("state")[1]
    assert has_sshd(entries) and keeps_seed(entries)
    layout = layout_of("state: {on_failure: volatile}\n", tree())
    assert not has_sshd(entries_of(layout, tree())) and not keeps_seed(entries_of(layout, tree()))
    with_sshd = tree({"/usr/sbin/sshd": Node("file", 0o755, 0, 0, 9)})
    assert has_sshd(entries_of(layout, with_sshd)) and not keeps_seed(entries_of(layout, with_sshd))


# --- the machine-id ---------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["", "\n", "uninitialized\n", "0" * 31, "0" * 33, "G" * 32, "A" * 32, f"{ID}\n{ID}\n"])
@pytest.mark.parametrize("name", ["rich", "state", "bound", "transient"])
def test_a_malformed_machine_id(name: str, said: str) -> None:
    scenario = boots(name)[0]
    guest = Guest(*made(name), scenario)
    guest.rules["read /etc/machine-id"] = content(said)
    (found,) = rejected(guest)
    assert found == f"machine-id: {'state' if name in KEPT else 'transient'}"


@pytest.mark.parametrize(
    "answer", [content(f"{ID}\n"), content("uninitialized\n"), content("\n"), {"errno": "ENOENT"}, {"timeout": True}]
)
@pytest.mark.parametrize("name", ["rich", "state", "bound", "transient"])
def test_a_machine_id_in_the_image(name: str, answer: Answer) -> None:
    """Every device that runs it would be the same machine."""
    guest = Guest(*made(name), boots(name)[0])
    guest.rules["read /run/rofs/image/etc/machine-id"] = answer
    assert list(rejected(guest)) == [f"machine-id: {'state' if name in KEPT else 'transient'}"]


@pytest.mark.parametrize("op", ["read /etc/machine-id", f"read {KEPT_ID}"])
@pytest.mark.parametrize("state", ["new", "used", "reset", "kept"])
def test_another_machine_id_than_the_kept_one(state: str, op: str) -> None:
    found = rejected(lying("state", state, op, content(f"{ID}\n")))
    assert list(found) == ["machine-id: state"] and ID in found["machine-id: state"]


@pytest.mark.parametrize("answer", [content(""), {"errno": "ENOENT"}, content("x" * 32)])
def test_a_machine_id_that_is_not_kept(answer: Answer) -> None:
    assert list(rejected(lying("bound", "new", f"read {KEPT_ID}", answer))) == ["machine-id: state"]


def test_a_transient_one_is_not_looked_for_on_state() -> None:
    layout, entries = made("transient")
    ops = {str(op) for c in boot_checks(layout, entries, boot_of("transient", "new")) for op in c.ops}
    assert "read /etc/machine-id" in ops and f"read {KEPT_ID}" not in ops


# --- the host key -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "rule", "seen"),
    [
        (f"lstat {HOST_KEY}", facts(mode=0o644), "file 0644 0"),
        (f"lstat {HOST_KEY}", facts(mode=0o640), "file 0640 0"),
        (f"lstat {HOST_KEY}", facts(uid=1000), "file 0600 1000"),
        (f"lstat {HOST_KEY}", facts(type="link"), "link 0600 0"),
        (f"lstat {HOST_KEY}", {"errno": "ENOENT"}, "ENOENT 0000 None"),
        ("run 60 sshd -T", ran(SSHD + "hostkey /etc/ssh/ssh_host_rsa_key\n"), "sshd uses /run/rofs/identity/ssh_host"),
        ("run 60 sshd -T", ran(SSHD.replace("/run/rofs/identity", "/etc/ssh")), "sshd uses /etc/ssh/ssh_host_ed25519"),
        ("run 60 sshd -T", ran("", 255), "sshd uses none"),
        (DERIVED, ran("ssh-ed25519 AAAAother\n"), "not that of the private one"),
        (DERIVED, ran("", 255), "not that of the private one"),
        (PUBLIC, content("ssh-ed25519 AAAAother root@gateway\n"), "not that of the private one"),
        (PUBLIC, content(""), "not that of the private one"),
        (PUBLIC, content("ssh-ed25519\n"), "not that of the private one"),
        (PUBLIC, {"errno": "ENOENT"}, "not that of the private one"),
    ],
)
@pytest.mark.parametrize("name", ["state", "partitions"])
def test_a_host_key_that_is_no_secret_or_not_used(name: str, op: str, rule: Rule, seen: str) -> None:
    guest = Guest(*made(name), boots(name)[0])
    guest.rules[op] = rule
    found = rejected(guest)
    assert list(found) == [KEY] and seen in found[KEY]


def test_a_key_of_another_kind() -> None:
    guest = lying("state", "new", PUBLIC, content("ssh-rsa AAAA1 root@gateway\n"))
    guest.rules[DERIVED] = ran("ssh-rsa AAAA1\n")
    assert list(rejected(guest)) == [KEY]


# --- the random seed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "rule"),
    [
        (f"lstat {SEED}", facts(mode=0o644)),
        (f"lstat {SEED}", facts(type="link")),
        (f"lstat {SEED}", {"errno": "ENOENT"}),
        (f"read {SEED}", content(b"x" * 31)),
        (f"read {SEED}", content(b"")),
        (f"read {SEED}", {"errno": "ENOENT"}),
    ],
)
def test_a_seed_that_is_none(op: str, rule: Rule) -> None:
    assert list(rejected(lying("state", "used", op, rule))) == [f"random seed: {SEED}"]


# --- over boots -------------------------------------------------------------------------------------


def seen_by(guest: Guest) -> Seen:
    """What a whole boot remembers."""
    checks = boot_checks(guest.layout, tuple(guest.entries.values()), guest.scenario)
    plan = make_plan(checks, wire.poweroff("clean"))
    return remember(asked(plan, {n: guest(op) for n, op in enumerate(plan.ops[:-1], 1)}))


def test_what_is_remembered() -> None:
    guest = Guest(*made("state"), boot_of("state", "new"))
    found = seen_by(guest)
    assert set(found) == {"machine-id", "ssh host key", "random seed"}
    assert found["ssh host key"].split()[:2] == guest.public_key.encode().split()
    guest.rules[PUBLIC] = {"errno": "ENOENT"}
    guest.rules["read /etc/machine-id"] = content("")
    assert set(seen_by(guest)) == {"random seed"}
    assert set(seen_by(Guest(*made("rich")))) == {"machine-id"}


def compared(name: str, scenario: Scenario, before: Seen, now: Seen) -> dict[str, bool]:
    return {o.subject: o.verdict.ok for o in compare_boots(made(name)[0], scenario, before, now)}


ONE = {"machine-id": b"1", "ssh host key": b"1", "random seed": b"1"}
OTHER = {"machine-id": b"2", "ssh host key": b"2", "random seed": b"2"}
SAME_BUT_SEED = {**ONE, "random seed": b"2"}


@pytest.mark.parametrize(
    ("name", "state", "number", "honest"),
    [
        ("state", "used", 2, SAME_BUT_SEED),
        ("state", "kept", 2, SAME_BUT_SEED),
        ("bound", "used", 2, SAME_BUT_SEED),
        ("transient", "used", 2, {**SAME_BUT_SEED, "machine-id": b"2"}),
        ("state", "reset", 3, OTHER),
        ("transient", "reset", 3, OTHER),
        ("partitions", "used", 2, OTHER),
        ("rich", "none", 2, OTHER),
    ],
)
def test_the_same_or_another(name: str, state: str, number: int, honest: Seen) -> None:
    """Each turned round is a broken promise, and of that name alone."""
    scenario = boot_of(name, state, number)
    assert compared(name, scenario, ONE, honest) == dict.fromkeys(ONE, True)
    for subject, value in honest.items():
        turned = {**honest, subject: b"2" if value == b"1" else b"1"}
        assert compared(name, scenario, ONE, turned) == {**dict.fromkeys(ONE, True), subject: False}
        missing = {k: v for k, v in honest.items() if k != subject}
        assert compared(name, scenario, ONE, missing) == {**dict.fromkeys(ONE, True), subject: False}


def test_a_first_boot_is_compared_with_nothing() -> None:
    assert compared("state", boot_of("state", "new"), {}, ONE) == {}


def test_where_the_promise_stands_and_what_is_said() -> None:
    outcomes = {o.subject: o for o in compare_boots(made("state")[0], boot_of("state", "used"), ONE, OTHER)}
    assert {o.at for o in outcomes.values()} == {("machine_id",), ("state",)}
    verdict = outcomes["machine-id"].verdict
    assert (verdict.expected, verdict.seen) == ("the machine-id of boot 1", "another one")
    assert outcomes["ssh host key"].boot == 2 and outcomes["random seed"].verdict.ok
    lost = {o.subject: o for o in compare_boots(made("rich")[0], boot_of("rich", "none", 2), ONE, {})}
    assert lost["machine-id"].verdict.seen == "none at all" and lost["ssh host key"].at == ()


def test_the_honest_guest_over_its_boots() -> None:
    """new, used, reset: what one boot leaves the next one finds, and a reset takes it."""
    layout, entries = made("state")
    first = Guest(layout, entries, boot_of("state", "new"))
    second = Guest(layout, entries, boot_of("state", "used"), first.disk())
    third = Guest(layout, entries, boot_of("state", "reset"), {})
    one, two, three = seen_by(first), seen_by(second), seen_by(third)
    assert set(compared("state", second.scenario, one, two).values()) == {True}
    assert set(compared("state", third.scenario, two, three).values()) == {True}
    assert not any(compared("state", third.scenario, two, {**two, "random seed": two["random seed"]}).values())
