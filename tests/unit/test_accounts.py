# SPDX-License-Identifier: MIT
"""Users of a profile -> the account files and homes; nothing of the packages' is lost, no password is set."""

from __future__ import annotations

import pytest
from layouts import EPOCH, GROUP, GSHADOW, NO_INPUTS, PASSWD, SHADOW, P, profile_of, tree

from rofs.entry import Entry
from rofs.generate.accounts import account_entries, dotfile_mode, home_of
from rofs.inputs import DotFile, Inputs
from rofs.treefacts import Node, TreeFacts, make_facts

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


# --- trees that no Debian made ----------------------------------------------------------------------

SH = {"/bin/sh": Node("file", 0o755, 0, 0)}
BUILDROOT = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n",
    "/etc/group": b"root:x:0:\nwheel:x:10:root\nwww-data:x:33:\nusers:x:100:",
    "/etc/shadow": b"root:*:::::::\nwww-data:*:::::::\n",
}
"""As its skeleton has them: no gshadow, no day in shadow, and one file whose last line has no end."""
OP = "users: [{name: op, uid: 1000, groups: [wheel], shell: /bin/sh}]\n"


def accounts(text: str, facts: TreeFacts) -> dict[str, list[str]]:
    entries = account_entries(profile_of(text), NO_INPUTS, facts, EPOCH)
    return {e.path.name: lines(e) for e in entries if e.path.parent == P("/etc")}


def test_a_tree_without_accounts_gets_root_alone() -> None:
    """Nobody logs in without a password, and no program finds that uid 0 has no name."""
    entries = {e.path.name: e for e in account_entries(profile_of(""), NO_INPUTS, make_facts(SH), EPOCH)}
    assert {name: e.content for name, e in entries.items()} == {
        "passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "group": b"root:x:0:\n",
        "shadow": b"root:*:::::::\n",
        "gshadow": b"root:*::\n",
    }
    assert {name: (e.mode, e.uid, e.gid) for name, e in entries.items()} == {
        "passwd": (0o644, 0, 0), "group": (0o644, 0, 0), "shadow": (0o640, 0, 0), "gshadow": (0o640, 0, 0),
    }  # fmt: skip


def test_a_user_beside_that_root() -> None:
    found = accounts("users: [{name: op, uid: 1000, groups: [root], shell: /bin/sh}]\n", make_facts(SH))
    assert found == {
        "passwd": ["root:x:0:0:root:/root:/bin/sh", "op:x:1000:1000::/home/op:/bin/sh"],
        "group": ["root:x:0:op", "op:x:1000:"],
        "shadow": ["root:*:::::::", "op:*:19723:0:99999:7:::"],
        "gshadow": ["root:*::op", "op:!::"],
    }


def test_a_user_in_the_tree_of_another_maker() -> None:
    """Their own lines stay as they are, and no gshadow is made where there is none."""
    found = accounts(OP, make_facts(SH, BUILDROOT))
    assert found == {
        "passwd": [*BUILDROOT["/etc/passwd"].decode().splitlines(), "op:x:1000:1000::/home/op:/bin/sh"],
        "group": ["root:x:0:", "wheel:x:10:root,op", "www-data:x:33:", "users:x:100:", "op:x:1000:"],
        "shadow": ["root:*:::::::", "www-data:*:::::::", "op:*:19723:0:99999:7:::"],
    }
    assert accounts("", make_facts(SH, BUILDROOT)) == {}, "nobody is added, so nothing is written"


def test_a_tree_that_keeps_its_passwords_in_passwd() -> None:
    """The new user has no password all the same: `x` points to shadow, and there is one now."""
    tree_of_one = make_facts(SH, {"/etc/passwd": b"root:$1$salt$hash:0:0:root:/root:/bin/sh\n"})
    assert accounts(OP, tree_of_one) == {
        "passwd": ["root:$1$salt$hash:0:0:root:/root:/bin/sh", "op:x:1000:1000::/home/op:/bin/sh"],
        "group": ["op:x:1000:"],
        "shadow": ["op:*:19723:0:99999:7:::"],
    }


def test_bytes_of_another_encoding_are_kept() -> None:
    latin = {**BUILDROOT, "/etc/passwd": b"root:x:0:0:\xe4\xf6:/root:/bin/sh\n"}
    entries = account_entries(profile_of(OP), NO_INPUTS, make_facts(SH, latin), EPOCH)
    (passwd,) = [e for e in entries if e.path == P("/etc/passwd")]
    assert passwd.content.splitlines()[0] == latin["/etc/passwd"].rstrip(b"\n")
