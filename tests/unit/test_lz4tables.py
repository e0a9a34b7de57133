# SPDX-License-Identifier: MIT
"""lz4 blocks written down by hand; real images are in test_squashfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rofs.image.lz4tables import decompress, unexpand_tables


@pytest.mark.parametrize(
    ("block", "plain"),
    [
        ("4000000000", bytes(4)),
        ("00", b""),
        ("1f61 0100 0550 6263646566".replace(" ", ""), b"a" + b"a" * 24 + b"bcdef"),
        ("f003" + "00" * 18, bytes(18)),
        ("4261626364 0400 10 78".replace(" ", ""), b"abcd" + b"abcdab" + b"x"),
    ],
)
def test_decompress(block: str, plain: bytes) -> None:
    assert decompress(bytes.fromhex(block)) == plain


def test_an_image_of_another_compressor_is_left_alone(tmp_path: Path) -> None:
    image = tmp_path / "o"
    image.write_bytes(b"hsqs" + bytes(16) + b"\6\0" + bytes(100))
    before = image.read_bytes()
    assert unexpand_tables(image) == 0 and image.read_bytes() == before
