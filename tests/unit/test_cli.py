# SPDX-License-Identifier: MIT
"""The command line as a user meets it: problems with places, exit statuses, no traceback, nothing published."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from layouts import HEAD, RICH, TAR_HEAD
from state_layouts import FACTS, PARTITIONS, STATE, TEXTS
from test_session import make_key

from rofs import build, cli
from rofs.errors import MachineError
from rofs.layout import build_layout
from rofs.machine.accel import Accel
from rofs.machine.arch import ARCHES
from rofs.profile import load_profile
from rofs.verify import again
from rofs.verify.check import Outcome, kept
from rofs.verify.contract import FILE, PROFILE, Contract, render_contract
from rofs.verify.report import Report
from rofs.verify.request import AS_IT_IS, BOOT_TIMEOUT_S, Session, Variation

VERBS = (
    "init", "check", "plan", "explain", "lock", "build", "export-inputs", "verify", "boot", "doctor", "cache",
)  # fmt: skip
Done = subprocess.CompletedProcess[str]


def rofs(*args: str | Path, cwd: Path | None = None, **env: str) -> Done:
    argv = [sys.executable, "-m", "rofs", *map(str, args)]
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=cwd, timeout=120,
        env={**os.environ, "PYTHONPATH": root, **env},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.yaml"
    path.write_text(HEAD + RICH)
    return path


# Every bad input of issue 2: text, and the places (line:column) and rules of all its problems.
BAD = {
    "syntax": ("schema: [rofs/v1\nname: x\n", ["2:5 yaml-syntax"]),
    "duplicate": (HEAD + "name: other\n", ["4:1 duplicate-key"]),
    "unknown": (HEAD + "hostnme: x\n", ["4:1 unknown-key"]),
    "type": (HEAD + "mounts: /var\n", ["4:9 wrong-type"]),
    "octal": (HEAD + "files: [{path: /a, content: x, mode: 0755}]\n", ["4:38 wrong-type"]),
    "file": (HEAD + "files: [{path: /a, source: none.txt}]\n", ["4:28 missing-file"]),
    "climbs": (HEAD + "immutable: [/usr/../etc]\n", ["4:13 bad-path"]),
    "relative": (HEAD + "mounts: [{path: var, type: tmpfs}]\n", ["4:17 bad-path"]),
    "twice": (HEAD + "mounts: [{path: /a, type: tmpfs}, {path: /a, type: tmpfs}]\n", ["4:42 mount-twice"]),
    "immutable": (HEAD + "immutable: [/a]\nmounts: [{path: /a/b, type: tmpfs}]\n", ["5:17 under-immutable"]),
    "several": (
        HEAD + "immutable: [/a]\nmounts: [{path: /a/b, type: tmpfs}, {path: /a/b, type: tmpfs}]\n"
        "files: [{path: /x, source: none.txt}, {path: /etc/fstab, source: nor.txt}]\n",
        [
            "5:17 under-immutable", "5:44 mount-twice", "5:44 under-immutable", "6:28 missing-file",
            "6:46 generated-path", "6:66 missing-file",
        ],
    ),
    "tree": (
        TAR_HEAD.replace("rootfs.tar", "{amd64: none.tar}"),
        ["3:22 no-architecture", "3:30 missing-file"],
    ),
    "kernels": (
        HEAD + "kernel: {package: linux-image, image: {arm64: none}}\ninit: other\nunits: {mask: [a.service]}\n",
        ["4:19 kernel-twice", "4:47 missing-file", "6:15 no-units"],
    ),
    "keys": (
        HEAD + "hostnme: x\nname: y\nmounts: [{path: var, type: tmpfs, mode: 0755}]\n",
        ["4:1 unknown-key", "5:1 duplicate-key", "6:17 bad-path", "6:41 wrong-type"],
    ),
}  # fmt: skip


def places(text: str) -> list[str]:
    lines = text.splitlines()
    rows = [
        re.fullmatch(r"(?:.*/)?profile\.yaml:(\d+:\d+): (?:error|warning): .+ \(([a-z-]+)\)", line) for line in lines
    ]
    assert all(rows), text
    return [f"{row[1]} {row[2]}" for row in rows if row]


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_at_once_and_nothing_is_published(tmp_path: Path, name: str) -> None:
    text, expected = BAD[name]
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    checked = rofs("check", path)
    assert (checked.returncode, checked.stderr) == (2, "")
    assert places(checked.stdout) == expected
    built = rofs("build", path, "--output", tmp_path / "images", "--no-verify")
    assert (built.returncode, built.stdout) == (2, "")
    assert places(built.stderr) == expected
    assert not (tmp_path / "images").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["profile.yaml"]


def test_did_you_mean(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(BAD["unknown"][0])
    assert "did you mean 'hostname'?" in rofs("check", path).stdout


def test_a_good_profile_says_nothing(profile: Path) -> None:
    done = rofs("check", profile)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_warning_is_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(HEAD + "mounts: [{path: /srv, type: tmpfs, size: 1G}]\n")
    done = rofs("check", path)
    assert done.returncode == 0 and places(done.stdout) == ["4:9 memory"]


def test_several_profiles_are_all_checked(tmp_path: Path, profile: Path) -> None:
    done = rofs("check", tmp_path / "none.yaml", profile, tmp_path)
    assert done.returncode == 2 and len(done.stdout.splitlines()) == 2


def test_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(BAD["several"][0])
    rows = json.loads(rofs("check", "--format", "json", path).stdout)
    assert [f"{r['line']}:{r['column']} {r['rule']}" for r in rows] == BAD["several"][1]
    lines = rofs("check", "--format", "github", path).stdout.splitlines()
    assert len(lines) == 6 and all(line.startswith("::error file=") for line in lines)
    path.write_text(HEAD)
    assert json.loads(rofs("check", "--format", "json", path).stdout) == []


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["check"],
        ["check", "--nonsense", "x"],
        ["build", "x", "--arch", "riscv"],
        ["plan", "a", "b"],
        ["verify", "x", "--boots", "0"],
        ["verify", "x", "--boots", "two"],
        ["verify", "x", "--jobs", "0"],
        ["build", "x", "--jobs", "-1"],
        ["verify", "x", "--cpus", "1.5"],
        ["verify", "x", "--boot-timeout", "0"],
        ["verify", "x", "--memory", "1"],
        ["verify", "x", "--clock", "yesterday"],
        ["verify", "x", "--clock", "2010-02-30"],
        ["verify", "x", "--clock", "1969-12-31"],
        ["verify", "x", "--clock", "2100-01-01"],
        ["verify", "x", "--clock", "2010-01-01,x=y"],
        ["verify", "x", "--state"],
    ],
)
def test_usage(args: list[str]) -> None:
    done = rofs(*args)
    assert done.returncode == 2 and "usage: rofs" in done.stderr
    assert "invalid _" not in done.stderr, "the name of a function is no advice"


def test_the_verbs_are_these() -> None:
    choices = rofs("nonsense").stderr.partition("choose from ")[2]
    assert tuple(re.findall(r"[\w-]+", choices)) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb: str) -> None:
    done = rofs(verb, "--help")
    assert done.returncode == 0
    for words in ("exit status: 0 done", "2 the profile", "4 verification rejected", "130 interrupted"):
        assert words in done.stdout
    assert verb in rofs("--help").stdout


def test_plan(tmp_path: Path, profile: Path) -> None:
    done = rofs("plan", profile)
    assert done.returncode == 0 and "├── etc" in done.stdout and "overlay-tmpfs" in done.stdout
    data = json.loads(rofs("plan", "--json", profile).stdout)
    assert {m["where"] for m in data["mounts"]} >= {"/", "/etc", "/var", "/run/rofs/image"}
    out = tmp_path / "deep" / "out"
    assert rofs("plan", profile, "--write", out).returncode == 0
    assert {p.name for p in out.iterdir()} == {"fstab", "units", "init"}
    assert (out / "units" / "var.mount").read_text().startswith("# Generated by rofs")
    assert (out / "init").read_text().startswith("#!/bin/busybox sh\n")
    assert " /var overlay " in (out / "fstab").read_text()


def test_a_directory_that_cannot_be_written(profile: Path) -> None:
    done = rofs("plan", profile, "--write", "/proc/nothing/here")
    assert done.returncode == 3 and "rofs: error: /proc/nothing" in done.stderr


def test_a_reader_that_leaves(profile: Path) -> None:
    argv = f'"{sys.executable}" -m rofs plan --json "$1" | head -1'
    done = subprocess.run(["sh", "-c", argv, "sh", str(profile)], capture_output=True, text=True, check=True)
    assert done.stdout == "{\n" and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_verify_of_what_is_no_image(tmp_path: Path) -> None:
    for path in (tmp_path / "nonexistent", tmp_path):
        done = rofs("verify", path)
        assert done.returncode == 5 and f"rofs: error: {path} is no image that rofs built" in done.stderr
    (tmp_path / "promises.json").write_text("{}")
    assert rofs("verify", tmp_path).returncode == 5


def image_of(directory: Path, text: str) -> Path:
    """An image directory as far as `verify` reads it before it boots anything."""
    directory.mkdir()
    (directory / PROFILE).write_text(HEAD + text)
    layout = build_layout(load_profile(directory / PROFILE), FACTS)
    (directory / FILE).write_bytes(render_contract(Contract(architecture="amd64", layout=layout, entries=())))
    return directory


def said(done: Done) -> str:
    """The one line of an error."""
    (line,) = done.stderr.splitlines()
    assert done.stdout == "" and done.returncode == 5
    return line.removeprefix("rofs: error: ")


def test_state_of_a_device_that_the_image_has_no_place_for(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(512))
    image = image_of(tmp_path / "state", STATE)
    assert said(rofs("verify", image, "--state", f"/var={disk}")) == "the image has no /var, it has state, /srv/store"
    assert said(rofs("verify", image_of(tmp_path / "rich", RICH), "--state", disk)) == "the image has no state"
    parted = image_of(tmp_path / "parted", PARTITIONS)
    assert said(rofs("verify", parted, "--state", disk)) == "the image has no state, it has /var, /srv/store"
    words = "all that persists belongs together: give --state /srv/store=FILE too"
    assert said(rofs("verify", image, "--state", disk)) == words
    twice = rofs("verify", image, "--state", disk, "--state", f"state={disk}")
    assert said(twice) == "--state: two files for one file system"
    assert not list(tmp_path.rglob("report.*")) and not list(tmp_path.rglob("logs"))


def test_state_of_a_device_that_is_not_there(tmp_path: Path) -> None:
    image = image_of(tmp_path / "image", TEXTS["state"])
    for path in (tmp_path / "none.img", tmp_path):
        assert said(rofs("verify", image, "--state", path)) == f"{path} is no image of a disk"
        assert said(rofs("verify", image, "--state", f"/srv/store={path}")) == f"{path} is no image of a disk"


@pytest.mark.needs("ssh-keygen")
def test_a_key_of_nobody_and_none_at_all(tmp_path: Path) -> None:
    image = image_of(tmp_path / "image", RICH)
    key, _ = make_key(tmp_path / "key")
    assert said(rofs("verify", image, "--identity", key)).startswith(f"{key} is the key of no user of the image")
    done = rofs("verify", image, "--identity", tmp_path / "none")
    assert done.returncode == 3 and f"-f {tmp_path / 'none'}" in done.stderr and "No such file" in done.stderr


@pytest.mark.parametrize(
    ("args", "state"),
    [
        (["--boots", "1"], {}),
        (["--state", "mine.img"], {"state": Path("mine.img")}),
        (["--state", "state=mine.img"], {"state": Path("mine.img")}),
        (["--state", "a=b.img"], {"state": Path("a=b.img")}),
        (["--state", "./a=b.img"], {"state": Path("./a=b.img")}),
        (["--state", "/var=mine.img"], {"/var": Path("mine.img")}),
        (["--state", "/var=/x/y.img", "--state", "s.img"], {"/var": Path("/x/y.img"), "state": Path("s.img")}),
    ],
)
def test_what_verify_is_asked_for(
    args: list[str], state: dict[str, Path], profile: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    calls: list[tuple[object, ...]] = []
    outcomes = (Outcome(boot=1, promise="boot", subject="it boots", at=(), verdict=kept("a boot", "a boot")),)
    session = Session(arch=ARCHES["amd64"], accel=Accel("tcg", "a test"), boots=(), outcomes=outcomes)

    def asked(*given: object, **named: object) -> Report:
        calls.append((*given[:3], named))
        return Report(layout=build_layout(load_profile(profile), None), session=session)

    monkeypatch.setattr(again, "verify_again", asked)
    options = cli.make_parser().parse_args(["verify", "images/x/amd64", "--identity", "key", *args])
    assert options.verb(options) == 0
    boots = 1 if "--boots" in args else None
    assert calls == [
        (
            Path("images/x/amd64"),
            Path("images/x/amd64"),
            True,
            {
                "state": state,
                "identity": Path("key"),
                "boots": boots,
                "jobs": None,
                "timeout_s": BOOT_TIMEOUT_S,
                "variation": AS_IT_IS,
            },
        )
    ]
    assert capsys.readouterr().out.startswith("images/x/amd64: verified, 1 of 1 checks kept over 0 boots\n")


def test_the_machine_that_verify_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def asked(*_: object, **named: object) -> Report:
        given.update(named)
        raise MachineError("a test")

    monkeypatch.setattr(again, "verify_again", asked)
    words = "--jobs 3 --memory 256M --cpus 4 --clock 2010-01-01T00:00:30 --boot-timeout 90"
    options = cli.make_parser().parse_args(["verify", "x", *words.split()])
    with pytest.raises(MachineError, match="a test"):
        options.verb(options)
    assert (given["jobs"], given["timeout_s"]) == (3, 90)
    assert given["variation"] == Variation(memory_bytes=256 << 20, cpus=4, clock="2010-01-01T00:00:30")


def test_how_many_boots_of_a_build_go_on_at_once(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[build.Options] = []
    monkeypatch.setenv("ROFS_CACHE_DIR", str(profile.parent / "cache"))

    def built(_: Path, chosen: build.Options, *__: object) -> list[build.Built]:
        given.append(chosen)
        return []

    monkeypatch.setattr(build, "build", built)
    for words in ([], ["--jobs", "3"]):
        options = cli.make_parser().parse_args(["build", str(profile), *words])
        assert options.verb(options) == 0
    assert [chosen.jobs for chosen in given] == [None, 3]


@pytest.mark.parametrize(
    ("obstacle", "words"),
    [
        ("", "built, NOT verified"),
        ("the kernel has no virtio_blk", "built, NOT verified: the kernel has no virtio_blk"),
    ],
)
def test_an_image_that_was_not_booted_is_never_called_verified(
    obstacle: str, words: str, profile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is published all the same: a board's kernel may have no driver for what QEMU offers."""
    directory = Path("images/sample/arm64")
    results = [build.Built(arch="arm64", directory=directory, report=None, obstacle=obstacle)]
    monkeypatch.setattr(build, "build", lambda *_: results)
    monkeypatch.setenv("ROFS_CACHE_DIR", str(profile.parent / "cache"))
    options = cli.make_parser().parse_args(["build", str(profile), "--progress", "quiet"])
    assert options.verb(options) == 0
    assert capsys.readouterr().out == f"images/sample/arm64: {words}\n"


