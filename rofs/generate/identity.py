# SPDX-License-Identifier: MIT
"""Hostname, machine-id, resolver, journal, seed: what must be decided for a root that cannot be written."""

from __future__ import annotations

from pathlib import PurePosixPath

from rofs.entry import Entry
from rofs.layout import Layout
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


MASKED_UNITS = (
    "systemd-machine-id-commit.service",  # fails where the id is bound (tried)
    "systemd-firstboot.service",  # asks on the console
    "systemd-random-seed.service",  # nothing survives yet, and a seed that cannot survive is no seed
)


def identity_entries(layout: Layout, facts: TreeFacts) -> list[Entry]:
    """Files of /etc that a per-machine tool would otherwise write at run time."""
    hostname = layout.profile.hostname
    resolver = next((to for path, to in _RESOLVERS if facts.lookup(path)), _RESOLVER_ELSE)
    return [
        _file("hostname", f"{hostname}\n", "hostname"),
        _file("hosts", _HOSTS.format(hostname=hostname), "hostname"),
        # Empty, not missing: "System cannot boot", and not `uninitialized`: first-boot units (note 23).
        Entry(path=ETC / "machine-id", kind="file", mode=0o444, why="machine_id"),
        Entry(path=ETC / "resolv.conf", kind="symlink", mode=0o777, target=resolver, why="rofs"),
        _file("systemd/journald.conf.d/10-rofs.conf", _JOURNALD, "rofs"),
        # It would mount an ESP, /home or /srv that it finds on the disk: a mount nobody declared.
        Entry(
            path=ETC / "systemd/system-generators/systemd-gpt-auto-generator", kind="symlink", mode=0o777,
            target="/dev/null", why="rofs",
        ),
    ]  # fmt: skip


def _file(name: str, text: str, why: str) -> Entry:
    return Entry(path=ETC / name, kind="file", content=text.encode(), why=why)
