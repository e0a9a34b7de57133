# SPDX-License-Identifier: MIT
"""Profile -> Inputs: what is read beside a profile, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rofs.errors import Problem, ProfileError
from rofs.inputs import MAX_FILE_BYTES, BoardFiles, DotFile, Inputs, load_inputs
from rofs.ownership import parse_ownership
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


def read(directory: Path, text: str, architectures: Sequence[str] = ()) -> Inputs:
    path = directory / "profile.yaml"
    path.write_text(text)
    return load_inputs(load_profile(path), architectures)


def problems(directory: Path, text: str, architectures: Sequence[str] = ()) -> tuple[Problem, ...]:
    with pytest.raises(ProfileError) as caught:
        read(directory, text, architectures)
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
    assert inputs.digests.keys() == {"debian.sources", "dot", "files/a", "keys/one.pub", "keys/two.pub"}
    assert inputs.digests["files/a"] == hashlib.sha256(b"\0\xff").hexdigest()
    (tmp_path / "dot/.config/run").chmod(0o644)
    changed = read(tmp_path, text).digests
    assert {name for name in changed if changed[name] != inputs.digests[name]} == {"dot"}
    (tmp_path / "dot/.config/run").chmod(0o755)
    assert read(tmp_path, text).digests == inputs.digests
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


def test_who_may_log_in_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(ED25519)
    for name in ("dots", "plain"):
        (tmp_path / name / ".ssh").mkdir(parents=True)
        (tmp_path / name / ".ssh/config").write_text("x")
    (tmp_path / "dots/.ssh/authorized_keys").write_text(ED25519)
    users = f"{PLAIN}users:\n  - {{name: op, uid: 1000, KEYS}}\nhome:\n  - {{user: op, dotfiles: DOTS}}\n"
    with_keys = users.replace("KEYS", "authorized_keys: [key.pub]")
    (problem,) = problems(tmp_path, with_keys.replace("DOTS", "dots"))
    assert (problem.rule, problem.mark.line, problem.at) == ("keys-twice", 7, ("home", 0, "dotfiles"))
    assert "op has authorized_keys in line 5" in problem.message
    assert read(tmp_path, with_keys.replace("DOTS", "plain")).authorized_keys
    assert read(tmp_path, users.replace(", KEYS", "").replace("DOTS", "dots")).dotfiles


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


# --- trees and kernels, which are found here and read elsewhere -------------------------------------


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """What a developer of a board has beside the profile."""
    for name in ("a.tar", "b.tar", "Image", "bzImage", "mods.tar", ".config", "own.txt"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "own.txt").write_text("/bin/x f 4755 0 0\n")
    for name in ("root", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "inside.tar").symlink_to("a.tar")
    (tmp_path / "out.tar").symlink_to("/etc/passwd")
    (tmp_path / "out").symlink_to("/usr")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def places(found: Sequence[Problem]) -> list[tuple[str, int, tuple[str | int, ...]]]:
    return [(p.rule, p.mark.column, p.at) for p in found]


def source(kind: str, path: str, more: str = "") -> str:
    return f"{HEAD}source: {{{kind}: {{path: {path}{more}}}}}\n"


@pytest.mark.parametrize(("kind", "name"), [("tar", "a.tar"), ("tar", "inside.tar"), ("directory", "root")])
def test_one_tree_for_every_architecture(board: Path, kind: str, name: str) -> None:
    path = board / ("a.tar" if kind == "tar" else name)
    assert read(board, source(kind, name)).trees == {"amd64": path, "arm64": path}
    assert read(board, source(kind, name), ["armhf"]).trees == {"armhf": path}
    assert read(board, source(kind, name)).ownership is None and read(board, source(kind, name)).kernels == {}


def test_a_tree_for_each_architecture(board: Path) -> None:
    text = source("tar", "{amd64: a.tar, arm64: b.tar}")
    assert read(board, text).trees == {"amd64": board / "a.tar", "arm64": board / "b.tar"}
    assert read(board, text, ["arm64"]).trees == {"arm64": board / "b.tar"}
    assert read(board, PLAIN).trees == {}, "packages have none"


def test_what_is_not_built_need_not_be_there(board: Path) -> None:
    text = source("tar", "{amd64: a.tar, arm64: none.tar, i386: root}")
    assert read(board, text, ["amd64"]).trees == {"amd64": board / "a.tar"}
    assert places(problems(board, text)) == [("missing-file", 44, ("source", "tar", "path", "arm64"))]
    assert read(board, f"{text}architectures: [amd64]\n").trees == {"amd64": board / "a.tar"}


@pytest.mark.parametrize("kind", ["tar", "directory"])
def test_an_architecture_without_a_tree(board: Path, kind: str) -> None:
    path = {"tar": "a.tar", "directory": "root"}[kind]
    text = source(kind, f"{{amd64: {path}}}")
    (problem,) = problems(board, text)
    assert places([problem]) == [("no-architecture", 19 + len(kind), ("source", kind, "path"))]
    assert (problem.message, problem.hint) == (
        "nothing is named for arm64", "add arm64, or leave it out of `architectures`",
    )  # fmt: skip
    found = problems(board, text, ["armhf", "i386"])
    assert [p.message.split()[-1] for p in found] == ["armhf", "i386"]


@pytest.mark.parametrize(
    ("kind", "path", "rule", "message"),
    [
        ("tar", "none.tar", "missing-file", "'none.tar' does not exist"),
        ("tar", "root", "wrong-file-kind", "'root' is a directory, not a file"),
        ("tar", "pipe", "wrong-file-kind", "not a file"),
        ("tar", "out.tar", "bad-path", "leads out of the profile's directory"),
        ("directory", "none", "missing-file", "'none' does not exist"),
        ("directory", "a.tar", "wrong-file-kind", "'a.tar' is a file, not a directory"),
        ("directory", "pipe", "wrong-file-kind", "not a directory"),
        ("directory", "out", "bad-path", "leads out of the profile's directory"),
    ],
)
def test_a_tree_that_cannot_be_taken(board: Path, kind: str, path: str, rule: str, message: str) -> None:
    """Said once, although it stands for two architectures; for each of them where each has its own."""
    (problem,) = problems(board, source(kind, path))
    assert places([problem]) == [(rule, 19 + len(kind), ("source", kind, "path"))]
    assert message in problem.message
    both = problems(board, source(kind, f"{{amd64: {path}, arm64: {path}}}"))
    assert [(p.rule, p.at[-1]) for p in both] == [(rule, "amd64"), (rule, "arm64")]
    assert both[0].mark.column < both[1].mark.column


def test_an_ownership_file(board: Path) -> None:
    found = read(board, source("directory", "root", ", ownership: own.txt"))
    assert found.ownership is not None and found.trees["amd64"] == board / "root"
    assert found.ownership == parse_ownership(b"/bin/x f 4755 0 0\n", str(board / "own.txt"))


def test_an_ownership_file_that_is_wrong(board: Path) -> None:
    """Its own problems have its own places; they come with those of the profile."""
    (board / "own.txt").write_text("\n/bin/x f rwx 0 0\n/bin/y q 0755 0 0\n")
    text = source("directory", "{amd64: root, arm64: none}", ", ownership: own.txt")
    found = problems(board, text)
    assert [(Path(p.mark.file).name, p.mark.line, p.rule) for p in found] == [
        ("own.txt", 2, "bad-ownership"), ("own.txt", 3, "bad-ownership"), ("profile.yaml", 3, "missing-file"),
    ]  # fmt: skip
    (problem,) = problems(board, source("directory", "root", ", ownership: none.txt"))
    assert places([problem]) == [("missing-file", 45, ("source", "directory", "ownership"))]
    (problem,) = problems(board, source("directory", "root", ", ownership: target"))
    assert (problem.rule, problem.message) == ("wrong-file-kind", "'target' is a directory")


def kernel(words: str) -> str:
    return f"{PLAIN}kernel: {{{words}}}\n"


def test_a_boards_own_kernel(board: Path) -> None:
    """One name may stand for all, and an architecture without an image has Debian's kernel."""
    words = "image: {arm64: Image, amd64: bzImage}, modules: {arm64: target, amd64: mods.tar}, config: {arm64: .config}"
    assert read(board, kernel(words)).kernels == {
        "amd64": BoardFiles(image=board / "bzImage", modules=board / "mods.tar", config=None),
        "arm64": BoardFiles(image=board / "Image", modules=board / "target", config=board / ".config"),
    }
    assert set(read(board, kernel(words), ["arm64", "armhf"]).kernels) == {"arm64"}
    every = read(board, kernel("image: Image, modules: target, config: .config"), ["arm64", "armhf"]).kernels
    own = BoardFiles(image=board / "Image", modules=board / "target", config=board / ".config")
    assert every == {"arm64": own, "armhf": own}
    assert read(board, kernel("cmdline: quiet")).kernels == {}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("image: none", [("missing-file", ("kernel", "image"), "'none' does not exist")]),
        ("image: root", [("wrong-file-kind", ("kernel", "image"), "'root' is a directory, not a file")]),
        ("image: out.tar", [("bad-path", ("kernel", "image"), "leads out")]),
        ("image: Image, modules: none", [("missing-file", ("kernel", "modules"), "'none'")]),
        ("image: Image, modules: pipe", [("wrong-file-kind", ("kernel", "modules"), "not a directory or a file")]),
        ("image: Image, modules: out", [("bad-path", ("kernel", "modules"), "leads out")]),
        ("image: Image, config: target", [("wrong-file-kind", ("kernel", "config"), "not a file")]),
        ("image: Image, config: {arm64: none}", [("missing-file", ("kernel", "config", "arm64"), "'none'")]),
        (
            "image: {amd64: none}, modules: {amd64: pipe, arm64: none}, config: {amd64: root}",
            [
                ("missing-file", ("kernel", "image", "amd64"), "'none'"),
                ("wrong-file-kind", ("kernel", "modules", "amd64"), "'pipe'"),
                ("wrong-file-kind", ("kernel", "config", "amd64"), "'root'"),
            ],
        ),
    ],
)
def test_a_kernel_that_cannot_be_taken(board: Path, words: str, found: list[tuple[str, tuple[str, ...], str]]) -> None:
    seen = problems(board, kernel(words))
    assert [(p.rule, p.at) for p in seen] == [(rule, at) for rule, at, _ in found]
    assert all(part in p.message for p, (_, _, part) in zip(seen, found, strict=True))
