# SPDX-License-Identifier: MIT
"""`python offline.py SOURCES MADE VERB ...`: rofs with the apt sources in the file SOURCES for those of the host.

Each key of the cache that is made, and not found, is a line of the file MADE: "kind/key".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from rofs import cli, fetch
from rofs.store import Cache, CacheEntry

SOURCES, MADE = (Path(word) for word in sys.argv[1:3])
ENTRY = Cache.entry


def entry(self: Cache, kind: str, key: str, make: Callable[[Path], None], *more: object, **named: object) -> CacheEntry:
    """As it is, with a word to `MADE`."""

    def told(directory: Path) -> None:
        fd = os.open(MADE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(fd, f"{kind}/{key}\n".encode())
        os.close(fd)
        make(directory)

    return ENTRY(self, kind, key, told, *more, **named)  # type: ignore[arg-type]


if __name__ == "__main__":
    setattr(fetch, "find_host_sources", lambda _: SOURCES.read_bytes())  # noqa: B010 -- not fetch's own name
    Cache.entry = entry  # type: ignore[method-assign]
    cli.main(sys.argv[3:])
