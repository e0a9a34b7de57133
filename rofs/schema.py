# SPDX-License-Identifier: MIT
"""Document -> problems: what profile.schema.json refuses, said in words and at its place.

jsonschema finds the errors; here each becomes one Problem. A wrong value is reported at the value, an
unknown or misplaced key at the key, a missing key at its mapping.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rofs.document import Document
from rofs.errors import KeyPath, Mark, Problem
from rofs.values import FORMATS, NUMBER_FORMATS, BadValue, show

SCHEMA_FILE = Path(__file__).with_name("profile.schema.json")

_TYPES = {
    "string": "a string",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}
_NO_SUCH_KEY = {
    "password": "rofs sets no passwords; use `authorized_keys`",
    "oci": "this release knows the sources `debian`, `tar` and `directory`",
}
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)")


def check_schema(document: Document) -> list[Problem]:
    """Every problem of the document's values, at most one for each place."""
    version = document.data.get("schema")
    if isinstance(version, str) and version != "rofs/v1":
        # Nothing else can be judged by this schema.
        mark = document.marks.find(("schema",))
        hint = "this rofs reads rofs/v1"
        return [Problem(mark, f"unknown schema {show(version)}", "bad-value", ("schema",), hint)]
    found = {(problem.mark, problem.at): problem for problem in check_shape(document, SCHEMA_FILE)}
    for problem in _rules(document):
        found.setdefault((problem.mark, problem.at), problem)
    return list(found.values())


def check_shape(document: Document, schema_file: Path) -> list[Problem]:
    """What a JSON schema refuses of a document, at most one problem for each place."""
    found: dict[tuple[Mark, KeyPath], Problem] = {}
    misread = {problem.at: problem for problem in _misread_numbers(document)}
    for error in validator(schema_file).iter_errors(document.data):
        for problem in _problems(error, document):
            # That a number was misread explains better than that it is out of range.
            better = misread.get(problem.at) if problem.rule == "bad-value" else None
            found.setdefault((problem.mark, problem.at), better or problem)
    for problem in misread.values():
        found.setdefault((problem.mark, problem.at), problem)
    return list(found.values())


@functools.cache
def schema(file: Path = SCHEMA_FILE) -> dict[str, Any]:
    """A schema as data; the profile's."""
    data: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return data


@functools.cache
def validator(file: Path = SCHEMA_FILE) -> Any:
    """A schema's validator. jsonschema takes 80 ms to import, so that waits until something is checked."""
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    def pattern(_: object, regex: str, value: object, _part: object) -> Iterator[Any]:
        # `$` also matches before a last newline in Python, so `x\n` would pass.
        if isinstance(value, str) and not re.fullmatch(regex, value):
            yield ValidationError("pattern")

    def is_integer(_: object, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)  # JSON schema takes 1.0 for one

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer)
    make: Any = extend  # its stub has no types
    strict = make(Draft202012Validator, {"pattern": pattern}, type_checker=types)
    formats = FormatChecker(formats=())
    for name, check in FORMATS.items():
        formats.checks(name, BadValue)(_strings_by(check))
    for name, check_number in NUMBER_FORMATS.items():
        formats.checks(name, BadValue)(_numbers_by(check_number))
    return strict(schema(file), format_checker=formats)


def _strings_by(check: Callable[[str], object]) -> Callable[[object], bool]:
    def passes(value: object) -> bool:
        if isinstance(value, str):
            check(value)
        return True

    return passes


def _numbers_by(check: Callable[[str | int], object]) -> Callable[[object], bool]:
    def passes(value: object) -> bool:
        if isinstance(value, str | int) and not isinstance(value, bool):
            check(value)
        return True

    return passes


