# SPDX-License-Identifier: MIT
"""tests/golden/NN-topic/: a profile, and what is made of it in the usual small tree, name by name.

ROFS_REWRITE_GOLDENS=1 writes them anew; review the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from layouts import busybox_tree, tree

from rofs.errors import Problem
from rofs.generate.initrd import render_initrd
from rofs.generate.mounts import mount_entries
from rofs.generate.picture import render_picture
from rofs.generate.units import unit_entries
from rofs.layout import build_layout
from rofs.lint import lint
from rofs.problems import render_problems
from rofs.profile import load_profile

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CASES = sorted(GOLDEN.iterdir())
REWRITE = bool(os.environ.get("ROFS_REWRITE_GOLDENS"))


def made(profile_file: Path) -> dict[str, bytes]:
    """File name below expected/ -> content; or only problems.txt where there is an error."""
    profile = load_profile(profile_file)
    facts = tree() if profile.init == "systemd" else busybox_tree()
    found = lint(profile, facts)
    files: dict[str, bytes] = {}
    if found:
        files["problems.txt"] = said(found).encode()
    if any(p.severity == "error" and p.rule != "no-such-path" for p in found):
        return files
    layout = build_layout(profile, facts)
    entries = [*mount_entries(layout), *unit_entries(profile, facts, [], ())]
    links = sorted(f"{e.path} -> {e.target}\n" for e in entries if e.kind == "symlink")
    for entry in entries:
        if entry.kind == "file":
            files[entry.path.name if entry.path.name == "fstab" else f"units/{entry.path.name}"] = entry.content
    texts = {"init": render_initrd(layout, []), "picture.txt": render_picture(layout), "links.txt": "".join(links)}
    return files | {name: text.encode() for name, text in texts.items()}


def said(problems: list[Problem]) -> str:
    return render_problems(problems).replace(problems[0].mark.file, "profile.yaml")


def there(case: Path) -> dict[str, bytes]:
    base = case / "expected"
    return {str(p.relative_to(base)): p.read_bytes() for p in sorted(base.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_golden(case: Path) -> None:
    files = made(case / "profile.yaml")
    if REWRITE:
        for name in set(there(case)) - set(files):
            (case / "expected" / name).unlink()
        for name, content in files.items():
            (case / "expected" / name).parent.mkdir(parents=True, exist_ok=True)
            (case / "expected" / name).write_bytes(content)
    expected = there(case)
    assert sorted(files) == sorted(expected)
    for name, content in files.items():
        assert content.decode() == expected[name].decode(), name


def test_there_are_goldens_of_both_kinds() -> None:
    kinds = {(case / "expected" / "fstab").exists() for case in CASES}
    assert kinds == {True, False}
