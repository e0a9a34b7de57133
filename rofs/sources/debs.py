# SPDX-License-Identifier: MIT
"""Packages by their sha256 -> their .deb files in a store, fetched by apt where they are not there yet.

The store is `ROOT/SHA256.deb`. An entry appears whole or not at all, is never changed, and is hashed each
time it is asked for, so that a damaged one costs a download and nothing else. Any number of builds may use
one store: each downloads into a directory of its own, and renames; none fetches
what another one is fetching.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import struct
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from rofs.errors import SourceError, ToolError
from rofs.packages import Package
from rofs.sources.apt import PrivateApt
from rofs.sources.debian import explain_apt
from rofs.store import sync, touch, wait_until_free, workspace

CARRIED = "packages"
"""The store's name in a directory that `rofs export-inputs` writes."""

_GONE = re.compile(
    r"^E: (?:Version '[^']*' for '[^']*' was not found|Unable to locate package .*|Can't find a source to download .*"
    r"|Failed to fetch \S+ +404 .*)$",
    re.MULTILINE,
)

LOCK = ".lock"
"""Beside the packages: held shared by who uses them, exclusively by who removes some; a byte each by who fetches."""


class PackageGone(SourceError):
    """Packages that no source has at the version that is wanted."""

    def __init__(self, packages: Iterable[Package], why: str = "the apt sources no longer have it") -> None:
        self.packages = tuple(packages)
        names = ", ".join(map(_about, self.packages))
        super().__init__(
            f"{names}: {why}; take what they have now (rofs lock), bring the file with --inputs, or name a snapshot"
            " of the archive in `source.debian.sources`"
        )


class DebStore:
    """The .deb files below `root`, which is made when the first one is fetched."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: list[int] = []
        weakref.finalize(self, _close_all, self._held)

    def path(self, package: Package) -> Path:
        """Where the file of a package is, if it is there."""
        return self.root / f"{package.sha256}.deb"

    def missing(self, packages: Iterable[Package]) -> list[Package]:
        """Those that are not there, or not whole. The others are of use, and stay while this store lives."""
        self._hold()
        found = []
        for package in packages:
            path = self.path(package)
            if _is(path, package):
                touch(path)
            else:
                found.append(package)
        return found

    def _hold(self) -> None:
        """Keep everybody from trimming the store: a shared flock(2); where no lock can be made, nobody trims either."""
        with suppress(OSError):
            if not self._held:
                self._held.append(os.open(self.root / LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
                fcntl.flock(self._held[0], fcntl.LOCK_SH)

    @contextmanager
    def alone(self, packages: Iterable[Package]) -> Iterator[None]:
        """Wait until no other build fetches any of them, and be the one that does: each has a byte of a file to lock.

        Always in one order, so that nobody waits for who waits for him. SourceError where the store cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise SourceError(f"{self.root}: cannot keep packages there: {error.strerror}") from error
        try:
            for at in sorted({int(package.sha256[:15], 16) for package in packages}):
                _lock_byte(fd, at)
            yield
        finally:
            os.close(fd)

    def fetch(self, packages: Sequence[Package], apt: PrivateApt) -> None:
        """Download what `missing` gave; `apt` has read its lists.

        PackageGone where a source has another version, or other bytes under the same one; SourceError
        where the store cannot be written or the mirror not be reached.
        """
        with self._adding() as work:
            _download(packages, apt, work)
            found = {_said(path): path for path in work.glob("*.deb")}
            wrong = [package for package in packages if not _is(found.get(_key(package)), package)]
            if wrong:
                raise PackageGone(wrong, "the apt sources have other bytes under this version")
            self._keep({package: found[_key(package)] for package in packages})

    def copy_from(self, other: DebStore, packages: Sequence[Package]) -> None:
        """Copy packages out of another store, which is only read. SourceError names each that it cannot give."""
        with self._adding() as work:
            found = {package: work / package.sha256 for package in packages if other.path(package).is_file()}
            for package, path in found.items():
                shutil.copyfile(other.path(package), path)
            if wrong := [package for package in packages if not _is(found.get(package), package)]:
                lines = (f"  {'not' if p in found else 'no'} {_about(p)}: {other.path(p).name}" for p in wrong)
                raise SourceError("\n".join([f"{other.root}: not the packages of the lock:", *lines]))
            self._keep(found)

    @contextmanager
    def _adding(self) -> Iterator[Path]:
        """A directory for what is to be kept."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._hold()
            with workspace(self.root) as work:
                yield work
        except OSError as error:
            raise SourceError(f"{self.root}: cannot keep packages there: {error.strerror}") from error

    def _keep(self, found: Mapping[Package, Path]) -> None:
        for package, path in found.items():
            path.chmod(0o444)
            sync(path)
            path.rename(self.path(package))
        sync(self.root)


def _close_all(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _lock_byte(fd: int, at: int) -> None:
    """An open file description lock (fcntl(2)): of threads too, and gone with its holder. Interrupted as by `run`."""
    wanted = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    wait_until_free(lambda: fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted))


def _is(path: Path | None, package: Package) -> bool:
    """Whether a file is the package, by its size and every byte of it."""
    try:
        if path is None or path.stat().st_size != package.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == package.sha256
    except OSError:
        return False


def _download(packages: Sequence[Package], apt: PrivateApt, work: Path) -> None:
    try:
        apt.run("apt-get", "download", "-q", *(f"{p.name}={p.version}" for p in packages), cwd=work)
    except ToolError as error:
        if error.reason != "not found" and _GONE.search(error.tail):
            raise PackageGone(_named_in(error.tail, packages)) from error
        raise explain_apt(error, "") from error


def _named_in(said: str, packages: Sequence[Package]) -> list[Package]:
    """The packages that apt complains of; all where it does not say."""
    words = unquote(" ".join(_GONE.findall(said)))
    named = [p for p in packages if re.search(rf"[ '/]{re.escape(p.name)}(?:['_ =]|$)", words)]
    return named or list(packages)


def _about(package: Package) -> str:
    return f"{package.name} {package.version} ({package.architecture})"


def _key(package: Package) -> tuple[str, str, str]:
    return package.name, package.version, package.architecture


def _said(path: Path) -> tuple[str, str, str]:
    """What apt's name for a downloaded file says: NAME_VERSION_ARCHITECTURE.deb, percent-encoded."""
    name, version, architecture = path.stem.split("_")
    return unquote(name), unquote(version), architecture
