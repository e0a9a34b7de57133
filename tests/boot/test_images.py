# SPDX-License-Identifier: MIT
"""The example profiles, built and verified for both architectures: complete, true to the manifest, nobody's own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from rofs.sources.apt import find_host_sources, host_options

pytestmark = [pytest.mark.boot, pytest.mark.needs("unsquashfs", "sqfs2tar")]

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
MACHINE = {"amd64": 62, "arm64": 183}
"""e_machine of elf(5)."""
CONSOLE = {"amd64": "ttyS0", "arm64": "ttyAMA0"}
TYPE = {"d": "dir", "-": "file", "l": "symlink", "c": "char", "b": "block", "p": "fifo", "s": "socket"}
ROW = re.compile(
    r"(?P<type>.)(?P<mode>[\w-]{9}) (?P<uid>\d+)/(?P<gid>\d+) +(?P<size>\d+(?:, *\d+)?) \S+ \S+ (?P<path>.*)"
)
BITS = (0o400, 0o200, 0o100, 0o40, 0o20, 0o10, 0o4, 0o2, 0o1)


class Image:
    """One published directory, what it says of itself, and its tree unpacked."""

    def __init__(self, directory: Path, tree: Path) -> None:
        self.directory, self.tree = directory, tree
        self.name, self.arch = directory.parent.name, directory.name
        self.profile: dict[str, Any] = yaml.safe_load((PROFILES / f"{self.name}.yaml").read_text())
        self.report: dict[str, Any] = json.loads((directory / "report.json").read_text())
        self.manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text())

    @property
    def boots(self) -> int:
        """Two, and with state a factory reset and five faults more."""
        return 8 if "state" in self.profile else 2

    @property
    def squashfs(self) -> Path:
        return self.directory / "rootfs.squashfs"

    def checks(self, boot: int, promise: str) -> dict[str, dict[str, Any]]:
        """Subject -> check."""
        return {c["subject"]: c for c in self.report["checks"] if (c["boot"], c["promise"]) == (boot, promise)}

    def mounts(self, *kinds: tuple[str, str]) -> list[str]:
        """Paths of the profile's mounts of these types and uppers or sources."""
        return [m["path"] for m in self.profile["mounts"] if (m["type"], m.get("upper", m.get("source", ""))) in kinds]


@pytest.fixture(
    scope="module",
    params=[(p, a) for p in ("minimal", "appliance", "sensor-gateway") for a in ("amd64", "arm64")],
    ids="-".join,
)
def image(
    request: pytest.FixtureRequest, built: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Image]:
    name, arch = request.param
    directory = built(name) / arch
    tree = tmp_path_factory.mktemp("tree") / "root"
    argv = ["unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-dest", tree, directory / "rootfs.squashfs"]
    status = subprocess.run(argv, capture_output=True, check=False).returncode
    assert status in ((0,) if os.geteuid() == 0 else (0, 2))  # 2: not root, so no device nodes
    yield Image(directory, tree)
    shutil.rmtree(tree)


TMPFS, OVERLAY, BIND = ("tmpfs", ""), ("overlay", "tmpfs"), ("bind", "tmpfs")


def test_everything_is_published(image: Image) -> None:
    files = {p.relative_to(image.directory).as_posix() for p in image.directory.rglob("*") if p.is_file()}
    wanted = {"rootfs.squashfs", "vmlinuz", "initrd.img", "cmdline", "manifest.json", "fstab", "promises.json"}
    assert {
        *wanted,
        "profile.yaml",
        "report.txt",
        "report.json",
        "report.xml",
        "report.html",
        "units/-.mount",
        "logs/console-1.log",
    } <= files
    assert not [f for f in files if "rofs-work" in f]
    assert not list(image.directory.parent.glob("*.rejected")) and not list(image.directory.parent.glob(".rofs-*"))
    assert (image.directory / "profile.yaml").read_text() == (PROFILES / f"{image.name}.yaml").read_text()
    for name in ("fstab", *(f for f in files if f.startswith("units/"))):
        inside = image.tree / "etc" / name.replace("units/", "systemd/system/")
        assert (image.directory / name).read_bytes() == inside.read_bytes(), name


