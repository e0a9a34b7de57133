# SPDX-License-Identifier: MIT
"""`units.enable` and `units.mask` -> the links that `systemctl --root` would make (systemd.unit(5) "[Install]").

They are made at build time: a system with an empty machine-id never sees a first boot (note 24).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from rofs.entry import Entry
from rofs.layout import UNIT_DIR
from rofs.profile import Profile
from rofs.treefacts import TreeFacts

UNIT_PATHS = (
    UNIT_DIR,
    PurePosixPath("/usr/local/lib/systemd/system"),
    PurePosixPath("/usr/lib/systemd/system"),
)
_LINKS = {"WantedBy": "wants", "RequiredBy": "requires", "UpheldBy": "upholds"}

MISFIRING_TIMERS = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "man-db.timer", "e2scrub_all.timer",
)  # fmt: skip
"""Their stamps are volatile, or what they tend cannot change: they would run at every boot."""


def unit_entries(
    profile: Profile, facts: TreeFacts, files: Sequence[Entry], always_masked: tuple[str, ...]
) -> list[Entry]:
    """Links for what the profile enables and masks, and masks for what rofs knows to misfire.

    `files` are the profile's own, among which may be the units it enables. None without systemd.
    """
    if profile.init == "other":
        return []
    found: dict[PurePosixPath, Entry] = {}
    own = {str(entry.path): entry.content for entry in files if entry.kind == "file"}
    for name in profile.units.enable:
        for entry in _enable(facts, own, name, seen=set()):
            found[entry.path] = entry
    known = facts.units()
    masks = [(n, "rofs") for n in (*MISFIRING_TIMERS, *always_masked) if n in known]
    for name, why in [*masks, *((n, "units.mask") for n in profile.units.mask)]:
        path = UNIT_DIR / name
        found[path] = Entry(path=path, kind="symlink", mode=0o777, target="/dev/null", why=why)
    return list(found.values())


def find_unit(facts: TreeFacts, own: dict[str, bytes], name: str) -> tuple[PurePosixPath, bytes] | None:
    """The unit file that `name` means, the template for an instance, with its text."""
    names = [name]
    if "@" in name:
        prefix, _, rest = name.partition("@")
        names.append(f"{prefix}@.{rest.rpartition('.')[2]}")
    for candidate in names:
        for directory in UNIT_PATHS:
            path = directory / candidate
            text = own.get(str(path)) or facts.text(path)
            if text is not None:
                return path, text
    return None


def parse_install(text: str) -> dict[str, list[str]]:
    """The [Install] section: setting -> words, repeated settings added up, an empty one resetting."""
    section, settings = "", dict[str, list[str]]()
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif section == "[Install]" and line and line[0] not in "#;" and "=" in line:
            key, _, value = line.partition("=")
            words = value.split()
            settings[key.strip()] = [*settings.get(key.strip(), []), *words] if words else []
    return settings


def _enable(facts: TreeFacts, own: dict[str, bytes], name: str, seen: set[str]) -> list[Entry]:
    unit = find_unit(facts, own, name)
    if unit is None or name in seen:
        return []
    seen.add(name)
    path, text = unit
    install = parse_install(text.decode("utf-8", "replace"))
    prefix, at, rest = name.partition("@")
    instance = rest.rpartition(".")[0]
    if at and not instance and install.get("DefaultInstance"):
        instance = install["DefaultInstance"][0]
        name = f"{prefix}@{instance}.{rest.rpartition('.')[2]}"
    links = [UNIT_DIR / f"{w}.{kind}" / name for key, kind in _LINKS.items() for w in install.get(key, [])]
    links += [UNIT_DIR / alias for alias in install.get("Alias", [])]
    entries = [
        Entry(path=expand(p, name, instance), kind="symlink", mode=0o777, target=str(path), why="units.enable")
        for p in links
    ]
    for also in install.get("Also", []):
        entries += _enable(facts, own, also, seen)
    return entries


def expand(path: PurePosixPath, name: str, instance: str) -> PurePosixPath:
    """The specifiers of [Install] that depend on the unit's name alone; systemd.unit(5) "Specifiers"."""
    stem = name.rpartition(".")[0]
    prefix = stem.partition("@")[0]
    values = {
        "%%": "%", "%i": instance, "%j": prefix.rpartition("-")[2], "%n": name, "%N": stem, "%p": prefix,
    }  # fmt: skip
    return PurePosixPath(re.sub("%.", lambda match: values.get(match[0], match[0]), str(path)))
