# SPDX-License-Identifier: MIT
"""Profiles as text, a small tree and what follows from both, for the tests of the pure parts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from rofs.entry import Entry
from rofs.generate import generate
from rofs.inputs import Inputs
from rofs.layout import Layout, build_layout
from rofs.profile import Profile, load_profile
from rofs.treefacts import Node, TreeFacts, make_facts

EPOCH = 1704067200
NO_INPUTS = Inputs(files={}, authorized_keys={}, dotfiles={}, apt_sources=None)
HEAD = "schema: rofs/v1\nname: sample\nsource: {debian: {packages: [systemd-sysv]}}\n"
TAR_HEAD = "schema: rofs/v1\nname: sample\nsource: {tar: {path: rootfs.tar}}\n"
P = PurePosixPath

PASSWD = b"""root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
"""
GROUP = b"root:x:0:\ndaemon:x:1:\ndialout:x:20:\nwww-data:x:33:\noperator:x:37:\nshadow:x:42:\nusers:x:100:\n"
SHADOW = b"root:*:19700:0:99999:7:::\ndaemon:*:19700:0:99999:7:::\n"
GSHADOW = b"root:*::\ndaemon:*::\ndialout:*::\nwww-data:*::\noperator:*::\nshadow:*::\nusers:*::\n"
SSH = b"[Unit]\nDescription=ssh\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n"

DIRECTORIES: Mapping[str, Node] = {
    "/etc": Node("dir", 0o755, 0, 0),
    "/etc/ssh": Node("dir", 0o755, 0, 0),
    "/etc/systemd/system": Node("dir", 0o755, 0, 0),
    "/usr/bin": Node("dir", 0o755, 0, 0),
    "/usr/share/doc": Node("dir", 0o755, 0, 0),
    "/var/lib": Node("dir", 0o755, 0, 0),
    "/var/lib/dpkg": Node("dir", 0o755, 0, 0),
    "/var/www": Node("dir", 0o2750, 33, 33),
    "/var/tmp": Node("dir", 0o1777, 0, 0),
    "/srv": Node("dir", 0o755, 0, 0),
    "/srv/a/b": Node("dir", 0o755, 0, 0),
    "/tmp": Node("dir", 0o1777, 0, 0),
    "/run": Node("dir", 0o755, 0, 0),
    "/dev": Node("dir", 0o755, 0, 0),
    "/proc": Node("dir", 0o555, 0, 0),
    "/sys": Node("dir", 0o555, 0, 0),
    "/root": Node("dir", 0o700, 0, 0),
    "/bin": Node("symlink", 0o777, 0, 0, target="usr/bin"),
    "/usr/bin/bash": Node("file", 0o755, 0, 0, 9),
    "/usr/bin/cp": Node("file", 0o755, 0, 0, 9),
    "/usr/lib/systemd/systemd": Node("file", 0o755, 0, 0, 9),
}
TEXTS: Mapping[str, bytes] = {
    "/etc/passwd": PASSWD,
    "/etc/group": GROUP,
    "/etc/shadow": SHADOW,
    "/etc/gshadow": GSHADOW,
    "/usr/lib/systemd/system/ssh.service": SSH,
}


def tree(nodes: Mapping[str, Node] | None = None, texts: Mapping[str, bytes] | None = None) -> TreeFacts:
    """A tree like Debian's, with more nodes or small files."""
    return make_facts({**DIRECTORIES, **(nodes or {})}, {**TEXTS, **(texts or {})})


def busybox_tree(nodes: Mapping[str, Node] | None = None, texts: Mapping[str, bytes] | None = None) -> TreeFacts:
    """The same without systemd: busybox is init, shell and cp."""
    found = {path: node for path, node in DIRECTORIES.items() if "systemd" not in path}
    links = {
        "/sbin": "usr/sbin",
        "/usr/sbin/init": "../bin/busybox",
        "/usr/bin/sh": "busybox",
        "/usr/bin/cp": "busybox",
    }
    found |= {path: Node("symlink", 0o777, 0, 0, target=target) for path, target in links.items()}
    found["/usr/bin/busybox"] = Node("file", 0o755, 0, 0, 9)
    plain = {path: text for path, text in TEXTS.items() if "systemd" not in path}
    return make_facts({**found, **(nodes or {})}, {**plain, **(texts or {})})


