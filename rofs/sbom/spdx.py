# SPDX-License-Identifier: MIT
"""Inventory -> SPDX 2.3 as JSON, by the SPDX project's own library.

A package that was not analysed may contain no files (7.8 of the specification), so what rofs generated is a
package of its own: all of its files are known, and its verification code is theirs.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rofs.sbom.inventory import ROOT, GeneratedFile, Inventory, Part, verification_code

if TYPE_CHECKING:
    from spdx_tools.spdx.model import Actor, CreationInfo, File, Package, Relationship

DOCUMENT, IMAGE, GENERATED = "SPDXRef-DOCUMENT", "SPDXRef-Image", "SPDXRef-Generated"
_TEAM = re.compile(r"\b(?:team|maintainers?|developers?|group|project|packagers?|list)\b", re.IGNORECASE)


def render_spdx(inventory: Inventory) -> bytes:
    """The image, which the document describes, and everything that it contains or was made from."""
    from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
    from spdx_tools.spdx.model import Document

    packages = [_image(inventory), *(_package(part) for part in inventory.parts)]
    if inventory.generated:
        packages.append(_generated_package(inventory))
    document = Document(
        creation_info=_creation_info(inventory),
        packages=packages,
        files=[_file(file) for file in inventory.generated],
        relationships=_relationships(inventory),
    )
    said = DocumentConverter().convert(document)
    for reference in (each for package in said["packages"] for each in package.get("externalRefs", ())):
        # The library writes the underscore of 2.2, which the schema of 2.3 refuses: spdx/tools-python#813.
        reference["referenceCategory"] = reference["referenceCategory"].replace("_", "-")
    return (json.dumps(said, indent=2) + "\n").encode()


def _creation_info(inventory: Inventory) -> CreationInfo:
    from spdx_tools.spdx.model import Actor, ActorType, CreationInfo

    name = f"{inventory.name}-{inventory.architecture}"
    return CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id=DOCUMENT,
        name=name,
        document_namespace=f"https://spdx.org/spdxdocs/{name}-{inventory.document_id('spdx')}",
        creators=[Actor(ActorType.TOOL, f"rofs-{inventory.tool_version}")],
        created=datetime.fromtimestamp(inventory.epoch, UTC),
    )


def _unasserted() -> dict[str, Any]:
    """What SPDX asks of every package and nobody here knows."""
    from spdx_tools.spdx.model import SpdxNoAssertion

    unknown = SpdxNoAssertion()
    return {
        "download_location": unknown,
        "license_concluded": unknown,
        "license_declared": unknown,
        "copyright_text": unknown,
    }


def _image(inventory: Inventory) -> Package:
    from spdx_tools.spdx.model import Checksum, ChecksumAlgorithm, Package, PackagePurpose

    return Package(
        spdx_id=IMAGE,
        name=inventory.name,
        version=inventory.version,
        file_name=ROOT,
        files_analyzed=False,
        checksums=[Checksum(ChecksumAlgorithm.SHA256, inventory.sha256)],
        summary=f"read-only Linux image for {inventory.architecture}",
        external_references=[_purl_reference(inventory.purl)],
        primary_package_purpose=PackagePurpose.OPERATING_SYSTEM,
        **_unasserted(),
    )


def _package(part: Part) -> Package:
    from spdx_tools.spdx.model import Checksum, ChecksumAlgorithm, Package, PackagePurpose

    more = _unasserted()
    if part.licence:
        more["license_declared"] = _licence(part.licence)
    if part.homepage:
        more["homepage"] = part.homepage
    if part.maintainer:
        more["supplier"] = _supplier(part)
    package = part.kind == "package"
    return Package(
        spdx_id=_id(part.kind.title(), part.ref, part.name),
        name=part.name,
        version=part.version or None,
        file_name=None if package else part.name,
        files_analyzed=False,
        checksums=[Checksum(ChecksumAlgorithm.SHA256, part.sha256)] if part.sha256 else [],
        source_info=f"built from source package: {part.built_from}" if part.built_from else None,
        external_references=[_purl_reference(part.ref)] if package else [],
        primary_package_purpose=None if package else PackagePurpose.FILE,
        **more,
    )


def _generated_package(inventory: Inventory) -> Package:
    from spdx_tools.spdx.model import Package, PackageVerificationCode

    return Package(
        spdx_id=GENERATED,
        name=f"{inventory.name}-generated",
        version=inventory.version,
        verification_code=PackageVerificationCode(verification_code(inventory.generated)),
        summary="files of the tree that rofs made of the profile",
        **_unasserted(),
    )


def _file(file: GeneratedFile) -> File:
    from spdx_tools.spdx.model import Checksum, ChecksumAlgorithm, File, SpdxNoAssertion

    return File(
        name=f".{file.path}",
        spdx_id=_id("File", file.path),
        checksums=[
            Checksum(ChecksumAlgorithm.SHA1, file.sha1),
            Checksum(ChecksumAlgorithm.SHA256, file.sha256),
        ],
        license_concluded=SpdxNoAssertion(),
        copyright_text=SpdxNoAssertion(),
    )


def _relationships(inventory: Inventory) -> list[Relationship]:
    from spdx_tools.spdx.model import Relationship, RelationshipType

    contains, made_from = RelationshipType.CONTAINS, RelationshipType.GENERATED_FROM
    ids = {part.ref: _id(part.kind.title(), part.ref, part.name) for part in inventory.parts}
    found = [Relationship(DOCUMENT, RelationshipType.DESCRIBES, IMAGE)]
    found += [Relationship(IMAGE, contains, ids[part.ref]) for part in inventory.parts if part.kind != "source"]
    found += [Relationship(IMAGE, made_from, ids[ref]) for ref in inventory.made_from]
    found += [Relationship(ids[part.ref], made_from, ids[ref]) for part in inventory.parts for ref in part.made_from]
    if inventory.generated:
        found.append(Relationship(IMAGE, contains, GENERATED))
    found += [Relationship(GENERATED, contains, _id("File", file.path)) for file in inventory.generated]
    return found


def _purl_reference(purl: str) -> Any:
    from spdx_tools.spdx.model import ExternalPackageRef, ExternalPackageRefCategory

    return ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", purl)


def _licence(expression: str) -> Any:
    from spdx_tools.common.spdx_licensing import spdx_licensing

    return spdx_licensing.parse(expression)


def _supplier(part: Part) -> Actor:
    """SPDX wants to know whether it is a person: Debian's field does not say, but teams call themselves one."""
    from spdx_tools.spdx.model import Actor, ActorType

    kind = ActorType.ORGANIZATION if _TEAM.search(part.maintainer) else ActorType.PERSON
    return Actor(kind, part.maintainer, part.email or None)


def _id(kind: str, ref: str, name: str = "") -> str:
    """Unique for `ref`, readable by `name`: letters, digits, dots and dashes are all that an id may have."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    return "-".join(part for part in ("SPDXRef", kind, readable, hashlib.sha256(ref.encode()).hexdigest()[:12]) if part)
