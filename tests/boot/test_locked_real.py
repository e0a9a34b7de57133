# SPDX-License-Identifier: MIT
"""The real apt, mmdebstrap and mirror: a locked build is the same without network, and says nothing of this host."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rofs.lock import load_lock
from rofs.machine.arch import host_arch
from rofs.sources.apt import find_host_sources, host_options
from tests.conftest import PROFILES, ROOT

pytestmark = [
    pytest.mark.boot,
    pytest.mark.slow,
    pytest.mark.needs("root", "unshare", "mount", "mmdebstrap", "apt-get", "depmod", "tar2sqfs", "sqfs2tar"),
]

OWN = str(host_arch())
SMALL = """\
schema: rofs/v1
name: small
architectures: [amd64, arm64]
init: other
source: {debian: {suite: bookworm, variant: essential, packages: [apt]}}
files: [{path: /sbin/init, link: ../bin/dash}]
kernel: {install_modules: false}
image: {compression: zstd, level: 1}
"""
"""Debian with the scripts of its packages, and with all places where apt leaves traces."""

PLANTED = "proxy.rofs-test.example.org"
"""A proxy of the host in the first build, for a mirror that nobody has."""
PLANT = 'mount --bind "$1" /etc/apt/apt.conf.d; shift; exec "$@"'
OFFLINE = "! grep -v -e '|' -e ' lo:' /proc/net/dev; exec \"$@\""
READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; ! touch "$1/x" 2>&-; shift; ' + OFFLINE


def rofs(script: str, cache: Path, *words: str | Path, more: tuple[Path, ...] = ()) -> str:
    """Run it as root of namespaces of its own, behind a shell script -> what it said on stderr."""
    namespaces = ["--mount"] if script == PLANT else ["--mount", "--net"]
    argv = ["unshare", *namespaces, "sh", "-ec", script, "sh", *more, sys.executable, "-m", "rofs", *words]
    env = {**os.environ, "ROFS_CACHE_DIR": str(cache)}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stderr


@dataclass(frozen=True)
class Site:
    """A profile that was locked for two architectures and built for the host's, with a proxy in apt's configuration."""

    profile: Path
    cache: Path
    image: Path

    @property
    def published(self) -> dict[str, str]:
        """All that a build publishes but its logs."""
        return published(self.image)


def published(image: Path) -> dict[str, str]:
    files = [path for path in image.rglob("*") if path.is_file() and "logs" not in path.relative_to(image).parts]
    assert files
    return {str(path.relative_to(image)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def build(site: Site, script: str, cache: Path, output: Path, *words: str | Path, more: tuple[Path, ...] = ()) -> Path:
    said = rofs(script, cache, "build", "--locked", "--no-verify", "--arch", OWN, "--output", output, *words, more=more)
    assert "from the cache" not in said
    return output / site.profile.stem / OWN


@pytest.fixture(scope="module", params=["busybox", "small"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    top = tmp_path_factory.mktemp(request.param)
    here, output = top / "here", top / "images"
    here.mkdir()
    profile = here / f"{request.param}.yaml"
    if request.param == "busybox":
        shutil.copytree(PROFILES / "files", here / "files")
        shutil.copy(PROFILES / profile.name, profile)
    else:
        profile.write_text(SMALL)
    site = Site(profile, top / "cache", output / profile.stem / OWN)
    conf = shutil.copytree("/etc/apt/apt.conf.d", top / "conf")
    (conf / "99rofs-test").write_text(f'Acquire::http::Proxy::nobody.example.org "http://{PLANTED}:3128";\n')
    rofs(PLANT, site.cache, "lock", profile, more=(conf,))
    build(site, PLANT, site.cache, output, profile, more=(conf,))
    yield site
    shutil.rmtree(top)


@pytest.mark.parametrize("site", ["busybox"], indirect=True)  # the other tree is installed once more below
def test_from_the_packages_that_are_kept(site: Site, tmp_path: Path) -> None:
    for kind in site.cache.iterdir():
        if kind.name != "debs":
            shutil.rmtree(kind)
    assert published(build(site, OFFLINE, site.cache, tmp_path, site.profile)) == site.published


def test_from_what_was_carried(site: Site, tmp_path: Path) -> None:
    carried = tmp_path / "carried"
    rofs(OFFLINE, site.cache, "export-inputs", site.profile, carried, "--arch", OWN)
    words = ("--inputs", carried, carried / site.profile.name)
    image = build(site, READ_ONLY, tmp_path / "cache", tmp_path / "images", *words, more=(carried,))
    assert published(image) == site.published


def host_words() -> set[bytes]:
    """The names in this host's sources and proxies, read now and written down nowhere."""
    proxies = [value for name, value in os.environ.items() if name.lower().endswith("_proxy")]
    text = "\n".join([(find_host_sources("bookworm") or b"").decode(), *host_options(), *proxies])
    return {name.encode() for name in re.findall(r"//(?:[^/@\s]*@)?([\w.-]+)", text)} | {PLANTED.encode()}


def texts(site: Site, tmp_path: Path) -> dict[str, bytes]:
    """Lock, published texts, and the image but for /usr, where packages may name a mirror of Debian's own."""
    found = {"lock": site.profile.with_suffix(".lock").read_bytes()}
    found |= {path.name: path.read_bytes() for path in site.image.iterdir() if path.suffix in (".json", ".yaml")}
    tar = tmp_path / "root.tar"
    with tar.open("wb") as out:
        subprocess.run(["sqfs2tar", str(site.image / "rootfs.squashfs")], stdout=out, check=True)
    with tarfile.open(tar) as stream:
        for member in stream:
            file = stream.extractfile(member) if member.isfile() else None
            if file is not None and not member.name.startswith("usr/"):
                found[f"/{member.name}"] = file.read()
    return found


def test_no_trace_of_the_hosts_mirror_or_proxy(site: Site, tmp_path: Path) -> None:
    found, words = texts(site, tmp_path), host_words()
    assert [name for name, data in found.items() if any(word in data for word in words)] == []
    assert {"lock", "manifest.json", "sbom.spdx.json", "sbom.cdx.json"} <= found.keys()
    if site.profile.stem == "small":
        assert any(name.startswith("/etc/apt/") for name in found)
        assert any(name.startswith("/var/lib/dpkg/") for name in found)


def test_both_architectures_are_locked(site: Site) -> None:
    found = load_lock(site.profile.with_suffix(".lock")).architectures
    assert found.keys() == {"amd64", "arm64"}
    for name, arch in found.items():
        assert arch.kernel and arch.initrd and {arch.kernel.architecture, arch.initrd.architecture} == {name}
        assert {package.architecture for package in arch.packages} <= {name, "all"}
