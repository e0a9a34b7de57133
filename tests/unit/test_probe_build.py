# SPDX-License-Identifier: MIT
"""The build hook: the same bytes from the same sources, for every architecture."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from probing import ROOT, SOURCES, content, parse

import hatch_build
from rofs.machine.arch import ARCHES
from rofs.verify import probe_wire as wire


def test_the_command_line_names_nothing_of_the_host() -> None:
    argv = hatch_build.compile_argv("x-y-z", ["a.c", "b.c"], Path("/out/p"), ["D"])
    assert argv[1:6] == ["-m", "ziglang", "cc", "-target", "x-y-z"]
    assert argv[-4:] == ["-o", "/out/p", "a.c", "b.c"]
    assert "-DD" in argv
    assert {"-Wall", "-Wextra", "-Werror", "-static", "-s"} <= set(argv)


def test_every_architecture_of_the_table_has_a_target() -> None:
    assert hatch_build.zig_targets(ROOT) == {a.name: a.zig_target for a in ARCHES.values()}


def test_a_probe_is_made_again_when_a_source_is_newer(tmp_path: Path) -> None:
    out, source = tmp_path / "out", tmp_path / "a.c"
    out.touch()
    source.touch()
    os.utime(source, (1, 1))
    os.utime(out, (2, 2))
    assert hatch_build.is_fresh(out, [source])
    os.utime(source, (3, 3))
    assert not hatch_build.is_fresh(out, [source])
    assert not hatch_build.is_fresh(tmp_path / "none", [source])


def test_a_source_that_does_not_compile_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.c").write_text("int main(void) { int unused; return 0; }\n")
    with pytest.raises(RuntimeError, match="unused"):
        hatch_build.compile_probe(tmp_path / "src", "x86_64-linux-musl", tmp_path / "bin" / "p")
    assert list((tmp_path / "bin").iterdir()) == []


@pytest.mark.slow
def test_the_same_sources_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another directory, with a cache of its own and without a home: nothing can be shared."""
    target = ARCHES["amd64"].zig_target
    hatch_build.compile_probe(SOURCES, target, tmp_path / "one")
    elsewhere = tmp_path / "elsewhere" / "deep"
    shutil.copytree(SOURCES, elsewhere)
    for name in ("HOME", "XDG_CACHE_HOME", "ROFS_ZIG_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    hatch_build.compile_probe(elsewhere, target, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    for private in (str(ROOT), str(tmp_path), socket.gethostname() + "/"):
        assert private.encode() not in (tmp_path / "one").read_bytes()


@pytest.mark.slow
@pytest.mark.needs(*(f"{row.qemu_user}-static" for row in ARCHES.values()))
@pytest.mark.parametrize("name", ARCHES)
def test_the_probe_runs(name: str, tmp_path: Path) -> None:
    """With sizes and times that 32 bits cannot hold."""
    row, out = ARCHES[name], tmp_path / "probe"
    hatch_build.compile_probe(SOURCES, row.zig_target, out, defines=["ROFS_PROBE_REHEARSAL"])
    big = tmp_path / "big"
    big.touch()
    os.truncate(big, 5 << 30)
    os.utime(big, (1, 2**32 + 3))
    plan = [wire.shell(20, "echo hi"), wire.lstat("/dev/null"), wire.lstat(big), wire.statvfs("/proc")]
    (tmp_path / "plan").write_bytes(wire.encode_plan(plan))
    argv = [f"{row.qemu_user}-static", str(out), str(tmp_path / "plan"), "--output", "-"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=120)
    start, said, null, file, proc, end = parse(done.stdout)
    assert start["machine"] == row.uname
    assert content(said) == b"hi\n"
    assert (null["type"], null["rdev_major"], null["rdev_minor"]) == ("char", 1, 3)
    assert (file["size"], file["mtime"], file["ino"]) == (5 << 30, 2**32 + 3, big.stat().st_ino)
    assert proc["f_type"] == 0x9FA0
    assert end["ops"] == len(plan)


@pytest.mark.parametrize("target", ["riscv64-linux-musl", "arm-linux-musleabi"])
def test_it_compiles_for_architectures_to_come(target: str, tmp_path: Path) -> None:
    """Objects alone: to link them Zig would first compile a C library, for half a minute."""
    env = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(tmp_path), "ZIG_GLOBAL_CACHE_DIR": str(tmp_path)}
    for source in SOURCES.glob("*.c"):
        argv = hatch_build.compile_argv(target, ["-c", source.name], tmp_path / "object")
        argv.remove("-static")
        done = subprocess.run(argv, cwd=SOURCES, env=env, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
