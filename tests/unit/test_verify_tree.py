# SPDX-License-Identifier: MIT
"""A squashfs against its manifest, without a boot: each difference one by one, and none where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from layouts import layout_of
from tarmaker import EPOCH, Row, device, file, folder, hardlink, raw_pax, symlink, write_tar
from test_readback import FEW, generate
from treeseen import differences, see_records

from rofs.errors import ImageError, ToolError
from rofs.image import readback
from rofs.image.manifest import build_manifest, describe_files, render_manifest, tree_of
from rofs.image.readback import Limits, read_squashfs
from rofs.image.records import FileRecord
from rofs.image.squashfs import write_squashfs
from rofs.profile import ImageOptions
from rofs.sources.archive import unpack_tar
from rofs.tarmembers import Pipe, iter_members, iter_stream, read_content
from rofs.treefacts import read_facts
from rofs.verify import tree
from rofs.verify.check import Verdict
from rofs.verify.tree import judge_tree, tree_outcomes

OPTIONS = ImageOptions(format="squashfs", compression="gzip", level=1, block_size=131072, acl="error")
PACKING = pytest.mark.needs("tar2sqfs", "sqfs2tar")
ENOUGH = Limits(1_000_000, 1 << 40)
CAPS = raw_pax(bytes.fromhex("0100000200200000000000000000000000000000"))
MORE_CAPS = raw_pax(bytes.fromhex("0100000200300000000000000000000000000000"))
CAPABLE = "SCHILY.xattr.security.capability"
ODD = os.fsdecode(b"./etc/b\xe9\nx")
KEY = b"-----BEGIN OPENSSH " + b"PRIVATE KEY-----\n"
PLAIN = layout_of("")

ROWS = {
    row.name: row
    for row in (
        folder("./", 0o755),
        folder("./etc"),
        folder("./etc/ssh"),
        file("./etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        file("./etc/shadow", b"root:*:19700::::::\nbob:!:19700::::::\n", mode=0o640, gid=42),
        file("./etc/machine-id"),
        file("./etc/ssh/sshd_config", b"HostKey /run/key\n"),
        file(ODD, b"odd"),
        folder("./usr"),
        file("./usr/a", b"content", mode=0o755),
        hardlink("./usr/b", "./usr/a"),
        file("./usr/same", b"content", mode=0o755),
        file("./usr/ping", b"ping", mode=0o755, pax={CAPABLE: CAPS, "SCHILY.xattr.user.a": raw_pax(b"1\0\xff")}),
        file("./usr/su", b"su", mode=0o4755),
        file("./usr/zeros", bytes(300_000) + b"x"),
        symlink("./usr/link", "a"),
        hardlink("./usr/second-link", "./usr/link"),
        device("./usr/null", tarfile.CHRTYPE, 1, 3),
        Row(name="./usr/fifo", type=tarfile.FIFOTYPE),
        folder("./tmp", 0o1777),
        folder("./var"),
        folder("./var/lib"),
        folder("./var/lib/systemd"),
    )
}
"""A good tree, by name."""


def pack(out: Path, rows: dict[str, Row], options: ImageOptions = OPTIONS) -> list[FileRecord]:
    tar = write_tar(out.with_suffix(".tar"), *rows.values())
    return list(write_squashfs(out, [tar], [], options=options, epoch=EPOCH, resolve=read_facts(tar).resolve))


def publish(image: Path, rows: dict[str, Row]) -> Path:
    """An image directory as `rofs build` leaves it, as far as its tree goes."""
    image.mkdir()
    write_manifest(image, pack(image / "rootfs.squashfs", rows))
    return image


def write_manifest(image: Path, records: list[FileRecord]) -> None:
    manifest = build_manifest(
        profile="x", architecture="amd64", epoch=EPOCH, verified=False, reason="", files=records, outputs={},
        inputs={}, tools={},
    )  # fmt: skip
    (image / "manifest.json").write_bytes(render_manifest(manifest))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("good") / "image", ROWS)


def judged(image: Path, layout: Any = PLAIN) -> dict[str, Verdict]:
    """By subject."""
    outcomes = tree_outcomes(image, layout)
    assert [(o.boot, o.promise, o.subject) for o in outcomes] == [
        (0, "image tree", subject) for subject in ("as built", "identity", "passwords")
    ]
    for outcome in outcomes:
        outcome.verdict.seen.encode()  # a report can be written
    return {o.subject: o.verdict for o in outcomes}


def broken_of(image: Path, layout: Any = PLAIN) -> dict[str, str]:
    return {subject: verdict.seen for subject, verdict in judged(image, layout).items() if not verdict.ok}


def mutant(good: Path, copy: Path, change: Callable[[dict[str, Row]], None]) -> Path:
    """Another squashfs beside the manifest of the good one."""
    copy.mkdir()
    (copy / "manifest.json").write_bytes((good / "manifest.json").read_bytes())
    rows = dict(ROWS)
    change(rows)
    pack(copy / "rootfs.squashfs", rows)
    return copy


def differ(name: str, **fields: Any) -> Callable[[dict[str, Row]], None]:
    def change(rows: dict[str, Row]) -> None:
        rows[name] = replace(rows[name], **fields)

    return change


def put(*rows: Row) -> Callable[[dict[str, Row]], None]:
    return lambda tree: tree.update({row.name: row for row in rows})


def drop(name: str) -> Callable[[dict[str, Row]], None]:
    return lambda tree: [tree.pop(name)][:0]  # type: ignore[return-value]


# --- as built ---------------------------------------------------------------------------------------


@PACKING
def test_a_good_image(good: Path) -> None:
    verdicts = judged(good)
    assert all(verdict.ok for verdict in verdicts.values()), verdicts
    content = sum(max(len(row.content), 0) for row in ROWS.values()) + len(b"content")
    assert verdicts["as built"].seen == f"{len(ROWS)} paths, {content} bytes of content, each as it says"


@PACKING
@pytest.mark.parametrize("compression", ["zstd", "xz", "gzip", "lz4"])
def test_the_same_tree_packed_anew_is_the_same_image(good: Path, tmp_path: Path, compression: Any) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image/manifest.json").write_bytes((good / "manifest.json").read_bytes())
    rows = {name: replace(row, mtime=7) for name, row in ROWS.items()}
    options = replace(OPTIONS, compression=compression, level=None, block_size=4096)
    pack(tmp_path / "image/rootfs.squashfs", rows, options)
    assert (tmp_path / "image/rootfs.squashfs").read_bytes() != (good / "rootfs.squashfs").read_bytes()
    assert broken_of(tmp_path / "image") == {}


A = "/usr/a"
CHANGES: dict[str, tuple[Callable[[dict[str, Row]], None], str]] = {
    "content": (differ("./usr/su", content=b"so"), "1 path differs: /usr/su: sha256 "),
    "the last byte": (differ("./usr/zeros", content=bytes(300_000) + b"y"), "1 path differs: /usr/zeros: sha256 "),
    "size": (differ("./usr/su", content=b"sux"), "/usr/su: sha256 "),
    "an odd name": (differ(ODD, content=b"ood"), r"1 path differs: '/etc/b\udce9\nx': sha256 "),
    "mode": (differ("./usr/su", mode=0o4750), "1 path differs: /usr/su: mode 4750 instead of 4755"),
    "the root's mode": (differ("./", mode=0o711), "1 path differs: /: mode 0711 instead of 0755"),
    "a directory's mode": (differ("./tmp", mode=0o755), "1 path differs: /tmp: mode 0755 instead of 1777"),
    "owner": (differ("./usr/su", uid=1), "1 path differs: /usr/su: uid 1 instead of 0"),
    "group": (differ("./etc/shadow", gid=0), "1 path differs: /etc/shadow: gid 0 instead of 42"),
    "link": (differ("./usr/link", link="same"), "target same instead of a"),
    "device": (differ("./usr/null", dev=(1, 5)), "/usr/null: NEW DEVICE 1:5, rdev 1:5 instead of 1:3"),
    "block for char": (
        differ("./usr/null", type=tarfile.BLKTYPE),
        "/usr/null: NEW DEVICE 1:3, kind block instead of char",
    ),
    "fifo for device": (differ("./usr/null", type=tarfile.FIFOTYPE, dev=(0, 0)), "kind fifo instead of char"),
    "link for file": (
        put(symlink("./usr/su", "a")),
        "/usr/su: kind symlink instead of file, mode 0777 instead of 4755, sha256 none instead of ",
    ),
    "setuid": (differ("./usr/same", mode=0o4755), "/usr/same: NEW SETUID, mode 4755 instead of 0755"),
    "setgid": (differ("./usr/same", mode=0o2755), "/usr/same: NEW SETGID, mode 2755 instead of 0755"),
    "world-writable": (
        differ("./usr/same", mode=0o757),
        "/usr/same: NEWLY WORLD-WRITABLE, mode 0757 instead of 0755",
    ),
    "not sticky": (differ("./tmp", mode=0o777), "/tmp: NEWLY WORLD-WRITABLE, mode 0777 instead of 1777"),
    "new capabilities": (
        differ("./usr/same", pax={CAPABLE: CAPS}),
        "/usr/same: NEW CAPABILITIES, caps cap_net_raw=ep instead of none",
    ),
    "other capabilities": (
        differ("./usr/ping", pax={**ROWS["./usr/ping"].pax, CAPABLE: MORE_CAPS}),
        "/usr/ping: NEW CAPABILITIES, caps cap_net_admin,cap_net_raw=ep instead of cap_net_raw=ep",
    ),
    "no capabilities": (
        differ("./usr/ping", pax={"SCHILY.xattr.user.a": raw_pax(b"1\0\xff")}),
        "/usr/ping: caps none instead of cap_net_raw=ep",
    ),
    "attribute": (
        differ("./usr/ping", pax={CAPABLE: CAPS, "SCHILY.xattr.user.a": raw_pax(b"1\0\xfe")}),
        "1 path differs: /usr/ping: xattrs user.a",
    ),
    "attribute more": (differ("./usr", pax={"SCHILY.xattr.user.b": ""}), "1 path differs: /usr: xattrs user.b"),
    "a copy for a hard link": (
        put(file("./usr/b", b"content", mode=0o755)),
        "2 paths differ: /usr/a: same_file none instead of /usr/a; /usr/b: same_file none instead of /usr/a",
    ),
    "a hard link for a copy": (
        put(hardlink("./usr/same", "./usr/a")),
        "1 path differs: /usr/same: same_file /usr/a instead of none",
    ),
    "missing": (drop("./usr/fifo"), "1 path differs: /usr/fifo: missing, a fifo"),
    "more": (
        put(file("./usr/new", b"", mode=0o600, uid=5, gid=6)),
        "1 path differs: /usr/new: not in the manifest, a file of mode 0600, owner 5:6",
    ),
    "a device more": (
        put(device("./usr/mem", tarfile.CHRTYPE, 1, 1)),
        "1 path differs: /usr/mem: NEW DEVICE 1:1, not in the manifest, a char of mode 0660, owner 0:0",
    ),
}


@PACKING
@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_seen(good: Path, tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    seen = broken_of(mutant(good, tmp_path / "image", change))
    assert list(seen) == ["as built"] and words in seen["as built"], seen


def promised(path: str, mode: str = "0644", **more: Any) -> dict[str, Any]:
    return {"path": path, "kind": "file", "mode": mode, "uid": 0, "gid": 0, "size": 0, "sha256": "0", **more}


def test_what_is_dangerous_comes_first_and_all_are_counted() -> None:
    said = tree_of([promised(f"/{number:03}") for number in range(90)])
    seen = tree_of([promised(f"/{number:03}", "4755" if number == 77 else "0600") for number in range(90)])
    words = judge_tree(said, seen).seen
    assert words.startswith("90 paths differ: /077: NEW SETUID, mode 4755 instead of 0644; /000: mode 0600 ")
    assert words.endswith("/018: mode 0600 instead of 0644; and 70 more")


def test_a_set_bit_that_was_there_before_is_no_danger() -> None:
    said, seen = tree_of([promised("/s", "6777")]), tree_of([promised("/s", "6776")])
    assert judge_tree(said, seen).seen == "1 path differs: /s: mode 6776 instead of 6777"


# --- the manifest -----------------------------------------------------------------------------------


MANIFESTS: dict[str, tuple[bytes | None, str]] = {
    "none": (None, "manifest.json cannot be read: No such file or directory"),
    "no JSON": (b"{", "manifest.json cannot be used: "),
    "no UTF-8": (b"\xff\xff", "manifest.json cannot be used: "),
    "deep": (b"[" * 200_000, "manifest.json cannot be used: "),
    "no object": (b"[]", "manifest.json cannot be used: `files` lists none"),
    "no files": (b"{}", "manifest.json cannot be used: `files` lists none"),
    "an empty list": (b'{"files": []}', "manifest.json cannot be used: `files` lists none"),
    "no entries": (b'{"files": [1]}', "manifest.json cannot be used: `files` has an entry without a kind or a path"),
    "no kind": (b'{"files": [{"path": "/"}]}', "`files` has an entry without a kind or a path of its own"),
    "a path twice": (json.dumps({"files": [promised("/"), promised("/")]}).encode(), "without a kind or a path of"),
    "a link to nothing": (
        json.dumps({"files": [{"path": "/", "kind": "hardlink", "target": "/x"}]}).encode(),
        "`files` has a hard link to what it does not list",
    ),
}


@PACKING
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_says_nothing_is_a_broken_promise(good: Path, tmp_path: Path, name: str) -> None:
    content, words = MANIFESTS[name]
    (tmp_path / "rootfs.squashfs").symlink_to(good / "rootfs.squashfs")
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    seen = broken_of(tmp_path)
    assert list(seen) == ["as built"] and words in seen["as built"], seen


@PACKING
@pytest.mark.parametrize("key", ["mode", "uid", "gid", "size", "sha256", "target", "rdev", "xattrs", "caps"])
@pytest.mark.parametrize("wrong", [None, [], {"a": {}}, -1, "\udce9\n", 1.5, True])
def test_a_manifest_with_wrong_values_is_a_difference(good: Path, key: str, wrong: object) -> None:
    files = json.loads((good / "manifest.json").read_bytes())["files"]
    changed = [{**each, key: wrong} if key in each and each["kind"] != "hardlink" else each for each in files]
    verdict = judge_tree(tree_of(changed), tree_of(files))
    assert (not verdict.ok and f" instead of {'none' if wrong is None else ''}" in verdict.seen) or key == "xattrs"
    verdict.seen.encode()


@PACKING
def test_a_manifest_that_contradicts_itself_is_a_difference(good: Path, tmp_path: Path) -> None:
    text = (good / "manifest.json").read_text()
    old = '"kind": "hardlink", "mode": "0755"'
    assert text.count(old) == 1
    (tmp_path / "manifest.json").write_text(text.replace(old, '"kind": "hardlink", "mode": "4755"'))
    (tmp_path / "rootfs.squashfs").symlink_to(good / "rootfs.squashfs")
    assert "/usr/b: mode 0755 instead of 4755" in broken_of(tmp_path)["as built"]


# --- identity and passwords, which no manifest can allow ----------------------------------------------


def listed(image: Path, change: Callable[[dict[str, Row]], None], layout: Any = PLAIN) -> dict[str, str]:
    """What is broken in an image that was built like this."""
    rows = dict(ROWS)
    change(rows)
    return broken_of(publish(image, rows), layout)


DBUS = (folder("./var/lib/dbus"),)
IDENTITIES: dict[str, tuple[tuple[Row, ...], str]] = {
    "an id": ((file("./etc/machine-id", b"0123456789abcdef" * 2 + b"\n"),), "/etc/machine-id has content"),
    "uninitialized": ((file("./etc/machine-id", b"uninitialized\n"),), "/etc/machine-id has content"),
    "a link to an id": (
        (symlink("./etc/machine-id", "/var/id"), file("./var/id", b"1")),
        "/etc/machine-id has content",
    ),
    "dbus": ((*DBUS, file("./var/lib/dbus/machine-id", b"0")), "/var/lib/dbus/machine-id has content"),
    "both are one": (
        (*DBUS, file("./etc/machine-id", b"0"), symlink("./var/lib/dbus/machine-id", "/etc/machine-id")),
        "/etc/machine-id has content",
    ),
    "a seed": ((file("./var/lib/systemd/random-seed", b"s" * 32),), "/var/lib/systemd/random-seed has content"),
    "a host key": ((file("./etc/ssh/ssh_host_rsa_key", KEY),), "/etc/ssh/ssh_host_rsa_key is a host key"),
    "of a form unknown": ((file("./etc/ssh/ssh_host_x_key", b"k"),), "/etc/ssh/ssh_host_x_key is a host key"),
    "of another name": (
        (folder("./etc/ssh/x"), file("./etc/ssh/x/y", b"# a comment\n" + KEY)),
        "/etc/ssh/x/y is a host key",
    ),
    "of PEM": ((file("./etc/ssh/k", KEY.replace(b"OPENSSH ", b"")),), "/etc/ssh/k is a host key"),
    "a long one": ((file("./etc/ssh/k", KEY + bytes(3_000_000)),), "/etc/ssh/k is a host key"),
    "elsewhere": (
        (file("./etc/ssh/sshd_config", b'Port 22\n hostkey = "/usr/k"\n'), file("./usr/k", KEY)),
        "/usr/k is a host key",
    ),
    "a link to one": (
        (symlink("./etc/ssh/k", "../../usr/k"), file("./usr/k", KEY)),
        "/etc/ssh/k is a host key",
    ),
    "a hard link to one": ((file("./aaa", KEY), hardlink("./etc/ssh/k", "./aaa")), "/etc/ssh/k is a host key"),
    "dropbear's": (
        (folder("./etc/dropbear"), file("./etc/dropbear/k", b"\0\0\0\x0bssh-ed25519\0\0\0\x40")),
        "/etc/dropbear/k is a host key",
    ),
}


@PACKING
@pytest.mark.parametrize("name", IDENTITIES)
def test_an_identity_in_the_image(tmp_path: Path, name: str) -> None:
    rows, words = IDENTITIES[name]
    assert listed(tmp_path / "image", put(*rows)) == {"identity": words}


@PACKING
def test_what_is_no_identity(tmp_path: Path) -> None:
    """A key that nobody calls the host's, a public one, and an empty seed."""
    rows = [*DBUS, file("./var/lib/dbus/machine-id"), file("./var/lib/systemd/random-seed")]
    rows += [file("./usr/k", KEY), file("./etc/ssh/k.pub", b"ssh-ed25519 AAAA x\n"), symlink("./etc/ssh/l", "l")]
    rows += [file("./etc/ssh/ssh_host_a_key"), file("./etc/ssh/ssh_host_b_key.pub", b"ssh-ed25519 AAAA x\n")]
    rows += [file("./etc/ssh/sshd_config", b"#HostKey /usr/k\nHostKeyAgent /usr/k\nHostKey /run/k\n")]
    assert listed(tmp_path / "image", put(*rows)) == {}


