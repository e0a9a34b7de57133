# SPDX-License-Identifier: MIT
"""rofs.run: what comes back, what is said when it goes wrong, and that nothing is left running."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from rofs.errors import Interrupted, ToolError
from rofs.run import PACKAGES, both, find_program, resume, run, stop_all


@pytest.fixture(autouse=True)
def _let_tools_start() -> Iterator[None]:
    resume()
    yield
    resume()


def fake(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_output_status_and_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    heard: list[str] = []
    script = "echo out; echo err >&2; exit 3"
    result = run(["sh", "-c", script], log=log, ok=(0, 3), on_line=heard.append)
    assert (result.status, result.stdout, result.stderr_tail) == (3, "out\n", "err")
    assert result.argv == ("sh", "-c", script)
    assert sorted(heard) == ["err", "out"]
    text = log.read_text()
    assert text.startswith(f"+ sh -c '{script}'\n") and "out\n" in text and "err\n" in text


def test_log_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for word in ("first", "second"):
        run(["echo", word], log=log)
    assert log.read_text() == "+ echo first\nfirst\n+ echo second\nsecond\n"


@pytest.mark.parametrize("words", [["", "a b", "$HOME", "*", "None", "-n"], ["ä", "'", '"', "\\"], []])
def test_arguments_arrive_as_they_are(tmp_path: Path, words: list[str]) -> None:
    shown = fake(tmp_path, "show", 'for word; do printf "[%s]" "$word"; done')
    assert run([shown, *words]).stdout == "".join(f"[{word}]" for word in words)


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert run(["printf", r"a\377b\n"]).stdout == "a\ufffdb\n"


def test_a_last_line_without_end_is_heard() -> None:
    heard: list[str] = []
    assert run(["printf", "one\ntwo"], on_line=heard.append).stdout == "one\ntwo"
    assert heard == ["one", "two"]


def test_stdin_from_bytes_descriptor_and_nothing(tmp_path: Path) -> None:
    big = b"x" * 300_000  # more than any pipe holds
    assert run(["wc", "-c"], stdin=big).stdout.strip() == "300000"
    assert run(["cat"]).stdout == ""
    (tmp_path / "file").write_text("from a file")
    with (tmp_path / "file").open("rb") as file:
        assert run(["cat"], stdin=file.fileno()).stdout == "from a file"
        assert not file.closed and os.fstat(file.fileno())


def test_stdout_to_a_path_and_to_a_descriptor(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("something longer that was here before")
    assert run(["printf", r"\377"], stdout=out).stdout == ""
    assert out.read_bytes() == b"\xff"
    with out.open("wb") as file:
        run(["echo", "again"], stdout=file.fileno())
    assert out.read_text() == "again\n"


def test_environment_is_built_not_inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("TMPDIR", "/somewhere")
    fake(tmp_path, "show-env", "exec env")
    lines = run(["show-env"], env={"MINE": "yes"}, cwd=tmp_path).stdout.splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert found.keys() - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "HOME", "LANG", "TMPDIR", "MINE"}
    assert found["LANG"] == "C.UTF-8" and found["PWD"] == str(tmp_path)
    assert found["PATH"] == f"{tmp_path}:/usr/bin:/bin:/usr/sbin:/sbin"


def test_the_program_is_found_on_our_path_whatever_path_it_gets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake(tmp_path, "only-here", 'echo "$PATH"')
    assert find_program("only-here") == tmp_path / "only-here"
    assert run(["only-here"], env={"PATH": "/usr/bin:/bin"}).stdout == "/usr/bin:/bin\n"


FAILURES = [
    ("exit 1", "exit status 1"),
    ("exit 200", "exit status 200"),
    ("kill -9 $$", "was ended by SIGKILL"),
    ("kill -TERM $$", "was ended by SIGTERM"),
]


@pytest.mark.parametrize(("script", "reason"), FAILURES)
def test_failure_says_how_it_ended(script: str, reason: str) -> None:
    with pytest.raises(ToolError) as caught:
        run(["sh", "-c", script], hint="try again")
    assert (caught.value.reason, caught.value.hint) == (reason, "try again")
    assert str(caught.value) == f"sh: {reason}"


def test_failure_carries_the_last_lines_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ToolError) as caught:
        run(["sh", "-c", "seq 1 2000 >&2; exit 1"], log=log)
    assert caught.value.tail.splitlines() == [str(n) for n in range(1981, 2001)]
    assert caught.value.log == log and "\n1\n" in log.read_text()


def test_without_stderr_the_tail_is_of_stdout() -> None:
    with pytest.raises(ToolError) as caught:
        run(["sh", "-c", "echo what went wrong; exit 1"])
    assert caught.value.tail == "what went wrong"


def test_a_deadline_ends_with_its_tool() -> None:
    """Or rofs would signal whoever has the number then."""
    run(["true"], timeout_s=1000)
    for timer in [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]:
        timer.join(60)
        assert not timer.is_alive()


def test_timeout_ends_the_tool_and_what_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(ToolError, match=r"did not end within 0\.3 s"):
        run(["sh", "-c", f"setsid sleep 1000 & echo $! > {pid_file}; wait"], timeout_s=0.3)
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


@pytest.mark.parametrize("program", sorted(PACKAGES))
def test_missing_program_names_its_package(program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rofs.run._environment", lambda _: {"PATH": str(tmp_path)})
    with pytest.raises(ToolError, match="not found") as caught:
        run([program, "--version"])
    assert caught.value.hint == f"apt-get install {PACKAGES[program]}"


def test_a_program_nobody_knows_has_no_hint() -> None:
    with pytest.raises(ToolError, match="no-such-program: not found") as caught:
        run(["no-such-program"])
    assert caught.value.hint == ""


def test_what_cannot_start_is_a_tool_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="cannot be started"):
        run(["true"], cwd=tmp_path / "missing")
    with pytest.raises(ToolError, match="cannot be started"):
        run(["echo", "x" * 200_000])
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(ToolError) as caught:
        run([script])
    assert "No such file" in caught.value.tail


def test_an_error_in_on_line_comes_out_of_run() -> None:
    def refuse(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="first"):
        run(["printf", "first\nsecond\n"], on_line=refuse)


def test_many_at_once_keep_their_output_apart(tmp_path: Path) -> None:
    def one(number: int) -> str:
        return run(["sh", "-c", f"cat; echo {number}"], stdin=b"in ", log=tmp_path / f"{number}").stdout

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(24))) == [f"in {n}\n" for n in range(24)]


def test_a_pipeline_through_a_descriptor() -> None:
    reader, writer = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(run, ["wc", "-c"], stdin=reader)
        try:
            run(["head", "-c", "200000", "/dev/zero"], stdout=writer)
        finally:
            os.close(writer)
        assert counted.result().stdout.strip() == "200000"
    os.close(reader)


def test_no_descriptor_is_left_open() -> None:
    run(["true"])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        run(["sh", "-c", "echo x; echo y >&2"], stdin=b"z")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_stop_all_interrupts_and_lets_none_start() -> None:
    started = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, ["sh", "-c", "echo up; sleep 1000"], on_line=lambda _: started.set())
        assert started.wait(30)
        stop_all()
        with pytest.raises(Interrupted):
            running.result(30)
    with pytest.raises(Interrupted):
        run(["true"])
    resume()
    assert run(["true"]).status == 0


def test_both_go_on_at_once() -> None:
    meet = threading.Barrier(2, timeout=30)
    numbers = both(meet.wait, meet.wait)  # alone, either would wait in vain
    assert sorted(numbers) == [0, 1]


def test_what_the_first_of_both_raised_counts_before_the_second() -> None:
    def fail(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ValueError, match="1"):
        both(partial(fail, 1), partial(fail, 2))
    with pytest.raises(ValueError, match="2"):
        both(lambda: None, partial(fail, 2))
