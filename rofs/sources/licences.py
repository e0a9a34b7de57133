# SPDX-License-Identifier: MIT
"""A package's machine-readable copyright file -> the SPDX expression of all its licences, or nothing.

All or nothing: an expression that left out a licence with no SPDX name would say that the rest is all there
is. Names are translated only where both sides define them: the list of short names in Debian's
copyright-format/1.0, section 7.1, against the SPDX License List.
"""

from __future__ import annotations

import re

_FORMAT = re.compile(r"Format:\s*https?://\S+/copyright-format/1\.0/?\s")
_PARAGRAPH = re.compile(r"\n(?:[ \t]*\n)+")
_FILES = re.compile(r"^Files:", re.MULTILINE | re.IGNORECASE)
_LICENCE = re.compile(r"^License:[ \t]*(.*?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_VERSIONED = re.compile(r"(A?GPL|LGPL|GFDL)-(\d)(?:\.(\d))?(?:\.0)?(\+?)", re.IGNORECASE)
_NO_INVARIANTS = re.compile(r"GFDL-NIV-(1\.[123])(\+?)", re.IGNORECASE)
_JOINED = re.compile(r",?\s+(and|or)\s+|(,)", re.IGNORECASE)

_NAMES = {
    "apache-1.0": "Apache-1.0", "apache-2.0": "Apache-2.0", "artistic-2.0": "Artistic-2.0",
    "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
    "cc0-1.0": "CC0-1.0", "cddl-1.0": "CDDL-1.0", "epl-1.0": "EPL-1.0", "epl-2.0": "EPL-2.0", "expat": "MIT",
    "isc": "ISC", "lppl-1.3c": "LPPL-1.3c", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0", "python-2.0": "Python-2.0",
    "w3c": "W3C", "zlib": "Zlib", "zope-2.1": "ZPL-2.1",
}  # fmt: skip
_VERSIONS = {
    "GPL": {"1.0", "2.0", "3.0"},
    "LGPL": {"2.0", "2.1", "3.0"},
    "AGPL": {"1.0", "3.0"},
    "GFDL": {"1.1", "1.2", "1.3"},
}


def declared_licence(copyright_file: bytes) -> str:
    """`Files:` paragraphs of a copyright file -> "A AND B", sorted; "" where one of them cannot be said in SPDX."""
    text = copyright_file.decode(errors="replace").replace("\r\n", "\n").lstrip("\ufeff\n")
    if not _FORMAT.match(text):
        return ""
    said = [_LICENCE.search(paragraph) for paragraph in _PARAGRAPH.split(text) if _FILES.search(paragraph)]
    found = {_expression(match[1]) if match else "" for match in said}
    if not found or "" in found:
        return ""
    return " AND ".join(sorted(f"({one})" if " OR " in one and len(found) > 1 else one for one in found))


def _expression(short: str) -> str:
    """The short names of one paragraph; only "and" alone or "or" alone, as more would need its own grammar."""
    joined = [(word or comma).lower() for word, comma in _JOINED.findall(short)]
    names = [_name(part) for part in _JOINED.sub("\0", short).split("\0")]
    if "" in names or len(set(joined)) > 1 or "," in joined:
        return ""
    return f" {joined[0].upper()} ".join(sorted(set(names))) if joined else names[0]


def _name(short: str) -> str:
    """ "GPL-2+" -> "GPL-2.0-or-later"; "" for a name that SPDX does not have, or has for something else."""
    if match := _VERSIONED.fullmatch(short):
        family, version = match[1].upper(), f"{match[2]}.{match[3] or 0}"
        return f"{family}-{version}-{_later(match[4])}" if version in _VERSIONS[family] else ""
    if match := _NO_INVARIANTS.fullmatch(short):
        return f"GFDL-{match[1]}-no-invariants-{_later(match[2])}"
    return _NAMES.get(short.lower(), "")


def _later(plus: str) -> str:
    return "or-later" if plus else "only"
