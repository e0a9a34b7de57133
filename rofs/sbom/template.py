# SPDX-License-Identifier: MIT
"""Inventory -> an inventory whose hashes are blanks, and what they stand for: all that a small change changes.

Rendering takes longer than the rest of a rebuild. So it is the blank inventory that is rendered, always, and its
documents are kept; the values are put into them afterwards. Equal hashes have the same blank.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from rofs.sbom.inventory import SBOM_FORMS, Inventory, verification_code

VERSION = "0rofs0version0"


class _Blanks:
    """Blanks of the length of the values they stand for, numbered as they come."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._known: dict[str, str] = {"": ""}

    def put(self, value: str) -> str:
        if value not in self._known:
            blank = hashlib.sha256(f"rofs blank {len(self._known)}".encode()).hexdigest()[: len(value)]
            self._known[value], self.values[blank] = blank, value
        return self._known[value]


def make_blank(inventory: Inventory) -> tuple[Inventory, dict[str, str]]:
    """The inventory to render, and {what is in its documents: what belongs there}."""
    blanks = _Blanks()
    sha256 = blanks.put(inventory.sha256)
    blank = replace(
        inventory,
        version=VERSION,
        sha256=sha256,
        purl=inventory.purl.replace(inventory.sha256, sha256).replace(f"@{inventory.version}?", f"@{VERSION}?"),
        parts=tuple(replace(part, sha256=blanks.put(part.sha256)) for part in inventory.parts),
        generated=tuple(
            replace(file, sha256=blanks.put(file.sha256), sha1=blanks.put(file.sha1)) for file in inventory.generated
        ),
    )
    values = {**blanks.values, VERSION: inventory.version}
    values[verification_code(blank.generated)] = verification_code(inventory.generated)
    values |= {str(blank.document_id(form)): str(inventory.document_id(form)) for form in SBOM_FORMS}
    return blank, values


def fill(document: bytes, values: dict[str, str]) -> bytes:
    """A document of the blank inventory -> that of the inventory."""
    for blank, value in values.items():
        document = document.replace(blank.encode(), value.encode())
    return document