def _problems(error: Any, document: Document) -> Iterator[Problem]:
    """One error of jsonschema as problems: several unknown keys are one error there."""
    at: KeyPath = tuple(error.absolute_path)
    value_mark = document.marks.find(at)
    match error.validator:
        case "additionalProperties":
            yield from _unknown_keys(error, document, at)
        case "required":
            for key in error.validator_value:
                if key not in error.instance:
                    needs = f"{_condition(error)} needs the key {key!r}" if _condition(error) else ""
                    message = needs or f"the key {key!r} is missing"
                    yield Problem(value_mark, message, "missing-key", (*at, key))
        case "uniqueItems":
            for index, item in enumerate(error.instance):
                if item in error.instance[:index]:
                    here = (*at, index)
                    message = f"{show(item)} is there twice"
                    yield Problem(document.marks.find(here), message, "duplicate-value", here)
        case "not":  # `{"not": {}}`: jsonschema forgets the path of a plain `false`
            message = f"the key {at[-1]!r} does not go with {_condition(error)}"
            yield Problem(document.marks.key(at), message, "misplaced-key", at)
        case _:
            message, rule, hint = _wrong_value(error, document, at)
            yield Problem(value_mark, message, rule, at, hint)


def _unknown_keys(error: Any, document: Document, at: KeyPath) -> Iterator[Problem]:
    known = list(error.schema["properties"])
    for key in error.instance:
        if key in known:
            continue
        if not (hint := _NO_SUCH_KEY.get(key, "")):
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.65)
            hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        here = (*at, key)
        shown = here if key.isprintable() and len(key) < 64 else at
        yield Problem(document.marks.key(here), f"unknown key {show(key)}", "unknown-key", shown, hint)


def _wrong_value(error: Any, document: Document, at: KeyPath) -> tuple[str, str, str]:
    """Message, rule and hint for a value that is there but refused."""
    value, wanted = error.instance, error.validator_value
    written = document.marks.written(at)
    said = f"YAML reads {written} as {_reading(value)}" if written else ""
    match error.validator:
        case "type":
            return _wrong_type(value, wanted, written, at)
        case "enum" | "const":
            choices = [str(choice) for choice in (wanted if error.validator == "enum" else [wanted])]
            hint = f"one of {', '.join(choices)}" if len(choices) > 1 else f"write {choices[0]}"
            if isinstance(value, str) and (close := difflib.get_close_matches(value, choices, n=1)):
                hint += f"; did you mean {close[0]!r}?"
            return said or f"{show(value)} is not known here", "bad-value", hint
        case "format":
            bad = error.cause
            return bad.message, bad.rule, bad.hint
        case "pattern":
            return f"{show(value)} is refused", "bad-value", str(error.schema.get("$comment", wanted))
        case "minimum" | "maximum":
            low, high = error.schema.get("minimum"), error.schema.get("maximum")
            hint = f"with {_condition(error)}" if _condition(error) else ""
            return f"{value} is not between {low} and {high}", "bad-value", hint
        case "minItems" | "minLength":
            return "must not be empty", "bad-value", ""
        case _:
            return f"must be at most {wanted} characters", "bad-value", ""


def _wrong_type(value: object, wanted: str | list[str], written: str | None, at: KeyPath) -> tuple[str, str, str]:
    """YAML 1.1 reads 0755, no and 1:30 as other things than strings; say so, and what to write."""
    kinds = [wanted] if isinstance(wanted, str) else wanted
    expected = " or ".join(_TYPES[kind] for kind in kinds)
    key = f"{at[-1]}: " if at and isinstance(at[-1], str) else ""
    hint = ""
    if value is None:
        message = f"must be {expected}, and there is no value"
    elif written and "string" in kinds:
        message = f"must be {expected}, and YAML reads {written} as {_reading(value)}"
        hint = f'write {key}"{written}"'
    else:
        message = f"must be {expected}, not {_reading(value)}"
        if isinstance(value, str) and "array" in kinds:
            hint = f"write {key}[{value}]" if value.isprintable() and len(value) < 64 else ""
        elif isinstance(value, str) and (("integer" in kinds and value.isdecimal()) or value in ("true", "false")):
            hint = f"write {key}{value} without quotes"
    return message, "wrong-type", hint


