# SPDX-License-Identifier: MIT
"""The sample of tests/mutants: built images broken in one way each, rejected by the name of the broken promise."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutants.bases import DERIVED, build_missing
from tests.mutants.catalogue import MUTANTS, SAMPLE
from tests.mutants.edits import put_file, replaced
from tests.mutants.harness import run_mutant
from tests.mutants.mutation import QUICK, Change, mutate

pytestmark = [pytest.mark.boot, pytest.mark.needs("sqfs2tar", "unsquashfs", "tar2sqfs", "qemu-img", "tune2fs")]

Rofs = Callable[..., subprocess.CompletedProcess[str]]

ON_ARM = ("a unit is gone", "size cap gone")
CASES = [("amd64", name) for name in SAMPLE] + [("arm64", name) for name in ON_ARM]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where unpacked trees stay for the next mutant."""
    return tmp_path_factory.mktemp("unpacked")


@pytest.fixture(scope="module")
def base(built: Callable[[str], Path], scratch: Path) -> Callable[[str, str], Path]:
    def find(name: str, arch: str) -> Path:
        if name not in DERIVED:
            return built(name) / arch
        build_missing([name], arch, scratch / "images")
        return scratch / "images" / name / arch

    return find


@pytest.mark.parametrize(("arch", "name"), CASES, ids=[f"{a}-{n}" for a, n in CASES])
def test_a_broken_image_is_rejected_by_name(
    arch: str, name: str, base: Callable[[str, str], Path], scratch: Path
) -> None:
    what = MUTANTS[name]
    work = scratch / "mutant"
    result = run_mutant(name, what, base(what.profile, arch), work)
    assert result.killed, f"status {result.status}, not named: {result.missed}\nbroken: {result.broken}\n{result.said}"
    notes = json.loads((work / "report/report.json").read_text())["notes"]
    assert any(note.startswith("NOT the files that were built") for note in notes)
    shutil.rmtree(work)


def test_the_same_image_packed_anew_is_accepted(
    built: Callable[[str], Path], rofs: Rofs, scratch: Path, tmp_path: Path
) -> None:
    """No false alarm: what the mutants have in common is not what rejects them."""
    nothing = Change(pack=QUICK, init=lambda text: text)
    copy = mutate(built("minimal") / "amd64", scratch, tmp_path / "amd64", nothing)
    assert (copy / "rootfs.squashfs").read_bytes() != (built("minimal") / "amd64" / "rootfs.squashfs").read_bytes()
    result = rofs("verify", "--no-manifest", copy)
    assert result.returncode == 0, result.stdout
    report = json.loads((copy / "report.json").read_text())
    assert report["verdict"] == "accepted"
    assert report["notes"] == [
        "NOT the files that were built, verified with --no-manifest: initrd.img, rootfs.squashfs"
    ]


def test_changed_files_are_refused_before_any_boot(
    built: Callable[[str], Path], rofs: Rofs, scratch: Path, tmp_path: Path
) -> None:
    change = Change(put=[put_file("/etc/motd", "not what was built\n")], cmdline=replaced("ro ", "ro quiet "))
    copy = mutate(built("minimal") / "amd64", scratch, tmp_path / "amd64", change)
    result = rofs("verify", copy, timeout_s=30)
    assert result.returncode == 5, result.stdout
    assert "cmdline, rootfs.squashfs (--no-manifest" in result.stderr
    assert not (copy / "report.json").exists()
    assert not list(copy.rglob("console-*"))


def test_a_good_image_is_accepted_again_and_its_reports_go_where_asked(
    built: Callable[[str], Path], rofs: Rofs, tmp_path: Path
) -> None:
    image = built("minimal") / "amd64"
    before = {path: path.stat().st_mtime_ns for path in image.rglob("*")}
    result = rofs("verify", image, "--report", tmp_path / "again", "--format", "json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["notes"] == ["every file is as the manifest says"]
    assert report == json.loads((tmp_path / "again" / "report.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in image.rglob("*")} == before
