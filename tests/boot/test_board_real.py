# SPDX-License-Identifier: MIT
"""A board's own kernel, and its own way to the root: built, refused and booted.

The board's kernel is Debian's, as another build system would leave it: an image, modules as they are installed
or in an archive, and a configuration.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from rofs.image.cpio import append
from rofs.image.modules import parse_modules_dep
from rofs.kernelfacts import module_name
from rofs.machine.accel import find_accel
from rofs.machine.arch import ARCHES
from rofs.machine.disk import make_overlay
from rofs.machine.qemu import Boot, BootResult, Disk, boot
from rofs.sources.kernel import Boot as Kernel
from rofs.store import default_cache_dir
from rofs.verify import probe_wire as wire
from rofs.verify.check import Facts, text
from rofs.verify.probe_archive import probe_archive
from tests.parttable import Part, put_mbr, write_gpt

pytestmark = [pytest.mark.boot, pytest.mark.needs("qemu-system-x86_64", "qemu-img", "mmdebstrap")]

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
BUSYBOX = (PROFILES / "busybox.yaml").read_text()
DEBIANS = BUSYBOX[BUSYBOX.index("kernel:\n") : BUSYBOX.index("files:\n")]
OWN = """\
kernel:
  image: {amd64: boot/amd64/Image, arm64: boot/arm64/Image}
  modules: {amd64: boot/amd64/modules, arm64: boot/arm64/modules.tar.xz}
  config: {amd64: boot/amd64/config, arm64: boot/arm64/config}
  cmdline: {amd64: "panic=10 loglevel=6", arm64: panic=5}
  console: {amd64: "ttyS1,115200", arm64: ttymxc0}

"""
COMMAND = "    - ping -c 1 127.0.0.1\n"
MODPROBE = "    - modprobe dummy && test -d /sys/class/net/dummy0\n"
MODULES = (
    "squashfs", "overlay", "ext4", "crc32c_generic", "virtio_pci", "virtio_blk", "virtio_console", "virtio_net",
    "pci_host_generic", "dummy",
)  # fmt: skip
"""What the board was configured to have; those in the kernel itself are not among its files."""
BOOT_TIMEOUT_S = 600
Rofs = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True, slots=True)
class Board:
    """A directory with a profile and what it names."""

    profile: Path
    output: Path

    def manifest(self, arch: str = "amd64") -> Any:
        return json.loads((self.image(arch) / "manifest.json").read_bytes())

    def image(self, arch: str = "amd64") -> Path:
        return self.output / "busybox" / arch

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace what is there once."""
        file = self.profile.parent / path
        before = file.read_text()
        assert before.count(old) == 1, (path, old)
        file.write_text(before.replace(old, new))


@pytest.fixture
def board(tmp_path: Path, boot_files: Callable[[str], Kernel]) -> Board:
    """The busybox profile with kernels of its own for both architectures."""
    here = tmp_path / "here"
    shutil.copytree(PROFILES / "files", here / "files")
    assert BUSYBOX.count(DEBIANS) == BUSYBOX.count(COMMAND) == 1
    (here / "busybox.yaml").write_text(BUSYBOX.replace(DEBIANS, OWN).replace(COMMAND, COMMAND + MODPROBE))
    for arch in ("amd64", "arm64"):
        put_kernel(here / "boot" / arch, boot_files(arch))
    return Board(here / "busybox.yaml", tmp_path / "images")


def put_kernel(out: Path, kernel: Kernel) -> None:
    """Image, config, modules/lib/modules/RELEASE and the same in modules.tar.xz."""
    out.mkdir(parents=True)
    shutil.copyfile(kernel.vmlinuz, out / "Image")
    assert kernel.config is not None
    shutil.copyfile(kernel.config, out / "config")
    top = f"lib/modules/{kernel.release}"
    place = out / "modules/lib/modules" / kernel.release
    with tarfile.open(kernel.modules_tar) as tar:

        def take(name: str) -> bytes:
            file = tar.extractfile(f"{top}/{name}")
            assert file is not None
            return file.read()

        depends = parse_modules_dep(take("modules.dep").decode())
        chosen = {path for path in depends if module_name(path) in MODULES}
        chosen |= {below for path in chosen for below in depends[path]}
        for name in sorted(chosen | {"modules.builtin", "modules.builtin.modinfo", "modules.order"}):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(take(name))
    pack(out)


