# SPDX-License-Identifier: MIT
"""How the initrd finds its root by a partition's name: its functions, run by busybox on images of disks.

util-linux's partx is the second opinion on the disks that the tests write themselves.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import layout_of

from rofs.generate.initrd import APPLETS, render_initrd
from tests.parttable import Part, put_mbr, write_gpt, write_mbr

pytestmark = pytest.mark.needs("busybox")

ONE, TWO, THREE = (UUID(f"{digit * 8}-ab12-4c3d-8e4f-0123456789ab") for digit in "1a3")
PARTS = [Part(number=1, uuid=ONE, label="boot"), Part(number=2, uuid=TWO, label="rootfs-a"),
         Part(number=7, uuid=THREE, label="rootfs")]  # fmt: skip
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Shell = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Commands behind the script's functions, with the programs of the initrd; `/dev` and `/sys` are in tmp_path."""
    busybox, programs = shutil.which("busybox") or "", tmp_path / "bin"
    programs.mkdir()
    for name in APPLETS:
        (programs / name).symlink_to(busybox)
    text = render_initrd(layout_of("root: {device: PARTLABEL=rootfs}\n"), [])
    found = re.findall(r"^(?:hex\(\) \{.*|(?:number|partuuid|find_root)\(\) \{\n(?:.*\n)*?\})$", text, re.MULTILINE)
    assert len(found) == 4, found
    functions = "\n".join(found)
    for old, new in {"/sys/": f"{tmp_path}/sys/", "/dev/": f"{tmp_path}/dev/", "[ -b ": "[ -e "}.items():
        assert old in functions
        functions = functions.replace(old, new)
    functions = functions.replace(f"2>{tmp_path}/dev/null", "2>/dev/null")

    def call(commands: str) -> subprocess.CompletedProcess[str]:
        argv = [busybox, "sh", "-c", f"{functions}\n{commands}"]
        return subprocess.run(
            argv, env={"PATH": str(programs)}, capture_output=True, text=True, timeout=60, check=False
        )

    return call


