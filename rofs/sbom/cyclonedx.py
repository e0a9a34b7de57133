# SPDX-License-Identifier: MIT
"""Inventory -> CycloneDX 1.6 as JSON (ECMA-424), by the CycloneDX project's own library."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rofs.sbom.inventory import GeneratedFile, Inventory, Part

if TYPE_CHECKING:
    from cyclonedx.model.bom import BomMetaData
    from cyclonedx.model.component import Component
    from cyclonedx.model.contact import OrganizationalEntity


def render_cyclonedx(inventory: Inventory) -> bytes:
    """The image as the root component, and beside it everything it depends on."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    root = _root(inventory)
    parts = {part.ref: _component(part) for part in inventory.parts}
    generated = [_generated(file) for file in inventory.generated]
    bom = Bom(
        serial_number=inventory.document_id("cyclonedx"),
        metadata=_metadata(inventory, root),
        components=[*parts.values(), *generated],
    )
    bom.register_dependency(root, [*parts.values(), *generated])
    for part in inventory.parts:
        bom.register_dependency(parts[part.ref], [parts[ref] for ref in part.made_from])
    return (JsonV1Dot6(bom).output_as_string(indent=2) + "\n").encode()


def _metadata(inventory: Inventory, root: Component) -> BomMetaData:
    from cyclonedx.model.bom import BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.lifecycle import LifecyclePhase, PredefinedLifecycle
    from cyclonedx.model.tool import ToolRepository

    rofs = Component(name="rofs", version=inventory.tool_version, type=ComponentType.APPLICATION, bom_ref="tool:rofs")
    return BomMetaData(
        timestamp=datetime.fromtimestamp(inventory.epoch, UTC),
        lifecycles=[PredefinedLifecycle(LifecyclePhase.BUILD)],
        tools=ToolRepository(components=[rofs]),
        component=root,
    )


def _root(inventory: Inventory) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref="image",
        name=inventory.name,
        version=inventory.version,
        description=f"read-only Linux image for {inventory.architecture}",
        purl=PackageURL.from_string(inventory.purl),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=inventory.sha256)],
    )


def _component(part: Part) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import LicenseAcknowledgement, LicenseExpression
    from packageurl import PackageURL

    package, declared = part.kind == "package", LicenseAcknowledgement.DECLARED
    links = [XsUri(part.homepage)] if part.homepage else []
    return Component(
        type=ComponentType.LIBRARY if package else ComponentType.FILE,
        bom_ref=part.ref,
        name=part.name,
        version=part.version or None,
        purl=PackageURL.from_string(part.ref) if package else None,
        supplier=_supplier(part) if part.maintainer else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)] if part.sha256 else [],
        external_references=[ExternalReference(type=ExternalReferenceType.WEBSITE, url=link) for link in links],
        licenses=[LicenseExpression(part.licence, acknowledgement=declared)] if part.licence else [],
    )


def _supplier(part: Part) -> OrganizationalEntity:
    from cyclonedx.model.contact import OrganizationalContact, OrganizationalEntity

    contacts = [OrganizationalContact(email=part.email)] if part.email else []
    return OrganizationalEntity(name=part.maintainer, contacts=contacts)


def _generated(file: GeneratedFile) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)]
    return Component(type=ComponentType.FILE, bom_ref=f"generated:{file.path}", name=file.path, hashes=hashes)