def pack(out: Path) -> None:
    """modules.tar.xz of what lies in modules/."""
    with tarfile.open(out / "modules.tar.xz", "w:xz", preset=0) as tar:
        tar.add(out / "modules/lib", "lib")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# A board's own kernel.


def test_it_is_verified_like_any_other(rofs: Rofs, board: Board) -> None:
    done = rofs("build", board.profile, "--output", board.output, "--arch", "amd64")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{board.image()}: verified, " in done.stdout
    here, manifest = board.profile.parent / "boot/amd64", board.manifest()
    assert (manifest["verified"], manifest["reason"]) == (True, "")
    kernel = manifest["inputs"]["kernel"]
    release = next((here / "modules/lib/modules").iterdir()).name
    assert (kernel["package"], kernel["version"], kernel["release"]) == ("", "", release)
    assert kernel["image"] == {"name": "Image", "sha256": sha256(here / "Image")}
    assert kernel["config"] == {"name": "config", "sha256": sha256(here / "config")}
    assert kernel["modules"]["name"] == "modules" and len(kernel["modules"]["sha256"]) == 64
    assert sha256(board.image() / "vmlinuz") == sha256(here / "Image")
    assert (board.image() / "cmdline").read_text() == "ro console=ttyS1,115200 panic=10 loglevel=6\n"
    assert f"/usr/lib/modules/{release}/modules.dep" in {entry["path"] for entry in manifest["files"]}
    report = (board.image() / "report.txt").read_text()
    assert "boot 8" in report and "modprobe dummy" in report

    board.edit("busybox.yaml", "amd64: boot/amd64/modules,", "amd64: boot/amd64/modules.tar.xz,")
    done = rofs("build", board.profile, "--output", board.output, "--arch", "amd64", "--no-verify")
    assert done.returncode == 0, done.stdout + done.stderr
    packed = board.manifest()
    assert packed["inputs"]["kernel"]["modules"] == {
        "name": "modules.tar.xz", "sha256": sha256(here / "modules.tar.xz"),
    }  # fmt: skip
    named = {"profile.yaml", "promises.json", "sbom.cdx.json", "sbom.spdx.json"}  # where the modules came from
    same = set(manifest["outputs"]) - named
    assert {name for name in same if packed["outputs"][name] != manifest["outputs"][name]} == set()


