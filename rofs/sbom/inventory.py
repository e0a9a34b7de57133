# SPDX-License-Identifier: MIT
"""The manifest and the tree's packages -> Inventory: what the image is made of, in no format yet.

Everything in it follows from its arguments; the same build gives the same inventory, and so the same documents.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from rofs.sources.dpkg import PackageFacts, parse_os_release

SBOM_FORMS = ("spdx", "cyclonedx")
SBOM_NAMES = ("sbom.spdx.json", "sbom.cdx.json")
ROOT = "rootfs.squashfs"
BESIDE = ("vmlinuz", "initrd.img", "cmdline", "*.img")
"""What ships beside the root: globs of outputs. The rest of a published directory is for reading."""

_MAINTAINER = re.compile(r"(.+?)\s*<([^<>\s]+@[^<>\s]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A package, a file that ships beside the root, or a source that the image was made from.

    `ref` is unique in an inventory: the purl of a package, else `file:NAME` or `source:NAME`. `made_from` are the
    refs of others. `sha256` is in hexadecimal; "" where a text or a hash is not known.
    """

    kind: Literal["package", "file", "source"]
    ref: str
    name: str
    version: str = ""
    sha256: str = ""
    built_from: str = ""
    maintainer: str = ""
    email: str = ""
    homepage: str = ""
    licence: str = ""
    made_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedFile:
    """A file of the tree that no package brings: `path` is absolute, and printable UTF-8. SPDX wants the SHA-1 too."""

    path: str
    sha256: str
    sha1: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """An image. `version` is the beginning of a hash of all outputs; `sha256` is that of rootfs.squashfs.

    `epoch` is the only time there is, in seconds. `made_from` are refs of the tree's sources. All is sorted.
    """

    name: str
    architecture: str
    version: str
    sha256: str
    purl: str
    epoch: int
    tool_version: str
    parts: tuple[Part, ...]
    made_from: tuple[str, ...]
    generated: tuple[GeneratedFile, ...]

    def document_id(self, form: str) -> uuid.UUID:
        """For the document of this form: the same for the same inventory, another for any other."""
        said = json.dumps(asdict(self), sort_keys=True)
        return uuid.uuid5(uuid.NAMESPACE_URL, f"rofs:{form}:{hashlib.sha256(said.encode()).hexdigest()}")


def verification_code(files: Iterable[GeneratedFile]) -> str:
    """SPDX's of a package of these files (7.9 of the specification)."""
    hashes = "".join(sorted(file.sha1 for file in files))
    return hashlib.sha1(hashes.encode(), usedforsecurity=False).hexdigest()


def take_inventory(
    manifest: Mapping[str, Any],
    packages: Sequence[PackageFacts],
    generated: Mapping[str, bytes],
    *,
    os_release: bytes = b"",
    suite: str = "",
) -> Inventory:
    """What a manifest, the tree's packages and the content of the generated files by path say together.

    `os_release` is the tree's; `suite` is that of Debian which kernel and busybox come from. SBOMs among the
    manifest's outputs do not count. KeyError or ValueError where the arguments are not of one image.
    """
    outputs = {name: said["sha256"] for name, said in manifest["outputs"].items() if name not in SBOM_NAMES}
    inputs, version = manifest["inputs"], _identity(outputs)[:12]
    release = parse_os_release(os_release)
    tree = [_package(package, release.get("ID", ""), release.get("VERSION_CODENAME", "")) for package in packages]
    kernel, busybox = _boot_packages(tree, manifest, suite)
    sources = [_source(key, inputs[key]) for key in ("tar", "directory") if key in inputs]
    board = {key: _source(f"kernel/{key}", said) for key, said in inputs["kernel"].items() if isinstance(said, dict)}
    origins = {
        "vmlinuz": [*kernel, *(board[key] for key in ("image", "config") if key in board)],
        "initrd.img": [*kernel, *busybox, *(board[key] for key in ("modules",) if key in board)],
    }
    parts = {part.ref: part for part in (*kernel, *busybox, *tree, *sources, *board.values())}
    parts |= {part.ref: part for part in _files(outputs, origins)}
    return Inventory(
        name=manifest["profile"],
        architecture=manifest["architecture"],
        version=version,
        sha256=outputs[ROOT],
        purl=_image_purl(manifest, version, outputs[ROOT]),
        epoch=manifest["source_date_epoch"],
        tool_version=manifest["tools"]["rofs"],
        parts=tuple(parts[ref] for ref in sorted(parts)),
        made_from=tuple(sorted(part.ref for part in sources)),
        generated=tuple(_generated(manifest["files"], generated)),
    )


