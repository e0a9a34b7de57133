# SPDX-License-Identifier: MIT
"""Hostname, machine-id, host keys, random seed, resolver, journal: what a root that cannot be written decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from rofs.entry import Entry
from rofs.generate.render import render
from rofs.layout import DATA, IDENTITY, STATE, UNIT_DIR, Layout
from rofs.treefacts import TreeFacts

ETC = PurePosixPath("/etc")

_HOSTS = """\
127.0.0.1\tlocalhost
127.0.1.1\t{hostname}
::1\tlocalhost ip6-localhost ip6-loopback
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""

_JOURNALD = """\
# rofs: `auto` would take a baked /var/log/journal for storage that survives (note 33).
[Journal]
Storage=volatile
RuntimeMaxUse=16M
"""

_RESOLVERS = (
    ("/usr/lib/systemd/system/systemd-resolved.service", "../run/systemd/resolve/stub-resolv.conf"),
    ("/usr/sbin/NetworkManager", "../run/NetworkManager/resolv.conf"),
)
_RESOLVER_ELSE = "../run/resolv.conf"

HOST_KEY = IDENTITY / "ssh_host_ed25519_key"
_SSHD = "/usr/sbin/sshd"
_SSH_UNITS = ("ssh.service", "ssh@.service", "sshd.service", "sshd@.service")
KEY_SCRIPT = PurePosixPath("/usr/lib/rofs/ssh-host-key")
_KEY_UNIT = "rofs-ssh-host-key.service"
_KEY_SERVICE = f"""\
[Unit]
Description=rofs: the ssh host key of this machine

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={KEY_SCRIPT}
"""
_AFTER_KEY = f"[Unit]\nRequires={_KEY_UNIT}\nAfter={_KEY_UNIT}\n"
_SEED_UNIT = "systemd-random-seed.service"
_SEED_DIR = "/var/lib/systemd"
_SEED_ON_STATE = f"[Unit]\nRequiresMountsFor={STATE}\n\n[Service]\nBindPaths={DATA / 'identity'}:{_SEED_DIR}\n"


def masked_units(layout: Layout, facts: TreeFacts) -> tuple[str, ...]:
    """What systemd would do by itself, and must not."""
    if layout.profile.init == "other":
        return ()
    return (
        "systemd-machine-id-commit.service",  # fails where the id is bound (tried)
        "systemd-firstboot.service",  # asks on the console
        # A seed that cannot survive is no seed.
        *(() if _keeps_seed(layout, facts) else (_SEED_UNIT,)),
    )


def _keeps_seed(layout: Layout, facts: TreeFacts) -> bool:
    kept = layout.profile.init == "systemd" and layout.profile.state is not None
    return kept and facts.lookup(_SEED_DIR) is not None


def identity_entries(layout: Layout, facts: TreeFacts) -> list[Entry]:
    """Files of /etc that a per-machine tool would otherwise write at run time."""
    hostname = layout.profile.hostname
    return [
        _file("hostname", f"{hostname}\n", "hostname"),
        _file("hosts", _HOSTS.format(hostname=hostname), "hostname"),
        # Empty, not missing: "System cannot boot", and not `uninitialized`: first-boot units (note 23).
        Entry(path=ETC / "machine-id", kind="file", mode=0o444, why="machine_id"),
        *_resolver(facts),
        *(_of_systemd() if layout.profile.init == "systemd" else ()),
        *(_host_key(layout, facts) if facts.lookup(_SSHD) else ()),
        # systemd's own service, which thinks that it writes to /var.
        *([_drop_in(_SEED_UNIT, _SEED_ON_STATE, "state")] if _keeps_seed(layout, facts) else ()),
    ]  # fmt: skip


def _resolver(facts: TreeFacts) -> Iterator[Entry]:
    """A link to where the resolver's file is written (note 26); a tree that has one has decided."""
    node = facts.node(ETC / "resolv.conf")
    if node is None or node.kind != "symlink":
        target = next((to for path, to in _RESOLVERS if facts.lookup(path)), _RESOLVER_ELSE)
        yield Entry(path=ETC / "resolv.conf", kind="symlink", mode=0o777, target=target, why="rofs")


def _of_systemd() -> Iterator[Entry]:
    yield _file("systemd/journald.conf.d/10-rofs.conf", _JOURNALD, "rofs")
    # It would mount an ESP, /home or /srv that it finds on the disk: a mount nobody declared.
    generator = ETC / "systemd/system-generators/systemd-gpt-auto-generator"
    yield Entry(path=generator, kind="symlink", mode=0o777, target="/dev/null", why="rofs")


def _host_key(layout: Layout, facts: TreeFacts) -> Iterator[Entry]:
    """sshd's host key is of the machine, never of the image (note 25). Without systemd the initrd makes it."""
    script = render("ssh-host-key.sh.j2", name=layout.profile.name, key=HOST_KEY, hostname=layout.profile.hostname)
    yield _file("ssh/sshd_config.d/10-rofs.conf", f"HostKey {HOST_KEY}\n", "rofs")
    yield Entry(path=KEY_SCRIPT, kind="file", mode=0o755, content=script.encode(), why="rofs")
    if layout.profile.init == "other":
        return
    yield Entry(path=UNIT_DIR / _KEY_UNIT, kind="file", content=_KEY_SERVICE.encode(), why="rofs")
    for unit in _SSH_UNITS:
        if unit in facts.units():
            yield _drop_in(unit, _AFTER_KEY, "rofs")


def _drop_in(unit: str, text: str, why: str) -> Entry:
    return Entry(path=UNIT_DIR / f"{unit}.d" / "10-rofs.conf", kind="file", content=text.encode(), why=why)


def _file(name: str, text: str, why: str) -> Entry:
    return Entry(path=ETC / name, kind="file", content=text.encode(), why=why)
