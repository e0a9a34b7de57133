# SPDX-License-Identifier: MIT
"""rofs.verify.login: when it tries again, with a fake ssh; whom it trusts, with a real one and a real sshd."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from rofs.machine.arch import ARCHES, host_arch
from rofs.run import resume, run, stop_all
from rofs.sources.apt import default_sources, find_host_sources, host_options, make_private_apt
from rofs.store import Cache, default_cache_dir
from rofs.verify.login import Identity, Login

REFUSED_CONNECTION = "ssh: connect to host 127.0.0.1 port 1: Connection refused"
CHANGED_KEY = """@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@
Host key verification failed."""

FAKE = """#!{python}
import json, os, pathlib, sys
tries = pathlib.Path({tries!r})
with tries.open("a") as file:
    print(json.dumps([sys.argv[1:], "SSH_AUTH_SOCK" in os.environ]), file=file)
ends = {ends!r}
status, out, err = ends[min(len(tries.read_text().splitlines()), len(ends)) - 1]
print(out, end="")
print(err, end="", file=sys.stderr)
sys.exit(status)
"""

End = tuple[int, str, str]


class FakeSsh:
    """An ssh first on PATH that ends as it is told, one end a try, the last one for ever."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.tries_file = directory, directory / "tries"
        self.tries_file.touch()

    def login(self, *ends: End) -> Login:
        script = self.directory / "ssh"
        script.write_text(FAKE.format(python=sys.executable, tries=str(self.tries_file), ends=ends))
        script.chmod(0o755)
        identity = Identity(user="technician", key=self.directory / "key")
        return Login(identity, 2222, self.directory / "known_hosts", "id -un", self.directory / "log")

    @property
    def tries(self) -> list[tuple[list[str], bool]]:
        """The arguments of each, and whether it had an agent."""
        return [(argv, agent) for argv, agent in map(json.loads, self.tries_file.read_text().splitlines())]


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("rofs.verify.login.AGAIN_S", 0.01)
    return FakeSsh(tmp_path)


def ended(login: Login) -> tuple[bool, str]:
    """Run until it ends by itself."""
    login.start()
    login.join()
    return login.finish()


def until(condition: Callable[[], bool], login: Login) -> None:
    while login.is_alive() and not condition():
        login.join(0.01)
    assert condition()


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([(0, "technician\n", "")], (True, "technician")),
        ([(0, "", "")], (True, "exit status 0, no word")),
        ([(255, "", REFUSED_CONNECTION), (255, "", "Connection closed"), (0, "in\n", "")], (True, "in")),
        ([(1, "", "sh: 1: nonsense: not found\n")], (False, "sh: 1: nonsense: not found")),
        (
            [(255, "", REFUSED_CONNECTION), (255, "", "t@127.0.0.1: Permission denied (publickey).\r\n")],
            (False, "t@127.0.0.1: Permission denied (publickey)."),
        ),
        (
            [(255, "", CHANGED_KEY)],
            (False, "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! | Host key verification failed."),
        ),
    ],
)
def test_it_tries_until_the_matter_is_settled(ends: list[End], expected: tuple[bool, str], ssh: FakeSsh) -> None:
    assert ended(ssh.login(*ends, (0, "one try too many", ""))) == expected
    assert len(ssh.tries) == len(ends)


def test_it_goes_on_until_it_is_stopped(ssh: FakeSsh) -> None:
    login = ssh.login((255, "", REFUSED_CONNECTION))
    login.start()
    until(lambda: len(ssh.tries) >= 3, login)
    assert login.finish() == (False, REFUSED_CONNECTION)
    assert not login.is_alive()


def test_it_ends_when_everything_is_stopped(ssh: FakeSsh) -> None:
    login = ssh.login((255, "", REFUSED_CONNECTION))
    login.start()
    until(lambda: bool(ssh.tries), login)
    try:
        stop_all()
        login.join()
    finally:
        resume()
    assert not login.finish()[0]