def test_help_of_state_and_identity() -> None:
    verify, build = (" ".join(rofs(verb, "--help").stdout.split()) for verb in ("verify", "build"))
    assert "--state [NAME=]FILE" in verify and "FILE is not written" in verify
    assert "/PATH=FILE of the partition on PATH" in verify and "what in it hides the image" in verify
    for text in (verify, build):
        assert "--identity KEY" in text and "whose public half is in the profile" in text
    assert "once for each thing that may be wrong with the state partition" in build and "--state" not in build


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, profile: Path) -> None:
    """run.py adds /usr/sbin and /sbin to any PATH, so the search itself is made to find nothing."""
    argv = ["build", str(profile), "--no-verify", "--arch", "amd64", "--output", str(tmp_path / "images")]
    code = (
        "import rofs.run\n"
        "rofs.run.shutil.which = lambda name, path=None: None\n"
        f"from rofs.cli import main\nmain({argv!r})\n"
    )
    env = {**os.environ, "ROFS_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env, timeout=120
    )
    assert done.returncode == 3, done.stderr
    assert "not found" in done.stderr and "hint: apt-get install " in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "images").rglob("rootfs.squashfs"))


def test_the_command_starts_at_once() -> None:
    heavy = ("jsonschema", "jinja2", "sh", "rich", "cattrs", "yaml")
    seen = f"print([m for m in {heavy} if m in sys.modules])"
    code = f"import sys\nfrom rofs.cli import main\ntry: main(['--version'])\nfinally: {seen}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "[]" and done.stdout.startswith("rofs ")