@PACKING
def test_a_table_too_long_to_be_judged(tmp_path: Path) -> None:
    content = b"bob:*:1::::::\n" * 100_000 + b"root::1::::::\n"
    words = "/etc/shadow leads to /etc/shadow, which could not be judged"
    assert listed(tmp_path / "image", differ("./etc/shadow", content=content)) == {"passwords": words}


PASSWORDS: dict[str, tuple[str, bytes, str]] = {
    "root's empty": ("shadow", b"root::19700::::::\n", "/etc/shadow: root has an empty password"),
    "another's empty": ("shadow", b"root:*:1::::::\nbob::1::::::\n", "/etc/shadow: bob has an empty password"),
    "the second line": ("shadow", b"root:*:1::::::\nroot::1::::::", "/etc/shadow: root has an empty password"),
    "empty in passwd": ("passwd", b"root::0:0:root:/root:/bin/sh\n", "/etc/passwd: root has an empty password"),
    "not UTF-8": ("shadow", b"\xe9::1::::::\n", r"/etc/shadow: '\udce9' has an empty password"),
}


@PACKING
@pytest.mark.parametrize("name", PASSWORDS)
def test_an_open_door(tmp_path: Path, name: str) -> None:
    table, content, words = PASSWORDS[name]
    assert listed(tmp_path / "image", differ(f"./etc/{table}", content=content)) == {"passwords": words}