def _identity(outputs: Mapping[str, str]) -> str:
    """One hash of all outputs: that of what sha256sum(1) prints of them, sorted by name."""
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(outputs.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _package(package: PackageFacts, distribution: str, codename: str) -> Part:
    maintainer = _MAINTAINER.fullmatch(package.maintainer)
    return Part(
        kind="package",
        ref=_purl(package, distribution, codename),
        name=package.name,
        version=package.version,
        built_from=f"{package.source} {package.source_version}".strip(),
        maintainer=maintainer[1] if maintainer else package.maintainer,
        email=maintainer[2] if maintainer else "",
        homepage=package.homepage,
        licence=package.licence,
    )


def _purl(package: PackageFacts, distribution: str, codename: str) -> str:
    """`pkg:deb/debian/NAME@VERSION?arch=…&distro=…&upstream=SOURCE@VERSION`, the last where it is another."""
    from packageurl import PackageURL

    source, version = package.source or package.name, package.source_version or package.version
    upstream = "" if (source, version) == (package.name, package.version) else f"{source}@{version}"
    qualifiers = {"arch": package.architecture, "distro": codename, "upstream": upstream}
    known = {key: value for key, value in qualifiers.items() if value}
    namespace = distribution or ("debian" if package.manager == "deb" else None)
    return PackageURL(package.manager, namespace, package.name, package.version, known).to_string()


def _image_purl(manifest: Mapping[str, Any], version: str, sha256: str) -> str:
    from packageurl import PackageURL

    qualifiers = {"arch": manifest["architecture"], "checksum": f"sha256:{sha256}", "file_name": ROOT}
    return PackageURL("generic", None, manifest["profile"], version, qualifiers).to_string()


def _boot_packages(tree: Sequence[Part], manifest: Mapping[str, Any], suite: str) -> tuple[list[Part], list[Part]]:
    """The packages of the kernel and of the initrd's busybox, a list of one each; or of none for a board's own.

    One that is in the tree too is one part, of which the tree says more.
    """
    inputs, architecture = manifest["inputs"], manifest["architecture"]
    known = {(part.name, part.version): part for part in tree}

    def find(name: str, version: str) -> list[Part]:
        if not name or not version:
            return []
        package = PackageFacts(name=name, version=version, architecture=architecture)
        return [known.get((name, version)) or _package(package, "debian", suite)]

    kernel = inputs["kernel"]
    return find(kernel["package"], kernel["version"]), find("busybox-static", inputs["busybox-static"])


def _source(key: str, said: Mapping[str, str]) -> Part:
    """The tar or directory of the tree, or a file of a board's own kernel, as the manifest names it."""
    name = said.get("name", key)
    return Part(kind="source", ref=f"source:{key}/{name}", name=name, sha256=said["sha256"])


def _files(outputs: Mapping[str, str], origins: Mapping[str, Sequence[Part]]) -> Iterator[Part]:
    for name, sha256 in outputs.items():
        if any(fnmatchcase(name, pattern) for pattern in BESIDE):
            made_from = tuple(sorted(part.ref for part in origins.get(name, ())))
            yield Part(kind="file", ref=f"file:{name}", name=name, sha256=sha256, made_from=made_from)


def _generated(files: Iterable[Mapping[str, Any]], contents: Mapping[str, bytes]) -> Iterator[GeneratedFile]:
    """The contents by path, against the manifest's files; ValueError for one that the image has otherwise."""
    listed = {each["path"]: each.get("sha256") for each in files if each["path"] in contents}
    for path, content in sorted(contents.items()):
        sha256 = hashlib.sha256(content).hexdigest()
        if listed.get(path) != sha256:
            raise ValueError(f"{path} is not in the image as it was generated")
        sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        yield GeneratedFile(path=shown, sha256=sha256, sha1=sha1)
