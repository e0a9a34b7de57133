# SPDX-License-Identifier: MIT
"""A Debian architecture -> every word that differs with it: QEMU's, Zig's, the kernel's.

Rows, not branches: a new architecture is a new row. This module imports nothing of rofs, and no
`from __future__`, because the wheel's build hook executes it by path, where dataclasses cannot look
up annotations given as text.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """One architecture.

    `name` and `kernel_suffix` are Debian's, `uname` the kernel's (`uname -m`). `default_kernel` is the
    package for a profile that names none. `machine_args` goes with every accelerator; its machine has
    PCI, since the guest's devices are virtio on that. `kvm_probe` is a kernel that does nothing but end
    QEMU with `kvm_probe_status`; `kvm_probe_args` is what it needs beside the machine.
    """

    name: str
    kernel_suffix: str
    default_kernel: str
    uname: str
    qemu: str
    qemu_user: str
    machine_args: tuple[str, ...]
    tcg_cpu: str
    kvm_cpu: str
    console: str
    zig_target: str
    kvm_probe: bytes
    kvm_probe_args: tuple[str, ...]
    kvm_probe_status: int


def _bzimage(code: bytes) -> bytes:
    """A kernel of nothing but its real-mode part, `code` at its entry (Linux boot protocol 2.00)."""
    sectors = bytearray(1536)  # boot sector, one sector of setup, one that stands for the kernel
    sectors[0x1F1] = 1  # setup_sects
    sectors[0x1FE:0x200] = b"\x55\xaa"
    sectors[0x200:0x202] = b"\xeb\x7e"  # jmp 0x280
    sectors[0x202:0x208] = b"HdrS\x00\x02"
    sectors[0x211] = 1  # LOADED_HIGH
    sectors[0x214:0x218] = (0x100000).to_bytes(4, "little")  # code32_start
    sectors[0x280 : 0x280 + len(code)] = code
    return bytes(sectors)


# A timer tick must wake it, then it enters protected mode, counts down from 2^24 (10 ms on a real CPU,
# many seconds where KVM interprets each instruction), and isa-debug-exit ends QEMU with (0x10 << 1) | 1.
_PC_PROBE = _bzimage(
    bytes.fromhex(
        "fb f4 fa"  # 16 bits: sti; hlt; cli
        "6631c0 8cc8 8ed8 66c1e004"  # eax = cs << 4, ds = cs
        "660106be00 660106a800"  # relocate the table's address and the jump's target by it
        "660f0116bc00 0f20c0 0c01 0f22c0"  # lgdt; cr0 |= PE
        "66eaae0000000800"  # ljmp 8:next
        "b900000001 49 75fd"  # 32 bits: ecx = 1 << 24; until --ecx == 0
        "b010 e6f4 ebfe"  # out 0xf4, 0x10; jmp $
        "0f00 c2000000"  # table register: limit, address
        "0000000000000000 ffff0000009bcf00"  # table: null, flat code
    )
)

# w1 = 1 << 24; until --w1 == 0; w0 = 0x84000008, PSCI SYSTEM_OFF (Arm DEN 0022); hvc #0; b .
_ARM64_PROBE = bytes.fromhex("0120a052 21040071 e1ffff54 00018052 0080b072 020000d4 00000014")

# The same in 32 bits: r1 = 1 << 24; until --r1 == 0; r0 = 0x84000008; hvc #0; b .
_ARMHF_PROBE = bytes.fromhex("0114a0e3 011051e2 fdffff1a 080000e3 000448e3 700040e1 feffffea")

ARCHES: Mapping[str, Arch] = MappingProxyType(
    {
        arch.name: arch
        for arch in (
            Arch(
                name="amd64",
                kernel_suffix="amd64",
                default_kernel="linux-image-cloud-amd64",
                uname="x86_64",
                qemu="qemu-system-x86_64",
                qemu_user="qemu-x86_64",
                machine_args=("-machine", "q35"),
                tcg_cpu="qemu64",
                # Some nested hosts offer this register, then refuse to set it, and QEMU aborts.
                kvm_cpu="host,-arch-capabilities",
                console="ttyS0",
                zig_target="x86_64-linux-musl",
                kvm_probe=_PC_PROBE,
                kvm_probe_args=("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
                kvm_probe_status=0x10 << 1 | 1,
            ),
            Arch(
                name="arm64",
                kernel_suffix="arm64",
                default_kernel="linux-image-cloud-arm64",
                uname="aarch64",
                qemu="qemu-system-aarch64",
                qemu_user="qemu-aarch64",
                machine_args=("-machine", "virt,gic-version=max"),
                tcg_cpu="cortex-a72",
                kvm_cpu="host",
                console="ttyAMA0",
                zig_target="aarch64-linux-musl",
                kvm_probe=_ARM64_PROBE,
                kvm_probe_args=(),
                kvm_probe_status=0,
            ),
            Arch(
                name="i386",
                kernel_suffix="686-pae",
                default_kernel="linux-image-686-pae",
                uname="i686",
                qemu="qemu-system-i386",
                qemu_user="qemu-i386",
                machine_args=("-machine", "q35"),
                tcg_cpu="qemu32",
                kvm_cpu="host,-arch-capabilities",
                console="ttyS0",
                zig_target="x86-linux-musl",
                kvm_probe=_PC_PROBE,
                kvm_probe_args=("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
                kvm_probe_status=0x10 << 1 | 1,
            ),
            Arch(
                name="armhf",
                kernel_suffix="armmp",
                default_kernel="linux-image-armmp",
                uname="armv7l",
                qemu="qemu-system-arm",
                qemu_user="qemu-arm",
                # Without LPAE the kernel does not reach what the machine keeps above 4 GiB, PCI's registers too.
                machine_args=("-machine", "virt,highmem=off"),
                tcg_cpu="cortex-a15",
                kvm_cpu="host",
                console="ttyAMA0",
                zig_target="arm-linux-musleabihf",
                kvm_probe=_ARMHF_PROBE,
                kvm_probe_args=(),
                kvm_probe_status=0,
            ),
        )
    }
)


def host_arch() -> str | None:
    """The Debian name of the architecture this host runs, None if it has no row."""
    machine = os.uname().machine
    return next((arch.name for arch in ARCHES.values() if arch.uname == machine), None)