@PACKING
def test_a_password_that_every_device_shares_is_said(tmp_path: Path) -> None:
    content = b"root:$6$x:1::::::\nbob:$y$x:1::::::\nsvc:!$6$x:1::::::\nbin:*:1::::::\n\n#x::\n"
    image = publish(tmp_path / "image", {**ROWS, "./etc/shadow": file("./etc/shadow", content)})
    verdict = judged(image)["passwords"]
    assert verdict.ok and verdict.seen == "none; the same password on every device: bob, root"


@PACKING
def test_a_tree_without_accounts(tmp_path: Path) -> None:
    def change(rows: dict[str, Row]) -> None:
        del rows["./etc/shadow"], rows["./etc/passwd"]

    assert listed(tmp_path / "image", change) == {}


@PACKING
def test_what_the_profile_brings_is_its_decision(tmp_path: Path) -> None:
    text = "files: [{path: /etc/shadow, content: 'root::1::::::\\n'}]\n"
    layout = layout_of(text)
    image = publish(tmp_path / "image", {**ROWS, "./etc/shadow": file("./etc/shadow", b"root::1::::::\n")})
    verdict = judged(image, layout)["passwords"]
    assert verdict.ok and verdict.seen == "none; /etc/shadow of `files` as the profile has it"
    assert list(broken_of(image)) == ["passwords"]