def test_it_was_accepted_after_every_boot(image: Image) -> None:
    report = image.report
    assert (report["verdict"], report["profile"], report["architecture"]) == ("accepted", image.name, image.arch)
    assert [boot["ended"] for boot in report["boots"]] == ["off"] * image.boots
    assert report["checks"] and all(check["ok"] for check in report["checks"])
    assert all(check["seen"].strip() and check["expected"].strip() for check in report["checks"])
    cmdline = (image.directory / "cmdline").read_text().strip()
    for boot in report["boots"]:
        assert boot["cmdline"] == f"{cmdline} root=/dev/vda console={CONSOLE[image.arch]} panic=-1"
    assert image.manifest["verified"] is True and image.manifest["reason"] == ""


def test_the_accelerator_named_is_the_one_that_ran(image: Image) -> None:
    accelerator = image.report["accelerator"]
    assert accelerator["ran"] == [accelerator["chosen"]] and accelerator["reason"]
    assert {boot["accelerator"] for boot in image.report["boots"]} == set(accelerator["ran"])
    commands = [
        line
        for line in (image.directory / "logs/qemu.log").read_text().splitlines()
        if line.startswith("+ qemu-system")
    ]
    assert len(commands) == image.boots and all(f"-accel {accelerator['chosen']}" in line for line in commands)
    if image.arch == "amd64" and Path("/dev/kvm").exists() and accelerator["chosen"] == "tcg":
        assert "kvm" in accelerator["reason"]


def test_every_kind_of_check_was_made(image: Image) -> None:
    """Read from the YAML and not from rofs's own layout: a forgotten kind of check would be forgotten there too."""
    for boot in (1, 2):
        assert len(image.checks(boot, "boot")) == 1
        assert {"running", "no failed unit", "no ordering cycle"} <= image.checks(boot, "system").keys()
        assert {"mount table", "mount table after all checks"} <= image.checks(boot, "nothing undeclared").keys()
        assert image.checks(boot, "fstab").keys() == {"/etc/fstab"}
        assert image.checks(boot, "hostname").keys() == {image.profile["hostname"]}
        assert image.checks(boot, "machine-id").keys() == {image.profile.get("machine_id", "transient")}
        assert image.checks(boot, "generated")
        mounted = {subject.split()[0] for subject in image.checks(boot, "mount")}
        assert {"/", "/run/rofs/image", *(m["path"] for m in image.profile["mounts"])} <= mounted
        assert len(image.checks(boot, "unit")) == len(image.checks(boot, "mount"))
        assert image.checks(boot, "writable").keys() >= set(image.mounts(TMPFS, OVERLAY, BIND))
        assert image.checks(boot, "image content").keys() >= set(image.mounts(OVERLAY))
        users = {u["name"] for u in image.profile.get("users", ())}
        assert image.checks(boot, "user").keys() == {*users, "no empty password"}
        verify = image.profile.get("verify", {})
        assert list(image.checks(boot, "verify.units")) == verify.get("units", [])
        assert list(image.checks(boot, "verify.commands")) == verify.get("commands", [])
    volatile = set(image.mounts(TMPFS, OVERLAY, BIND))
    for promise in ("size cap", "inode cap", "canary"):
        assert image.checks(1, promise).keys() >= volatile, promise
    assert image.checks(2, "volatile").keys() >= volatile
    assert {"root disk never written", "shipped files unchanged"} == image.checks(0, "image").keys()
    assert {"as built", "identity", "passwords"} == image.checks(0, "image tree").keys()
    attacked = image.checks(1, "immutable")
    assert attacked.keys() >= {*image.profile["immutable"], "/", "/usr", "/home", "/root", "/opt", "/boot"}
    assert all(int(re.findall(r"(\d+) attacks", c["seen"])[0]) >= 10 for c in attacked.values())


