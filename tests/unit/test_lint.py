# SPDX-License-Identifier: MIT
"""Every rule by one bad profile, at its place, and good ones that look like it."""

from __future__ import annotations

import pytest
from layouts import HEAD, OTHERS, RICH, TAR_HEAD, busybox_tree, profile_of, tree

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
TMP_ETC = "mounts: [{path: /etc, type: overlay, upper: tmpfs, size: 4M}]\n"
B = "  - {path: /srv, type: bind, source: state}\n"
D = "{path: /srv, type: partition, device: LABEL=data, size: 16M, on_failure: volatile}"
ROOT = "root: {device: PARTLABEL=rootfs-a}\n"

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
    (
        "masked-file",
        "files: [{path: /etc/systemd/system/a.service, content: x}]\nunits: {mask: [b.timer, a.service]}\n",
        2, 25, "a.service is put into the image by line 4", "take one",
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
    ("cmdline", "kernel: {cmdline: {amd64: quiet, arm64: ro rw}}\n", 1, 41, "rw contradicts", "take it away"),
    ("cmdline", f'{ROOT}kernel: {{cmdline: "ro root=/dev/sda2"}}\n', 2, 19, "overrides root.device", "two"),
    ("cmdline", f"{ROOT}kernel: {{cmdline: {{amd64: root=/dev/sda2}}}}\n", 2, 27, "root=/dev/sda2 overrides", ""),
    ("kernel-twice", "architectures: [arm64]\nkernel: {package: lin, image: b}\n", 2, 19, "arm64 has both", "take one"),
    ("kernel-twice", "kernel: {package: lin, image: {amd64: b}}\n", 1, 19, "amd64 has both a package and an image", ""),
    ("no-units", "init: other\nunits: {enable: [a.service]}\n", 2, 17, "units are systemd's", "take them away"),
    ("no-units", "init: other\nunits: {mask: [a.service]}\n", 2, 15, "`init` is other", ""),
    ("no-units", "init: other\nverify: {units: [a.service]}\n", 2, 17, "units are systemd's", ""),
    ("no-units", "init: other\nverify: {tolerate_write_errors: [a.service]}\n", 2, 33, "units are systemd's", ""),
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
    ("no-panic", f"kernel: {{cmdline: {{amd64: panic=9, arm64: quiet}}}}\n{REFUSED}", 2, 42, "nothing reboots", ""),
    ("no-panic", f"kernel: {{cmdline: {{amd64: panic=9}}}}\n{REFUSED}", 2, 42, "nothing reboots", ""),
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
    ("machine-id", f"init: other\nimmutable: [/etc/machine-id]\n{TMP_ETC}", 2, 13, "transient provides", "take"),
    (
        "machine-id", "init: other\nmounts: [{path: /etc/machine-id, type: bind, source: /run/id}]\n",
        2, 10, "machine_id: transient provides /etc/machine-id", "",
    ),
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
    (
        "no-mount-point",
        "mounts:\n  - {path: /a, type: bind, source: /var/lib}\n  - {path: /a/b, type: tmpfs}\n",
        3, 12, "/a shows /var/lib read-only, and there is no /var/lib/b", "a file below /var/lib/b",
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
    "mounts:\n  - {path: /a, type: bind, source: /var}\n  - {path: /a/lib, type: tmpfs, size: 4M}\n",
    "mounts:\n  - {path: /a, type: bind, source: /run/app}\n  - {path: /a/b, type: tmpfs, size: 4M}\n",
    (
        "files: [{path: /var/b/x, content: x}]\n"
        "mounts:\n  - {path: /a, type: bind, source: /var}\n  - {path: /a/b, type: tmpfs, size: 4M}\n"
    ),
    f"mounts:\n{T}  - {{path: /a, type: bind, source: /srv, access: rw}}\n  - {{path: /a/b, type: tmpfs, size: 4M}}\n",
    "units: {mask: [ssh.service]}\nfiles: [{path: /etc/systemd/system/ssh.service.d/x.conf, content: x}]\n",
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
    f"{REFUSED}kernel: {{cmdline: {{amd64: panic=9, arm64: quiet panic=-1}}}}\n",
    f"{REFUSED}architectures: [amd64]\nkernel: {{cmdline: {{amd64: panic=9}}}}\n",
    # What is not built has no say.
    f"{ROOT}architectures: [amd64]\nkernel: {{cmdline: {{arm64: rw root=/dev/sda2}}}}\n",
    "kernel: {cmdline: root=/dev/sda2}\n",
    f"{ROOT}kernel: {{cmdline: rootwait rootfstype=squashfs}}\n",
    "kernel: {package: {amd64: lin}, image: {arm64: b}}\n",
    "architectures: [amd64]\nkernel: {package: {amd64: lin, arm64: lin}, image: {arm64: b}}\n",
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


GOOD_OTHER = [
    *OTHERS.values(),
    # What is written over rofs's units outlives nothing where there are none.
    f"init: other\n{STATE}{ETC}",
    f"init: other\nmounts: [{D.replace('/srv', '/etc/systemd')}]\n",
    "init: other\nunits: {enable: [], mask: []}\nverify: {units: [], commands: [rc-status]}\n",
    f"init: other\nimmutable: [/etc/ssh]\n{TMP_ETC}",
]


@pytest.mark.parametrize("text", GOOD_OTHER, ids=range(len(GOOD_OTHER)))
def test_a_good_profile_without_systemd(text: str) -> None:
    assert [str(p) for p in lint(profile_of(text), busybox_tree())] == []


INIT = Node("file", 0o755, 0, 0)
NONE = make_facts({"/usr/bin/sh": INIT})
SYSTEMD = make_facts({"/usr/lib/systemd/systemd": INIT})
LINKED = make_facts(
    {"/lib/systemd/systemd": INIT, "/sbin/init": Node("symlink", 0o777, 0, 0, target="/lib/systemd/systemd")}
)
OWN_INIT = "files: [{path: /sbin/init, link: ../bin/busybox}]\n"
DIRECTORY_HEAD = TAR_HEAD.replace("tar: {path: rootfs.tar}", "directory: {path: rootfs}")


@pytest.mark.parametrize(
    ("text", "facts", "found"),
    [
        ("", make_facts({"/sbin/init": INIT}), ("no-systemd", "packages", "systemd-sysv")),
        ("", busybox_tree(), ("no-systemd", "packages", "`init: other`")),
        ("", NONE, ("no-init", "packages", "")),
        (OWN_INIT, NONE, ("no-init", "packages", "")),
        ("init: other\n", NONE, ("no-init", "packages", "")),
        (f"init: other\n{OWN_INIT}", NONE, None),
        (f"init: other\n{OWN_INIT}", SYSTEMD, None),
        ("init: other\n", SYSTEMD, ("is-systemd", "init", "take `init: other` away")),
        ("init: other\n", LINKED, ("is-systemd", "init", "")),
        ("", SYSTEMD, None),
        ("", LINKED, None),
        ("init: other\n", busybox_tree(), None),
    ],
)
@pytest.mark.parametrize("head", [HEAD, TAR_HEAD, DIRECTORY_HEAD], ids=["debian", "tar", "directory"])
def test_who_is_pid_1(text: str, facts: TreeFacts, found: tuple[str, str, str] | None, head: str) -> None:
    """At the packages of a Debian, at the path of a tree that came from elsewhere."""
    profile = profile_of(text, head)
    assert lint(profile, None) == []
    problems = lint(profile, facts)
    if found is None:
        assert problems == []
        return
    rule, key, hint = found
    (problem,) = problems
    debian = head == HEAD
    at = ("init",) if key == "init" else (*profile.source.at, "packages" if debian else "path")
    line, column = (4, 7) if key == "init" else (3, {HEAD: 29, TAR_HEAD: 22, DIRECTORY_HEAD: 28}[head])
    assert (problem.rule, problem.at, problem.severity) == (rule, at, "error")
    assert (problem.mark.line, problem.mark.column) == (line, column)
    assert ("package" in problem.hint) == (debian and rule != "is-systemd")
    assert hint in problem.hint or (hint == "systemd-sysv" and not debian)


def test_long_names_without_units() -> None:
    """There a name is made for what is kept alone, and with fewer characters."""
    mount = f"mounts: [{{path: {LONG}, type: KIND, size: 4M}}]\n"
    assert lint(profile_of("init: other\n" + mount.replace("KIND", "tmpfs")), None) == []
    assert lint(profile_of("init: other\n" + mount.replace("KIND", "bind, source: tmpfs")), None) == []
    (problem,) = lint(profile_of(f"init: other\nmounts: [{{path: {LONG * 2}, type: tmpfs}}]\n"), None)
    assert problem.rule == "unit-name" and "361 characters" in problem.message


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ("Include /etc/ssh/sshd_config.d/*.conf\n", []),
        ("\n  include /etc/ssh/x.conf /etc/ssh/sshd_config.d/*.conf\n", []),
        ("Port 22\n", ["ssh-include"]),
        ("# Include /etc/ssh/sshd_config.d/*.conf\n", ["ssh-include"]),
        ("", ["ssh-include"]),
    ],
)
def test_an_sshd_that_reads_no_drop_ins(config: str, found: list[str]) -> None:
    sshd = {"/usr/sbin/sshd": Node("file", 0o755, 0, 0, 9)}
    facts = busybox_tree(sshd, {"/etc/ssh/sshd_config": config.encode()})
    profile = profile_of("init: other\n", TAR_HEAD)
    assert [p.rule for p in lint(profile, facts)] == found
    assert [p.rule for p in lint(profile, busybox_tree(texts={"/etc/ssh/sshd_config": config.encode()}))] == []
    own = profile_of("init: other\nfiles: [{path: /etc/ssh/sshd_config, content: x}]\n", TAR_HEAD)
    assert lint(own, facts) == []