@PACKING
def test_shadow_through_links(good: Path, tmp_path: Path) -> None:
    """Followed where the manifest has the link; a new one leads to what nobody has read."""
    there = (symlink("./etc/shadow", "/var/lib/s"), file("./var/lib/s", b"root::1::::::\n"))
    assert listed(tmp_path / "a", put(*there)) == {"passwords": "/etc/shadow: root has an empty password"}
    hard = {"./bbb": file("./bbb", b"root::1::::::\n"), "./etc/shadow": hardlink("./etc/shadow", "./bbb")}

    def change(rows: dict[str, Row]) -> None:
        del rows["./etc/shadow"]
        rows |= hard

    assert listed(tmp_path / "b", change) == {"passwords": "/etc/shadow: root has an empty password"}
    seen = broken_of(mutant(good, tmp_path / "c", put(*there)))
    assert seen["passwords"] == "/etc/shadow leads to /var/lib/s, which could not be judged"


# --- a squashfs that is none --------------------------------------------------------------------------


@PACKING
@pytest.mark.parametrize("content", [b"", b"hsqs", b"x" * 5000, None])
def test_no_squashfs_is_a_broken_promise(good: Path, tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "manifest.json").write_bytes((good / "manifest.json").read_bytes())
    if content is not None:
        (tmp_path / "rootfs.squashfs").write_bytes(content)
    seen = broken_of(tmp_path)
    assert len(seen) == 3 and all(words.startswith("rootfs.squashfs: ") for words in seen.values())