def ids(shell: Shell, disk: Path, sector_bytes: int, numbers: Sequence[int]) -> list[str]:
    """What `partuuid` says of each partition."""
    calls = (f"partuuid {shlex.quote(str(disk))} {sector_bytes} {number}" for number in numbers)
    done = shell("\n".join(calls))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def partx(disk: Path, sector_bytes: int) -> dict[int, str]:
    """Another's reading: number -> PARTUUID."""
    argv = ["partx", "--raw", "--noheadings", "--output", "NR,UUID", "--sector-size", str(sector_bytes), str(disk)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    return {int(number): uuid for number, uuid in (line.split() for line in done.stdout.splitlines())}


# hex and number


@given(data=st.binary(min_size=1, max_size=24), before=st.binary(max_size=9))
@FEW
def test_hex_is_the_bytes_at_an_offset(shell: Shell, tmp_path: Path, data: bytes, before: bytes) -> None:
    (tmp_path / "disk").write_bytes(before + data + b"more")
    assert shell(f"hex {tmp_path}/disk {len(before)} {len(data)}").stdout == data.hex()


@given(number=st.integers(0, (1 << 63) - 1), width=st.sampled_from([1, 2, 4, 8]))
@FEW
def test_number_has_its_low_byte_first(shell: Shell, tmp_path: Path, number: int, width: int) -> None:
    number >>= 64 - 8 * width
    (tmp_path / "disk").write_bytes(b"x" + struct.pack("<Q", number) + b"\xff")
    done = shell(f"number {tmp_path}/disk 1 {width}")
    assert (done.stdout, done.stderr) == (f"{number}\n", "")


# partuuid


@pytest.mark.needs("partx")
@pytest.mark.parametrize("sector_bytes", [512, 4096])
@pytest.mark.parametrize("entries_lba", [2, 33])
def test_a_gpt(shell: Shell, tmp_path: Path, sector_bytes: int, entries_lba: int) -> None:
    disk = write_gpt(tmp_path / "disk", PARTS, sector_bytes=sector_bytes, entries_lba=entries_lba)
    assert partx(disk, sector_bytes) == {1: str(ONE), 2: str(TWO), 7: str(THREE)}
    assert ids(shell, disk, sector_bytes, (1, 2, 7)) == [str(ONE), str(TWO), str(THREE)]


@given(
    uuids=st.lists(st.uuids(), min_size=1, max_size=5),
    first=st.integers(1, 123),
    entries_lba=st.integers(2, 200),
    sector_bytes=st.sampled_from([512, 4096]),
)
@FEW
def test_a_gpt_of_any_ids(
    shell: Shell, tmp_path: Path, uuids: list[UUID], first: int, entries_lba: int, sector_bytes: int
) -> None:
    parts = [Part(number=number, uuid=uuid) for number, uuid in enumerate(uuids, first)]
    disk = write_gpt(tmp_path / "disk", parts, sector_bytes=sector_bytes, entries_lba=entries_lba)
    assert ids(shell, disk, sector_bytes, [part.number for part in parts]) == [str(uuid) for uuid in uuids]


@pytest.mark.parametrize(("entry_bytes", "number"), [(64, 5), (256, 2)])
def test_entries_are_as_long_as_the_header_says(shell: Shell, tmp_path: Path, entry_bytes: int, number: int) -> None:
    disk = write_gpt(tmp_path / "disk", [Part(number=3, uuid=TWO)])
    with disk.open("r+b") as file:
        file.seek(512 + 84)
        file.write(struct.pack("<I", entry_bytes))
    assert ids(shell, disk, 512, [number]) == [str(TWO)]


@pytest.mark.needs("partx")
@pytest.mark.parametrize("sector_bytes", [512, 4096])
@given(disk_id=st.integers(1, (1 << 32) - 1))
@FEW
def test_an_mbr(shell: Shell, tmp_path: Path, sector_bytes: int, disk_id: int) -> None:
    parts = [Part(number=number) for number in (1, 2, 4)]
    disk = write_mbr(tmp_path / "disk", parts, disk_id, sector_bytes=sector_bytes)
    expected = [f"{disk_id:08x}-{number:02x}" for number in (1, 2, 4)]
    assert ids(shell, disk, sector_bytes, (1, 2, 4)) == expected == list(partx(disk, sector_bytes).values())


def test_a_number_above_nine_is_hexadecimal(shell: Shell, tmp_path: Path) -> None:
    """A logical partition; the kernel's set_info (block/partitions/msdos.c) writes %08x-%02x."""
    disk = write_mbr(tmp_path / "disk", [Part(number=1)], 0xBEEF)
    assert ids(shell, disk, 512, (10, 63)) == ["0000beef-0a", "0000beef-3f"]


@pytest.mark.needs("partx")
def test_a_gpt_that_an_mbr_left_over_is_none(shell: Shell, tmp_path: Path) -> None:
    parts = [Part(number=1, uuid=ONE), Part(number=2, uuid=TWO)]
    disk = put_mbr(write_gpt(tmp_path / "disk", parts), parts, 0xEE00EE)
    assert partx(disk, 512) == {1: "00ee00ee-01", 2: "00ee00ee-02"}
    assert ids(shell, disk, 512, (1, 2)) == ["00ee00ee-01", "00ee00ee-02"]


@pytest.mark.parametrize("slot", [1, 2, 3])
def test_the_protective_partition_may_stand_in_any_row(shell: Shell, tmp_path: Path, slot: int) -> None:
    """As in a hybrid MBR, which the kernel takes for a GPT."""
    disk = write_gpt(tmp_path / "disk", PARTS)
    with disk.open("r+b") as file:
        file.seek(446)
        row = file.read(16)
        file.seek(446)
        file.write(struct.pack("<4xB3xII", 0x83, 2048, 2048))
        file.seek(446 + 16 * slot)
        file.write(row)
    assert ids(shell, disk, 512, [2]) == [str(TWO)]


# find_root


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """/dev and /sys of a machine: vda with an MBR, sdb with a GPT of large sectors, loop0 without partitions."""
    (tmp_path / "dev").mkdir()
    mbr = [Part(number=1), Part(number=2)]
    put_disk(tmp_path, "vda", write_mbr(tmp_path / "dev/vda", mbr, 0xC0FFEE), 512, mbr)
    put_disk(tmp_path, "sdb", write_gpt(tmp_path / "dev/sdb", PARTS, sector_bytes=4096), 4096, PARTS)
    (tmp_path / "dev/loop0").write_bytes(b"")
    put_disk(tmp_path, "loop0", tmp_path / "dev/loop0", 512, [])
    return tmp_path


def put_disk(top: Path, name: str, disk: Path, sector_bytes: int, parts: Sequence[Part]) -> None:
    """What sysfs(5) and devtmpfs have of a disk and its partitions."""
    home, listed = top / "sys/devices/pci0/block" / name, top / "sys/class/block"
    (home / "queue").mkdir(parents=True)
    listed.mkdir(parents=True, exist_ok=True)
    (home / "queue/logical_block_size").write_text(f"{sector_bytes}\n")
    (listed / name).symlink_to(f"../../devices/pci0/block/{name}")
    for part in parts:
        node = f"{name}{part.number}"
        (home / node).mkdir()
        (home / node / "partition").write_text(f"{part.number}\n")
        label = f"PARTNAME={part.label}\n" if part.label else ""
        (home / node / "uevent").write_text(f"MAJOR=8\nMINOR={part.number}\nDEVNAME={node}\nPARTN=1\n{label}")
        (listed / node).symlink_to(f"../../devices/pci0/block/{name}/{node}")
        (top / "dev" / node).write_bytes(b"")


def find(shell: Shell, machine: Path, name: str) -> str:
    """The device that `find_root` takes, or ""."""
    done = shell(f'find_root {shlex.quote(name)} && echo "$root"')
    assert done.stderr == ""
    assert (done.returncode == 0) == bool(done.stdout)
    return done.stdout.strip().removeprefix(str(machine))


@pytest.mark.parametrize(
    ("name", "device"),
    {
        f"PARTUUID={ONE}": "/dev/sdb1",
        f"PARTUUID={TWO}": "/dev/sdb2",
        f"PARTUUID={str(THREE).upper()}": "/dev/sdb7",
        f"PARTUUID={UUID(int=9)}": "",
        f"PARTUUID={str(TWO)[:-1]}": "",
        "PARTUUID=00c0ffee-02": "/dev/vda2",
        "PARTUUID=00C0FFEE-01": "/dev/vda1",
        "PARTUUID=00c0ffee-03": "",
        "PARTUUID=": "",
        "PARTLABEL=rootfs": "/dev/sdb7",
        "PARTLABEL=rootfs-a": "/dev/sdb2",
        "PARTLABEL=ROOTFS": "",
        "PARTLABEL=rootfs.a": "",
        "PARTLABEL=root": "",
        "PARTLABEL=": "",
        "LABEL=rootfs": "",
    }.items(),
)
def test_a_partition_is_found_by_its_name(shell: Shell, machine: Path, name: str, device: str) -> None:
    assert find(shell, machine, name) == device


def test_a_path_is_itself(shell: Shell, machine: Path) -> None:
    assert find(shell, machine, f"{machine}/dev/vda2") == "/dev/vda2"
    assert find(shell, machine, f"{machine}/dev/vdz") == ""


def test_a_partition_without_its_device_is_not_there_yet(shell: Shell, machine: Path) -> None:
    (machine / "dev/sdb2").unlink()
    assert find(shell, machine, f"PARTUUID={TWO}") == find(shell, machine, "PARTLABEL=rootfs-a") == ""
    (machine / "dev/sdb2").write_bytes(b"")
    assert find(shell, machine, f"PARTUUID={TWO}") == find(shell, machine, "PARTLABEL=rootfs-a") == "/dev/sdb2"


def test_a_disk_that_cannot_be_read_hides_no_other(shell: Shell, machine: Path) -> None:
    put_disk(machine, "mmcblk", machine / "dev/mmcblk", 512, [Part(number=1)])
    for content in (None, b"", b"short"):
        if content is not None:
            (machine / "dev/mmcblk").write_bytes(content)
        done = shell(f'find_root PARTUUID={TWO} && echo "$root" && find_root PARTUUID=00c0ffee-02 && echo "$root"')
        assert done.stdout.splitlines() == [f"{machine}/dev/sdb2", f"{machine}/dev/vda2"]


def test_a_machine_without_partitions(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vda").write_bytes(b"")
    put_disk(tmp_path, "vda", tmp_path / "dev/vda", 512, [])
    assert find(shell, tmp_path, f"PARTUUID={TWO}") == find(shell, tmp_path, "PARTLABEL=rootfs") == ""
