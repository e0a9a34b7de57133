# SPDX-License-Identifier: MIT
"""A tar of ours -> a list of its members beside it, so that reading them again takes a fraction of reading its headers.

The list is made by `tarmembers`, with all its checks, where a tar is put into the cache, and is part of that entry. A
tar without one is read itself. Nothing but rofs writes there: of a tar that a user names only the copy is listed.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rofs.tarmembers import iter_members

FORMAT = "rofs/tar/v1"
_FIELDS = ("name", "mode", "uid", "gid", "size", "mtime", "linkname", "devmajor", "devminor", "offset", "offset_data")


def index_path(tar: Path) -> Path:
    """Where the list of a tar is."""
    return tar.with_name(f"{tar.name}.members")


def write_index(tar: Path) -> None:
    """List the members of `tar`, which will not change; ImageError where it cannot be read."""
    size_bytes = tar.stat().st_size
    with index_path(tar).open("w", encoding="ascii") as out:
        for row in ([FORMAT, size_bytes], *(_row(archive, info) for archive, info in iter_members(tar))):
            out.write(json.dumps(row, separators=(",", ":")) + "\n")


def _row(archive: tarfile.TarFile, info: tarfile.TarInfo) -> list[Any]:
    more = [info.type.decode("latin-1"), archive.offset, info.sparse, info.pax_headers, archive.pax_headers]
    return [*(getattr(info, name) for name in _FIELDS), *more]


def list_members(tar: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """What `iter_members` gives, by the list where there is one."""
    try:
        lines = index_path(tar).open(encoding="ascii")
    except FileNotFoundError:
        yield from iter_members(tar)
        return
    with lines, tar.open("rb") as raw:
        if json.loads(next(lines, "null")) != [FORMAT, tar.stat().st_size]:
            yield from iter_members(tar)
            return
        archive = _archive(raw)
        for line in lines:
            yield archive, _take(json.loads(line), archive)


def _archive(raw: io.BufferedReader) -> tarfile.TarFile:
    """A reader of contents, which has read no header."""
    archive = tarfile.TarFile(fileobj=io.BytesIO(bytes(2 * tarfile.BLOCKSIZE)))
    archive.fileobj = raw
    return archive


def _take(row: list[Any], archive: tarfile.TarFile) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    (
        info.name, info.mode, info.uid, info.gid, info.size, info.mtime, info.linkname, info.devmajor, info.devminor,
        info.offset, info.offset_data, kind, archive.offset, sparse, info.pax_headers, archive.pax_headers,
    ) = row  # fmt: skip
    info.type = kind.encode("latin-1")
    info.sparse = None if sparse is None else [(at, size) for at, size in sparse]  # type: ignore[assignment]
    return info
