# SPDX-License-Identifier: MIT
"""Manifest and packages -> the bills of materials of an image, SPDX and CycloneDX, the same bytes each time.

Both libraries are loaded only where a document is rendered: they take longer to import than all of rofs. What they
render is kept (`template`), so a rebuild does without them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rofs.sbom.cyclonedx import render_cyclonedx
from rofs.sbom.inventory import SBOM_NAMES, Inventory, take_inventory
from rofs.sbom.spdx import render_spdx
from rofs.sbom.template import fill, make_blank
from rofs.sources.dpkg import PackageFacts
from rofs.store import Cache

LIBRARIES = ("cyclonedx-python-lib", "spdx-tools", "packageurl-python")


def render_sboms(inventory: Inventory, cache: Cache | None = None) -> dict[str, bytes]:
    """File name -> document. With a `cache` what was rendered before is taken from it, to the same bytes."""
    blank, values = make_blank(inventory)
    rendered = {}
    for name, render in zip(SBOM_NAMES, (render_spdx, render_cyclonedx), strict=True):
        make = partial(render, blank)
        document = make() if cache is None else cache.content("sbom", _key(name, blank), make)
        rendered[name] = fill(document, values)
    return rendered


def _key(name: str, blank: Inventory) -> str:
    """Of all that makes a document: the inventory, this package's code, and the libraries."""
    from importlib.metadata import version

    code = [path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    parts = [name, asdict(blank), code, [version(library) for library in LIBRARIES]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_sboms(
    image: Path,
    manifest: Mapping[str, Any],
    packages: Sequence[PackageFacts],
    generated: Mapping[str, bytes],
    *,
    os_release: bytes = b"",
    suite: str = "",
    cache: Cache | None = None,
) -> tuple[Path, ...]:
    """Write both into the directory `image`, and say where; the arguments are those of `take_inventory`."""
    inventory = take_inventory(manifest, packages, generated, os_release=os_release, suite=suite)
    documents = render_sboms(inventory, cache)
    for name, document in documents.items():
        (image / name).write_bytes(document)
    return tuple(image / name for name in documents)
