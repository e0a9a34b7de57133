# SPDX-License-Identifier: MIT
"""The power goes in the middle of seeding and of a factory reset, on a disk that loses what was not flushed.

One boot is logged up to the end of the initrd (its PID 1 is `false`, so that nobody flushes for us). The
log is cut at many points, and each replayed disk must boot: with every seed whole, whether it is from the
boot that was cut or made again; and with nothing left of what a reset had to take.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from guestrun import EVENTS, FAILED, RUNNING, Ran, assert_running, build_image, copy_disk, run_guest, write_profile
from powercut import cut_points, outstanding, read_log, replay

from rofs.image.cpio import CpioEntry, append, write_newc
from rofs.layout import backing_name
from rofs.machine.disk import make_overlay
from rofs.machine.qemu import Disk
from rofs.verify import probe_wire as wire
from tests.mutants.edits import replaced
from tests.mutants.mutation import read_init

pytestmark = [pytest.mark.boot, pytest.mark.needs("mkfs.ext4", "qemu-img")]

CUTS = 20
GCONV = "/usr/lib/x86_64-linux-gnu/gconv"
HWDB = "/usr/lib/udev/hwdb.d"
SEEDS = ("/var/lib/dpkg", GCONV)
PROFILE = f"""\
kernel: {{cmdline: "panic=10"}}
state: {{size: 48M, on_failure: refuse}}
mounts:
  - {{path: /etc, type: overlay, upper: state}}
  - {{path: /var, type: overlay, upper: tmpfs, size: 64M}}
  - {{path: /var/lib/dpkg, type: bind, source: state}}
  - {{path: {GCONV}, type: bind, source: state}}
  - {{path: {HWDB}, type: partition, device: LABEL=hwdb, size: 48M, on_failure: refuse}}
