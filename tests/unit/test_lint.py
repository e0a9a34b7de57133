# SPDX-License-Identifier: MIT
"""Every rule by one bad profile, at its place, and good ones that look like it."""

from __future__ import annotations

import pytest
from layouts import HEAD, RICH, profile_of, tree

from rofs.errors import Problem
from rofs.lint import lint
from rofs.treefacts import Node, TreeFacts, make_facts

FIRST = HEAD.count("\n") + 1
"""The line that a row's text begins on."""

V = "  - {path: /var, type: overlay, upper: tmpfs, size: 4M}\n"
T = "  - {path: /srv, type: tmpfs, size: 4M}\n"
USER = "users: [{name: bob, uid: 1000}]\n"
LONG = "/" + "ä" * 30

BAD: list[tuple[str, str, int, int, str, str]] = [
    # rule, text, line and column from the text's first, a part of the message, a part of the hint
    ("mount-twice", f"mounts:\n{T}{T}", 3, 12, "/srv is already declared on line 5", ""),
    ("file-twice", "files: [{path: /a, content: x}, {path: /a, content: y}]\n", 1, 40, "on line 4", ""),
    ("under-immutable", "immutable: [/srv/x]\nmounts: [{path: /srv/x, type: tmpfs}]\n", 2, 17, "line 4", "take one"),
    ("under-immutable", "immutable: [/srv]\nmounts: [{path: /srv/x/y, type: tmpfs}]\n", 2, 17, "/srv/x/y", ""),
    ("system-path", "mounts: [{path: /run/x, type: tmpfs}]\n", 1, 17, "/run belongs", ""),
    ("system-path", "mounts: [{path: /dev/shm, type: tmpfs}]\n", 1, 17, "/dev belongs", ""),
    ("system-path", "immutable: [/proc]\n", 1, 13, "/proc belongs", ""),
    ("bind-cycle", "mounts: [{path: /a, type: bind, source: /a/b}]\n", 1, 41, "/a is bound from /a/b", ""),
    ("rw-of-immutable", "mounts: [{path: /a, type: bind, source: /usr, access: rw}]\n", 1, 41, "read-only", "access"),
    (
        "rw-of-immutable",
        f"immutable: [/var/lib]\nmounts:\n{V}  - {{path: /a, type: bind, source: /var/lib/dpkg, access: rw}}\n",
        4, 36, "/var/lib/dpkg is read-only", "",
    ),
    *(
        ("overlay-path", f"mounts: [{{path: '/a{c}b', type: overlay, upper: tmpfs}}]\n", 1, 17, c, "parent")
        for c in ',:"\\'
    ),
    ("unit-name", f"mounts: [{{path: {LONG}, type: bind, source: tmpfs}}]\n", 1, 17, "characters", "255"),
    ("not-the-image", "immutable: [/a/x]\nmounts: [{path: /a, type: bind, source: /usr}]\n", 1, 13, "/a/x", "/usr/x"),
    ("hidden", f"files: [{{path: /srv/x, content: x}}]\nmounts:\n{T}", 1, 16, "tmpfs at /srv (line 6)", "overlay"),
    ("hidden", "users: [{name: bob, uid: 1000}]\nmounts: [{path: /home, type: tmpfs}]\n", 1, 9, "/home/bob", "seed"),
    (
        "hidden",
        "files: [{path: /srv/x, content: x}]\nmounts: [{path: /srv, type: bind, source: tmpfs, seed: empty}]\n",
        1, 16, "hidden by the bind", "",
    ),
    ("hidden", "files: [{path: /run/x, content: x}]\n", 1, 16, "mounted on /run", ""),
    ("file-and-mount", "files: [{path: /srv, link: /x}]\nmounts: [{path: /srv/a, type: tmpfs}]\n", 1, 16, "/srv/a", ""),
    ("file-and-mount", "files: [{path: /srv, content: x}]\nmounts: [{path: /srv, type: tmpfs}]\n", 1, 16, "file", ""),
    ("generated-path", "files: [{path: /etc/fstab, content: x}]\n", 1, 16, "/etc/fstab is generated", "declare"),
    ("generated-path", "files: [{path: /etc/passwd, content: x}]\n", 1, 16, "generated", ""),
    ("generated-path", "files: [{path: /etc/systemd/system/srv.mount, content: x}]\n", 1, 16, "generated", ""),
    ("cmdline", 'kernel: {cmdline: "quiet init=/bin/sh"}\n', 1, 19, "init=/bin/sh", "take it away"),
    ("memory", "mounts: [{path: /srv, type: tmpfs, size: 1G}]\n", 1, 9, "1024M, verify.memory is 512M", "lower"),
]  # fmt: skip
BAD_IN_TREE: list[tuple[str, str, int, int, str, str]] = [
    ("unknown-user", "files: [{path: /a, content: x, owner: demon}]\n", 1, 39, "'demon'", "did you mean 'daemon'?"),
    ("unknown-user", "home: [{user: zz, dotfiles: d}]\n", 1, 15, "'zz'", "add the package"),
    ("unknown-group", "mounts: [{path: /a, type: tmpfs, group: dialuot}]\n", 1, 41, "'dialuot'", "'dialout'?"),
    ("unknown-group", "users: [{name: bob, uid: 1000, groups: [root, vidoe]}]\n", 1, 47, "'vidoe'", ""),
    ("unknown-unit", "units: {enable: [shs.service]}\n", 1, 18, "'shs.service'", "did you mean 'ssh.service'?"),
    ("unknown-unit", "units: {enable: [a.mount]}\n", 1, 18, "'a.mount'", ""),
    ("unknown-unit", "units: {mask: [getty@tty1.service]}\n", 1, 16, "'getty@tty1.service'", ""),
    ("unknown-unit", "verify: {units: [nginx.service]}\n", 1, 18, "nginx", ""),
    ("user-exists", "users: [{name: daemon, uid: 1000}]\n", 1, 16, "'daemon' already", ""),
    ("user-exists", "users: [{name: bob, uid: 33, gid: 33}]\n", 1, 26, "uid 33 is 'www-data'", ""),
    ("group-exists", "users: [{name: operator, uid: 1000}]\n", 1, 16, "'operator' of the number 37", "say gid: 37"),
    ("group-exists", "users: [{name: operator, uid: 1000, gid: 1000}]\n", 1, 16, "'operator'", "another name"),
    ("group-exists", "users: [{name: bob, uid: 20}]\n", 1, 26, "that of the group 'dialout'", "say gid: 20"),
    ("no-such-shell", "users: [{name: bob, uid: 1000, shell: /bin/zsh}]\n", 1, 39, "/bin/zsh", ""),
    ("symlink", "mounts: [{path: /bin/x, type: tmpfs}]\n", 1, 17, "/bin is a symbolic link", "say /usr/bin/x"),
    ("symlink", "immutable: [/bin]\n", 1, 13, "/bin is", "say /usr/bin"),
    ("not-a-directory", "mounts: [{path: /usr/bin/bash, type: tmpfs}]\n", 1, 17, "is a file", "directory"),
    ("no-such-path", "immutable: [/var/lib/dpgk]\n", 1, 13, "not in the tree", "did you mean '/var/lib/dpkg'?"),
    ("no-such-source", "mounts: [{path: /a, type: bind, source: /usr/none}]\n", 1, 41, "/usr/none", ""),
    (
        "no-such-source",
        f"mounts:\n{T}  - {{path: /a, type: bind, source: /srv/a}}\n", 3, 36, "/srv/a is not in the tree", "",
    ),
    ("hidden", "home: [{user: root, dotfiles: d}]\nmounts: [{path: /root, type: tmpfs}]\n", 1, 15, "/root", "seed"),
]  # fmt: skip


