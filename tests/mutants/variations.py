# SPDX-License-Identifier: MIT
"""Good images in circumstances that are not the usual: each must be accepted, or the verifier cries wolf."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rofs.image.cpio import append
from rofs.machine.accel import find_accel
from rofs.machine.arch import ARCHES
from rofs.machine.disk import make_overlay
from rofs.machine.qemu import Boot, Disk, boot, machine_cmdline
from rofs.store import default_cache_dir
from rofs.verify import probe_wire as wire
from rofs.verify.cmdline import SUFFIX
from rofs.verify.contract import load_contract
from rofs.verify.probe_archive import probe_archive
from tests.mutants.edits import initrd_mounts, oneshot
from tests.mutants.harness import Result, label, read_broken, verify_argv
from tests.mutants.mutation import QUICK, Change, mutate

BOTH = ("amd64", "arm64")
CYCLE_S, RUNNING = 0.4, 0.25
"""A guest slowed four-fold runs for a quarter of each cycle."""


def started(name: str, text: str) -> tuple[str, ...]:
    """Lines of /init that give the running system one more service, and leave the image as it was built."""
    runtime = "/run/systemd/system"
    return (
        f"mkdir -p {runtime}/multi-user.target.wants",
        f"cat >{runtime}/{name} <<'END'",
        *text.splitlines(),
        "END",
        f"ln -s ../{name} {runtime}/multi-user.target.wants/{name}",
    )


@dataclass(frozen=True, kw_only=True)
class Variation(Change):
    """An image, how it is asked for, and how often it was used before. `boots` None is the whole verification."""

    profile: str = "minimal"
    arches: Sequence[str] = ("amd64",)
    options: Sequence[str] = ()
    boots: int | None = 2
    slow: bool = False
    used: int = 0


VARIATIONS: Mapping[str, Variation] = {
    "as built: minimal": Variation(boots=None, arches=BOTH),
    "as built: appliance": Variation(profile="appliance", boots=None, arches=BOTH),
    "as built: busybox": Variation(profile="busybox", boots=None, arches=BOTH),
    "as built: sensor-gateway": Variation(profile="sensor-gateway", boots=None, arches=BOTH),
    "256 MiB of memory": Variation(options=("--memory", "256M")),
    "384 MiB of memory": Variation(options=("--memory", "384M")),
    "1 GiB of memory": Variation(profile="sensor-gateway", options=("--memory", "1G")),
    "2 GiB of memory": Variation(options=("--memory", "2G"), arches=BOTH),
    "busybox with 96 MiB of memory": Variation(profile="busybox", options=("--memory", "96M")),
    "one processor": Variation(options=("--cpus", "1"), arches=BOTH),
    "four processors": Variation(profile="appliance", options=("--cpus", "4")),
    "busybox with four processors": Variation(profile="busybox", options=("--cpus", "4"), arches=BOTH),
    "another kernel flavour": Variation(profile="minimal-generic", boots=None),
    "a guest slowed four-fold": Variation(slow=True),
    "busybox slowed four-fold": Variation(profile="busybox", slow=True, arches=BOTH),
    "a clock in 2010": Variation(profile="sensor-gateway", options=("--clock", "2010-01-01")),
    "a clock in 2037": Variation(options=("--clock", "2037-12-31"), arches=BOTH),
    "a clock in 1970": Variation(options=("--clock", "1970-01-02")),
    "busybox with a clock in 1970": Variation(profile="busybox", options=("--clock", "1970-01-02")),
    "a full /tmp": Variation(
        init=initrd_mounts(*started("full.service", oneshot("dd if=/dev/zero of=/tmp/full bs=64k 2>/dev/null; true")))
    ),
    "a service that takes half a minute": Variation(
        init=initrd_mounts(*started("slow.service", oneshot("sleep 30")))
    ),
    "a console full of words": Variation(
        init=initrd_mounts(*started("words.service", oneshot("seq 20000 >/dev/console")))
    ),
    "packed anew": Variation(pack=QUICK, init=lambda text: text, boots=None),
    "packed anew with gzip in blocks of 4 KiB": Variation(
        pack=replace(QUICK, compression="gzip", level=1, block_size=4096)
    ),
    "packed anew with xz in blocks of 1 MiB": Variation(
        profile="busybox", pack=replace(QUICK, compression="xz", level=None, block_size=1 << 20), arches=BOTH
    ),
    "built with another compressor": Variation(profile="busybox-lz4", boots=None),
    "another hostname": Variation(profile="minimal-renamed"),
    "state used by many boots": Variation(profile="busybox", used=6, arches=BOTH),
    "state of a gateway used by many boots": Variation(profile="sensor-gateway", used=3),
    "one boot at a time": Variation(profile="busybox", options=("--jobs", "1"), boots=None),
}  # fmt: skip


def run_variation(name: str, what: Variation, image: Path, work: Path) -> Result:
    """Verify a copy of `image`; the reports stay in `work`."""
    arch, profile = image.name, image.parent.name
    copy, reports = work / profile / arch, work / "report"
    shutil.rmtree(work, ignore_errors=True)
    reports.mkdir(parents=True)
    mutate(image, work.parent, copy, what)
    options = [*what.options, "--no-manifest"]
    if what.boots is not None:
        options += ["--boots", str(what.boots)]
    if what.used:
        options += ["--state", str(use_state(copy, work, what.used))]
    began = time.monotonic()
    with subprocess.Popen(
        verify_argv(copy, reports, options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as done:
        slower = Slower(done.pid) if what.slow else None
        said = done.communicate()[1].decode("utf-8", "replace")
        if slower:
            slower.finish()
    shutil.rmtree(work / profile)
    return Result(
        name=name, arch=arch, profile=profile, status=done.returncode, seconds=round(time.monotonic() - began, 1),
        broken=tuple(f"{label(check)}: {check['seen']}"[:300] for check in read_broken(reports)), said=said[-2000:],
    )  # fmt: skip


def use_state(image: Path, work: Path, times: int) -> Path:
    """A device's state disk: the published one, after so many cold boots that each end by a clean power-off."""
    contract, arch, out = load_contract(image), ARCHES[image.name], work / "state.raw"
    subprocess.run(["cp", "--sparse=always", image / "state.img", out], check=True)
    initrd = work / "initrd.img"
    plan = (wire.settle(90), wire.sync(), wire.poweroff("clean"))
    append(image / "initrd.img", probe_archive(arch, plan, contract.layout.profile.init), initrd)
    root = make_overlay(image / "rootfs.squashfs", work / "root.qcow2")
    for number in range(times):
        request = Boot(
            arch=arch, accel=find_accel(arch, default_cache_dir()), kernel=image / "vmlinuz", initrd=initrd,
            cmdline=f"{machine_cmdline((image / 'cmdline').read_text(), arch)} {SUFFIX}", work=work / "qemu",
            disks=(Disk(path=root, format="qcow2"), Disk(path=out, format="raw")), console=work / f"used-{number}.log",
        )  # fmt: skip
        result = boot(request, lambda _: None, timeout_s=600)
        assert result.status == "off", result.reason
    return out


class Slower(threading.Thread):
    """Stops and continues the QEMUs that a process started, and no others."""

    def __init__(self, parent: int) -> None:
        super().__init__(daemon=True)
        self._parent, self._over = parent, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            found = [pid for pid in descendants(self._parent) if name_of(pid).startswith("qemu-system")]
            self._tell(found, signal.SIGSTOP)
            self._over.wait(CYCLE_S * (1 - RUNNING))
            self._tell(found, signal.SIGCONT)
            self._over.wait(CYCLE_S * RUNNING)

    def finish(self) -> None:
        """Its last word is to go on."""
        self._over.set()
        self.join()

    @staticmethod
    def _tell(pids: Sequence[int], what: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)


def name_of(pid: int) -> str:
    """A process's name; none when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def descendants(parent: int) -> list[int]:
    """Processes below a process, by the children that /proc names."""
    found: list[int] = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found
