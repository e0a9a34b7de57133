# SPDX-License-Identifier: MIT
"""Host name, machine-id, resolver and journal of an image that cannot be written."""

from __future__ import annotations

import pytest
from layouts import RICH, P, entries_of, layout_of, tree

from rofs.entry import Entry
from rofs.generate.identity import MASKED_UNITS, identity_entries
from rofs.treefacts import Node


def made(nodes: dict[str, Node] | None = None) -> dict[str, Entry]:
    facts = tree(nodes)
    return {str(e.path): e for e in identity_entries(layout_of(RICH, facts), facts)}


def test_names() -> None:
    found = made()
    assert found["/etc/hostname"].content == b"gateway\n"
    hosts = [line.split() for line in found["/etc/hosts"].content.decode().splitlines()]
    assert ["127.0.1.1", "gateway"] in hosts and ["127.0.0.1", "localhost"] in hosts


def test_the_machine_id_is_there_and_empty() -> None:
    entry = made()["/etc/machine-id"]
    assert (entry.kind, entry.content, entry.mode) == ("file", b"", 0o444)
    assert "systemd-machine-id-commit.service" in MASKED_UNITS


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/usr/lib/systemd/system/systemd-resolved.service", "../run/systemd/resolve/stub-resolv.conf"),
        ("/usr/sbin/NetworkManager", "../run/NetworkManager/resolv.conf"),
        ("/nothing/of/this", "../run/resolv.conf"),
    ],
)
def test_the_resolver_writes_below_run(path: str, target: str) -> None:
    entry = made({path: Node("file", 0o755, 0, 0)})["/etc/resolv.conf"]
    assert (entry.kind, entry.target) == ("symlink", target)


def test_the_journal_is_volatile_and_capped() -> None:
    text = made()["/etc/systemd/journald.conf.d/10-rofs.conf"].content.decode()
    assert "Storage=volatile" in text and "RuntimeMaxUse=" in text


def test_the_profiles_own_file_is_the_last_word() -> None:
    layout = layout_of(
        "files: [{path: /etc/hosts, content: mine, mode: '0600', group: dialout}, {path: /etc/l, link: a}]\n"
    )
    entries = {e.path: e for e in entries_of(layout)}
    hosts = entries[P("/etc/hosts")]
    assert (hosts.content, hosts.mode, hosts.uid, hosts.gid, hosts.why) == (b"mine", 0o600, 0, 20, "files[0]")
    assert (entries[P("/etc/l")].kind, entries[P("/etc/l")].target) == ("symlink", "a")
    assert list(entries) == sorted(entries)


def test_missing_mount_points_are_made() -> None:
    layout = layout_of("mounts: [{path: /new/tmp, type: tmpfs}, {path: /new/x, type: tmpfs}]\n")
    entries = {str(e.path): e for e in entries_of(layout)}
    assert (entries["/new/tmp"].mode, entries["/new/x"].mode) == (0o1777, 0o755)
    assert "/run" not in entries and "/var/tmp" not in entries, "the tree has them"
