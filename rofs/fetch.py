# SPDX-License-Identifier: MIT
"""One architecture's tree and kernel: fetched or read, and from the cache where the same was asked for before."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import Any

from rofs.errors import KeyPath, Problem, ProfileError, SourceError
from rofs.image.manifest import hash_file
from rofs.inputs import BoardFiles, Inputs
from rofs.lock import ArchLock, asked_differences
from rofs.machine.arch import Arch
from rofs.ownership import Ownership
from rofs.packages import Deb, Package
from rofs.profile import DebianSource, DirectorySource, Profile, TarSource
from rofs.progress import Progress, age
from rofs.sources.apt import PrivateApt, find_host_sources
from rofs.sources.archive import check_tree, is_plain, unpack_tar
from rofs.sources.board import prepare_board
from rofs.sources.debian import DROP, OF_ONE_MACHINE, UnknownPackage, install_tree
from rofs.sources.debs import DebStore
from rofs.sources.directory import write_directory_tar
from rofs.sources.kernel import Boot, load_boot, make_boot, make_busybox
from rofs.sources.resolve import BUSYBOX, open_apt, resolve_busybox, resolve_kernel, resolve_tree
from rofs.store import Cache, CacheEntry
from rofs.tarindex import write_index
from rofs.tarmembers import iter_members
from rofs.tools import KERNEL_TOOLS, TREE_TOOLS, tool_versions

KERNEL_NEEDS = ("kmod",)
"""What a kernel package depends on at run time: only its files are taken, so it is named here."""
CHUNK_BYTES = 1 << 20
FORMAT = "5"
"""Part of the cache's keys: raised when the same parts would give something else."""

LOCKED = "as locked"

