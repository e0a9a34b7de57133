# SPDX-License-Identifier: MIT
"""rofs.sources.debian: the command line, what apt's words mean, and where the work is done."""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from aptrepo import Repository

from rofs.errors import SourceError, ToolError
from rofs.image.union import drop_matcher
from rofs.machine.arch import ARCHES, host_arch
from rofs.packages import Deb
from rofs.profile import DebianSource
from rofs.sources.debian import (
    DROP,
    MERGED_USR,
    NEUTRAL_HOST,
    UnknownPackage,
    explain_apt,
    install_tree,
    mmdebstrap_argv,
    parse_status,
    path_options,
    require_user_namespace,
    scratch,
    sweep_scratch,
)

SOURCE = DebianSource(
    suite="bookworm",
    packages=("systemd-sysv", "udev"),
    variant="essential",
    docs=False,
    locales=(),
    sources=None,
)
OWN = next(arch for arch in ARCHES.values() if arch.name == host_arch())


def test_command_line() -> None:
    argv = mmdebstrap_argv(
        replace(SOURCE, docs=True),
        ARCHES["arm64"],
        ["libc6", "udev"],
        repository=Path("/w/repository"),
        out=Path("/out.tar"),
        root=False,
    )
    assert argv == [
        "mmdebstrap",
        "--mode=unshare",
        "--variant=essential",
        "--architectures=arm64",
        "--format=tar",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-include=/usr/share/locale/locale.alias",
        f"--setup-hook={NEUTRAL_HOST}",
        "--include=libc6,udev",
        f"--hook-dir={MERGED_USR}",
        "bookworm",
        "/out.tar",
        "deb [trusted=yes] copy:/w/repository ./",
    ]


VARIANTS = [
    (True, SOURCE, ["x"], "--mode=root", True),
    (False, SOURCE, ["x"], "--mode=root", False),
    (False, SOURCE, [], "--include=", False),
    (False, replace(SOURCE, suite="bullseye"), ["x"], f"--hook-dir={MERGED_USR}", False),
    (False, replace(SOURCE, variant="standard"), ["x"], "--variant=essential", True),
    (False, replace(SOURCE, variant="extract"), ["x"], "--variant=extract", True),
]


@pytest.mark.parametrize(("root", "source", "names", "word", "there"), VARIANTS)
def test_command_line_varies(root: bool, source: DebianSource, names: list[str], word: str, there: bool) -> None:
    argv = mmdebstrap_argv(source, OWN, names, repository=Path("/r"), out=Path("/o"), root=root)
    assert (word in argv) is there
    assert argv[-3:-1] == [source.suite, "/o"]


def test_licences_and_wanted_locales_stay() -> None:
    options = path_options(docs=False, locales=["de_AT.UTF-8", "sr@latin", "de_DE"])
    excluded = [o for o in options if o.startswith("path-exclude")]
    assert {"path-exclude=/usr/share/doc/*", "path-exclude=/usr/share/man/*"} <= set(excluded)
    assert options.index("path-include=/usr/share/doc/*/copyright") > options.index(
        "path-exclude=/usr/share/doc/*"
    )  # the last match wins
    kept = [o.split("/")[4] for o in options if o.startswith("path-include=/usr/share/locale/")]
    assert kept == ["locale.alias", "de", "de_AT", "de_DE", "sr"]


DROPPED = [
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/0000host.sources",
    "/etc/apt/apt.conf.d/99mmdebstrap",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/shadow-",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/var/lib/dpkg/status-old",
    "/var/cache/ldconfig/aux-cache",
    "/var/log/dpkg.log",
    "/var/log/journal",
    "/var/log/nginx/access.log",
    "/var/lib/apt/lists/partial/x",
]
KEPT = [
    "/etc/apt/sources.list.d",
    "/etc/apt/apt.conf.d/70debconf",
    "/etc/hosts",
    "/etc/shadow",
    "/etc/ssh/sshd_config",
    "/etc/ssl/certs/x.pem",
    "/var/lib/dpkg/status",
    "/var/log",
    "/var/log/mosquitto",
    "/tmp",
    "/dev/console",
]


