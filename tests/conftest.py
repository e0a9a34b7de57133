# SPDX-License-Identifier: MIT
"""Markers and fixtures: tools a test needs, fetched kernels, images built once a session.

On a laptop a test whose tool is missing is skipped, and says so; with ROFS_CI=1 it fails instead.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from rofs.build import DEFAULT_EPOCH
from rofs.machine.arch import ARCHES
from rofs.sources.kernel import Boot, load_boot
from rofs.store import Cache, default_cache_dir
from tests.release import fetch_boot

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ROOT / "profiles"
IN_CI = bool(os.environ.get("ROFS_CI"))
BUILD_TIMEOUT_S = 1500


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`needs("qemu-img")`: a missing program is a skip here and a failure in CI; `root` likewise."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    for marker in item.iter_markers("needs"):
        missing = [name for name in marker.args if not _is_there(name, path)]
        if missing and IN_CI:
            pytest.fail(f"needs {', '.join(missing)}: run scripts/setup test", pytrace=False)
        if missing:
            pytest.skip(f"needs {', '.join(missing)}: run scripts/setup test")


def _is_there(name: str, path: str) -> bool:
    return os.geteuid() == 0 if name == "root" else shutil.which(name, path=path) is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI every other skip is a failure too: a check that did not run has not passed."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def rofs() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a user does: `rofs("check", path)`."""

    def call(*args: str | Path, timeout_s: float = BUILD_TIMEOUT_S, **env: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "rofs", *map(str, args)]
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=ROOT,
            env={**os.environ, **env},
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def boot_files() -> Callable[[str], Boot]:
    """Kernel, modules and busybox of an architecture, from the cache where `rofs build` left them."""

    def fetch(arch_name: str) -> Boot:
        arch, suite = ARCHES[arch_name], "bookworm"

        def make(directory: Path) -> None:
            fetch_boot(arch.default_kernel, arch, suite, directory, directory / "log", DEFAULT_EPOCH)

        return load_boot(Cache(default_cache_dir()).entry("test-kernel", f"{suite}-{arch.default_kernel}-3", make).path)

    return fetch


@pytest.fixture(scope="session")
def built(
    rofs: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`built("minimal")` -> the directory with one published, verified image an architecture.

    The workers of one session share them: the first that asks builds, the others wait.
    """
    output = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        output = output.parent
    output /= "images"
    output.mkdir(exist_ok=True)

    def build(name: str) -> Path:
        with (output / f"{name}.log").open("a+") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            log.seek(0)
            if not (said := log.read()):
                result = rofs("build", PROFILES / f"{name}.yaml", "--output", output)
                said = f"{result.returncode}\n{result.stdout}\n{result.stderr}"
                log.write(said)
                log.flush()
        assert said.startswith("0\n"), said
        return output / name

    return build
