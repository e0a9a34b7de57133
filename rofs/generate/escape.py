# SPDX-License-Identifier: MIT
"""Paths -> the spellings that unit names, unit files, fstab and shell scripts need."""

from __future__ import annotations

import string
from pathlib import PurePosixPath

_UNIT_SAFE = frozenset((string.ascii_letters + string.digits + ":_.").encode())
_FSTAB_ESCAPED = frozenset(b" \t\n\\")


def unit_name(path: PurePosixPath, suffix: str = "mount") -> str:
    """`/var/lib/a-b` -> `var-lib-a\\x2db.mount` (systemd.unit(5) "String Escaping", note 1)."""
    raw = str(path).strip("/").encode("utf-8", "surrogateescape")
    if not raw:
        return f"-.{suffix}"
    text = "".join("-" if b == 0x2F else chr(b) if b in _UNIT_SAFE else f"\\x{b:02x}" for b in raw)
    if text.startswith("."):
        text = "\\x2e" + text[1:]
    return f"{text}.{suffix}"


def unit_value(text: str) -> str:
    """A value of a unit file: `%` starts a specifier there, and nowhere else (note 3)."""
    return text.replace("%", "%%")


def unit_words(text: str) -> str:
    """One item of a list setting such as RequiresMountsFor=, which splits on blanks and unquotes."""
    text = unit_value(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if any(c in text for c in " \t'\"\\;#") else text


def fstab_field(text: str) -> str:
    """A field of fstab(5): blanks and backslash as octal. Not `#`: getmntent(3) would keep the `\\043`."""
    return "".join(f"\\{ord(c):03o}" if ord(c) < 128 and ord(c) in _FSTAB_ESCAPED else c for c in text)


def unfstab(text: str) -> str:
    """The reverse, also for the fields of /proc/self/mountinfo."""
    out, rest = "", text
    while "\\" in rest:
        before, _, rest = rest.partition("\\")
        if len(rest) >= 3 and all(c in "01234567" for c in rest[:3]):
            out, rest = out + before + chr(int(rest[:3], 8)), rest[3:]
        else:
            out += before + "\\"
    return out + rest
