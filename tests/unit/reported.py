# SPDX-License-Identifier: MIT
"""Made-up reports for the tests of each of their forms: good, broken, and of a guest that is hostile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from layouts import RICH, layout_of

from rofs.layout import Layout
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES
from rofs.machine.qemu import BootResult
from rofs.verify.check import Outcome, broken, kept
from rofs.verify.findings import Report
from rofs.verify.request import BootRecord, Machine, Session

EVIL = "a\x00b\x1b[31mred\x07\ufffe <&>\"' ü\r\n\ttail \u202e\ud800"
"""What no form of a report may hand on as it is: controls, markup, text that runs backwards, half a pair."""
MARKUP = "</pre></title></style><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
CONSOLE = """\
[    0.000000] Linux version 6.1.0 (a@b) #1 SMP
[    0.250000] Command line: ro
[    1.500000] Run /init as init process
[    2.000000] rofs: state: new
[    2.500000] systemd[1]: Inserted module 'autofs4'
[    3.000000] systemd[1]: Queued start job for default target multi-user.target.
[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mlocal-fs.target\x1b[0m.
[    7.000000] systemd-shutdown[1]: Syncing filesystems and block devices.
[    7.500000] reboot: Power down
"""
SECONDS = 8.25
MOMENTS = ((4.0, "probe started"), (4.5, "first answer"), (7.0, "last answer"), (SECONDS, "ended"))


def result(
    console: str = CONSOLE, status: Literal["off", "timeout", "crash"] = "off", seconds: float = SECONDS
) -> BootResult:
    reason = "the guest powered off" if status == "off" else "still running"
    return BootResult(status=status, reason=reason, seconds=seconds, accel_seen="tcg", console=console)


def record(
    number: int = 1, title: str = "", *, made: BootResult | None = None,
    moments: tuple[tuple[float, str], ...] = MOMENTS,
) -> BootRecord:  # fmt: skip
    return BootRecord(
        number=number, title=title, result=made or result(), answered=9, asked=9, cmdline="ro root=/dev/vda",
        machine=Machine(memory_bytes=512 << 20, cpus=2), moments=moments,
    )  # fmt: skip


def report(
    *outcomes: Outcome, boots: Sequence[BootRecord] = (record(), record(2, "state missing")),
    notes: tuple[str, ...] = ("a note",), layout: Layout | None = None, tools: Mapping[str, str] | None = None,
) -> Report:  # fmt: skip
    accel = Accel(name="tcg", reason="no /dev/kvm")
    session = Session(
        arch=ARCHES["arm64"], accel=accel, boots=tuple(boots), outcomes=outcomes, files={"vmlinuz": "0a" * 32}
    )
    made = tools if tools is not None else {"rofs": "0.1.0", "qemu": "7.2.19"}
    return Report(layout=layout or layout_of(RICH), session=session, notes=notes, tools=made)


IMAGE = Outcome(boot=0, promise="image", subject="files", at=(), verdict=kept("the same", "the same"))
GOOD = Outcome(boot=1, promise="mount", subject="/tmp (tmpfs)", at=("mounts", 3), verdict=kept("tmpfs", "tmpfs, 32M"))
AGAIN = Outcome(boot=2, promise="mount", subject="/tmp (tmpfs)", at=("mounts", 3), verdict=kept("tmpfs", "tmpfs, 33M"))
BAD = Outcome(boot=2, promise="size cap", subject=EVIL, at=("mounts", 0, "size"), verdict=broken(EVIL, EVIL))
VAR = Outcome(
    boot=1, promise="mount", subject="/var (overlay)", at=("mounts", 1), verdict=broken("overlay", "squashfs")
)
PLAIN = Outcome(boot=2, promise="boot", subject="it boots", at=(), verdict=kept("a boot", "a boot"))
ALL = (IMAGE, GOOD, AGAIN, BAD, VAR, PLAIN)


def hostile() -> Report:
    """Every string that a guest has a hand in is an attack on the reader."""
    console = f"{CONSOLE}{EVIL}\n\x1b]0;{MARKUP}\x07{MARKUP}\n[    7.600000] rofs: {MARKUP}\n"
    boots = [record(made=result(console)), record(2, "state missing", made=result(EVIL * 9, "timeout"))]
    verdict = broken(MARKUP, f"{MARKUP}{EVIL}")
    return report(
        *ALL, Outcome(boot=1, promise=f"p {MARKUP}", subject=f"/tmp {MARKUP}", at=(), verdict=verdict),
        boots=boots, notes=("a note", MARKUP),
    )  # fmt: skip