def check(found: list[Problem], row: tuple[str, str, int, int, str, str]) -> None:
    rule, _, line, column, message, hint = row
    (problem,) = found
    assert (problem.rule, problem.mark.line, problem.mark.column) == (rule, FIRST + line - 1, column)
    assert message in problem.message and hint in problem.hint


@pytest.mark.parametrize("row", BAD, ids=[f"{r[0]}-{i}" for i, r in enumerate(BAD)])
def test_a_bad_profile_is_one_problem(row: tuple[str, str, int, int, str, str]) -> None:
    check(lint(profile_of(row[1]), None), row)


@pytest.mark.parametrize("row", BAD_IN_TREE, ids=[f"{r[0]}-{i}" for i, r in enumerate(BAD_IN_TREE)])
def test_a_profile_that_does_not_fit_its_tree_is_one_problem(row: tuple[str, str, int, int, str, str]) -> None:
    profile = profile_of(row[1])
    assert lint(profile, None) == [], "silent while the tree is unknown"
    check(lint(profile, tree()), row)


GOOD = [
    RICH,
    "immutable: [/etc/ssh]\nmounts: [{path: /etc, type: overlay, upper: tmpfs}]\n",
    "files: [{path: /srv/x, content: x}]\nmounts: [{path: /srv, type: bind, source: tmpfs, seed: image}]\n",
    "files: [{path: /srv/a/x, content: x}]\nimmutable: [/srv/a]\nmounts: [{path: /srv, type: tmpfs}]\n",
    "immutable: [/etc/fstab, /etc/hostname]\n",
    "immutable: [/opt/made]\nfiles: [{path: /opt/made/x, content: x}]\n",
    "mounts: [{path: /a, type: bind, source: /run/app, access: rw}]\n",
    f"mounts:\n{V}  - {{path: /var/x, type: bind, source: /var/lib, access: rw}}\n",
    f"mounts:\n{V}  - {{path: /a, type: bind, source: /var/www}}\n  - {{path: /var/www/x, type: tmpfs, size: 4M}}\n",
    "users: [{name: bob, uid: 1000, shell: /opt/menu}]\nfiles: [{path: /opt/menu, content: x}]\n",
    "units: {enable: [app.service]}\nfiles: [{path: /etc/systemd/system/app.service, content: x}]\n",
    "verify: {units: [srv.mount, system.slice]}\n",
    "users: [{name: bob, uid: 1000, groups: [eve]}, {name: eve, uid: 1001}]\n",
    "mounts: [{path: '/srv/a,b', type: tmpfs}]\n",
    "users: [{name: bob, uid: 1000, gid: 100}]\n",
    "users: [{name: operator, uid: 1000, gid: 37}]\n",
    "users: [{name: operator, uid: 37}]\n",
    "immutable: [/usr, /usr/bin]\n",
]


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_a_good_profile_is_none(text: str) -> None:
    assert [str(p) for p in lint(profile_of(text), tree())] == []


