# SPDX-License-Identifier: MIT
"""Guests that hang, panic, flood or lie: `rofs verify` rejects them in bounded time, with their last words, and alone.

The initrd's /init is edited, so a guest does its harm before or instead of what it should do; or the image's shell
is another, and then it does so while the probe asks.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rofs.machine.accel import find_accel
from rofs.machine.arch import ARCHES
from rofs.machine.bounds import MIB, Limits
from rofs.machine.qemu import Boot, Disk, boot, machine_cmdline
from rofs.store import default_cache_dir
from tests.mutants.edits import put_file, replaced
from tests.mutants.mutation import Change, mutate

pytestmark = [pytest.mark.boot, pytest.mark.needs("sqfs2tar", "unsquashfs", "tar2sqfs", "qemu-img")]

Rofs = Callable[..., subprocess.CompletedProcess[str]]

MODULES_LOADED = "tries=0 wanted=$root"
PORT = """\
for port in /sys/class/virtio-ports/*; do [ "$(cat "$port/name")" != rofs.probe ] || port=/dev/${port##*/}; done
line() { printf '%s\\n' "$1" >>/answers; }
off() { echo o >/proc/sysrq-trigger; sleep 60; }
say() { echo "<1>guest: $*" >/dev/kmsg; }
"""
"""What the lies below are told with."""
EACH = "id=0; while read -r op rest; do id=$((id + 1)); {each}; done </rofs-probe/plan; cat /answers >$port; off"
"""Something for each operation of the plan."""
SHELL = '#!/bin/busybox sh\n[ "$1" != -c ] || {{ {harm}; }}\nexec /bin/busybox sh "$@"\n'
"""The probe is the first to say `sh -c`, when all that only looks was answered."""
BOUND_S = 240
"""For the whole verification on a busy host; each boot has its own limit."""


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What a guest does: in its /init once the modules are loaded, or whenever its shell is given a command.

    `reason` is how its boot must have ended, `broken` are promises that it breaks, `answers` whether it gave good
    ones, `words` are on stdout.
    """

    init: str = ""
    shell: str = ""
    limit_s: int = 60
    reason: str = "did not end within"
    broken: tuple[str, ...] = ("boot",)
    answers: bool = False
    words: str = ""

    @property
    def change(self) -> Change:
        """Of the image."""
        init = replaced(MODULES_LOADED, f"{PORT}{self.init}\n{MODULES_LOADED}") if self.init else None
        shell = [put_file("/bin/sh", SHELL.format(harm=self.shell), 0o755)] if self.shell else []
        return Change(init=init, drop=["/bin/sh"] if shell else [], put=shell)


