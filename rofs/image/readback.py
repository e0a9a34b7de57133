# SPDX-License-Identifier: MIT
"""A squashfs -> records of the tree in it, in the manifest's form, with the hashes of what it really holds.

Through sqfs2tar and a pipe: no privilege, no scratch tree, and of the contents one piece at a time. The
squashfs may be anything: what is wrong with it is an ImageError, and its size in memory is bounded.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rofs.errors import ImageError
from rofs.image.records import FileRecord
from rofs.image.tarstream import caps_text
from rofs.run import run
from rofs.tarmembers import Pipe, decode_xattrs, iter_stream, read_pieces
from rofs.treefacts import Kind, member_kind, member_path
from rofs.values import show

TIMEOUT_S = 600
"""A tree of 200 MB takes two seconds; shared machines have been seen ten times slower."""
MOST_NAMES_BYTES = 256 << 20
"""Of all paths, targets and attributes together, which are held at once."""

OnHead = Callable[[str, bytes], None]
"""Gets a file's path and its first MiB at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a tree may hold."""

    paths: int
    content_bytes: int


def read_squashfs(squashfs: Path, limits: Limits, on_head: OnHead, *, log: Path | None = None) -> list[FileRecord]:
    """Every path once, in the order of the names; of hard links the first carries the content.

    ImageError where it is no squashfs, or not whole, or holds more than `limits`; ToolError where
    sqfs2tar cannot run or does not end.
    """
    records: list[FileRecord] = []
    failures: list[BaseException] = []
    reading, writing = os.pipe()
    pipe = Pipe(reading)

    def work() -> None:
        try:
            records.extend(_records(pipe, squashfs.name, limits, on_head))
        except BaseException as error:  # noqa: BLE001 -- raised again in the caller's thread
            failures.append(error)
        finally:
            os.close(reading)  # a writer that nobody reads from gets EPIPE

    with _thread(work, writing):
        result = run(
            ["sqfs2tar", "--no-skip", "--root-becomes", ".", squashfs],
            stdout=writing, log=log, timeout_s=TIMEOUT_S, ok=range(256),
        )  # fmt: skip
    if result.status and (pipe.ended or not failures):  # what the reader saw then is only its consequence
        words = result.stderr_tail.strip().splitlines()[-1:] or [f"exit status {result.status}"]
        raise ImageError(f"{squashfs.name}: {words[0]}")
    if failures:
        raise failures[0]
    return records


@contextmanager
def _thread(work: Callable[[], None], writing: int) -> Iterator[None]:
    """`work` runs beside the body, and gets the end of what it reads when that is done."""
    thread = threading.Thread(target=work, name="readback", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(writing)
        thread.join()


def _records(pipe: Pipe, name: str, limits: Limits, on_head: OnHead) -> Iterator[FileRecord]:
    seen: dict[str, FileRecord] = {}
    content_bytes = names_bytes = 0
    for archive, info in iter_stream(pipe, name):
        path, kind = member_path(Path(name), info.name), member_kind(Path(name), info)
        if path in seen:
            raise ImageError(f"{name}: {show(path)} is there twice")
        content_bytes += info.size
        names_bytes += len(path) + len(info.linkname) + sum(map(len, info.pax_headers.values()))
        if len(seen) >= limits.paths or content_bytes > limits.content_bytes or names_bytes > MOST_NAMES_BYTES:
            raise ImageError(f"{name}: holds far more than it should: {len(seen)} paths, and it goes on")
        if kind == "hardlink":
            record = _link(path, seen.get(member_path(Path(name), info.linkname)), name)
        else:
            record = _record(path, kind, info, _hash(archive, info, path, on_head) if kind == "file" else None)
        seen[path] = record
        yield record


def _hash(archive: tarfile.TarFile, info: tarfile.TarInfo, path: str, on_head: OnHead) -> str:
    sha256 = hashlib.sha256()
    head: bytes | None = None
    for piece in read_pieces(archive, info):
        head = piece if head is None else head
        sha256.update(piece)
    on_head(path, head or b"")
    return sha256.hexdigest()


def _link(path: str, first: FileRecord | None, name: str) -> FileRecord:
    if first is None:
        raise ImageError(f"{name}: {show(path)} is a link to what is not there")
    return replace(first, path=path, kind="hardlink", target=first.path)


def _record(path: str, kind: Kind, info: tarfile.TarInfo, sha256: str | None) -> FileRecord:
    xattrs = decode_xattrs(info.pax_headers)
    caps = xattrs.get("security.capability")
    return FileRecord(
        path=path,
        kind=kind,
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        size=info.size if kind == "file" else 0,
        mtime=int(info.mtime),
        sha256=sha256,
        target=info.linkname if kind == "symlink" else "",
        xattrs={key: value.hex() for key, value in sorted(xattrs.items())},
        caps=caps_text(caps) if caps is not None else "",
        rdev=f"{info.devmajor}:{info.devminor}" if kind in ("char", "block") else "",
    )
