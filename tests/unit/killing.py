# SPDX-License-Identifier: MIT
"""Builds killed at random moments, and somebody who reads what is published all the while."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from world import World, sha256

GONE_S = 60.0
"""Longer than this nothing may take to end, on a host however busy."""
BEFORE, AFTER = "start", "not at all: it had ended"
INTERRUPTED = 130


class Watcher:
    """Reads a published directory again and again: `wrong` is what was not as its manifest says.

    A directory is opened once and read through its descriptor, so that all of it is one build's. What goes while it
    is read was replaced, and says nothing; but then another directory has to be in its place.
    """

    def __init__(self, dest: Path) -> None:
        self.dest, self.wrong, self.seen = dest, list[str](), Counter[str]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self.look()

    def look(self) -> None:
        """Once."""
        try:
            fd = os.open(self.dest, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            self.seen["absent"] += 1
            return
        try:
            what, wrong = read_image(Path(f"/proc/self/fd/{fd}"))
            if not wrong:
                self.seen[what] += 1
            elif self._is_there(fd):
                self.wrong.append(wrong)
        finally:
            os.close(fd)

    def _is_there(self, fd: int) -> bool:
        try:
            return self.dest.stat().st_ino == os.fstat(fd).st_ino
        except FileNotFoundError:
            return False


def read_image(directory: Path) -> tuple[str, str]:
    """An image directory -> the sha256 of the tar it is of, and what differs from its manifest, or ""."""
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        for name, said in manifest["outputs"].items():
            if sha256(directory / name) != said["sha256"]:
                return "", f"{name} is not the manifest's"
        return manifest["inputs"]["tar"]["sha256"], ""
    except (OSError, ValueError, LookupError) as error:
        return "", repr(error)


def processes_about(path: Path) -> list[str]:
    """Command lines of live processes that name `path` or work below it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):  # ended while we looked
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(path) in f"{words} {(entry / 'cwd').readlink()}":
                    found.append(words)
    return found


