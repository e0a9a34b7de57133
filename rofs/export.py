# SPDX-License-Identifier: MIT
"""A locked profile -> a directory with everything that a locked build of it reads, for a host without network.

    DIR/gateway.yaml, DIR/gateway.lock, and what the profile names, where it stands beside it
    DIR/packages/SHA256.deb    every package that the lock names

The tools are not in it: the host that builds has those that the lock names, or says which it lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rofs.build import load, passing_work
from rofs.errors import ProfileError, SourceError
from rofs.fetch import Fetcher
from rofs.lock import ArchLock, Lock, lock_path
from rofs.locking import make_lock, read_lock, require
from rofs.machine.arch import ARCHES
from rofs.packages import Package
from rofs.progress import Progress, Quiet
from rofs.run import run
from rofs.sources.debs import CARRIED, LOCK, DebStore
from rofs.store import Cache, default_cache_dir, publish, workspace


def export_inputs(path: Path, dest: Path, architectures: Sequence[str], progress: Progress) -> int:
    """Write `dest`, which appears whole or not at all -> how many packages are in it.

    SourceError where the files are not those of the lock, where a package cannot be had, or where there is
    something at `dest`.
    """
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise SourceError(f"{dest}: there is something already; name a directory that is not there yet")
    with passing_work() as scratch:
        lock, now, fetchers = _check(path, architectures, progress, scratch)
        packages = _fetch(lock, fetchers, scratch)
        with workspace(dest.absolute().parent) as work:
            made = work / "made"
            made.mkdir()
            DebStore(made / CARRIED).copy_from(fetchers[0].store, packages)
            (made / CARRIED / LOCK).unlink()
            _copy_beside(path.parent, made, [path.name, lock_path(path).name, *now.files, *now.sources])
            try:
                _check(made / path.name, architectures, Quiet(), scratch)
            except (SourceError, ProfileError) as error:
                said = str(error).replace(str(made), str(dest))
                raise SourceError(f"{dest}: the copies are not what was copied:\n{said}") from error
            publish(made, dest)
    return len(packages)


def _check(
    path: Path, architectures: Sequence[str], progress: Progress, work: Path
) -> tuple[Lock, Lock, list[Fetcher]]:
    """The lock beside a profile, if the files are those it names; what is there now; and who has its packages.

    The tools and the epoch are those of the build, not of this host.
    """
    profile, inputs, warnings = load(path, architectures)
    for warning in warnings:
        progress.note(str(warning))
    lock, cache = read_lock(path), Cache(default_cache_dir())
    epoch = lock.epoch if lock else 0
    fetchers = [
        Fetcher(profile, inputs, ARCHES[name], cache, progress, epoch=epoch, refresh=False)
        for name in architectures or profile.architectures
    ]
    asked = {fetcher.arch.name: ArchLock(asked=fetcher.asked()) for fetcher in fetchers}
    now = make_lock(profile, inputs, asked, epoch, work)
    return require(lock, replace(now, tools=lock.tools) if lock else now, path), now, fetchers


def _fetch(lock: Lock, fetchers: Iterable[Fetcher], work: Path) -> list[Package]:
    """All packages of the architectures, each once; afterwards the store has them."""
    found: dict[Package, None] = {}
    for fetcher in fetchers:
        fetcher.locked = lock.architectures[fetcher.arch.name]
        own = work / fetcher.arch.name
        own.mkdir()
        found.update(dict.fromkeys(package for package, _ in fetcher.debs(own, own)))
    return list(found)


def _copy_beside(here: Path, there: Path, names: Iterable[str]) -> None:
    """Files and directories by their names in the profile, each with all that an image may get of it."""
    for name in sorted(names):
        if Path(name).parts[0] == CARRIED:
            raise SourceError(f"{name}: `{CARRIED}` is where the packages go; call it something else in the profile")
        new = there / name
        if not new.exists():  # it may have come with a directory
            new.parent.mkdir(parents=True, exist_ok=True)
            run(["cp", "--archive", "--no-target-directory", (here / name).resolve(), new])
