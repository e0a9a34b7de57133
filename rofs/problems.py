# SPDX-License-Identifier: MIT
"""Problems -> text: lines for people and editors, JSON for programs, annotations for GitHub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Literal

from rofs.errors import Problem, render_key_path

Format = Literal["text", "json", "github"]


def render_problems(problems: Iterable[Problem], fmt: Format = "text") -> str:
    """All problems, sorted by place; ends with a newline unless there is nothing to say.

    text: `file:line:column: error: message (hint) [key.path] (rule)`, one line each.
    json: one list of objects; always a list, also when empty.
    github: `::error file=…,line=…,col=…,title=…::message`, workflow commands for annotations.
    """
    return _FORMATS[fmt](sorted(problems))


def _text(problems: list[Problem]) -> str:
    return "".join(f"{_one_line(str(problem))}\n" for problem in problems)


def _json(problems: list[Problem]) -> str:
    rows = [
        {
            "file": problem.mark.file,
            "line": problem.mark.line,
            "column": problem.mark.column,
            "severity": problem.severity,
            "message": problem.message,
            "hint": problem.hint,
            "key": render_key_path(problem.at),
            "rule": problem.rule,
        }
        for problem in problems
    ]
    return json.dumps(rows, indent=2) + "\n"


def _github(problems: list[Problem]) -> str:
    return "".join(
        f"::{problem.severity} file={_property(problem.mark.file)},line={problem.mark.line},"
        f"col={problem.mark.column},title={_property(problem.rule)}::{_data(_said(problem))}\n"
        for problem in problems
    )


def _said(problem: Problem) -> str:
    """The line of text without its place, which the annotation carries itself."""
    return str(problem).removeprefix(f"{problem.mark}: {problem.severity}: ")


def _one_line(text: str) -> str:
    """Control characters as escapes: a file name or key may hold any, and a problem is one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


_FORMATS: dict[Format, Callable[[list[Problem]], str]] = {"text": _text, "json": _json, "github": _github}
