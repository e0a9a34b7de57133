# SPDX-License-Identifier: MIT
"""Document -> Profile: what each key means, what each refusal says, and that nothing else can happen."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rofs import values
from rofs.errors import Problem, ProfileError
from rofs.machine.arch import ARCHES
from rofs.problems import render_problems
from rofs.profile import DebianSource, DirectorySource, Persistent, Profile, TarSource, load_profile
from rofs.schema import schema, validator

HEAD = "schema: rofs/v1\nname: sample\nsource: {debian: {}}\n"
WHOLE = """\
schema: rofs/v1
name: sensor-gateway
description: MQTT gateway
architectures: [arm64]
hostname: gateway.example.org
machine_id: transient
state: {device: LABEL=keep, fstype: ext4, size: 128M, on_failure: refuse, volatile_size: 8M}
source:
  debian:
    suite: trixie
    packages: [systemd-sysv, g++]
    variant: minbase
    docs: true
    locales: [de, pt_BR]
    sources: debian.sources
init: systemd
kernel: {package: linux-image-rt, suite: sid, cmdline: {arm64: panic=10}, console: ttyS1, install_modules: false}
initrd: {modules: [mmc_block], firmware: [imx/sdma.bin]}
root: {device: PARTUUID=0a1b2c3d-02}
users:
  - {name: operator, uid: 1000, gid: 100, groups: [dialout], shell: /bin/sh, home: /srv/op,
     comment: Service staff, authorized_keys: [keys/operator.pub]}
home:
  - {user: operator, dotfiles: dotfiles/operator}
files:
  - {path: /etc/a, source: files/a, mode: "0640", owner: root, group: Debian-exim}
  - {path: /etc/b, content: "hello\\n"}
  - {path: /etc/c, link: ../usr/c}
units: {enable: [getty@ttyS0.service], mask: [apt-daily.timer]}
immutable: [/usr, /etc/ssh]
mounts:
  - {path: /tmp, type: tmpfs, size: 32M, inodes: 10k, mode: "1777", options: [nosuid, nodev]}
  - {path: /var, type: overlay, upper: tmpfs, size: 1048576}
  - {path: /srv/cache, type: bind, source: tmpfs, seed: empty, owner: www-data, group: www-data}
  - {path: /srv/app, type: bind, source: /run/app, access: rw, required: false}
  - {path: /srv/ro, type: bind, source: /usr/share/x}
  - {path: /etc, type: overlay, upper: state}
  - {path: /srv/own, type: bind, source: state, seed: empty, owner: www-data, group: root, mode: "0750"}
  - {path: /srv/db, type: partition, device: UUID=0a1b2c3d-0000-4000-8000-0123456789ab, fstype: ext4, size: 1G,
     on_failure: volatile, volatile_size: 4M, mode: "0700", owner: www-data, seed: image, options: [nodev]}
image: {format: squashfs, compression: gzip, level: 9, block_size: 1M, acl: drop}
verify: {units: [ssh.service], commands: ["true"], memory: 1G, listen: [tcp/22, udp/65535],
  tolerate_write_errors: [logger.service]}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "profile.yaml"
    path.write_text(text, "utf-8")
    return path


def read(tmp_path: Path, text: str) -> Profile:
    return load_profile(write(tmp_path, text))


def problems(tmp_path: Path, text: str) -> tuple[Problem, ...]:
    with pytest.raises(ProfileError) as caught:
        read(tmp_path, text)
    return caught.value.problems


