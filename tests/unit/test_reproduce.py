# SPDX-License-Identifier: MIT
"""A build in other circumstances: what is changed around it, what it is given, and what is kept when it fails."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rofs import reproduce
from rofs.errors import ToolError
from rofs.packages import Package
from rofs.reproduce import LAUNCHER, Circumstances, Given, build_in, other_circumstances
from rofs.run import run

Spec = dict[str, object]


def launched(spec: Spec, *argv: str) -> list[str]:
    words = [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(spec), *argv]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def test_the_umask_and_the_processors_of_a_command() -> None:
    (cpu, *_) = sorted(os.sched_getaffinity(0))
    told = ["sh", "-c", "umask; nproc; taskset -cp $$ | sed 's/.*: //'"]
    assert launched({"umask": 0o027, "cpus": [cpu]}, *told) == ["0027", "1", str(cpu)]
    assert launched({}, "sh", "-c", "umask; nproc")[1] == str(len(os.sched_getaffinity(0)))


@pytest.mark.needs("root")
def test_the_host_name_and_a_bind_are_the_commands_own(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / name).write_text(f"{name}\n")
    binds = [[str(tmp_path / "other"), str(tmp_path / "mine")]]
    said = launched({"hostname": "elsewhere", "binds": binds}, "sh", "-c", f"uname -n; cat {tmp_path}/mine")
    assert said == ["elsewhere", "other"]
    assert platform.node() != "elsewhere" and (tmp_path / "mine").read_text() == "mine\n"


def test_what_cannot_be_done_is_an_error() -> None:
    words = [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps({"binds": [["/none", "/none"]]}), "true"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode != 0 and "OSError" in result.stderr


def test_everything_is_other_or_said_to_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o022)
    os.umask(before)
    most = other_circumstances()
    missing = " ".join(most.missing)
    assert most.umask not in (None, before) and most.time_zone and most.locale
    for value, word in (
        (most.user, "user"), (most.days, "date"), (most.hostname, "host name"), (most.cpus, "CPU"),
    ):  # fmt: skip
        assert bool(value) != (word in missing), word
    monkeypatch.setattr(reproduce, "find_program", lambda _: None)
    least = other_circumstances()
    assert not least.user and not least.days and {"user", "date"} <= {word.split()[0] for word in least.missing}


def test_a_umask_that_is_ours_is_not_taken() -> None:
    before = os.umask(0o077)
    try:
        assert other_circumstances().umask == 0o027
    finally:
        os.umask(before)


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """A profile that is wrong, so that its build ends at once; a package and an answer of apt."""
    profile = tmp_path / "src" / "box.yaml"
    profile.parent.mkdir()
    profile.write_text("schema: rofs/v1\nname: box\nwrong: yes\n")
    deb = tmp_path / "x.deb"
    deb.write_bytes(b"a package")
    answer = tmp_path / "cache" / "resolution" / "key" / "1"
    answer.mkdir(parents=True)
    (answer / "packages.json").write_text("[]")
    (answer.parent / ".rofs-work-x").mkdir()
    package = Package(name="x", version="1", architecture="all", size=9, sha256="ab" * 32)
    return Given(profile, ((package, deb), (package, deb)), (answer, answer))


def failed(given: Given, home: Path, circumstances: Circumstances) -> ToolError:
    with pytest.raises(ToolError) as caught:
        build_in(home, given, ["--arch", "amd64"], circumstances, epoch=7, log=home.with_suffix(".log"))
    return caught.value


def test_a_build_is_given_its_inputs_and_nothing_else(given: Given, tmp_path: Path) -> None:
    error = failed(given, tmp_path / "home", Circumstances())
    cache = tmp_path / "home" / "cache"
    found = sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
    assert found == [f"debs/{'ab' * 32}.deb", "resolution/key/1/packages.json"]
    assert not (cache / "resolution" / "key" / ".rofs-work-x").exists()
    assert (cache / found[0]).read_bytes() == b"a package"
    assert error.reason == "exit status 2" and f"{given.profile}:3:1: error: " in error.tail


def test_another_place_is_another_path_of_the_same_profile(given: Given, tmp_path: Path) -> None:
    error = failed(given, tmp_path / "home", Circumstances(umask=0o022))
    assert f"{tmp_path}/home/profile/box.yaml:3:1: error: " in error.tail
    assert (tmp_path / "home" / "profile").resolve() == given.profile.parent


@pytest.mark.needs("root")
def test_another_user_is_one_of_its_own_who_can_read_what_is_roots_alone(given: Given, tmp_path: Path) -> None:
    given.profile.chmod(0o600)
    before = Path("/etc/passwd").read_bytes()
    tmp_path.chmod(0o711)
    error = failed(given, tmp_path / "home", Circumstances(user=True))
    assert "box.yaml:3:1: error: " in error.tail
    assert (tmp_path / "home" / "cache").stat().st_uid == reproduce.UID
    assert Path("/etc/passwd").read_bytes() == before


@pytest.mark.needs("root", "newuidmap", "setpriv")
def test_a_python_that_no_other_may_run_keeps_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "venv").symlink_to(tmp_path / "python")
    assert other_circumstances().user
    tmp_path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv"))
    circumstances = other_circumstances()
    assert not circumstances.user and f"user (no other may run {tmp_path}/python)" in circumstances.missing


def test_the_clock_goes_on_to_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_FAKE_STAT", "1")
    assert "NO_FAKE_STAT" not in run(["env"]).stdout
    monkeypatch.setenv("FAKETIME", "+400d")
    words = set(run(["env"]).stdout.split())
    assert {"FAKETIME=+400d", "NO_FAKE_STAT=1"} <= words


def test_another_date_is_faketimes(given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = tmp_path / "bin"
    fakes.mkdir()
    (fakes / "faketime").write_text(f'#!/bin/sh\necho "$1 $2 $3 $NO_FAKE_STAT" >{tmp_path}/asked\nexit 9\n')
    (fakes / "faketime").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fakes}:{os.environ['PATH']}")
    assert other_circumstances().days
    assert failed(given, tmp_path / "home", Circumstances(days=-3)).reason == "exit status 9"
    assert (tmp_path / "asked").read_text() == "--exclude-monotonic -f -3d 1\n"
