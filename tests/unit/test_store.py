# SPDX-License-Identifier: MIT
"""Kills, races and readers: what is published or kept is always whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
    with pytest.raises(SourceError, match="lacks the tree that is needed"):
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


@pytest.mark.parametrize("exchanged", [True, False])
def test_many_publish_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool) -> None:
    """Also the first time, when each finds nothing there, and while others sweep."""
    if not exchanged:
        monkeypatch.setattr(store, "exchange", lambda *_: False)
    together = threading.Barrier(4)

    def work(number: int) -> None:
        for turn in range(8):
            with workspace(tmp_path / "images") as own:
                ready = filled(own / "ready", *NAMES[:3], text=str(number))
                together.wait(30)
                publish(ready, tmp_path / "images" / str(turn // 2))

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, number) for number in range(4)]:
            future.result()
    for turn in range(4):
        dest = tmp_path / "images" / str(turn)
        assert sorted(path.name for path in dest.iterdir()) == sorted(NAMES[:3])
        assert len({path.read_text() for path in dest.iterdir()}) == 1
    assert list((tmp_path / "images").glob(".rofs-work-*")) == []


def test_cache_makes_once_then_hits(tmp_path: Path) -> None:
    made: list[int] = []

    def make(work: Path) -> None:
        made.append(1)
        (work / "tree.tar").write_text(f"tree {len(made)}")

    cache, later = Cache(tmp_path), Cache(tmp_path)
    first, second = cache.entry("tree", "k1", make), cache.entry("tree", "k1", make)
    assert (first.hit, second.hit, len(made)) == (False, True, 1)
    assert first.path == second.path and first.created == second.created
    assert cache.entry("tree", "k2", make).path != first.path
    fresh = later.entry("tree", "k1", make, refresh=True)
    assert not fresh.hit and (fresh.path / "tree.tar").read_text() == "tree 3"
    later.entry("tree", "k1", make, refresh=True)
    assert (first.path / "tree.tar").read_text() == "tree 1", "a build may still be reading it"
    del cache
    later.entry("tree", "k1", make, refresh=True)
    assert not first.path.exists() and fresh.path.exists()
    assert later.entry("tree", "k1", make).hit


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
print(entry.hit, *sorted(p.name for p in entry.path.glob("[!.]*")), flush=True)
"""


def test_a_maker_killed_in_the_middle(tmp_path: Path) -> None:
    process = python(MAKER, tmp_path)
    assert read_line(process) == "making"
    kill(process)
    assert len(list((tmp_path / "tree" / "k").iterdir())) == 1, "the leftover"
    entry = Cache(tmp_path).entry("tree", "k", lambda work: (work / "whole").touch())
    assert not entry.hit and [path.name for path in entry.path.glob("[!.]*")] == ["whole"]
    assert list((tmp_path / "tree" / "k").iterdir()) == [entry.path]


def test_a_sweep_takes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    """Of a key that nobody asks for again, too."""
    cache = Cache(tmp_path)
    kept = cache.entry("tree", "other", lambda work: (work / "whole").touch())
    dead = python(MAKER, tmp_path)
    assert read_line(dead) == "making"
    cache.sweep()
    assert len(list((tmp_path / "tree" / "k").iterdir())) == 1, "of the living"
    kill(dead)
    cache.sweep()
    assert list((tmp_path / "tree" / "k").iterdir()) == [] and kept.path.exists()


def test_two_at_once_make_one(tmp_path: Path) -> None:
    one = python(MAKER, tmp_path)
    assert read_line(one) == "making"
    other = python(MAKER, tmp_path)
    assert one.communicate("\n")[0].split() == ["False", "whole"]
    assert other.communicate("\n")[0].split() == ["True", "whole"]


WAITER = """
import signal, sys
from pathlib import Path
from rofs.run import stoppable
from rofs.store import Cache
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, stop)
print("waiting", flush=True)
cache = Cache(Path(sys.argv[1]), lambda text: print(text, flush=True))
(error,) = stoppable(lambda: cache.entry("tree", "k", print))
"""


def test_who_waits_for_another_build_says_so_and_can_be_stopped(tmp_path: Path) -> None:
    one = python(MAKER, tmp_path)
    assert read_line(one) == "making"
    other = python(WAITER, tmp_path)
    try:
        assert read_line(other) == "waiting"
        assert read_line(other) == "waiting for another build, which makes the same tree"
        other.terminate()
        other.communicate(timeout=60)
        assert other.returncode != 0
    finally:
        other.kill()
        kill(one)


def test_the_next_waits_for_a_killed_maker_only(tmp_path: Path) -> None:
    one = python(MAKER, tmp_path)
    assert read_line(one) == "making"
    other = python(MAKER, tmp_path)
    kill(one)
    assert read_line(other) == "making"
    assert other.communicate("\n")[0].split() == ["False", "whole"]