def test_every_key_reaches_its_field(tmp_path: Path) -> None:
    profile = read(tmp_path, WHOLE)
    assert profile.file == tmp_path / "profile.yaml"
    assert (profile.name, profile.description) == ("sensor-gateway", "MQTT gateway")
    assert (profile.architectures, profile.hostname) == (("arm64",), "gateway.example.org")
    debian = profile.source
    assert isinstance(debian, DebianSource)
    assert (debian.suite, debian.packages, debian.variant) == ("trixie", ("systemd-sysv", "g++"), "minbase")
    assert (debian.docs, debian.locales, debian.sources) == (True, ("de", "pt_BR"), "debian.sources")
    kernel = profile.kernel
    assert (kernel.package, kernel.suite) == (dict.fromkeys(ARCHES, "linux-image-rt"), "sid")
    assert (kernel.cmdline, kernel.console) == ({"arm64": "panic=10"}, dict.fromkeys(ARCHES, "ttyS1"))
    assert (kernel.image, kernel.modules, kernel.config, kernel.install_modules) == ({}, {}, {}, False)
    assert (profile.initrd.modules, profile.initrd.firmware) == (("mmc_block",), ("imx/sdma.bin",))
    assert (profile.init, profile.root) == ("systemd", "PARTUUID=0a1b2c3d-02")
    (user,) = profile.users
    assert (user.name, user.uid, user.gid, user.groups) == ("operator", 1000, 100, ("dialout",))
    assert (user.shell, user.home, user.comment) == ("/bin/sh", PurePosixPath("/srv/op"), "Service staff")
    assert (user.authorized_keys, user.at) == (("keys/operator.pub",), ("users", 0))
    assert [(h.user, h.dotfiles, h.at) for h in profile.home] == [("operator", "dotfiles/operator", ("home", 0))]
    assert [(f.source, f.content, f.link) for f in profile.files] == [
        ("files/a", None, None),
        (None, "hello\n", None),
        (None, None, "../usr/c"),
    ]
    assert (profile.files[0].mode, profile.files[0].owner, profile.files[0].group) == (
        0o640,
        "root",
        "Debian-exim",
    )
    assert (profile.files[1].mode, profile.files[1].at) == (None, ("files", 1))
    assert profile.units.enable == ("getty@ttyS0.service",)
    assert profile.units.mask == ("apt-daily.timer",)
    assert [i.path for i in profile.immutable] == [PurePosixPath("/usr"), PurePosixPath("/etc/ssh")]
    image = profile.image
    assert (image.compression, image.level, image.block_size, image.acl) == ("gzip", 9, 1 << 20, "drop")
    verify = profile.verify
    assert (verify.units, verify.commands, verify.memory_bytes) == (("ssh.service",), ("true",), 1 << 30)
    assert (verify.listen, verify.tolerate_write_errors) == (("tcp/22", "udp/65535"), ("logger.service",))


def test_mounts(tmp_path: Path) -> None:
    tmpfs, overlay, own, app, shown = read(tmp_path, WHOLE).mounts[:5]
    assert (tmpfs.size_bytes, tmpfs.inodes, tmpfs.mode) == (32 << 20, 10 << 10, 0o1777)
    assert (tmpfs.options, tmpfs.required, tmpfs.seed) == (("nosuid", "nodev"), True, "empty")
    assert (overlay.upper, overlay.size_bytes, overlay.inodes) == ("tmpfs", 1 << 20, None)
    assert (own.source, own.access, own.seed, own.owner) == ("tmpfs", "rw", "empty", "www-data")
    assert (app.source, app.access, app.required) == ("/run/app", "rw", False)
    assert (shown.source, shown.access, shown.at) == ("/usr/share/x", "ro", ("mounts", 4))
    assert [m.store for m in (tmpfs, overlay, own, app, shown)] == [None] * 5


def test_mounts_that_persist(tmp_path: Path) -> None:
    overlay, bind, partition = read(tmp_path, WHOLE).mounts[5:]
    assert (overlay.upper, overlay.source, overlay.size_bytes, overlay.store) == ("state", None, None, None)
    assert (bind.source, bind.access, bind.seed, bind.store) == ("state", "rw", "empty", None)
    assert (bind.mode, bind.owner, bind.group) == (0o750, "www-data", "root")
    assert (partition.mode, partition.owner, partition.seed) == (0o700, "www-data", "image")
    # The size is that of the published image; `size_bytes` would be a cap of memory.
    assert (partition.options, partition.size_bytes, partition.access) == (("nodev",), None, "rw")
    assert partition.store == Persistent(
        name="/srv/db", device="UUID=0a1b2c3d-0000-4000-8000-0123456789ab", fstype="ext4", size_bytes=1 << 30,
        volatile_bytes=4 << 20, on_failure="volatile", at=("mounts", 7),
    )  # fmt: skip


def test_where_each_mount_keeps_what_is_written(tmp_path: Path) -> None:
    """A path that is called so is not the state partition, and nothing is two of the three."""
    named = "  - {path: /a, type: bind, source: /state}\n  - {path: /b, type: bind, source: /tmpfs}\n"
    mounts = read(tmp_path, WHOLE.replace("image: {format", f"{named}image: {{format")).mounts
    assert [str(m.path) for m in mounts if m.on_tmpfs] == ["/tmp", "/var", "/srv/cache"]
    assert [str(m.path) for m in mounts if m.on_state] == ["/etc", "/srv/own"]
    assert [str(m.path) for m in mounts if m.shows_path] == ["/srv/app", "/srv/ro", "/a", "/b"]
    assert [str(m.path) for m in mounts if m.store] == ["/srv/db"]


