# SPDX-License-Identifier: MIT
"""YAML text -> Document: plain data, and a table from key path to the place it was written at.

Two passes over the text. The first reads events and refuses what a profile never needs (aliases, tags,
deep nesting), so that the second, which composes nodes, works on something small and flat. What is
still usable in spite of a problem (a duplicate key) stays in the document with its problem beside it,
so that one run can report everything.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from rofs.errors import KeyPath, Mark, Problem, ProfileError

MAX_BYTES = 1 << 20
MAX_DEPTH = 16

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Where each value and each key of a document was written, and plain scalars as they were written."""

    file: str
    values: Mapping[KeyPath, Mark] = field(repr=False)
    keys: Mapping[KeyPath, Mark] = field(repr=False)
    raw: Mapping[KeyPath, str] = field(repr=False)

    def find(self, at: KeyPath) -> Mark:
        """The place of the value at `at`, or of the deepest value above it."""
        while at and at not in self.values:
            at = at[:-1]
        return self.values.get(at, Mark(self.file, 1, 1))

    def key(self, at: KeyPath) -> Mark:
        """The place of the key itself; of the value where there is none, as in a list."""
        return self.keys.get(at) or self.find(at)

    def written(self, at: KeyPath) -> str | None:
        """The text of an unquoted scalar that YAML read as something other than a string: `0755`, `no`."""
        return self.raw.get(at)


@dataclass(frozen=True, slots=True)
class Document:
    """The data of one file. `problems` are those that left something usable behind."""

    file: Path
    data: dict[str, Any]
    marks: Marks
    problems: tuple[Problem, ...] = ()


def load(path: Path, kind: str = "profile", max_bytes: int = MAX_BYTES) -> Document:
    """Read and parse `path`, which is called a `kind`; ProfileError where there is nothing usable."""
    return parse(_read(path, kind, max_bytes), path, kind)


def parse(raw: bytes, file: Path, kind: str = "profile") -> Document:
    """Parse the bytes of a profile; `file` is only for the marks."""
    text = _decode(raw, str(file))
    try:
        _refuse_extras(text, str(file), kind)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise ProfileError([_syntax_problem(error, text, str(file))]) from None
    if root is None or root.tag == _TAG + "null":
        start = Mark(str(file), 1, 1)
        hint = {"profile": "`rofs init` writes a profile to start from"}.get(kind, "")
        raise _error(start, "the file is empty", "empty", hint)
    walk = _Walk(str(file))
    if not isinstance(root, yaml.MappingNode):
        raise _error(walk.mark(root), f"a {kind} is a mapping of keys to values", "wrong-type")
    data = walk.value(root, ())
    marks = Marks(str(file), walk.values, walk.keys, walk.raw)
    return Document(file, data, marks, tuple(walk.problems))


def _error(mark: Mark, message: str, rule: str, hint: str = "") -> ProfileError:
    return ProfileError([Problem(mark, message, rule, hint=hint)])