@pytest.mark.needs("qemu-system-aarch64")
def test_on_arm64_with_modules_in_an_archive(rofs: Rofs, board: Board) -> None:
    done = rofs("build", board.profile, "--output", board.output, "--arch", "arm64", "--no-verify")
    assert done.returncode == 0, done.stdout + done.stderr
    here, kernel = board.profile.parent / "boot/arm64", board.manifest("arm64")["inputs"]["kernel"]
    assert kernel["modules"] == {"name": "modules.tar.xz", "sha256": sha256(here / "modules.tar.xz")}
    assert kernel["image"]["sha256"] == sha256(here / "Image") == sha256(board.image("arm64") / "vmlinuz")
    assert (board.image("arm64") / "cmdline").read_text() == "ro console=ttymxc0 panic=5\n"
    done = rofs("verify", board.image("arm64"), "--boots", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "modprobe dummy" in (board.image("arm64") / "report.txt").read_text()


def test_a_kernel_that_qemu_cannot_boot_is_published_unverified(rofs: Rofs, board: Board) -> None:
    done = rofs("build", board.profile, "--output", board.output, "--arch", "amd64", "--no-verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT verified" in done.stdout and "QEMU" not in done.stdout
    before = board.manifest()
    assert (before["verified"], before["reason"]) == (False, "not booted")
    board.edit("boot/amd64/config", "CONFIG_VIRTIO_BLK=m\n", "# CONFIG_VIRTIO_BLK is not set\n")
    (module,) = (board.profile.parent / "boot/amd64/modules").rglob("virtio_blk.ko")
    module.unlink()
    done = rofs("build", board.profile, "--output", board.output, "--arch", "amd64")
    assert done.returncode == 0, done.stdout + done.stderr
    reason = "the kernel has no CONFIG_VIRTIO_BLK, and QEMU's machine has nothing else"
    assert done.stdout == f"{board.image()}: built, NOT verified: {reason}\n"
    assert "boot 1 " not in done.stderr
    after = board.manifest()
    assert (after["verified"], after["reason"]) == (False, reason)
    assert after["outputs"]["initrd.img"] != before["outputs"]["initrd.img"], "it took the place of the last one"
    assert not (board.image() / "report.txt").exists()
    assert [path.name for path in board.image().parent.iterdir()] == ["amd64"]


def test_what_it_lacks_is_refused_where_the_profile_asks_for_it(rofs: Rofs, board: Board) -> None:
    here = board.profile.parent / "boot/amd64"
    board.edit("boot/amd64/config", "CONFIG_SQUASHFS_XZ=y\n", "# CONFIG_SQUASHFS_XZ is not set\n")
    board.edit("boot/amd64/config", "CONFIG_TMPFS_XATTR=y\n", "")
    board.edit("boot/amd64/config", "CONFIG_EXT4_FS=y\n", "# CONFIG_EXT4_FS is not set\n")
    (builtin,) = here.rglob("modules.builtin")
    board.edit(str(builtin.relative_to(board.profile.parent)), "kernel/fs/ext4/ext4.ko\n", "")
    (overlay,) = here.rglob("overlay.ko")  # the configuration still says "m", and the module is not there
    overlay.unlink()
    done = rofs("build", board.profile, "--output", board.output, "--arch", "amd64")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    etc = "{path: /etc, type: overlay"
    expected = [
        ("{device: LABEL=state", "CONFIG_EXT4_FS or the module ext4, needed by the ext4 of state"),
        (etc, "CONFIG_OVERLAY_FS or the module overlay, needed by the overlay on /etc"),
        (etc, "CONFIG_TMPFS_XATTR, needed by the overlay on /etc, whose upper is on tmpfs"),
        ("xz}\n\nverify", "CONFIG_SQUASHFS_XZ, needed by a squashfs packed by xz"),
    ]
    assert len(errors) == len(expected), done.stderr
    for line, (place, what) in zip(errors, expected, strict=True):
        start = f"{board.profile}:{place_of(board.profile.read_text(), place)}: error: the kernel has no {what} "
        assert line.startswith(start) and line.endswith("(kernel-lacks)"), done.stderr
    assert list(board.output.rglob("*")) == []


def place_of(text: str, words: str) -> str:
    """line:column of words that stand there once."""
    assert text.count(words) == 1
    before = text[: text.index(words)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("image: {amd64: boot/amd64/Image", "image: {amd64: boot/arm64/Image", "is a kernel for arm64, not for amd64"),
        ("amd64: boot/amd64/modules,", "amd64: boot/arm64/modules,", "the modules are of kernel "),
    ],
)
def test_what_is_for_another_architecture_is_refused(rofs: Rofs, board: Board, old: str, new: str, reason: str) -> None:
    board.edit("busybox.yaml", old, new)
    done = rofs("build", board.profile, "--output", board.output, "--arch", "amd64")
    assert done.returncode == 3, done.stdout + done.stderr
    assert reason in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and not board.image().exists()


# root.device

UUIDS = [UUID(f"{digit * 8}-ab12-4c3d-8e4f-0123456789ab") for digit in "1af3"]
ROOT = UUIDS[1]
DISK_ID = 0x00C0FFEE


@pytest.fixture
def root_image(rofs: Rofs, tmp_path: Path) -> Callable[[str], Path]:
    """`root_image("PARTLABEL=x")` -> an image that looks for its root there."""

    def build(device: str) -> Path:
        here = tmp_path / "here"
        shutil.copytree(PROFILES / "files", here / "files")
        (here / "busybox.yaml").write_text(f"{BUSYBOX}\nroot: {{device: {device}}}\n")
        done = rofs("build", here / "busybox.yaml", "--output", tmp_path, "--arch", "amd64", "--no-verify")
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path / "busybox/amd64"

    return build


def run(image: Path, words: str, disks: Sequence[Path], work: Path) -> tuple[BootResult, list[str]]:
    """Boot with these disks and without the `root=` of verification -> what the probe was told."""
    arch, answers = ARCHES["amd64"], list[str]()
    work.mkdir()

    def on_line(line: str) -> None:
        event = wire.parse_event(line)
        if event is not None and event.id is not None:
            facts: Facts = event.facts
            answers.append(text(facts).strip())

    plan = (wire.shell(60, ROOT_OF), wire.poweroff("cut"))
    append(image / "initrd.img", probe_archive(arch, plan, "other"), work / "initrd.img")
    state = make_overlay(image / "state.img", work / "state.qcow2")
    request = Boot(
        arch=arch, accel=find_accel(arch, default_cache_dir()), kernel=image / "vmlinuz", initrd=work / "initrd.img",
        cmdline=f"{(image / 'cmdline').read_text().strip()} console={arch.console} panic=-1 {words}".strip(),
        disks=(*(Disk(path=disk, format="raw") for disk in disks), Disk(path=state, format="qcow2")),
        work=work, console=work / "console.log",
    )  # fmt: skip
    result = boot(request, on_line, timeout_s=BOOT_TIMEOUT_S, log=work / "qemu.log")
    return result, answers


ROOT_OF = """\
grep ' / squashfs' /proc/mounts | cut -d ' ' -f 1
readlink /dev/root
blockdev --getro /dev/root
"""


def make_disks(image: Path, directory: Path, *, mbr: bool = False, entries_lba: int = 2) -> list[Path]:
    """A disk whose names are nearly those that are looked for, and behind it the one with the squashfs."""
    others = [Part(number=number, uuid=UUIDS[2], label="rootfs.ab", content=b"no") for number in (1, 2)]
    parts = [
        Part(number=1, uuid=UUIDS[0], label="rootfs-a"),
        Part(number=2, uuid=ROOT, label="rootfs.a", content=(image / "rootfs.squashfs").read_bytes()),
        Part(number=3, uuid=UUIDS[3], label="rootfs"),
    ]
    disk = write_gpt(directory / "disk", parts, entries_lba=entries_lba)
    if mbr:
        put_mbr(disk, parts, DISK_ID)
    return [write_gpt(directory / "other", others), disk]


@pytest.mark.parametrize(
    ("device", "words", "options"),
    [
        pytest.param(f"PARTUUID={ROOT}", "", {}, id="gpt"),
        pytest.param("PARTLABEL=rootfs.a", "", {}, id="label"),
        pytest.param(f"PARTUUID={DISK_ID:08x}-02", "", {"mbr": True}, id="mbr-with-a-gpt-left-over"),
        pytest.param("PARTLABEL=gone", f"root=PARTUUID={str(ROOT).upper()}", {"entries_lba": 40}, id="upper-case"),
    ],
)
def test_the_root_is_found_on_a_partitioned_disk(
    root_image: Callable[[str], Path], tmp_path: Path, device: str, words: str, options: dict[str, Any]
) -> None:
    image = root_image(device)
    assert "root=" not in (image / "cmdline").read_text()
    disks = make_disks(image, tmp_path, **options)
    before = sha256(disks[1])
    result, answers = run(image, words, disks, tmp_path / "work")
    assert result.status == "off", result.console[-3000:]
    assert [answer.splitlines() for answer in answers[:1]] == [["/dev/vdb2", "vdb2", "1"]], result.console[-3000:]
    assert sha256(disks[1]) == before


def test_a_root_that_is_not_there_is_a_panic(root_image: Callable[[str], Path], tmp_path: Path) -> None:
    image = root_image("PARTLABEL=rootfs.b")
    result, answers = run(image, "", make_disks(image, tmp_path), tmp_path / "work")
    assert result.status == "crash" and answers == []
    # By the kernel's own log: what was written to the terminal a panic may swallow.
    assert "rofs: no block device PARTLABEL=rootfs.b" in result.console, result.console[-3000:]
    assert "Kernel panic" in result.console
