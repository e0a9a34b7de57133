# SPDX-License-Identifier: MIT
"""rofs.doctor: what is here, what is missing and what brings it, by fake programs first on PATH and real ones."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from test_cli import rofs

from rofs import cli, doctor
from rofs.doctor import (
    TOOLS,
    Examination,
    Finding,
    Seen,
    Tool,
    ask,
    examine,
    examine_accel,
    examine_apt,
    examine_cache,
    examine_emulation,
    examine_namespace,
    find_version,
    render_json,
    render_text,
)
from rofs.errors import MachineError, SourceError, ToolError
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES, host_arch
from rofs.run import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
OF_EVERY_DEBIAN = {"apt", "coreutils", "dpkg"}
"""Essential, or so good as: no set-up installs them."""
OF_PYTHON = {"python3", "python3-venv"}
"""What rofs itself runs in: without it there is nobody to ask."""
FOREIGN = next(arch for arch in ARCHES.values() if arch.name != host_arch())
GOOD = Seen(Tool("good", "good-package", "this"), "1.0", good=True)
GONE = Seen(Tool("gone", "gone-package", "that"), "missing", good=False)
TWIN = Seen(Tool("twin", "gone-package", "that too"), "missing", good=False)
SPARE = Seen(Tool("spare", "spare-package", "by hand", needed=False), "missing", good=False)
FINE = Finding("cache", "/c", "1 MiB")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A program of this name and body, first on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(name: str, body: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)

    return make


# --- the table of tools ---------------------------------------------------------------------------


def test_the_tools_are_those_that_setup_installs() -> None:
    text = (ROOT / "scripts" / "setup").read_text("utf-8")
    (listed,) = re.findall(r"^packages='(.*?)'$", text, re.MULTILINE | re.DOTALL)
    assert {tool.package for tool in TOOLS} - OF_EVERY_DEBIAN == set(listed.split()) - OF_PYTHON


def test_the_packages_are_those_that_an_error_names() -> None:
    both = {tool.program: tool.package for tool in TOOLS if tool.program in PACKAGES}
    assert both == {program: PACKAGES[program] for program in both} and len(both) > 10


def test_every_program_that_rofs_runs_is_asked_for() -> None:
    """Each known program that begins a list, or a call of `run` or `find_program`, somewhere in rofs."""
    used = set()
    for path in (ROOT / "rofs").rglob("*.py"):
        if path.name in ("doctor.py", "run.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("run", "find_program")
            words = node.elts if isinstance(node, ast.List) else node.args if called else []  # type: ignore[attr-defined]
            used |= {str(first.value) for first in words[:1] if isinstance(first, ast.Constant)} & set(PACKAGES)
    assert {"tar2sqfs", "mmdebstrap", "apt-get", "depmod", "newuidmap"} <= used
    assert used - {tool.program for tool in TOOLS} <= {"apt-cache", "apt-config"}, "both come with apt-get"


def test_every_architecture_has_its_tools() -> None:
    programs = {tool.program for tool in TOOLS}
    for arch in ARCHES.values():
        assert arch.qemu in programs
        assert (f"{arch.qemu_user}-static" in programs) is (arch.name != host_arch())
    assert len(programs) == len(TOOLS)


@pytest.mark.needs(*(tool.program for tool in TOOLS))
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.program)
def test_a_real_tool_says_its_version(tool: Tool) -> None:
    seen = ask(tool)
    assert seen.good and (re.match(r"\d", seen.version) if tool.asks else seen.version == "here"), seen


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("mmdebstrap 1.3.5", "1.3.5"),
        ("tar2sqfs (squashfs-tools-ng) 1.2.0\nCopyright (c) 2019 A", "1.2.0"),
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", "7.2.22"),
        ("qemu-x86_64 version 8.1.0 (x)", "8.1.0"),
        ("\nmke2fs 1.47.0 (5-Feb-2023)", "1.47.0"),
        ("kmod version 30\n+ZSTD", "30"),
        ("arch-test v0.20", "0.20"),
        ("OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19", "9.2p1"),
        ("unshare from util-linux 2.38.1", "2.38.1"),
        ("gpg (GnuPG) 2.2.40\nlibgcrypt 1.10.1", "2.2.40"),
        ("x version 5;", "5"),
        ("cp (GNU coreutils) 9.1\nLicense GPLv3+: GNU GPL version 3 or later", "9.1"),
        ("", "here"),
        ("no number", "here"),
    ],
)
def test_a_version_in_what_a_tool_says(said: str, version: str) -> None:
    assert find_version(said) == version


def test_a_tool_on_stderr_and_with_a_status(fake: Callable[[str, str], None]) -> None:
    fake("odd", "echo odd version 4.2 >&2; exit 1")
    assert ask(Tool("odd", "p", "x")) == Seen(Tool("odd", "p", "x"), "4.2", good=True)


def test_a_tool_that_is_missing_does_not_run_or_hangs(fake: Callable[[str, str], None], tmp_path: Path) -> None:
    none, broken, hung = (Tool(name, "p", "x") for name in ("none-such", "broken", "hung"))
    fake("broken", "kill -ILL $$")
    fake("hung", f": >{tmp_path}/began; exec sleep 600")
    assert ask(none) == Seen(none, "missing", good=False)
    assert ask(broken) == Seen(broken, "was ended by SIGILL", good=False)
    assert ask(hung, timeout_s=1) == Seen(hung, "did not end within 1 s", good=False)
    assert (tmp_path / "began").exists()


def test_tools_are_asked_side_by_side(
    fake: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answers only once the other has begun: one after the other both would run out of time."""
    monkeypatch.setattr(doctor, "ARCHES", {})
    tools = []
    for name, other in (("one", "two"), ("two", "one")):
        fake(name, f": >{tmp_path}/{name}.began; until [ -e {tmp_path}/{other}.began ]; do sleep 0.05; done; echo v1")
        tools.append(Tool(name, "p", "x"))
    assert [(seen.version, seen.good) for seen in examine(tools).tools] == [("1", True)] * 2


