# SPDX-License-Identifier: MIT
"""A profile beside its files, a small archive that apt reads, and `rofs` run on them in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aptrepo import Repository

from rofs import cli
from rofs.lock import Lock, load_lock

PROFILE = """\
schema: rofs/v1
name: p
architectures: [arm64, amd64]
init: other
source: {debian: {suite: bookworm, variant: extract, packages: [less], sources: apt/sources}}
files:
  - {path: /etc/motd, source: files/motd}
  - {path: /etc/issue, source: files/issue}
home: [{user: root, dotfiles: dots}]
"""
NAMES = {"less", "libc", "busybox-static", "linux-image-6.1.0-1-amd64", "linux-image-6.1.0-1-arm64"}


def make_archive(root: Path) -> Repository:
    """All that PROFILE asks for; architecture `all`, so that it is there for each."""
    root.mkdir()
    repo = Repository(root)
    repo.add("less", Depends="libc")
    repo.add("libc", "2.36-9+deb12u4")
    repo.add("busybox-static", "1:1.35")
    for arch in ("amd64", "arm64"):
        repo.add(f"linux-image-cloud-{arch}", Depends=f"linux-image-6.1.0-1-{arch}")
        repo.add(f"linux-image-6.1.0-1-{arch}", "6.1.1")
    return repo


@dataclass
class Shop:
    """`here` holds p.yaml, the files it names, and its lock once there is one."""

    here: Path
    repo: Repository
    cache: Path

    @property
    def profile(self) -> Path:
        return self.here / "p.yaml"

    @property
    def lock(self) -> Lock:
        return load_lock(self.here / "p.lock")

    def edit(self, old: str, new: str, name: str = "p.yaml") -> None:
        path = self.here / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def run(self, verb: str, *words: str | Path) -> int:
        """The exit status."""
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, *map(str, words), "--progress", "quiet"])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    def build(self, *words: str | Path) -> int:
        return self.run("build", self.profile, "--no-verify", "--output", self.here.parent / "images", *words)


def make_shop(top: Path, repo: Repository) -> Shop:
    here = top / "here"
    for name in ("files", "dots", "apt"):
        (here / name).mkdir(parents=True)
    (here / "p.yaml").write_text(PROFILE)
    (here / "files/motd").write_text("hello\n")
    (here / "files/issue").write_text("issue\n")
    (here / "dots/.profile").write_text("umask 077\n")
    (here / "apt/sources").write_bytes(repo.publish())
    return Shop(here, repo, top / "cache")


def seen(top: Path) -> dict[str, str]:
    """Everything below a directory, by content; of what is kept in a cache only what is whole."""
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


@contextmanager
def with_its_cache(shop: Shop) -> Iterator[None]:
    """What `rofs` keeps meanwhile is the shop's, and the epoch is the default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROFS_CACHE_DIR", str(shop.cache))
        patch.delenv("SOURCE_DATE_EPOCH", raising=False)
        yield