"""
STATE, PARTITION = "state.img", "partition-usr-lib-udev-hwdb.d.img"
MARKS = ("/etc/device-setting", "/var/lib/dpkg/device-setting", f"{HWDB}/device-setting")
ASK = [
    RUNNING, FAILED, EVENTS,
    *(
        wire.compare(f"/run/rofs/state/data/bind/{backing_name(PurePosixPath(path))}", f"/run/rofs/image{path}")
        for path in SEEDS
    ),
    wire.compare(HWDB, f"/run/rofs/image{HWDB}"),
    wire.list_dir("/run/rofs/state"), wire.list_dir("/run/rofs/state/data"), *(wire.exists(mark) for mark in MARKS),
]  # fmt: skip
WHERE = (*SEEDS, HWDB)


@dataclass(frozen=True)
class Cut:
    """One replayed disk, booted."""

    at: int
    lost: int
    ran: Ran

    def problems(self) -> list[str]:
        """What is wrong with it; nothing, if power cuts are safe."""
        if self.ran.result.status != "off" or self.ran.text(0).strip() != "running" or self.ran.text(1).strip():
            said = [line for line in self.ran.result.console.splitlines() if "rofs: " in line]
            return [f"{self.ran.result.reason}, {self.ran.text(0).strip()} {self.ran.text(1).strip()}", *said[-2:]]
        found = []
        for number, where in enumerate(WHERE, start=3):
            answer = self.ran.answers[number]
            if answer.get("errno", "") is not None or answer["entries"] or answer["files"] < 25:
                found.append(f"{where}, {self.word(where)}: {str(answer)[:300]}")
        state, data = ({*self.ran.answers[number]["names"]} for number in (6, 7))
        if state - {"lost+found"} != {"data"} or data != {"bind", "identity", "overlay"}:
            found.append(f"left over: {sorted(state)} {sorted(data)}")
        return found

    def word(self, where: str) -> str:
        """seeded or kept: said by the initrd, once."""
        (word,) = [e.partition(": ")[2] for e in self.ran.events if e.startswith(f"{where}: ")]
        return word


@pytest.fixture(scope="module")
def image(rofs: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cuts")
    return build_image(rofs, write_profile(directory, "cuts", PROFILE), directory)


def fresh(image: Path, name: str, work: Path) -> Disk:
    """One that has never been used, and is forgotten."""
    work.mkdir(parents=True, exist_ok=True)
    return Disk(path=make_overlay(image / name, work / f"{name}.qcow2"), format="qcow2")


def record(image: Path, name: str, base: Path, work: Path, *, words: str = "", initrd: Path | None = None) -> Path:
    """Boot up to the end of the initrd with the disk `name` being a copy of `base` -> the log of its writes."""
    work.mkdir(parents=True, exist_ok=True)
    logged = Disk(path=copy_disk(base, work / "logged.raw").path, format="raw", write_log=work / "log")
    disks = [logged if each == name else fresh(image, each, work) for each in (STATE, PARTITION)]
    ran = run_guest(image, [], disks, work, words=f"init=/usr/bin/false {words}".strip(), initrd=initrd)
    assert ran.result.status == "crash" and "Attempted to kill init" in ran.result.console, ran.result.console[-2000:]
    assert "rofs: state: " in ran.result.console
    return work / "log"


def cut_all(image: Path, name: str, base: Path, log_file: Path, count: int, work: Path) -> list[Cut]:
    """Replay and boot `count` cuts, two at a time; the last is at the end of the log, when all is done."""
    log = read_log(log_file)
    assert any(entry.flush for entry in log) and len(log) > count

    def one(cut: int) -> Cut:
        here = work / f"cut-{cut}"
        here.mkdir(parents=True)
        replay(base, log, cut, here / "cut.raw", random.Random(cut))
        disk = Disk(path=here / "cut.raw", format="raw")
        disks = [disk if each == name else fresh(image, each, here) for each in (STATE, PARTITION)]
        return Cut(cut, outstanding(log, cut), run_guest(image, ASK, disks, here))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, [*cut_points(log[:-1], count - 1), len(log) - 1]))


def assert_safe(cuts: Sequence[Cut]) -> None:
    wrong = {f"cut {cut.at}, {cut.lost} writes not flushed": cut.problems() for cut in cuts}
    assert {k: v for k, v in wrong.items() if v} == {}
    assert sum(cut.lost > 0 for cut in cuts) >= len(cuts) // 2  # or nothing could have been lost


def test_power_cuts_while_the_state_is_seeded(image: Path, tmp_path: Path) -> None:
    base = image / STATE
    cuts = cut_all(image, STATE, base, record(image, STATE, base, tmp_path / "log"), CUTS, tmp_path)
    assert_safe(cuts)
    assert len(cuts) == CUTS
    for where in SEEDS:  # some came too early for the seed, some too late to touch it
        assert {cut.word(where) for cut in cuts} == {"seeded", "kept"}, where


def test_power_cuts_while_a_partition_is_seeded(image: Path, tmp_path: Path) -> None:
    base = image / PARTITION
    cuts = cut_all(image, PARTITION, base, record(image, PARTITION, base, tmp_path / "log"), CUTS // 2, tmp_path)
    assert_safe(cuts)
    assert {cut.word(HWDB) for cut in cuts} == {"seeded", "kept"}


@pytest.fixture(scope="module")
def used(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both disks of a device in use, the flag of a factory reset set."""
    work = tmp_path_factory.mktemp("used")
    disks = [copy_disk(image / name, work / name) for name in (STATE, PARTITION)]
    script = "".join(f"echo mine > {mark}; " for mark in MARKS) + "touch /run/rofs/state/factory-reset"
    ran = run_guest(image, [RUNNING, FAILED, EVENTS, wire.shell(60, script)], disks, work / "boot")
    assert_running(ran)
    assert ran.answers[3].get("status") == 0, ran.text(3)
    return work


def test_power_cuts_in_a_factory_reset(image: Path, used: Path, tmp_path: Path) -> None:
    """Whatever was lost, the flag was not: what had to go is gone after the next boot."""
    base = used / STATE
    cuts = cut_all(image, STATE, base, record(image, STATE, base, tmp_path / "log"), CUTS, tmp_path)
    assert_safe(cuts)
    assert len(cuts) == CUTS
    for cut in cuts:
        assert [cut.ran.answers[number]["exists"] for number in (8, 9)] == [False, False], cut.at
    assert any("state: reset" in cut.ran.events for cut in cuts)


def test_a_disk_without_barriers_fails_this_test(image: Path, tmp_path: Path) -> None:
    """The test can fail: what ext4 does not flush is really lost."""
    options = "ext4 rw,nosuid,nodev,noatime "
    edit = replaced(options, options.replace("noatime", "noatime,nobarrier"))
    archive = tmp_path / "second"
    with archive.open("wb") as file:
        init = CpioEntry(
            path=PurePosixPath("init"), mode=0o100755, content=edit(read_init(image / "initrd.img")).encode()
        )
        write_newc([init], file)
    initrd = tmp_path / "initrd.img"
    append(image / "initrd.img", archive.read_bytes(), initrd)
    base = image / STATE
    cuts = cut_all(image, STATE, base, record(image, STATE, base, tmp_path / "log", initrd=initrd), 8, tmp_path)
    assert any(cut.problems() for cut in cuts)
