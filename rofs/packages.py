# SPDX-License-Identifier: MIT
"""One Debian package by what it is: the value that resolving gives, a lock holds and the store keeps.

Nothing in it says where it came from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Package:
    """A .deb. `sha256` in lower-case hexadecimal, `size` in bytes; both of the whole file."""

    name: str
    version: str
    architecture: str
    size: int
    sha256: str


Deb = tuple[Package, Path]
"""A package and its file."""


def sort_packages(packages: Iterable[Package]) -> tuple[Package, ...]:
    """In the order of a lock."""
    return tuple(sorted(packages))
