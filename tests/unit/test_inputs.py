# SPDX-License-Identifier: MIT
"""Profile -> Inputs: what is read beside a profile, and what is refused."""

from __future__ import annotations

import base64
import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rofs.errors import Problem, ProfileError
from rofs.inputs import MAX_FILE_BYTES, DotFile, Inputs, load_inputs
from rofs.profile import load_profile
from rofs.publickeys import KEY_TYPES, parse_public_keys
from rofs.values import BadValue

HEAD = "schema: rofs/v1\nname: sample\n"
PLAIN = HEAD + "source: {debian: {}}\n"


def blob(*fields: bytes) -> str:
    return base64.b64encode(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).decode()


ED25519 = f"ssh-ed25519 {blob(b'ssh-ed25519', bytes(32))}"
RSA = "ssh-rsa " + blob(b"ssh-rsa", b"\x01\x00\x01", bytes(256))
PRIVATE = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nAAAA\n"


def read(directory: Path, text: str) -> Inputs:
    path = directory / "profile.yaml"
    path.write_text(text)
    return load_inputs(load_profile(path))


def problems(directory: Path, text: str) -> tuple[Problem, ...]:
    with pytest.raises(ProfileError) as caught:
        read(directory, text)
    return caught.value.problems


def test_everything_a_profile_names(tmp_path: Path) -> None:
    for name in ("files", "keys", "dot/.config/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "files/a").write_bytes(b"\0\xff")
    (tmp_path / "debian.sources").write_bytes(b"Types: deb\n")
    (tmp_path / "keys/one.pub").write_text(f"# staff\n\n{ED25519} one@host\n{RSA}\n")
    (tmp_path / "keys/two.pub").write_text(f"{RSA}\n")
    (tmp_path / "dot/.profile").write_text("umask 022\n")
    (tmp_path / "dot/.config/run").write_text("#!/bin/sh\n")
    (tmp_path / "dot/.config/run").chmod(0o755)
    (tmp_path / "dot/.config/b/up").symlink_to("../../.profile")
    text = f"""{HEAD}
source: {{debian: {{sources: debian.sources}}}}
files:
  - {{path: /etc/x, content: hello}}
  - {{path: /etc/a, source: files/a}}
users:
  - {{name: one, uid: 1000}}
  - {{name: two, uid: 1001, authorized_keys: [keys/one.pub, keys/two.pub]}}
home:
  - {{user: two, dotfiles: dot}}
"""
    inputs = read(tmp_path, text)
    assert inputs.files == {1: b"\0\xff"}
    assert inputs.authorized_keys == {1: (f"{ED25519} one@host", RSA)}
    assert inputs.apt_sources == b"Types: deb\n"
    assert inputs.dotfiles == {
        0: (
            DotFile(path=PurePosixPath(".config"), kind="dir"),
            DotFile(path=PurePosixPath(".config/b"), kind="dir"),
            DotFile(path=PurePosixPath(".config/b/up"), kind="symlink", target="../../.profile"),
            DotFile(path=PurePosixPath(".config/run"), kind="file", content=b"#!/bin/sh\n", executable=True),
            DotFile(path=PurePosixPath(".profile"), kind="file", content=b"umask 022\n"),
        )
    }


def test_a_profile_that_names_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN) == Inputs(files={}, authorized_keys={}, dotfiles={}, apt_sources=None)


def test_paths_are_beside_the_profile_wherever_rofs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "profile.yaml").write_text(f"{PLAIN}files: [{{path: /etc/a, source: a}}]\n")
    (tmp_path / "a").write_text("a")
    monkeypatch.chdir(tmp_path / "elsewhere")
    profile = load_profile(Path("../profile.yaml"))
    monkeypatch.chdir("/")
    assert load_inputs(profile).files == {0: b"a"}


def test_every_problem_at_its_key(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "plain").write_text("no key")
    (tmp_path / "private").write_text(PRIVATE)
    (tmp_path / "out").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    text = f"""{HEAD}source: {{debian: {{sources: absent}}}}
files:
  - {{path: /etc/a, source: absent}}
  - {{path: /etc/b, source: dir}}
  - {{path: /etc/c, source: out}}
  - {{path: /etc/d, source: pipe}}
  - {{path: /etc/e, source: loop}}
  - {{path: /etc/f, source: plain/x}}
users:
  - {{name: op, uid: 1000, authorized_keys: [plain, private]}}
home:
  - {{user: op, dotfiles: plain}}
"""
    found = problems(tmp_path, text)
    assert [(p.mark.line, p.mark.column, p.at, p.rule) for p in found] == [
        (3, 28, ("source", "debian", "sources"), "missing-file"),
        (5, 28, ("files", 0, "source"), "missing-file"),
        (6, 28, ("files", 1, "source"), "wrong-file-kind"),
        (7, 28, ("files", 2, "source"), "bad-path"),
        (8, 28, ("files", 3, "source"), "wrong-file-kind"),
        (9, 28, ("files", 4, "source"), "unreadable-file"),
        (10, 28, ("files", 5, "source"), "unreadable-file"),
        (12, 45, ("users", 0, "authorized_keys", 0), "bad-key-file"),
        (12, 52, ("users", 0, "authorized_keys", 1), "bad-key-file"),
        (14, 26, ("home", 0, "dotfiles"), "wrong-file-kind"),
    ]
    assert "private key" in found[8].message


