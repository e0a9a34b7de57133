# SPDX-License-Identifier: MIT
"""A small apt repository on disk: tiny packages by dpkg-deb, an index and a Release, no network."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rofs.packages import Package

SUITE = "bookworm"


@dataclass
class Repository:
    """A flat repository of one suite below `root`. Each `add` or `remove` is in the index after `publish`."""

    root: Path
    debs: dict[str, Path] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)

    def add(
        self, name: str, version: str = "1.0", *, arch: str = "all", content: str = "",
        files: Mapping[str, str] | None = None, **fields: str,
    ) -> Package:  # fmt: skip
        """Build a package; `Pre_Depends="x"` is the field Pre-Depends. One of the same name goes."""
        tree = self.root / "trees" / f"{name}-{version.replace(':', '-')}-{arch}-{len(content)}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "usr/share" / name).mkdir(parents=True)
        (tree / "usr/share" / name / "content").write_text(content or name)
        for path, text in (files or {}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
        about = {"Package": name, "Version": version, "Architecture": arch, "Maintainer": "x <x@example.org>"}
        about |= {key.replace("_", "-"): value for key, value in fields.items()} | {"Description": f"the {name}"}
        (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in about.items()))
        deb = self.root / f"{tree.name}.deb"
        argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(deb)]
        subprocess.run(argv, check=True, capture_output=True)
        self.debs[name] = deb
        return Package(
            name=name, version=version, architecture=arch, size=deb.stat().st_size,
            sha256=hashlib.sha256(deb.read_bytes()).hexdigest(),
        )  # fmt: skip

    def remove(self, name: str) -> None:
        self.debs.pop(name).unlink()

    def publish(self) -> bytes:
        """Write the index -> the sources of apt."""
        paragraphs = []
        for name, deb in self.debs.items():
            said = subprocess.run(["dpkg-deb", "--field", deb], check=True, capture_output=True, text=True).stdout
            sha256 = hashlib.sha256(deb.read_bytes()).hexdigest()
            more = f"Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {sha256}\n"
            paragraphs.append(said + self.overrides.get(name, "") + more)
        index = "\n".join(paragraphs).encode()
        (self.root / "Packages").write_bytes(index)
        digest = f" {hashlib.sha256(index).hexdigest()} {len(index)} Packages"
        (self.root / "Release").write_text(f"Suite: {SUITE}\nCodename: {SUITE}\nSHA256:\n{digest}\n")
        return f"deb [trusted=yes] file:{self.root} ./\n".encode()


def base_repository(root: Path) -> Repository:
    """What every resolution finds: essential packages, a choice, priorities, a kernel and a busybox."""
    repo = Repository(root)
    repo.add("base-files", Essential="yes", Pre_Depends="awk", Priority="required")
    repo.add("mawk", Provides="awk", Priority="required")
    repo.add("gawk", Provides="awk", Priority="optional")
    repo.add("helper", Essential="yes", Depends="usrmerge | usr-is-merged", Priority="required")
    repo.add("usrmerge", Depends="perl")
    repo.add("perl")
    repo.add("usr-is-merged", "37")
    repo.add("apt", "2.6", arch="amd64", Priority="important")
    repo.add("gzip", arch="amd64", Priority="required")
    repo.add("less", arch="amd64", Priority="standard")
    repo.add("sshd", "1:9.2-1", arch="amd64", Depends="libc", Recommends="perl")
    repo.add("scripts", Depends="gawk | awk")
    repo.add("libc", "2.36-9+deb12u4", arch="amd64")
    repo.add("busybox-static", "1:1.35", arch="amd64")
    repo.add("linux-image-mine-amd64", "6.1", arch="amd64", Depends="linux-image-6.1.0-1-amd64 (= 6.1.1)")
    repo.add("linux-image-6.1.0-1-amd64", "6.1.1", arch="amd64", Depends="kmod, initramfs-tools")
    return repo
