# SPDX-License-Identifier: MIT
"""A listed tar is read as one that is not: the same members, contents and refusals."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tarmaker import device, file, folder, hardlink, raw_pax, symlink, write_tar

from rofs import tarindex
from rofs.errors import ImageError
from rofs.tarindex import index_path, list_members, write_index
from rofs.tarmembers import iter_members, read_content

ROWS = (
    folder("./etc", 0o750, uid=3, gid=4),
    file("etc/os-release", b"ID=x\n", mode=0o4755, mtime=7),
    file("bad-\udcff-name", b"bytes"),
    file("caps", b"c", pax={"SCHILY.xattr.security.capability": raw_pax(bytes(range(20)))}),
    symlink("etc/link", "../caps"),
    hardlink("again", "caps"),
    device("tty", tarfile.CHRTYPE, 5, 1),
    file("big", bytes(100_000)),
)


def seen(tar: Path, reader: Any) -> list[tuple[Any, ...]]:
    """All that a member says, what is in it, and where it ends."""
    found = []
    for archive, info in reader(tar):
        content = read_content(archive, info) if info.isreg() else None
        about = {name: getattr(info, name) for name in (*tarindex._FIELDS, "type", "sparse", "pax_headers")}
        head = archive.extractfile(info).read(4) if info.isreg() else None
        found.append((about, content, head, archive.offset, dict(archive.pax_headers)))
    return found


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_the_members_are_the_same(tmp_path: Path, form: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "t.tar", *ROWS, form=form)
    plain = seen(tar, iter_members)
    assert seen(tar, list_members) == plain and len(plain) == len(ROWS)
    write_index(tar)
    monkeypatch.setattr(tarindex, "iter_members", None)
    assert seen(tar, list_members) == plain


def test_global_headers_and_holes(tmp_path: Path) -> None:
    tar = tmp_path / "t.tar"
    with tarfile.open(tar, "w", pax_headers={"comment": "all of them"}) as archive:
        archive.addfile(tarfile.TarInfo("one"))
        info = tarfile.TarInfo("holes")
        info.pax_headers = {
            "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "holes", "GNU.sparse.size": "4096",
            "GNU.sparse.numblocks": "1", "GNU.sparse.map": "1024,512",
        }  # fmt: skip
        info.size = 512
        archive.addfile(info, io.BytesIO(b"x" * 512))
    plain = seen(tar, iter_members)
    assert plain[1][0]["sparse"] == [(1024, 512)] and plain[1][1] == bytes(1024) + b"x" * 512 + bytes(2560)
    write_index(tar)
    assert seen(tar, list_members) == plain


def test_a_list_of_another_tar_does_not_count(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "t.tar", *ROWS)
    write_index(tar)
    write_tar(tar, file("one", bytes(50_000)))
    assert [about["name"] for about, *_ in seen(tar, list_members)] == ["one"]
    index_path(tar).write_text("")
    assert [about["name"] for about, *_ in seen(tar, list_members)] == ["one"]


def test_what_cannot_be_read_is_not_listed(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "t.tar", *ROWS)
    tar.write_bytes(tar.read_bytes()[:50_000])
    with pytest.raises(ImageError, match=r"t\.tar: "):
        write_index(tar)
