# SPDX-License-Identifier: MIT
"""The host's apt sources of a release alone: mirrors of its updates are not always whole for every architecture."""

from __future__ import annotations

import re

from rofs.sources.apt import find_host_sources


def release_sources(suite: str = "bookworm") -> bytes | None:
    """The host's own sources without updates and security; None where it has none of the suite."""
    sources = find_host_sources(suite)
    if sources is None:
        return None
    stanzas = [re.sub(rf" ?\b{suite}-[a-z]+", "", stanza) for stanza in sources.decode().split("\n\n")]
    return "\n\n".join(s for s in stanzas if re.search(rf"^Suites: {suite}$", s, re.MULTILINE)).encode()
