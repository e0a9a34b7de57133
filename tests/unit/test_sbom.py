# SPDX-License-Identifier: MIT
"""Both bills of materials: lib4sbom, another implementation with the official schemas, judges and reads them."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from packageurl import PackageURL
from test_dpkg import BASH, OPKG, ZLIB

import rofs.sbom
from rofs.image.manifest import build_manifest, render_manifest
from rofs.image.records import FileRecord
from rofs.sbom import render_sboms, write_sboms
from rofs.sbom.cyclonedx import render_cyclonedx
from rofs.sbom.inventory import SBOM_NAMES, Inventory, take_inventory
from rofs.sbom.spdx import render_spdx
from rofs.sources.dpkg import PackageFacts, parse_packages
from rofs.store import Cache

Documents = dict[str, dict[str, Any]]

EPOCH = 1_704_067_200
OS_RELEASE = b"ID=debian\nVERSION_CODENAME=bookworm\n"
GENERATED = {"/etc/fstab": b"y\n", "/etc/systemd/system/tmp.mount": b"z\n"}
OUTPUTS = ("rootfs.squashfs", "vmlinuz", "initrd.img", "cmdline", "state.img", "fstab", "profile.yaml", "units/-.mount")
KERNEL = {"package": "linux-image-6.1.0-56-amd64", "version": "6.1.192-2", "release": "6.1.0-56-amd64"}
BUSYBOX = "1:1.35.0-4+deb12u1+b1"
SYSTEMD = PackageFacts(
    name="systemd", version="252.39-1~deb12u2", architecture="amd64", source="systemd",
    source_version="252.39-1~deb12u2", maintainer="Debian systemd Maintainers <systemd@example.org>",
    homepage="https://example.org/systemd", licence="GPL-2.0-or-later AND LGPL-2.1-or-later",
)  # fmt: skip
PACKAGES = (BASH, replace(ZLIB, name="libstdc++6"), replace(BASH, name="libstdc--6"), SYSTEMD, ZLIB)
TAR = {"tar": {"name": "rootfs.tar.xz", "sha256": "7" * 64}}


@dataclass(frozen=True)
class Image:
    """What `take_inventory` is given."""

    manifest: dict[str, Any]
    packages: tuple[PackageFacts, ...]
    os_release: bytes = OS_RELEASE

    def inventory(self) -> Inventory:
        return take_inventory(self.manifest, self.packages, GENERATED, os_release=self.os_release, suite="bookworm")

    def documents(self) -> Documents:
        return {name: json.loads(text) for name, text in render_sboms(self.inventory()).items()}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def image(packages: tuple[PackageFacts, ...], os_release: bytes = OS_RELEASE, **inputs: Any) -> Image:
    files = [
        FileRecord(path=path, kind="file", mode=0o644, uid=0, gid=0, size=len(text), mtime=9, sha256=digest(text))
        for path, text in {**GENERATED, "/bin/sh": b"not ours"}.items()
    ]
    outputs = {name: {"size": 1, "sha256": digest(name.encode())} for name in OUTPUTS}
    named = {package.name: package.version for package in packages}
    manifest = build_manifest(
        profile="gateway", architecture="amd64", epoch=EPOCH, verified=False, reason="not booted", files=files,
        outputs=outputs, inputs={"packages": named, "kernel": KERNEL, "busybox-static": BUSYBOX, **inputs},
        tools={"rofs": "0.1.0", "tar2sqfs": "1.2.0"},
    )  # fmt: skip
    return Image(json.loads(render_manifest(manifest)), packages, os_release)


BOARD = {"image": {"name": "Image", "sha256": "1" * 64}, "modules": {"name": "modules.tar", "sha256": "2" * 64}}
IMAGES = {
    "debian": image(PACKAGES),
    "tar with dpkg": image(PACKAGES, b"ID=ubuntu\nVERSION_CODENAME=jammy\n", **TAR),
    "tar with opkg": image(parse_packages(OPKG, "opkg"), b"ID=openwrt\n", **TAR),
    "tar without a record": image((), b"", **TAR),
    "directory": image((), b"", directory={"sha256": "8" * 64}),
    "board's kernel": image((), b"", kernel={"package": "", "version": "", "release": "", **BOARD}, **TAR),
    "kernel in the tree": image(
        (
            *PACKAGES,
            PackageFacts(name=KERNEL["package"], version=KERNEL["version"], architecture="amd64", source="linux"),
        )
    ),
}
every_image = pytest.mark.parametrize("shown", IMAGES.values(), ids=IMAGES)


# --- against the manifest ---------------------------------------------------------------------------


Names = set[tuple[str, ...]]
"""Of packages: name, version and architecture, as the purl has them."""


def sha256_of(hashes: list[dict[str, str]]) -> str:
    return next(
        (
            h.get("content", h.get("checksumValue", ""))
            for h in hashes
            if h.get("alg", h.get("algorithm")) in ("SHA-256", "SHA256")
        ),
        "",
    )


def said_by_spdx(document: dict[str, Any]) -> tuple[Names, dict[str, str]]:
    """The packages, and the sha256 by name of whatever has one."""
    refs = [ref["referenceLocator"] for package in document["packages"] for ref in package.get("externalRefs", ())]
    hashes = {p["name"]: sha256_of(p["checksums"]) for p in document["packages"] if "checksums" in p}
    hashes |= {f["fileName"].removeprefix("."): sha256_of(f["checksums"]) for f in document["files"]}
    return names_of(refs), hashes


def said_by_cyclonedx(document: dict[str, Any]) -> tuple[Names, dict[str, str]]:
    components = [document["metadata"]["component"], *document["components"]]
    hashes = {each["name"]: sha256_of(each["hashes"]) for each in components if "hashes" in each}
    return names_of([each["purl"] for each in components if "purl" in each]), hashes


def names_of(purls: list[str]) -> Names:
    parsed = [PackageURL.from_string(purl) for purl in purls]
    return {
        (purl.name, str(purl.version), str(purl.qualifiers.get("arch"))) for purl in parsed if purl.type != "generic"
    }


def expected(shown: Image) -> tuple[Names, dict[str, str]]:
    inputs, outputs = shown.manifest["inputs"], shown.manifest["outputs"]
    packages = {(name, version) for name, version in inputs["packages"].items()}
    boot = {("busybox-static", BUSYBOX, "amd64"), (inputs["kernel"]["package"], inputs["kernel"]["version"], "amd64")}
    assert packages == {(p.name, p.version) for p in shown.packages}
    wanted: Names = {(p.name, p.version, p.architecture) for p in shown.packages} | {each for each in boot if each[0]}
    shipped = ("vmlinuz", "initrd.img", "cmdline", "state.img")
    hashes = {name: outputs[name]["sha256"] for name in shipped} | {"gateway": outputs["rootfs.squashfs"]["sha256"]}
    hashes |= {each["path"]: each["sha256"] for each in shown.manifest["files"] if each["path"] in GENERATED}
    hashes |= {inputs[key].get("name", key): inputs[key]["sha256"] for key in ("tar", "directory") if key in inputs}
    hashes |= {said["name"]: said["sha256"] for said in inputs["kernel"].values() if isinstance(said, dict)}
    return wanted, hashes


def differing(shown: Image, documents: Documents) -> list[str]:
    """Which documents do not say what the manifest says."""
    said = dict(zip(SBOM_NAMES, (said_by_spdx, said_by_cyclonedx), strict=True))
    return [name for name in SBOM_NAMES if said[name](documents[name]) != expected(shown)]


@every_image
def test_every_package_and_every_hash_of_the_manifest_is_in_both(shown: Image) -> None:
    assert differing(shown, shown.documents()) == []


def set_hash(document: dict[str, Any], name: str) -> None:
    for each in [
        *document.get("packages", ()),
        *document.get("components", ()),
        document.get("metadata", {}).get("component", {}),
    ]:
        for said in (*each.get("checksums", ()), *each.get("hashes", ())):
            if each["name"] == name:
                said |= {key: "0" * 64 for key in ("content", "checksumValue") if key in said}


def leave_out(document: dict[str, Any], name: str) -> None:
    for key in ("packages", "components", "files"):
        if key in document:
            document[key] = [
                each for each in document[key] if name not in (each.get("name"), each.get("fileName", "")[1:])
            ]


@pytest.mark.parametrize("name", SBOM_NAMES)
@pytest.mark.parametrize(
    "harm",
    [
        lambda document: leave_out(document, "bash"),
        lambda document: leave_out(document, "busybox-static"),
        lambda document: leave_out(document, "/etc/fstab"),
        lambda document: set_hash(document, "gateway"),
        lambda document: set_hash(document, "initrd.img"),
    ],
)
def test_a_document_with_something_left_out_or_wrong_is_noticed(
    name: str, harm: Callable[[dict[str, Any]], object]
) -> None:
    documents = IMAGES["debian"].documents()
    harm(documents[name])
    assert differing(IMAGES["debian"], documents) == [name]


# --- an independent reader --------------------------------------------------------------------------

JUDGED = ("debian", "tar with opkg", "tar without a record", "board's kernel")
"""To read the schemas anew for each takes its time."""

JUDGE = """
import json, sys
from pathlib import Path
from lib4sbom.parser import SBOMParser
from lib4sbom.validator import SBOMValidator
def read(file):
    parser = SBOMParser()
    parser.parse_file(file)
    return [[package["name"], package.get("version", "")] for package in parser.get_packages()]
