# SPDX-License-Identifier: MIT
"""The text of one value -> its meaning, or BadValue with words a person can act on.

Each function here is a `format` of profile.schema.json, by name. They are for what a regular expression
cannot explain: why a path is refused, which key an option belongs to, what a size means.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Final

PAGE_BYTES: Final = 4096
MAX_SIZE_BYTES: Final = 1 << 44
MAX_INODES: Final = 1 << 31
PATH_MAX: Final = 4095
NAME_MAX: Final = 255
MIN_BLOCK, MAX_BLOCK = 4 << 10, 1 << 20

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NUMBER = re.compile(r"([1-9][0-9]{0,14})([KMGTkmgt]?)")
_MODE = re.compile(r"0?[0-7]{3,4}")
_OPTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(=[^\s,\"'\\]+)?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TAG = re.compile(r"LABEL=[A-Za-z0-9_.-]{1,16}|UUID=[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ROOT = re.compile(
    r"/dev/[A-Za-z0-9][A-Za-z0-9_./:-]*|PARTUUID=[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|PARTUUID=[0-9a-f]{8}-[0-9a-f]{2}"
    r"|PARTLABEL=[A-Za-z0-9_.-]{1,36}"
)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?")
_UNIT_TYPES = frozenset(
    {"service", "socket", "target", "timer", "path", "mount", "automount", "swap", "slice", "device"}
)


class BadValue(ValueError):
    """A value that is refused: what is wrong, what to do, the rule's id."""

    def __init__(self, message: str, hint: str = "", rule: str = "bad-value") -> None:
        super().__init__(message)
        self.message, self.hint, self.rule = message, hint, rule


def show(value: object) -> str:
    """A value for a message: on one line, quoted, not too long."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"


def mode(text: str) -> int:
    """`0644` -> 0o644."""
    if not _MODE.fullmatch(text):
        raise BadValue(f"{show(text)} is not a mode", 'three or four octal digits, such as "0644"')
    return int(text, 8)


def size(value: str | int) -> int:
    """`64M` -> bytes. A limit of 0 would mean none, and the kernel counts in pages."""
    number = _number(value, "a size", 'such as 64M, 1G or 4096K, without "B" or "%"')
    if number % PAGE_BYTES:
        raise BadValue(f"{show(value)} is not a whole number of pages", f"a multiple of {PAGE_BYTES} bytes")
    if number > MAX_SIZE_BYTES:
        raise BadValue(f"{show(value)} is too large", "at most 16T")
    return number


def count(value: str | int) -> int:
    """`10k` -> 10240, as the kernel reads nr_inodes=."""
    number = _number(value, "a number of inodes", "such as 4096 or 10k")
    if not 2 <= number <= MAX_INODES:  # the root directory takes the first
        raise BadValue(f"{show(value)} is not a usable number of inodes", f"2 to {MAX_INODES}")
    return number


def block_size(value: str | int) -> int:
    """`128K` -> bytes; what squashfs allows (note 36)."""
    number = _number(value, "a size", "such as 128K")
    if not MIN_BLOCK <= number <= MAX_BLOCK or number & (number - 1):
        raise BadValue(f"{show(value)} is not a block size of squashfs", "a power of two from 4K to 1M")
    return number


def memory(value: str | int) -> int:
    """`512M` -> bytes; below 64M no kernel with an initrd starts, above 64G no test needs it."""
    number = size(value)
    if not 64 << 20 <= number <= 64 << 30:
        raise BadValue(f"{show(value)} is not a usable size of memory", "64M to 64G")
    return number


def disk_size(value: str | int) -> int:
    """`64M` -> bytes of a file system's image; below 16M an ext4 has little room beside its journal."""
    number = size(value)
    if number < 16 << 20:
        raise BadValue(f"{show(value)} is too small for a file system with a journal", "16M or more")
    return number


def device_tag(text: str) -> str:
    """`LABEL=state`, `UUID=…`: names that the file system itself carries, so that no probing order counts."""
    if not _TAG.fullmatch(text):
        hint = "LABEL= with at most 16 letters, digits, dots, dashes and underscores, or UUID= in lower case"
        raise BadValue(f"{show(text)} is not a name that a file system carries", hint)
    return text


