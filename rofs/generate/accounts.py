# SPDX-License-Identifier: MIT
"""The profile's users -> /etc/passwd, group, shadow, gshadow, and each user's home with its dot-files.

No password is ever set: `*` in shadow admits keys and refuses every password. Modes are normalised
(0644, 0755; `.ssh` 0600 and 0700), so that a checkout's umask does not reach the image.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from rofs.entry import Entry
from rofs.errors import render_key_path
from rofs.inputs import DotFile, Inputs
from rofs.layout import find_primary_gid, find_uid
from rofs.profile import Profile, User
from rofs.treefacts import TreeFacts

ETC = PurePosixPath("/etc")
SSH = ".ssh"
_ROOT_ALONE = {
    "passwd": "root:x:0:0:root:/root:/bin/sh",
    "group": "root:x:0:",
    "shadow": "root:*:::::::",
    "gshadow": "root:*::",
}
_MODES = {"passwd": 0o644, "group": 0o644, "shadow": 0o640, "gshadow": 0o640}


def account_entries(profile: Profile, inputs: Inputs, facts: TreeFacts, epoch: int) -> list[Entry]:
    """The account files, only where the profile adds a user or the tree has none, and the homes."""
    entries: list[Entry] = []
    if profile.users or facts.text(ETC / "passwd") is None:
        tables = {name: lines for name in _MODES if (lines := _lines(facts, name)) is not None}
        for user in profile.users:
            _add(tables, user, epoch // 86400)
        for user in profile.users:  # only now: one may be in the group of another
            for table in {"group", "gshadow"} & {*tables}:
                tables[table] = [_join(line, user) for line in tables[table]]
        shadow_gid = facts.groups().get("shadow", 0)
        for name, lines in tables.items():
            gid = shadow_gid if name in ("shadow", "gshadow") else 0
            content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
            path = ETC / name
            entries.append(Entry(path=path, kind="file", mode=_MODES[name], gid=gid, content=content, why="users"))
    for index, user in enumerate(profile.users):
        entries += _home(user, inputs.authorized_keys.get(index, ()))
    for index, home in enumerate(profile.home):
        entries += _dotfiles(profile, facts, index, inputs.dotfiles.get(index, ()), render_key_path(home.at))
    return entries


def home_of(profile: Profile, facts: TreeFacts | None, name: str) -> PurePosixPath | None:
    """Where a user of the profile or of the tree lives."""
    for user in profile.users:
        if user.name == name:
            return user.home_path
    account = facts.users().get(name) if facts else None
    return account.home if account else None


def _lines(facts: TreeFacts, name: str) -> list[str] | None:
    """Of the tree's own file; root alone in a tree without accounts; None for a gshadow that it does not have."""
    text = facts.text(ETC / name)
    if text is not None:
        return text.decode("utf-8", "surrogateescape").splitlines()
    if facts.text(ETC / "passwd") is None:
        return [_ROOT_ALONE[name]]
    return None if name == "gshadow" else []


def _add(tables: dict[str, list[str]], user: User, day: int) -> None:
    gid = user.primary_gid
    home = user.home_path
    tables["passwd"].append(f"{user.name}:x:{user.uid}:{gid}:{user.comment}:{home}:{user.shell}")
    tables["shadow"].append(f"{user.name}:*:{day}:0:99999:7:::")
    if not any(line.split(":")[2:3] == [str(gid)] for line in tables["group"]):
        tables["group"].append(f"{user.name}:x:{gid}:")
        if "gshadow" in tables:
            tables["gshadow"].append(f"{user.name}:!::")


def _join(line: str, user: User) -> str:
    """Add the user to the last field of a line of one of its groups."""
    head, _, members = line.rpartition(":")
    if line.partition(":")[0] not in user.groups:
        return line
    names = [m for m in members.split(",") if m]
    return f"{head}:{','.join([*names, *([user.name] if user.name not in names else [])])}"


def _home(user: User, keys: tuple[str, ...]) -> list[Entry]:
    why = render_key_path(user.at)
    uid, gid = user.uid, user.primary_gid
    home = user.home_path
    entries = [Entry(path=home, kind="dir", mode=0o755, uid=uid, gid=gid, why=why)]
    if keys:
        content = "".join(f"{key}\n" for key in keys).encode()
        entries += [
            Entry(path=home / SSH, kind="dir", mode=0o700, uid=uid, gid=gid, why=why),
            Entry(
                path=home / SSH / "authorized_keys", kind="file", mode=0o600, uid=uid, gid=gid,
                content=content, why=why,
            ),
        ]  # fmt: skip
    return entries


def _dotfiles(profile: Profile, facts: TreeFacts, index: int, files: tuple[DotFile, ...], why: str) -> list[Entry]:
    name = profile.home[index].user
    home = home_of(profile, facts, name)
    uid, gid = find_uid(profile, facts, name), find_primary_gid(profile, facts, name)
    if home is None or uid is None or gid is None:
        return []  # lint has said so
    return [
        Entry(
            path=home / f.path, kind=f.kind, mode=dotfile_mode(f), uid=uid, gid=gid,
            content=f.content, target=f.target, why=why,
        )
        for f in files
    ]  # fmt: skip


def dotfile_mode(file: DotFile) -> int:
    """Normalised: what git and umask leave on the developer's disk is not a decision."""
    if file.kind == "symlink":
        return 0o777
    if file.path.parts[0] == SSH:
        return 0o700 if file.kind == "dir" else 0o600
    return 0o755 if file.kind == "dir" or file.executable else 0o644
