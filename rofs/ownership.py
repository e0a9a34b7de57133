# SPDX-License-Identifier: MIT
"""The file `source.directory.ownership` -> its rows, each with its place.

The format is the device table of makedevs, as Buildroot (BR2_ROOTFS_DEVICE_TABLE) and Yocto have it:

    NAME TYPE MODE UID GID MAJOR MINOR START INC COUNT

with `-` for an empty field, fields left out at the end, and `#` comments. Rows apply in order. What
they mean is Buildroot's package/makedevs/makedevs.c; what it passes over in silence is an error here.

    f   a file: mode and owner            d   a directory: the same, made with its parents if missing
    F   a file that may be missing        r   everything at and below: the owner, and one mode for
    c b p  a node, or COUNT of them           directories and files alike; -1 leaves modes as they are

A line `|xattr CAPABILITIES` gives the file of the row before it capabilities; several lines add up.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar, get_args

from rofs.errors import Mark, Problem, ProfileError
from rofs.values import NAME_MAX, BadValue, show

RowType = Literal["f", "F", "d", "r", "c", "b", "p"]
RULE: Final = "bad-ownership"
CAPABILITIES: Final = (  # noqa: SIM905 -- as in linux/capability.h; 41 literals are longer to read
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable "
    "net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot "
    "sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease "
    "audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read "
    "perfmon bpf checkpoint_restore"
).split()
"""By number, capabilities(7)."""

_FIELDS = ("NAME", "TYPE", "MODE", "UID", "GID", "MAJOR", "MINOR", "START", "INC", "COUNT")
_NEEDED = 5
_MAX_NUMBER = 0xFFFFF
_MAX_MAJOR = 0xFFF
_MAX_ID = (1 << 32) - 2
_XATTR = "|xattr"
_CAPS = re.compile(r"(cap_[a-z_]+(?:,cap_[a-z_]+)*)([+=])([eip]+)")

_T = TypeVar("_T")
_Word = tuple[str, Mark]


@dataclass(frozen=True, slots=True)
class Who:
    """A UID or GID field: a number, a name for the tree's own passwd or group, None for "as it is"."""

    value: int | str | None
    mark: Mark


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Three sets of capabilities, each as bits."""

    effective: int = 0
    inheritable: int = 0
    permitted: int = 0

    def encode(self) -> bytes:
        """The value of security.capability: linux/capability.h, revision 2."""
        low, high = 0xFFFFFFFF, 32
        return struct.pack(
            "<5I",
            0x02000000 | bool(self.effective),
            self.permitted & low,
            self.inheritable & low,
            self.permitted >> high,
            self.inheritable >> high,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row. `path` is absolute with one slash between names; `mode` None leaves the mode as it is.

    `rdev` is major and minor of the first node; `caps` replaces what the file has.
    """

    mark: Mark
    path: str
    type: RowType
    mode: int | None
    user: Who
    group: Who
    rdev: tuple[int, int] = (0, 0)
    start: int = 0
    increment: int = 0
    count: int = 0
    caps: Capabilities | None = None

    def nodes(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Path and device number of each node of the series; COUNT below 2 is the name itself."""
        major, minor = self.rdev
        if self.count < 2:
            yield self.path, self.rdev
            return
        for number in range(self.count):
            yield f"{self.path}{self.start + number}", (major, minor + number * self.increment)


@dataclass(frozen=True, slots=True)
class Ownership:
    """A whole table, its rows in the order they apply."""

    file: str
    rows: tuple[Row, ...]


def parse_ownership(text: bytes, file: str) -> Ownership:
    """Read a table; ProfileError carries every problem in it. `file` names it in messages."""
    parser = _Parser(file)
    for number, line in enumerate(text.decode("utf-8", "surrogateescape").split("\n"), start=1):
        parser.read(number, line.removesuffix("\r"))
    if parser.problems:
        raise ProfileError(parser.problems)
    return Ownership(file, tuple(row for row in parser.rows if row is not None))


class _Parser:
    """Lines -> rows and problems; a row with a problem is None, so that its `|xattr` still has a row."""

    def __init__(self, file: str) -> None:
        self.rows: list[Row | None] = []
        self.problems: list[Problem] = []
        self._file = file

    def read(self, number: int, line: str) -> None:
        words: list[_Word] = []
        for match in re.finditer(r"[^ \t]+", line):
            if match.group().startswith("#"):
                break
            words.append((match.group(), Mark(self._file, number, match.start() + 1)))
        if words and words[0][0].startswith("|"):
            self._read_xattr(words)
        elif words:
            before = len(self.problems)
            row = self._read_row(words)
            self.rows.append(row if len(self.problems) == before else None)

    def _wrong(self, mark: Mark, message: str, hint: str = "") -> None:
        self.problems.append(Problem(mark, message, RULE, hint=hint))

    def _take(self, parse: Callable[[str], _T], word: _Word, instead: _T) -> _T:
        try:
            return parse(word[0])
        except BadValue as error:
            self._wrong(word[1], error.message, error.hint)
            return instead

    def _read_row(self, words: list[_Word]) -> Row | None:
        if len(words) < _NEEDED:
            message = f"the row ends before {_FIELDS[len(words)]}"
            self._wrong(words[0][1], message, f"write {' '.join(_FIELDS)}, `-` for what is empty")
            return None
        for _, mark in words[len(_FIELDS) :]:
            self._wrong(mark, f"the row has more than {len(_FIELDS)} fields", "a name cannot hold a blank")
            return None
        words += [("-", words[-1][1])] * (len(_FIELDS) - len(words))
        numbers = [self._take(_parse_number, word, None) for word in words[_NEEDED:]]
        row = Row(
            mark=words[0][1],
            path=self._take(_parse_path, words[0], ""),
            type=self._take(_parse_type, words[1], "f"),
            mode=self._take(_parse_mode, words[2], None),
            user=Who(self._take(_parse_id, words[3], None), words[3][1]),
            group=Who(self._take(_parse_id, words[4], None), words[4][1]),
            rdev=(numbers[0] or 0, numbers[1] or 0),
            start=numbers[2] or 0,
            increment=numbers[3] or 0,
            count=numbers[4] or 0,
        )
        if row.path == "/" and row.type not in "dr":
            self._wrong(row.mark, f"the root cannot be of type {row.type}", "d or r")
        if row.type in "cbp":
            self._check_node(row, words)
        return row

    def _check_node(self, row: Row, words: list[_Word]) -> None:
        """What a node needs beyond a file; makedevs reads no field after a `-`."""
        if words[2][0] in ("-", "-1"):
            self._wrong(words[2][1], "a node that is made needs a mode")
        if row.type != "p" and "-" in (words[5][0], words[6][0]):
            self._wrong(words[5][1], "a device needs MAJOR and MINOR")
        if row.rdev[0] > _MAX_MAJOR:
            self._wrong(words[5][1], f"{row.rdev[0]} is too large for a major number", f"at most {_MAX_MAJOR}")
        if row.count > 1 and "-" in (words[7][0], words[8][0]):
            self._wrong(words[9][1], "COUNT without START and INC", "write both")
        *_, (path, (_, minor)) = row.nodes()
        if minor > _MAX_NUMBER:
            self._wrong(words[6][1], f"the last minor number would be {minor}", f"at most {_MAX_NUMBER}")
        if len(path.rpartition("/")[2].encode("utf-8", "surrogateescape")) > NAME_MAX:
            self._wrong(words[0][1], f"the last name would be longer than {NAME_MAX} bytes")

    def _read_xattr(self, words: list[_Word]) -> None:
        if words[0][0] != _XATTR or len(words) != 2:
            self._wrong(words[0][1], f"{show(words[0][0])} begins no row", f"`{_XATTR} cap_net_raw+ep`")
            return
        row = self.rows[-1] if self.rows else None
        if not self.rows or (row is not None and row.type not in "fF"):
            self._wrong(words[0][1], "capabilities without a file", f"`{_XATTR}` follows a row of type f or F")
            return
        old = (row.caps if row is not None else None) or Capabilities()
        caps = self._take(lambda text: _add_capabilities(old, text), words[1], old)
        if row is not None:
            self.rows[-1] = replace(row, caps=caps)


def _parse_path(text: str) -> str:
    if not text.startswith("/"):
        raise BadValue(f"{show(text)} must be absolute", f"write /{text}")
    names = [name for name in text.split("/") if name not in ("", ".")]
    if ".." in names:
        raise BadValue(f"{show(text)} holds `..`", "write the path it leads to")
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in text):
        raise BadValue(f"{show(text)} holds a control character")
    if any(len(name.encode("utf-8", "surrogateescape")) > NAME_MAX for name in names):
        raise BadValue(f"{show(text)} has a part longer than {NAME_MAX} bytes")
    return "/" + "/".join(names)


def _parse_type(text: str) -> RowType:
    for known in get_args(RowType):
        if text == known:
            return known  # type: ignore[no-any-return]  # get_args forgets that it is a RowType
    raise BadValue(f"{show(text)} is not a type", f"one of {' '.join(get_args(RowType))}")


def _parse_mode(text: str) -> int | None:
    if text in ("-", "-1"):
        return None
    if not re.fullmatch(r"0{0,2}[0-7]{1,4}", text):
        raise BadValue(f"{show(text)} is not a mode", "octal digits such as 755 or 4755, or -1")
    return int(text, 8)


def _parse_id(text: str) -> int | str | None:
    if text in ("-", "-1"):
        return None
    if re.fullmatch(r"[0-9]+", text):
        if len(text) > 10 or int(text) > _MAX_ID:
            raise BadValue(f"{show(text)} is too large", f"at most {_MAX_ID}")
        return int(text)
    if text.startswith("-") or ":" in text or not text.isprintable():
        raise BadValue(f"{show(text)} is neither a number nor a name")
    return text


def _parse_number(text: str) -> int | None:
    if text == "-":
        return None
    if not re.fullmatch(r"[0-9]{1,7}", text) or int(text) > _MAX_NUMBER:
        raise BadValue(f"{show(text)} is not a number", f"0 to {_MAX_NUMBER}, or -")
    return int(text)


def _add_capabilities(old: Capabilities, text: str) -> Capabilities:
    """One clause of cap_from_text(3) on top of `old`; like cap_set_file(3), all effective or none."""
    match = _CAPS.fullmatch(text.lower())
    if match is None:
        raise BadValue(f"{show(text)} is not a capability", "such as cap_net_raw+ep or cap_chown,cap_fowner=ep")
    bits = 0
    for name in match[1].split(","):
        if name.removeprefix("cap_") not in CAPABILITIES:
            raise BadValue(f"{show(name)} is not a capability", "capabilities(7) has the names")
        bits |= 1 << CAPABILITIES.index(name.removeprefix("cap_"))
    kept = 0 if match[2] == "+" else bits
    sets = {
        flag: before & ~kept | (bits if flag in match[3] else 0)
        for flag, before in zip("eip", (old.effective, old.inheritable, old.permitted), strict=True)
    }
    if sets["e"] not in (0, sets["i"] | sets["p"]):
        raise BadValue(f"{show(text)}: a file has one effective bit for all", "`e` on each capability or on none")
    return Capabilities(sets["e"], sets["i"], sets["p"])