def root_device(text: str) -> str:
    """`/dev/mmcblk0p2`, `PARTUUID=…` of GPT or MBR, `PARTLABEL=…` of GPT: names that a partition has."""
    if not _ROOT.fullmatch(text) or "/../" in f"{text}/":
        hint = "/dev/NAME, PARTUUID= in lower case, or PARTLABEL="
        more = "a squashfs has neither UUID nor LABEL; " if text.startswith(("UUID=", "LABEL=")) else ""
        raise BadValue(f"{show(text)} does not name a partition", more + hint)
    return text


def _number(value: str | int, what: str, hint: str) -> int:
    if str(value) == "0":
        raise BadValue("0 would mean no limit", hint)
    match = _NUMBER.fullmatch(str(value))
    if match is None:
        raise BadValue(f"{show(value)} is not {what}", hint)
    return int(match[1]) * _UNITS[match[2].upper()]


def line(text: str) -> str:
    """One line of printable text."""
    if not text.isprintable():
        raise BadValue(f"{show(text)} holds a line break or control character", "one printable line")
    return text


def ascii_line(text: str) -> str:
    """One line of printable ASCII, as a kernel command line must be."""
    if not (text.isascii() and text.isprintable()):
        raise BadValue(f"{show(text)} is not one line of printable ASCII")
    return text


def shell_text(text: str) -> str:
    """A command or a file's text: any characters but NUL and surrogates, so that it has bytes."""
    if "\0" in text:
        raise BadValue("holds a NUL character")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise BadValue("holds half a surrogate pair, which has no UTF-8")
    return text


def gecos(text: str) -> str:
    """A field of /etc/passwd."""
    if ":" in line(text):
        raise BadValue(f"{show(text)} holds a colon, which /etc/passwd cannot", "leave it out")
    return text


def hostname(text: str) -> str:
    """RFC 1123 labels, 64 bytes at most as the kernel has it."""
    hint = "lower-case letters, digits and dashes, parts joined by dots, at most 64 characters"
    if len(text) > 64 or not all(_LABEL.fullmatch(part) for part in text.split(".")):
        raise BadValue(f"{show(text)} is not a host name", hint)
    return text


def unit(text: str) -> str:
    """A unit's whole name: systemd.unit(5)."""
    stem, _, kind = text.rpartition(".")
    if not stem and _UNIT.fullmatch(kind):
        raise BadValue(f"{show(text)} is not a whole unit name", f"write {kind}.service")
    if kind not in _UNIT_TYPES or not _UNIT.fullmatch(stem) or len(text) > NAME_MAX:
        raise BadValue(f"{show(text)} is not a unit name", "such as ssh.service or getty@ttyS0.service")
    if stem.endswith("@"):
        raise BadValue(f"{show(text)} is a template, not a unit", f"name an instance: {stem}NAME.{kind}")
    return text


def image_path(text: str) -> PurePosixPath:
    """A path in the running system, below the root."""
    if not text.startswith("/"):
        hint = f"write /{text}" if text and text[0] not in ".~" else "begin with /"
        raise BadValue(f"{show(text)} must be absolute", hint, "bad-path")
    _plain_path(text, text[1:], "write the path it leads to")
    return PurePosixPath(text)


def account_path(text: str) -> PurePosixPath:
    """A home or shell: a field of /etc/passwd."""
    if ":" in text:
        raise BadValue(f"{show(text)} holds a colon, which /etc/passwd cannot", "", "bad-path")
    return image_path(text)


def host_path(text: str) -> str:
    """The path of a file beside the profile."""
    if text.startswith(("/", "~")):
        hint = "copy it there, or put the profile above it"
        raise BadValue(f"{show(text)} must be relative, beside the profile or below", hint, "bad-path")
    _plain_path(text, text, "copy it beside the profile, or put the profile above it")
    return text


def link_target(text: str) -> str:
    """What a symbolic link holds: absolute or relative, with `..` if need be."""
    if not text:
        raise BadValue("is empty", "", "bad-path")
    _path_characters(text)
    return text


