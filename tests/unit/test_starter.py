# SPDX-License-Identifier: MIT
"""rofs.starter: the profiles of `rofs init` hold as they are and with every example in them taken at its word."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import tree
from tarmaker import Row, file, folder, symlink, write_tar
from test_cli import Done, rofs

from rofs import starter
from rofs.errors import SourceError
from rofs.inputs import load_inputs
from rofs.lint import lint
from rofs.machine.arch import ARCHES
from rofs.profile import DebianSource, Profile, TarSource, load_profile
from rofs.schema import SCHEMA_FILE
from rofs.starter import (
    NAME,
    Scratch,
    debian_profile,
    find_links,
    find_scratch,
    make_name,
    tar_profile,
    write_starter,
)
from rofs.treefacts import TreeFacts, read_facts

KEYS = Path(__file__).resolve().parents[2] / "profiles" / "keys"
SHA256 = "0" * 63 + "7"
P = PurePosixPath

# --- trees as their makers lay them out -----------------------------------------------------------


def elf(kind: int = 2, machine: int = 183) -> bytes:
    """The head of a program: EI_CLASS and e_machine of elf(5); by default one for arm64."""
    return b"\x7fELF" + bytes([kind, 1, 1]) + bytes(9) + (2).to_bytes(2, "little") + machine.to_bytes(2, "little")


PASSWD = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
GROUP = b"root:x:0:\ndaemon:x:1:\n"
BUILDROOT_FSTAB = b"""\
# <file system>\t<mount pt>\t<type>\t<options>\t<dump>\t<pass>
/dev/root\t/\t\text2\trw,noauto\t0\t1
proc\t\t/proc\t\tproc\tdefaults\t0\t0
devpts\t\t/dev/pts\tdevpts\tdefaults,gid=5,mode=620,ptmxmode=0666\t0\t0
tmpfs\t\t/dev/shm\ttmpfs\tmode=0777\t0\t0
tmpfs\t\t/tmp\t\ttmpfs\tmode=1777\t0\t0
tmpfs\t\t/run\t\ttmpfs\tmode=0755,nosuid,nodev\t0\t0
sysfs\t\t/sys\t\tsysfs\tdefaults\t0\t0
"""
COMMON = (
    *(folder(name) for name in ("dev", "etc", "mnt", "opt", "proc", "root", "run", "sys", "usr", "usr/sbin", "var")),
    folder("tmp", 0o1777), folder("var/lib"), file("etc/passwd", PASSWD), file("etc/group", GROUP),
    file("etc/shadow", b"root:*:::::::\n", mode=0o600),
)  # fmt: skip
BUILDROOT = (
    *COMMON, folder("bin"), folder("sbin"), folder("lib"), file("bin/busybox", elf(), mode=0o755),
    symlink("sbin/init", "../bin/busybox"), symlink("bin/sh", "busybox"), file("etc/fstab", BUILDROOT_FSTAB),
    *(symlink(f"var/{name}", "../tmp") for name in ("cache", "lock", "log", "spool", "tmp")),
    symlink("var/run", "../run"), symlink("etc/mtab", "../proc/self/mounts"),
    symlink("etc/resolv.conf", "../tmp/resolv.conf"), symlink("etc/dropbear", "../var/run/dropbear"),
    symlink("usr/sbin/dropbear", "../../bin/busybox"),
)  # fmt: skip
YOCTO_FSTAB = b"""\
/dev/root            /                    auto       defaults              1  1
proc                 /proc                proc       defaults              0  0
tmpfs                /run                 tmpfs      mode=0755,nodev,nosuid,strictatime 0  0
tmpfs                /var/volatile        tmpfs      size=24m              0  0
"""
YOCTO = (
    *COMMON, *(symlink(name, f"usr/{name}") for name in ("bin", "sbin", "lib")), folder("usr/bin"), folder("usr/lib"),
    file("usr/sbin/init.sysvinit", elf(1, 40), mode=0o755), symlink("usr/sbin/init", "/sbin/init.sysvinit"),
    file("usr/bin/busybox", elf(1, 40), mode=0o755), symlink("usr/bin/sh", "busybox"),
    file("etc/fstab", YOCTO_FSTAB), folder("var/volatile"), symlink("var/log", "volatile/log"),
    symlink("var/tmp", "volatile/tmp"), symlink("var/run", "../run"), symlink("var/lock", "../run/lock"),
    folder("etc/ssh"), file("usr/sbin/sshd", b"\0", mode=0o755),
)  # fmt: skip
SYSTEMD = (
    *COMMON, *(symlink(name, f"usr/{name}") for name in ("bin", "sbin", "lib")), folder("usr/bin"),
    folder("usr/lib/systemd"), file("usr/lib/systemd/systemd", elf(2, 62), mode=0o755),
    symlink("usr/sbin/init", "../lib/systemd/systemd"), file("usr/bin/sh", elf(2, 62), mode=0o755),
    folder("etc/ssh"), file("usr/sbin/sshd", b"\0", mode=0o755),
)  # fmt: skip
SMALL_DEBIAN = tree(
    texts={
        "/etc/group": b"root:x:0:\nsystemd-journal:x:999:\n",
        **{f"/usr/lib/systemd/system/systemd-{name}d.service": b"[Service]\n" for name in ("network", "journal")},
    }
)
"""As far as the examples name what is in it; the boot tests have the real one."""
TREES: dict[str, tuple[Row, ...]] = {"buildroot": BUILDROOT, "yocto": YOCTO, "systemd": SYSTEMD}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory for profiles, with the key that the examples name."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "service.pub").write_bytes((KEYS / "operator.pub").read_bytes())
    return tmp_path


def facts_of(rows: tuple[Row, ...], directory: Path) -> TreeFacts:
    return read_facts(write_tar(directory / "facts.tar", *rows))


def problems_of(text: str, directory: Path, facts: TreeFacts | None) -> tuple[Profile, list[str]]:
    """A profile's text -> what it says, and every problem with it, warnings too."""
    path = directory / "profile.yaml"
    path.write_text(text, "utf-8")
    profile = load_profile(path)
    return profile, [str(problem) for problem in [*lint(profile, None), *(lint(profile, facts) if facts else ())]]


