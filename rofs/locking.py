# SPDX-License-Identifier: MIT
"""A profile, its files and apt's answers -> its lock; and what of a lock a build may use.

With a lock the packages are those it names, as long as the profile asks for the same. `--locked` asks for more: that
every other input, the epoch and the tools are those of the lock too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rofs.errors import ProfileError, SourceError
from rofs.fetch import Fetcher, hash_directory
from rofs.image.manifest import hash_file
from rofs.inputs import Inputs
from rofs.lock import ArchLock, Lock, asked_differences, differences, load_lock, lock_path
from rofs.ownership import Ownership
from rofs.profile import DebianSource, Profile
from rofs.tools import tool_versions


def read_lock(profile: Path) -> Lock | None:
    """The lock beside a profile, if there is one; ProfileError for one that cannot be read, and what to do with it."""
    path = lock_path(profile)
    try:
        return load_lock(path) if path.exists() else None
    except ProfileError as error:
        first, *rest = error.problems
        way = f"take back the lock that was there, or remove it: `rofs lock {profile}` writes a new one"
        raise ProfileError([replace(first, hint="; ".join(filter(None, (first.hint, way)))), *rest]) from None


def make_lock(profile: Profile, inputs: Inputs, architectures: Mapping[str, ArchLock], epoch: int, work: Path) -> Lock:
    """The lock of these inputs. `work` is for what is made only to be hashed."""
    return Lock(
        profile=profile.name, epoch=epoch, architectures=architectures, files=inputs.digests, tools=tool_versions(),
        sources=dict(_source_digests(profile, inputs, architectures, epoch, work)),
    )  # fmt: skip


def _source_digests(
    profile: Profile, inputs: Inputs, architectures: Sequence[str] | Mapping[str, ArchLock], epoch: int, work: Path
) -> Iterator[tuple[str, str]]:
    """Each tree, and each file of a board's kernel, by its name in the profile."""
    for name in architectures:
        named: list[tuple[Mapping[str, str], Path | None, Ownership | None]] = []
        if not isinstance(profile.source, DebianSource):
            named.append((profile.source.path, inputs.trees[name], inputs.ownership))
        if board := inputs.kernels.get(name):
            kernel = profile.kernel
            named += [
                (kernel.image, board.image, None), (kernel.modules, board.modules, None),
                (kernel.config, board.config, None),
            ]  # fmt: skip
        for names, path, ownership in named:
            if path is not None:
                yield names[name], hash_directory(path, ownership, epoch, work) if path.is_dir() else hash_file(path)


def keep_others(old: Lock | None, new: Lock, architectures: Sequence[str]) -> Lock:
    """`new`, with what `old` says of the other architectures of the profile."""
    others = {} if old is None else {n: a for n, a in old.architectures.items() if n in architectures}
    if old is None or others.keys() <= new.architectures.keys():
        return new
    return replace(new, architectures={**others, **new.architectures}, sources={**old.sources, **new.sources})


def usable(lock: Lock | None, fetcher: Fetcher, note: Callable[[str], None]) -> ArchLock | None:
    """What a build without `--locked` takes of a lock: its packages, where the profile still asks for these."""
    name = fetcher.arch.name
    known = lock.architectures.get(name) if lock else None
    if known is None:
        return None
    if other := "; ".join(asked_differences(known.asked, fetcher.asked())):
        note(f"{name}: packages are not those of the lock, which `rofs lock` renews: {other}")
        return None
    return known


def require(lock: Lock | None, now: Lock, profile: Path) -> Lock:
    """The lock, if nothing else would be used. SourceError with everything that differs.

    `now` has the architectures that are built, with what the profile asks for.
    """
    if lock is None:
        raise SourceError(f"{lock_path(profile)}: there is none; `rofs lock {profile}` writes it")
    if missing := [name for name in now.architectures if name not in lock.architectures]:
        raise SourceError(f"{lock_path(profile)}: holds nothing for {', '.join(missing)}; `rofs lock {profile}` does")
    chosen = {name: lock.architectures[name] for name in now.architectures}
    asked = {name: replace(chosen[name], asked=arch.asked) for name, arch in now.architectures.items()}
    sources = {name: value for name, value in lock.sources.items() if name in now.sources}
    was = replace(lock, architectures=chosen, sources=sources)
    if other := [*differences(was, replace(now, architectures=asked)), *_ways_back(was, now)]:
        lines = "\n  ".join(other)
        raise SourceError(
            f"{lock_path(profile)}: this would not be what is locked (`rofs lock {profile}` renews it):\n  {lines}"
        )
    return lock


def _ways_back(was: Lock, now: Lock) -> Iterator[str]:
    """How to have again what no file of the profile's says."""
    if was.epoch != now.epoch:
        yield f"(SOURCE_DATE_EPOCH={was.epoch} is the epoch of the lock)"
    if was.tools != now.tools:
        yield "(on a host with the tools of the lock the bytes would be those of the lock)"