def test_the_strength_of_read_only_is_named(image: Image) -> None:
    writable = [m["path"] for m in image.profile["mounts"] if m.get("access") != "ro"]
    for path, check in image.checks(1, "immutable").items():
        is_island = any(path.startswith(f"{mount}/") for mount in writable) or path in image.mounts(
            ("bind", "/usr/share/doc")
        )
        assert check["seen"].startswith("pinned-ro;" if is_island else "image-ro;"), (path, check["seen"])
    if image.name == "appliance":
        assert any(c["seen"].startswith("pinned-ro") for c in image.checks(1, "immutable").values())
        assert "/etc/security" in image.checks(1, "pinned")


def test_the_reports_for_people_and_ci_say_the_same(image: Image) -> None:
    text = (image.directory / "report.txt").read_text()
    assert text.startswith(f"{image.name} {image.arch}: accepted\n") and "BROKEN" not in text
    assert len(re.findall(r"^ok     (?:image|boot \d+)  ", text, re.MULTILINE)) == len(image.report["checks"])
    root = ET.parse(image.directory / "report.xml").getroot()
    assert [suite.get("failures") for suite in root] == ["0"] * (1 + image.boots)
    assert sum(len(suite) for suite in root) == len(image.report["checks"])
    assert [int(suite.get("tests", 0)) for suite in root] == [len(suite) for suite in root]


