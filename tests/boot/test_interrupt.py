# SPDX-License-Identifier: MIT
"""A build that is stopped, politely or not: what was published stays, nothing runs on, the rest goes next time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rofs.store import default_cache_dir

pytestmark = [pytest.mark.boot, pytest.mark.needs("tar2sqfs", "qemu-system-x86_64", "mmdebstrap")]

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = (ROOT / "profiles" / "minimal.yaml").read_text()
CHANGED = MINIMAL.replace("hostname: minimal", "hostname: changed")
SLOW, QUICK = "\nimage: {compression: zstd, level: 19}\n", "\nimage: {compression: zstd, level: 1}\n"
GONE_S = 10.0
"""What issue 2 allows processes and mounts to outlive rofs."""
LINE_TIMEOUT_S = 300
REAPER = "reaper.py"
HEARING = ("env", "--default-signal=INT")
"""A shell lets what it starts in the background ignore SIGINT, and whoever is below inherits that."""

Process = tuple[int, str]
"""A pid and its start time, so that a number used again is not taken for the same process."""


def processes() -> dict[Process, tuple[int, str]]:
    """Every process -> its parent's pid, and its command line with its working directory."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                where = (entry / "cwd").readlink()
            except OSError:
                continue  # ended while we looked
            if fields[0] not in (b"Z", b"X"):
                found[int(entry.name), fields[19].decode()] = (int(fields[1]), f"{words} in {where}")
    return found


def below(pid: int) -> dict[Process, str]:
    """The descendants of a process."""
    everything, found, wanted = processes(), dict[Process, str](), {pid}
    while wanted:
        new = {p: words for p, (parent, words) in everything.items() if parent in wanted and p not in found}
        found |= new
        wanted = {p[0] for p in new}
    return found


def is_running(program: str, words: str) -> bool:
    """Whether a command line is this program's, and not that of the reaper in front of it."""
    if program == REAPER:
        return REAPER in words
    command = words.split(" in ", maxsplit=1)[0]
    return REAPER not in words and (
        Path(command.split(" ", maxsplit=1)[0]).name == program or f"/{program} " in command
    )


def mounts() -> set[str]:
    return set(Path("/proc/self/mounts").read_text().splitlines())