# --- the examples in them -------------------------------------------------------------------------


def blocks(text: str) -> list[range]:
    """The runs of lines that begin with one hash, but for the first line, which is for editors."""
    lines = text.splitlines()
    marked = [n for n, line in enumerate(lines) if n and line.startswith("# ")]
    starts = [n for n in marked if n - 1 not in marked]
    return [range(n, next(m for m in range(n, len(lines) + 1) if m not in marked)) for n in starts]


def uncommented(text: str, *chosen: range) -> str:
    lines = text.splitlines()
    for block in chosen:
        for number in block:
            lines[number] = lines[number].removeprefix("# ")
    return "\n".join(lines) + "\n"


def starters(directory: Path) -> dict[str, tuple[str, TreeFacts]]:
    """Every kind of profile that `rofs init` writes, and a tree as it will find it."""
    found = {"debian": (debian_profile("gateway"), SMALL_DEBIAN)}
    for name, rows in TREES.items():
        facts = facts_of(rows, directory)
        found[name] = (tar_profile("gateway", "rootfs.tar", SHA256, facts.machine() or "", facts), facts)
    return found


KINDS = ("debian", *TREES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_profile_holds_as_it_is(here: Path, kind: str) -> None:
    text, facts = starters(here)[kind]
    (here / "rootfs.tar").touch()
    profile, problems = problems_of(text, here, facts)
    assert problems == []
    assert (profile.name, profile.hostname, profile.state, profile.users, profile.files) == ("gateway",) * 2 + (
        None,
        (),
        (),
    )
    load_inputs(profile)


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_holds_alone_and_all_of_them_together(here: Path, kind: str) -> None:
    text, facts = starters(here)[kind]
    found = blocks(text)
    assert len(found) >= 6
    plain, _ = problems_of(text, here, facts)
    for chosen in [*([block] for block in found), found]:
        profile, problems = problems_of(uncommented(text, *chosen), here, facts)
        assert problems == []
        assert profile != plain, "an example that changes nothing"
    assert profile.state and profile.users and profile.files and profile.root and profile.verify.commands
    assert any(mount.on_state for mount in profile.mounts)


@pytest.mark.parametrize("kind", KINDS)
def test_only_examples_have_one_hash(here: Path, kind: str) -> None:
    """Every other comment has two, so that nobody takes a sentence for an example."""
    text, _ = starters(here)[kind]
    first, *lines = text.splitlines()
    assert first == f"# yaml-language-server: $schema={SCHEMA_FILE}"
    comments = [line.strip() for line in lines if line.lstrip().startswith("#") and not line.startswith("# ")]
    assert comments and all(line.startswith("## ") for line in comments)
    assert all(len(line) <= 118 for line in lines) and all(line == line.rstrip() for line in lines)
    assert "\n\n\n" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_comments_name_is_there(here: Path, kind: str) -> None:
    """Words in backquotes are keys or values of the schema, or of this very profile."""
    text, _ = starters(here)[kind]
    schema = SCHEMA_FILE.read_text("utf-8")
    for comment in re.findall(r"^ *## (.*)$", text, re.MULTILINE):
        for word in re.findall(r"`([^`]+)`", comment):
            for part in re.findall(r"[a-z_]+", word):
                assert f'"{part}"' in schema, word
        for key in re.findall(r"\b([a-z]+_[a-z_]+)\b", comment):
            assert f'"{key}"' in schema, key


def test_the_example_of_a_user_needs_the_key_it_speaks_of(here: Path) -> None:
    text = debian_profile("gateway")
    (users,) = (block for block in blocks(text) if "# users:" in text.splitlines()[block[0]])
    profile, _ = problems_of(uncommented(text, users), here, None)
    assert "keys/service.pub" in text and load_inputs(profile).authorized_keys[0]


def test_a_debian_that_is_small_and_for_both(here: Path) -> None:
    profile, _ = problems_of(debian_profile("gateway"), here, None)
    assert profile.architectures == ("amd64", "arm64") and isinstance(profile.source, DebianSource)
    assert profile.source.packages == ("systemd-sysv", "udev", "dbus") and profile.init == "systemd"
    assert {str(m.path): (m.type, m.upper) for m in profile.mounts} == {
        "/var": ("overlay", "tmpfs"),
        "/tmp": ("tmpfs", None),
    }


# --- what is read from a tar ----------------------------------------------------------------------


def test_a_tree_of_buildroot(here: Path) -> None:
    facts = facts_of(BUILDROOT, here)
    text = tar_profile("box", "output/rootfs.tar", SHA256, "arm64", facts)
    profile, _ = problems_of(text, here, facts)
    assert (profile.init, profile.architectures) == ("other", ("arm64",))
    assert isinstance(profile.source, TarSource)
    assert set(profile.source.path.values()) == {"output/rootfs.tar"} and set(profile.source.sha256.values()) == {
        SHA256
    }
    assert {str(m.path): m.type for m in profile.mounts} == {"/tmp": "tmpfs", "/var": "overlay"}
    assert [str(i.path) for i in profile.immutable] == ["/usr", "/etc", "/bin", "/sbin", "/lib", "/opt"]
    assert "links of the tar lead there: /var/cache, /var/lock, /var/log, /var/spool, /var/tmp.\n" in text
    assert "/dev/shm" not in text
    assert not profile.kernel.package and not profile.kernel.image


def test_a_tree_of_yocto(here: Path) -> None:
    facts = facts_of(YOCTO, here)
    profile, _ = problems_of(tar_profile("box", "r.tar", SHA256, "armhf", facts), here, facts)
    assert (profile.init, profile.architectures) == ("other", ("armhf",))
    assert {str(m.path): (m.type, (m.size_bytes or 0) >> 20) for m in profile.mounts} == {
        "/etc/ssh": ("overlay", 1), "/tmp": ("tmpfs", 32), "/var": ("overlay", 64), "/var/volatile": ("tmpfs", 24),
    }  # fmt: skip
    assert [str(i.path) for i in profile.immutable] == ["/usr", "/opt"]
    assert find_links(facts, find_scratch(facts)) == ["/var/log", "/var/tmp"]


def test_a_tree_with_systemd(here: Path) -> None:
    """rofs itself decides there where the ssh server's keys are."""
    facts = facts_of(SYSTEMD, here)
    profile, _ = problems_of(tar_profile("box", "r.tar", SHA256, "amd64", facts), here, facts)
    assert profile.init == "systemd" and [str(m.path) for m in profile.mounts] == ["/tmp", "/var"]


@pytest.mark.parametrize(
    ("fstab", "mounts"),
    [
        ("tmpfs /srv tmpfs size=8M 0 0", {"/srv": "8M"}),
        ("tmpfs /srv tmpfs noexec,size=64k 0 0", {"/srv": "64K"}),
        ("tmpfs /srv tmpfs size=50% 0 0", {"/srv": "16M"}),
        ("tmpfs /srv tmpfs size=0 0 0", {"/srv": "16M"}),
        ("tmpfs /srv tmpfs size=65536 0 0", {"/srv": "65536"}),
        ("tmpfs /srv tmpfs", {"/srv": "16M"}),
        ("tmpfs /srv tmpfs size=8M\ntmpfs /srv tmpfs size=9M", {"/srv": "8M"}),
        ("tmpfs /link/x tmpfs", {"/srv/x": "16M"}),
        ("tmpfs /srv/../srv/y tmpfs", {"/srv/y": "16M"}),
        ("tmpfs /bin/busybox tmpfs", {}),
        ("tmpfs /run/x tmpfs\ntmpfs /dev tmpfs\ntmpfs / tmpfs", {}),
        ("tmpfs /a\\040b tmpfs\ntmpfs /a,b tmpfs\ntmpfs none tmpfs", {}),
        ("#tmpfs /srv tmpfs\n/dev/sda1 /srv ext4\nwords\n\n\xff", {}),
    ],
)
def test_what_the_trees_own_fstab_asks_for(here: Path, fstab: str, mounts: dict[str, str]) -> None:
    rows = [row for row in BUILDROOT if row.name != "etc/fstab"]
    facts = facts_of(
        (*rows, file("etc/fstab", f"{fstab}\n".encode("latin-1")), folder("srv"), symlink("link", "srv")), here
    )
    found = find_scratch(facts)
    assert {str(m.path): m.size for m in found} == {"/tmp": "32M", "/var": "64M", **mounts}
    profile, problems = problems_of(tar_profile("box", "r.tar", SHA256, "arm64", facts), here, facts)
    assert [p for p in problems if "(undeclared-mount)" not in p] == [] and len(profile.mounts) == len(found)


def test_links_instead_of_directories(here: Path) -> None:
    """/tmp may lead into /var, and all of /var into /run: a mount on a link is refused, so there is none."""
    rows = [row for row in BUILDROOT if row.name not in ("tmp", "etc/fstab")]
    facts = facts_of((*rows, symlink("tmp", "var/tmp.real")), here)
    assert [str(m.path) for m in find_scratch(facts)] == ["/var"]
    rows = [row for row in SYSTEMD if not row.name.startswith(("var", "tmp"))]
    facts = facts_of((*rows, symlink("var", "run/var"), symlink("tmp", "run/tmp")), here)
    assert find_scratch(facts) == ()
    text = tar_profile("box", "r.tar", SHA256, "amd64", facts)
    assert "mounts: []\n" in text and "{path: /data/box," in text
    assert problems_of(text, here, facts)[1] == []


def test_many_links_are_cut_short(here: Path) -> None:
    facts = facts_of((*SYSTEMD, *(symlink(f"var/l{n:02}", "/tmp") for n in range(20))), here)
    found = find_links(facts, (Scratch(P("/tmp"), "tmpfs", "1M", ""),))
    assert found == [*(f"/var/l{n:02}" for n in range(12)), "more"]


def test_a_user_that_the_tree_has_not(here: Path) -> None:
    rows = [row for row in BUILDROOT if row.name not in ("etc/passwd", "etc/group")]
    passwd, group = PASSWD + b"app:x:1000:1000::/:/bin/sh\n", GROUP + b"app:x:1001:\n"
    facts = facts_of((*rows, file("etc/passwd", passwd), file("etc/group", group)), here)
    assert "{name: service, uid: 1002, " in tar_profile("box", "r.tar", SHA256, "arm64", facts)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gateway", "gateway"), ("My Gateway", "my-gateway"), ("--x--", "x"), ("", "device"), ("äöü", "device"),
        ("Gerät 2", "ger-t-2"), ("a" * 70, "a" * 63), ("a" * 62 + "--b", "a" * 62), ("..", "device"), ("123", "123"),
    ],
)  # fmt: skip
def test_a_name_made_from_a_directory(text: str, name: str) -> None:
    assert make_name(text) == name


