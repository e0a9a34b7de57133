# SPDX-License-Identifier: MIT
"""Trees that rofs did not make become verified images with every kind of promise, on both architectures."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from foreign import COMPRESSORS, fetch_sysvinit, make_buildroot, pack, sha256, tar_buildroot

from rofs.layout import Promise
from rofs.sources.kernel import Boot
from rofs.verify.faults import FAULTS

pytestmark = [
    pytest.mark.boot,
    pytest.mark.needs("busybox", "tar", "zstd", "xz", "mmdebstrap", "sqfs2tar", "ssh", "ssh-keygen", "mkfs.ext4"),
]

Rofs = Callable[..., subprocess.CompletedProcess[str]]
ARCHITECTURES = ("amd64", "arm64")
UNBROKEN = ["state new", "state used", "factory reset"]
TITLES = [*UNBROKEN, *(f"state {fault}" for fault in FAULTS)]
CHECKED = {
    "answers", "block device", "boot", "canary", "factory reset", "fstab", "generated", "hidden by state", "hostname",
    "identity", "image", "image content", "image tree", "immutable", "inode cap", "machine-id", "memory", "mount",
    "network", "nothing undeclared", "persistent", "pinned", "seed", "seeded once", "setuid", "size cap", "state",
    "system", "user", "verify.commands", "volatile", "writable",
}  # fmt: skip
"""The promises a report of a whole verification must speak of, whatever the tree."""


@dataclass(frozen=True)
class Image:
    """One image: its directory, the archive it was made of, and its report."""

    directory: Path
    archive: Path
    report: dict[str, Any]

    def seen(self, promise: str) -> list[dict[str, Any]]:
        """The checks of one promise."""
        return [check for check in self.report["checks"] if check["promise"] == promise]


def read_image(directory: Path, archive: Path) -> Image:
    return Image(directory, archive, json.loads((directory / "report.json").read_text()))


def write_profile(
    directory: Path, name: str, profile: Mapping[str, Any], architectures: Sequence[str] = ARCHITECTURES
) -> Path:
    """A profile beside its archives."""
    head = {"schema": "rofs/v1", "name": name, "architectures": list(architectures), "init": "other"}
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**head, **profile}, sort_keys=False))
    return path


def source(paths: Mapping[str, Path]) -> dict[str, Any]:
    """The archives beside the profile, by architecture, each with its hash."""
    return {
        "tar": {
            "path": {arch: path.name for arch, path in paths.items()},
            "sha256": {arch: sha256(path) for arch, path in paths.items()},
        }
    }


def persistent(**more: Any) -> dict[str, Any]:
    return {"size": "16M", "volatile_size": "4M", "on_failure": "volatile", **more}


# --- an image's tree and its archive, read by programs that are not rofs ------------------------------

Members = dict[str, tuple[object, ...]]


def read_members(plain: Path) -> Members:
    """Path -> type, mode, owner, time, link, device, content and attributes; a hard link has its file's."""
    found: Members = {}
    with tarfile.open(plain) as tar:
        for info in tar:
            path = "/" + info.name.removeprefix("./").strip("./")
            if info.islnk():
                found[path] = found["/" + info.linkname.removeprefix("./")]
                continue
            content = tar.extractfile(info) if info.isfile() else None
            digest = hashlib.sha256(content.read()).hexdigest() if content else ""
            device = (info.devmajor, info.devminor) if info.isdev() else ()
            mode = 0o777 if info.issym() else info.mode
            xattrs = sorted(item for item in info.pax_headers.items() if item[0].startswith("SCHILY.xattr."))
            found[path] = (info.type, mode, info.uid, info.gid, int(info.mtime), info.linkname, device, digest, *xattrs)
    return found


def read_archive(archive: Path, work: Path) -> Members:
    plain = work / "archive.tar"
    unpack = COMPRESSORS[archive.name[archive.name.index(".tar") :]][0]
    with plain.open("wb") as out:
        subprocess.run([unpack, *(["-dc"] if unpack != "cat" else []), archive], stdout=out, check=True)
    return read_members(plain)


