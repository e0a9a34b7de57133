# SPDX-License-Identifier: MIT
"""The wheel's build hook: C sources -> one static guest probe per architecture; templates into the package.

Zig comes from PyPI as a build requirement, so any host cross-compiles for every row of
`rofs/machine/arch.py` and no compiler has to be installed. The same sources give the same bytes,
wherever they lie: relative names, a fixed working directory, nothing of the host.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROBE_DIR = Path("rofs/verify/probe")
ARCH_TABLE = Path("rofs/machine/arch.py")
FLAGS = (
    "-std=c11", "-D_GNU_SOURCE", "-static", "-Os", "-s",
    "-Wall", "-Wextra", "-Werror",
    "-ffile-prefix-map=.=probe",  # no name of a directory in the binary
)  # fmt: skip
LIMIT_S = 1200
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR")


def zig_targets(root: Path) -> dict[str, str]:
    """{"amd64": "x86_64-linux-musl"}: the table is executed by path, rofs itself cannot be imported yet."""
    rows = runpy.run_path(str(root / ARCH_TABLE))["ARCHES"]
    return {name: arch.zig_target for name, arch in rows.items()}


def compile_argv(target: str, sources: Sequence[str], out: Path, defines: Sequence[str] = ()) -> list[str]:
    """The command line; `sources` are relative to the working directory."""
    flags = [*FLAGS, *(f"-D{define}" for define in defines)]
    return [sys.executable, "-m", "ziglang", "cc", "-target", target, *flags, "-o", str(out), *sources]


def find_cache() -> Path | None:
    """Where Zig keeps the C library, half a minute's work for each target; None where that cannot be."""
    given = os.environ.get("ROFS_ZIG_CACHE_DIR")
    home = os.environ.get("HOME")
    base = os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else None)
    if not given and not base:
        return None
    cache = Path(given or f"{base}/rofs/zig").absolute()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return cache if os.access(cache, os.W_OK) else None


@contextmanager
def _zig_environment() -> Iterator[dict[str, str]]:
    """Zig must have caches: where there is no home, in a directory that goes away again."""
    with tempfile.TemporaryDirectory(prefix="rofs-zig-") as scratch:
        cache = str(find_cache() or scratch)
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        yield {**kept, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, "HOME": scratch}


def compile_probe(source_dir: Path, target: str, out: Path, *, defines: Sequence[str] = ()) -> None:
    """Sources -> a static program at `out`, by rename, so that a killed build leaves none half done."""
    sources = sorted(path.name for path in source_dir.glob("*.c"))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.resolve().with_name(f"{out.name}.{os.getpid()}")
    try:
        with _zig_environment() as environment:
            argv = compile_argv(target, sources, part, defines)
            done = subprocess.run(
                argv,
                cwd=source_dir,
                env=environment,
                text=True,
                capture_output=True,
                check=False,
                timeout=LIMIT_S,
            )
        if done.returncode != 0:
            raise RuntimeError(f"the probe does not compile for {target}: {' '.join(argv)}\n{done.stderr}")
        part.chmod(0o755)
        part.rename(out)
    finally:
        part.unlink(missing_ok=True)


def is_fresh(out: Path, inputs: Sequence[Path]) -> bool:
    """True when `out` is newer than everything it is made of."""
    return out.is_file() and all(out.stat().st_mtime_ns > path.stat().st_mtime_ns for path in inputs)


def build_probes(root: Path) -> list[Path]:
    """A program for each architecture, in rofs/verify/probe/bin; those that are fresh are left alone."""
    source_dir = root / PROBE_DIR
    inputs = [*source_dir.glob("*.[ch]"), Path(__file__), root / ARCH_TABLE]
    probes = []
    for name, target in zig_targets(root).items():
        out = source_dir / "bin" / f"rofs-probe-{name}"
        if not is_fresh(out, inputs):
            compile_probe(source_dir, target, out)
        probes.append(out)
    return probes


class ProbeHook(BuildHookInterface[Any]):
    """Runs for the wheel, the editable one too; the sdist carries the sources alone."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build what is not in git and say where it goes."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        for probe in build_probes(root):
            build_data["artifacts"].append(f"/{probe.relative_to(root).as_posix()}")
        if version != "editable":  # a checkout reads templates/ where they lie
            build_data["force_include"][str(root / "templates")] = "rofs/templates"

    def clean(self, versions: list[str]) -> None:  # noqa: ARG002 - hatchling's signature
        """`hatch clean`."""
        shutil.rmtree(Path(self.root) / PROBE_DIR / "bin", ignore_errors=True)
