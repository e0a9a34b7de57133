# SPDX-License-Identifier: MIT
"""The short way through headers that nearly every tar has gives what `tarfile` gives."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rofs import tarmembers
from rofs.errors import ImageError
from rofs.tarmembers import iter_members

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
FIELDS = (
    *("name", "mode", "uid", "gid", "size", "mtime", "type", "linkname", "devmajor", "devminor"),
    *("offset", "offset_data", "pax_headers", "sparse"),
)


def read(tar: Path) -> list[tuple[Any, ...]] | str:
    """All that callers look at, or the error."""
    try:
        return [
            (*(getattr(info, field) for field in FIELDS), archive.offset, dict(archive.pax_headers))
            for archive, info in iter_members(tar)
        ]
    except ImageError as error:
        return str(error)


def both(tar: Path) -> tuple[list[tuple[Any, ...]] | str, list[tuple[Any, ...]] | str, int]:
    """Read with the short way and without, and how often the short way was taken."""
    taken = 0

    def counted(*arguments: Any) -> tarfile.TarInfo | None:
        nonlocal taken
        info = short(*arguments)
        taken += info is not None
        return info

    short = tarmembers._read_plain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarmembers, "_read_plain", counted)
        fast = read(tar)
        patch.setattr(tarmembers, "_read_plain", lambda *_: None)
        return fast, read(tar), taken


def make(tar: Path, form: int) -> None:
    """Members of every kind."""
    with tarfile.open(tar, "w", format=form) as archive:
        for name, kind, size, link in (
            (".", tarfile.DIRTYPE, 0, ""),
            ("a", tarfile.DIRTYPE, 0, ""),
            ("a/file", tarfile.REGTYPE, 700, ""),
            ("a/empty", tarfile.REGTYPE, 0, ""),
            ("a/" + "n" * 90 + "/" + "m" * 80, tarfile.REGTYPE, 512, ""),
            ("a/ümläut", tarfile.REGTYPE, 3, ""),
            ("a/hard", tarfile.LNKTYPE, 0, "a/file"),
            ("a/soft", tarfile.SYMTYPE, 0, "../" + "x" * 97),
            ("a/device", tarfile.CHRTYPE, 0, ""),
            ("a/fifo", tarfile.FIFOTYPE, 0, ""),
            ("a/last", tarfile.REGTYPE, 1, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.mtime, info.uid = kind, size, link, 1_600_000_000, 1000
            info.uname, info.devmajor = "someone", 1 if kind == tarfile.CHRTYPE else 0
            archive.addfile(info, io.BytesIO(bytes(size)))


@pytest.mark.parametrize("form", FORMATS)
def test_the_short_way_gives_the_same_members(tmp_path: Path, form: int) -> None:
    make(tmp_path / "tar", form)
    fast, slow, taken = both(tmp_path / "tar")
    assert fast == slow
    assert len(fast) == 11
    assert taken >= 5


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_seen_as_by_the_long_way(tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes of a header may be other ones, with a checksum that agrees or not."""
    tar = tmp_path / "tar"
    make(tar, data.draw(st.sampled_from(FORMATS[:2])))
    raw = bytearray(tar.read_bytes())
    at = data.draw(st.sampled_from([i for i in range(0, len(raw), 512) if raw[i + 257 : i + 262] == b"ustar"]))
    block = raw[at : at + 512]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 511) | st.sampled_from((0, 107, 124, 135, 148, 155, 156, 157, 257, 329, 345)))
        block[place] = data.draw(st.integers(0, 255) | st.sampled_from(b"\0 0157/9-\x80\xff"))
    if data.draw(st.booleans()):
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]))
    raw[at : at + 512] = block
    tar.write_bytes(raw)
    fast, slow, _ = both(tar)
    assert fast == slow


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE])
def test_a_size_of_what_has_no_content_is_damage(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("b")
    info.type, info.linkname, info.size = kind, "a", 512
    first, last = tarfile.TarInfo("a"), tarfile.TarInfo("c")
    headers = [each.tobuf(tarfile.USTAR_FORMAT) for each in (first, info, last)]
    (tmp_path / "tar").write_bytes(b"".join(headers) + bytes(1024))
    fast, slow, _ = both(tmp_path / "tar")
    assert fast == slow
    assert "has the size 512" in str(fast)


def test_the_short_way_is_not_for_a_tar_with_global_records(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as archive:
        for name in "abc":
            archive.addfile(tarfile.TarInfo(name))
    fast, slow, taken = both(tmp_path / "tar")
    assert fast == slow
    assert taken == 0


@pytest.mark.parametrize("lost", [1, 512, 1024, 1536])
def test_a_tar_cut_short_is_refused(tmp_path: Path, lost: int) -> None:
    tar = tmp_path / "tar"
    make(tar, tarfile.USTAR_FORMAT)
    with tarfile.open(tar) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    tar.write_bytes(tar.read_bytes()[: end - lost])
    fast, slow, _ = both(tar)
    assert fast == slow
    assert isinstance(fast, str)