def read_squashfs(image: Path, work: Path) -> Members:
    plain = work / "image.tar"
    with plain.open("wb") as out:
        subprocess.run(["sqfs2tar", image / "rootfs.squashfs"], stdout=out, check=True)
    return read_members(plain)


def changed(image: Image, work: Path) -> tuple[set[str], set[str], set[str]]:
    """Paths that the image has anew, that it has otherwise, and that it has not. The root is no member of it."""
    was, now = read_archive(image.archive, work), read_squashfs(image.directory, work)
    was.pop("/", None)
    now.pop("/", None)
    other = {path for path in was.keys() & now.keys() if was[path] != now[path]}
    assert len(was.keys() & now.keys() - other) > 100
    return now.keys() - was.keys(), other, was.keys() - now.keys()


# --- what every report must say -----------------------------------------------------------------------


def assert_verified(image: Image, *, init: str, titles: list[str], promises: set[Promise]) -> None:
    """Everything was checked and kept, the init was the tree's own, and each boot ended in a power-off."""
    report = image.report
    assert report["verdict"] == "accepted"
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert [boot["title"] for boot in report["boots"]] == titles
    assert [boot["ended"] for boot in report["boots"]] == ["off"] * len(titles)
    settled = [check["seen"] for check in image.seen("system") if check["subject"] == "settled"]
    assert [seen.split(", ")[0] for seen in settled] == [f"PID 1 is {init}"] * len(titles), settled
    assert all("at rest" in seen for seen in settled), settled
    mounted = {check["subject"].rpartition("(")[2].rstrip(")") for check in image.seen("mount")}
    assert mounted >= {promise.value for promise in promises}
    strengths = {check["seen"].partition(";")[0] for check in image.seen("immutable")}
    assert strengths >= {"image-ro", "pinned-ro"}


EVERY = {*Promise} - {Promise.MACHINE_ID}
"""Where /etc can be written the machine-id is a file of it, and no mount."""

# --- Buildroot ----------------------------------------------------------------------------------------

