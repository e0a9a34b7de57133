# SPDX-License-Identifier: MIT
"""Names of firmware -> the files, out of the tree that is to become the image."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rofs.errors import Problem, ProfileError
from rofs.profile import Profile
from rofs.treefacts import TreeFacts, iter_members, member_path

FIRMWARE = PurePosixPath("/lib/firmware")


def read_firmware(tars: Sequence[Path], profile: Profile, facts: TreeFacts) -> dict[str, bytes]:
    """`initrd.firmware` -> {name: content}; ProfileError names each that the tree has not."""
    names = profile.initrd.firmware
    wanted = {str(facts.resolve(FIRMWARE / name)): name for name in names}
    found: dict[str, bytes] = {}
    for tar in tars if wanted else ():
        for archive, info in iter_members(tar):
            path = member_path(tar, info.name)
            path = str(facts.resolve(PurePosixPath(path).parent) / PurePosixPath(path).name)
            if path in wanted and info.isfile():
                found[wanted[path]] = _content(archive, info)
    missing = [(("initrd", "firmware", i), name) for i, name in enumerate(names) if name not in found]
    if missing:
        hint = "add the package that has it, or the file to the tree"
        raise ProfileError(
            [
                Problem(profile.marks.find(at), f"no {FIRMWARE / n} in the tree", "no-firmware", at, hint)
                for at, n in missing
            ]
        )
    return found


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    return file.read() if file is not None else b""