def in_busybox(text: str, head: str = TAR_HEAD, **texts: str) -> list[Problem]:
    """What a profile without systemd is told of a tree with these files of /etc."""
    facts = busybox_tree(texts={f"/etc/{name}": text.encode() for name, text in texts.items()})
    profile = profile_of(f"init: other\n{text}", head)
    assert lint(profile, None) == []
    return lint(profile, facts)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("/dev/mmcblk0p3 /data ext4 defaults 0 2", "mounts /dev/mmcblk0p3 on /data,"),
        ("tmpfs\t/tmp\ttmpfs\tmode=1777", "mounts tmpfs on /tmp,"),
        ("  UUID=1 /srv/a\\040b auto noauto,user 0 0", "mounts UUID=1 on /srv/a b,"),
        ("/dev/sda1 /var/log ext4 rw 0 0", "on /var/log,"),
        ("/dev/sda1 /running ext4 rw 0 0", "on /running,"),
        ("/dev/root / ext2 rw,noauto 0 1", ""),
        ("proc /proc proc defaults 0 0", ""),
        ("devpts /dev/pts devpts gid=5 0 0", ""),
        ("tmpfs /run tmpfs mode=0755 0 0", ""),
        ("sysfs /sys sysfs defaults 0 0", ""),
        ("/dev/sda2 none swap sw 0 0", ""),
        ("/dev/sda2 swap swap sw 0 0", ""),
        ("# /dev/sda3 /data ext4 rw 0 0", ""),
        ("#/dev/sda3 /data ext4 rw 0 0", ""),
        ("/dev/sda3 /data", ""),
        ("tmpfs /srv tmpfs rw 0 0", ""),
        ("/dev/sda4 /var ext4 rw 0 0", ""),
        ("", ""),
    ],
)
def test_what_the_tree_mounts_by_its_own_fstab(line: str, seen: str) -> None:
    for head in (HEAD, TAR_HEAD):
        found = in_busybox(f"mounts:\n{T}{V}", head, fstab=f"# <device> <dir>\n\n{line}\n{line}\n")
        assert len(found) == bool(seen)
        for problem in found:
            assert (problem.rule, problem.severity, problem.mark.line) == ("undeclared-mount", "warning", 3)
            assert problem.at == (("source", "debian") if head == HEAD else ("source", "tar"))
            assert seen in problem.message and "declare it" in problem.hint


