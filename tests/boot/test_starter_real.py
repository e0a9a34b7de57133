# SPDX-License-Identifier: MIT
"""`rofs init x && rofs build x.yaml`, as the README says it and untouched, becomes two verified images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.boot, pytest.mark.needs("mmdebstrap")]


def rofs(directory: Path, *words: str) -> str:
    argv = [sys.executable, "-m", "rofs", *words]
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_init_writes_builds_untouched(tmp_path: Path) -> None:
    said = rofs(tmp_path, "init", "x")
    assert "rofs build x.yaml" in said
    written = (tmp_path / "x.yaml").read_bytes()
    assert rofs(tmp_path, "check", "x.yaml") == ""
    assert rofs(tmp_path, "build", "x.yaml").count(": verified, ") == 2
    for arch in ("amd64", "arm64"):
        report = json.loads((tmp_path / "images/x" / arch / "report.json").read_text())
        assert (report["verdict"], [boot["ended"] for boot in report["boots"]]) == ("accepted", ["off", "off"])
    assert (tmp_path / "x.yaml").read_bytes() == written
