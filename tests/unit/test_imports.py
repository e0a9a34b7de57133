# SPDX-License-Identifier: MIT
"""Imports go one way: each module may import only from what stands before it in ROOMS (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "rofs").rglob("*.py"))

ROOMS = (
    "rofs",
    "rofs.errors",
    "rofs.entry",
    "rofs.progress",
    # tables without imports
    "rofs.machine.arch",
    "rofs.generate.escape",
    # the profile
    "rofs.document",
    "rofs.values",
    "rofs.problems",
    "rofs.schema",
    "rofs.packages",
    "rofs.lock",
    "rofs.profile",
    "rofs.cmdline",
    "rofs.publickeys",
    "rofs.ownership",
    "rofs.inputs",
    # the model
    "rofs.tarmembers",
    "rofs.tarindex",
    "rofs.treefacts",
    "rofs.layout",
    "rofs.kernelfacts",
    "rofs.lint",
    "rofs.generate",
    "rofs.explain",
    # the machine is touched from here on
    "rofs.reaper",
    "rofs.run",
    "rofs.tools",
    "rofs.seal",
    "rofs.stamp",
    "rofs.store",
    "rofs.sources",
    "rofs.image",
    "rofs.sbom",
    "rofs.machine",
    "rofs.verify",
    "rofs.fetch",
    "rofs.elsewhere",
    "rofs.reproduce",
    "rofs.locking",
    "rofs.build",
    "rofs.export",
    "rofs.cachecare",
    "rofs.starter",
    "rofs.doctor",
    "rofs.cli",
    "rofs.__main__",
)
"""A package stands for its modules, which order themselves; one named before its package stands there instead."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    while module not in ROOMS:
        module = module.rpartition(".")[0]
    return module


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, also within functions and for types alone."""
    found: set[str] = set()
    names = {name_of(p) for p in MODULES}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = str(node.module)
            found |= {f"{module}.{a.name}" if f"{module}.{a.name}" in names else module for a in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    own = room_of(name_of(path))
    for module in imports_of(path):
        if module.partition(".")[0] == "rofs":
            room = room_of(module)
            assert ROOMS.index(room) <= ROOMS.index(own), f"{name_of(path)} imports {module}"


def test_within_a_room_there_is_no_circle() -> None:
    graph = {name_of(p): {i for i in imports_of(p) if i.startswith("rofs")} - {name_of(p)} for p in MODULES}
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & set(left)]:
        for name in free:
            del left[name]
    assert not left, "these import each other"


def test_only_run_imports_sh_and_nobody_starts_programs_beside_it() -> None:
    users = {module: {name_of(p) for p in MODULES if module in imports_of(p)} for module in ("sh", "subprocess")}
    assert users == {"sh": {"rofs.run"}, "subprocess": set()}


def test_every_room_exists() -> None:
    names = {name_of(p) for p in MODULES}
    assert set(ROOMS) <= names
    assert {room_of(name) for name in names} == set(ROOMS)


def test_a_wrong_import_would_be_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "x.py"
    wrong.write_text("def f():\n    from rofs import build\n    import rofs.cli\n    from rofs.layout import ROOT\n")
    assert imports_of(wrong) == {"rofs.build", "rofs.cli", "rofs.layout"}
    assert ROOMS.index(room_of("rofs.verify.mounts")) > ROOMS.index(room_of("rofs.generate.mounts"))
    assert ROOMS.index(room_of("rofs.generate.escape")) < ROOMS.index(room_of("rofs.lint"))
