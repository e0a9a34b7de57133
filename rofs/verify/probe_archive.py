# SPDX-License-Identifier: MIT
"""A plan -> the second archive of the initrd, by which the probe gets into a system that ships without it."""

from __future__ import annotations

import io
import stat
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

from rofs.errors import MachineError
from rofs.image.cpio import CpioEntry, write_newc
from rofs.machine.arch import Arch
from rofs.verify import probe_wire as wire

_UNIT = """\
[Unit]
Description=rofs probe
DefaultDependencies=no
After=multi-user.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=exec
ExecStart=/run/rofs-probe/rofs-probe --poweroff-on-exit /run/rofs-probe/plan
StandardInput=null
"""

_ENTER_SYSTEMD = """\
mkdir -m 0700 /run/rofs-probe
cp /rofs-probe/rofs-probe /rofs-probe/plan /run/rofs-probe/
for target in default emergency; do
    mkdir -p /run/systemd/system/$target.target.wants
    ln -s ../rofs-probe.service /run/systemd/system/$target.target.wants/rofs-probe.service
done
cp /rofs-probe/rofs-probe.service /run/systemd/system/
"""

_ENTER_OTHER = """\
mkdir -m 0700 /run/rofs-probe
cp /rofs-probe/rofs-probe /rofs-probe/plan /run/rofs-probe/
set -- --init "$init" /run/rofs-probe/plan --poweroff-on-exit -- "$@"
init=/run/rofs-probe/rofs-probe
"""
"""It starts the init in its place, as PID 1; of an init that is not systemd nobody can ask for a service."""


def probe_archive(arch: Arch, ops: Sequence[wire.Op], init: Literal["systemd", "other"] = "systemd") -> bytes:
    """The second archive of the initrd: probe, plan, unit, and the few lines that put them into /run."""
    base = PurePosixPath("rofs-probe")
    try:
        probe = wire.find_probe(arch.name).read_bytes()
    except OSError as error:
        raise MachineError(f"the probe for {arch.name} cannot be read: {error}") from None
    archive = io.BytesIO()
    files = [
        ("rofs-probe", 0o755, probe),
        ("plan", 0o644, wire.encode_plan(ops)),
        ("enter", 0o644, (_ENTER_SYSTEMD if init == "systemd" else _ENTER_OTHER).encode()),
    ]
    if init == "systemd":
        files.append(("rofs-probe.service", 0o644, _UNIT.encode()))
    write_newc(
        (CpioEntry(path=base / name, mode=stat.S_IFREG | mode, content=content) for name, mode, content in files),
        archive,
    )
    return archive.getvalue()