def judge(directory):
    spdx, cyclonedx = str(directory / "sbom.spdx.json"), str(directory / "sbom.cdx.json")
    said = SBOMValidator("spdx", "2.3").validate_file(spdx), SBOMValidator("cyclonedx", "1.6").validate_file(cyclonedx)
    return {"said": said, "packages": [read(spdx), read(cyclonedx)]}
print(json.dumps({directory.name: judge(directory) for directory in Path(sys.argv[1]).iterdir()}))
"""


def harmed(documents: Documents) -> Documents:
    """Both with a value that its schema does not have."""
    spdx, cyclonedx = (documents[name] for name in SBOM_NAMES)
    spdx["packages"][0]["checksums"][0]["algorithm"] = "SHA-OF-OURS"
    cyclonedx["components"][0]["type"] = "thing"
    return documents


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What lib4sbom says of all, in a process of its own: it leaves files open, which would be errors here."""
    top = tmp_path_factory.mktemp("documents")
    shown = {name: shown.documents() for name, shown in IMAGES.items()} | {
        "wrong": harmed(IMAGES["debian"].documents())
    }
    for name, documents in shown.items():
        (top / name).mkdir()
        for file, document in documents.items():
            (top / name / file).write_text(json.dumps(document))
    argv = [sys.executable, "-W", "ignore", "-c", JUDGE, str(top)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("name", JUDGED)
def test_an_independent_validator_accepts_both_and_reads_the_packages(name: str, judged: Any) -> None:
    assert judged[name]["said"] == [{"SPDX": "2.3"}, {"CycloneDX": "1.6"}]
    wanted, _ = expected(IMAGES[name])
    for packages in judged[name]["packages"]:
        assert {package[:2] for package in wanted} <= {tuple(package) for package in packages}


def test_the_validator_refuses_what_is_wrong(judged: Any) -> None:
    assert judged["wrong"]["said"] == [{"SPDX": False}, {"CycloneDX": False}]


# --- what the schemas do not ask --------------------------------------------------------------------


@every_image
def test_every_reference_leads_somewhere_and_every_part_hangs_together(shown: Image) -> None:
    spdx, cyclonedx = (shown.documents()[name] for name in SBOM_NAMES)
    ids = [spdx["SPDXID"], *(each["SPDXID"] for each in (*spdx["packages"], *spdx["files"]))]
    ends = [{each["spdxElementId"], each["relatedSpdxElement"]} for each in spdx["relationships"]]
    assert len(ids) == len(set(ids)) and set().union(*ends) == set(ids)
    refs = [cyclonedx["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in cyclonedx["components"])]
    graph = {each["ref"]: set(each.get("dependsOn", ())) for each in cyclonedx["dependencies"]}
    assert len(refs) == len(set(refs)) and set(graph) == set(refs)
    assert graph["image"] == set(refs) - {"image"}


def test_the_image_itself() -> None:
    spdx, cyclonedx = (IMAGES["debian"].documents()[name] for name in SBOM_NAMES)
    root = cyclonedx["metadata"]["component"]
    assert (root["name"], root["type"]) == ("gateway", "operating-system")
    assert {
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-Image",
    } in spdx["relationships"]
    (described,) = (each for each in spdx["packages"] if each["SPDXID"] == "SPDXRef-Image")
    assert (described["name"], described["packageFileName"]) == ("gateway", "rootfs.squashfs")
    assert described["versionInfo"] == root["version"]
    for purl in (root["purl"], described["externalRefs"][0]["referenceLocator"]):
        assert PackageURL.from_string(purl).qualifiers["arch"] == "amd64"
    assert spdx["creationInfo"]["created"] == "2024-01-01T00:00:00Z"
    assert cyclonedx["metadata"]["timestamp"] == "2024-01-01T00:00:00+00:00"


def test_the_version_is_that_of_all_outputs_and_of_nothing_else() -> None:
    shown = copy.deepcopy(IMAGES["debian"])
    lines = "".join(f"{digest(name.encode())}  {name}\n" for name in sorted(OUTPUTS))
    assert shown.inventory().version == digest(lines.encode())[:12]
    before = shown.inventory()
    shown.manifest["outputs"] |= {name: {"size": 1, "sha256": "5" * 64} for name in SBOM_NAMES}
    shown.manifest.update({"verified": True, "reason": ""})
    assert shown.inventory() == before, "it is the same image once it is verified, and once it has its SBOMs"
    shown.manifest["outputs"]["vmlinuz"]["sha256"] = "5" * 64
    assert shown.inventory().version != before.version


@pytest.mark.parametrize(
    ("where", "purl"),
    [
        ("debian", "pkg:deb/debian/bash@5.2.15-2%2Bb13?arch=amd64&distro=bookworm&upstream=bash%405.2.15-2"),
        ("debian", "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64&distro=bookworm&upstream=zlib%401:1.2.13.dfsg-1"),
        ("debian", "pkg:deb/debian/systemd@252.39-1~deb12u2?arch=amd64&distro=bookworm"),
        ("debian", "pkg:deb/debian/linux-image-6.1.0-56-amd64@6.1.192-2?arch=amd64&distro=bookworm"),
        ("tar with dpkg", "pkg:deb/ubuntu/systemd@252.39-1~deb12u2?arch=amd64&distro=jammy"),
        ("tar with dpkg", "pkg:deb/debian/busybox-static@1:1.35.0-4%2Bdeb12u1%2Bb1?arch=amd64&distro=bookworm"),
        ("tar with opkg", "pkg:opkg/openwrt/dropbear@2022.83-r0?arch=cortexa53"),
    ],
)
def test_package_urls(where: str, purl: str) -> None:
    found = [PackageURL.from_string(part.ref) for part in IMAGES[where].inventory().parts if part.kind == "package"]
    assert PackageURL.from_string(purl) in found


def test_what_is_known_of_a_package() -> None:
    spdx, cyclonedx = (IMAGES["debian"].documents()[name] for name in SBOM_NAMES)
    (one,) = (each for each in spdx["packages"] if each["name"] == "systemd")
    assert one["supplier"] == "Organization: Debian systemd Maintainers (systemd@example.org)"
    assert (one["homepage"], one["licenseConcluded"]) == ("https://example.org/systemd", "NOASSERTION")
    assert one["licenseDeclared"] == "GPL-2.0-or-later AND LGPL-2.1-or-later"
    assert one["sourceInfo"] == "built from source package: systemd 252.39-1~deb12u2"
    (bash,) = (each for each in spdx["packages"] if each["name"] == "bash")
    assert (bash["supplier"], bash["licenseDeclared"]) == ("Person: Foo, Inc.", "NOASSERTION")
    (other,) = (each for each in cyclonedx["components"] if each["name"] == "systemd")
    assert other["licenses"] == [{"acknowledgement": "declared", "expression": one["licenseDeclared"]}]
    assert other["supplier"]["name"] == "Debian systemd Maintainers"
    assert other["supplier"]["contact"] == [{"email": "systemd@example.org"}]


def test_a_kernel_that_is_in_the_tree_too_is_one_package() -> None:
    (kernel,) = (part for part in IMAGES["kernel in the tree"].inventory().parts if part.name == KERNEL["package"])
    assert kernel.built_from == "linux", "as the tree says, since it says more"


def test_what_was_made_of_what() -> None:
    parts = {part.ref: part for part in IMAGES["debian"].inventory().parts}
    of = {
        name: {parts[ref].name for ref in parts[f"file:{name}"].made_from}
        for name in ("vmlinuz", "initrd.img", "cmdline")
    }
    assert of == {"vmlinuz": {KERNEL["package"]}, "initrd.img": {KERNEL["package"], "busybox-static"}, "cmdline": set()}
    board = IMAGES["board's kernel"].inventory()
    parts = {part.ref: part for part in board.parts}
    assert {parts[ref].name for ref in parts["file:vmlinuz"].made_from} == {"Image"}
    assert {parts[ref].name for ref in parts["file:initrd.img"].made_from} == {"modules.tar", "busybox-static"}
    assert [parts[ref].name for ref in board.made_from] == ["rootfs.tar.xz"]


def test_the_generated_files_are_a_package_with_its_verification_code() -> None:
    spdx = IMAGES["debian"].documents()[SBOM_NAMES[0]]
    (package,) = (each for each in spdx["packages"] if each["SPDXID"] == "SPDXRef-Generated")
    by_path = [hashlib.sha1(content).hexdigest() for _, content in sorted(GENERATED.items())]
    hashes = sorted(by_path)
    assert by_path != hashes, "or their order would not matter here"
    code = hashlib.sha1("".join(hashes).encode()).hexdigest()
    assert package["packageVerificationCode"] == {"packageVerificationCodeValue": code}
    inside = {
        each["relatedSpdxElement"] for each in spdx["relationships"] if each["spdxElementId"] == "SPDXRef-Generated"
    }
    assert inside == {each["SPDXID"] for each in spdx["files"]}


def test_a_generated_file_that_the_image_has_otherwise_is_refused() -> None:
    shown = IMAGES["debian"]
    for wrong in ({"/etc/fstab": b"other"}, {"/etc/missing": b"x"}):
        with pytest.raises(ValueError, match=r"/etc/.* is not in the image as it was generated"):
            take_inventory(shown.manifest, shown.packages, wrong)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    shown, path = copy.deepcopy(IMAGES["debian"]), "/home/" + os.fsdecode(b"b\xe9")
    shown.manifest["files"].append({"path": path, "kind": "file", "sha256": digest(b"x")})
    written = write_sboms(tmp_path, shown.manifest, shown.packages, {path: b"x"})
    for document in written:
        assert "/home/b\\\\xe9" in document.read_text("utf-8")


# --- the same bytes ---------------------------------------------------------------------------------

AGAIN = """
import json, sys
from pathlib import Path
from rofs.sbom import write_sboms
from rofs.sbom.spdx import render_spdx
from rofs.sources.dpkg import PackageFacts
manifest, packages, generated, os_release = json.loads(Path(sys.argv[1]).read_text())
packages = [PackageFacts(**package) for package in packages]
generated = {path: text.encode() for path, text in generated.items()}
Path(sys.argv[2]).mkdir()
write_sboms(Path(sys.argv[2]), manifest, packages, generated, os_release=os_release.encode(), suite="bookworm")
"""


def test_the_same_bytes_again_and_in_other_processes(tmp_path: Path) -> None:
    shown = IMAGES["debian"]
    here = write_sboms(tmp_path, shown.manifest, shown.packages, GENERATED, os_release=OS_RELEASE, suite="bookworm")
    assert [path.name for path in here] == list(SBOM_NAMES)
    first = {path.name: path.read_bytes() for path in here}
    assert render_sboms(shown.inventory()) == first
    texts = {path: content.decode() for path, content in reversed(GENERATED.items())}
    packages = [asdict(package) for package in reversed(shown.packages)]
    given = tmp_path / "given.json"
    given.write_text(json.dumps([shown.manifest, packages, texts, OS_RELEASE.decode()]))
    for number, (seed, zone, locale) in enumerate(
        [("0", "Asia/Kathmandu", "C"), ("77", "America/St_Johns", "tr_TR.UTF-8")]
    ):
        out = tmp_path / str(number)
        env = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "TZ": zone,
            "LC_ALL": locale,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        subprocess.run([sys.executable, "-c", AGAIN, str(given), str(out)], check=True, env=env, cwd=tmp_path)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_another_image_has_other_ids() -> None:
    ids = set()
    for shown in IMAGES.values():
        documents = shown.documents()
        ids |= {documents[SBOM_NAMES[0]]["documentNamespace"][-36:], documents[SBOM_NAMES[1]]["serialNumber"][-36:]}
    assert len(ids) == 2 * len(IMAGES)


def test_nothing_of_it_is_loaded_before_it_is_needed() -> None:
    code = "import sys, rofs.cli, rofs.sbom; print({'spdx_tools', 'cyclonedx', 'packageurl'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path.cwd())
    assert said.stdout == "set()\n"


@pytest.mark.parametrize("name", IMAGES)
def test_filled_in_documents_are_those_that_the_libraries_render(name: str) -> None:
    inventory = IMAGES[name].inventory()
    straight = [render_spdx(inventory), render_cyclonedx(inventory)]
    assert list(render_sboms(inventory).values()) == straight


def test_a_rebuild_renders_nothing_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other outputs and other content of the same files: only a part that comes or goes is rendered."""
    cache, rendered = Cache(tmp_path), list[Inventory]()

    def count(inventory: Inventory) -> bytes:
        rendered.append(inventory)
        return render_spdx(inventory)

    monkeypatch.setattr(rofs.sbom, "render_spdx", count)
    shown = IMAGES["debian"]
    changed = Image(copy.deepcopy(shown.manifest), shown.packages)
    for said in changed.manifest["outputs"].values():
        said["sha256"] = digest(said["sha256"].encode())
    for image in (shown, changed, shown):
        assert render_sboms(image.inventory(), cache) == render_sboms(image.inventory())
    assert len(rendered) == 3 + 1
    fewer = Image(shown.manifest, shown.packages[1:])
    assert render_sboms(fewer.inventory(), cache) != render_sboms(shown.inventory(), cache)
    assert len(rendered) == 3 + 1 + 1
