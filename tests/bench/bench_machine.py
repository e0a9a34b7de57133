# SPDX-License-Identifier: MIT
"""One choice of QEMU's machine changed at a time -> what a boot to power-off costs with it, as a table.

`python tests/bench/bench_machine.py IMAGE_DIR [--rounds N] [--only WORD]`: interleaved rounds, medians, each
as a ratio to the machine that rofs uses. Seconds of CPU time are what counts on a shared host: they differ
less from run to run than those of the clock. A choice with which the guest does not power off says so.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from rofs.image.cpio import append
from rofs.machine import qemu
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES, Arch
from rofs.machine.disk import make_overlay
from rofs.verify import probe_wire as wire
from rofs.verify.cmdline import SUFFIX
from rofs.verify.probe_archive import probe_archive

Argv = list[str]
RUNNING = wire.run(240, "systemctl", "is-system-running", "--wait")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What differs from rofs's own machine: words of the architecture's row, CPUs, or any word of QEMU's."""

    name: str
    arch: Callable[[Arch], Arch] = lambda arch: arch
    smp: int = 2
    argv: Callable[[Argv], Argv] = lambda argv: argv
    words: str = ""
    only: tuple[str, ...] = ("amd64", "arm64", "i386", "armhf")


def cpu(model: str, *only: str) -> Choice:
    return Choice(name=f"-cpu {model}", arch=lambda a: replace(a, tcg_cpu=model), only=only)


def machine(words: str, *only: str) -> Choice:
    return Choice(name=f"-machine {words}", arch=lambda a: replace(a, machine_args=("-machine", words)), only=only)


def more(*words: str, only: tuple[str, ...] = ("amd64", "arm64", "i386", "armhf")) -> Choice:
    return Choice(name=" ".join(words), argv=lambda argv: [*argv, *words], only=only)


def swapped(name: str, old: str, new: str) -> Choice:
    def argv(words: Argv) -> Argv:
        assert any(old in word for word in words), f"{old} is not in {words}"
        return [word.replace(old, new) for word in words]

    return Choice(name=name, argv=argv)


CHOICES = (
    Choice(name="as rofs has it"),
    Choice(name="-smp 1", smp=1),
    Choice(name="-smp 4", smp=4),
    cpu("max", "amd64", "i386"),
    cpu("Nehalem", "amd64"),
    cpu("Haswell-noTSX", "amd64"),
    cpu("EPYC", "amd64"),
    cpu("max", "arm64", "armhf"),
    cpu("max,pauth-impdef=on", "arm64"),
    cpu("cortex-a53", "arm64"),
    cpu("cortex-a57", "arm64"),
    cpu("cortex-a76", "arm64"),
    cpu("neoverse-n1", "arm64"),
    machine("pc", "amd64", "i386"),
    machine("q35,hpet=off", "amd64", "i386"),
    machine("q35,smm=off,vmport=off", "amd64", "i386"),
    machine("microvm,pcie=on,acpi=on,rtc=on", "amd64"),
    machine("virt,gic-version=2", "arm64"),
    machine("virt,gic-version=max,its=off", "arm64"),
    machine("virt,gic-version=max,acpi=off", "arm64"),
    more("-bios", "qboot.rom", only=("amd64", "i386")),
    swapped("tcg,thread=single", "tcg", "tcg,thread=single"),
    swapped("tcg,tb-size=512", "tcg", "tcg,tb-size=512"),
    swapped("disks: cache.direct", '"read-only"', '"cache": {"direct": true}, "read-only"'),
    swapped("disks: no flush", '"read-only"', '"cache": {"no-flush": true}, "read-only"'),
    swapped("virtio-rng gone", "virtio-rng-pci", "virtio-rng-pci,max-bytes=1024,period=1000"),
    swapped("console quiet", SUFFIX, f"{SUFFIX} quiet"),
    swapped("console at loglevel 4", SUFFIX, f"{SUFFIX} loglevel=4"),
    swapped("mitigations=off", SUFFIX, f"{SUFFIX} mitigations=off"),
    swapped("no early timer check", SUFFIX, f"{SUFFIX} no_timer_check tsc=reliable"),
    swapped("rcu expedited", SUFFIX, f"{SUFFIX} rcupdate.rcu_expedited=1"),
)


def boot_once(image: Path, choice: Choice) -> tuple[str, float, float]:
    """How it ended, seconds of CPU time and of the clock."""
    arch = choice.arch(ARCHES[image.name])
    with tempfile.TemporaryDirectory(prefix="rofs-bench-") as directory:
        work = Path(directory)
        plan = probe_archive(arch, (RUNNING, wire.poweroff("clean")))
        append(image / "initrd.img", plan, work / "initrd.img")
        root = make_overlay(image / "rootfs.squashfs", work / "root.qcow2")
        cmdline = f"{qemu.machine_cmdline((image / 'cmdline').read_text(), arch)} {SUFFIX}"
        request = qemu.Boot(
            arch=arch, accel=Accel("tcg", "a bench"), kernel=image / "vmlinuz", initrd=work / "initrd.img",
            cmdline=cmdline, disks=(qemu.Disk(path=root, format="qcow2"),), work=work, smp=choice.smp,
            console=work / "console.log",
        )  # fmt: skip
        ours = qemu.qemu_argv
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        with mock.patch.object(qemu, "qemu_argv", lambda boot: choice.argv(ours(boot))):
            try:
                status: str = qemu.boot(request, lambda _: None, timeout_s=150, log=work / "log").status
            except Exception as error:  # noqa: BLE001 -- a choice may be none
                status = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return status, used, time.monotonic() - began


def main() -> int:
    """Rounds over all choices, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="a published image, e.g. images/minimal/amd64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="choices with this word in their name, beside rofs's own")
    options = parser.parse_args()
    image = options.image.absolute()
    chosen = [c for c in CHOICES if image.name in c.only and (options.only in c.name or c is CHOICES[0])]
    seen: dict[str, list[tuple[str, float, float]]] = {c.name: [] for c in chosen}
    for number in range(options.rounds):
        for choice in chosen:
            seen[choice.name].append(boot_once(image, choice))
            print(f"round {number + 1}: {choice.name}: {seen[choice.name][-1]}", file=sys.stderr, flush=True)
    table(seen)
    return 0


def table(seen: dict[str, list[tuple[str, float, float]]]) -> None:
    def medians(name: str) -> tuple[float, float]:
        return statistics.median(r[1] for r in seen[name]), statistics.median(r[2] for r in seen[name])

    base = medians(CHOICES[0].name)
    print(f"{'choice':42} {'CPU s':>7} {'ratio':>6} {'wall s':>7} {'ratio':>6}")
    for name, runs in seen.items():
        failed = next((r[0] for r in runs if r[0] != "off"), "")
        cpu_s, wall_s = medians(name)
        print(f"{name:42} {cpu_s:7.1f} {cpu_s / base[0]:6.2f} {wall_s:7.1f} {wall_s / base[1]:6.2f} {failed}")


if __name__ == "__main__":
    sys.exit(main())
