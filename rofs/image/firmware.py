# SPDX-License-Identifier: MIT
"""Names of firmware -> the files, out of what is to become the image."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePosixPath

from rofs.entry import Entry
from rofs.errors import Problem, ProfileError
from rofs.profile import Profile
from rofs.tarindex import list_members
from rofs.treefacts import TreeFacts, member_path

FIRMWARE = PurePosixPath("/lib/firmware")


def read_firmware(
    tars: Sequence[Path], entries: Sequence[Entry], profile: Profile, facts: TreeFacts
) -> dict[str, bytes]:
    """`initrd.firmware` -> {name: content}; ProfileError names each that neither tars nor entries have."""
    names = profile.initrd.firmware
    places = {name: facts.find_resolved(FIRMWARE / name) for name in names}
    contents = _read(tars, facts, set(places.values())) if names else {}
    contents |= {_place(entry.path, facts): entry.content for entry in entries if entry.kind == "file"}
    missing = [(("initrd", "firmware", i), name) for i, name in enumerate(names) if places[name] not in contents]
    if missing:
        hint = "add the package that has it, or the file to the tree"
        raise ProfileError(
            [
                Problem(profile.marks.find(at), f"no {FIRMWARE / n} in the tree", "no-firmware", at, hint)
                for at, n in missing
            ]
        )
    return {name: contents[place] for name, place in places.items() if place is not None}


def _place(path: PurePosixPath, facts: TreeFacts) -> PurePosixPath:
    """Where a path of the tree lands: the links above it followed, itself not."""
    return facts.resolve(path.parent) / path.name


def _read(
    tars: Sequence[Path], facts: TreeFacts, wanted: AbstractSet[PurePosixPath | None]
) -> dict[PurePosixPath, bytes]:
    """The files at `wanted`. A hard link stands behind the file it is of, which may not be among them."""
    found: dict[PurePosixPath, bytes] = {}
    originals: set[PurePosixPath] = set()
    for tar in tars:
        for archive, info in list_members(tar):
            path = _place(PurePosixPath(member_path(tar, info.name)), facts)
            if path in wanted and info.isfile():
                found[path] = _content(archive, info)
            elif path in wanted and info.islnk():
                original = _place(PurePosixPath(member_path(tar, info.linkname)), facts)
                originals.add(original)
                if original in found:
                    found[path] = found[original]
    return found if originals <= wanted else _read(tars, facts, wanted | originals)


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    return file.read() if file is not None else b""
