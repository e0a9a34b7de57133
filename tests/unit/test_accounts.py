# SPDX-License-Identifier: MIT
"""Users of a profile -> the account files and homes; nothing of the packages' is lost, no password is set."""

from __future__ import annotations

import pytest
from layouts import EPOCH, GROUP, GSHADOW, PASSWD, SHADOW, P, profile_of, tree

from rofs.entry import Entry
from rofs.generate.accounts import account_entries, dotfile_mode, home_of
from rofs.inputs import DotFile, Inputs

KEYS = ("ssh-ed25519 AAAA a", "ssh-ed25519 BBBB b")


def made(text: str, keys: tuple[str, ...] = (), dotfiles: tuple[DotFile, ...] = ()) -> dict[str, Entry]:
    inputs = Inputs(files={}, authorized_keys={0: keys} if keys else {}, dotfiles={0: dotfiles}, apt_sources=None)
    return {str(e.path): e for e in account_entries(profile_of(text), inputs, tree(), EPOCH)}


def lines(entry: Entry) -> list[str]:
    return entry.content.decode().splitlines()


BOB = "users: [{name: bob, uid: 1000, groups: [dialout, users], comment: Bob}]\n"


def test_a_user() -> None:
    found = made(BOB)
    assert lines(found["/etc/passwd"]) == [*PASSWD.decode().splitlines(), "bob:x:1000:1000:Bob:/home/bob:/bin/bash"]
    assert lines(found["/etc/shadow"]) == [*SHADOW.decode().splitlines(), "bob:*:19723:0:99999:7:::"]
    group = GROUP.decode().replace("dialout:x:20:", "dialout:x:20:bob").replace("users:x:100:", "users:x:100:bob")
    assert lines(found["/etc/group"]) == [*group.splitlines(), "bob:x:1000:"]
    gshadow = GSHADOW.decode().replace("dialout:*::", "dialout:*::bob").replace("users:*::", "users:*::bob")
    assert lines(found["/etc/gshadow"]) == [*gshadow.splitlines(), "bob:!::"]
    modes = {p: (e.mode, e.uid, e.gid) for p, e in found.items()}
    assert modes["/etc/passwd"] == modes["/etc/group"] == (0o644, 0, 0)
    assert modes["/etc/shadow"] == modes["/etc/gshadow"] == (0o640, 0, 42)
    assert (found["/home/bob"].kind, modes["/home/bob"]) == ("dir", (0o755, 1000, 1000))


def test_no_user_no_files() -> None:
    assert made("") == {}


def test_a_primary_group_that_is_there() -> None:
    found = made("users: [{name: bob, uid: 1000, gid: 100}]\n")
    assert lines(found["/etc/passwd"])[-1].startswith("bob:x:1000:100:")
    assert lines(found["/etc/group"]) == GROUP.decode().splitlines()
    assert found["/home/bob"].gid == 100


@pytest.mark.parametrize("order", [("eve", "bob"), ("bob", "eve")])
def test_one_user_in_the_group_of_another_whatever_the_order(order: tuple[str, str]) -> None:
    users = {"bob": "{name: bob, uid: 1000, groups: [eve]}", "eve": "{name: eve, uid: 1001}"}
    found = made(f"users: [{users[order[0]]}, {users[order[1]]}]\n")
    assert "eve:x:1001:bob" in lines(found["/etc/group"]) and "eve:!::bob" in lines(found["/etc/gshadow"])


def test_members_are_added_once_and_only_to_the_group_named() -> None:
    facts = tree(texts={"/etc/group": b"dial:x:1:\ndialout:x:20:ann,bob\n", "/etc/gshadow": b""})
    inputs = Inputs(files={}, authorized_keys={}, dotfiles={}, apt_sources=None)
    entries = account_entries(profile_of(BOB.replace(", users", "")), inputs, facts, EPOCH)
    (group,) = [e for e in entries if e.path == P("/etc/group")]
    assert lines(group) == ["dial:x:1:", "dialout:x:20:ann,bob", "bob:x:1000:"]


def test_keys() -> None:
    found = made(BOB, KEYS)
    assert found["/home/bob/.ssh"].mode == 0o700
    keys = found["/home/bob/.ssh/authorized_keys"]
    assert (keys.mode, keys.uid, lines(keys)) == (0o600, 1000, list(KEYS))


@pytest.mark.parametrize(
    ("file", "mode"),
    [
        (DotFile(path=P(".bashrc"), kind="file"), 0o644),
        (DotFile(path=P("bin/x"), kind="file", executable=True), 0o755),
        (DotFile(path=P(".config"), kind="dir"), 0o755),
        (DotFile(path=P(".ssh"), kind="dir"), 0o700),
        (DotFile(path=P(".ssh/config"), kind="file", executable=True), 0o600),
        (DotFile(path=P(".sshx"), kind="file"), 0o644),
        (DotFile(path=P("l"), kind="symlink", target="x"), 0o777),
    ],
)
def test_modes_of_dotfiles(file: DotFile, mode: int) -> None:
    assert dotfile_mode(file) == mode


def test_dotfiles_of_a_user_of_the_profile_and_of_the_tree() -> None:
    files = (DotFile(path=P(".profile"), kind="file", content=b"x"), DotFile(path=P("l"), kind="symlink", target="y"))
    bob = made(BOB + "home: [{user: bob, dotfiles: d}]\n", dotfiles=files)
    assert (bob["/home/bob/.profile"].uid, bob["/home/bob/.profile"].content) == (1000, b"x")
    assert bob["/home/bob/l"].target == "y"
    www = made("home: [{user: www-data, dotfiles: d}]\n", dotfiles=files)
    assert set(www) == {"/var/www/.profile", "/var/www/l"} and www["/var/www/l"].gid == 33


def test_homes() -> None:
    profile = profile_of("users: [{name: bob, uid: 1000, home: /srv/bob}]\n")
    assert home_of(profile, tree(), "bob") == P("/srv/bob")
    assert home_of(profile, tree(), "root") == P("/root")
    assert home_of(profile, None, "root") is None
