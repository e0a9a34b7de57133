# SPDX-License-Identifier: MIT
"""Host name, machine-id, host keys, random seed, resolver and journal of an image that cannot be written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from layouts import KEPT, OTHER_KEPT, RICH, P, busybox_tree, entries_of, layout_of, tree
from test_generate_mounts import install

from rofs.entry import Entry
from rofs.generate.identity import identity_entries, masked_units
from rofs.treefacts import Node, TreeFacts

FILE = Node("file", 0o755, 0, 0)
LIB = "/usr/lib/systemd/system/"
SSHD = {"/usr/sbin/sshd": FILE}
SEED = {"/var/lib/systemd": Node("dir", 0o755, 0, 0)}
SEED_DROP_IN = "/etc/systemd/system/systemd-random-seed.service.d/10-rofs.conf"


def made(
    nodes: dict[str, Node] | None = None, texts: dict[str, bytes] | None = None, profile: str = RICH
) -> dict[str, Entry]:
    facts = tree(nodes, texts)
    return {str(e.path): e for e in identity_entries(layout_of(profile, facts), facts)}


def masked(profile: str, nodes: dict[str, Node] | None = None) -> tuple[str, ...]:
    facts = tree(nodes)
    return masked_units(layout_of(profile, facts), facts)


def test_names() -> None:
    found = made()
    assert found["/etc/hostname"].content == b"gateway\n"
    hosts = [line.split() for line in found["/etc/hosts"].content.decode().splitlines()]
    assert ["127.0.1.1", "gateway"] in hosts and ["127.0.0.1", "localhost"] in hosts


def test_the_machine_id_is_there_and_empty() -> None:
    entry = made()["/etc/machine-id"]
    assert (entry.kind, entry.content, entry.mode) == ("file", b"", 0o444)
    for profile in (RICH, KEPT):
        assert {"systemd-machine-id-commit.service", "systemd-firstboot.service"} <= set(masked(profile, SEED))


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


@pytest.mark.parametrize("facts", [tree, busybox_tree], ids=["systemd", "other"])
@pytest.mark.parametrize(
    ("node", "kept"),
    [
        (Node("symlink", 0o777, 0, 0, target="../tmp/resolv.conf"), True),
        (Node("symlink", 0o777, 0, 0, target="/nowhere"), True),
        (Node("file", 0o644, 0, 0, 9), False),
        (Node("dir", 0o755, 0, 0), False),
    ],
)
def test_a_tree_that_has_a_link_for_its_resolver_has_decided(
    node: Node, kept: bool, facts: Callable[[dict[str, Node]], TreeFacts]
) -> None:
    """Buildroot's udhcpc writes to where its own skeleton says; a file nobody could write, though."""
    found = facts({"/etc/resolv.conf": node, "/usr/sbin/NetworkManager": FILE})
    init = "" if "/usr/lib/systemd/systemd" in found.nodes else "init: other\n"
    entries = {str(e.path): e for e in identity_entries(layout_of(init, found), found)}
    assert ("/etc/resolv.conf" not in entries) == kept
    assert kept or entries["/etc/resolv.conf"].target == "../run/NetworkManager/resolv.conf"


def test_without_systemd_nothing_is_written_for_it() -> None:
    facts = busybox_tree(SSHD | SEED, {LIB + "ssh.service": b""})
    for text in ("init: other\nhostname: gateway\n", OTHER_KEPT):
        layout = layout_of(text, facts)
        assert masked_units(layout, facts) == ()
        assert {str(e.path) for e in identity_entries(layout, facts)} == {
            "/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/resolv.conf",
            "/etc/ssh/sshd_config.d/10-rofs.conf", "/usr/lib/rofs/ssh-host-key",
        }  # fmt: skip
    found = {str(e.path): e for e in identity_entries(layout_of("init: other\nhostname: gateway\n", facts), facts)}
    assert found["/etc/hostname"].content == b"gateway\n" and b"127.0.1.1\tgateway\n" in found["/etc/hosts"].content
    assert (found["/etc/machine-id"].content, found["/etc/machine-id"].mode) == (b"", 0o444)


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


def test_host_keys_are_the_machines() -> None:
    found = made(SSHD)
    assert found["/etc/ssh/sshd_config.d/10-rofs.conf"].content == b"HostKey /run/rofs/identity/ssh_host_ed25519_key\n"
    script = found["/usr/lib/rofs/ssh-host-key"]
    assert (script.mode, script.uid, script.gid) == (0o755, 0, 0)
    assert b"\nkey=/run/rofs/identity/ssh_host_ed25519_key\n" in script.content
    assert b" -C gateway " in script.content
    service = found["/etc/systemd/system/rofs-ssh-host-key.service"].content.decode()
    assert "Type=oneshot" in service and "ExecStart=/usr/lib/rofs/ssh-host-key\n" in service


def test_without_sshd_there_is_nothing_of_it() -> None:
    texts = {LIB + "sshd.service": b""}  # as of a client's package, or of another server
    assert not [path for path in made(texts=texts) if "ssh" in path]


