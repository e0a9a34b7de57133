# SPDX-License-Identifier: MIT
"""Manifest and packages -> the bills of materials of an image, SPDX and CycloneDX, the same bytes each time.

Both libraries are loaded only where a document is rendered: they take longer to import than all of rofs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rofs.sbom.cyclonedx import render_cyclonedx
from rofs.sbom.inventory import SBOM_NAMES, Inventory, take_inventory
from rofs.sbom.spdx import render_spdx
from rofs.sources.dpkg import PackageFacts


def render_sboms(inventory: Inventory) -> dict[str, bytes]:
    """File name -> document."""
    return dict(zip(SBOM_NAMES, (render_spdx(inventory), render_cyclonedx(inventory)), strict=True))


def write_sboms(
    image: Path,
    manifest: Mapping[str, Any],
    packages: Sequence[PackageFacts],
    generated: Mapping[str, bytes],
    *,
    os_release: bytes = b"",
    suite: str = "",
) -> tuple[Path, ...]:
    """Write both into the directory `image`, and say where; the arguments are those of `take_inventory`."""
    inventory = take_inventory(manifest, packages, generated, os_release=os_release, suite=suite)
    documents = render_sboms(inventory)
    for name, document in documents.items():
        (image / name).write_bytes(document)
    return tuple(image / name for name in documents)