def test_the_state_partition(tmp_path: Path) -> None:
    assert read(tmp_path, HEAD).state is None
    assert read(tmp_path, WHOLE).state == Persistent(
        name="state", device="LABEL=keep", fstype="ext4", size_bytes=128 << 20, volatile_bytes=8 << 20,
        on_failure="refuse", at=("state",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "size", "volatile"),
    [
        ("", 64 << 20, 64 << 20),
        (", size: 16M", 16 << 20, 16 << 20),
        (", size: 8G", 8 << 30, 64 << 20),
        (", size: 8G, volatile_size: 128M", 8 << 30, 128 << 20),
        (", volatile_size: 4K", 64 << 20, 4096),
    ],
)
def test_the_memory_that_stands_in_for_a_store(tmp_path: Path, keys: str, size: int, volatile: int) -> None:
    """The size, but never more than 64M without being asked for: it is the device's memory."""
    text = f"state: {{on_failure: volatile{keys}}}\n"
    text += f"mounts: [{{path: /srv, type: partition, device: LABEL=data, on_failure: refuse{keys}}}]\n"
    profile = read(tmp_path, HEAD + text)
    for store in (profile.state, profile.mounts[0].store):
        assert store is not None
        assert (store.size_bytes, store.volatile_bytes) == (size, volatile)


def test_other_trees(tmp_path: Path) -> None:
    head = "schema: rofs/v1\nname: sample\n"
    tar = read(tmp_path, f"{head}source: {{tar: {{path: {{arm64: a.tar}}, sha256: {'a' * 64}}}}}\n")
    assert tar.source == TarSource(path={"arm64": "a.tar"}, sha256=dict.fromkeys(ARCHES, "a" * 64))
    assert tar.kernel.suite == "bookworm"
    directory = read(tmp_path, f"{head}source: {{directory: {{path: root, ownership: owners.txt}}}}\n")
    assert directory.source == DirectorySource(path=dict.fromkeys(ARCHES, "root"), ownership="owners.txt")


@pytest.mark.parametrize(
    ("source", "column", "rule"),
    [
        ("{}", 9, "missing-key"),
        ("{tar: {path: a.tar}, debian: {}}", 30, "misplaced-key"),
        ("{tar: {path: a.tar, sha256: abc}}", 37, "bad-value"),
        ("{tar: {}}", 15, "missing-key"),
        ("{tar: {path: ../a.tar}}", 22, "bad-path"),
        ("{directory: {path: a, owners: b}}", 31, "unknown-key"),
        ("{oci: {path: a}}", 10, "unknown-key"),
    ],
)
def test_a_bad_source_is_one_problem(tmp_path: Path, source: str, column: int, rule: str) -> None:
    found = problems(tmp_path, f"schema: rofs/v1\nname: sample\nsource: {source}\n")
    assert (found[-1].mark.line, found[-1].mark.column, found[-1].rule) == (3, column, rule), found
    assert len({p.rule for p in found}) <= 2


@pytest.mark.parametrize(
    ("text", "machine_id"),
    [
        ("", "transient"),
        ("state: {on_failure: volatile}", "state"),
        ("state: {on_failure: volatile}\nmachine_id: transient", "transient"),
        ("state: {on_failure: volatile}\nmachine_id: state", "state"),
    ],
)
def test_the_machine_id_is_kept_where_it_can_be(tmp_path: Path, text: str, machine_id: str) -> None:
    assert read(tmp_path, f"{HEAD}{text}\n").machine_id == machine_id


def test_defaults_are_those_the_schema_documents(tmp_path: Path) -> None:
    profile = read(tmp_path, HEAD)
    keys = schema()["properties"]
    assert profile.description == keys["description"]["default"]
    for key in ("architectures", "users", "home", "files", "immutable", "mounts"):
        assert list(getattr(profile, key)) == keys[key]["default"]
    debian = keys["source"]["properties"]["debian"]["properties"]
    parts = [
        (profile.source, debian),
        *((getattr(profile, k), keys[k]["properties"]) for k in ("initrd", "units")),
    ]
    assert profile.init == keys["init"]["default"]
    assert profile.kernel.install_modules is keys["kernel"]["properties"]["install_modules"]["default"]
    assert profile.kernel.cmdline.get("arm64", "") == keys["kernel"]["properties"]["cmdline"]["default"]
    assert profile.kernel.suite == debian["suite"]["default"]
    for part, described in parts:
        for key, about in described.items():
            value = getattr(part, key)
            assert (list(value) if isinstance(value, tuple) else value) == about.get("default"), key
    assert profile.hostname == profile.name
    assert (profile.image.compression, profile.image.level, profile.image.block_size) == (
        "zstd",
        15,
        128 << 10,
    )
    assert profile.image.acl == keys["image"]["properties"]["acl"]["default"]
    assert profile.verify.memory_bytes == 512 << 20
    assert profile.verify.listen is None, "nothing said is not nothing allowed"
    assert read(tmp_path, f"{HEAD}verify: {{listen: []}}\n").verify.listen == ()
    assert profile.verify.tolerate_write_errors == ()
    state = read(tmp_path, f"{HEAD}state: {{on_failure: volatile}}\n").state
    assert state is not None
    described = keys["state"]["properties"]
    assert [state.device, state.fstype] == [described[key]["default"] for key in ("device", "fstype")]
    assert state.size_bytes == values.disk_size(described["size"]["default"])
    assert "default" not in described["on_failure"], "it is a decision"
    text = f"{HEAD}mounts: [{{path: /srv, type: partition, device: LABEL=data, on_failure: refuse}}]\n"
    partition = read(tmp_path, text).mounts[0]
    mount = keys["mounts"]["items"]["properties"]
    assert partition.store is not None and partition.store.fstype == mount["fstype"]["default"]
    assert (partition.seed, partition.required) == (mount["seed"]["default"], mount["required"]["default"])


