# SPDX-License-Identifier: MIT
"""A tree's own records of its packages -> PackageFacts: of dpkg, or of opkg, which writes the same form.

Whether the tree was made here from packages or came as a tar makes no difference: it says what is in it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rofs.sources.licences import declared_licence
from rofs.treefacts import TreeFacts

Manager = Literal["deb", "opkg"]

STATUS_FILES: tuple[tuple[str, Manager], ...] = (
    ("/var/lib/dpkg/status", "deb"),
    ("/var/lib/opkg/status", "opkg"),
    ("/usr/lib/opkg/status", "opkg"),
)
_FIELD = re.compile(
    r"^(Package|Version|Architecture|Status|Source|Maintainer|Homepage):[ \t]*(.*?)[ \t]*$", re.MULTILINE
)
_WEB = re.compile(r"https?://[!-~]+")
_SOURCE = re.compile(r"(\S+)(?: \((\S+)\))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageFacts:
    """An installed package. `source` and `source_version` are those of the source package it was built from.

    `licence` is an SPDX expression, "" where nobody can tell; so are `maintainer` and `homepage`.
    """

    name: str
    version: str
    architecture: str = ""
    source: str = ""
    source_version: str = ""
    maintainer: str = ""
    homepage: str = ""
    licence: str = ""
    manager: Manager = "deb"


def find_packages(facts: TreeFacts) -> tuple[PackageFacts, ...]:
    """All packages that the tree says are installed, sorted by name; none where it keeps no record."""
    return tuple(
        replace(package, licence=declared_licence(facts.text(f"/usr/share/doc/{package.name}/copyright") or b""))
        for path, manager in STATUS_FILES
        for package in parse_packages(facts.text(path) or b"", manager)
    )


def parse_packages(status: bytes, manager: Manager = "deb") -> tuple[PackageFacts, ...]:
    """A status file (deb-control(5), and the Status field of dpkg-query(1)) -> what is installed, sorted by name."""
    found = (_package(paragraph, manager) for paragraph in _paragraphs(status))
    installed = [package for package in found if package is not None]
    return tuple(sorted(installed, key=lambda package: (package.name, package.architecture)))


def _paragraphs(status: bytes) -> Iterator[dict[str, str]]:
    for paragraph in status.decode(errors="replace").split("\n\n"):
        yield dict(_FIELD.findall(paragraph))


def _package(fields: dict[str, str], manager: Manager) -> PackageFacts | None:
    name, version = fields.get("Package"), fields.get("Version")
    if not name or not version or not fields.get("Status", "").endswith(" installed"):
        return None
    source = _SOURCE.fullmatch(fields.get("Source", ""))
    return PackageFacts(
        name=name,
        version=version,
        architecture=fields.get("Architecture", ""),
        source=source[1] if source else name,
        source_version=source[2] or version if source else version,
        maintainer=fields.get("Maintainer", ""),
        homepage=fields["Homepage"] if _WEB.fullmatch(fields.get("Homepage", "")) else "",
        manager=manager,
    )


def parse_os_release(text: bytes) -> dict[str, str]:
    """os-release(5) -> its variables; a line that no shell would read is left out."""
    found = {}
    for line in text.decode(errors="replace").splitlines():
        key, equals, value = line.partition("=")
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        if equals and key.isidentifier() and len(words) < 2:
            found[key] = "".join(words)
    return found
