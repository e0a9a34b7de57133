# SPDX-License-Identifier: MIT
"""The manifest as data and as text, and a published directory against it."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rofs.image.manifest import build_manifest, check_outputs, hash_outputs, render_manifest, write_manifest
from rofs.image.records import FileRecord

RECORDS = [
    FileRecord(path="/usr/bin/ping", kind="file", mode=0o4755, uid=0, gid=0, size=3, mtime=9, sha256="ab" * 32,
               xattrs={"user.a": "00"}, caps="cap_net_raw=ep"),
    FileRecord(path="/", kind="dir", mode=0o755, uid=0, gid=0, size=0, mtime=9),
    FileRecord(path="/dev/null", kind="char", mode=0o666, uid=0, gid=0, size=0, mtime=9, rdev="1:3"),
    FileRecord(path="/" + os.fsdecode(b"b\xe9"), kind="symlink", mode=0o777, uid=0, gid=0, size=0, mtime=9,
               target="x"),
]  # fmt: skip


@pytest.fixture
def published(tmp_path: Path) -> Path:
    directory = tmp_path / "arm64"
    for name in (
        "rootfs.squashfs",
        "units/var.mount",
        "manifest.json",
        "report.json",
        "log/build.log",
        "boot.log",
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    return directory


def manifest(published: Path) -> dict[str, Any]:
    return build_manifest(
        profile="minimal",
        architecture="arm64",
        epoch=7,
        verified=False,
        reason="--no-verify",
        files=RECORDS,
        outputs=hash_outputs(published),
        inputs={"profile": {"file": "minimal.yaml", "sha256": "cd"}},
        tools={"tar2sqfs": "1.2.0", "mmdebstrap": "1.3.5"},
    )


def test_what_it_says(published: Path) -> None:
    said = manifest(published)
    assert list(said["outputs"]) == ["rootfs.squashfs", "units/var.mount"]
    assert said["outputs"]["rootfs.squashfs"]["size"] == 15
    assert list(said["tools"]) == ["mmdebstrap", "tar2sqfs"]
    assert [each["path"] for each in said["files"]] == sorted(record.path for record in RECORDS)
    by_path = {each["path"]: each for each in said["files"]}
    assert by_path["/"] == {"path": "/", "kind": "dir", "mode": "0755", "uid": 0, "gid": 0, "mtime": 9}
    assert by_path["/usr/bin/ping"] == {
        "path": "/usr/bin/ping", "kind": "file", "mode": "4755", "uid": 0, "gid": 0, "mtime": 9,
        "size": 3, "sha256": "ab" * 32, "caps": "cap_net_raw=ep", "xattrs": {"user.a": "00"},
    }  # fmt: skip
    assert (by_path["/dev/null"]["rdev"], said["verified"], said["reason"]) == ("1:3", False, "--no-verify")


def test_the_text(published: Path) -> None:
    text = render_manifest(manifest(published))
    said = manifest(published)
    assert json.loads(text) == {**said, "files": list(said["files"])}
    assert text == render_manifest(manifest(published)) and text.endswith(b"}\n")
    lines = text.decode().splitlines()
    assert sum('"path": "/' in line for line in lines) == len(RECORDS), "one line for each file"
    assert str(published.parent) not in text.decode()
    assert json.loads(render_manifest({**manifest(published), "files": []}))["files"] == []


def test_a_tree_of_very_many_is_written_piece_by_piece(tmp_path: Path) -> None:
    """Of the text no more is held than of a few files at once."""
    count = 20_000
    records = [replace(RECORDS[0], path=f"/f{number:05}") for number in range(count)]
    said = build_manifest(
        profile="many", architecture="amd64", epoch=0, verified=False, reason="", files=records, outputs={},
        inputs={}, tools={},
    )  # fmt: skip
    tracemalloc.start()
    try:
        write_manifest(tmp_path / "manifest.json", said)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "manifest.json").stat().st_size > 100 * count
    assert peak < 10 * count
    assert (tmp_path / "manifest.json").read_bytes() == render_manifest(said)


def test_outputs_that_differ_are_missing_or_unknown(published: Path) -> None:
    said = json.loads(render_manifest(manifest(published)))
    assert check_outputs(published, said) == []
    (published / "report.json").write_text("another run")
    assert check_outputs(published, said) == []
    (published / "units/var.mount").write_text("changed")
    (published / "rootfs.squashfs").unlink()
    (published / "extra").touch()
    assert check_outputs(published, said) == ["extra", "rootfs.squashfs", "units/var.mount"]