@pytest.mark.parametrize(("compression", "level"), [("zstd", 15), ("gzip", None), ("xz", None), ("lz4", None)])
def test_level_where_the_profile_is_silent(tmp_path: Path, compression: str, level: int | None) -> None:
    assert read(tmp_path, f"{HEAD}image: {{compression: {compression}}}\n").image.level == level


def test_the_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    backwards = yaml.safe_dump(turned(yaml.safe_load(WHOLE)), sort_keys=False)
    assert read(tmp_path, WHOLE) == read(tmp_path, backwards)


BAD_ROWS: list[tuple[str, int, int, str, str]] = [
    ("hostname: no", 4, 11, "wrong-type", 'write hostname: "no"'),
    ("hostname: 1:30", 4, 11, "wrong-type", 'write hostname: "1:30"'),
    ("hostname: -gw", 4, 11, "bad-value", "letters, digits and dashes"),
    ("description: 0755", 4, 14, "wrong-type", 'write description: "0755"'),
    ('description: "two\\nlines"', 4, 14, "bad-value", "one printable line"),
    ('verify: {commands: ["a\\0b"]}', 4, 21, "bad-value", ""),
    ("architectures: [amd64, sparc]", 4, 24, "bad-value", "one of amd64, arm64"),
    ("architectures: [amd46]", 4, 17, "bad-value", "did you mean 'amd64'?"),
    ("architectures: []", 4, 16, "bad-value", ""),
    ("architectures: [arm64, arm64]", 4, 24, "duplicate-value", ""),
    ("machine_id: keep", 4, 13, "bad-value", "one of state, transient"),
    ("machine_id: no", 4, 13, "bad-value", "one of state, transient"),
    ("state: yes", 4, 8, "wrong-type", ""),
    ("state: {}", 4, 8, "missing-key", ""),
    ("state: {device: LABEL=state, size: 64M}", 4, 8, "missing-key", ""),
    ("state: {on_failure: panic}", 4, 21, "bad-value", "one of volatile, refuse"),
    ("state: {on_failure: refuse, fstype: btrfs}", 4, 37, "bad-value", "write ext4"),
    ("state: {on_failure: refuse, device: /dev/vdb}", 4, 37, "bad-value", "LABEL="),
    ("state: {on_failure: refuse, size: 15M}", 4, 35, "bad-value", "16M or more"),
    ("state: {on_failure: refuse, size: 17000000}", 4, 35, "bad-value", "a multiple of 4096 bytes"),
    ("state: {on_failure: refuse, size: 32T}", 4, 35, "bad-value", "at most 16T"),
    ("state: {on_failure: refuse, volatile_size: 0}", 4, 44, "bad-value", "such as 64M"),
    ("state: {on_failure: refuse, volatile_size: 5000}", 4, 44, "bad-value", "a multiple of 4096 bytes"),
    ("state: {on_failure: refuse, options: [noatime]}", 4, 29, "unknown-key", "known here: device, fstype"),
    ("state: {on_failure: refuse, devise: LABEL=a}", 4, 29, "unknown-key", "did you mean 'device'?"),
    ("kernel: {package: Linux}", 4, 19, "bad-value", "a package's name"),
    ("kernel: {package: foo-}", 4, 19, "bad-value", "a package's name"),
    ('kernel: {cmdline: "a\\nb"}', 4, 19, "bad-value", ""),
    ("initrd: {modules: [a.ko]}", 4, 20, "bad-value", "without directory and .ko"),
    ('initrd: {modules: ["a\\n"]}', 4, 20, "bad-value", ""),
    ("initrd: {firmware: [/lib/x]}", 4, 21, "bad-value", "below /lib/firmware"),
    ("initrd: {firmware: [a/../../x]}", 4, 21, "bad-value", "below /lib/firmware"),
    ("kernel: {modules: lib}", 4, 10, "misplaced-key", "`initrd: {modules: [...]}`"),
    ("kernel: {config: .config}", 4, 10, "misplaced-key", ""),
    ("kernel: {image: /boot/Image}", 4, 17, "bad-path", "put the profile above it"),
    ("kernel: {image: {arm46: Image}}", 4, 18, "unknown-key", "did you mean 'arm64'?"),
    ("kernel: {image: {arm64: ../Image}}", 4, 25, "bad-path", "put the profile above it"),
    ("kernel: {image: [Image]}", 4, 17, "wrong-type", ""),
    ("kernel: {package: {arm64: Linux}}", 4, 27, "bad-value", "package's name"),
    ("kernel: {cmdline: {arm64: \"a\\nb\"}}", 4, 27, "bad-value", ""),
    ("init: busybox", 4, 7, "bad-value", "one of systemd, other"),
    ("root: {device: LABEL=root}", 4, 16, "bad-value", "neither UUID nor LABEL"),
    ("root: {device: /dev/../etc}", 4, 16, "bad-value", ""),
    ("root: {device: PARTUUID=0A1B2C3D-02}", 4, 16, "bad-value", "lower case"),
    ("root: {}", 4, 7, "missing-key", ""),
    ("users: [{name: Op, uid: 1000}]", 4, 16, "bad-value", "lower-case"),
    ("users: [{name: op, uid: 1000.0}]", 4, 25, "wrong-type", ""),
    ("users: [{name: op, uid: true}]", 4, 25, "wrong-type", ""),
    ('users: [{name: op, uid: "1000"}]', 4, 25, "wrong-type", "without quotes"),
    ("users: [{name: op, uid: 60000}]", 4, 25, "bad-value", ""),
    ("users: [{name: op, uid: 0x10}]", 4, 25, "bad-value", "write 16 if that is meant"),
    ("users: [{name: op, uid: 1, comment: 'a:b'}]", 4, 37, "bad-value", "leave it out"),
    ("users: [{name: op, uid: 1, home: '/a:b'}]", 4, 34, "bad-path", ""),
    ("files: [{path: /a, content: x, mode: 644}]", 4, 38, "wrong-type", 'write mode: "644"'),
    ('files: [{path: /a, content: x, mode: "0888"}]', 4, 38, "bad-value", "octal digits"),
    ("files: [{path: /a, content: x, owner: 1000}]", 4, 39, "wrong-type", 'write owner: "1000"'),
    ("files: [{path: /a, source: /etc/x}]", 4, 28, "bad-path", "copy it there"),
    ("units: {enable: [ssh]}", 4, 18, "bad-value", "write ssh.service"),
    ("units: {enable: ssh.service}", 4, 17, "wrong-type", "write enable: [ssh.service]"),
    ("units: {enable: [getty@.service]}", 4, 18, "bad-value", "name an instance"),
    ("units: {enable: [a/b.service]}", 4, 18, "bad-value", ""),
    ("immutable: [usr]", 4, 13, "bad-path", "write /usr"),
    ("immutable: [/]", 4, 13, "bad-path", ""),
    ("immutable: [//usr]", 4, 13, "bad-path", "write /usr"),
    ("immutable: [/usr//a]", 4, 13, "bad-path", "write /usr/a"),
    ("immutable: [/usr/./a]", 4, 13, "bad-path", "write /usr/a"),
    ("immutable: [/usr/]", 4, 13, "bad-path", "write /usr"),
    ("immutable: [/usr/..]", 4, 13, "bad-path", "write the path it leads to"),
    ("immutable: ['/usr ']", 4, 13, "bad-path", ""),
    ("immutable: ['/usr\\']", 4, 13, "bad-path", ""),
    ('immutable: ["/usr\\n/a"]', 4, 13, "bad-path", ""),
    ("immutable: [/" + "a" * 256 + "]", 4, 13, "bad-path", ""),
    ("immutable: [" + "/abcdefg" * 512 + "]", 4, 13, "bad-path", ""),
    ("mounts: [{path: /a, type: ext4}]", 4, 27, "bad-value", "one of tmpfs, overlay, bind, partition"),
    ("mounts: [{path: /a, type: tmpfs, size: 64MB}]", 4, 40, "bad-value", "such as 64M"),
    ("mounts: [{path: /a, type: tmpfs, size: 5000}]", 4, 40, "bad-value", "a multiple of 4096 bytes"),
    ("mounts: [{path: /a, type: tmpfs, size: 0}]", 4, 40, "bad-value", "such as 64M"),
    ("mounts: [{path: /a, type: tmpfs, size: -1}]", 4, 40, "bad-value", "such as 64M"),
    ("mounts: [{path: /a, type: tmpfs, size: 1_000}]", 4, 40, "bad-value", "write 1000 if that is meant"),
    ("mounts: [{path: /a, type: tmpfs, inodes: 1}]", 4, 42, "bad-value", ""),
    ("mounts: [{path: /a, type: tmpfs, required: 'no'}]", 4, 44, "wrong-type", ""),
    ("mounts: [{path: /a, type: bind, source: b}]", 4, 41, "bad-path", ""),
    ("mounts: [{path: /a, type: bind, source: /a}]", 4, 41, "bad-value", "`immutable:`"),
    ("mounts: [{path: /a, type: bind, source: stat}]", 4, 41, "bad-path", ""),
    ("mounts: [{path: /a, type: overlay, upper: stat}]", 4, 43, "bad-value", "did you mean 'state'?"),
    ("mounts: [{path: /a, type: partition, on_failure: refuse}]", 4, 10, "missing-key", ""),
    ("mounts: [{path: /a, type: partition, device: LABEL=a}]", 4, 10, "missing-key", ""),
    ("mounts: [{path: /a, type: partition, device: LABEL=a, on_failure: no}]", 4, 67, "bad-value", "volatile, refuse"),
    ("mounts: [{path: /a, type: tmpfs, options: [nodev, nodev]}]", 4, 51, "duplicate-value", ""),
    ("image: {level: 0}", 4, 16, "bad-value", "`compression: zstd`"),
    ("image: {compression: gzip, level: 10}", 4, 35, "bad-value", "`compression: gzip`"),
    ("image: {compression: lz4, level: 1}", 4, 27, "misplaced-key", ""),
    ("image: {block_size: 96K}", 4, 21, "bad-value", "a power of two"),
    ("image: {block_size: 2M}", 4, 21, "bad-value", "a power of two"),
    ("image: {acl: no}", 4, 14, "bad-value", "one of error, drop"),
    ("verify: {memory: 1M}", 4, 18, "bad-value", "64M to 64G"),
    ("verify: {commands: ['']}", 4, 21, "bad-value", ""),
    ("verify: {unit: [ssh.service]}", 4, 10, "unknown-key", "did you mean 'units'?"),
    ('"a\\nb": 1', 4, 1, "unknown-key", "known here"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "row", "column", "rule", "hint"), BAD_ROWS, ids=[r[0][:50] for r in BAD_ROWS])
