# SPDX-License-Identifier: MIT
"""Builds killed at random moments: the published directory is at every moment absent, the old or the new one.

`ROFS_KILLS=100` asks for as many kills (`make kills`).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from killing import Kills
from world import NEEDS, World

pytestmark = [pytest.mark.needs(*NEEDS), pytest.mark.slow]
KILLS = int(os.environ.get("ROFS_KILLS", "15"))


def test_kills_at_random_moments_then_a_good_build(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    kills = Kills(World(tmp_path / "world"), random.Random(seed))
    kills.run(KILLS)
    print(f"\n{kills.table()}\npublished nevertheless: {kills.published}, seed {seed}, seen {kills.seen.total()} times")  # noqa: T201
    assert kills.wrong == []
    hit = {step for hits in kills.hits.values() for step in hits}
    assert len(hit) >= 3, "the kills all came at one moment"
    world = kills.world
    assert kills.seen["absent"] == 0 and len(kills.seen) > 1
    for cache in (world.root / "cache", *sorted(world.root.glob("cold-*"))):
        done = world.build(world.profile(9), cache=cache)
        assert done.returncode == 0, done.stderr
        assert world.left_over(world.output, cache) == []
    assert [path.name for path in (world.output / "kills").iterdir()] == ["amd64"]