@pytest.mark.parametrize(("path", "there"), [*((p, False) for p in DROPPED), *((p, True) for p in KEPT)])
def test_what_an_image_must_not_carry(path: str, there: bool) -> None:
    assert drop_matcher(DROP)(path) is not there


def tool_error(tail: str, log: Path | None = None) -> ToolError:
    return ToolError(("mmdebstrap",), "exit status 25", tail=tail, log=log)


def test_unknown_packages_are_named_once() -> None:
    said = "E: Unable to locate package nope\nE: Unable to locate package nope\n"
    said += "E: Package 'awk' has no installation candidate\nE: setup failed: E: apt-get ..."
    error = explain_apt(tool_error(said), "bookworm")
    assert isinstance(error, UnknownPackage) and error.packages == ("nope", "awk")
    assert str(error) == "unknown packages: nope, awk"
    assert str(UnknownPackage(["x"])) == "unknown package: x"


CAUSES = [
    ("E: The repository 'http://example.org x InRelease' is not signed.", "signature"),
    ("W: GPG error: http://example.org: NO_PUBKEY 0E98404D386FA1D9", "signature"),
    ("E: The repository 'http://example.org x Release' does not have a Release file.", "no suite 'bookworm'"),
    ("E: Failed to fetch http://example.org/x  Could not connect to example.org:80", "no way to the mirror"),
    ("Err:1 http://example.org/x\n  Temporary failure resolving 'example.org'", "no way to the mirror"),
    ("E: Failed to fetch http://example.org/x  Hash Sum mismatch", "try again"),
    ("tar: ./x: Cannot write: No space left on device", "no space"),
    ("E: something else", "exit status 25"),
]


@pytest.mark.parametrize(("said", "cause"), CAUSES)
def test_apts_words_become_a_cause(said: str, cause: str, tmp_path: Path) -> None:
    error = explain_apt(tool_error(said, tmp_path / "log"), "bookworm")
    assert type(error) is SourceError
    assert cause in str(error).splitlines()[0]
    assert said.splitlines()[0] in str(error) and str(tmp_path / "log") in str(error)


def fake_mmdebstrap(monkeypatch: pytest.MonkeyPatch, directory: Path, body: str) -> None:
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    for name, text in {"mmdebstrap": body, "apt-config": "true"}.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    monkeypatch.setattr("rofs.sources.debian.BASE", directory / "tmp")
    monkeypatch.setattr("rofs.sources.debian.require_user_namespace", lambda: None)
    (directory / "tmp").mkdir()


@pytest.fixture
def debs(tmp_path: Path) -> list[Deb]:
    (tmp_path / "repo").mkdir()
    repo = Repository(tmp_path / "repo")
    package = repo.add("one")
    return [(package, repo.debs["one"])]


def install(tmp_path: Path, debs: list[Deb], heard: list[str] | None = None) -> None:
    said = [] if heard is None else heard
    install_tree(SOURCE, OWN, debs, tmp_path / "out", tmp_path / "log", 1700000000, said.append)


@pytest.mark.needs("dpkg-deb")
def test_install_tree_gives_exactly_the_packages_and_a_clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, debs: list[Deb]
) -> None:
    body = (
        'for last; do :; done; cd "${last##*copy:}" 2>/dev/null || cd "$(echo "$last" | cut -d: -f2 | cut -d" " -f1)"'
    )
    body += '; cat Packages >&2; ls >&2; env >&2; echo "I: at work..." >&2; echo tree >'
    fake_mmdebstrap(monkeypatch, tmp_path, f"{body}{tmp_path}/out")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("http_proxy", "http://proxy.example.org")
    heard = list[str]()
    install(tmp_path, debs, heard)
    text = (tmp_path / "log").read_text()
    assert f"\nSHA256: {debs[0][0].sha256}\n" in text and f"\n{debs[0][0].sha256}.deb\n" in text
    assert "\nSOURCE_DATE_EPOCH=1700000000\n" in text and "example.org\n" not in text.replace("x@example.org>\n", "")
    assert "\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n" in text
    assert heard == ["at work"]
    ran = text.partition("+ ")[2].partition("\n")[0]
    assert ran.startswith("unshare --uts ") is (os.geteuid() == 0), "the hook must never name the host itself"
    assert (tmp_path / "out").read_text() == "tree\n"
    assert list((tmp_path / "tmp" / f"rofs-{os.geteuid()}").iterdir()) == []