def test_a_bad_row_is_one_problem(tmp_path: Path, line: str, row: int, column: int, rule: str, hint: str) -> None:
    (problem,) = problems(tmp_path, f"{HEAD}{line}\n")
    assert (problem.mark.line, problem.mark.column, problem.rule) == (row, column, rule)
    assert hint in problem.hint


PARTITION = "type: partition, device: LABEL=a, on_failure: refuse"
OF_A_PARTITION = ("device: LABEL=a", "fstype: ext4", "on_failure: refuse", "volatile_size: 4M")
MISPLACED = {
    "type: tmpfs": OF_A_PARTITION,
    "type: overlay, upper: tmpfs": OF_A_PARTITION,
    "type: overlay, upper: state": (
        *OF_A_PARTITION, "size: 4M", "inodes: 100", "mode: '0755'", "owner: root", "seed: image", "source: state",
    ),
    "type: bind, source: /b": (*OF_A_PARTITION, "size: 4M", "owner: root"),
    "type: bind, source: tmpfs": OF_A_PARTITION,
    "type: bind, source: state": (*OF_A_PARTITION, "size: 4M", "inodes: 100", "access: rw", "upper: state"),
    PARTITION: ("upper: state", "source: state", "source: /b", "access: rw", "inodes: 100"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in MISPLACED.items() for key in keys])