@pytest.mark.parametrize("profile", [RICH, KEPT], ids=["volatile", "kept"])
def test_the_host_key_is_there_before_whatever_serves_ssh(profile: str) -> None:
    """Each unit that the tree has: an ssh.socket starts ssh@.service for each connection."""
    texts = dict.fromkeys((LIB + "ssh@.service", LIB + "sshd.service", LIB + "ssh.socket"), b"")
    found = made(SSHD, texts, profile)
    drop_ins = {path: e.content for path, e in found.items() if ".d/10-rofs.conf" in path and "/ssh" in path}
    want = b"[Unit]\nRequires=rofs-ssh-host-key.service\nAfter=rofs-ssh-host-key.service\n"
    units = [f"/etc/systemd/system/{name}.service.d/10-rofs.conf" for name in ("ssh", "ssh@", "sshd")]
    drop_ins.pop("/etc/ssh/sshd_config.d/10-rofs.conf")
    assert drop_ins == dict.fromkeys(units, want)


@pytest.mark.parametrize("profile", [RICH, KEPT], ids=["volatile", "kept"])
def test_no_key_material_is_generated(profile: str) -> None:
    facts = tree(SSHD | SEED)
    for entry in entries_of(layout_of(profile, facts), facts):
        assert b"PRIVATE KEY" not in entry.content and "ssh_host" not in entry.path.name, entry.path
        assert entry.path.name != "random-seed" and not entry.path.is_relative_to("/var/lib/systemd"), entry.path


def test_the_random_seed_is_turned_to_state() -> None:
    unit = "systemd-random-seed.service"
    entry = made(SEED, profile=KEPT)[SEED_DROP_IN]
    unmounted_last = b"[Unit]\nRequiresMountsFor=/run/rofs/state\n\n"
    assert entry.content == unmounted_last + b"[Service]\nBindPaths=/run/rofs/state/data/identity:/var/lib/systemd\n"
    assert (entry.kind, entry.mode) == ("file", 0o644)
    assert unit not in masked(KEPT, SEED)


@pytest.mark.parametrize(
    ("profile", "nodes"), [(RICH, SEED), (RICH, {}), (KEPT, {})], ids=["no state", "neither", "no directory"]
)
def test_a_seed_that_cannot_survive_is_none(profile: str, nodes: dict[str, Node]) -> None:
    """A service that is masked has no drop-in; one whose directory is missing would fail to bind over it."""
    assert "systemd-random-seed.service" in masked(profile, nodes)
    assert SEED_DROP_IN not in made(nodes, profile=profile)


@pytest.mark.parametrize(("profile", "target"), [(RICH, "/dev/null"), (KEPT, None)], ids=["volatile", "kept"])
def test_the_mask_reaches_the_image(profile: str, target: str | None) -> None:
    facts = tree(SEED, {LIB + "systemd-random-seed.service": b""})
    entries = {str(e.path): e for e in entries_of(layout_of(profile, facts), facts)}
    mask = entries.get("/etc/systemd/system/systemd-random-seed.service")
    assert (mask.target if mask else None) == target
    assert (SEED_DROP_IN in entries) == (mask is None), "one or the other"


@pytest.mark.parametrize("machine_id", ["state", "transient"])
def test_the_image_is_the_same_whether_the_machine_id_is_kept(machine_id: str) -> None:
    """The initrd alone decides: an id that is baked in would be everyone's."""
    profile = KEPT.replace("mounts:", f"machine_id: {machine_id}\nmounts:", 1)
    assert made(SEED, profile=profile)["/etc/machine-id"].content == b""


UNITS = {
    name: f"[Unit]\nDescription={name}\nDefaultDependencies=no\n[Service]\nExecStart=/usr/bin/true\n".encode()
    for name in ("ssh.service", "ssh@.service", "systemd-random-seed.service")
}


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("word", ["", "BindPaths", "Requires", "ExecStart", "RemainAfterExit"])
def test_systemd_takes_the_units(tmp_path: Path, word: str) -> None:
    """With a word misspelled it would not: so each of them is read."""
    facts = tree(SSHD | SEED, {LIB + name: text for name, text in UNITS.items()})
    install(tmp_path, identity_entries(layout_of(KEPT, facts), facts))
    (tmp_path / "usr/bin").mkdir()
    for program in ("usr/bin/true", "usr/lib/rofs/ssh-host-key"):
        (tmp_path / program).touch()
        (tmp_path / program).chmod(0o755)
    for name, text in UNITS.items():
        (tmp_path / LIB[1:] / name).write_bytes(text)
    if word:
        for path in (tmp_path / "etc/systemd/system").rglob("*.*"):
            if path.is_file() and word in path.read_text():
                path.write_text(path.read_text().replace(word, f"{word}x"))
    names = ["ssh.service", "ssh@x.service", "systemd-random-seed.service"]
    argv = ["systemd-analyze", "verify", f"--root={tmp_path}", "--man=no", *names]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr == "") == (not word), done.stderr
