# SPDX-License-Identifier: MIT
"""`units.enable` and `units.mask` against `systemctl --root`, which makes the same links."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from layouts import NO_INPUTS, P, profile_of, tree

from rofs.entry import Entry
from rofs.generate import file_entries
from rofs.generate.units import MISFIRING_TIMERS, expand, parse_install, unit_entries
from rofs.inputs import Inputs
from rofs.layout import UNIT_DIR
from rofs.treefacts import TreeFacts

LIB = "/usr/lib/systemd/system/"
SERVICE = "[Service]\nExecStart=/bin/true\n"
UNITS = {
    "plain.service": f"{SERVICE}[Install]\nWantedBy=multi-user.target\n",
    "many.service": f"{SERVICE}[Install]\nWantedBy=a.target b.target\nRequiredBy=c.target\nWantedBy=d.target\n",
    "reset.service": f"{SERVICE}[Install]\nWantedBy=a.target\nWantedBy=\nWantedBy=b.target\n",
    "alias.service": f"{SERVICE}[Install]\n# c\n; c\nWantedBy=a.target\nAlias=one.service two.service\n",
    "also.service": f"{SERVICE}[Install]\nWantedBy=a.target\nAlso=plain.service other.socket\n",
    "other.socket": "[Socket]\nListenStream=/run/x\n[Install]\nWantedBy=sockets.target\nAlso=also.service\n",
    "tmpl@.service": f"{SERVICE}[Install]\nWantedBy=a.target\n",
    "deflt@.service": f"{SERVICE}[Install]\nWantedBy=a.target\nDefaultInstance=tty1\n",
    "brings.service": f"{SERVICE}[Install]\nAlso=deflt@.service\nWantedBy=a.target\n",
    "spec@.service": f"{SERVICE}[Install]\nWantedBy=dev-%i.device %p-x.target %j.target\nRequiredBy=%N.target\n",
    "pre-fix.service": f"{SERVICE}[Install]\nWantedBy=%j.target %p.target\n",
    "cont.service": f"{SERVICE}[Install]\nWantedBy=a.target \\\n   b.target\n",
    "none.service": SERVICE,
    "elsewhere.service": "[Install2]\nWantedBy=x.target\n"
    f"{SERVICE}[Install]\nWantedBy=a.target\n[Unit]\nAfter=y.target\n",
}
ENABLED = [
    "plain.service", "many.service", "reset.service", "alias.service", "also.service", "tmpl@x.service",
    "tmpl@a-b.c.service", "deflt@.service", "deflt@tty2.service", "brings.service", "spec@ttyS0.service",
    "pre-fix.service", "cont.service", "none.service", "elsewhere.service",
]  # fmt: skip


def facts_with(units: dict[str, str]) -> TreeFacts:
    return tree(texts={LIB + name: text.encode() for name, text in units.items()})


def links(entries: list[Entry]) -> dict[str, str]:
    return {str(e.path): e.target for e in entries}


def ours(enable: list[str]) -> dict[str, str]:
    from rofs.generate.units import _enable

    found: dict[str, str] = {}
    for name in enable:
        found |= links(_enable(facts_with(UNITS), {}, name, seen=set()))
    return found


def theirs(root: Path, enable: list[str]) -> dict[str, str]:
    (root / LIB.strip("/")).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    for name, text in UNITS.items():
        (root / LIB.strip("/") / name).write_text(text)
    for name in enable:
        argv = ["systemctl", f"--root={root}", "enable", "--", name]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "none" in name, done.stderr
    base = root / "etc/systemd/system"
    found = [p for p in base.rglob("*") if p.is_symlink()] if base.is_dir() else []
    targets = {"/" + str(p.relative_to(root)): str(p.readlink()) for p in found}
    # Debian's systemctl looks in /lib first, which is the same directory.
    return {path: f"/usr{to}" if to.startswith("/lib/") else to for path, to in targets.items()}


@pytest.mark.needs("systemctl")
@pytest.mark.parametrize("name", ENABLED)
def test_the_links_are_systemctls(tmp_path: Path, name: str) -> None:
    assert ours([name]) == theirs(tmp_path, [name])


@pytest.mark.needs("systemctl")
def test_all_together(tmp_path: Path) -> None:
    made = theirs(tmp_path, ENABLED)
    assert ours(ENABLED) == made and len(made) > 20, "the oracle made links"


def test_the_profiles_own_units_are_enabled_from_source_and_content() -> None:
    profile = profile_of(
        "units: {enable: [one.service, two.service]}\n"
        "files:\n"
        "  - {path: /etc/systemd/system/one.service, source: one.service}\n"
        f"  - {{path: /etc/systemd/system/two.service, content: {UNITS['plain.service']!r}}}\n".replace("'", '"')
    )
    inputs = Inputs(files={0: UNITS["plain.service"].encode()}, authorized_keys={}, dotfiles={}, apt_sources=None)
    entries = unit_entries(profile, tree(), file_entries(profile, inputs, tree()), ())
    wants = "/etc/systemd/system/multi-user.target.wants"
    assert links(entries) == {
        f"{wants}/one.service": "/etc/systemd/system/one.service",
        f"{wants}/two.service": "/etc/systemd/system/two.service",
    }


def test_masks() -> None:
    facts = facts_with({"man-db.timer": "", "always.service": "", "plain.service": UNITS["plain.service"]})
    profile = profile_of("units: {mask: [plain.service]}\n")
    entries = unit_entries(
        profile, facts, file_entries(profile, NO_INPUTS, facts), ("always.service", "absent.service")
    )
    assert links(entries) == dict.fromkeys(
        (str(UNIT_DIR / n) for n in ("man-db.timer", "always.service", "plain.service")), "/dev/null"
    )
    assert "man-db.timer" in MISFIRING_TIMERS
    assert {e.why for e in entries} == {"rofs", "units.mask"}


def test_sections_and_continuations() -> None:
    assert parse_install("[Unit]\nWantedBy=no\n[Install]\nWantedBy = a \\\n b\n\n#x\nWantedBy=c\n") == {
        "WantedBy": ["a", "b", "c"]
    }


def test_specifiers_are_replaced_once() -> None:
    assert expand(P("/x/%i"), "a@%n.service", "%n") == P("/x/%n")
    assert expand(P("/%%i"), "a@b.service", "b") == P("/%i")
    assert expand(P("/%j.%p"), "x-y-z@i.service", "i") == P("/z.x-y-z")