def test_a_key_of_another_kind_of_mount(tmp_path: Path, kind: str, key: str) -> None:
    line = f"mounts: [{{path: /a, {kind}, {key}}}]"
    (problem,) = problems(tmp_path, f"{HEAD}{line}\n")
    assert (problem.mark.line, problem.mark.column, problem.rule) == (4, line.rindex(key) + 1, "misplaced-key")
    assert problem.message.startswith(f"the key {key.partition(':')[0]!r} does not go with ")


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("fstype", "xfs", "write ext4"),
        ("size", "1M", "16M or more"),
        ("size", "64MB", "such as 64M"),
        ("volatile_size", "0", "such as 64M"),
        ("seed", "once", "one of image, empty"),
    ],
)
def test_a_bad_value_of_a_partition(tmp_path: Path, key: str, value: str, hint: str) -> None:
    line = f"mounts: [{{path: /a, {PARTITION}, {key}: {value}}}]"
    (problem,) = problems(tmp_path, f"{HEAD}{line}\n")
    assert (problem.mark.column, problem.rule) == (line.rindex(value) + 1, "bad-value")
    assert hint in problem.hint


def test_a_decision_that_is_missing_is_named(tmp_path: Path) -> None:
    state, device, on_failure = problems(tmp_path, f"{HEAD}state: {{}}\nmounts: [{{path: /a, type: partition}}]\n")
    assert (state.message, state.at) == ("the key 'on_failure' is missing", ("state", "on_failure"))
    assert device.message == "`type: partition` needs the key 'device'"
    assert on_failure.message == "`type: partition` needs the key 'on_failure'"


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("size=1M", "`size`"),
        ("nr_inodes=5", "`inodes`"),
        ("mode=0755", "`mode`"),
        ("uid=0", "`owner`"),
        ("gid=0", "`group`"),
        ("ro", "`access:`"),
        ("rw", "`access:`"),
        ("bind", "`type: bind`"),
        ("nofail", "`required`"),
        *((option, "leave it out") for option in ("lowerdir=/a", "lowerdir+=/a", "upperdir=/a", "index=on")),
        *((option, "leave it out") for option in ("x-systemd.automount", "x-initrd.mount", "X-mount.mkdir")),
        *((option, "leave it out") for option in ("noauto", "remount", "move", "rshared", "defaults", "user")),
        ("nosuid,nodev", "one list item"),
        ("no suid", "such as"),
        ("a\nb", "such as"),
        ("", "such as"),
    ],
)
def test_options_that_are_not_the_profiles(option: str, key: str) -> None:
    with pytest.raises(values.BadValue) as caught:
        values.mount_option(option)
    assert key in caught.value.hint


