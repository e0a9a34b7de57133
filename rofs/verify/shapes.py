# SPDX-License-Identifier: MIT
"""One answer of a guest -> what is wrong with its form, by probe/README.md. Judges see no other answers.

A row per operation: the form of its facts, and which of them it cannot leave out when it was done. What a row
does not name must be plain: judges may look at it, so it is neither endless nor deep.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Form = Callable[[Any], bool]

MOST_LISTED = 65536
MOST_DEEP = 4
_ERRNO = re.compile("E[A-Z0-9]{1,20}")
_QUOTED = re.compile("[\x21-\x7e]*")


def _number(value: Any) -> bool:
    """What fits into 64 bits, signed or not."""
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 64


def _seconds(value: Any) -> bool:
    return _number(value) or (isinstance(value, float) and math.isfinite(value))


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _words(value: Any) -> bool:
    """Any bytes, one character each."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _quoted(value: Any) -> bool:
    return isinstance(value, str) and _QUOTED.fullmatch(value) is not None


def _errno(value: Any) -> bool:
    return value is None or (isinstance(value, str) and _ERRNO.fullmatch(value) is not None)


def _base64(value: Any) -> bool:
    if not isinstance(value, str) or len(value) % 4:
        return False
    try:
        binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        return False
    return True


def _plain(value: Any, deep: int = MOST_DEEP) -> bool:
    """What has no row: anything that JSON can say, in measure."""
    if isinstance(value, list | dict) and deep and len(value) <= MOST_LISTED:
        rows = [*value, *value.values()] if isinstance(value, dict) else value
        return all(_plain(row, deep - 1) for row in rows)
    return value is None or _truth(value) or _seconds(value) or _words(value)


def _all(form: Form, most: int = MOST_LISTED) -> Form:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(form, value))


@dataclass(frozen=True, slots=True)
class Shape:
    """The forms of facts by name, and the facts that must be there."""

    forms: Mapping[str, Form]
    needs: tuple[str, ...] = ()

    def flaw(self, facts: Mapping[str, Any]) -> str:
        """What is wrong, '' for nothing."""
        for name, value in facts.items():
            if not _words(name) or not self.forms.get(name, _plain)(value):
                return f"{_shown(name)} is {_shown(value)}"
        missing = [name for name in self.needs if name not in facts]
        return f"it does not say {' and '.join(missing)}" if missing else ""

    def fits(self, value: Any) -> bool:
        """The same of a part of an answer."""
        return isinstance(value, dict) and not self.flaw(value)


