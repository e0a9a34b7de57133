# SPDX-License-Identifier: MIT
"""One architecture's tree and kernel: fetched or read, and from the cache where the same was asked for before."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rofs.errors import KeyPath, Problem, ProfileError
from rofs.image.manifest import hash_file
from rofs.inputs import BoardFiles, Inputs
from rofs.machine.arch import Arch
from rofs.profile import DebianSource, DirectorySource, Profile, TarSource
from rofs.progress import Progress, age
from rofs.sources.apt import find_host_sources
from rofs.sources.archive import check_tree, unpack_tar
from rofs.sources.board import prepare_board
from rofs.sources.debian import DROP, OF_ONE_MACHINE, UnknownPackage, fetch_tree
from rofs.sources.directory import write_directory_tar
from rofs.sources.kernel import Boot, fetch_boot, fetch_busybox, load_boot
from rofs.store import Cache
from rofs.tarmembers import iter_members

KERNEL_NEEDS = ("kmod",)
"""What a kernel package depends on at run time: only its files are taken, so it is named here."""
CHUNK_BYTES = 1 << 20
FORMAT = "4"
"""Part of the cache's key: raised when the same question would be answered otherwise."""

OnLine = Callable[[str], None]
Make = Callable[[Path, OnLine], None]
"""Fills a directory of the cache, and says what it is doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A plain tar of the tree. `drop` are globs of what an image must not hold, as `union.drop_matcher` reads them.

    `keep_times`: its mtimes are part of it, and not those of a build. `inputs` is for the manifest.
    """

    tar: Path
    drop: tuple[str, ...]
    keep_times: bool
    inputs: dict[str, Any] = field(default_factory=dict)


class Fetcher:
    """For one architecture of one build; `epoch` is the newest time, in seconds."""

    def __init__(
        self,
        profile: Profile,
        inputs: Inputs,
        arch: Arch,
        cache: Cache,
        progress: Progress,
        *,
        epoch: int,
        refresh: bool,
    ) -> None:
        self.profile, self.inputs, self.arch, self.cache, self.progress = profile, inputs, arch, cache, progress
        self.epoch, self.refresh = epoch, refresh

    # --- the tree -----------------------------------------------------------------------------------

    def tree(self, work: Path, logs: Path) -> Tree:
        """The profile's source as a tar. `work` is a directory of this build's own."""
        match self.profile.source:
            case DebianSource() as source:
                return self._packages(source, logs)
            case TarSource() as source:
                return self._tar(source)
            case DirectorySource() as source:
                return self._directory(source, work)

    def _packages(self, asked: DebianSource, logs: Path) -> Tree:
        needs = KERNEL_NEEDS if self.profile.init == "systemd" else ()
        source = replace(asked, packages=tuple(dict.fromkeys((*asked.packages, *needs))))
        sources = self._apt_sources(source.suite)
        key = _key("packages", self.arch.name, asdict(source), _digest(sources), self.epoch)
        say = f"{self.arch.name}: packages ({source.suite}, {len(asked.packages)} named)"

        def make(directory: Path, on_line: OnLine) -> None:
            out, log = directory / "tree.tar", logs / "packages.log"
            fetch_tree(source, self.arch, sources, out, log, self.epoch, on_line)

        tar = self._cached("tree", key, say, make, (*source.at, "packages")) / "tree.tar"
        return Tree(tar=tar, drop=DROP, keep_times=False)

    def _tar(self, source: TarSource) -> Tree:
        path = self.inputs.trees[self.arch.name]
        with self.progress.step(f"{self.arch.name}: {path.name}") as step:
            sha256 = hash_file(path)
            step.update(f"sha256 {sha256[:12]}")
        expected = source.sha256.get(self.arch.name)
        if expected not in (None, sha256):
            at = (*source.at, "sha256")
            at = (*at, self.arch.name) if (*at, self.arch.name) in self.profile.marks.values else at
            message = f"{path} has the sha256 {sha256}, the profile says {expected}"
            hint = "it is not the file that was meant; or say the new one"
            raise ProfileError([Problem(self.profile.marks.find(at), message, "sha256", at, hint)])

        def make(directory: Path, on_line: OnLine) -> None:
            unpack_tar(path, directory / "tree.tar", sha256, on_line)

        tar = self._cached("tree", _key("tar", sha256), f"{self.arch.name}: the tree", make, source.at) / "tree.tar"
        return Tree(
            tar=tar, drop=OF_ONE_MACHINE, keep_times=True, inputs={"tar": {"name": path.name, "sha256": sha256}}
        )

    def _directory(self, source: DirectorySource, work: Path) -> Tree:
        """Read anew each time: only reading all of it would say whether it has changed."""
        path, tar = self.inputs.trees[self.arch.name], work / "tree.tar"
        with self.progress.step(f"{self.arch.name}: {source.path[self.arch.name]}") as step:
            write_directory_tar(path, tar, self.inputs.ownership, step.update)
            check_tree(tar)
        return Tree(
            tar=tar,
            drop=OF_ONE_MACHINE,
            keep_times=False,
            inputs={"directory": {"sha256": _hash_tree(tar, self.epoch)}},
        )

    # --- what boots it ------------------------------------------------------------------------------

    def boot_files(self, work: Path, logs: Path) -> Boot:
        """Kernel, modules and busybox of the target."""
        kernel, name = self.profile.kernel, self.arch.name
        if name in self.inputs.kernels:
            return self._board(self.inputs.kernels[name], work, logs)
        package = kernel.package.get(name, self.arch.default_kernel)
        sources = self._apt_sources(kernel.suite)
        key = _key("kernel", name, package, kernel.suite, _digest(sources), self.epoch)

        def make(directory: Path, on_line: OnLine) -> None:
            log = logs / "kernel.log"
            fetch_boot(package, self.arch, kernel.suite, sources, directory, log, self.epoch, on_line)

        say = f"{name}: kernel ({package})"
        return load_boot(self._cached("kernel", key, say, make, (*kernel.at, "package")))

    def _board(self, files: BoardFiles, work: Path, logs: Path) -> Boot:
        suite, log = self.profile.kernel.suite, logs / "kernel.log"
        sources = self._apt_sources(suite)
        key = _key("busybox", self.arch.name, suite, _digest(sources))

        def make(directory: Path, on_line: OnLine) -> None:
            fetch_busybox(self.arch, suite, sources, directory, log, on_line)

        busybox = self._cached("kernel", key, f"{self.arch.name}: busybox for the initrd", make, self.profile.kernel.at)
        with self.progress.step(f"{self.arch.name}: the board's kernel ({files.image.name})") as step:
            boot = prepare_board(
                files.image, files.modules, files.config, busybox, work / "kernel", log, self.epoch, arch=self.arch
            )
            step.update(boot.release or "without modules")
        return replace(boot, files=_about(files, boot))

    # --- the cache ----------------------------------------------------------------------------------

    def _apt_sources(self, suite: str) -> bytes | None:
        return self.inputs.apt_sources or find_host_sources(suite)

    def _cached(self, kind: str, key: str, say: str, make: Make, at: KeyPath) -> Path:
        with self.progress.step(say) as step:
            try:
                entry = self.cache.entry(kind, key, lambda directory: make(directory, step.update), self.refresh)
            except UnknownPackage as error:
                raise self._unknown(error, at) from None
            if entry.hit:
                step.update(f"from the cache, {age(time.time() - entry.created)} old; --refresh fetches anew")
            return entry.path

    def _unknown(self, error: UnknownPackage, at: KeyPath) -> ProfileError:
        """Each package at its own line of the profile."""
        source = self.profile.source
        names = list(source.packages) if isinstance(source, DebianSource) else []
        of_tree = at[-1] == "packages"
        suite = source.suite if of_tree and isinstance(source, DebianSource) else self.profile.kernel.suite
        problems = []
        for package in error.packages:
            place: KeyPath = (*at, names.index(package)) if of_tree and package in names else at
            name = package if of_tree else package.removesuffix(f"-{self.arch.kernel_suffix}")
            message = f"no package {name!r} in {suite}"
            hint = "apt-cache search finds its name"
            problems.append(Problem(self.profile.marks.find(place), message, "unknown-package", place, hint))
        return ProfileError(problems)