def bind_source(text: str) -> str:
    """`tmpfs`, `state`, or the path that is shown."""
    if text not in ("tmpfs", "state"):
        if not text.startswith("/"):
            raise BadValue(f"{show(text)} must be `tmpfs`, `state` or an absolute path", "", "bad-path")
        image_path(text)
    return text


def _plain_path(text: str, inner: str, climb_hint: str) -> None:
    """Refuse every spelling of a path but the one, since paths are compared by their text."""
    _path_characters(text)
    parts = inner.split("/")
    if inner == "":
        raise BadValue("the root itself cannot be named here" if text else "is empty", "", "bad-path")
    if ".." in parts:
        raise BadValue(f"{show(text)} holds `..`", climb_hint, "bad-path")
    if text.endswith("/"):
        raise BadValue(f"{show(text)} ends with a slash", f"write {text.rstrip('/')}", "bad-path")
    if "" in parts or "." in parts:
        plain = "/".join(part for part in parts if part not in ("", "."))
        hint = f"write {'/' if text.startswith('/') else ''}{plain}" if plain else ""
        raise BadValue(f"{show(text)} holds an empty or `.` part", hint, "bad-path")


def _path_characters(text: str) -> None:
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in text):
        raise BadValue(f"{show(text)} holds a control character", "", "bad-path")
    if text != text.strip():
        raise BadValue(f"{show(text)} begins or ends with a blank", "", "bad-path")
    if text.endswith("\\"):
        # In a unit's setting a last backslash continues the line: systemd.syntax(7).
        raise BadValue(f"{show(text)} ends with a backslash", "", "bad-path")
    shell_text(text)
    if len(text.encode()) > PATH_MAX:
        raise BadValue(f"{show(text)} is longer than {PATH_MAX} bytes", "", "bad-path")
    if any(len(part.encode()) > NAME_MAX for part in text.split("/")):
        raise BadValue(f"{show(text)} has a part longer than {NAME_MAX} bytes", "", "bad-path")


_BY_KEY: Final = {
    **dict.fromkeys(("size", "nr_blocks"), "use the key `size`"),
    "nr_inodes": "use the key `inodes`",
    "mode": "use the key `mode`",
    "uid": "use the key `owner`",
    "gid": "use the key `group`",
    **dict.fromkeys(("ro", "rw"), "use `immutable:`, or `access:` of a bind from a path"),
    **dict.fromkeys(("bind", "rbind"), "use `type: bind`"),
    **dict.fromkeys(("nofail", "fail"), "use the key `required`"),
}
_BY_ROFS: Final = re.compile(
    r"(lower|upper|work|data)dir\+?|redirect_dir|index|metacopy|xino|nfs_export|userxattr|uuid|verity"
    r"|move|remount|r?private|r?shared|r?slave|r?unbindable"
    r"|(no)?auto|(no)?users?|owner|group|defaults|_netdev|comment|loop|offset|sizelimit|[xX]-.*"
)


def mount_option(text: str) -> str:
    """One option of mount(8) that is the profile's to choose."""
    name = text.partition("=")[0]
    if "," in text:
        raise BadValue(f"{show(text)} is more than one option", "one list item for each")
    if hint := _BY_KEY.get(name):
        raise BadValue(f"option {show(text)} is not given as an option", hint)
    if _BY_ROFS.fullmatch(name):
        raise BadValue(f"option {show(text)} is decided by rofs", "leave it out")
    if not _OPTION.fullmatch(text):
        raise BadValue(f"{show(text)} is not a mount option", "such as nosuid or huge=never")
    return text


FORMATS: Final[dict[str, Callable[[str], object]]] = {
    "mode": mode,
    "line": line,
    "ascii-line": ascii_line,
    "shell-text": shell_text,
    "gecos": gecos,
    "host-name": hostname,
    "unit": unit,
    "image-path": image_path,
    "account-path": account_path,
    "host-path": host_path,
    "link-target": link_target,
    "bind-source": bind_source,
    "mount-option": mount_option,
    "device-tag": device_tag,
    "root-device": root_device,
}
"""Formats of strings."""

NUMBER_FORMATS: Final[dict[str, Callable[[str | int], object]]] = {
    "size": size,
    "count": count,
    "block-size": block_size,
    "memory": memory,
    "disk-size": disk_size,
}
"""Formats of strings and integers."""
