# SPDX-License-Identifier: MIT
"""What PID 1 says of units: one question for all that checks want to know.

The probe asks PID 1 itself. systemctl(1) is a large program to start, and asks for two hundred properties of a unit
where one is wanted: of twenty units that costs a booting guest more than all its other checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rofs.verify import probe_wire as wire
from rofs.verify.check import Facts, parts, trouble

PROBE_UNIT = "rofs-probe.service"


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit; `fragment` is a mount's file, `restarts` and `result` are a service's, "" for others."""

    name: str
    load: str
    active: str
    sub: str
    fragment: str = ""
    restarts: str = ""
    result: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.result})" if self.result else self.name


def units_of(names: Iterable[str]) -> wire.Op:
    """All loaded units; and of these names, which units they are."""
    return wire.units(sorted(names))


def parse_units(facts: Facts) -> dict[str, Unit]:
    """By name; empty where it is not whole: the probe's own unit runs, so it is in each answer."""
    found = {unit.name: unit for unit in map(_unit, parts(facts, "units"))}
    whole = facts.get("errno", "") is None and PROBE_UNIT in found and found[PROBE_UNIT].active == "active"
    return found if whole else {}


def _unit(row: Facts) -> Unit:
    def word(key: str) -> str:
        value = row.get(key)
        return wire.unquote(value).decode("utf-8", "replace") if isinstance(value, str) else ""

    why = [w for w in (word("Result"), word("ExecMainStatus")) if w not in ("", "0", "success")]
    return Unit(
        word("name"), word("load"), word("active"), word("sub"), word("FragmentPath"), word("NRestarts"), " ".join(why)
    )


def find_unit(facts: Facts, units: Mapping[str, Unit], name: str) -> Unit | None:
    """By any of its names."""
    names = facts.get("names")
    own = names.get(wire.quote(name), name) if isinstance(names, dict) else name
    return units.get(wire.unquote(own).decode("utf-8", "replace")) if isinstance(own, str) else None


def why_no_units(facts: Facts) -> str:
    """What to say where nothing could be parsed."""
    return trouble(facts) or f"no whole list of units: {facts.get('errno') or 'it has not the probe'}"


def shown(units: Sequence[Unit]) -> str:
    """For a report."""
    return ", ".join(str(u) for u in units)
