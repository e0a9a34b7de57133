# SPDX-License-Identifier: MIT
"""A foreign architecture -> a host that runs its programs, or the one command that makes it so.

Only package scripts need this. Where emulation works already, nothing is touched.
"""

from __future__ import annotations

import os
from pathlib import Path

from rofs.errors import SourceError, ToolError
from rofs.machine.arch import Arch, host_arch
from rofs.run import run

BINFMT_MISC = Path("/proc/sys/fs/binfmt_misc")


def emulates(arch: Arch) -> bool:
    """Whether this host runs a program of `arch`: arch-test(1) tries one."""
    return arch.name == host_arch() or run(["arch-test", arch.name], ok=(0, 1)).status == 0


def ensure_emulation(arch: Arch, binfmt_misc: Path = BINFMT_MISC) -> None:
    """Register qemu-user for `arch` with the kernel if it is not; as root only.

    Raises SourceError with the command for an administrator otherwise.
    """
    if emulates(arch):
        return
    command = f"update-binfmts --enable {arch.qemu_user}"
    if os.geteuid() != 0:
        raise SourceError(
            f"this host cannot run {arch.name} programs, which package scripts need"
            f" (as root: apt-get install qemu-user-static binfmt-support && {command})"
        )
    try:
        if not (binfmt_misc / "register").exists():  # a container, or a host without systemd's automount
            run(["mount", "-t", "binfmt_misc", "binfmt_misc", binfmt_misc], keep_mounts=True)
        run(command.split())
    except ToolError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise SourceError(f"cannot set up emulation of {arch.name}: {error}; {error.tail}{hint}") from error
    if not emulates(arch):
        raise SourceError(
            f"this host cannot run {arch.name} programs although binfmt has {arch.qemu_user}"
            " (apt-get install qemu-user-static; in a container the host must do it)"
        )