def _read(path: Path, kind: str, max_bytes: int) -> bytes:
    """The bytes of a regular file of at most `max_bytes`."""
    start = Mark(str(path), 1, 1)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _error(start, "is a directory", "unreadable-file", "name the YAML file in it")
        if not stat.S_ISREG(mode):
            # A pipe has no directory beside it, and reading one could wait forever.
            raise _error(start, "is not a regular file", "unreadable-file")
        with path.open("rb") as stream:
            raw = stream.read(max_bytes + 1)
    except FileNotFoundError:
        raise _error(start, "no such file", "missing-file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _error(start, f"cannot be read: {reason}", "unreadable-file") from None
    if len(raw) > max_bytes:
        raise _error(start, f"is larger than {max_bytes >> 10} KiB, which no {kind} is", "too-large")
    return raw


def _decode(raw: bytes, file: str) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        byte = raw[error.start]
        raise _error(_mark_after(before, file), f"byte 0x{byte:02x} is not UTF-8", "not-utf8") from None
    text = text.removeprefix("\ufeff")
    if bad := _UNPRINTABLE.search(text):
        message = f"control character U+{ord(bad[0]):04X}"
        raise _error(_mark_after(text[: bad.start()], file), message, "control-character")
    return text


def _mark_after(before: str, file: str) -> Mark:
    return Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


def _refuse_extras(text: str, file: str, kind: str) -> None:
    """Refuse aliases, anchors, tags, deep nesting and a second document, each at its place."""
    depth = documents = 0
    problems: list[Problem] = []
    event: Any
    for event in yaml.parse(text, Loader=_LOADER):
        mark = Mark(file, event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents == 2:
                raise _error(mark, f"a second document; a {kind} is one", "yaml-extra", "remove the `---`")
        elif isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            hint = "write the value out in each place"
            problems.append(Problem(mark, f"YAML alias or anchor {event.anchor!r}", "yaml-extra", hint=hint))
        elif getattr(event, "tag", None) not in (None, "!", _TAG + "str"):
            problems.append(Problem(mark, f"YAML tag {event.tag!r}", "yaml-extra", hint="leave the tag out"))
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _error(mark, f"nested deeper than {MAX_DEPTH} levels", "yaml-extra")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    if problems:
        raise ProfileError(problems)


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    """The place and words of libyaml, and what usually lies behind them."""
    where = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if where is None:
        return Problem(Mark(file, 1, 1), f"not YAML: {error}", "yaml-syntax")
    words = str(getattr(error, "problem", None) or "not YAML")
    begun = getattr(error, "context_mark", None)
    if error_context := getattr(error, "context", None):
        words = f"{words}, {error_context}"
        if begun is not None and begun.line != where.line:
            words += f" that begins in line {begun.line + 1}"
    lines = text.splitlines()
    line = lines[where.line] if where.line < len(lines) else ""
    hint = ""
    if "\t" in line[: len(line) - len(line.lstrip())] or line[where.column : where.column + 1] == "\t":
        hint = "indent with spaces, not tabs"
    elif "mapping values" in words or "cannot start any token" in words:
        hint = "quote a value that holds `: ` or begins with a special character"
    return Problem(Mark(file, where.line + 1, where.column + 1), words, "yaml-syntax", hint=hint)


class _Walk:
    """One walk over the nodes, filling the tables. Depth is bounded by `_refuse_extras`."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[KeyPath, Mark] = {}
        self.keys: dict[KeyPath, Mark] = {}
        self.raw: dict[KeyPath, str] = {}
        self.problems: list[Problem] = []
        self._constructor = SafeConstructor()

    def mark(self, node: yaml.Node) -> Mark:
        return Mark(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def value(self, node: yaml.Node, at: KeyPath) -> Any:
        self.values[at] = self.mark(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, at)

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.value:
            if not self._is_key(key, at):
                continue
            child = (*at, key.value)
            if key.value in result:
                first = self.keys[child]
                message = f"duplicate key {key.value!r}"
                hint = f"the first is in line {first.line}"
                self.problems.append(Problem(self.mark(key), message, "duplicate-key", child, hint))
                continue
            self.keys[child] = self.mark(key)
            result[key.value] = self.value(value, child)
        return result

    def _is_key(self, key: yaml.Node, at: KeyPath) -> bool:
        if isinstance(key, yaml.ScalarNode) and key.tag == _TAG + "str":
            return True
        if key.tag == _TAG + "merge":
            message, hint = "YAML merge `<<`", "write the keys out in each place"
        elif isinstance(key, yaml.ScalarNode) and key.value:
            message = f"a key must be a string, and YAML reads {key.value} as a {_kind(key)}"
            hint = f'write "{key.value}"'
        else:
            message, hint = "a key must be a string", ""
        self.problems.append(Problem(self.mark(key), message, "bad-key", at, hint))
        return False

    def _scalar(self, node: Any, at: KeyPath) -> str | int | float | bool | None:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG)
        if kind not in ("int", "float", "bool", "null"):
            return text  # dates and the lone `=` too: strings, as in YAML 1.2
        self.raw[at] = text
        result: str | int | float | bool | None = None
        try:
            if kind == "int":
                result = self._constructor.construct_yaml_int(node)
            elif kind == "float":
                result = self._constructor.construct_yaml_float(node)
            elif kind == "bool":
                result = self._constructor.construct_yaml_bool(node)
        except ValueError:  # `0b_`, or more digits than Python converts
            del self.raw[at]
            return text
        return result


def _kind(node: yaml.Node) -> str:
    kind = str(node.tag).removeprefix(_TAG)
    return {"int": "number", "float": "number", "bool": "truth value", "timestamp": "date"}.get(kind, kind)