def _shown(value: Any) -> str:
    """A glimpse of it; the text of a whole list could be long."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    text = ascii(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."


TROUBLE: Mapping[str, Form] = MappingProxyType(
    {"timeout": _truth, "stuck": _truth, "signal": _number, "exit_signal": _number, "error": _words}
)
"""Instead of its facts an answer may say why there are none."""
COMMON: Mapping[str, Form] = MappingProxyType({"id": _number, "op": _words, "errno": _errno, "seconds": _seconds})
_STAT = ("mode", "uid", "gid", "size", "nlink", "mtime", "mtime_ns", "ino")
_DEVICES = ("dev_major", "dev_minor", "rdev_major", "rdev_minor")
_WRITES = ("create", "write", "read_back", "rename", "unlink")
_SIZES = ("f_type", "bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree")
_ENTRY = Shape({"path": _quoted, "how": _words, "what": _all(_words, 100), "mtime": _number}, ("path", "how"))
_ATTACK = Shape(
    {"name": _words, "errno": _errno, "effect": _truth, "restored": _truth, "detail": _words, "skipped": _words},
    ("name", "errno", "effect"),
)
_PROGRAM = Shape({"status": _number, "data": _base64, "tail": _base64, "dropped": _number}, ("errno", "status", "data"))
_LSTAT: Mapping[str, Form] = MappingProxyType(
    {
        "type": _words, "target": _quoted, "xattrs": _all(_quoted), "xattrs_errno": _errno,
        **dict.fromkeys((*_STAT, *_DEVICES), _number),
    }
)  # fmt: skip
_READ = Shape({"errno": _errno, "data": _base64, "truncated": _truth}, ("errno",))
_FILE = Shape({"path": _quoted, "errno": _errno, "read": _READ.fits, **_LSTAT}, ("path", "errno"))
_SOCKET = Shape(
    {
        "proto": _words, "address": _words, "port": _number, "loopback": _truth, "pid": _number,
        "program": _quoted,
    },
    ("proto", "address", "port", "loopback", "program"),
)  # fmt: skip
_MARKED = Shape(
    {"path": _quoted, "mode": _number, "uid": _number, "marks": _all(_words, 8), "image": _truth},
    ("path", "mode", "marks", "image"),
)
_TREE = Shape(
    {"root": _quoted, "errno": _errno, "looked": _number, "truncated": _truth, "found": _all(_MARKED.fits, 1000)},
    ("root", "errno", "looked", "truncated", "found"),
)
_FULL = Shape(
    {
        "path": _quoted, "errno": _errno, "memory": _truth, "how": _words,
        **dict.fromkeys(("fitted", "size", "left", "inodes"), _number),
    },
    ("path", "errno", "memory", "fitted", "size", "left", "inodes"),
)  # fmt: skip
_STARTED = Shape({"unit": _quoted, "error": _words, "waiting": _truth}, ("unit", "error", "waiting"))


def _row(value: Any) -> bool:
    """Quoted words by name."""
    return isinstance(value, dict) and all(map(_words, value)) and all(map(_quoted, value.values()))


_MEMORY = ("total", "before", "available", "oom_kills")

SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "read": Shape({"data": _base64, "truncated": _truth}, ("errno", "data", "truncated")),
        "list": Shape(
            {"names": _all(_quoted), "types": _words, "truncated": _truth}, ("errno", "names", "types", "truncated")
        ),
        "lstat": Shape(_LSTAT, ("errno", "type")),
        "statvfs": Shape({"flags": _all(_words), **dict.fromkeys(_SIZES, _number)}, ("errno", "flags")),
        "exists": Shape({"exists": _truth}, ("errno", "exists")),
        "canary": Shape({}, ("errno",)),
        "write": Shape({**dict.fromkeys(_WRITES, _errno), "writable": _truth}, (*_WRITES, "writable")),
        "fillinodes": Shape({"made": _number, "removed": _errno}, ("errno", "made")),
        "blkwrite": Shape(
            {**dict.fromkeys(("open", "read", "write", "fsync", "roget"), _errno), "read_only": _number}, ("open",)
        ),
        "attack": Shape(
            {"type": _words, "file": _quoted, "dir": _quoted, "attacks": _all(_ATTACK.fits, 1000)}, ("errno", "attacks")
        ),
        "compare": Shape(
            {
                "entries": _all(_ENTRY.fits), "truncated": _truth,
                **dict.fromkeys(("compared", "equal", "files"), _number),
            },
            ("errno", "entries", "truncated", "compared", "equal", "files"),
        ),
        "sync": Shape({}, ("errno",)),
        "exec": _PROGRAM,
        "run": _PROGRAM,
        "settle": Shape(
            {
                "settled": _truth, "pid1": _quoted, "pid1_args": _all(_quoted), "busy": _all(_quoted),
                **dict.fromkeys(("waited_ms", "processes", "uptime_ms"), _number),
            },
            ("errno", "settled", "pid1"),
        ),
        "poweroff": Shape({"mode": _words}, ("mode",)),
        "files": Shape({"files": _all(_FILE.fits)}, ("files",)),
        "running": Shape({"state": _words, "jobs": _all(_words)}, ("errno", "state")),
        "units": Shape({"units": _all(_row), "names": _row}, ("errno", "units")),
        "timers": Shape({"started": _all(_STARTED.fits)}, ("errno", "started")),
        "sift": Shape({**_PROGRAM.forms, "lines": _number}, (*_PROGRAM.needs, "lines")),
        "klog": Shape(
            {"found": _all(_words, 1000), "lines": _number, "truncated": _truth}, ("errno", "found", "lines")
        ),
        "listeners": Shape(
            {"sockets": _all(_SOCKET.fits, 1000), "truncated": _truth}, ("errno", "sockets", "truncated")
        ),
        "marked": Shape({"trees": _all(_TREE.fits, 1000)}, ("trees",)),
        "brim": Shape(
            {"mounts": _all(_FULL.fits, 1000), **dict.fromkeys(_MEMORY, _number)}, ("mounts", *_MEMORY)
        ),
    }
)  # fmt: skip


def find_flaw(op: str, facts: Mapping[str, Any]) -> str:
    """What is wrong with the form of an answer to `op`, '' for nothing."""
    row = SHAPES.get(op, Shape({}))
    failed = any(facts.get(name) for name in TROUBLE) or bool(facts.get("errno"))
    needs = () if failed else row.needs
    return Shape({**COMMON, **TROUBLE, **row.forms}, needs).flaw(facts)
