# SPDX-License-Identifier: MIT
"""What an image promises, as JSON beside it: Layout and entries out, Layout and entries back.

`verify` of an image that came from elsewhere must judge it by what it was built to promise, without
the profile's other files and without the tree. The profile's text travels too, for the places in
the report. JSON and not pickle: an image directory is data, and reading it must run nothing.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rofs.document import Marks, load
from rofs.entry import Entry
from rofs.errors import MachineError, ProfileError
from rofs.layout import Layout
from rofs.machine.arch import ARCHES

if TYPE_CHECKING:
    from cattrs import Converter

FILE = "promises.json"
PROFILE = "profile.yaml"
SCHEMA = "rofs/promises/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Everything verification needs to know of one image."""

    architecture: str
    layout: Layout
    entries: tuple[Entry, ...]


def _converter(marks: Marks | None, profile: Path | None) -> Converter:
    from cattrs import Converter  # only builds and verifications pay for it

    converter = Converter()
    converter.register_unstructure_hook(PurePosixPath, str)
    converter.register_structure_hook(PurePosixPath, lambda value, _: PurePosixPath(value))
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode())
    converter.register_structure_hook(bytes, lambda value, _: base64.b64decode(value))
    # Of this machine, or to be had again from the profile's text.
    converter.register_unstructure_hook(Path, lambda _: None)
    converter.register_structure_hook(Path, lambda _, __: profile)
    converter.register_unstructure_hook(Marks, lambda _: None)
    converter.register_structure_hook(Marks, lambda _, __: marks)
    converter.register_structure_hook(str | int, lambda value, _: value)
    return converter


def render_contract(contract: Contract) -> bytes:
    """Deterministic JSON."""
    data = {"schema": SCHEMA, **_converter(None, None).unstructure(contract)}
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def layout_data(layout: Layout) -> dict[str, Any]:
    """A layout as plain data, for `plan --json`."""
    data: dict[str, Any] = _converter(None, None).unstructure(layout)
    return data


def load_contract(directory: Path) -> Contract:
    """Read it back from an image directory; MachineError where there is none."""
    try:
        data = json.loads((directory / FILE).read_bytes())
        profile = (directory / PROFILE).absolute()
        if data.pop("schema") != SCHEMA:
            raise MachineError(f"{directory / FILE} is of another release of rofs: build the image again")
        contract = _converter(load(profile).marks, profile).structure(data, Contract)
    except OSError as error:
        raise MachineError(f"{directory} is no image that rofs built: {error.strerror}: {error.filename}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ProfileError, ExceptionGroup) as error:
        raise MachineError(f"{directory / FILE} cannot be read: {_first_line(error)}") from None
    if contract.architecture not in ARCHES:
        raise MachineError(f"{directory / FILE} is of the unknown architecture {contract.architecture!r}")
    return contract


def _first_line(error: BaseException) -> str:
    """The innermost word of a group: cattrs wraps each level of the data in one."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return next(iter(str(error).splitlines()), type(error).__name__)
