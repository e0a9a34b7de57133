# SPDX-License-Identifier: MIT
"""What is in the squashfs and must be as it was built."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import PurePosixPath

from rofs.entry import Entry
from tests.mutants.edits import UNITS, put_file, put_link, replaced
from tests.mutants.mutation import Mutation

AS_BUILT = "image tree: as built"


def with_mode(mode: int) -> Mutation:
    """A program of the image with another mode."""

    def change(member: tarfile.TarInfo) -> None:
        assert member.mode != mode
        member.mode = mode

    return Mutation(meta={"/usr/bin/chage" if mode & 0o2000 else "/usr/bin/env": change}, names=[AS_BUILT])


def without_capabilities(member: tarfile.TarInfo) -> None:
    """ping, which needs them."""
    name = "SCHILY.xattr.security.capability"
    assert name in member.pax_headers, "nothing to break: no capability"
    member.pax_headers = {key: value for key, value in member.pax_headers.items() if key != name}


def owned_by_another(member: tarfile.TarInfo) -> None:
    """Nobody's, so that somebody else's program may change it."""
    member.uid, member.gid, member.uname, member.gname = 65534, 65534, "", ""


TREE: Mapping[str, Mutation] = {
    "a program new with the setuid bit": with_mode(0o4755),
    "a program all may write": with_mode(0o777),
    "a new file all may write, in an immutable directory": Mutation(
        put=[put_file("/usr/lib/mutant", "anything\n", 0o666)], names=[AS_BUILT]
    ),
    "a program without its capability": Mutation(
        profile="appliance",
        meta={"/usr/bin/ping": without_capabilities},
        names=[AS_BUILT],
        seen=["/usr/bin/ping"],
    ),
    "a program of another owner": Mutation(meta={"/usr/bin/env": owned_by_another}, names=[AS_BUILT]),
    "a byte of one file": Mutation(
        edit={"/usr/share/common-licenses/BSD": replaced("Redistribution", "redistribution")},
        names=[AS_BUILT],
        sample=True,
    ),
    "a file of a package is not there": Mutation(drop=["/usr/share/common-licenses/BSD"], names=[AS_BUILT]),
    "a directory nobody asked for": Mutation(
        put=[Entry(path=PurePosixPath("/opt/mutant"), kind="dir", mode=0o755)], names=[AS_BUILT]
    ),
    "a link that points elsewhere": Mutation(put=[put_link("/usr/bin/awk", "/tmp/awk")], names=[AS_BUILT]),
    "a dot-file is not there": Mutation(
        profile="appliance", drop=["/home/technician/.profile"], names=["generated: home[0]: "]
    ),
    "a dot-file of another owner": Mutation(
        profile="appliance",
        put=[put_file("/home/technician/.config/appliance/settings.ini", "")],
        names=["generated: home[0]: "],
    ),
    "a generated file all may write": Mutation(
        profile="appliance",
        meta={"/opt/appliance/bin/appliance": lambda member: setattr(member, "mode", 0o777)},
        names=["generated: files[0]: /opt/appliance/bin/appliance"],
        seen=["mode is 0777, not 0755"],
    ),
    "a generated link points elsewhere": Mutation(
        put=[put_link("/etc/resolv.conf", "/tmp/resolv.conf")], names=["generated: rofs: "]
    ),
    "a masked unit is not masked": Mutation(
        profile="appliance", drop=[f"{UNITS}/getty@tty1.service"], names=["generated: units.mask: "]
    ),
}  # fmt: skip