@given(
    st.one_of(st.text(), st.from_regex(NAME, fullmatch=True), st.sampled_from(["no", "null", "1-2", "0x1", "1e3", "y"]))
)
def test_every_name_made_and_every_name_taken_is_valid(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    directory = tmp_path_factory.mktemp("name")
    name = make_name(text)
    assert NAME.fullmatch(name) and make_name(name) == name
    for given_name in {name, text} if NAME.fullmatch(text) else {name}:
        profile, problems = problems_of(debian_profile(given_name), directory, None)
        assert problems == [] and profile.name == given_name and profile.hostname == given_name


@given(st.text(min_size=1))
def test_every_path_of_a_tar_is_named_right_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    directory = tmp_path_factory.mktemp("path")
    try:
        tar = directory / text
        tar.parent.mkdir(parents=True, exist_ok=True)
        tar.touch()
    except (OSError, ValueError):
        return  # no name of a file
    try:
        path = starter._beside(directory / "x.yaml", tar)
    except SourceError:
        return
    profile, _ = problems_of(tar_profile("box", path, SHA256, "amd64", tree()), directory, None)
    assert isinstance(profile.source, TarSource)
    assert (directory / profile.source.path["amd64"]).resolve() == tar.resolve()


def test_a_schema_in_a_directory_with_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "SCHEMA_FILE", Path("/a b/c\nd/x.json"))
    assert debian_profile("x").splitlines()[0] == "# yaml-language-server: $schema=file:///a%20b/c%0Ad/x.json"


