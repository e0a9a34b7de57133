# SPDX-License-Identifier: MIT
"""Records held by column are the records that were put there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rofs.image.records import FileRecord, Records

FILE = FileRecord(path="/b", kind="file", mode=0o644, uid=1, gid=2, size=7, mtime=9, sha256="0f" * 32)
ALL = [
    FileRecord(path="/", kind="dir", mode=0o755, uid=0, gid=0, size=0, mtime=9),
    FILE,
    replace(FILE, path="/a", kind="hardlink", target="/b"),
    replace(
        FILE, path="/c", sha256="f0" * 32, size=1 << 40, caps="cap_net_raw=ep", xattrs={"user.z": "00", "user.a": ""}
    ),
    FileRecord(path="/d", kind="char", mode=0o600, uid=0, gid=5, size=0, mtime=9, rdev="1:3"),
    FileRecord(path="/e\udcff", kind="symlink", mode=0o777, uid=0, gid=0, size=0, mtime=-1, target="b"),
]


def test_what_comes_back_is_what_was_put_there_by_path() -> None:
    records = Records(ALL[3:])
    records.extend(ALL[:3])
    assert len(records) == len(ALL)
    assert list(records) == sorted(ALL, key=lambda record: record.path)
    assert list(records) == list(records), "more than once"


def test_very_many_come_in_order_too() -> None:
    paths = [f"/{number * 7919 % 10_007}" for number in range(10_007)]
    assert [record.path for record in Records(replace(FILE, path=path) for path in paths)] == sorted(paths)


@pytest.mark.parametrize("wrong", ["", "ab", "0f" * 33])
def test_no_hash_that_would_move_the_others(wrong: str) -> None:
    with pytest.raises(ValueError, match="/b: no sha256"):
        Records([replace(FILE, sha256=wrong)])
