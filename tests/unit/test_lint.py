# SPDX-License-Identifier: MIT
"""Every rule by one bad profile, at its place, and good ones that look like it."""

from __future__ import annotations

import pytest
from layouts import HEAD, RICH, profile_of, tree

from rofs.errors import KeyPath, Problem
from rofs.lint import lint
from rofs.treefacts import Node, TreeFacts, make_facts

FIRST = HEAD.count("\n") + 1
"""The line that a row's text begins on."""

V = "  - {path: /var, type: overlay, upper: tmpfs, size: 4M}\n"
T = "  - {path: /srv, type: tmpfs, size: 4M}\n"
USER = "users: [{name: bob, uid: 1000}]\n"
LONG = "/" + "ä" * 30
COLONS = "/" + "a:" * 60
"""Plain in a unit's name, thrice as long in the name of what is kept for it."""
STATE = "state: {device: LABEL=state, size: 16M, on_failure: volatile}\n"
REFUSED = "state: {device: LABEL=state, on_failure: refuse}\n"
PANIC = 'kernel: {cmdline: "quiet panic=10"}\n'
ETC = "mounts: [{path: /etc, type: overlay, upper: state}]\n"
B = "  - {path: /srv, type: bind, source: state}\n"
D = "{path: /srv, type: partition, device: LABEL=data, size: 16M, on_failure: volatile}"

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
    *(
        ("unit-name", f"{STATE}mounts: [{{path: '{COLONS}', {kind}}}]\n", 2, 17, "characters", "255")
        for kind in ("type: bind, source: state", D.partition(", ")[2].rstrip("}"))
    ),
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
    # With the 64M of a tmpfs the memory of what stands in for the stores is one page too many.
    (
        "memory",
        STATE.replace("}", ", volatile_size: 384M}")
        + f"mounts: [{{path: /tmp, type: tmpfs}}, {D.replace('}', ', volatile_size: 65540K}')}]\n",
        2, 9, "512M, verify.memory is 512M", "lower",
    ),
    ("no-state", "mounts: [{path: /opt, type: overlay, upper: state}]\n", 1, 45, "no state partition", "add `state:"),
    ("no-state", "mounts: [{path: /opt, type: bind, source: state}]\n", 1, 43, "no state partition", "on_failure"),
    ("no-state", "machine_id: state\n", 1, 13, "no state partition", "add `state:"),
    ("device-twice", f"{STATE}mounts: [{D.replace('data', 'state')}]\n", 2, 48, f"already used on line {FIRST}", ""),
    (
        "device-twice",
        f"mounts:\n  - {D}\n  - {{path: /opt, type: partition, device: LABEL=data, size: 16M, on_failure: volatile}}\n",
        3, 43, f"LABEL=data is already used on line {FIRST + 1}", "",
    ),
    ("no-panic", REFUSED, 1, 42, "nothing reboots", "panic=10"),
    ("no-panic", f'kernel: {{cmdline: "quiet panic=0"}}\n{REFUSED}', 2, 42, "nothing reboots", ""),
    ("no-panic", f'kernel: {{cmdline: "panic_on_oops=1"}}\n{REFUSED}', 2, 42, "nothing reboots", ""),
    ("no-panic", f"mounts: [{D.replace('volatile', 'refuse')}]\n", 1, 83, "kernel panic", ""),
    ("hides-units", f"{STATE}immutable: [/etc/fstab]\n{ETC}", 3, 17, "/etc/systemd/system", "/etc/systemd/system imm"),
    ("hides-units", f"{STATE}immutable: [/etc/systemd]\n{ETC}", 3, 17, "written to /etc/fstab", "/etc/fstab immutable"),
    (
        "hides-units",
        f"{STATE}mounts: [{{path: /etc/systemd/system, type: bind, source: state}}]\n",
        2, 17, "/etc/systemd/system", "unless",
    ),
    ("hides-units", f"mounts: [{D.replace('/srv', '/etc/systemd')}]\n", 1, 17, "/etc/systemd/system", ""),
    (
        "machine-id",
        f"{STATE}mounts: [{{path: /etc/machine-id, type: bind, source: /run/id}}]\n",
        2, 10, "machine_id: state provides /etc/machine-id", "",
    ),
    ("machine-id", f"{STATE}mounts: [{{path: /etc/machine-id/x, type: tmpfs}}]\n", 2, 10, "state provides", ""),
    ("machine-id", f"{STATE}immutable: [/etc/machine-id]\n", 2, 13, "machine_id: state provides", "take it away"),
    (
        "hidden",
        f"files: [{{path: /srv/x, content: x}}]\nmounts: [{D.replace('}', ', seed: empty}')}]\n",
        1, 16, "hidden by the partition at /srv (line 5)", "seed: image",
    ),
    (
        "hidden",
        f"{STATE}{USER}mounts: [{{path: /home, type: bind, source: state, seed: empty}}]\n",
        2, 9, "/home/bob would be hidden by the bind", "",
    ),
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
    f"mounts: [{{path: '{COLONS}', type: bind, source: /usr}}]\n",
    "users: [{name: bob, uid: 1000, gid: 100}]\n",
    "users: [{name: operator, uid: 1000, gid: 37}]\n",
    "users: [{name: operator, uid: 37}]\n",
    "immutable: [/usr, /usr/bin]\n",
    f"{STATE}immutable: [/etc/fstab, /etc/systemd/system]\n{ETC}",
    f"{STATE}immutable: [/etc/fstab, /etc/systemd]\n{ETC}",
    f"{STATE}machine_id: transient\nimmutable: [/etc/machine-id]\n",
    "immutable: [/etc/machine-id]\n",
    f"{STATE}machine_id: transient\nmounts: [{{path: /etc/machine-id, type: bind, source: /run/id}}]\n",
    "mounts: [{path: /etc, type: overlay, upper: tmpfs, size: 4M}]\n",
    f"{STATE}mounts: [{D}, {{path: /opt, type: bind, source: state}}, {{path: /a, type: bind, source: /run/state}}]\n",
    f"{REFUSED}{PANIC}mounts: [{D.replace('volatile', 'refuse')}]\n",
    f'{REFUSED}kernel: {{cmdline: "panic=-1"}}\n',
    # What refuses has no memory to stand in for it.
    f"{REFUSED.replace('}', ', volatile_size: 1G}')}{PANIC}",
    "state: {on_failure: volatile, size: 64G, volatile_size: 448M}\nmounts: [{path: /tmp, type: tmpfs}]\n",
    f"files: [{{path: /srv/x, content: x}}]\nmounts: [{D}]\n",
    f"{STATE}{USER}mounts: [{{path: /home, type: bind, source: state}}]\n",
    f"{STATE}files: [{{path: /opt/x, content: x}}]\nmounts: [{{path: /opt, type: overlay, upper: state}}]\n",
    # What the state partition holds can be shown elsewhere, and hold immutable places.
    f"{STATE}immutable: [/srv/a/b]\nmounts:\n{B}  - {{path: /opt, type: bind, source: /srv, access: rw}}\n",
]


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_a_good_profile_is_none(text: str) -> None:
    assert [str(p) for p in lint(profile_of(text), tree())] == []