# --- the file, and the verb -----------------------------------------------------------------------


def init(directory: Path, *args: str) -> Done:
    return rofs("init", *args, cwd=directory)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_init_says_what_to_type_next_and_it_works(tmp_path: Path) -> None:
    done = init(tmp_path, "gateway")
    assert (done.returncode, done.stderr, names(tmp_path)) == (0, "", ["gateway.yaml"])
    assert (tmp_path / "gateway.yaml").read_text() == debian_profile("gateway")
    head, *commands = done.stdout.splitlines()
    assert head.startswith("gateway.yaml is written") and [c.split() for c in commands] == [
        ["rofs", verb, "gateway.yaml"] for verb in ("check", "plan", "build")
    ]
    for command in commands[:2]:
        again = rofs(*command.split()[1:], cwd=tmp_path)
        assert again.returncode == 0, again.stderr
    assert rofs("check", "gateway.yaml", cwd=tmp_path).stdout == ""


def test_the_name_of_the_directory(tmp_path: Path) -> None:
    for name, expected in (("My Gateway", "my-gateway"), ("!!!", "device")):
        (tmp_path / name).mkdir()
        assert init(tmp_path / name).returncode == 0
        assert names(tmp_path / name) == [f"{expected}.yaml"]
    assert init(tmp_path, "--output", "My Gateway/other file.yaml").stdout.splitlines()[1] == (
        "  rofs check 'My Gateway/other file.yaml'"
    )
    assert load_profile(tmp_path / "My Gateway/other file.yaml").name == "my-gateway"


