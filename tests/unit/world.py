# SPDX-License-Identifier: MIT
"""A directory with a profile of a small tar in any number of versions, its kernel and busybox, and rofs on it offline.

Nothing of it is fetched: busybox comes from a repository on disk. Everything that a build may write is below `root`.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aptrepo import Repository
from tarmaker import file, folder, write_tar
from test_board import arm64_image, x86_image

ROOT = Path(__file__).resolve().parents[2]
NEEDS = ("tar2sqfs", "apt-get", "apt-config", "dpkg-deb")
PROFILE = """\
schema: rofs/v1
name: {name}
architectures: [{arch}]
init: other
source: {{tar: {{path: {tar}}}}}
kernel: {{image: Image.{arch}}}
image: {{compression: zstd, level: {level}}}
"""
HEARING = ("env", "--default-signal=INT")
"""A shell lets what it starts in the background ignore SIGINT, and whoever is below inherits that."""


@dataclass(frozen=True)
class World:
    """Where all of it lies."""

    root: Path

    def __post_init__(self) -> None:
        for path in (self.root, self.output, self.tmp):
            path.mkdir(parents=True)
        (self.root / "Image.amd64").write_bytes(x86_image(0x20F, 0x7F))
        (self.root / "Image.arm64").write_bytes(arm64_image())

    @property
    def output(self) -> Path:
        """Where it publishes."""
        return self.root / "images"

    @property
    def tmp(self) -> Path:
        """Its $TMPDIR."""
        return self.root / "tmp"

    @property
    def made(self) -> Path:
        """The keys of the cache that were made, a line each."""
        return self.root / "made"

    @cached_property
    def sources(self) -> Path:
        """apt's, of a repository that has busybox."""
        repo = Repository(self.root / "repo")
        for arch in ("amd64", "arm64"):
            repo.add("busybox-static", arch=arch, files={"bin/busybox": f"busybox for {arch}"})
            repo.debs[arch] = repo.debs.pop("busybox-static")
        path = self.root / "sources.list"
        path.write_bytes(repo.publish())
        return path

    def profile(self, version: int, *, name: str = "kills", arch: str = "amd64", level: int = 5, mib: int = 4) -> Path:
        """Write a version of the profile and its tar; each version has other content, most of it as in the others."""
        path = self.root / f"{name}-{arch}-{version}.yaml"
        tar = f"{name}-{version}.tar"
        same = random.Random(0)
        rows = [file("./etc/version", b"%d" % version), file("./sbin/init", b"#!/bin/sh\n", mode=0o755)]
        rows += [file(f"./data/{n}", same.randbytes(1 << 16) + bytes(1 << 16)) for n in range(mib * 8)]
        rows += [file(f"./own/{n}", random.Random(version).randbytes(1 << 16)) for n in range(4)]
        write_tar(self.root / tar, folder("./"), folder("./etc"), folder("./data"), folder("./own"), *rows)
        path.write_text(PROFILE.format(name=name, arch=arch, tar=tar, level=level))
        return path

    def start(
        self, profile: Path, *options: str | Path, output: Path | None = None, cache: Path | None = None, **env: str
    ) -> subprocess.Popen[str]:
        """`rofs build` in a process group of its own, its words on pipes."""
        argv = [*HEARING, sys.executable, ROOT / "tests/unit/offline.py", self.sources, self.made]
        argv += ["build", profile, "--no-verify", "--progress", "plain", "--output", output or self.output, *options]
        given = {"ROFS_CACHE_DIR": str(cache or self.root / "cache"), "TMPDIR": str(self.tmp), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            list(map(str, argv)), cwd=ROOT, env={**os.environ, **given, **env}, process_group=0, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def build(self, profile: Path, *options: str | Path, **other: Path) -> subprocess.CompletedProcess[str]:
        """The same to its end."""
        process = self.start(profile, *options, **other)  # type: ignore[arg-type]
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def left_over(self, *places: Path) -> list[Path]:
        """What builds make for themselves, and must not leave."""
        roots = places or (self.output, self.root / "cache")
        found = [path for root in roots for pattern in TEMPORARY for path in root.rglob(pattern)]
        return sorted({*found, *self.tmp.iterdir()})


TEMPORARY = (".rofs-work-*", "*.part", "tmp*", ".work-*", "apt-*")


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