def check_machine(tree: Tree, machine: str | None, arch: Arch, profile: Profile) -> None:
    """Refuse a tree of another architecture; what no program in it tells is taken on trust."""
    if machine not in (None, arch.name):
        source = profile.source
        at = (*source.at, "path")
        name = tree.tar.name if isinstance(source, DebianSource) else source.path[arch.name]
        message = f"{name} holds programs for {machine}, not for {arch.name}"
        hint = "name the tree of each architecture: path: {amd64: …, arm64: …}, or change `architectures`"
        raise ProfileError([Problem(profile.marks.find(at), message, "wrong-machine", at, hint)])


def _about(files: BoardFiles, boot: Boot) -> dict[str, dict[str, str]]:
    """Name and sha256 of a board's own files; of a directory of modules, that of the tar made of it."""
    found = {"image": (files.image, files.image)}
    if files.modules is not None:
        found["modules"] = (files.modules, boot.modules_tar if files.modules.is_dir() else files.modules)
    if files.config is not None:
        found["config"] = (files.config, files.config)
    return {key: {"name": path.name, "sha256": hash_file(hashed)} for key, (path, hashed) in found.items()}


def _hash_tree(tar: Path, epoch: int) -> str:
    """Of all that an image gets of a directory: newer times become `epoch` there, so they make no difference."""
    digest = hashlib.sha256()
    for archive, info in iter_members(tar):
        about = (info.name, info.type, info.mode, info.uid, info.gid, min(int(info.mtime), epoch), info.size)
        more = (info.linkname, info.devmajor, info.devminor, sorted(info.pax_headers.items()))
        digest.update(repr((*about, *more)).encode("utf-8", "surrogateescape"))
        content = archive.extractfile(info) if info.isfile() else None
        while content is not None and (piece := content.read(CHUNK_BYTES)):
            digest.update(piece)
    return digest.hexdigest()


def _digest(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps((FORMAT, *parts), sort_keys=True, default=str).encode()).hexdigest()
