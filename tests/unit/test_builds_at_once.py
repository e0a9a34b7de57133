# SPDX-License-Identifier: MIT
"""Eight builds at once on one empty cache: all right, and nothing made twice."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from killing import Watcher, read_image
from world import NEEDS, World, sha256

pytestmark = [pytest.mark.needs(*NEEDS), pytest.mark.slow]


def content(image: Path) -> dict[str, str]:
    """What is published, by name, but the logs."""
    return {path.name: sha256(path) for path in sorted(image.iterdir()) if path.is_file()}


def test_eight_builds_at_once(tmp_path: Path) -> None:
    """Two of one profile into one output, two into two; both architectures; different trees, and the same one."""
    world = World(tmp_path / "world")
    one, other, foreign = world.profile(1), world.profile(2), world.profile(1, arch="arm64")
    slow = world.profile(3, name="slow", level=15)
    rows = [
        (one, "a", "kills/amd64"), (one, "a", "kills/amd64"), (one, "b", "kills/amd64"), (one, "c", "kills/amd64"),
        (other, "d", "kills/amd64"), (foreign, "a", "kills/arm64"), (foreign, "d", "kills/arm64"),
        (slow, "a", "slow/amd64"),
    ]  # fmt: skip
    cache = world.root / "cache"
    with ExitStack() as stack:
        watchers = [
            stack.enter_context(Watcher(world.root / out / place)) for out, place in {(o, p) for _, o, p in rows}
        ]
        builds = [world.start(profile, output=world.root / out, cache=cache) for profile, out, _ in rows]
        said = [build.communicate(timeout=550)[1] for build in builds]
    assert [build.returncode for build in builds] == [0] * 8, said
    assert [watcher.wrong for watcher in watchers] == [[]] * len(watchers)
    made = Counter(world.made.read_text().splitlines())
    assert set(made.values()) == {1}
    kinds = Counter(line.partition("/")[0] for line in made)
    assert kinds == {"tree": 3, "resolution": 2, "kernel": 2, "initrd": 2, "sbom": 8}
    assert all(path.name == "1" for path in cache.glob("*/*/*") if path.parents[1].name in kinds)
    assert world.left_over(cache, *(world.root / out for out in "abcd")) == []
    alone: dict[Path, dict[str, str]] = {}
    for profile, out, place in rows:
        image = world.root / out / place
        if profile not in alone:
            lonely = world.root / "alone" / profile.stem
            done = world.build(profile, output=lonely, cache=world.root / "cold")
            assert done.returncode == 0, done.stderr
            alone[profile] = content(lonely / place)
        assert read_image(image)[1] == ""
        assert content(image) == alone[profile]


def test_what_one_architecture_published_is_said_where_the_other_fails(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    profile = world.profile(1)
    text = profile.read_text().replace("architectures: [amd64]", "architectures: [amd64, arm64]")
    text = text.replace("path: kills-1.tar", "path: {amd64: kills-1.tar, arm64: cut.tar}")
    profile.write_text(text.replace("image: Image.amd64", "image: {amd64: Image.amd64, arm64: Image.arm64}"))
    (world.root / "cut.tar").write_bytes((world.root / "kills-1.tar").read_bytes()[:100_000])
    done = world.build(profile)
    assert done.returncode == 3, done.stderr
    assert done.stdout == "" and "cut.tar" in done.stderr.splitlines()[-1]
    assert f"amd64: {world.output}/kills/amd64 is there, of this build" in done.stderr
    assert read_image(world.output / "kills/amd64")[1] == "" and not (world.output / "kills/arm64").exists()
