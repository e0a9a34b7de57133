# SPDX-License-Identifier: MIT
"""One generated path of the image: what the generators make and the image writer merges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, directory or symbolic link that rofs puts into the tree.

    `mode` is the permission bits, `uid` and `gid` are numbers. `content` is for files, `target` for
    links. `why` names the key of the profile or the rule that asked for it; it is for people.
    """

    path: PurePosixPath
    kind: Literal["file", "dir", "symlink"]
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    content: bytes = b""
    target: str = ""
    why: str = ""