def mounts_below(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{path}/" in line]


def until_gone(path: Path) -> list[str]:
    """Wait for the processes about `path` to end -> those that do not."""
    deadline = time.monotonic() + GONE_S
    while left := processes_about(path):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return []


HOWS: dict[str, Callable[[subprocess.Popen[str]], None]] = {
    "SIGKILL, group": lambda build: os.killpg(build.pid, signal.SIGKILL),
    "SIGKILL, rofs": lambda build: build.kill(),
    "SIGTERM, rofs": lambda build: build.terminate(),
    "SIGINT, group": lambda build: os.killpg(build.pid, signal.SIGINT),
}


class Heard:
    """A running build, its words collected as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines, self.began = process, list[str](), time.monotonic()
        self.first = threading.Event()
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def _hear(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self.first.set()
        self.first.set()

    def ends_in(self, after_s: float) -> bool:
        """Whether it has ended by then."""
        try:
            self.process.wait(after_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def said(self) -> str:
        """All of it, once it has ended."""
        self._thread.join()
        self.process.communicate()
        return "".join(self.lines)


@dataclass
class Kills:
    """What became of the kills so far: by how it was killed, how many hit which step."""

    world: World
    rng: random.Random
    hits: dict[str, Counter[str]] = field(default_factory=lambda: {how: Counter() for how in HOWS})
    wrong: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    published: int = 0

    def run(self, rounds: int) -> None:
        """Kill builds of ever new versions, every third with an empty cache, every other once it has said a word."""
        dest, world = self.world.output / "kills" / "amd64", self.world
        lengths = [list(self._lengths(cold=cold)) for cold in (False, True)]
        old, wrong = read_image(dest)
        assert not wrong
        with Watcher(dest) as watcher:
            number = -1
            while self.landed < rounds:
                number += 1
                profile, cold, late = world.profile(10 + number), number % 3 == 2, number % 2
                new = sha256(world.root / f"kills-{10 + number}.tar")
                how = list(HOWS)[number // 2 % len(HOWS)]
                after_s, before = self.rng.uniform(0, lengths[cold][late] * 1.1), self.landed
                self._kill(how, profile, after_s, cold=cold, late=bool(late))
                if self.landed == before:  # the host has become quicker
                    lengths[cold][late] = min(lengths[cold][late], after_s)
                now, wrong = read_image(dest)
                if wrong or now not in (old, new):
                    self.wrong.append(f"{how}: {wrong or 'an image of neither version'}")
                self.published += now == new
                old = now
                self.wrong += [f"{how}: still runs: {words}" for words in until_gone(world.root)]
                self.wrong += [f"{how}: still mounted: {words}" for words in mounts_below(world.root)]
        self.wrong += watcher.wrong
        self.seen = watcher.seen

    @property
    def landed(self) -> int:
        """Kills of builds that had not ended."""
        return sum(hits.total() - hits[AFTER] for hits in self.hits.values())

    def _lengths(self, *, cold: bool) -> tuple[float, float]:
        """How long a build takes, in seconds: all of it, and from its first word on."""
        taken = []
        for number in (1, 2, 3):
            build = self._start(self.world.profile(number + 3 * cold), cold=cold)
            build.first.wait()
            first = time.monotonic()
            build.process.wait()
            taken.append((time.monotonic() - build.began, time.monotonic() - first))
            assert build.process.returncode == 0, build.said()
            build.said()
        whole, rest = (statistics.median(column) for column in zip(*taken[cold ^ 1 :], strict=True))
        return whole, rest

    def _start(self, profile: Path, *, cold: bool) -> Heard:
        """With the cache of all, or one that nobody has used."""
        number = sum(1 for _ in self.world.root.glob("cold-*"))
        cache = self.world.root / (f"cold-{number}" if cold else "cache")
        cache.mkdir(exist_ok=True)
        return Heard(self.world.start(profile, cache=cache))

    def _kill(self, how: str, profile: Path, after_s: float, *, cold: bool, late: bool) -> None:
        before = set(self.world.left_over(self.world.output))
        build = self._start(profile, cold=cold)
        if late:
            build.first.wait()
        if build.ends_in(after_s):
            self.hits[how][AFTER] += 1
            return self._check_words(how, build.said())
        HOWS[how](build.process)
        if not build.ends_in(GONE_S):
            self.wrong.append(f"{how}: has not ended after {GONE_S} s")
            build.process.kill()
        said = build.said()
        self.hits[how][self._step(said)] += 1
        if build.process.returncode == INTERRUPTED and (left := set(self.world.left_over(self.world.output)) - before):
            self.wrong.append(f"{how}: left {left}:\n{said}")
        return self._check_words(how, said)

    def _check_words(self, how: str, said: str) -> None:
        """Python alone may speak of a signal before rofs has begun."""
        if "Traceback" in said and self._step(said) != BEFORE:
            self.wrong.append(f"{how}: {said}")

    def _step(self, said: str) -> str:
        """The step that its last lines tell; behind the last one, what was in the workspace."""
        label = BEFORE
        for line in said.splitlines():
            step = line.partition("amd64: ")[2]
            if step.endswith(" ..."):
                label = step.removesuffix(" ...")
            elif ": done (" in step:
                label = f"after {step.partition(': done (')[0]}"
        words = label.replace("kills-", "").split(" (")[0]
        if words != "after squashfs":
            return "".join(c for c in words if not c.isdigit()).replace("after .tar", "after the tar").strip()
        inside = {path.name for path in self.world.output.glob("*/.rofs-work-*/image/*")}
        for name, step in (("manifest.json", "publishing"), ("promises.json", "manifest and SBOMs")):
            if name in inside:
                return step
        return "texts" if inside else "published or just before the end"

    def table(self) -> str:
        """A row a step, a column a way to kill."""
        steps = sorted({step for hits in self.hits.values() for step in hits})
        width = max(map(len, steps))
        lines = [f"{'killed in':{width}} {' '.join(f'{how:>14}' for how in HOWS)}"]
        lines += [f"{step:{width}} {' '.join(f'{self.hits[how][step]:14}' for how in HOWS)}" for step in steps]
        return "\n".join(lines)
