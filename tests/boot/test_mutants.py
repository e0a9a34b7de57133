# SPDX-License-Identifier: MIT
"""Built images broken in one way each: `rofs verify` ends with status 4 and names the broken promise."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from mutate import UNITS, Mutation, mutate, replaced, unit

from rofs.entry import Entry

pytestmark = [pytest.mark.boot, pytest.mark.needs("sqfs2tar", "unsquashfs", "tar2sqfs", "qemu-img")]

Rofs = Callable[..., subprocess.CompletedProcess[str]]

VAR_UNIT, VAR_LINK = f"{UNITS}/var.mount", f"{UNITS}/local-fs.target.requires/var.mount"
KEYS = "/home/technician/.ssh/authorized_keys"
SIZE = "size=32768k,"
BEFORE_PID_1 = "# Only verification brings this"
"""The line of /init after which all mounts are made; a mutant's own stand before it."""
LATE = """\
[Service]
Type=simple
ExecStart=/bin/sh -c 'until ls -d /tmp/.rofs-* >/dev/null 2>&1; do sleep 0.05; done; mount -t tmpfs late /srv'
"""
CYCLE = "[Unit]\nAfter={other}\nRequires={other}\n[Service]\nType=oneshot\nExecStart=/bin/true\n"


def no_line(start: str) -> Callable[[str], str]:
    """Without the one line that starts so."""

    def edit(text: str) -> str:
        lines = text.splitlines(keepends=True)
        rest = [line for line in lines if not line.startswith(start)]
        assert len(rest) == len(lines) - 1, f"nothing to break: {start!r}"
        return "".join(rest)

    return edit


def initrd_mounts(*lines: str) -> Callable[[str], str]:
    return replaced(BEFORE_PID_1, "\n".join([*lines, BEFORE_PID_1]))


MUTANTS: dict[str, Mutation] = {
    "unit gone": Mutation(
        drop=[VAR_UNIT, VAR_LINK],
        names=["unit: var.mount", "generated: mounts[0]: "],
        seen=["PID 1 uses /run/systemd/generator/var.mount"],
    ),
    "unit and fstab line gone": Mutation(
        drop=[VAR_UNIT, VAR_LINK],
        edit={"/etc/fstab": no_line("overlay /var ")},
        names=["mount: /var (overlay-tmpfs)", "unit: var.mount", "fstab: /etc/fstab", "writable: /var"],
        seen=["nothing is mounted on /var"],
    ),
    "immutable path writable, by an overlay": Mutation(
        init=initrd_mounts(
            "mkdir -p /run/evil/upper /run/evil/work && cd /run/evil",
            "mount -t overlay -o lowerdir=/sysroot/usr,upperdir=upper,workdir=work evil /sysroot/usr && cd /",
        ),
        names=["immutable: /usr", "nothing undeclared: mount table"],
        seen=["create had an effect", "/usr (overlay evil"],
    ),
    "undeclared directory writable, by a bind": Mutation(
        init=initrd_mounts("mkdir /run/evil", "mount -o bind /run/evil /sysroot/opt"),
        names=["immutable: /opt", "nothing undeclared: mount table"],
        seen=["create had an effect", "/opt (tmpfs tmpfs[/evil]"],
    ),
    "tmpfs over /usr/local": Mutation(
        put=unit("usr-local.mount", "[Mount]\nWhat=tmpfs\nWhere=/usr/local\nType=tmpfs\n", "local-fs.target"),
        names=["nothing undeclared: mount table"],
        seen=["/usr/local (tmpfs tmpfs"],
    ),
    "size cap gone": Mutation(
        edit={f"{UNITS}/tmp.mount": replaced(SIZE, ""), "/etc/fstab": replaced(SIZE, "")},
        names=["size cap: /tmp", "mount: /tmp (tmpfs)", "unit: tmp.mount"],
        seen=["size is not set, not 32768k", "fits, "],
    ),
    "fstab says something else than the unit": Mutation(
        edit={"/etc/fstab": replaced(SIZE, "size=65536k,")},
        names=["fstab: /etc/fstab", "unit: tmp.mount"],
        seen=["another /etc/fstab", "size=65536k"],
    ),
    "a unit that fails": Mutation(
        put=unit("broken.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n"),
        names=["system: no failed unit", "system: running"],
        seen=["broken.service", "degraded"],
    ),
    "an ordering cycle": Mutation(
        put=[
            *unit("one.service", CYCLE.format(other="two.service")),
            *unit("two.service", CYCLE.format(other="one.service")),
        ],
        names=["system: no ordering cycle"],
        seen=["ordering cycle"],
    ),
    "a mount made late": Mutation(
        put=unit("late.service", LATE),
        names=["nothing undeclared: mount table after all checks"],
        seen=["/srv (tmpfs late"],
    ),
    "the root's device left writable": Mutation(
        init=replaced('blockdev --setro "$root" && [ "$(blockdev --getro "$root")" = 1 ] ||', "true ||"),
        names=["immutable: /", "immutable: /usr"],
        seen=["image-ro on a writable device"],
    ),
    "an initrd that gives up": Mutation(
        init=initrd_mounts('fail "the mutant says so"'),
        names=["boot: the system boots, answers and powers off"],
        seen=["rofs: the mutant says so", "Kernel panic - not syncing"],
    ),
    "a kernel command line that masks a mount": Mutation(
        cmdline=replaced("ro ", "ro systemd.mask=tmp.mount "),
        names=["mount: /tmp (tmpfs)", "unit: tmp.mount"],
        seen=["nothing is mounted on /tmp"],
    ),
    "an island in a writable /etc bound to something writable": Mutation(
        profile="appliance",
        init=initrd_mounts(
            "umount /sysroot/etc/shadow && cp -a /run/rofs/image/etc/shadow /run/evil",
            "mount -o bind /run/evil /sysroot/etc/shadow",
        ),
        names=["immutable: /etc/shadow", "mount: /etc/shadow"],
        seen=["open-write had an effect", "/etc/shadow of "],
    ),
    "a key of the technician that others may write": Mutation(
        profile="appliance",
        put=[Entry(path=PurePosixPath(KEYS), kind="file", mode=0o666, uid=1000, gid=1000, content=b"another\n")],
        names=["generated: users[0]"],
        seen=[f"{KEYS}: mode is 0666, not 0600", "the content differs"],
    ),
}
ON_ARM = ("unit gone", "size cap gone")
CASES = [("amd64", name) for name in MUTANTS] + [("arm64", name) for name in ON_ARM]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unpacked")


