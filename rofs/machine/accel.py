# SPDX-License-Identifier: MIT
"""An architecture -> the accelerator its guests get, proven by running one, and the one QEMU really uses.

`/dev/kvm` that opens proves nothing: a guest may hang in its first instructions, or QEMU may abort
over a register. So a tiny guest must end QEMU by itself, by the very path a boot takes (firmware,
then `-kernel`), within a second. The verdict is remembered until host, device or QEMU change.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rofs.errors import MachineError, ToolError
from rofs.machine.arch import Arch, host_arch
from rofs.machine.qmp import Qmp
from rofs.run import run
from rofs.seal import read_summed, write_summed

AccelName = Literal["kvm", "tcg"]
NAMES: dict[str, AccelName] = {"kvm": "kvm", "tcg": "tcg"}

KVM = Path("/dev/kvm")
PROOF_S = 1.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Accel:
    """An accelerator and why it was chosen, in words for the report."""

    name: AccelName
    reason: str


def accel_args(arch: Arch, name: AccelName) -> list[str]:
    """QEMU's words for machine, accelerator and the CPU that goes with it.

    TCG is left to choose between one thread and one per CPU: it takes the latter wherever that is safe.
    """
    return [*arch.machine_args, "-accel", name, "-cpu", arch.kvm_cpu if name == "kvm" else arch.tcg_cpu]


def probe_argv(arch: Arch, name: AccelName, blob: Path) -> list[str]:
    """QEMU's words for the tiny guest in `blob`; without -no-reboot, so that a reset is no success."""
    bare = ["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-m", "64M"]
    return [arch.qemu, *bare, *accel_args(arch, name), *arch.kvm_probe_args, "-kernel", str(blob)]


def find_accel(arch: Arch, cache_dir: Path, *, kvm: Path = KVM) -> Accel:
    """The accelerator for guests of `arch` on this host; `ROFS_ACCEL` overrides.

    Costs about a second at most, once per start of the host. Raises ToolError without QEMU.
    """
    wish = os.environ.get("ROFS_ACCEL", "")
    if wish in NAMES:
        return Accel(NAMES[wish], f"ROFS_ACCEL={wish}")
    if wish:
        raise MachineError(f"ROFS_ACCEL={wish}: not an accelerator (kvm or tcg)")
    if (host := host_arch()) != arch.name:
        return Accel("tcg", f"the host is {host or os.uname().machine}, the guest {arch.name}")
    try:
        device = os.open(kvm, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Accel("tcg", f"{kvm}: {error.strerror}")
    try:
        key = _key(arch, os.fstat(device))
    finally:
        os.close(device)
    memory = cache_dir / f"accel-{arch.name}.json"
    if remembered := _recall(memory, key):
        return remembered
    accel = _prove(arch)
    _remember(memory, key, accel)
    return accel


def _key(arch: Arch, device: os.stat_result) -> list[str | int]:
    """What the verdict holds for: this start of the host, this device, this QEMU, this probe."""
    version = run([arch.qemu, "--version"], timeout_s=60).stdout
    words = repr(probe_argv(arch, "kvm", Path("probe"))).encode() + arch.kvm_probe
    numbers = [device.st_rdev, device.st_ino, device.st_mode]
    return [BOOT_ID.read_text().strip(), *numbers, version, hashlib.sha256(words).hexdigest()]


def _prove(arch: Arch) -> Accel:
    """Run the tiny guest under KVM and judge how it ends."""
    began = time.monotonic()
    try:
        run_probe(arch, "kvm", timeout_s=PROOF_S)
    except ToolError as error:
        if time.monotonic() - began >= PROOF_S:
            return Accel("tcg", f"kvm opens but a guest hung for {PROOF_S:g} s")
        words = "".join(error.tail.strip().splitlines()[-1:])
        return Accel("tcg", f"kvm opens but QEMU fails with it: {words or error.reason}")
    return Accel("kvm", "a guest ran and ended by itself")


def run_probe(arch: Arch, name: AccelName, *, timeout_s: float) -> None:
    """Run the tiny guest; ToolError if it does not end by itself and in time."""
    with tempfile.TemporaryDirectory(prefix="rofs-accel-") as directory:
        blob = Path(directory, "probe")
        blob.write_bytes(arch.kvm_probe)
        run(probe_argv(arch, name, blob), timeout_s=timeout_s, ok=(arch.kvm_probe_status,))


def _recall(memory: Path, key: list[str | int]) -> Accel | None:
    try:
        saved = json.loads(read_summed(memory))
        return Accel(**saved["accel"]) if saved["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(memory: Path, key: list[str | int], accel: Accel) -> None:
    """Write the verdict whole or not at all; a cache that cannot be written costs a second, no more."""
    with suppress(OSError):
        write_summed(memory, json.dumps({"key": key, "accel": asdict(accel)}).encode())


def query_accel(qmp: Qmp) -> AccelName:
    """The accelerator this running QEMU uses, by its own word."""
    return "kvm" if qmp.execute("query-kvm")["enabled"] else "tcg"