@pytest.mark.parametrize("name", ["Gateway", "-x", "x-", "a" * 64, "a_b", "a.b", "", "x\n"])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    done = init(tmp_path, "--", name)
    assert done.returncode == 2 and "usage: rofs init" in done.stderr and "is not the name of a host" in done.stderr
    assert names(tmp_path) == []


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("mine")
    (tmp_path / "b.yaml").symlink_to("nowhere")
    (tmp_path / "c.yaml").mkdir()
    for name in "abc":
        done = init(tmp_path, name)
        assert (done.returncode, done.stdout) == (3, "")
        assert (
            done.stderr
            == f"rofs: error: {name}.yaml: is there already and stays as it is (choose another with --output)\n"
        )
    assert names(tmp_path) == ["a.yaml", "b.yaml", "c.yaml"] and (tmp_path / "a.yaml").read_text() == "mine"
    assert not (tmp_path / "b.yaml").exists()


def test_one_that_came_meanwhile_is_not_overwritten_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.yaml"

    def slow(name: str) -> str:
        out.write_text("another's")
        return name

    monkeypatch.setattr(starter, "debian_profile", slow)
    with pytest.raises(FileExistsError, match="is there already"):
        write_starter(out, "x", None)
    assert names(tmp_path) == ["x.yaml"] and out.read_text() == "another's"


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_starter(tmp_path / "x.yaml", "x", None)
    assert names(tmp_path) == ["x.yaml"] and load_profile(tmp_path / "x.yaml").name == "x"
    with pytest.raises(FileExistsError):
        write_starter(tmp_path / "x.yaml", "y", None)