def broken_of(directory: Path) -> list[dict[str, Any]]:
    report = json.loads((directory / "report.json").read_text())
    assert report["verdict"] == "rejected"
    assert any(note.startswith("NOT the files that were built") for note in report["notes"])
    return [check for check in report["checks"] if not check["ok"]]


@pytest.mark.parametrize(("arch", "name"), CASES, ids=[f"{a}-{n}" for a, n in CASES])
def test_a_broken_image_is_rejected_by_name(
    arch: str, name: str, built: Callable[[str], Path], rofs: Rofs, scratch: Path, tmp_path: Path
) -> None:
    what = MUTANTS[name]
    copy = mutate(built(what.profile) / arch, scratch, tmp_path / arch, what)
    result = rofs("verify", "--no-manifest", "--boots", "1", copy)
    assert result.returncode == 4, result.stdout + result.stderr
    broken = broken_of(copy)
    named = [f"{check['promise']}: {check['subject']}" for check in broken]
    for want in what.names:
        assert any(n.startswith(want) for n in named), f"{want} is not among {named}"
        assert re.search(rf"^BROKEN boot 1  {re.escape(want)}", result.stdout, re.MULTILINE), result.stdout
    everything = "\n".join(check["seen"] for check in broken)
    for words in what.seen:
        assert words in everything, everything
    shutil.rmtree(copy)


def test_the_same_image_packed_anew_is_accepted(
    built: Callable[[str], Path], rofs: Rofs, scratch: Path, tmp_path: Path
) -> None:
    """No false alarm: what the mutants have in common is not what rejects them."""
    nothing = Mutation(always=True, init=lambda text: text)
    copy = mutate(built("minimal") / "amd64", scratch, tmp_path / "amd64", nothing)
    assert (copy / "rootfs.squashfs").read_bytes() != (built("minimal") / "amd64" / "rootfs.squashfs").read_bytes()
    result = rofs("verify", "--no-manifest", copy)
    assert result.returncode == 0, result.stdout
    report = json.loads((copy / "report.json").read_text())
    assert report["verdict"] == "accepted"
    assert report["notes"] == [
        "NOT the files that were built, verified with --no-manifest: initrd.img, rootfs.squashfs"
    ]


def test_changed_files_are_refused_before_any_boot(
    built: Callable[[str], Path], rofs: Rofs, scratch: Path, tmp_path: Path
) -> None:
    put = [Entry(path=PurePosixPath("/etc/motd"), kind="file", content=b"not what was built\n")]
    copy = mutate(
        built("minimal") / "amd64", scratch, tmp_path / "amd64", Mutation(put=put, cmdline=replaced("ro ", "ro quiet "))
    )
    result = rofs("verify", copy, timeout_s=30)
    assert result.returncode == 5, result.stdout
    assert "cmdline, rootfs.squashfs (--no-manifest" in result.stderr
    assert not (copy / "report.json").exists()
    assert not list(copy.rglob("console-*"))


def test_a_good_image_is_accepted_again_and_its_reports_go_where_asked(
    built: Callable[[str], Path], rofs: Rofs, tmp_path: Path
) -> None:
    image = built("minimal") / "amd64"
    before = {path: path.stat().st_mtime_ns for path in image.rglob("*")}
    result = rofs("verify", image, "--report", tmp_path / "again", "--format", "json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["notes"] == ["every file is as the manifest says"]
    assert report == json.loads((tmp_path / "again" / "report.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in image.rglob("*")} == before