BUILDROOT: dict[str, Any] = {
    "hostname": "board",
    "kernel": {"cmdline": "panic=10"},
    "users": [
        {"name": "service", "uid": 1000, "groups": ["dialout"], "shell": "/bin/sh", "authorized_keys": ["key.pub"]}
    ],
    "immutable": ["/usr", "/opt", "/etc/inittab", "/etc/init.d", "/etc/network/interfaces", "/var/www"],
    "state": persistent(device="LABEL=state"),
    "mounts": [
        {"path": "/etc", "type": "overlay", "upper": "state"},
        {"path": "/var", "type": "overlay", "upper": "tmpfs", "size": "4M", "inodes": 512},
        {"path": "/var/lib/counter", "type": "bind", "source": "state", "seed": "image"},
        {"path": "/tmp", "type": "tmpfs", "size": "4M", "inodes": 512},
        {"path": "/home", "type": "bind", "source": "tmpfs", "seed": "image", "size": "2M", "inodes": 256},
        {"path": "/media", "type": "bind", "source": "/usr/share/doc", "access": "ro"},
        {"path": "/mnt", "type": "bind", "source": "/var/lib/counter", "access": "rw"},
        {"path": "/srv", "type": "partition", "seed": "image", **persistent(device="LABEL=data")},
    ],
    "image": {"compression": "zstd", "level": 1},
    "verify": {
        "memory": "192M",
        "commands": [
            'test "$(hostname)" = board',
            'test "$(readlink /proc/1/exe)" = /bin/busybox',
            "for daemon in syslogd klogd httpd; do pidof $daemon || exit 1; done",
            "wget -q -O - http://localhost/ | grep -q works",
            'test "$(cat /mnt/starts)" -ge 1',
            "su service -c 'test \"$(id -nG)\" = \"service dialout\" && touch ~/mine && ! touch /root/mine'",
            "grep -q 'Read-only file system' /run/breach && ! test -e /breach",
            "modprobe dummy && lsmod | grep -q ^dummy",
        ],
    },
}  # fmt: skip
SERVICE = {"/home/service", "/home/service/.ssh", "/home/service/.ssh/authorized_keys"}
ACCOUNTS = {"/etc/passwd", "/etc/group", "/etc/shadow"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key of this session; its public half is beside it."""
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def buildroot(
    boot_files: Callable[[str], Boot], key: Path, rofs: Rofs, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Image]:
    """Both architectures of one profile; one archive is compressed."""
    directory = tmp_path_factory.mktemp("buildroot")
    (directory / "key.pub").write_text(key.with_suffix(".pub").read_text())
    paths = {arch: directory / f"rootfs-{arch}{end}" for arch, end in (("amd64", ".tar.zst"), ("arm64", ".tar"))}
    for arch, path in paths.items():
        tar_buildroot(make_buildroot(directory / arch, boot_files(arch).busybox), path)
    profile = write_profile(directory, "buildroot", {"source": source(paths), **BUILDROOT})
    done = rofs("build", profile, "--output", directory / "images")
    assert done.returncode == 0, done.stdout + done.stderr
    return lambda arch: read_image(directory / "images/buildroot" / arch, paths[arch])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_buildroot_image_keeps_every_kind_of_promise(buildroot: Callable[[str], Image], arch: str) -> None:
    image = buildroot(arch)
    assert_verified(image, init="/bin/busybox", titles=TITLES, promises=EVERY)
    assert {check["promise"] for check in image.report["checks"]} == CHECKED


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_buildroot_tree_is_the_archives(buildroot: Callable[[str], Image], arch: str, tmp_path: Path) -> None:
    new, other, gone = changed(buildroot(arch), tmp_path)
    assert {path for path in new if not path.startswith("/lib/modules")} == {*SERVICE, "/etc/machine-id"}
    assert other == ACCOUNTS | {"/etc/fstab", "/etc/hostname", "/etc/hosts"}
    assert gone == set()


def test_what_init_writes_for_such_a_tar_builds_untouched(
    boot_files: Callable[[str], Boot], rofs: Rofs, tmp_path: Path
) -> None:
    tar = tar_buildroot(make_buildroot(tmp_path / "made", boot_files("amd64").busybox), tmp_path / "rootfs.tar")
    profile = tmp_path / "gw.yaml"
    done = rofs("init", "gw", "--tar", tar, "--output", profile)
    assert done.returncode == 0 and "init: other\n" in profile.read_text(), done.stderr
    done = rofs("build", profile, "--output", tmp_path / "images")
    assert done.returncode == 0 and "gw/amd64: verified, " in done.stdout, done.stdout + done.stderr


# --- sysvinit -----------------------------------------------------------------------------------------

RC_LOCAL = """\
#!/bin/sh
ip link set lo up
ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0
"""
"""No udev loads the card's driver and no package makes its address: the tree has neither."""
SYSVINIT: dict[str, Any] = {
    "hostname": "meter",
    "kernel": {"cmdline": "panic=10"},
    "initrd": {"modules": ["virtio_net"]},
    "users": [{"name": "service", "uid": 1000, "groups": ["dialout", "adm"], "authorized_keys": ["key.pub"]}],
    "files": [{"path": "/etc/rc.local", "content": RC_LOCAL, "mode": "0755"}],
    "immutable": ["/usr", "/etc", "/var/lib/dpkg"],
    "state": persistent(device="LABEL=state"),
    "mounts": [
        {"path": "/var", "type": "overlay", "upper": "tmpfs", "size": "16M"},
        {"path": "/var/local", "type": "bind", "source": "state", "seed": "image"},
        {"path": "/opt", "type": "overlay", "upper": "state"},
        {"path": "/tmp", "type": "tmpfs", "size": "8M"},
        {"path": "/home", "type": "bind", "source": "tmpfs", "seed": "image", "size": "4M"},
        {"path": "/media", "type": "bind", "source": "/usr/share/common-licenses", "access": "ro"},
        {"path": "/mnt", "type": "bind", "source": "/var/local", "access": "rw"},
        {"path": "/srv", "type": "partition", "seed": "image", **persistent(device="LABEL=data")},
    ],
    "image": {"compression": "zstd", "level": 1},
    "verify": {
        "memory": "256M",
        "commands": [
            'test "$(hostname)" = meter && getent hosts meter',
            'test "$(readlink /proc/1/exe)" = /usr/sbin/init',
            'test "$(runlevel)" = "N 2"',
            "pidof sshd",
            "touch /mnt/mine && test -e /var/local/mine",
            "modprobe dummy && lsmod | grep -q ^dummy",
            "su service -c 'id -nG && touch ~/mine && ! touch /etc/mine'",
        ],
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=ARCHITECTURES)
def sysvinit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, key: Path, rofs: Rofs) -> Image:
    """Verified in the boots that do not break the state: the other tree is there for those, and quicker."""
    arch = request.param
    directory = tmp_path_factory.mktemp(f"sysvinit-{arch}")
    (directory / "key.pub").write_text(key.with_suffix(".pub").read_text())
    end = {"amd64": ".tar.gz", "arm64": ".tar.xz"}[arch]
    archive = pack(fetch_sysvinit(arch), directory / f"rootfs{end}")
    profile = write_profile(directory, "sysvinit", {"source": source({arch: archive}), **SYSVINIT}, (arch,))
    done = rofs("build", profile, "--output", directory / "images", "--no-verify")
    image = directory / "images/sysvinit" / arch
    if done.returncode == 0:
        done = rofs("verify", image, "--boots", str(len(UNBROKEN)), "--identity", key)
    assert done.returncode == 0, done.stdout + done.stderr
    return read_image(image, archive)


def test_a_sysvinit_image_keeps_every_kind_of_promise(sysvinit: Image) -> None:
    assert_verified(sysvinit, init="/usr/sbin/init", titles=UNBROKEN, promises={*Promise})
    assert {check["promise"] for check in sysvinit.report["checks"]} == CHECKED | {"ssh", "ssh host key"}


def test_the_sysvinit_tree_is_the_archives(sysvinit: Image, tmp_path: Path) -> None:
    """The host keys, which the packages' scripts have left in the archive, are of no image."""
    new, other, gone = changed(sysvinit, tmp_path)
    made = {"/etc/hosts", "/etc/machine-id", "/etc/ssh/sshd_config.d/10-rofs.conf"}
    script = {"/usr/lib/rofs", "/usr/lib/rofs/ssh-host-key"}
    keys = {f"/etc/ssh/ssh_host_{kind}_key{end}" for kind in ("rsa", "ecdsa", "ed25519") for end in ("", ".pub")}
    assert {path for path in new if not path.startswith("/usr/lib/modules")} == SERVICE | made | script
    assert other == ACCOUNTS | {"/etc/gshadow", "/etc/fstab", "/etc/hostname", "/etc/resolv.conf", "/etc/rc.local"}
    assert gone == keys


# --- a tree that does what the profile does not say -----------------------------------------------------


def test_a_mount_of_the_trees_own_is_found_by_name(
    boot_files: Callable[[str], Boot], rofs: Rofs, tmp_path: Path
) -> None:
    """The Buildroot-like tree, but for one line of its inittab."""
    tree = make_buildroot(
        tmp_path, boot_files("amd64").busybox, inittab="::sysinit:/bin/mount -t tmpfs tmpfs /usr/share\n"
    )
    tar = tar_buildroot(tree, tmp_path / "rootfs.tar")
    profile = write_profile(
        tmp_path, "intruder", {"source": {"tar": {"path": tar.name}}, "kernel": {"install_modules": False}}
    )
    done = rofs("build", profile, "--output", tmp_path / "images", "--arch", "amd64")
    assert done.returncode == 4, done.stdout + done.stderr
    assert not (tmp_path / "images/intruder/amd64").exists()
    report = read_image(tmp_path / "images/intruder/amd64.rejected", tar).report
    broken = {(check["promise"], check["subject"]) for check in report["checks"] if not check["ok"]}
    assert broken == {("nothing undeclared", "mount table")}, broken  # said once: the late look asks what changed
    assert all("/usr/share (" in check["seen"] for check in report["checks"] if not check["ok"])
    assert all(words in done.stdout for words in ("nothing undeclared", "mount table", "/usr/share (tmpfs")), (
        done.stdout
    )
    assert [boot["ended"] for boot in report["boots"]] == ["off", "off"]