def test_every_undeclared_mount_is_said() -> None:
    found = in_busybox("", fstab="/dev/a /a ext4 rw\n/dev/b /b ext4 rw\n")
    assert [p.message.split()[5:7] for p in found] == [["/dev/a", "on"], ["/dev/b", "on"]]
    assert lint(profile_of(""), tree(texts={"/etc/fstab": b"# UNCONFIGURED FSTAB FOR BASE SYSTEM\n"})) == []


@pytest.mark.parametrize(
    ("name", "line", "empty"),
    [
        ("shadow", "root::19700:0:99999:7:::", True),
        ("shadow", "root:::::::", True),
        ("passwd", "root::0:0:root:/root:/bin/sh", True),
        ("shadow", "root:*:19700::::::", False),
        ("shadow", "root:!:19700::::::", False),
        ("shadow", "root:$5$salt$hash:19700::::::", False),
        ("passwd", "root:x:0:0:root:/root:/bin/sh", False),
        ("shadow", "", False),
        ("shadow", ":::", False),
        ("shadow", "root", False),
    ],
)
def test_a_login_without_a_password(name: str, line: str, empty: bool) -> None:
    found = in_busybox("", **{name: f"daemon:*:1:1:::\n{line}\n"})
    assert [(p.rule, p.severity, p.at) for p in found] == [("empty-password", "error", ("source", "tar"))] * empty
    assert all(p.message == f"root has an empty password in /etc/{name} of the tree" for p in found)
    assert all("`*`" in p.hint for p in found)