def test_a_missing_ssh_says_so(ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rofs.run.shutil.which", lambda name, path: None)
    login = ssh.login((0, "", ""))
    login.start()
    until(lambda: "not found" in login._words, login)
    assert login.finish()[1].startswith("ssh: not found")


def test_nothing_of_the_callers_own_counts(ssh: FakeSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    ended(ssh.login((0, "", "")))
    ((argv, agent),) = ssh.tries
    assert not agent
    assert argv[:4] == ["-F", "none", "-p", "2222"]
    assert argv[-2:] == ["technician@127.0.0.1", "id -un"]
    assert {"IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes", f'IdentityFile="{tmp_path}/key"'} < set(argv)


def _fetch_sshd(directory: Path) -> None:
    """openssh-server and what it needs beside openssh-client, unpacked."""
    log, suite, arch = directory / "log", "bookworm", ARCHES[host_arch() or ""]
    sources = find_host_sources(suite) or default_sources(suite, directory, log)
    apt = make_private_apt(directory / "apt", arch, sources, host_options(), log)
    apt.run("apt-get", "update", "-q", "--error-on=any")
    apt.run("apt-get", "download", "-q", "openssh-server", "libwrap0")
    for deb in apt.root.glob("debs/*.deb"):
        run(["dpkg-deb", "--extract", deb, directory / "tree"], log=log)


class Sshd:
    """A real sshd, one process a connection, in namespaces where it is uid 1000 called `tester`.

    It needs neither root, a port of its own, nor anything installed.
    """

    def __init__(self, tree: Path, directory: Path) -> None:
        self.tree, self.directory = tree, directory
        self.authorized = directory / "authorized_keys"
        (directory / "passwd").write_text("tester:x:1000:1000::/:/bin/sh\n")
        for name in ("key", "other", "host", "changed", "ecdsa"):
            self._make_key(name, "ecdsa" if name == "ecdsa" else "ed25519")
        self.authorized.write_bytes((directory / "key.pub").read_bytes())

    def _make_key(self, name: str, kind: str) -> None:
        argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(self.directory / name)]  # of the test, never kept
        subprocess.run(argv, check=True)

    def argv(self, host_key: str) -> list[str]:
        options = {
            "HostKey": str(self.directory / host_key),
            "AuthorizedKeysFile": str(self.authorized).replace("%", "%%"),
            "StrictModes": "no",
        }
        words = [str(self.tree / "usr/sbin/sshd"), "-i", "-e", "-f", "/dev/null"]
        words += [word for name, value in options.items() for word in ("-o", f'{name}="{value}"')]
        script = 'mount --bind "$0" /etc/passwd && exec unshare --user --map-user=1000 --map-group=1000 "$@"'
        return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(self.directory / "passwd"), *words]

    @contextmanager
    def serve(self, host_key: str) -> Iterator[int]:
        """Answer on a port of the loopback, which it gives."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = Thread(target=self._accept, args=(listener, self.argv(host_key)))
            thread.start()
            try:
                yield listener.getsockname()[1]
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()

    def _accept(self, listener: socket.socket, argv: list[str]) -> None:
        (library,) = self.tree.glob("usr/lib/*-linux-gnu")
        env = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(library)}
        with suppress(OSError), (self.directory / "sshd.log").open("ab") as log:
            while True:
                with listener.accept()[0] as connection:
                    end = connection.fileno()
                    subprocess.run(argv, env=env, stdin=end, stdout=end, stderr=log, check=False)

    def login(self, host_key: str, key: str = "key", command: str = "id -un") -> tuple[bool, str]:
        """One login at an sshd with that host key -> how it ended; all share one file of host keys."""
        identity = Identity(user="tester", key=self.directory / key)
        with self.serve(host_key) as port:
            return ended(Login(identity, port, self.directory / "known_hosts", command, self.directory / "ssh.log"))


@pytest.fixture(scope="session")
def sshd_tree() -> Path:
    return Cache(default_cache_dir()).entry("test-sshd", f"bookworm-{host_arch()}", _fetch_sshd).path / "tree"


@pytest.fixture
def sshd(sshd_tree: Path, tmp_path: Path) -> Sshd:
    directory = tmp_path / "a b%h"
    directory.mkdir()
    return Sshd(sshd_tree, directory)


real = pytest.mark.needs("ssh", "ssh-keygen", "apt-get", "dpkg-deb", "unshare")


@real
def test_a_login_and_its_command(sshd: Sshd) -> None:
    assert sshd.login("host") == (True, "tester")
    assert sshd.login("host", command="echo one; echo two; exit 3") == (False, "one | two")
    assert "id -un" in (sshd.directory / "ssh.log").read_text()


@real
@pytest.mark.parametrize("key", ["other", "no-such-key"])
def test_a_key_that_lets_nobody_in_is_refused_for_good(key: str, sshd: Sshd) -> None:
    ok, words = sshd.login("host", key)
    assert not ok
    assert "tester@127.0.0.1: Permission denied (publickey" in words


@real
def test_the_same_host_key_on_another_port_is_the_same_host(sshd: Sshd) -> None:
    assert sshd.login("host")[0]
    known = (sshd.directory / "known_hosts").read_text()
    assert known.startswith("rofs-guest ssh-ed25519 ")
    assert sshd.login("host") == (True, "tester")
    assert (sshd.directory / "known_hosts").read_text() == known


@real
@pytest.mark.parametrize("host_key", ["changed", "ecdsa"])
def test_another_host_key_is_refused_for_good(host_key: str, sshd: Sshd) -> None:
    assert sshd.login("host")[0]
    ok, said = sshd.login(host_key)
    assert not ok
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in said, said
    assert sshd.login("host") == (True, "tester")