def test_the_manifest_has_the_hash_of_every_file(image: Image) -> None:
    for name, said in image.manifest["outputs"].items():
        data = (image.directory / name).read_bytes()
        assert (said["size"], said["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), name
    assert {"rootfs.squashfs", "vmlinuz", "initrd.img", "cmdline", "fstab", "promises.json"} <= image.manifest[
        "outputs"
    ].keys()
    assert image.manifest["inputs"]["packages"].keys() >= set(image.profile["source"]["debian"]["packages"])
    assert re.fullmatch(rf"linux-image-(\S+-)?cloud-{image.arch}", image.manifest["inputs"]["kernel"]["package"])


def listing(squashfs: Path) -> dict[str, dict[str, Any]]:
    """unsquashfs's view: path -> kind, mode, owner, size or target or device numbers."""
    lines = subprocess.run(["unsquashfs", "-lln", squashfs], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in lines.splitlines():
        row = ROW.fullmatch(line)
        if row is None:
            continue
        path, _, target = row["path"].partition(" -> ")
        kind, mode = TYPE[row["type"]], 0
        for char, bit in zip(row["mode"], BITS, strict=True):
            mode |= bit if char not in "-ST" else 0
        for at, bit in ((2, 0o4000), (5, 0o2000), (8, 0o1000)):
            mode |= bit if row["mode"][at] in "sStT" else 0
        seen = {"kind": kind, "mode": f"{mode:04o}", "uid": int(row["uid"]), "gid": int(row["gid"])}
        if kind == "file":
            seen["size"] = int(row["size"])
        if kind == "symlink":
            seen["target"] = target
        if kind in ("char", "block"):
            seen["rdev"] = re.sub(r", *", ":", row["size"])
        found[path.removeprefix("squashfs-root") or "/"] = seen
    return found


def test_the_manifest_lists_what_another_reader_finds(image: Image) -> None:
    seen = listing(image.squashfs)
    said = {}
    for entry in image.manifest["files"]:
        kind = "file" if entry["kind"] == "hardlink" else entry["kind"]
        keys = {"file": ("size",), "symlink": ("target",), "char": ("rdev",), "block": ("rdev",)}.get(kind, ())
        said[entry["path"]] = {"kind": kind, **{k: entry[k] for k in ("mode", "uid", "gid", *keys)}}
    assert len(said) == len(image.manifest["files"]) > 1000
    assert said == seen


def test_every_content_is_the_manifests(image: Image) -> None:
    wrong, count = [], 0
    for entry in image.manifest["files"]:
        if entry["kind"] in ("file", "hardlink"):
            count += 1
            with (image.tree / entry["path"].lstrip("/")).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    wrong.append(entry["path"])
    assert wrong == [] and count > 1000


def test_extended_attributes_and_hard_links_are_the_manifests(image: Image) -> None:
    said = {
        e["path"]: {name: bytes.fromhex(value) for name, value in e.get("xattrs", {}).items()}
        for e in image.manifest["files"]
    }
    with subprocess.Popen(["sqfs2tar", image.squashfs], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|", errors="surrogateescape") as tar:
            seen = {}
            for member in tar:
                prefix = "SCHILY.xattr."
                seen["/" + member.name.strip("/")] = {
                    key.removeprefix(prefix): value.encode("utf-8", "surrogateescape")
                    for key, value in member.pax_headers.items()
                    if key.startswith(prefix)
                }
    assert {p: x for p, x in seen.items() if x} == {p: x for p, x in said.items() if x}
    if "iputils-ping" in image.profile["source"]["debian"]["packages"]:
        assert "security.capability" in said["/usr/bin/ping"]
    for entry in image.manifest["files"]:
        if entry["kind"] == "hardlink":
            one, other = (image.tree / path.lstrip("/") for path in (entry["path"], entry["target"]))
            assert one.samefile(other), entry["path"]


def test_programs_and_kernel_are_of_their_architecture(image: Image) -> None:
    for path in ("usr/bin/true", "usr/lib/systemd/systemd"):
        head = (image.tree / path).read_bytes()[:20]
        assert head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") == MACHINE[image.arch], path
    head = (image.directory / "vmlinuz").read_bytes()[:0x206]
    mark = head[0x202:0x206] if image.arch == "amd64" else head[0x38:0x3C]  # boot protocols of x86 and arm64
    assert mark == {"amd64": b"HdrS", "arm64": b"ARM\x64"}[image.arch]
    release = image.manifest["inputs"]["kernel"]["release"]
    assert (image.tree / "usr/lib/modules" / release / "modules.dep").is_file()


def test_nothing_of_the_host_is_inside(image: Image) -> None:
    """/usr is left out of the search: packages themselves may name a mirror that is Debian's own."""
    etc = image.tree / "etc"
    assert (etc / "hostname").read_text() == image.profile["hostname"] + "\n"
    assert (etc / "resolv.conf").is_symlink() and str((etc / "resolv.conf").readlink()).endswith("run/resolv.conf")
    assert image.profile["hostname"] in (etc / "hosts").read_text()
    sources = (find_host_sources("bookworm") or b"").decode() + "\n".join(host_options())
    words = {name.encode() for name in re.findall(r"//(?:[^/@\s]*@)?([\w.-]+)", sources)}
    if len(socket.gethostname()) > 4:  # shorter ones are also words
        words.add(socket.gethostname().encode())
    files = [
        Path(d, name)
        for top in ("etc", "var", "root", "home")
        for d, _, names in os.walk(image.tree / top)
        for name in names
    ]
    plain = [file for file in files if stat.S_ISREG(file.lstat().st_mode)]
    assert len(plain) > 100
    assert [f for f in plain if any(word in f.read_bytes() for word in words)] == []


def test_no_identity_and_no_secret_is_inside(image: Image) -> None:
    assert (image.tree / "etc/machine-id").read_bytes() == b""
    assert not os.path.lexists(image.tree / "var/lib/dbus/machine-id")
    assert not list(image.tree.glob("etc/ssh/ssh_host_*"))
    assert not os.path.lexists(image.tree / "var/lib/systemd/random-seed")
    passwords = {
        line.split(":")[0]: line.split(":")[1] for line in (image.tree / "etc/shadow").read_text().splitlines()
    }
    assert {name: p for name, p in passwords.items() if p not in ("*", "!", "!*", "!!")} == {}
    accounts = [line.split(":")[1] for line in (image.tree / "etc/passwd").read_text().splitlines()]
    assert set(accounts) == {"x"}
    assert {"root", *(u["name"] for u in image.profile.get("users", ()))} <= passwords.keys()