OnLine = Callable[[str], None]
Ask = Callable[[PrivateApt], tuple[Package, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A plain tar of the tree. `drop` are globs of what an image must not hold, as `union.drop_matcher` reads them.

    `keep_times`: its mtimes are part of it, and not those of a build. `inputs` is for the manifest. `state` is that
    of a tar which is the user's own file, from before it was read.
    """

    tar: Path
    drop: tuple[str, ...]
    keep_times: bool
    inputs: dict[str, Any] = field(default_factory=dict)
    state: tuple[int, ...] = field(default=(), compare=False)


class Fetcher:
    """For one architecture of one build; `epoch` is the newest time, in seconds.

    With `locked` nothing is resolved, and nothing else is fetched. Without it the last resolution counts
    until `refresh`. With `carried`, packages that the store lacks are taken from there and from nowhere else.
    """

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
        locked: ArchLock | None = None,
        carried: DebStore | None = None,
    ) -> None:
        self.profile, self.inputs, self.arch, self.cache, self.progress = profile, inputs, arch, cache, progress
        self.epoch, self.refresh, self.locked, self.carried = epoch, refresh, locked, carried
        self.store = DebStore(cache.root / "debs")
        self.answers: list[Path] = []
        """Where in the cache apt's answers are that were used."""
        self._apt = Lock()
        self._apts: dict[tuple[str, str], PrivateApt] = {}

    # --- which packages -----------------------------------------------------------------------------

    def asked(self) -> tuple[str, ...]:
        """What the profile asks of apt, in sorted words: the part of a lock that says whether it still fits."""
        words = []
        if isinstance(self.profile.source, DebianSource):
            source = self._with_needs(self.profile.source)
            words += [f"suite {source.suite}", f"variant {source.variant}"]
            words += [f"package {name}" for name in source.packages]
        words.append(f"{self._kernel_package() or 'busybox for the initrd'} of {self.profile.kernel.suite}")
        return tuple(sorted(words))

    def resolution(self, work: Path, logs: Path) -> ArchLock:
        """What a lock holds of this architecture; as far as it is not locked, asked of apt or of the cache."""
        packages: tuple[Package, ...] = ()
        if isinstance(self.profile.source, DebianSource):
            with self.progress.step(f"{self.arch.name}: packages") as step:
                packages, _ = self._tree_packages(self.profile.source, work, logs, step.update)
        with self.progress.step(f"{self.arch.name}: kernel") as step:
            *kernel, initrd = self._boot_packages(work, logs, step.update)[0]
        return ArchLock(asked=self.asked(), packages=packages, kernel=kernel[0] if kernel else None, initrd=initrd)

    def debs(self, work: Path, logs: Path) -> list[Deb]:
        """The file of every package that goes into the image; what the store does not have is fetched."""
        found = self.resolution(work, logs)
        boot = [package for package in (found.kernel, found.initrd) if package]
        with self.progress.step(f"{self.arch.name}: the packages' files") as step:
            debs = self._debs(boot, self.profile.kernel.suite, work, logs / "kernel.log", step.update)
            if isinstance(self.profile.source, DebianSource):
                suite = self.profile.source.suite
                debs += self._debs(found.packages, suite, work, logs / "packages.log", step.update)
        return debs

    def _tree_packages(
        self, asked: DebianSource, work: Path, logs: Path, say: OnLine
    ) -> tuple[tuple[Package, ...], str]:
        """The packages of the tree, and since when they are known."""
        if self.locked:
            return self._locked(self.locked).packages, LOCKED
        source = self._with_needs(asked)
        about = ("tree", source.suite, source.variant, source.packages)

        def ask(apt: PrivateApt) -> tuple[Package, ...]:
            return resolve_tree(apt, source, self.arch)

        return self._resolved(about, source.suite, ask, (*source.at, "packages"), (work, logs / "packages.log"), say)

    def _boot_packages(self, work: Path, logs: Path, say: OnLine) -> tuple[tuple[Package, ...], str]:
        """The kernel's package, if it is one, and busybox's; and since when they are known."""
        name, kernel = self._kernel_package(), self.profile.kernel
        if self.locked:
            locked = self._locked(self.locked)
            found = (*([locked.kernel] if name else []), locked.initrd)
            if None in found:
                raise SourceError(f"{self.arch.name}: the lock names no kernel or no {BUSYBOX}; `rofs lock` does")
            return tuple(package for package in found if package), LOCKED

        def ask(apt: PrivateApt) -> tuple[Package, ...]:
            return (*([resolve_kernel(apt, name, self.arch)] if name else []), resolve_busybox(apt))

        at = (*kernel.at, "package") if name else kernel.at
        return self._resolved(("boot", name, kernel.suite), kernel.suite, ask, at, (work, logs / "kernel.log"), say)

    def _kernel_package(self) -> str:
        """The package that is asked for; "" where a board brings its own kernel."""
        if self.arch.name in self.inputs.kernels:
            return ""
        return self.profile.kernel.package.get(self.arch.name, self.arch.default_kernel)

    def _locked(self, locked: ArchLock) -> ArchLock:
        """The lock, if it answers what the profile asks now."""
        if other := list(asked_differences(locked.asked, self.asked())):
            lines = "\n  ".join(other)
            raise SourceError(f"{self.arch.name}: the lock is not of this profile (rofs lock renews it):\n  {lines}")
        return locked

    def _with_needs(self, asked: DebianSource) -> DebianSource:
        needs = KERNEL_NEEDS if self.profile.init == "systemd" else ()
        return replace(asked, packages=tuple(dict.fromkeys((*asked.packages, *needs))))

    def _resolved(
        self, about: tuple[object, ...], suite: str, ask: Ask, at: KeyPath, places: tuple[Path, Path], say: OnLine
    ) -> tuple[tuple[Package, ...], str]:
        """The answer of apt, kept in the cache by the question."""
        sources = self._apt_sources(suite)
        key = _key("resolution", self.arch.name, *about, _digest(sources))

        def make(directory: Path) -> None:
            with self._private_apt(suite, *places, say) as apt:
                packages = [asdict(package) for package in ask(apt)]
            (directory / "packages.json").write_text(json.dumps(packages), encoding="utf-8")

        try:
            entry = self.cache.entry("resolution", key, make, self.refresh)
        except UnknownPackage as error:
            raise self._unknown(error, at) from None
        self.answers.append(entry.path)
        packages = json.loads((entry.path / "packages.json").read_text("utf-8"))
        since = f"resolved {age(time.time() - entry.created)} ago; --refresh resolves anew" if entry.hit else ""
        return tuple(Package(**package) for package in packages), since

    @contextmanager
    def _private_apt(self, suite: str, work: Path, log: Path, say: OnLine) -> Iterator[PrivateApt]:
        """The apt of this build for the sources of a suite, for one thread at a time."""
        sources = self._apt_sources(suite)
        key = suite, _digest(sources)
        with self._apt:
            if key not in self._apts:
                root = Path(mkdtemp(prefix="apt-", dir=work))
                self._apts[key] = open_apt(root, self.arch, suite, sources, log, say)
            yield self._apts[key]

    def _debs(self, packages: Sequence[Package], suite: str, work: Path, log: Path, say: OnLine) -> list[Deb]:
        """The file of each package, from the store; what is not there is fetched."""
        if wanted := self.store.missing(packages):
            for path in filter(Path.exists, map(self.store.path, wanted)):
                self.progress.remark(f"{path} is damaged; it is fetched again")
            with self.store.alone(wanted):
                self._take(self.store.missing(wanted), suite, work, log, say)
        return [(package, self.store.path(package)) for package in packages]

    def _take(self, missing: Sequence[Package], suite: str, work: Path, log: Path, say: OnLine) -> None:
        """Into the store, from what was carried here or from apt's sources."""
        if missing and self.carried:
            say(f"{len(missing)} packages from {self.carried.root}")
            self.store.copy_from(self.carried, missing)
        elif missing:
            with self._private_apt(suite, work, log, say) as apt:
                say(f"{len(missing)} packages to fetch, {sum(p.size for p in missing) >> 20} MiB")
                self.store.fetch(missing, apt)

    # --- the tree -----------------------------------------------------------------------------------

    def tree(self, work: Path, logs: Path) -> Tree:
        """The profile's source as a tar. `work` is a directory of this build's own."""
        match self.profile.source:
            case DebianSource() as source:
                return self._packages(source, work, logs)
            case TarSource() as source:
                return self._tar(source)
            case DirectorySource() as source:
                return self._directory(source, work)

    def _packages(self, source: DebianSource, work: Path, logs: Path) -> Tree:
        log = logs / "packages.log"
        with self.progress.step(f"{self.arch.name}: packages ({source.suite}, {len(source.packages)} named)") as step:
            packages, since = self._tree_packages(source, work, logs, step.update)
            how = (source.suite, source.variant, source.docs, source.locales, self.epoch, tool_versions(TREE_TOOLS))
            key = _key("packages", self.arch.name, _hashes(packages), *how)

            def make(directory: Path) -> None:
                debs = self._debs(packages, source.suite, work, log, step.update)
                install_tree(source, self.arch, debs, directory / "tree.tar", log, self.epoch, step.update)
                write_index(directory / "tree.tar")

            entry = self.cache.entry("tree", key, make)
            step.update(_told(entry, since))
        return Tree(tar=entry.path / "tree.tar", drop=DROP, keep_times=False)

    def _tar(self, source: TarSource) -> Tree:
        path = self.inputs.trees[self.arch.name]
        state = _state(path)
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

        plain = is_plain(path)
        with self.progress.step(f"{self.arch.name}: the tree") as step:

            def make(directory: Path) -> None:
                if plain:  # read where it is: the entry says that it was checked
                    check_tree(path, path.name, step.update)
                else:
                    unpack_tar(path, directory / "tree.tar", sha256, step.update)
                    write_index(directory / "tree.tar")

            entry = self.cache.entry("tree", _key("plain tar" if plain else "tar", sha256), make)
            step.update(_told(entry, ""))
        return Tree(
            tar=path if plain else entry.path / "tree.tar", drop=OF_ONE_MACHINE, keep_times=True,
            inputs={"tar": {"name": path.name, "sha256": sha256}}, state=state if plain else (),
        )  # fmt: skip

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
        log, suite = logs / "kernel.log", self.profile.kernel.suite
        kernel = self._kernel_package()
        with self.progress.step(f"{self.arch.name}: {f'kernel ({kernel})' if kernel else BUSYBOX}") as step:
            packages, since = self._boot_packages(work, logs, step.update)
            key = _key("boot", _hashes(packages), self.epoch, tool_versions(KERNEL_TOOLS))

            def make(directory: Path) -> None:
                debs = self._debs(packages, suite, work, log, step.update)
                if kernel:
                    make_boot(debs, directory, log, self.epoch, step.update)
                    write_index(directory / "modules.tar")
                else:
                    make_busybox(debs, directory, log)

            entry = self.cache.entry("kernel", key, make)
            step.update(_told(entry, since))
        if kernel:
            return load_boot(entry.path)
        return self._board(self.inputs.kernels[self.arch.name], entry.path, work, log)

    def _board(self, files: BoardFiles, busybox: Path, work: Path, log: Path) -> Boot:
        with self.progress.step(f"{self.arch.name}: the board's kernel ({files.image.name})") as step:
            boot = prepare_board(
                files.image, files.modules, files.config, busybox, work / "kernel", log, self.epoch, arch=self.arch
            )
            step.update(boot.release or "without modules")
        return replace(boot, files=_about(files, boot))

    # --- the cache ----------------------------------------------------------------------------------

    def _apt_sources(self, suite: str) -> bytes | None:
        return self.inputs.apt_sources or find_host_sources(suite)

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


def require_unchanged(tree: Tree) -> None:
    """SourceError where a tar that is the user's own file may not be the one that was hashed and checked."""
    if tree.state and tree.state != _state(tree.tar):
        raise SourceError(f"{tree.tar}: was changed while it was read; build again")


def _state(path: Path) -> tuple[int, ...]:
    """What changes with every write to a file."""
    try:
        stat = path.stat()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _about(files: BoardFiles, boot: Boot) -> dict[str, dict[str, str]]:
    """Name and sha256 of a board's own files; of a directory of modules, that of the tar made of it."""
    found = {"image": (files.image, files.image)}
    if files.modules is not None:
        found["modules"] = (files.modules, boot.modules_tar if files.modules.is_dir() else files.modules)
    if files.config is not None:
        found["config"] = (files.config, files.config)
    return {key: {"name": path.name, "sha256": hash_file(hashed)} for key, (path, hashed) in found.items()}


def hash_directory(path: Path, ownership: Ownership | None, epoch: int, work: Path) -> str:
    """The sha256 of all that an image gets of a directory; what is made for it in `work` goes again."""
    tar = work / "hashed.tar"
    try:
        write_directory_tar(path, tar, ownership, lambda _: None)
        return _hash_tree(tar, epoch)
    finally:
        tar.unlink(missing_ok=True)


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


def _hashes(packages: Iterable[Package]) -> list[str]:
    return [package.sha256 for package in packages]


def _told(entry: CacheEntry, since: str) -> str:
    """Where a tree or kernel came from; `since` says how old the choice of its packages is."""
    return ", ".join(words for words in ("from the cache" if entry.hit else "", since) if words)


def _digest(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps((FORMAT, *parts), sort_keys=True, default=str).encode()).hexdigest()
