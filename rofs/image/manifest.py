# SPDX-License-Identifier: MIT
"""Records of the image and hashes of the published files -> manifest.json: what went in and what came out.

The same build gives the same manifest: no time of day, no path of the host.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rofs.image.records import FileRecord, Records
from rofs.values import show

SCHEMA = "rofs/manifest/v1"
UNLISTED = ("manifest.json", "report.*", "*.log", "log/*", "logs/*")
"""What a published directory holds beside its outputs: these say how it went, and change from run to run."""


def hash_file(path: Path) -> str:
    """sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_outputs(directory: Path) -> dict[str, dict[str, Any]]:
    """Every output below a published directory, by its relative name -> size and sha256."""
    return {
        name: {"size": (directory / name).stat().st_size, "sha256": hash_file(directory / name)}
        for name in _output_names(directory)
    }


def _output_names(directory: Path) -> list[str]:
    names = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(name for name in names if not any(fnmatchcase(name, pattern) for pattern in UNLISTED))


def build_manifest(
    *,
    profile: str,
    architecture: str,
    epoch: int,
    verified: bool,
    reason: str,
    files: Iterable[FileRecord],
    outputs: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, Any],
    tools: Mapping[str, str],
) -> dict[str, Any]:
    """All of it as data for JSON, `files` to be iterated over.

    `reason` says why it is not verified; `tools` is name -> version.
    """
    return {
        "schema": SCHEMA,
        "profile": profile,
        "architecture": architecture,
        "source_date_epoch": epoch,
        "verified": verified,
        "reason": reason,
        "inputs": dict(inputs),
        "tools": dict(sorted(tools.items())),
        "outputs": {name: dict(outputs[name]) for name in sorted(outputs)},
        "files": _Files(files),
    }


def describe_files(files: Iterable[FileRecord]) -> list[dict[str, Any]]:
    """A tree as the manifest has it, sorted by path."""
    return list(_Files(files))


class _Files:
    """The same, each described only as it is asked for: a tree may have very many."""

    def __init__(self, files: Iterable[FileRecord]) -> None:
        self._records = files if isinstance(files, Records) else Records(files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(_file, self._records)


def _file(record: FileRecord) -> dict[str, Any]:
    """A record without what says nothing for its kind; the mode as chmod(1) takes it."""
    data: dict[str, Any] = {
        "path": record.path,
        "kind": record.kind,
        "mode": f"{record.mode:04o}",
        "uid": record.uid,
        "gid": record.gid,
        "mtime": record.mtime,
    }
    if record.sha256 is not None:
        data |= {"size": record.size, "sha256": record.sha256}
    optional = {
        "target": record.target,
        "rdev": record.rdev,
        "caps": record.caps,
        "xattrs": dict(record.xattrs),
    }
    return data | {key: value for key, value in optional.items() if value}


def tree_of(files: object) -> dict[str, dict[str, Any]]:
    """The manifest's `files` -> what is promised of each path, in a form that two trees can be compared by.

    Without the time; a hard link has the kind of its file, and all paths of one file the first of them as
    `same_file`. ValueError where this is no such list.
    """
    by_path: dict[str, dict[str, Any]] = {}
    for each in files if isinstance(files, list) else ():
        path = each.get("path") if isinstance(each, dict) else None
        if not isinstance(path, str) or path in by_path or not isinstance(each.get("kind"), str):
            raise ValueError(f"`files` has an entry without a kind or a path of its own: {show(each)}")
        by_path[path] = each
    if not by_path:
        raise ValueError("`files` lists none")
    groups: dict[str, list[str]] = {}
    for path, each in by_path.items():
        groups.setdefault(_carrier(each), []).append(path)
    if not groups.keys() <= by_path.keys():
        raise ValueError("`files` has a hard link to what it does not list")
    return {
        path: _promised(by_path[path], by_path[carrier], min(group) if len(group) > 1 else "")
        for carrier, group in groups.items()
        for path in group
    }


def _carrier(each: Mapping[str, Any]) -> str:
    return str(each.get("target") if each.get("kind") == "hardlink" else each["path"])


def _promised(each: Mapping[str, Any], carrier: Mapping[str, Any], same_file: str) -> dict[str, Any]:
    promised = {key: value for key, value in each.items() if key not in ("path", "kind", "target", "mtime")}
    promised |= {key: carrier[key] for key in ("kind", "target") if key in carrier}
    return promised | ({"same_file": same_file} if same_file else {})


def render_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The text of manifest.json."""
    return b"".join(_pieces(manifest))


def _pieces(manifest: Mapping[str, Any]) -> Iterator[bytes]:
    """JSON for people and diff(1), in pieces: indented, but one line for each file of the tree."""
    head = json.dumps({key: value for key, value in manifest.items() if key != "files"}, indent=2)
    yield (head.removesuffix("\n}") + ',\n  "files": [\n').encode()
    comma = ""
    for each in manifest["files"]:
        yield f"{comma}    {json.dumps(each)}".encode()
        comma = ",\n"
    yield b"\n  ]\n}\n"


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json, whose text may be large, piece by piece."""
    with path.open("wb") as file:
        file.writelines(_pieces(manifest))


def check_outputs(directory: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The names of outputs that differ from the manifest, are missing, or that it does not know; sorted."""
    said: Mapping[str, Mapping[str, Any]] = manifest["outputs"]
    there = set(_output_names(directory))
    wrong = there ^ set(said)
    wrong |= {name for name in there & set(said) if hash_file(directory / name) != said[name]["sha256"]}
    return sorted(wrong)