def _reading(value: object) -> str:
    """A value as YAML has read it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the truth value {str(value).lower()}"
        case int() | float():
            return f"the number {show(value)}"
        case str():
            return f"the string {show(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _condition(error: Any) -> str:
    """The words of the `if` whose `then` refused: the schema carries them as its description."""
    path = list(error.absolute_schema_path)
    if "then" not in path:
        return ""
    node: Any = schema()
    for key in path[: path.index("then")]:
        node = node[key]
    return str(node["if"]["description"])


def _misread_numbers(document: Document) -> Iterator[Problem]:
    """Numbers that YAML read otherwise than a person does: 01000 is 512, 1:30 is 90, 1_000 is 1000."""
    for at, written in document.marks.raw.items():
        value: Any = document.data
        for key in at:
            value = value[key]
        if isinstance(value, int) and not isinstance(value, bool) and not _DECIMAL.fullmatch(written):
            message = f"YAML reads {written} as {_reading(value)}"
            yield Problem(document.marks.find(at), message, "bad-value", at, f"write {value} if that is meant")


def _rules(document: Document) -> Iterator[Problem]:
    """What a schema cannot say in words. The data may still be wrong in other ways."""
    yield from _users_differ(document)
    for at, entry in _mappings(document, "files"):
        yield from _one_of(document, at, entry, ("source", "content", "link"))
    source, kernel = document.data.get("source"), document.data.get("kernel")
    if isinstance(source, dict):
        yield from _one_of(document, ("source",), source, ("debian", "tar", "directory"))
    if isinstance(kernel, dict):
        for key in ("modules", "config"):
            if key in kernel and "image" not in kernel:
                hint = "modules for the initrd are `initrd: {modules: [...]}`" if key == "modules" else ""
                at = ("kernel", key)
                message = f"the key {key!r} does not go without 'image'"
                yield Problem(document.marks.key(at), message, "misplaced-key", at, hint)
    for at, entry in _mappings(document, "mounts"):
        if entry.get("type") == "bind" and "path" in entry and entry.get("source") == entry["path"]:
            here = (*at, "source")
            message = "a bind from its own path"
            hint = "`immutable:` makes a path read-only"
            yield Problem(document.marks.find(here), message, "bad-value", here, hint)


def _one_of(document: Document, at: KeyPath, entry: dict[str, Any], keys: tuple[str, ...]) -> Iterator[Problem]:
    """Exactly one of `keys` in a mapping."""
    given = [key for key in entry if key in keys]
    if not given:
        message = f"one of the keys {', '.join(map(repr, keys[:-1]))} and {keys[-1]!r} is missing"
        yield Problem(document.marks.find(at), message, "missing-key", at)
    for key in given[1:]:
        message = f"the key {key!r} does not go with {given[0]!r}"
        hint = f"one of {', '.join(keys[:-1])} and {keys[-1]}"
        yield Problem(document.marks.key((*at, key)), message, "misplaced-key", (*at, key), hint)


def _users_differ(document: Document) -> Iterator[Problem]:
    """No two users with one name or one number."""
    seen: dict[tuple[str, Any], int] = {}
    for at, entry in _mappings(document, "users"):
        for key in ("name", "uid"):
            value = entry.get(key)
            if not isinstance(value, str | int):
                continue
            here = (*at, key)
            if (key, value) in seen:
                hint = f"the first is in line {seen[key, value]}"
                message = f"two users with the {key} {show(value)}"
                yield Problem(document.marks.find(here), message, "duplicate-value", here, hint)
            seen.setdefault((key, value), document.marks.find(here).line)


def _mappings(document: Document, key: str) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """The mappings in the list under `key`, with their key paths."""
    entries = document.data.get(key)
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield (key, index), entry