@pytest.mark.parametrize(
    "option", ["nosuid", "noexec", "noatime", "huge=never", "mpol=prefer:1", "inode64", "volatile"]
)
def test_options_that_are(option: str) -> None:
    assert values.mount_option(option) == option


@pytest.mark.parametrize(
    ("text", "number"), [("4K", 4096), ("64M", 64 << 20), ("1g", 1 << 30), (8192, 8192), ("16T", 16 << 40)]
)
def test_sizes(text: str | int, number: int) -> None:
    assert values.size(text) == number


@pytest.mark.parametrize(
    "tag",
    [
        "LABEL=state", "LABEL=a", "LABEL=A_b.c-9", "LABEL=0123456789abcdef", "LABEL=-", "LABEL=.",
        "UUID=0a1b2c3d-4e5f-6789-abcd-ef0123456789",
    ],
)  # fmt: skip
def test_device_tags(tag: str) -> None:
    assert values.device_tag(tag) == tag


@pytest.mark.parametrize(
    "tag",
    [
        "", "state", "/dev/vdb", "/dev/disk/by-label/state", "LABEL=", "LABEL=0123456789abcdefg", "LABEL=a b",
        "LABEL=a,b", "LABEL=a/b", "LABEL='a'", "LABEL=a\n", "LABEL=ä", "LABEL=a=b", "label=a", " LABEL=a", "UUID=",
        "UUID=0A1b2c3d-4e5f-6789-abcd-ef0123456789", "UUID=0a1b2c3d-4E5f-6789-abcd-ef0123456789",
        "UUID=0a1b2c3d-4e5f-6789-abcd-EF0123456789", "UUID=0a1b2c3d4e5f6789abcdef0123456789", "UUID=0a1b-2c3d",
        "UUID=0a1b2c3d-4e5f-6789-abcd-ef0123456789a", "PARTUUID=0a1b2c3d-01", "PARTLABEL=state", "LABEL=a LABEL=b",
    ],
)  # fmt: skip
def test_names_that_no_file_system_carries(tag: str) -> None:
    with pytest.raises(values.BadValue, match="is not a name that a file system carries") as caught:
        values.device_tag(tag)
    assert "LABEL=" in caught.value.hint and "UUID=" in caught.value.hint


@pytest.mark.parametrize(("text", "number"), [("16M", 16 << 20), (16 << 20, 16 << 20), ("16T", 16 << 40)])
def test_disk_sizes(text: str | int, number: int) -> None:
    assert values.disk_size(text) == number


@pytest.mark.parametrize("text", ["16383K", (16 << 20) - 4096, "4K", 0, "17T", "16MB", (16 << 20) + 1])
def test_sizes_that_no_disk_has(text: str | int) -> None:
    with pytest.raises(values.BadValue):
        values.disk_size(text)


@pytest.mark.parametrize("name", ["ssh.service", "dev-a\\x2db.mount", "getty@tty1.service", "a.b.socket", "-.mount"])
def test_unit_names(name: str) -> None:
    assert values.unit(name) == name


@pytest.mark.parametrize("path", ["/a", "/a b", "/ä/ö", "/a:b,c", "/%h", "/...", "/-a", "/a\\b"])
def test_paths_that_are_merely_hostile(path: str) -> None:
    assert values.image_path(path) == PurePosixPath(path)


def test_everything_at_once_and_sorted(tmp_path: Path) -> None:
    found = problems(tmp_path, "schema: rofs/v1\nname: A\nname: B\nhostnme: x\nsource: {}\nimage: {level: 99}\n")
    assert [(p.mark.line, p.rule) for p in found] == [
        (2, "bad-value"),
        (3, "duplicate-key"),
        (4, "unknown-key"),
        (5, "missing-key"),
        (6, "bad-value"),
    ]


