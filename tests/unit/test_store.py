# SPDX-License-Identifier: MIT
"""Kills, races and readers: what is published or kept is always whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rofs import store
from rofs.errors import ImageError, SourceError
from rofs.store import Cache, default_cache_dir, publish, workspace

ROOT = Path(__file__).parents[2]


def python(script: str, *args: str | Path) -> subprocess.Popen[str]:
    """A process of its own that runs `script`, its output piped."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def filled(path: Path, *names: str, text: str = "x") -> Path:
    path.mkdir(parents=True)
    for name in names:
        (path / name).write_text(text)
    return path


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"ROFS_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/rofs"),
        ({"HOME": "/h"}, "/h/.cache/rofs"),
    ],
)
def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str) -> None:
    for name in ("ROFS_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert default_cache_dir() == Path(expected)


WORKER = """
import sys
from pathlib import Path
from rofs.store import workspace
with workspace(Path(sys.argv[1])) as work:
    (work / "sub").mkdir()
    (work / "sub" / "file").write_text("x")
    (work / "sub").chmod(0)
    print(work.name, flush=True)
    sys.stdin.read()
"""


def test_stale_workspaces_go_and_live_ones_stay(tmp_path: Path) -> None:
    dead, alive = python(WORKER, tmp_path), python(WORKER, tmp_path)
    dead_name, alive_name = read_line(dead), read_line(alive)
    kill(dead)
    assert (tmp_path / dead_name).exists()
    with workspace(tmp_path) as mine:
        assert mine.parent == tmp_path and mine.is_dir() and not any(mine.iterdir())
        assert not (tmp_path / dead_name).exists()
        assert (tmp_path / alive_name).exists()
    assert not mine.exists()
    alive.communicate("")
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path / "new" / "parent") as work:
        raise KeyboardInterrupt
    assert not work.exists()


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="cannot work there"), workspace(tmp_path / "file"):
        pytest.fail("entered")
    with pytest.raises(SourceError, match="cannot use the cache"):
        Cache(tmp_path / "file").entry("tree", "k", lambda _: None)


def test_publish_to_a_fresh_and_to_a_full_directory(tmp_path: Path) -> None:
    dest = tmp_path / "images" / "minimal" / "arm64"
    publish(filled(tmp_path / "one", "a", "b"), dest)
    assert {path.name for path in dest.iterdir()} == {"a", "b"}
    publish(filled(tmp_path / "two", "c"), dest)
    assert {path.name for path in dest.iterdir()} == {"c"}
    assert {path.name for path in tmp_path.iterdir()} == {"images"}


