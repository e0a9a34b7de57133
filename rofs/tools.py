# SPDX-License-Identifier: MIT
"""The host's dpkg status -> the versions of the programs and libraries that shape bytes; of what dpkg did not
install, a hash.

The status file is read, since asking dpkg-query takes longer than a build in which nothing has changed.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

from rofs import __version__
from rofs.run import find_program

TREE_TOOLS = ("apt", "dpkg", "mmdebstrap", "tar")
"""What a tree of packages is made by."""
KERNEL_TOOLS = ("dpkg", "kmod")
IMAGE_TOOLS = (
    "e2fsprogs",
    "liblz4-1",
    "liblzma5",
    "liblzo2-2",
    "libsquashfs1",
    "libzstd1",
    "squashfs-tools-ng",
    "zlib1g",
)
"""Of squashfs and of file systems to start from."""
_PROGRAMS = {
    "apt": "apt-get",
    "dpkg": "dpkg-deb",
    "kmod": "depmod",
    "mmdebstrap": "mmdebstrap",
    "squashfs-tools-ng": "tar2sqfs",
    "tar": "tar",
}
"""Package -> the program of it that is run."""
_SYSTEM = ("/bin", "/sbin", "/usr/bin", "/usr/sbin")
STATUS = Path("/var/lib/dpkg/status")


def tool_versions(names: Iterable[str] = (), status: Path = STATUS) -> dict[str, str]:
    """Package -> version, of all that are installed of `names`, sorted; without names all, with rofs
    itself and the zlib of Python, which packs the initrd."""
    wanted = sorted({*names} or {*TREE_TOOLS, *KERNEL_TOOLS, *IMAGE_TOOLS})
    try:
        text = b"\n" + status.read_bytes() + b"\n"
    except OSError:
        text = b""
    found = {name: version for name in wanted if (version := _own_version(name) or _version(text, name))}
    if names:
        return found
    own = {"python-zlib": zlib.ZLIB_RUNTIME_VERSION, "rofs": __version__}
    return dict(sorted({**found, **own}.items()))


def _own_version(name: str) -> str:
    """Of a program that PATH has outside the system's directories, where dpkg's word does not count: its sha256."""
    program = find_program(_PROGRAMS[name]) if name in _PROGRAMS else None
    if program is None or str(program.parent) in _SYSTEM:
        return ""
    with program.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _version(status: bytes, name: str) -> str:
    """Of an installed package; "" of another."""
    begin = status.find(f"\nPackage: {name}\n".encode())
    if begin < 0:
        return ""
    paragraph = status[begin : status.find(b"\n\n", begin) + 1]
    installed = b" installed\n" in paragraph.partition(b"\nStatus: ")[2].partition(b"\n")[0] + b"\n"
    return paragraph.partition(b"\nVersion: ")[2].partition(b"\n")[0].decode() if installed else ""
