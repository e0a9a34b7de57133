# SPDX-License-Identifier: MIT
"""A template of templates/ and its values -> text. The only place that knows Jinja2."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rofs.generate.escape import fstab_field, unit_value, unit_words

if TYPE_CHECKING:
    from jinja2 import Environment


def find_templates() -> Path:
    """Inside the wheel they lie in the package, in a checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape  # 60 ms for `check`

    environment = Environment(
        loader=FileSystemLoader(find_templates()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=select_autoescape(("html.j2",)),  # the other outputs are not HTML; each has its own filter
    )
    environment.filters.update(
        sh=lambda value: shlex.quote(str(value)),
        unit=lambda value: unit_value(str(value)),
        words=lambda value: unit_words(str(value)),
        fstab=lambda value: fstab_field(str(value)),
    )
    return environment


def render(template: str, **values: object) -> str:
    """`render("fstab.j2", lines=…)`; a name the template uses and nobody gave is an error."""
    return _environment().get_template(template).render(**values)