def test_a_link_inside_the_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read(tmp_path, f"{PLAIN}files: [{{path: /etc/a, source: link}}]\n").files == {0: b"x"}


def test_a_file_too_large_for_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    (problem,) = problems(tmp_path, f"{PLAIN}files: [{{path: /etc/a, source: large}}]\n")
    assert problem.rule == "too-large"


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("b", True),
        ("../b", True),
        ("./x/../b", True),
        ("absent", True),
        ("../..", False),
        ("../../b", False),
        ("x/../../../b", False),
        ("/etc/passwd", False),
        ("a\nb", False),
    ],
)
def test_links_among_dotfiles(tmp_path: Path, target: str, stays: bool) -> None:
    (tmp_path / "dot/sub").mkdir(parents=True)
    (tmp_path / "dot/sub/link").symlink_to(target)
    text = f"{PLAIN}home: [{{user: op, dotfiles: dot}}]\n"
    if stays:
        assert read(tmp_path, text).dotfiles[0][1].target == target
    else:
        (problem,) = problems(tmp_path, text)
        assert problem.rule == "bad-path"
        assert "sub/link" in problem.message


@pytest.mark.parametrize("name", [b"a\nb", b"\xff", b"a\x1bb"])
def test_names_among_dotfiles(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "dot").mkdir()
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/dot/" + name))).touch()
    (problem,) = problems(tmp_path, f"{PLAIN}home: [{{user: op, dotfiles: dot}}]\n")
    assert (problem.rule, str(problem).isprintable()) == ("bad-path", True)


def test_pipes_among_dotfiles(tmp_path: Path) -> None:
    (tmp_path / "dot").mkdir()
    os.mkfifo(tmp_path / "dot/pipe")
    (problem,) = problems(tmp_path, f"{PLAIN}home: [{{user: op, dotfiles: dot}}]\n")
    assert problem.rule == "wrong-file-kind"
    assert "'pipe'" in problem.message


@pytest.mark.parametrize(
    "line",
    [
        ED25519,
        f"{ED25519} a comment of words",
        f"  {RSA}\tcomment",
        f'no-pty,command="echo \'a b\' \\" c" {ED25519} x',
        f"restrict {ED25519}",
        f"sk-ssh-ed25519@openssh.com {blob(b'sk-ssh-ed25519@openssh.com', bytes(32), b'ssh:')}",
    ],
)
def test_public_keys(line: str) -> None:
    assert parse_public_keys(f"{line}\r\n".encode()) == (line.strip(),)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no public key"),
        ("# only a comment\n", "no public key"),
        (PRIVATE, "private key"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----\n", "private key"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\n", "private key"),
        ("---- BEGIN SSH2 PUBLIC KEY ----\n", "SSH2"),
        ("hello world\n", "line 1"),
        (f"{ED25519}\nssh-dss {blob(b'ssh-dss', b'x')}\n", "line 2"),
        ("ssh-ed25519\n", "ends after its type"),
        ("ssh-ed25519 not*base64\n", "base64"),
        (f"{ED25519[:-3]}\n", "base64"),
        (f"ssh-rsa {ED25519.split()[1]}\n", "not of the type ssh-rsa"),
        (f"ssh-ed25519 {blob(b'ssh-ed25519')}\n", "not of the type"),
        (f"ssh-ed25519 {base64.b64encode(b'xx').decode()}\n", "not of the type"),
        (f"{ED25519} a\x1b[31m\n", "control character"),
        ("\udcff", "not text"),
    ],
)
def test_what_is_no_public_key(text: str, word: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_public_keys(text.encode("utf-8", "surrogateescape"))
    assert word in caught.value.message
    assert caught.value.rule == "bad-key-file"


@given(st.binary(max_size=120) | st.text(alphabet='ssh-ed25519 AAB=",\\#\n\t', max_size=80).map(str.encode))
def test_any_bytes_are_keys_or_refused(raw: bytes) -> None:
    try:
        keys = parse_public_keys(raw)
    except BadValue:
        return
    assert all(any(kind in key for kind in KEY_TYPES) for key in keys)