def test_a_cycle_over_two_binds_is_said_at_both() -> None:
    text = "mounts:\n  - {path: /a, type: bind, source: /b/x}\n  - {path: /b, type: bind, source: /a/y}\n"
    found = lint(profile_of(text), None)
    assert [(p.rule, p.mark.line) for p in found] == [("bind-cycle", FIRST + 1), ("bind-cycle", FIRST + 2)]


def test_what_is_a_warning() -> None:
    """What a device may be meant to do; all else would not do what the profile says."""
    for row in (*BAD, *BAD_IN_TREE):
        (problem,) = lint(profile_of(row[1]), tree() if row in BAD_IN_TREE else None)
        warning = row[0] in ("memory", "no-panic", "hides-units")
        assert problem.severity == ("warning" if warning else "error"), row


def test_one_rule_may_find_several() -> None:
    text = f"machine_id: state\nmounts:\n  - {D}\n  - {{path: /a, type: bind, source: state}}\n"
    text += "  - {path: /b, type: overlay, upper: state}\n  - {path: /c, type: bind, source: /run/state}\n"
    found = lint(profile_of(text), None)
    assert [(p.rule, p.mark.line - FIRST + 1) for p in found] == [("no-state", n) for n in (1, 4, 5)]
    found = lint(profile_of(f"{STATE}{ETC}"), None)
    assert [p.rule for p in found] == ["hides-units"] * 2
    assert ["/etc/fstab" in p.message for p in found].count(True) == 1