@PACKING
def test_each_damaged_byte_is_noticed_or_harmless(good: Path, tmp_path: Path) -> None:
    """Whatever sqfs2tar makes of it, there is a verdict; and most of what is stored is seen to differ."""
    data = (good / "rootfs.squashfs").read_bytes()
    (tmp_path / "manifest.json").write_bytes((good / "manifest.json").read_bytes())
    used = int.from_bytes(data[40:48], "little")
    noticed, places = 0, range(0, used, max(used // 60, 1))
    for at in places:
        broken = bytearray(data)
        broken[at] ^= 0x55
        (tmp_path / "rootfs.squashfs").write_bytes(broken)
        noticed += "as built" in broken_of(tmp_path)
    assert noticed > len(places) // 2


@PACKING
def test_a_cut_squashfs(good: Path, tmp_path: Path) -> None:
    data = (good / "rootfs.squashfs").read_bytes()
    (tmp_path / "manifest.json").write_bytes((good / "manifest.json").read_bytes())
    used = int.from_bytes(data[40:48], "little")
    for size in range(0, used, max(used // 20, 1)):
        (tmp_path / "rootfs.squashfs").write_bytes(data[:size])
        assert "as built" in broken_of(tmp_path)


@PACKING
def test_a_tree_that_goes_on_is_not_read_to_its_end(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {f"./{number:05}": file(f"./{number:05}", b"x" * 5000) for number in range(500)}
    image = mutant(good, tmp_path / "image", lambda tree: tree.update(rows))
    assert "500 paths differ" in broken_of(image)["as built"]
    with monkeypatch.context() as patch:
        patch.setattr(tree, "MOST_MORE_PATHS", 100)
        assert "holds far more than it should" in broken_of(image)["as built"]
    with monkeypatch.context() as patch:
        patch.setattr(tree, "MOST_MORE_BYTES", 1_000_000)
        assert "holds far more than it should" in broken_of(image)["as built"]
    with monkeypatch.context() as patch:
        patch.setattr(readback, "MOST_NAMES_BYTES", 1000)
        assert "holds far more than it should" in broken_of(image)["as built"]
    with monkeypatch.context() as patch:
        patch.setattr(tree, "MOST_HOST_KEYS", 0)
        assert "HostKey lines" in broken_of(image)["identity"]


def stand_in(directory: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sqfs2tar that does something else."""
    program = directory / "sqfs2tar"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_a_tool_that_is_missing_or_hangs_is_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "exec sleep 1000", monkeypatch)
    monkeypatch.setattr(readback, "TIMEOUT_S", 0.3)
    with pytest.raises(ToolError, match="did not end"):
        tree_outcomes(tmp_path, PLAIN)
    monkeypatch.setattr("rofs.run.shutil.which", lambda *_args, **_more: None)
    with pytest.raises(ToolError, match="not found"):
        tree_outcomes(tmp_path, PLAIN)


FAILURES = {
    "says why": ("echo 'unlikely' >&2; echo 'bad inode' >&2; exit 1", "x.squashfs: bad inode"),
    "says nothing": ("exit 3", "x.squashfs: exit status 3"),
    "dies in the middle": ("head -c 700 {tar}; kill -9 $$", "x.squashfs: exit status 137"),
    "stops in the middle": ("head -c 700 {tar}", "damaged"),
    "gives no tar": ("yes | head -c 100000000", "not a readable tar"),
    "gives nothing": ("true", "not a readable tar"),
    "gives one twice": ("cat {twice}", "'./a' is there twice|'/a' is there twice"),
    "climbs": ("cat {climbs}", "climbs out"),
    "links to nothing": ("cat {link}", "'/l' is a link to what is not there"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_the_tool_says_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tars = {
        "tar": write_tar(tmp_path / "t.tar", folder("./"), file("./a", b"1" * 2000)),
        "twice": write_tar(tmp_path / "2.tar", folder("./"), file("./a"), file("a")),
        "climbs": write_tar(tmp_path / "c.tar", file("../a")),
        "link": write_tar(tmp_path / "l.tar", hardlink("./l", "./a")),
    }
    body, words = FAILURES[name]
    stand_in(tmp_path, body.format(**tars), monkeypatch)
    with pytest.raises(ImageError, match=words):
        read_squashfs(tmp_path / "x.squashfs", ENOUGH, lambda *_: None)


# --- any tree -----------------------------------------------------------------------------------------


@PACKING
@pytest.mark.parametrize("seed", [11, 12])
def test_any_tree_is_read_back(tmp_path: Path, seed: int) -> None:
    """Hard links, holes, odd names, attributes, every owner and mode: as written, and equal to itself."""
    generate(tmp_path / "s.tar", FEW, seed)
    made, image = tmp_path / "plain.tar", tmp_path / "rootfs.squashfs"
    unpack_tar(tmp_path / "s.tar", made, None)
    resolve = read_facts(made).resolve
    records = list(write_squashfs(image, [made], [], options=OPTIONS, epoch=EPOCH, resolve=resolve, keep_times=True))
    heads: dict[str, bytes] = {}
    found = read_squashfs(image, ENOUGH, heads.__setitem__)
    assert differences(see_records(records), see_records(found)) == []
    assert {r.path: r.size for r in found if r.kind == "file"} == {path: len(head) for path, head in heads.items()}
    write_manifest(tmp_path, records)
    assert tree_of(json.loads((tmp_path / "manifest.json").read_text())["files"]) == tree_of(describe_files(found))
    assert judged(tmp_path)["as built"].ok


def through_a_pipe(tar: Path) -> list[tuple[str, bytes, int, bytes]]:
    with subprocess.Popen(["cat", tar], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pipe = Pipe(process.stdout.fileno())
        return [
            (info.name, info.type, archive.offset, read_content(archive, info) if info.isreg() else b"")
            for archive, info in iter_stream(pipe, "piped")
        ]


def test_a_pipe_gives_the_same_members_as_a_file(tmp_path: Path) -> None:
    generate(tmp_path / "s.tar", FEW, 13)
    expected = [
        (info.name, info.type, archive.offset, read_content(archive, info) if info.isreg() else b"")
        for archive, info in iter_members(tmp_path / "s.tar")
    ]
    assert through_a_pipe(tmp_path / "s.tar") == expected and len(expected) > FEW // 2


def test_a_pipe_that_ends_early(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "w.tar", folder("./"), file("./a", b"1" * 700), file("./b")).read_bytes()
    end = whole.rindex(b"ustar") - 257 + 512
    for size in range(0, end + 512, 64):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(ImageError):
            through_a_pipe(tmp_path / "cut.tar")
    (tmp_path / "cut.tar").write_bytes(whole[: end + 1024])
    assert [name for name, *_ in through_a_pipe(tmp_path / "cut.tar")] == [".", "./a", "./b"]
    (tmp_path / "cut.tar").write_bytes(whole + b"x")
    with pytest.raises(ImageError, match="goes on after its end"):
        through_a_pipe(tmp_path / "cut.tar")