# --- what is made of it ---------------------------------------------------------------------------


def test_one_command_for_all_that_is_missing() -> None:
    assert Examination((GOOD,), (FINE,)).install == ""
    found = Examination((GONE, GOOD, TWIN, SPARE), (FINE,))
    assert found.install == "apt-get install --no-install-recommends gone-package spare-package"
    assert render_text(found).count("gone-package spare-package") == 1


@pytest.mark.parametrize(
    ("tools", "findings", "ready"),
    [
        ((GOOD,), (FINE,), True),
        ((GOOD, SPARE), (FINE,), True),
        ((GOOD, GONE), (FINE,), False),
        ((GOOD,), (FINE, Finding("programs", "x", "no", good=False, fix="do this")), False),
        ((Seen(GOOD.tool, "did not end within 1 s", good=False),), (), False),
    ],
)
def test_ready_or_not(tools: tuple[Seen, ...], findings: tuple[Finding, ...], ready: bool) -> None:
    found = Examination(tools, findings)
    assert found.ready is ready and json.loads(render_json(found))["ready"] is ready
    last = render_text(found).splitlines()[-1]
    assert last == ("everything needed is here" if ready else "something needed is not here: see the lines with !")
    assert ("! " in render_text(found).partition("something")[0]) is not ready


def test_text_for_people() -> None:
    fix = Finding("programs", "arm64", "do not run", good=False, fix="do --this")
    lines = render_text(Examination((GOOD, GONE, SPARE), (FINE, fix))).splitlines()
    assert "  good   1.0      good-package   this" in lines
    assert "! gone   missing  gone-package   that" in lines
    assert "- spare  missing  spare-package  by hand" in lines
    assert "! programs  arm64  do not run" in lines and "  cache     /c     1 MiB" in lines
    assert "for arm64 programs, as root: do --this" in lines


@pytest.mark.parametrize(("ready", "status"), [(True, 0), (False, 3)])
def test_the_exit_status(
    ready: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: Examination((GOOD if ready else GONE,), (FINE,)))
    for words, render in (([], render_text), (["--format", "json"], render_json)):
        with pytest.raises(SystemExit) as ended:
            cli.main(["doctor", *words])
        assert ended.value.code == status
        assert capsys.readouterr().out == render(doctor.examine())


# --- what is no tool ------------------------------------------------------------------------------


def accel(name: str, reason: str = "a reason") -> Callable[..., Accel]:
    return lambda *_, **__: Accel(name, reason)  # type: ignore[arg-type]


def test_tcg_is_proven_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []
    monkeypatch.delenv("ROFS_ACCEL", raising=False)
    monkeypatch.setattr(doctor, "run_probe", lambda arch, name, **_: ran.append((arch.name, name)))
    monkeypatch.setattr(doctor, "find_accel", accel("tcg"))
    assert examine_accel(FOREIGN) == Finding("accelerator", FOREIGN.name, "tcg (a reason)")
    monkeypatch.setattr(doctor, "find_accel", accel("kvm"))
    assert examine_accel(FOREIGN).found == "kvm (a reason)"
    assert ran == [(FOREIGN.name, "tcg")], "kvm was proven when it was found"
    monkeypatch.setenv("ROFS_ACCEL", "kvm")
    assert examine_accel(FOREIGN).good and ran[1:] == [(FOREIGN.name, "kvm")], "what is only wished is not proven"


def test_no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise ToolError(("qemu",), "exit status 1", tail="first\nlast words")

    def unknown(*_: object, **__: object) -> NoReturn:
        raise MachineError("not an accelerator")

    monkeypatch.setattr(doctor, "find_accel", accel("tcg"))
    monkeypatch.setattr(doctor, "run_probe", fails)
    found = examine_accel(FOREIGN)
    assert (found.good, found.found) == (False, "none: qemu: exit status 1; last words")
    monkeypatch.setattr(doctor, "find_accel", unknown)
    assert (examine_accel(FOREIGN).good, examine_accel(FOREIGN).found) == (False, "none: not an accelerator")