def test_a_device_that_is_not_written_is_found_where_its_store_is() -> None:
    """`state` has a default name; a partition that takes it is the second."""
    text = f"state: {{on_failure: volatile, size: 16M}}\nmounts: [{D.replace('data', 'state')}]\n"
    (problem,) = lint(profile_of(text), None)
    assert (problem.rule, problem.mark.line) == ("device-twice", FIRST + 1)
    assert problem.message == f"LABEL=state is already used on line {FIRST}"


MIB = 1 << 20
BIG = {
    "/var/www/big": Node("file", 0o644, 0, 0, 5 * MIB),
    "/var/wwwx": Node("file", 0o644, 0, 0, 99 * MIB),
    "/srv/a/b/c": Node("file", 0o644, 0, 0, 8 * MIB),
}
WWW = "{path: /var/www, type: bind, source: state}"
ON_A = "{path: /srv, type: partition, device: LABEL=a, on_failure: %s, size: 16M}"


@pytest.mark.parametrize(
    ("state", "mounts", "found"),
    [
        ("on_failure: refuse, size: 16M", f"[{WWW}]", []),
        ("on_failure: refuse, size: 16M", f"[{WWW}, {WWW.replace('/var/www', '/srv/a')}]", [("state", "size")]),
        ("on_failure: refuse, volatile_size: 4M", f"[{WWW}]", []),
        ("on_failure: volatile, volatile_size: 4M", f"[{WWW}]", [("state", "volatile_size")]),
        ("on_failure: volatile, volatile_size: 4M", f"[{WWW.replace('}', ', seed: empty}')}]", []),
        ("on_failure: volatile, volatile_size: 4M", "[{path: /var/www, type: overlay, upper: state}]", []),
        ("on_failure: volatile, volatile_size: 4M", f"[{ON_A % 'refuse'}]", []),
        (
            "on_failure: volatile, volatile_size: 4M",
            f"[{WWW}, {ON_A.replace('}', ', volatile_size: 8M}') % 'volatile'}]",
            [("state", "volatile_size"), ("mounts", 1, "volatile_size")],
        ),
    ],
)
def test_a_seed_that_does_not_fit(state: str, mounts: str, found: list[KeyPath]) -> None:
    """Into the disk beside its journal, or into the memory that stands in for it."""
    profile = profile_of(f"{PANIC}state: {{{state}}}\nimmutable: [/usr]\nmounts: {mounts}\n")
    assert lint(profile, None) == []
    problems = lint(profile, tree(BIG))
    assert [(p.rule, p.at, p.severity) for p in problems] == [("seed-size", at, "error") for at in found]
    assert all(p.hint == f"raise {p.at[-1]}" for p in problems)


def test_how_much_a_seed_takes() -> None:
    """A page a name, and whole pages of content; so that what just fits does, and one byte more does not."""
    profile = profile_of(f"state: {{on_failure: volatile, volatile_size: 16K}}\nmounts: [{WWW}]\n")
    for size, words in ((3 * 4096, []), (3 * 4096 + 1, ["the seeds take 20K, volatile_size has room for 16K"])):
        facts = tree({"/var/www/x": Node("file", 0o644, 0, 0, size)})
        assert [p.message for p in lint(profile, facts)] == words


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