def fill_entry(work: Path) -> None:
    """A file that can be run, one below, and a link."""
    (work / "tree.tar").write_bytes(bytes(range(256)) * 300)
    (work / "sub").mkdir()
    (work / "sub" / "boot.json").write_text("{}")
    (work / "link").symlink_to("tree.tar")


def writer(text: str) -> Callable[[Path], None]:
    """Makes an entry of one file, `a`."""

    def make(work: Path) -> None:
        (work / "a").write_text(text)

    return make


def flip(path: Path, bit: int) -> None:
    """One bit of a file, whatever its mode; size and mtime stay."""
    state, raw = path.stat(), bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.chmod(0o600)
    path.write_bytes(raw)
    path.chmod(state.st_mode)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def replace_link(entry: Path) -> None:
    (entry / "link").unlink()
    (entry / "link").symlink_to("sub")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "tree.tar has other bytes": lambda entry: flip(entry / "tree.tar", 8 * 76_799),
    "sub/boot.json has other bytes": lambda entry: flip(entry / "sub/boot.json", 3),
    "tree.tar is file of 7 bytes, not file of 76800 bytes": lambda entry: os.truncate(entry / "tree.tar", 7),
    "sub/boot.json is missing": lambda entry: (entry / "sub/boot.json").unlink(),
    "sub/strange was put there": lambda entry: (entry / "sub/strange").touch(),
    "link is link to sub, not link to tree.tar": replace_link,
    "it has no seal": lambda entry: (entry / ".rofs-seal").unlink(),
    "its seal cannot be read": lambda entry: flip(entry / ".rofs-seal", 900),
    "it is of tree/other": lambda entry: shutil.copytree(
        Cache(entry.parents[2]).entry("tree", "other", fill_entry).path, remade(entry), symlinks=True
    ),
}


def remade(entry: Path) -> Path:
    store.remove_tree(entry)
    return entry


@pytest.mark.parametrize("words", DAMAGES)
def test_damage_is_noticed_and_costs_only_time(tmp_path: Path, words: str) -> None:
    notes: list[str] = []
    made = Cache(tmp_path).entry("tree", "k", fill_entry)
    DAMAGES[words](made.path)
    cache = Cache(tmp_path, notes.append)
    again = cache.entry("tree", "k", fill_entry)
    assert not again.hit and again.path != made.path and not made.path.exists()
    assert (again.path / "tree.tar").read_bytes() == bytes(range(256)) * 300
    assert notes == [f"{made.path} is damaged: {words}; it is made again"]
    assert cache.entry("tree", "k", fill_entry).hit and len(notes) == 1


@pytest.mark.parametrize("bit", range(0, 8 * 640, 173))
def test_every_bit_of_the_seal_counts(tmp_path: Path, bit: int) -> None:
    made = Cache(tmp_path).entry("tree", "k", fill_entry)
    seal = made.path / ".rofs-seal"
    flip(seal, bit % (8 * seal.stat().st_size))
    assert not Cache(tmp_path).entry("tree", "k", fill_entry).hit


def test_an_older_entry_never_stands_in_for_a_damaged_one(tmp_path: Path) -> None:
    first = Cache(tmp_path).entry("tree", "k", writer("old"))
    second = Cache(tmp_path).entry("tree", "k", writer("new"), refresh=True)
    flip(second.path / "a", 0)
    third = Cache(tmp_path).entry("tree", "k", writer("newer"))
    assert (third.path / "a").read_text() == "newer" and not first.path.exists() and not second.path.exists()


def test_a_damaged_entry_that_a_build_reads_is_left_to_it(tmp_path: Path) -> None:
    reading, cache = Cache(tmp_path), Cache(tmp_path)
    made = reading.entry("tree", "k", fill_entry)
    (made.path / "strange").touch()
    again = cache.entry("tree", "k", fill_entry)
    assert again.path != made.path and (made.path / "tree.tar").exists()
    assert Cache(tmp_path).entry("tree", "k", fill_entry).path == again.path


def test_nobody_may_write_to_an_entry_and_whoever_reads_the_cache_may_read_it(tmp_path: Path) -> None:
    def make(work: Path) -> None:
        (work / "busybox").touch()
        (work / "busybox").chmod(0o755)

    entry = Cache(tmp_path).entry("kernel", "k", make)
    assert (entry.path / "busybox").stat().st_mode & 0o777 == 0o555
    assert (entry.path / ".rofs-seal").stat().st_mode & 0o777 == 0o444
    assert entry.path.stat().st_mode == entry.path.parent.stat().st_mode