BOTH = ("answers", "boot")
OFF, RESET, FLOODED = (
    "the guest powered off",
    "the guest reset itself",
    "stopped, since the guest flooded the probe's port",
)
HARMS = {
    "hangs early": Harm(init="say 'not another step'; sleep 9999", limit_s=15, words="guest: not another step"),
    "hangs after half of the answers": Harm(
        shell="echo '<1>halfway' >/dev/kmsg; kill -STOP $(pidof rofs-probe)", limit_s=30, answers=True, words="halfway"
    ),
    "panics in the initrd": Harm(init="say gone; exit 7", reason=RESET, words="Kernel panic - not syncing: Attempted"),
    "panics when PID 1 runs": Harm(
        shell="echo c >/proc/sysrq-trigger", reason=RESET, answers=True,
        words="Kernel panic - not syncing: sysrq triggered crash",
    ),
    "floods its console": Harm(init="/bin/busybox yes 'and again' >/dev/console", limit_s=15, words="| and again"),
    "floods the port with lines": Harm(
        init="/bin/busybox yes 'Started.' >$port", reason=f"{FLOODED} with more than 100000 lines", broken=BOTH
    ),
    "sends a line without an end": Harm(init="cat /dev/zero >$port", reason=f"{FLOODED} with a line of more than"),
    "reports garbage": Harm(
        init=EACH.format(each="""line '{"id":'$id',"op":"'"${op%%@*}"'","errno":0,"data":"@","names":{"a":[1]}}'"""),
        reason=OFF, broken=BOTH,
    ),
    "reports noise": Harm(
        init="line '{\\0'; line null; line '\x1b[2J'; cat /answers >$port; off", reason=OFF, broken=BOTH
    ),
    "says ok to what nobody asked": Harm(
        init=EACH.format(each="""for i in $id 9999; do line '{"id":'$i',"op":"sync","errno":null}'; done"""),
        reason=OFF, broken=BOTH,
    ),
    "never reports": Harm(init="rm /rofs-probe/enter", limit_s=15),
    "powers off at once": Harm(init="say goodbye; off", reason=OFF, words="guest: goodbye"),
    "resets": Harm(init="echo b >/proc/sysrq-trigger; sleep 60", reason=RESET),
    "sends escapes": Harm(
        init="printf '\\033]0;owned\\007\\033[2Jtricked\\302\\2332J\\n' >/dev/console; off", reason=OFF, words="tricked"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def image(built: Callable[[str], Path]) -> Path:
    return built("busybox") / "amd64"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unpacked")


def machines_of(path: Path) -> list[str]:
    """Command lines of running QEMUs in which a path below `path` is named, or that work there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            where = str((process / "cwd").readlink())
        except OSError:
            continue  # it has ended
        if "qemu-system" in words and (str(path) in words or where.startswith(str(path))):
            found.append(words.replace("\0", " "))
    return found


@pytest.mark.parametrize("name", HARMS)
def test_a_hostile_guest_is_rejected(name: str, image: Path, scratch: Path, rofs: Rofs, tmp_path: Path) -> None:
    harm = HARMS[name]
    copy = mutate(image, scratch, tmp_path / "amd64", harm.change)
    limit = ["--boot-timeout", str(harm.limit_s)]
    result = rofs(
        "verify", "--no-manifest", "--boots", "1", *limit, "--report", tmp_path / "report", copy,
        timeout_s=BOUND_S, ROFS_CACHE_DIR=str(cache(tmp_path)),
    )  # fmt: skip
    said = result.stdout + result.stderr
    assert result.returncode == 4, said
    assert machines_of(tmp_path) == []
    (one,) = json.loads((tmp_path / "report/report.json").read_text())["boots"]
    assert one["reason"].startswith(harm.reason), said
    assert set(harm.broken) <= broken_of(tmp_path / "report"), said
    assert any(check["ok"] and check["promise"] == "mount" for check in checks_of(tmp_path / "report")) == harm.answers
    assert harm.words in said
    assert last_word(tmp_path / "report") in said, "the last words of the console are shown"
    assert not [c for c in said if c != "\n" and not c.isprintable()], "nothing that moves a cursor"


def cache(path: Path) -> Path:
    """Of its own, so that QEMU's files are below the test's directory; what is known of accelerators is copied."""
    own = path / "cache"
    own.mkdir()
    for known in default_cache_dir().glob("accel-*.json"):
        (own / known.name).write_bytes(known.read_bytes())
    return own


def checks_of(report: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((report / "report.json").read_text())["checks"]
    return found


def broken_of(report: Path) -> set[str]:
    return {check["promise"] for check in checks_of(report) if not check["ok"]}


def last_word(report: Path) -> str:
    """Of the console, or of what led to a panic."""
    raw = (report / "logs/console-1.log").read_text(errors="replace")
    before, panic, _ = raw.partition("Kernel panic")
    return panic or before.split()[-1]


def test_a_flood_of_the_console_ends_the_boot_and_its_ends_are_kept(image: Path, scratch: Path, tmp_path: Path) -> None:
    """With a lower limit than that of a verification: an emulated serial port is slow."""
    copy = mutate(image, scratch, tmp_path / "amd64", Change(init=HARMS["floods its console"].change.init))
    arch = ARCHES["amd64"]
    request = Boot(
        arch=arch, accel=find_accel(arch, default_cache_dir()), kernel=copy / "vmlinuz", initrd=copy / "initrd.img",
        cmdline=machine_cmdline((copy / "cmdline").read_text(), arch), work=tmp_path / "work",
        disks=(Disk(path=copy / "rootfs.squashfs", format="raw", read_only=True),), console=tmp_path / "console",
    )  # fmt: skip
    result = boot(request, lambda _: None, timeout_s=BOUND_S, limits=Limits(console_bytes=MIB // 2, kept_bytes=4096))
    assert result.status == "crash"
    assert result.reason == f"stopped, since the guest flooded its console with more than {MIB // 2} bytes"
    assert "Linux version" in result.console and "and again" in result.console[-50:]
    assert " bytes left out ...]" in (tmp_path / "console").read_text() and len(result.console) < 10_000
    assert machines_of(tmp_path) == []
