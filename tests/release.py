# SPDX-License-Identifier: MIT
"""The host's apt sources of a release alone: mirrors of its updates are not always whole for every architecture.

And what tests fetch from there: resolved, downloaded and unpacked, as a build does it.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from rofs.machine.arch import Arch
from rofs.sources.apt import find_host_sources
from rofs.sources.debs import DebStore
from rofs.sources.kernel import Boot, make_boot
from rofs.sources.resolve import open_apt, resolve_busybox, resolve_kernel


def release_sources(suite: str = "bookworm") -> bytes | None:
    """The host's own sources without updates and security; None where it has none of the suite."""
    sources = find_host_sources(suite)
    if sources is None:
        return None
    stanzas = [re.sub(rf" ?\b{suite}-[a-z]+", "", stanza) for stanza in sources.decode().split("\n\n")]
    return "\n\n".join(s for s in stanzas if re.search(rf"^Suites: {suite}$", s, re.MULTILINE)).encode()


def fetch_boot(package: str, arch: Arch, suite: str, out: Path, log: Path, epoch: int) -> Boot:
    """A kernel and busybox of the release, in the directory `out`."""
    with TemporaryDirectory() as name:
        work = Path(name)
        apt = open_apt(work / "apt", arch, suite, release_sources(suite), log, lambda _: None)
        packages = [resolve_kernel(apt, package, arch), resolve_busybox(apt)]
        store = DebStore(work / "debs")
        store.fetch(packages, apt)
        return make_boot([(package, store.path(package)) for package in packages], out, log, epoch)