def test_publish_where_nothing_can_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "exchange", lambda *_: False)
    dest = filled(tmp_path / "dest", "old")
    publish(filled(tmp_path / "ready", "new"), dest)
    assert [path.name for path in dest.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [dest]


def test_publish_that_cannot(tmp_path: Path) -> None:
    dest = filled(tmp_path / "dest", "old")
    with pytest.raises(ImageError, match="cannot be published"):
        publish(tmp_path / "nothing", dest)
    assert [path.name for path in dest.iterdir()] == ["old"]


NAMES = [f"f{number}" for number in range(20)]


def test_a_reader_always_sees_one_whole_directory(tmp_path: Path) -> None:
    """Every path is there at every moment, and a directory opened and still in place is all of one build."""
    dest = tmp_path / "dest"
    publish(filled(tmp_path / "ready", *NAMES, text="0"), dest)
    seen: set[str] = set()
    broken: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            broken.extend(f"no {name}" for name in NAMES if not (dest / name).exists())
            fd = os.open(dest, os.O_RDONLY)
            try:
                texts = {Path(f"/proc/self/fd/{fd}", name).read_text() for name in NAMES}
            except FileNotFoundError:
                texts = set()  # swapped away and being deleted meanwhile
            if dest.stat().st_ino == os.fstat(fd).st_ino:
                seen.update(texts)
                if len(texts) != 1:
                    broken.append(f"mixed {texts}")
            os.close(fd)

    reader = threading.Thread(target=read)
    reader.start()
    for round_ in range(1, 60):
        publish(filled(tmp_path / "ready", *NAMES, text=str(round_)), dest)
    stop.set()
    reader.join()
    assert broken == []
    assert len(seen) > 1, "the reader never saw a change"


def test_cache_makes_once_then_hits(tmp_path: Path) -> None:
    made: list[int] = []

    def make(work: Path) -> None:
        made.append(1)
        (work / "tree.tar").write_text(f"tree {len(made)}")

    cache = Cache(tmp_path)
    first, second = cache.entry("tree", "k1", make), cache.entry("tree", "k1", make)
    assert (first.hit, second.hit, len(made)) == (False, True, 1)
    assert first.path == second.path and first.created == second.created
    assert cache.entry("tree", "k2", make).path != first.path
    fresh = cache.entry("tree", "k1", make, refresh=True)
    assert not fresh.hit and (fresh.path / "tree.tar").read_text() == "tree 3"
    assert (first.path / "tree.tar").read_text() == "tree 1", "a build may still be reading it"
    cache.entry("tree", "k1", make, refresh=True)
    assert not first.path.exists() and fresh.path.exists()
    assert cache.entry("tree", "k1", make).hit


@pytest.mark.parametrize("key", ["", "..", "a/b", ".rofs-work-x", "a b", "x" * 300])
def test_a_key_that_is_no_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        Cache(tmp_path).entry("tree", key, lambda _: None)


def test_what_fails_is_not_kept(tmp_path: Path) -> None:
    def fail(work: Path) -> None:
        (work / "half").touch()
        raise SourceError("no such suite")

    cache = Cache(tmp_path)
    with pytest.raises(SourceError, match="no such suite"):
        cache.entry("tree", "k", fail)
    assert list((tmp_path / "tree" / "k").iterdir()) == []
    kept = cache.entry("tree", "k", lambda work: (work / "a").touch())
    with pytest.raises(SourceError):
        cache.entry("tree", "k", fail, refresh=True)
    assert cache.entry("tree", "k", fail) == store.CacheEntry(kept.path, kept.created, True)


MAKER = """
import sys
from pathlib import Path
from rofs.store import Cache
def make(work):
    (work / "half").write_text("x")
    print("making", flush=True)
    sys.stdin.readline()
    (work / "half").rename(work / "whole")
entry = Cache(Path(sys.argv[1])).entry("tree", "k", make)
print(entry.hit, *sorted(p.name for p in entry.path.iterdir()), flush=True)
"""


def test_a_maker_killed_in_the_middle(tmp_path: Path) -> None:
    process = python(MAKER, tmp_path)
    assert read_line(process) == "making"
    kill(process)
    assert len(list((tmp_path / "tree" / "k").iterdir())) == 1, "the leftover"
    entry = Cache(tmp_path).entry("tree", "k", lambda work: (work / "whole").touch())
    assert not entry.hit and [path.name for path in entry.path.iterdir()] == ["whole"]
    assert list((tmp_path / "tree" / "k").iterdir()) == [entry.path]


def test_two_at_once_make_one(tmp_path: Path) -> None:
    one = python(MAKER, tmp_path)
    assert read_line(one) == "making"
    other = python(MAKER, tmp_path)
    assert one.communicate("\n")[0].split() == ["False", "whole"]
    assert other.communicate("\n")[0].split() == ["True", "whole"]


def test_the_next_waits_for_a_killed_maker_only(tmp_path: Path) -> None:
    one = python(MAKER, tmp_path)
    assert read_line(one) == "making"
    other = python(MAKER, tmp_path)
    kill(one)
    assert read_line(other) == "making"
    assert other.communicate("\n")[0].split() == ["False", "whole"]