def test_nothing_is_left_of_one_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = init(tmp_path, "x", "--output", "none/x.yaml")
    assert (done.returncode, done.stderr) == (3, "rofs: error: none/x.yaml: No such file or directory\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_starter(tmp_path / "x.yaml", "x", None)
    assert names(tmp_path) == [] and caught.value.filename == str(tmp_path / "x.yaml")


def test_the_umask_decides_who_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_starter(tmp_path / "x.yaml", "x", None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.yaml").stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", TREES)
def test_init_from_a_tar(here: Path, kind: str) -> None:
    tar = here / "images" / "root fs.tar.gz"
    tar.parent.mkdir()
    write_tar(here / "plain.tar", *TREES[kind])
    with tarfile.open(here / "plain.tar") as plain, tarfile.open(tar, "w:gz", format=tarfile.PAX_FORMAT) as packed:
        for member in plain:
            packed.addfile(member, plain.extractfile(member) if member.isfile() else None)
    (here / "plain.tar").unlink()
    done = init(here, "box", "--tar", "images/root fs.tar.gz")
    assert (done.returncode, done.stderr) == (0, "")
    profile = load_profile(here / "box.yaml")
    assert isinstance(profile.source, TarSource)
    assert set(profile.source.path.values()) == {"images/root fs.tar.gz"}
    assert set(profile.source.sha256.values()) == {hashlib.sha256(tar.read_bytes()).hexdigest()}
    assert profile.architectures == ({"buildroot": "arm64", "yocto": "armhf", "systemd": "amd64"}[kind],)
    assert profile.init == ("systemd" if kind == "systemd" else "other")
    assert rofs("check", "box.yaml", cwd=here).stdout == ""
    assert names(here) == ["box.yaml", "images", "keys"]


def test_a_tar_that_the_profile_cannot_name(here: Path) -> None:
    write_tar(here / "root.tar", *BUILDROOT)
    (here / "deep").mkdir()
    for args in (
        ["--tar", "../root.tar"],
        ["--tar", str(here / "root.tar")],
        ["--output", "x.yaml", "--tar", "../root.tar"],
    ):
        done = init(here / "deep", *args)
        assert done.returncode == 3 and f"is not below {here / 'deep'}" in done.stderr and "--output" in done.stderr
    assert names(here / "deep") == []
    assert init(here / "deep", "--tar", "../root.tar", "--output", "../x.yaml").returncode == 0
    assert init(here, "--tar", "none.tar").stderr == "rofs: error: none.tar: No such file or directory\n"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((folder("etc"), file("etc/passwd", PASSWD)), "has neither /sbin/init nor systemd"),
        ((folder("sbin"), file("sbin/init", elf(2, 8))), "another machine"),
        ((folder("sbin"), file("sbin/init", b"#!/bin/sh\n")), "no machine that can be told"),
    ],
)
def test_a_tar_that_is_no_root_file_system(here: Path, rows: tuple[Row, ...], words: str) -> None:
    write_tar(here / "root.tar", *rows)
    done = init(here, "x", "--tar", "root.tar")
    assert done.returncode == 3 and words in done.stderr and names(here) == ["keys", "root.tar"]
    if "machine" in words:
        assert ", ".join(ARCHES) in done.stderr


def test_a_tar_that_is_none(here: Path) -> None:
    (here / "root.tar").write_text(json.dumps({"not": "a tar"}) * 100)
    done = init(here, "x", "--tar", "root.tar")
    assert done.returncode == 3 and "root.tar" in done.stderr and names(here) == ["keys", "root.tar"]