def test_readers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    Cache(tmp_path).entry("tree", "k", fill_entry)
    with store.locked(tmp_path / "tree" / "k", fcntl.LOCK_SH):
        found: list[bool] = []
        reader = threading.Thread(target=lambda: found.append(Cache(tmp_path).entry("tree", "k", fill_entry).hit))
        reader.start()
        reader.join(60)
        assert found == [True]


def test_a_use_is_seen(tmp_path: Path) -> None:
    made = Cache(tmp_path).entry("tree", "k", fill_entry)
    os.utime(tmp_path / "tree" / "k", (5, 5))
    assert Cache(tmp_path).entry("tree", "k", fill_entry).created == made.created
    assert (tmp_path / "tree" / "k").stat().st_mtime > 5


# --- caches that cannot be written ------------------------------------------------------------------


@contextmanager
def nobody_at(directory: Path) -> Iterator[None]:
    """As a user who may only read; whoever runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that others than its owner can reach, as those of pytest's cannot be."""
    path = Path(tempfile.mkdtemp(prefix="rofs-test-"))
    path.chmod(0o755)
    yield path
    store.remove_tree(path)


def forbid_writing(root: Path) -> None:
    for at, _, _ in os.walk(root):
        Path(at).chmod(0o555)


def test_a_read_only_cache_gives_what_it_has_and_says_what_it_lacks(shared: Path) -> None:
    root = shared / "cache"
    made = Cache(root).entry("tree", "k", fill_entry)
    forbid_writing(root)
    with nobody_at(root):
        cache = Cache(root)
        assert cache.entry("tree", "k", fill_entry) == store.CacheEntry(made.path, made.created, True)
        for kind, key, refresh in (("tree", "other", False), ("kernel", "k", False), ("tree", "k", True)):
            with pytest.raises(
                SourceError, match=f"cache: the cache lacks the {kind} that is needed.*: Permission denied"
            ):
                cache.entry(kind, key, fill_entry, refresh=refresh)


def test_a_damaged_entry_of_a_read_only_cache_is_not_used(shared: Path) -> None:
    root, notes = shared / "cache", list[str]()
    made = Cache(root).entry("tree", "k", fill_entry)
    flip(made.path / "tree.tar", 77)
    forbid_writing(root)
    with nobody_at(root), pytest.raises(SourceError, match="cannot be written: Permission denied"):
        Cache(root, notes.append).entry("tree", "k", fill_entry)
    assert len(notes) == 1 and "tree.tar has other bytes" in notes[0]


MOUNTED = """
import sys
from pathlib import Path
from rofs.errors import SourceError
from rofs.store import Cache
cache, size = Cache(Path(sys.argv[1])), int(sys.argv[2])
print(cache.entry("tree", "small", lambda work: None).hit)
try:
    cache.entry("tree", "large", lambda work: (work / "tree.tar").write_bytes(bytes(size)))
except SourceError as error:
    print(error.exit_status, error)
print(sorted(path.name for path in (cache.root / "tree").rglob("*") if path.is_file()))
"""


def mounted(script: str, root: Path, size: int) -> list[str]:
    """What MOUNTED says in a mount namespace of its own that `script` has made ($1 is the cache)."""
    argv = ["unshare", "--mount", "sh", "-euc", script, "sh", str(root), sys.executable, MOUNTED, str(size)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return done.stdout.splitlines()


@pytest.mark.needs("root", "unshare", "mount")
def test_a_read_only_mount(tmp_path: Path) -> None:
    Cache(tmp_path).entry("tree", "small", lambda _: None)
    script = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; exec "$2" -c "$3" "$1" "$4"'
    hit, error, files = mounted(script, tmp_path, 1)
    assert (hit, files) == ("True", "['.rofs-seal']")
    assert error.startswith(f"3 {tmp_path}: the cache lacks the tree that is needed, and cannot be written: Read-only")


@pytest.mark.needs("root", "unshare", "mount")
def test_a_full_disk_leaves_nothing_half(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=1M none "$1"; exec "$2" -c "$3" "$1" "$4"'
    hit, error, files = mounted(script, tmp_path, 4 << 20)
    assert (hit, files) == ("False", "['.rofs-seal']")
    assert error.startswith(f"3 {tmp_path}: the cache lacks the tree") and "No space left on device" in error


def test_content_is_made_once_and_where_there_is_no_cache_each_time(tmp_path: Path) -> None:
    made: list[bytes] = []

    def make() -> bytes:
        made.append(b"x" * len(made))
        return made[-1]

    assert [Cache(tmp_path / "cache").content("initrd", "k", make) for _ in range(2)] == [b"", b""]
    (tmp_path / "file").touch()
    assert [Cache(tmp_path / "file").content("initrd", "k", make) for _ in range(2)] == [b"x", b"xx"]
    assert len(made) == 3
