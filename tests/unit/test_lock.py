# SPDX-License-Identifier: MIT
"""rofs.lock: the file says all of a lock in a form that a diff shows well, and two locks compare in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rofs.document import load
from rofs.errors import ProfileError
from rofs.lock import ArchLock, Lock, differences, load_lock, lock_path, render_lock
from rofs.packages import Package, sort_packages

A, B, C = "a" * 64, "b" * 64, "1" * 64


def package(name: str, version: str, sha256: str = A, architecture: str = "amd64", size: int = 7) -> Package:
    return Package(name=name, version=version, architecture=architecture, size=size, sha256=sha256)


KERNEL = package("linux-image-6.1.0-1-cloud-amd64", "6.1.1-1")
BUSYBOX = package("busybox-static", "1:1.35.0-4")
LOCK = Lock(
    profile="gateway",
    epoch=1704067200,
    architectures={
        "amd64": ArchLock(
            packages=(package("adduser", "3.134", C, "all"), package("libc6", "2.36-9+deb12u4", B)),
            asked=("kernel linux-image-cloud of bookworm", "package adduser"),
            kernel=KERNEL,
            initrd=BUSYBOX,
        ),
        "arm64": ArchLock(initrd=package("busybox-static", "1:1.35.0-4", B, "arm64")),
    },
    sources={"root.tar": A},
    files={"files/gateway.conf": B, "files/a: b": C},
    tools={"rofs": "0.3.0", "dpkg": "1.21.22"},
)
TEXT = f"""\
# Written by `rofs lock`: every input of the images by its hash. Keep it with the profile.
schema: rofs/lock/v1
profile: gateway
epoch: 1704067200
architectures:
  amd64:
    asked:
      - kernel linux-image-cloud of bookworm
      - package adduser
    kernel: {{name: linux-image-6.1.0-1-cloud-amd64, version: 6.1.1-1, architecture: amd64, size: 7, sha256: {A}}}
    initrd: {{name: busybox-static, version: '1:1.35.0-4', architecture: amd64, size: 7, sha256: {A}}}
    packages:
      - {{name: adduser, version: '3.134', architecture: all, size: 7, sha256: '{C}'}}
      - {{name: libc6, version: 2.36-9+deb12u4, architecture: amd64, size: 7, sha256: {B}}}
  arm64:
    initrd: {{name: busybox-static, version: '1:1.35.0-4', architecture: arm64, size: 7, sha256: {B}}}
sources:
  root.tar: {A}
files:
  'files/a: b': '{C}'
  files/gateway.conf: {B}
tools:
  dpkg: 1.21.22
  rofs: 0.3.0