def until(condition: Callable[[], object], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Stoppable:
    """A running rofs, followed by the lines it writes."""

    def __init__(self, *args: str | Path, **env: str) -> None:
        self.mounts = mounts()
        self.process = subprocess.Popen(
            [*HEARING, sys.executable, "-m", "rofs", *map(str, args), "--progress", "plain"],
            cwd=ROOT,
            env={**os.environ, **env},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.said = ""
        self.seen: dict[Process, str] = {}

    def wait_for(self, label: str, program: str = "") -> None:
        """Read its lines until the step `label` begins, then wait until `program`, if any, runs for it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if f"{label}" in line and line.rstrip().endswith("..."):
                break
        else:
            pytest.fail(f"it ended before {label!r}:\n{self.said}")
        assert not program or until(lambda: self.is_seen(program), LINE_TIMEOUT_S), f"{program} never ran"

    def is_seen(self, program: str) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"it ended before {program!r} ran:\n{self.said}{self.process.communicate()[1]}")
        self.seen = below(self.process.pid)
        return any(is_running(program, words) for words in self.seen.values())

    def stop(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=GONE_S)
        self.said += rest

    def left_over(self, *ours: Path) -> list[str]:
        """What still runs after the time allowed: what we saw below it, and whatever names our directories."""

        def rest() -> list[str]:
            return [
                words
                for process, (_, words) in processes().items()
                if process in self.seen or any(str(path) in words for path in ours)
            ]

        until(lambda: not rest() and mounts() <= self.mounts, GONE_S)
        return rest() + sorted(mounts() - self.mounts)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def published(built: Callable[[str], Path], tmp_path: Path) -> Path:
    """A good image where the next build would publish."""
    copy = tmp_path / "images" / "minimal" / "amd64"
    shutil.copytree(built("minimal") / "amd64", copy)
    return copy


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Stoppable]]:
    running: list[Stoppable] = []

    def begin(text: str, *options: str, **env: str) -> Stoppable:
        running.append(Stoppable(*build_args(tmp_path, text, *options), **env))
        return running[-1]

    yield begin
    for each in running:
        each.end()


def build_args(tmp_path: Path, text: str, *options: str) -> list[str]:
    """The changed profile, into the same output."""
    assert "hostname: changed" in text
    profile = tmp_path / "changed.yaml"
    profile.write_text(text)
    return ["build", str(profile), "--output", str(tmp_path / "images"), *options]


def assert_whole(image: Path, built: Callable[[str], Path]) -> None:
    """It is still the good one, byte by byte."""
    manifest = (image / "manifest.json").read_bytes()
    assert manifest == (built("minimal") / "amd64" / "manifest.json").read_bytes()
    outputs = json.loads(manifest)["outputs"]
    for name, said in outputs.items():
        assert hashlib.sha256((image / name).read_bytes()).hexdigest() == said["sha256"], name
    assert {p.name for p in image.parent.iterdir() if not p.name.startswith(".rofs-work-")} == {"amd64"}


def without_blocks(cache: Path) -> Path:
    """The cache of all tests, but with every block still to be compressed."""
    cache.mkdir()
    default_cache_dir().mkdir(parents=True, exist_ok=True)
    for path in default_cache_dir().iterdir():
        if path.name not in ("blocks", "stamps"):
            (cache / path.name).symlink_to(path)
    return cache


def temporary(*roots: Path) -> list[Path]:
    return [path for root in roots for path in root.rglob(".rofs-work-*")]


def assert_next_build_cleans(tmp_path: Path, rofs: Callable[..., subprocess.CompletedProcess[str]], **env: str) -> None:
    result = rofs(*build_args(tmp_path, CHANGED + QUICK, *AMD64, "--no-verify"), **env)
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "images" / "minimal" / "amd64" / "manifest.json").read_text())
    assert manifest["verified"] is False and manifest["reason"]
    assert temporary(tmp_path) == []


BOTH, AMD64 = (), ("--arch", "amd64")
STOPS = [
    pytest.param(SLOW, BOTH, "squashfs", "", signal.SIGINT, id="SIGINT-squashfs"),
    pytest.param(SLOW, AMD64, "squashfs", "", signal.SIGKILL, id="SIGKILL-squashfs"),
    pytest.param(QUICK, BOTH, "boot 1 of 2", "qemu-system-x86_64", signal.SIGKILL, id="SIGKILL-boot"),
    pytest.param(QUICK, AMD64, "boot 1 of 2", "qemu-system-x86_64", signal.SIGTERM, id="SIGTERM-boot"),
]


@pytest.mark.parametrize(("image", "options", "label", "program", "number"), STOPS)
def test_a_stopped_build_leaves_the_last_image_whole(
    image: str,
    options: tuple[str, ...],
    label: str,
    program: str,
    number: signal.Signals,
    published: Path,
    built: Callable[[str], Path],
    rofs: Callable[..., subprocess.CompletedProcess[str]],
    start: Callable[..., Stoppable],
    tmp_path: Path,
) -> None:
    build = start(CHANGED + image, *options, ROFS_CACHE_DIR=str(without_blocks(tmp_path / "cache")))
    build.wait_for(label, program)
    if label == "squashfs":
        assert until(lambda: [*tmp_path.glob("images/*/.rofs-work-*/image/rootfs.squashfs")], LINE_TIMEOUT_S)
    if "boot" in label:
        assert until(lambda: kernel_speaks(tmp_path) and build.is_seen(program), LINE_TIMEOUT_S)  # of either machine
    assert temporary(tmp_path), "nothing was under way"
    build.stop(number)
    assert build.process.returncode == (-9 if number is signal.SIGKILL else 130), build.said
    assert build.left_over(tmp_path) == []
    assert_whole(published, built)
    if number is not signal.SIGKILL:
        assert temporary(tmp_path) == []
        assert "rofs: interrupted; what was published before is untouched" in build.said
        assert "Traceback" not in build.said
    assert_next_build_cleans(tmp_path, rofs)


def kernel_speaks(directory: Path) -> bool:
    return any(console.stat().st_size for console in directory.rglob(".rofs-work-*/**/console-1.log"))


def scratches() -> set[Path]:
    return set(Path("/var/tmp").glob(f"rofs-{os.geteuid()}/work-*"))


def test_a_build_killed_while_it_installs_packages(
    published: Path,
    built: Callable[[str], Path],
    rofs: Callable[..., subprocess.CompletedProcess[str]],
    start: Callable[..., Stoppable],
    tmp_path: Path,
) -> None:
    """Here a chroot with /proc, /sys and /dev is mounted, and nothing is in the cache."""
    cache, before = tmp_path / "cache", scratches()
    build = start(CHANGED + QUICK, *AMD64, ROFS_CACHE_DIR=str(cache))
    build.wait_for("packages", "mmdebstrap")
    assert until(lambda: build.is_seen("dpkg"), LINE_TIMEOUT_S)  # apt asks one too, before
    named = " ".join(build.seen.values())  # others may install packages beside us
    ours = {path for path in scratches() - before if str(path) in named}
    build.stop(signal.SIGKILL)
    assert build.left_over(tmp_path, *ours) == []
    assert_whole(published, built)
    assert temporary(cache) and ours, "nothing was under way"
    assert_next_build_cleans(tmp_path, rofs, ROFS_CACHE_DIR=str(cache))
    assert not scratches() & ours


def test_a_stopped_verification_leaves_the_image_and_its_report_alone(
    published: Path, built: Callable[[str], Path], tmp_path: Path
) -> None:
    before = (published / "report.json").read_bytes()
    verify = Stoppable("verify", published)
    try:
        verify.wait_for("boot 1 of 2", "qemu-system-x86_64")
        verify.stop(signal.SIGTERM)
    finally:
        verify.end()
    assert verify.process.returncode == 130, verify.said
    assert verify.left_over(tmp_path) == []
    assert_whole(published, built)
    assert (published / "report.json").read_bytes() == before


def test_a_signal_at_the_very_start_of_a_tool_counts(published: Path, tmp_path: Path) -> None:
    """Python forgets a handler's exception, or leaves it for later, at more places than one would think."""
    for _ in range(10):
        verify = Stoppable("verify", published)
        try:
            verify.wait_for("boot 1 of 2", REAPER)
            verify.stop(signal.SIGTERM)
        finally:
            verify.end()
        assert verify.process.returncode == 130, verify.said
        assert verify.left_over(tmp_path) == []
