# SPDX-License-Identifier: MIT
"""What a profile asks of apt -> the exact packages that are the answer, by version and sha256.

The private apt of `sources/apt.py` is asked what mmdebstrap(1) would ask it, in the same two steps: first
the essential packages, then, with those installed, what was named and what the variant's priorities bring.
Nothing is downloaded but the lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from rofs.errors import ToolError
from rofs.machine.arch import Arch
from rofs.packages import Package, sort_packages
from rofs.profile import DebianSource
from rofs.sources.apt import PrivateApt, default_sources, host_options, make_private_apt
from rofs.sources.debian import UnknownPackage, explain_apt, merges_usr

BUSYBOX = "busybox-static"

_BY_SHA256 = "-oAcquire::ForceHash=SHA256"
_PRIORITIES = {
    "minbase": "?priority(required)",
    "important": "?or(?priority(required),?priority(important))",
    "standard": "?or(?priority(required),?priority(important),?priority(standard))",
}
_URI = re.compile(r"^'(?P<uri>[^']*)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$", re.MULTILINE)
_MERGED = """\
Package: usr-is-merged
Status: install ok installed
Version: 1
Architecture: all
Multi-Arch: foreign
Maintainer: rofs
Description: stands for the real one until that is installed
"""
"""As mmdebstrap's hook has it from the start; without it apt chooses `usrmerge`, and all of perl."""


def open_apt(
    root: Path,
    arch: Arch,
    suite: str,
    apt_sources: bytes | None,
    log: Path,
    say: Callable[[str], None],
) -> PrivateApt:
    """A private apt in the empty directory `root`, its lists read; without `apt_sources` mmdebstrap's choice of them.

    SourceError where the lists cannot be had.
    """
    root.mkdir(parents=True, exist_ok=True)
    sources = default_sources(suite, root, log) if apt_sources is None else apt_sources
    apt = make_private_apt(root / "apt", arch, sources, host_options(), log)
    say("package lists")
    try:
        apt.run("apt-get", "update", "-q", "--error-on=any")
    except ToolError as error:
        raise explain_apt(error, suite) from error
    return apt


def resolve_tree(apt: PrivateApt, source: DebianSource, arch: Arch) -> tuple[Package, ...]:
    """Every package of the tree, sorted by name. Raises UnknownPackage or SourceError."""
    merged = merges_usr(source)
    status = apt.root / "status"
    status.write_text(_MERGED if merged else "", encoding="utf-8")
    named = list(source.packages)
    if source.variant == "extract":
        return sort_packages(_install(apt, named, source.suite, status))
    base = _install(apt, [_narrow(source.suite, arch, "?essential")], source.suite, status)
    status.write_text(status.read_text("utf-8") + _installed(apt, base), encoding="utf-8")
    if merged:
        named.append("usr-is-merged")
    if source.variant in _PRIORITIES:
        named.append(_narrow(source.suite, arch, f"?and({_PRIORITIES[source.variant]},?not(?essential))"))
    rest = _install(apt, named, source.suite, status)
    replaced = {package.name for package in rest}
    return sort_packages([*(package for package in base if package.name not in replaced), *rest])


def resolve_kernel(apt: PrivateApt, package: str, arch: Arch) -> Package:
    """The package that holds the kernel; the architecture's suffix is put behind `package` where it is not there.

    A name like linux-image-cloud-arm64 only depends on the newest. Raises UnknownPackage.
    """
    suffix = f"-{arch.kernel_suffix}"
    name = package.removesuffix(suffix) + suffix
    try:
        about = apt.run("apt-cache", "show", "--no-all-versions", name).stdout
    except ToolError as error:
        raise UnknownPackage([name]) from error
    return _candidate(apt, kernel_of(name, about))


def resolve_busybox(apt: PrivateApt) -> Package:
    """The static busybox of an initrd. Raises UnknownPackage."""
    return _candidate(apt, BUSYBOX)


def kernel_of(package: str, about: str) -> str:
    """A kernel package's control fields -> the name of the image package it stands for, often itself."""
    depends = re.search(r"^Depends: (.*)$", about, re.MULTILINE)
    found = re.search(r"(?:^|[ ,|])(linux-image-\d\S*)", depends[1]) if depends else None
    return found[1].rstrip(",") if found else package


def _candidate(apt: PrivateApt, name: str) -> Package:
    """The version apt would install, without what it depends on."""
    try:
        said = apt.run("apt-get", "download", "--print-uris", "-qq", _BY_SHA256, name).stdout
    except ToolError as error:
        raise explain_apt(error, "") from error
    (package,) = parse_uris(said)
    return package


def _install(apt: PrivateApt, wanted: Sequence[str], suite: str, status: Path) -> list[Package]:
    """What `apt-get install` would download, with the packages of `status` installed."""
    if not wanted:
        return []
    options = ["--print-uris", "--yes", "-qq", _BY_SHA256, f"-oDir::State::status={status}"]
    try:
        return parse_uris(apt.run("apt-get", "install", *options, *wanted).stdout)
    except ToolError as error:
        raise explain_apt(error, suite) from error


def parse_uris(said: str) -> list[Package]:
    """The lines of apt-get's --print-uris: 'URI' NAME_VERSION_ARCHITECTURE.deb SIZE SHA256:..."""
    found = []
    for match in _URI.finditer(said):
        name, version, architecture = unquote(match["file"]).removesuffix(".deb").split("_")
        found.append(
            Package(
                name=name, version=version, architecture=architecture, size=int(match["size"]), sha256=match["sha256"]
            )
        )
    return found


def _narrow(suite: str, arch: Arch, pattern: str) -> str:
    """The packages of a suite that apt-patterns(7) choose, as mmdebstrap says it."""
    return f"?narrow(?or(?archive(^{suite}$),?codename(^{suite}$)),?architecture({arch.name}),{pattern})"


def _installed(apt: PrivateApt, packages: Iterable[Package]) -> str:
    """dpkg's status(5) paragraphs of packages, as if they were installed."""
    said = apt.run("apt-cache", "show", *(f"{p.name}={p.version}" for p in packages)).stdout
    return "".join(f"\nStatus: install ok installed\n{paragraph}\n" for paragraph in said.strip().split("\n\n"))
