# SPDX-License-Identifier: MIT
"""A number of files -> a tar of a tree of that many small ones, the same bytes each time.

`python tests/bench/bigtree.py OUT.tar [--files N]`. Like the modules of a web application: files of 0 to 4 KiB,
mostly text, some of it incompressible, every eighth with the content of one before it, in directories of some 50.
Beside them are the few paths without which no image would be built: the accounts and an init.
"""

from __future__ import annotations

import argparse
import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

EPOCH = 1_600_000_000
FILES = 200_000
PER_DIRECTORY = 50
MAX_BYTES = 4096
_KEPT = 1024
"""Contents that may come again."""
_BASE = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": b"root:x:0:\n",
    "sbin/init": b"#!/bin/sh\n",
    "bin/sh": b"",
}


def contents(count: int) -> Iterator[bytes]:
    """`count` files' contents."""
    chance = random.Random(6)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(chance.choices(letters, range(26, 0, -1), k=chance.randint(2, 11))) for _ in range(20_000)]
    weights = [1 / (rank + 8) for rank in range(len(words))]
    text = "".join(
        word + chance.choice((" ", " ", " ", "(", ");\n", " = ", ".", ",\n    ", "\n"))
        for word in chance.choices(words, weights, k=1_500_000)
    ).encode()
    kept: list[bytes] = []
    for number in range(count):
        size = chance.randint(0, MAX_BYTES)
        if number % 8 == 7:
            yield chance.choice(kept)
            continue
        if number % 16 == 0:
            content = chance.randbytes(size)
        else:
            at, half = chance.randrange(len(text) - size), size // 2
            other = chance.randrange(len(text) - size)
            content = text[at : at + half] + text[other : other + size - half]
        if len(kept) < _KEPT:
            kept.append(content)
        else:
            kept[chance.randrange(_KEPT)] = content
        yield content


def path_of(number: int) -> str:
    """Of a file: three levels of directories below usr/share/many."""
    folder = number // PER_DIRECTORY
    return f"usr/share/many/module-{folder // 100:03}/part-{folder // 10:04}/lib{folder % 10}/source-{number:06}.js"


def write_tar(out: Path, count: int = FILES) -> None:
    """Write the tar, in ustar, directories before what is in them."""
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        made: set[str] = set()
        for name, content in _BASE.items():
            _add(tar, made, name, content, 0o755 if "bin/" in name else 0o644)
        for number, content in enumerate(contents(count)):
            _add(tar, made, path_of(number), content, 0o644)


def _add(tar: tarfile.TarFile, made: set[str], name: str, content: bytes, mode: int) -> None:
    parts = name.split("/")
    for depth in range(1, len(parts)):
        above = "/".join(parts[:depth])
        if above not in made:
            made.add(above)
            tar.addfile(_member(above, 0o755, tarfile.DIRTYPE))
    info = _member(name, mode, tarfile.REGTYPE)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _member(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, EPOCH
    return info


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--files", type=int, default=FILES)
    asked = parser.parse_args()
    write_tar(asked.out, asked.files)
