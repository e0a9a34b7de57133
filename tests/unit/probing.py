# SPDX-License-Identifier: MIT
"""The real probe for the tests, compiled as a rehearsal: power-off is only reported."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import hatch_build
from rofs.machine.arch import ARCHES, host_arch
from rofs.verify import probe_wire as wire
from rofs.verify.shapes import find_flaw

ROOT = Path(hatch_build.__file__).parent
SOURCES = ROOT / hatch_build.PROBE_DIR
Facts = dict[str, Any]


@cache
def rehearsal() -> Path:
    """The probe for this host, which cannot power it off."""
    arch = host_arch()
    assert arch is not None
    scratch = tempfile.mkdtemp(prefix="rofs-rehearsal-")
    atexit.register(shutil.rmtree, scratch)
    out = Path(scratch) / "probe"
    hatch_build.compile_probe(SOURCES, ARCHES[arch].zig_target, out, defines=["ROFS_PROBE_REHEARSAL"])
    assert b"rehearsal" in out.read_bytes(), "a probe that could power this host off"
    return out


def parse(output: bytes) -> list[Facts]:
    """Every line must be an event, and every answer of the form that judges rely on."""
    events = [wire.parse_event(line) for line in output.splitlines()]
    assert None not in events, output
    for event in events:
        if event is not None and event.id is not None:
            assert find_flaw(event.facts["op"], event.facts) == "", event.facts
    return [dict(event.facts) for event in events if event]


def run_plan(plan: Path, *arguments: str) -> list[Facts]:
    """All events of a plan file."""
    argv = [str(rehearsal()), str(plan), "--output", "-", *arguments]
    return parse(subprocess.run(argv, stdout=subprocess.PIPE, check=False, timeout=60).stdout)


def content(facts: Facts, key: str = "data") -> bytes:
    """A base64 fact that must be there."""
    found = wire.Event("op", None, facts).data(key)
    assert found is not None
    return found