@pytest.mark.needs("dpkg-deb")
def test_install_tree_sees_words_that_are_not_among_the_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, debs: list[Deb]
) -> None:
    body = "echo 'E: Unable to locate package nope' >&2; seq 100 >&2; exit 25"
    fake_mmdebstrap(monkeypatch, tmp_path, body)
    with pytest.raises(UnknownPackage) as caught:
        install(tmp_path, debs)
    assert caught.value.packages == ("nope",)


@pytest.mark.needs("dpkg-deb")
def test_a_missing_mmdebstrap_keeps_its_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, debs: list[Deb]) -> None:
    fake_mmdebstrap(monkeypatch, tmp_path, "")
    (tmp_path / "mmdebstrap").unlink()
    monkeypatch.setattr("rofs.run._environment", lambda _: {"PATH": str(tmp_path)})
    (tmp_path / "sh").symlink_to("/bin/sh")
    with pytest.raises(ToolError) as caught:
        install(tmp_path, debs)
    assert caught.value.hint == "apt-get install mmdebstrap"


HELP = [
    ("newuidmap", "somebody", "apt-get install uidmap"),
    (None, "somebody-without-a-range", "usermod --add-subuids .* somebody-without-a-range"),
]


@pytest.mark.parametrize(("missing", "user", "hint"), HELP)
def test_without_root_the_way_to_a_user_namespace_is_named(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, user: str, hint: str
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: user)
    monkeypatch.setattr(
        "rofs.sources.debian.find_program", lambda name: None if name == missing else Path(f"/bin/{name}")
    )
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(SourceError, match=hint):
        require_user_namespace()


def test_scratch_is_open_to_mapped_users_and_goes(tmp_path: Path) -> None:
    with scratch(root=True, base=tmp_path) as work:
        assert work.stat().st_mode & 0o777 == work.parent.stat().st_mode & 0o777 == 0o755
        (work / "deep/er").mkdir(parents=True)
    assert not work.exists()


def test_scratch_removes_what_killed_runs_left_and_not_what_others_use(tmp_path: Path) -> None:
    home = tmp_path / f"rofs-{os.geteuid()}"
    for name in ("work-stale", "work-used"):
        (home / name).mkdir(parents=True)
    fd = os.open(home / "work-used", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with scratch(root=True, base=tmp_path):
        assert not (home / "work-stale").exists() and (home / "work-used").exists()
    os.close(fd)


def test_sweeping_alone_removes_what_killed_runs_left(tmp_path: Path) -> None:
    sweep_scratch(base=tmp_path)  # nothing there yet, and nothing made
    assert list(tmp_path.iterdir()) == []
    home = tmp_path / f"rofs-{os.geteuid()}"
    for name in ("work-stale", "work-used"):
        (home / name / "below").mkdir(parents=True)
    fd = os.open(home / "work-used", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    sweep_scratch(base=tmp_path)
    assert [p.name for p in home.iterdir()] == ["work-used"]
    os.close(fd)


def test_scratches_made_at_once_never_sweep_each_other(tmp_path: Path) -> None:
    def use(number: int) -> bool:
        with scratch(root=True, base=tmp_path) as work:
            (work / "mine").write_text(str(number))
            return (work / "mine").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(200)))


def test_scratch_refuses_a_link_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"rofs-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="belongs to somebody else"), scratch(root=True, base=tmp_path):
        pass


STATUS = b"""\
Package: udev
Status: install ok installed
Version: 252.39-1
Description: x
 Version: not this

Package: gone
Status: deinstall ok config-files
Version: 1

Package: dbus
Status: install ok installed
Version: 1.14
"""


def test_packages_of_a_tree() -> None:
    assert parse_status(STATUS) == {"dbus": "1.14", "udev": "252.39-1"}