def test_a_missing_file_has_its_own_rule(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(tmp_path / "absent.yaml")
    assert [p.rule for p in caught.value.problems] == ["missing-file"]


def test_jsonschema_waits_until_a_profile_is_checked() -> None:
    code = "import sys, rofs.inputs; sys.exit('jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The schema as something for people and editors.


def subschemas(part: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every schema of a key, by its path; not those of `then`, which describe no key of their own."""
    for key, about in part.get("properties", {}).items():
        yield (*at, key), about
        yield from subschemas(about, (*at, key))
    if "items" in part:
        yield from subschemas(part["items"], at)


def test_the_schema_is_one() -> None:
    validator().check_schema(schema())


def test_every_key_has_a_description_and_examples_that_hold() -> None:
    rows = list(subschemas(schema()))
    assert len(rows) > 50
    for at, about in [((), schema()), *rows]:
        assert about["description"].endswith("."), at
        assert about["examples"], at
        for example in about["examples"]:
            errors = [
                error.message
                for error in validator().evolve(schema=about | {"$defs": schema()["$defs"]}).iter_errors(example)
            ]
            assert not errors, at


def test_every_mapping_is_closed() -> None:
    for at, about in [((), schema()), *subschemas(schema())]:
        for part in (about, about.get("items", {})):
            if "properties" in part:
                assert part["additionalProperties"] is False, at
                assert part["type"] == "object", at


def test_every_condition_has_words() -> None:
    for at, about in subschemas(schema()):
        for part in (about, about.get("items", {})):
            assert all(rule["if"]["description"] for rule in part.get("allOf", ())), at


def test_every_format_is_known() -> None:
    text = str(schema())
    known = values.FORMATS | values.NUMBER_FORMATS
    assert {p["format"] for p in _every_mapping(schema()) if isinstance(p.get("format"), str)} == set(known), text


def _every_mapping(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _every_mapping(item)


# Properties: whatever the data, a Profile or problems, each on one line of the file.

KEYS = sorted({at[-1] for at, _ in subschemas(schema())})
WORDS = [
    "",
    "tmpfs",
    "overlay",
    "bind",
    "state",
    "partition",
    "refuse",
    "LABEL=state",
    "/var",
    "../x",
    "64M",
    "0755",
    "no",
    "ssh.service",
    "rofs/v1",
    "a\nb",
    "x" * 300,
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=8),
    st.dates(),
)
DATA = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner),
    max_leaves=12,
)


def profile_or_problems(path: Path, text: str) -> None:
    path.write_text(text, "utf-8", "surrogatepass")
    try:
        assert isinstance(load_profile(path), Profile)
        return
    except ProfileError as error:
        found = error.problems
    assert found
    assert all(1 <= problem.mark.line <= text.count("\n") + 2 for problem in found)
    assert render_problems(found).count("\n") == len(found)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles") / "profile.yaml"


@given(data=st.dictionaries(st.sampled_from(sorted(schema()["properties"])), DATA))
@settings(deadline=None)
def test_any_data(scratch: Path, data: dict[str, Any]) -> None:
    profile_or_problems(scratch, yaml.safe_dump(data, allow_unicode=True))


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(inner, (*at, key))


GOOD = yaml.safe_load(WHOLE)


@given(at=st.sampled_from(list(places(GOOD))), value=DATA)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_good_profile_with_one_value_replaced(scratch: Path, at: tuple[Any, ...], value: Any) -> None:
    data = copy.deepcopy(GOOD)
    inner = data
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    profile_or_problems(scratch, yaml.safe_dump(data, allow_unicode=True))


@given(start=st.integers(0, len(WHOLE)), size=st.integers(0, 40), put=st.text(max_size=6))
@settings(deadline=None)
def test_a_good_profile_with_a_piece_replaced(scratch: Path, start: int, size: int, put: str) -> None:
    profile_or_problems(scratch, WHOLE[:start] + put + WHOLE[start + size :])


@pytest.mark.parametrize(
    "port", ["tcp/0", "tcp/65536", "tcp/99999", "22", "tcp/022", "sctp/22", "tcp/", "TCP/22", "tcp/22 "]
)
def test_what_is_no_port(tmp_path: Path, port: str) -> None:
    (problem,) = problems(tmp_path, f"{HEAD}verify: {{listen: ['{port}']}}\n")
    assert problem.at == ("verify", "listen", 0) and "such as tcp/22" in problem.hint
    assert read(
        tmp_path, f"{HEAD}verify: {{listen: [tcp/1, udp/9999, tcp/10000, udp/59999, tcp/65535]}}\n"
    ).verify.listen