def profile_of(text: str, head: str = HEAD) -> Profile:
    """A profile from its text after the keys that every profile has."""
    with tempfile.TemporaryDirectory(prefix="rofs-test-") as directory:
        path = Path(directory, "profile.yaml")
        path.write_text(head + text, "utf-8")
        return load_profile(path)


def layout_of(text: str, facts: TreeFacts | None = None) -> Layout:
    """Of a profile in the usual tree."""
    return build_layout(profile_of(text), facts or tree())


def entries_of(layout: Layout, facts: TreeFacts | None = None, inputs: Inputs = NO_INPUTS) -> tuple[Entry, ...]:
    """All that is generated."""
    return generate(layout, inputs, facts or tree(), EPOCH)


RICH = """\
hostname: gateway
users:
  - {name: bob, uid: 1000, groups: [dialout], shell: /bin/bash, comment: Service}
files:
  - {path: /etc/app.conf, content: "a: 1\\n", mode: "0640", owner: bob}
  - {path: /srv/www/index.html, content: "<p>\\n"}
  - {path: /etc/link, link: app.conf}
immutable: [/usr, /etc/ssh, /var/lib/dpkg, /etc/passwd]
mounts:
  - {path: /etc, type: overlay, upper: tmpfs, size: 8M, inodes: 2048}
  - {path: /var, type: overlay, upper: tmpfs, size: 64M, options: [nosuid, nodev]}
  - {path: /var/cache, type: tmpfs, size: 16M, inodes: 1024, options: [noexec], mode: "0700", owner: bob}
  - {path: /tmp, type: tmpfs, size: 32M}
  - {path: /srv/www, type: bind, source: tmpfs, size: 8M, mode: "0750", owner: bob}
  - {path: /srv/data, type: bind, source: /var/www, access: rw}
  - {path: /srv/shown, type: bind, source: /var/lib, access: ro}
  - {path: /srv/doc, type: bind, source: /usr/share/doc}
  - {path: /srv/extra, type: tmpfs, size: 4M, required: false}
verify: {units: [ssh.service], commands: ["true"]}
"""
"""Every promise that needs no state."""
KEPT = """\
hostname: gateway
users: [{name: bob, uid: 1000}]
files:
  - {path: /etc/app.conf, content: "a: 1\\n"}
  - {path: /var/lib/app/first.json, content: "{}\\n", owner: bob}
immutable: [/usr, /etc/ssh, /etc/fstab, /etc/systemd/system]
state: {device: LABEL=state, size: 64M, on_failure: volatile, volatile_size: 32M}
mounts:
  - {path: /etc, type: overlay, upper: state}
  - {path: /var, type: overlay, upper: tmpfs, size: 64M}
  - {path: /var/lib/app, type: bind, source: state, owner: bob}
  - {path: /var/www, type: bind, source: state}
  - {path: /var/lib/empty, type: bind, source: state, mode: "0700", seed: empty}
  - {path: /srv, type: overlay, upper: state, options: [nosuid]}
  - {path: /srv/a, type: tmpfs, size: 4M}
  - {path: /tmp, type: tmpfs, size: 32M}
verify: {units: [ssh.service]}
"""
"""A gateway's: settings and data on state, the machine-id written into a writable /etc."""
PARTED = """\
kernel: {cmdline: "panic=10"}
immutable: [/usr, /var/lib/dpkg]
state: {device: UUID=0a1b2c3d-0000-4000-8000-0123456789ab, on_failure: refuse}
mounts:
  - {path: /var, type: partition, device: LABEL=var, size: 128M, on_failure: refuse}
  - {path: /var/lib, type: overlay, upper: state}
  - {path: /var/tmp, type: tmpfs, size: 4M}
  - {path: /srv, type: overlay, upper: tmpfs, size: 8M}
  - {path: "/srv/a/it's in", type: partition, device: LABEL=in, size: 16M, on_failure: volatile, seed: empty,
     mode: "0750", owner: www-data, options: [noexec, relatime], required: false}
  - {path: /opt, type: bind, source: state, required: false}
"""
"""Partitions below and above others, and the machine-id bound over a read-only /etc."""
HOSTILE = """\
immutable: ["/srv/p q/in-side/$(reboot)", "/etc/x y/it's"]
mounts:
  - {path: /etc, type: tmpfs, size: 4M}
  - {path: "/srv/p q", type: tmpfs, size: 4M}
  - {path: "/srv/%h -x", type: overlay, upper: tmpfs, size: 4M}
  - {path: "/srv/#a", type: tmpfs, size: 4M}
  - {path: "/srv/`b`;c", type: bind, source: tmpfs, size: 4M}
  - {path: '/srv/"d"\\e', type: bind, source: "/srv/%h -x"}
  - {path: "/srv/ü,ö", type: tmpfs, size: 4M}
  - {path: "/srv/$HOME", type: bind, source: "/srv/ü,ö", access: rw}
  - {path: "/srv/.dot/.dot", type: tmpfs, size: 4M}
  - {path: "/-x", type: tmpfs, size: 4M}
"""
"""Paths that some spelling must escape."""
HOSTILE_KEPT = """\
state: {on_failure: volatile}
immutable: ["/srv/p q/in-side/$(reboot)"]
mounts:
  - {path: "/srv/p q", type: bind, source: state}
  - {path: "/srv/%h -x", type: overlay, upper: state}
  - {path: "/srv/`b`;c", type: bind, source: state, seed: empty}
  - {path: '/srv/"d"\\e', type: partition, device: LABEL=-, on_failure: volatile}
  - {path: "/srv/ü,ö", type: partition, device: LABEL=a.b_C, on_failure: refuse, required: false}
  - {path: "/srv/$HOME", type: partition, device: LABEL=d, on_failure: volatile}
  - {path: "/srv/.dot/.dot", type: bind, source: state}
  - {path: "/-x", type: bind, source: state}
"""
"""The same on what persists."""
OTHER = """\
init: other
hostname: gateway
users:
  - {name: bob, uid: 1000, groups: [dialout], shell: /bin/sh, comment: Service}
  - {name: eve, uid: 1001, gid: 100, groups: [bob], shell: /bin/sh}
files:
  - {path: /etc/app.conf, content: "a: 1\\n", mode: "0640", owner: bob}
  - {path: /srv/www/index.html, content: "<p>\\n"}
immutable: [/usr, /etc/ssh, /var/lib/dpkg, /etc/passwd]
mounts:
  - {path: /etc, type: overlay, upper: tmpfs, size: 8M, inodes: 2048}
  - {path: /var, type: overlay, upper: tmpfs, size: 16M, options: [nosuid, nodev]}
  - {path: /var/cache, type: tmpfs, size: 4M, inodes: 1024, options: [noexec], mode: "0700", owner: bob}
  - {path: /tmp, type: tmpfs, size: 4M}
  - {path: /srv/www, type: bind, source: tmpfs, size: 8M, mode: "0750", owner: bob}
  - {path: /srv/data, type: bind, source: /var/www, access: rw}
  - {path: /srv/doc, type: bind, source: /usr/share/doc}
  - {path: /srv/extra, type: tmpfs, size: 4M, required: false}
verify: {commands: ["true"]}
"""
"""For busybox_tree: every promise that needs no state, the machine-id written into a writable /etc."""
OTHER_BARE = "init: other\nusers: [{name: bob, uid: 1000, shell: /bin/sh}]\n"
"""Nothing can be written, not even a machine-id."""
OTHER_KEPT = """\
init: other
users: [{name: bob, uid: 1000, shell: /bin/sh}]
files: [{path: /var/www/index.html, content: "<p>\\n"}]
immutable: [/usr, /etc/ssh, /etc/fstab]
state: {device: LABEL=state, size: 64M, volatile_size: 8M, on_failure: volatile}
mounts:
  - {path: /etc, type: overlay, upper: state}
  - {path: /var/www, type: bind, source: state}
  - {path: /var/lib, type: partition, device: LABEL=lib, size: 64M, volatile_size: 8M, on_failure: volatile}
  - {path: /var/tmp, type: tmpfs, size: 4M}
  - {path: /srv/shown, type: bind, source: /var/www, access: rw}
"""
"""Every persistent promise, the kept machine-id written into a writable /etc."""
OTHER_BOUND = """\
init: other
state: {device: LABEL=state, size: 64M, on_failure: refuse}
kernel: {cmdline: "panic=10"}
mounts:
  - {path: /var, type: bind, source: state}
  - {path: /tmp, type: tmpfs, size: 4M}
"""
"""The kept machine-id bound over a read-only /etc."""
OTHER_TRANSIENT = OTHER_BOUND.replace("init: other\n", "init: other\nmachine_id: transient\n")
"""One of this boot alone, bound from memory although there is state."""
OTHERS = {
    "rich": OTHER, "bare": OTHER_BARE, "kept": OTHER_KEPT, "bound": OTHER_BOUND, "transient": OTHER_TRANSIENT,
}  # fmt: skip
