# SPDX-License-Identifier: MIT
"""templates/ssh-host-key.sh.j2, run with the real ssh-keygen: a key that can be read is kept, else one is made."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from layouts import KEPT, layout_of, tree

from rofs.generate.identity import HOST_KEY, identity_entries
from rofs.treefacts import Node

pytestmark = pytest.mark.needs("ssh-keygen")
NAME = HOST_KEY.name


def script(hostname: str = "gateway") -> str:
    """As it is baked into an image with sshd."""
    facts = tree({"/usr/sbin/sshd": Node("file", 0o755, 0, 0)})
    layout = layout_of(KEPT.replace("hostname: gateway", f"hostname: {hostname}"), facts)
    entries = {str(e.path): e for e in identity_entries(layout, facts)}
    return entries["/usr/lib/rofs/ssh-host-key"].content.decode()


def run(place: Path, text: str = "", path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The script, with its keys in `place`; `path` holds programs that are found first."""
    text = (text or script()).replace(str(HOST_KEY.parent), str(place))
    env = {"PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin", "LC_ALL": "C"}
    return subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, check=False, env=env)


def made(place: Path) -> str:
    """The public key that belongs to the private one."""
    done = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", place / NAME], capture_output=True, text=True, check=True
    )
    return done.stdout


def fingerprint(line: str) -> list[str]:
    return line.split()[:2]


def test_without_a_key_one_is_made(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, f"{NAME}.pub"]
    key, public = tmp_path / NAME, tmp_path / f"{NAME}.pub"
    assert [p.stat().st_mode & 0o7777 for p in (key, public)] == [0o600, 0o600]
    assert public.read_text().split()[0] == "ssh-ed25519" and public.read_text().split()[2] == "gateway"
    assert fingerprint(made(tmp_path)) == fingerprint(public.read_text())


def test_two_machines_have_two_keys(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(tmp_path / name)
    assert made(tmp_path / "one") != made(tmp_path / "two")


def test_a_good_key_is_kept_to_the_last_bit(tmp_path: Path) -> None:
    run(tmp_path)
    before = {p.name: (p.read_bytes(), p.stat()) for p in tmp_path.iterdir()}
    assert run(tmp_path).returncode == 0
    for path in tmp_path.iterdir():
        content, facts = before.pop(path.name)
        now = path.stat()
        assert path.read_bytes() == content
        assert (now.st_ino, now.st_mtime_ns, now.st_mode) == (facts.st_ino, facts.st_mtime_ns, facts.st_mode)
    assert before == {}


def test_a_key_of_another_kind_is_kept(tmp_path: Path) -> None:
    """One that somebody brought along: it is the machine's all the same."""
    argv = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "brought", "-f", str(tmp_path / NAME)]
    subprocess.run(argv, check=True)
    before = (tmp_path / NAME).read_bytes()
    assert run(tmp_path).returncode == 0 and (tmp_path / NAME).read_bytes() == before


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _locked(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", path], check=True, capture_output=True)


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": _cut,
    "zeros": _zeros,
    "text": lambda path: path.write_text("a key\n"),
    "public": lambda path: path.write_bytes(path.with_name(f"{NAME}.pub").read_bytes()),
    "missing": lambda path: path.unlink(),
    "dangling": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "with a passphrase": _locked,
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_key_that_cannot_be_read_is_replaced(tmp_path: Path, case: str) -> None:
    """sshd has nobody to ask for a passphrase."""
    run(tmp_path)
    key, public = tmp_path / NAME, tmp_path / f"{NAME}.pub"
    before = public.read_text()
    BROKEN[case](key)
    assert run(tmp_path).returncode == 0
    assert fingerprint(made(tmp_path)) == fingerprint(public.read_text()) != fingerprint(before)
    assert key.stat().st_mode & 0o7777 == 0o600 and not key.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, f"{NAME}.pub"]


@pytest.mark.parametrize("good", [True, False])
def test_a_leftover_of_a_power_cut_is_no_key(tmp_path: Path, good: bool) -> None:
    if good:
        run(tmp_path)
    for name in (f"{NAME}.new", f"{NAME}.new.pub"):
        (tmp_path / name).write_text("half")
    before = made(tmp_path) if good else ""
    assert run(tmp_path).returncode == 0
    assert (made(tmp_path) == before) == good
    if not good:
        assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, f"{NAME}.pub"]


def test_the_key_is_flushed_before_it_has_its_name_and_is_the_last_to_get_it(tmp_path: Path) -> None:
    """A key that is there is whole, and has its public half."""
    fakes, log, place = tmp_path / "bin", tmp_path / "log", tmp_path / "place"
    fakes.mkdir()
    place.mkdir()
    for name in ("ssh-keygen", "sync", "mv", "rm"):
        program = fakes / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\nexec {shutil.which(name)} "$@"\n')
        program.chmod(0o755)
    assert run(place, path=fakes).returncode == 0
    key = place / NAME
    assert log.read_text().splitlines() == [
        f"rm -f {key}.new {key}.new.pub",
        f"ssh-keygen -q -t ed25519 -N  -C gateway -f {key}.new",
        f"sync {key}.new {key}.new.pub",
        f"mv {key}.new.pub {key}.pub",
        f"mv {key}.new {key}",
        f"sync -f {key}",
    ]


@pytest.mark.parametrize("program", ["ssh-keygen", "sync", "mv"])
def test_a_step_that_fails_is_said_and_leaves_no_key(tmp_path: Path, program: str) -> None:
    """The service then fails, and what requires it does not start without a key of its own."""
    fakes, place = tmp_path / "bin", tmp_path / "place"
    fakes.mkdir()
    place.mkdir()
    (fakes / program).write_text("#!/bin/sh\nexit 1\n")
    (fakes / program).chmod(0o755)
    assert run(place, path=fakes).returncode != 0
    assert not (place / NAME).exists()
    assert run(place).returncode == 0 and made(place)


def test_without_a_place_it_fails(tmp_path: Path) -> None:
    assert run(tmp_path / "nowhere").returncode != 0


def test_a_key_that_others_may_read_is_no_secret(tmp_path: Path) -> None:
    """sshd would not use it either."""
    run(tmp_path)
    before = made(tmp_path)
    (tmp_path / NAME).chmod(0o644)
    assert run(tmp_path).returncode == 0
    assert made(tmp_path) != before and (tmp_path / NAME).stat().st_mode & 0o7777 == 0o600