def test_each_empty_password_is_said() -> None:
    found = in_busybox("", passwd="a::0:0::/:/bin/sh\nb:x:1:1::/:/bin/sh\n", shadow="b:::::::\nc::1:::::\n")
    assert sorted(p.message.split()[0] for p in found) == ["a", "b", "c"]


PING = Node("file", 0o755, 0, 0, 9, caps=b"\x01\x00\x00\x02" + bytes(16))
NO_CP = {"/usr/bin/cp": Node("symlink", 0o777, 0, 0, target="busybox")}
SEEDED = "{path: /var/www, type: bind, source: %s}"


@pytest.mark.parametrize(
    ("mount", "lost"),
    [
        (SEEDED % "state", True),
        (SEEDED % "tmpfs", True),
        (D.replace("/srv", "/var/www"), True),
        (SEEDED.replace("/var/www", "/var") % "state", True),
        (SEEDED.replace("}", ", seed: empty}") % "state", False),
        ("{path: /var/www, type: overlay, upper: state}", False),
        ("{path: /var/www, type: overlay, upper: tmpfs}", False),
        ("{path: /var/www, type: tmpfs}", False),
        ("{path: /srv, type: bind, source: /var/www}", False),
        (SEEDED.replace("/var/www", "/var/ww") % "state", False),
        (SEEDED.replace("/var/www", "/srv") % "state", False),
    ],
)
def test_capabilities_that_a_seed_would_lose(mount: str, lost: bool) -> None:
    """busybox's cp has no extended attributes; the seed is made by the initrd's, or the tree's, busybox then."""
    profile = profile_of(f"init: other\n{STATE}mounts: [{mount}]\n")
    found = lint(profile, busybox_tree({"/var/www/bin/ping": PING}))
    assert [(p.rule, p.at, p.severity) for p in found] == [("no-cp", ("mounts", 0, "path"), "error")] * lost
    assert all(p.message.startswith("/var/www/bin/ping has capabilities") and "coreutils" in p.hint for p in found)


@pytest.mark.parametrize(
    ("cp", "own"),
    [
        (Node("file", 0o755, 0, 0, 9), True),
        (Node("symlink", 0o777, 0, 0, target="coreutils"), True),
        (Node("symlink", 0o777, 0, 0, target="/bin/busybox"), False),
        (Node("symlink", 0o777, 0, 0, target="toybox"), False),
        (Node("symlink", 0o777, 0, 0, target="nowhere"), False),
    ],
)
def test_whose_cp_keeps_capabilities(cp: Node, own: bool) -> None:
    nodes = {"/usr/bin/coreutils": INIT, "/usr/bin/toybox": INIT, "/usr/bin/cp": cp, "/var/www/ping": PING}
    profile = profile_of(f"init: other\n{STATE}mounts: [{SEEDED % 'state'}]\n")
    assert [p.rule for p in lint(profile, busybox_tree(nodes))] == ["no-cp"] * (not own)
    assert lint(profile, busybox_tree({**nodes, "/var/www/ping": INIT})) == []


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