@pytest.mark.needs(*(arch.qemu for arch in ARCHES.values()))
@pytest.mark.parametrize("arch", ARCHES)
def test_an_accelerator_really_works_and_is_not_remembered(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROFS_CACHE_DIR", str(tmp_path / "cache"))
    found = examine_accel(ARCHES[arch])
    assert found.good and re.match(r"(tcg|kvm) \(.+\)$", found.found), found
    assert list(tmp_path.iterdir()) == []


def test_programs_of_another_architecture(fake: Callable[[str, str], None], tmp_path: Path) -> None:
    fake("arch-test", f"[ -e {tmp_path}/registered ]")
    missing = examine_emulation(FOREIGN, tmp_path)
    mount = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && "
    enable = f"update-binfmts --enable {FOREIGN.qemu_user}"
    assert missing == Finding("programs", FOREIGN.name, "do not run", good=False, fix=mount + enable)
    (tmp_path / "register").touch()
    assert examine_emulation(FOREIGN, tmp_path).fix == enable
    (tmp_path / "registered").touch()
    assert examine_emulation(FOREIGN, tmp_path) == Finding("programs", FOREIGN.name, "run")
    fake("arch-test", "exit 7")
    broken = examine_emulation(FOREIGN, tmp_path)
    assert not broken.good and broken.found == "cannot be tried: arch-test: exit status 7"


def test_packages_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(doctor, "require_user_namespace", lambda: pytest.fail("asked as root"))
    assert examine_namespace() == Finding("packages", "as root", "can be installed")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(doctor, "require_user_namespace", lambda: None)
    assert examine_namespace().good and "user namespace" in examine_namespace().found
    for error in (SourceError("as root: do this"), ToolError(("unshare",), "not found"), KeyError("uid")):

        def refuse(error: Exception = error) -> NoReturn:
            raise error

        monkeypatch.setattr(doctor, "require_user_namespace", refuse)
        assert not examine_namespace().good and examine_namespace().found


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "a" / "cache"
    monkeypatch.setenv("ROFS_CACHE_DIR", str(cache))
    assert examine_cache() == Finding("cache", str(cache), "not there yet")
    assert not cache.parent.exists(), "it is not made by looking"
    (cache / "deep").mkdir(parents=True)
    (cache / "deep" / "file").write_bytes(os.urandom(3 << 20))
    (cache / "link").symlink_to("/usr")
    assert examine_cache() == Finding("cache", str(cache), "3 MiB")
    monkeypatch.setattr(os, "access", lambda path, _: path != cache)
    assert examine_cache() == Finding("cache", str(cache), f"cannot be written: {cache}", good=False)
    monkeypatch.setenv("ROFS_CACHE_DIR", str(cache / "deep" / "file"))
    assert not examine_cache().good


def test_the_suites_of_apt_and_never_where_they_come_from(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    assert examine_apt(tmp_path).found == "none of the host's own: Debian's are taken"
    (tmp_path / "sources.list").write_text(
        "deb [signed-by=/k] https://user:secret@mirror.example.org/debian bookworm main\n"
        "deb https://mirror.example.org/debian bookworm-updates main\n# deb https://example.org/ buster main\n"
        "deb-src https://example.org/debian sid main\ndeb https://example.org/flat ./\n"
    )
    (tmp_path / "sources.list.d" / "x.sources").write_text(
        "Types: deb\nURIs: https://other.example.org/debian\nSuites: trixie trixie-security\nComponents: main\n"
    )
    (tmp_path / "sources.list.d" / "x.save").write_text("deb https://example.org/debian bullseye main\n")
    finding = examine_apt(tmp_path)
    assert finding.good and finding.found == "the host's own for bookworm, trixie"


# --- all of it ------------------------------------------------------------------------------------


@pytest.mark.needs(*(tool.program for tool in TOOLS))
def test_the_whole_examination_changes_nothing(tmp_path: Path) -> None:
    """On this very host; `ready` is the host's business, that all is answered is not."""
    (tmp_path / "tmp").mkdir()
    place = {"ROFS_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path)}
    done = rofs("doctor", "--format", "json", cwd=tmp_path, **place)
    data = json.loads(done.stdout)
    assert done.returncode == (0 if data["ready"] else 3) and done.stderr == ""
    assert [tool["program"] for tool in data["tools"]] == [tool.program for tool in TOOLS]
    assert all(tool["good"] for tool in data["tools"]) and data["install"] == ""
    rows = {(f["topic"], f["subject"]): f for f in data["findings"]}
    assert {(topic, arch) for topic in ("accelerator", "programs") for arch in ARCHES} < set(rows)
    assert rows["cache", str(tmp_path / "cache")]["found"] == "not there yet"
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


def test_without_any_tool_nothing_but_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them missing: each is told, with one command, and no error ends it."""
    monkeypatch.setattr("rofs.run.shutil.which", lambda *_, **__: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = examine()
    assert not found.ready and {seen.version for seen in found.tools} == {"missing"}
    command = shlex.split(found.install)
    assert command[:3] == ["apt-get", "install", "--no-install-recommends"]
    assert sorted(command[3:]) == sorted({tool.package for tool in TOOLS})
    accelerators = [f for f in found.findings if f.topic == "accelerator"]
    assert len(accelerators) == len(ARCHES) and not any(f.good for f in accelerators)