"""


def test_the_text(tmp_path: Path) -> None:
    assert render_lock(LOCK) == TEXT
    path = tmp_path / "gateway.lock"
    path.write_text(TEXT)
    assert load_lock(path) == LOCK
    assert lock_path(tmp_path / "gateway.yaml") == path


def test_other_readers_of_yaml_see_strings_too() -> None:
    data = yaml.safe_load(TEXT)
    assert data["architectures"]["amd64"]["packages"][0] == {
        "name": "adduser", "version": "3.134", "architecture": "all", "size": 7, "sha256": C,
    }  # fmt: skip
    assert data["architectures"]["amd64"]["initrd"]["version"] == "1:1.35.0-4"


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9+.-]{0,8}", fullmatch=True)
VERSIONS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.+~:-]{0,8}", fullmatch=True) | st.sampled_from(
    ["1:20", "3.10", "1e5", "0x1f", "no", "null", "2024-01-01", "1_0", "0755", "1:"]
)
HASHES = st.sampled_from([A, B, C, "0" * 64, "1" * 60 + "e123", "12345678" * 8])
PACKAGES = st.builds(
    Package,
    name=NAMES,
    version=VERSIONS.filter(lambda text: "_" not in text),
    architecture=st.sampled_from(["all", "amd64", "arm64"]),
    size=st.integers(0, 1 << 40),
    sha256=HASHES,
)
PATHS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
ARCHES = st.builds(
    ArchLock,
    packages=st.lists(PACKAGES, max_size=4, unique_by=lambda p: p.name).map(sort_packages),
    asked=st.sets(PATHS, max_size=3).map(lambda words: tuple(sorted(words))),
    kernel=st.none() | PACKAGES,
    initrd=st.none() | PACKAGES,
)
LOCKS = st.builds(
    Lock,
    profile=NAMES,
    epoch=st.integers(0, 2**32 - 1),
    architectures=st.dictionaries(st.sampled_from(["amd64", "arm64", "i386", "armhf"]), ARCHES, max_size=2),
    sources=st.dictionaries(PATHS, HASHES, max_size=2),
    files=st.dictionaries(PATHS, HASHES, max_size=2),
    tools=st.dictionaries(NAMES, VERSIONS, max_size=2),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lock") / "x.lock"


@given(lock=LOCKS)
def test_load_of_render_is_identity(file: Path, lock: Lock) -> None:
    text = render_lock(lock)
    file.write_bytes(text.encode())
    assert load_lock(file) == lock
    count = sum(len(a.packages) + bool(a.kernel) + bool(a.initrd) for a in lock.architectures.values())
    assert sum(line.lstrip(" -").startswith(("{name:", "kernel: {", "initrd: {")) for line in text.split("\n")) == count


@given(LOCKS, LOCKS)
def test_nothing_differs_only_between_equals(one: Lock, other: Lock) -> None:
    assert differences(one, one) == []
    assert bool(differences(one, other)) is (one != other)


CHANGES = [
    (replace(LOCK, epoch=1), "epoch 1704067200 -> 1"),
    (replace(LOCK, profile="other"), "profile gateway -> other"),
    (replace(LOCK, files={**LOCK.files, "files/gateway.conf": A}), "files/gateway.conf changed"),
    (replace(LOCK, files={**LOCK.files, "x": A}), "new: x"),
    (replace(LOCK, sources={}), "gone: root.tar"),
    (replace(LOCK, tools={**LOCK.tools, "rofs": "0.4.0"}), "rofs 0.3.0 -> 0.4.0"),
    (replace(LOCK, tools={"dpkg": "1.21.22"}), "rofs 0.3.0 -> none"),
    (replace(LOCK, architectures={"amd64": LOCK.architectures["amd64"]}), "arm64: gone"),
    (replace(LOCK, architectures={**LOCK.architectures, "i386": ArchLock()}), "i386: new"),
]
ARCH_CHANGES = [
    ({"asked": ("package adduser", "package foo")},
     ["asked for now: package foo", "no longer asked for: kernel linux-image-cloud of bookworm"]),
    ({"packages": (package("adduser", "3.134", C, "all"), package("libc6", "2.36-9+deb12u7"))},
     ["libc6 2.36-9+deb12u4 -> 2.36-9+deb12u7"]),
    ({"packages": (package("adduser", "3.134", B, "all"), package("libc6", "2.36-9+deb12u4", B))},
     ["adduser 3.134: other bytes under the same version"]),
    ({"packages": (package("adduser", "3.134", C), package("libc6", "2.36-9+deb12u4", B))},
     ["adduser 3.134: all -> amd64"]),
    ({"packages": (package("foo", "1.0"), package("libc6", "2.36-9+deb12u4", B))},
     ["gone: adduser 3.134", "new: foo 1.0"]),
    ({"kernel": package("linux-image-6.1.0-2-cloud-amd64", "6.1.2-1")},
     ["kernel: linux-image-6.1.0-1-cloud-amd64 6.1.1-1 -> linux-image-6.1.0-2-cloud-amd64 6.1.2-1"]),
    ({"kernel": None}, ["kernel: linux-image-6.1.0-1-cloud-amd64 6.1.1-1 -> none"]),
    ({"initrd": package("busybox-static", "1:1.36")}, ["busybox-static 1:1.35.0-4 -> 1:1.36"]),
]  # fmt: skip


@pytest.mark.parametrize(("new", "line"), CHANGES)
def test_a_change_in_words(new: Lock, line: str) -> None:
    assert differences(LOCK, new) == [line]


@pytest.mark.parametrize(("change", "lines"), ARCH_CHANGES)
def test_a_change_of_packages_in_words(change: dict[str, object], lines: list[str]) -> None:
    arch = replace(LOCK.architectures["amd64"], **change)  # type: ignore[arg-type]
    new = replace(LOCK, architectures={**LOCK.architectures, "amd64": arch})
    assert differences(LOCK, new) == [f"amd64: {line}" for line in lines]


BROKEN = [
    ("sha256: " + B, "sha256: B", "14:86", "bad-value"),
    ("schema: rofs/lock/v1", "schema: rofs/lock/v2", "2:9", "bad-value"),
    ("version: '3.134'", "version: 3.134", "13:34", "wrong-type"),
    ("name: libc6", "name: adduser", "14:9", "duplicate-value"),
    ("name: libc6", "name: --yes", "14:16", "bad-value"),
    ("name: libc6, ", "", "14:9", "missing-key"),
    ("files:", "filez:", "19:1", "unknown-key"),
    ("  arm64:", "  arm65:", "15:3", "unknown-key"),
    ("profile: gateway", "profile: gateway\nprofile: x", "4:1", "duplicate-key"),
    ("epoch: 1704067200", "epoch: -1", "4:8", "bad-value"),
    ("epoch: 1704067200", "epoch: [", "6:8", "yaml-syntax"),
]


@pytest.mark.parametrize(("text", "instead", "place", "rule"), BROKEN)
def test_what_is_wrong_is_said_at_its_place(tmp_path: Path, text: str, instead: str, place: str, rule: str) -> None:
    path = tmp_path / "x.lock"
    assert TEXT.count(text) >= 1
    path.write_text(TEXT.replace(text, instead, 1))
    with pytest.raises(ProfileError) as caught:
        load_lock(path)
    (problem,) = caught.value.problems
    assert (f"{problem.mark}", problem.rule) == (f"{path}:{place}", rule)


@given(st.text())
def test_any_text_is_a_lock_or_a_profile_error(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ProfileError):
        load_lock(file)


def test_a_lock_is_larger_than_a_profile_may_be(tmp_path: Path) -> None:
    many = tuple(package(f"package-{number:05}", "1.0-1") for number in range(8000))
    big = replace(LOCK, architectures={"amd64": ArchLock(packages=many)})
    (tmp_path / "x.lock").write_text(render_lock(big))
    assert load_lock(tmp_path / "x.lock") == big
    with pytest.raises(ProfileError, match="larger than"):
        load(tmp_path / "x.lock")