def test_a_cycle_over_two_binds_is_said_at_both() -> None:
    text = "mounts:\n  - {path: /a, type: bind, source: /b/x}\n  - {path: /b, type: bind, source: /a/y}\n"
    found = lint(profile_of(text), None)
    assert [(p.rule, p.mark.line) for p in found] == [("bind-cycle", FIRST + 1), ("bind-cycle", FIRST + 2)]


def test_only_memory_is_a_warning() -> None:
    for row in (*BAD, *BAD_IN_TREE):
        (problem,) = lint(profile_of(row[1]), tree() if row in BAD_IN_TREE else None)
        assert problem.severity == ("warning" if row[0] == "memory" else "error"), row


def test_a_template_serves_its_instances() -> None:
    facts = tree(texts={"/usr/lib/systemd/system/getty@.service": b""})
    assert lint(profile_of("units: {enable: [getty@ttyS0.service]}\n"), facts) == []


def test_a_tree_without_systemd() -> None:
    (problem,) = lint(profile_of(""), make_facts({"/sbin/init": Node("file", 0o755, 0, 0)}))
    assert (problem.rule, problem.mark.line, problem.mark.column) == ("no-systemd", 3, 29)


def test_everything_at_once_sorted_by_place() -> None:
    text = (
        "immutable: [/usr, /none]\n"
        "mounts:\n"
        "  - {path: /usr/x, type: tmpfs, size: 4M}\n"
        "  - {path: /srv, type: tmpfs, owner: nobody, size: 4M}\n"
        "  - {path: /srv, type: tmpfs, size: 1G}\n"
        "users: [{name: daemon, uid: 1000, shell: /bin/zsh}]\n"
        "files: [{path: /srv/x, content: x}]\n"
    )
    found = lint(profile_of(text), tree())
    assert [(p.mark.line - FIRST + 1, p.rule) for p in found] == [
        (1, "no-such-path"), (3, "memory"), (3, "under-immutable"), (4, "unknown-user"), (5, "mount-twice"),
        (6, "user-exists"), (6, "no-such-shell"), (7, "hidden"),
    ]  # fmt: skip


def test_without_a_tree_the_rules_of_the_tree_are_silent() -> None:
    facts: TreeFacts | None = None
    assert lint(profile_of("units: {enable: [none.service]}\n" + "immutable: [/none]\n"), facts) == []
