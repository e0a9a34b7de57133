# SPDX-License-Identifier: MIT
"""Profile, TreeFacts -> problems: what contradicts itself, or names what is not there.

Each rule has an id, which the problem carries. Without facts (`check` before anything was fetched)
the rules that need the tree stay silent; `build` runs them all before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import PurePosixPath

from rofs.errors import KeyPath, Problem
from rofs.generate.escape import unfstab, unit_name
from rofs.layout import (
    BACKING,
    DEFAULT_SIZE_BYTES,
    MACHINE_ID,
    PAGE_BYTES,
    RUN,
    SYSTEM_OWNED,
    UNIT_DIR,
    backing_name,
    find_gid,
    find_uid,
    is_within,
    is_writable_decl,
    machine_id_is_made,
    nearest,
    persistent_stores,
    shows_image,
)
from rofs.profile import DebianSource, FileDecl, Immutable, MountDecl, Profile
from rofs.treefacts import TreeFacts

GENERATED = tuple(
    PurePosixPath(p)
    for p in ("/etc/fstab", "/etc/machine-id", "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow")
)
_ALSO_MADE = frozenset(PurePosixPath("/etc", name) for name in ("hostname", "hosts", "resolv.conf"))
_RUN_TIME = (PurePosixPath("/run"), PurePosixPath("/dev/shm"))  # noqa: S108 - in the image
"""Writable on every system, and filled while it runs."""

_UNIT_NAME_MAX = 255
_OVERLAY_SPLITS = frozenset(',:"\\')

Found = Iterator[Problem]


def lint(profile: Profile, facts: TreeFacts | None) -> list[Problem]:
    """Every problem of every rule, sorted by place."""
    found: list[Problem] = []
    for rule in PROFILE_RULES:
        found += rule(profile)
    if facts is not None:
        for tree_rule in TREE_RULES:
            found += tree_rule(profile, facts)
    return sorted(set(found))


def _problem(profile: Profile, at: KeyPath, rule: str, message: str, hint: str = "") -> Problem:
    return Problem(profile.marks.find(at), message, rule, at, hint)


def _warning(profile: Profile, at: KeyPath, rule: str, message: str, hint: str = "") -> Problem:
    return Problem(profile.marks.find(at), message, rule, at, hint, "warning")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint, or nothing."""
    close = get_close_matches(word, sorted(known), 1)
    return f"did you mean {close[0]!r}?" if close else ""


# --- rules over the profile alone -----------------------------------------------------------------


def rule_twice(profile: Profile) -> Found:
    """mount-twice, file-twice, immutable-twice: one path, one promise."""
    for kind, items in (
        ("mounts", profile.mounts),
        ("files", profile.files),
        ("immutable", profile.immutable),
    ):
        first: dict[PurePosixPath, KeyPath] = {}
        for item in items:
            at = item.at if kind == "immutable" else (*item.at, "path")
            if item.path in first:
                line = profile.marks.find(first[item.path]).line
                yield _problem(
                    profile,
                    at,
                    f"{kind.rstrip('s')}-twice",
                    f"{item.path} is already declared on line {line}",
                )
            first.setdefault(item.path, at)


def rule_under_immutable(profile: Profile) -> Found:
    """under-immutable: nothing may be declared at or below an immutable path."""
    for decl in profile.mounts:
        for item in profile.immutable:
            if is_within(decl.path, item.path):
                line = profile.marks.find(item.at).line
                yield _problem(
                    profile, (*decl.at, "path"), "under-immutable",
                    f"{decl.path} is at or below {item.path}, which line {line} declares immutable",
                    "take one of the two away",
                )  # fmt: skip


def rule_system_owned(profile: Profile) -> Found:
    """system-path: /run, /dev, /proc and /sys belong to the kernel and PID 1."""
    places = [(d.path, (*d.at, "path")) for d in profile.mounts] + [(i.path, i.at) for i in profile.immutable]
    for path, at in places:
        for owned in SYSTEM_OWNED:
            if is_within(path, owned):
                yield _problem(profile, at, "system-path", f"{path}: {owned} belongs to the kernel and PID 1")


def _is_run_time(path: PurePosixPath) -> bool:
    return any(is_within(path, p) for p in _RUN_TIME)


def rule_bind_sources(profile: Profile) -> Found:
    """bind-cycle, rw-of-immutable: a bind shows what is there, and may be what that is."""
    for decl in profile.mounts:
        if not decl.shows_path:
            continue
        at, source = (*decl.at, "source"), PurePosixPath(str(decl.source))
        if _depends_on_itself(decl, profile.mounts):
            yield _problem(profile, at, "bind-cycle", f"{decl.path} is bound from {source}, which needs {decl.path}")
            continue
        cover = nearest(source, profile.mounts)
        writable = (cover is not None and is_writable_decl(cover)) or _is_run_time(source)
        if any(is_within(source, i.path) for i in profile.immutable):
            writable = False
        if decl.access == "rw" and not writable:
            yield _problem(
                profile, at, "rw-of-immutable", f"{source} is read-only, so {decl.path} could not be written",
                "say access: ro, or declare a writable mount at the source",
            )  # fmt: skip


def _depends_on_itself(start: MountDecl, mounts: tuple[MountDecl, ...]) -> bool:
    """Whether following sources and parents from `start` comes back to it."""
    pending, seen = [start], set[PurePosixPath]()
    while pending:
        decl = pending.pop()
        paths = [PurePosixPath(str(decl.source))] if decl.shows_path else []
        if decl.path != start.path:
            paths.append(decl.path)
        for path in paths:
            for other in mounts:
                if is_within(path, other.path) and other.path != decl.path:
                    if other.path == start.path:
                        return True
                    if other.path not in seen:
                        seen.add(other.path)
                        pending.append(other)
            if decl.path == start.path and is_within(path, start.path):
                return True
    return False


def rule_overlay_path(profile: Profile) -> Found:
    """overlay-path: mount(8) and overlayfs split their options on these (note 3)."""
    for decl in profile.mounts:
        bad = _OVERLAY_SPLITS & set(str(decl.path))
        if decl.type == "overlay" and bad:
            shown = " ".join(sorted(bad))
            yield _problem(
                profile, (*decl.at, "path"), "overlay-path",
                f"{decl.path}: an overlay's lowerdir cannot hold {shown}", "overlay the parent directory",
            )  # fmt: skip


def rule_name_length(profile: Profile) -> Found:
    """unit-name: systemd.unit(5) allows 255 characters, and an escaped byte takes four.

    Without units it is a directory's name alone that is made of the path, with three for such a byte.
    """
    places = [(d.path, (*d.at, "path")) for d in profile.mounts]
    places += [(i.path, i.at) for i in profile.immutable if nearest(i.path, profile.mounts) is not None]
    own = {d.path for d in profile.mounts if not d.shows_path}
    for path, at in places:
        backing = [backing_name(path)] if path in own else []
        units = [unit_name(path), *(unit_name(BACKING / name) for name in backing)]
        names = units if profile.init == "systemd" else backing
        longest = max((len(name) for name in names), default=0)
        if longest > _UNIT_NAME_MAX:
            yield _problem(
                profile, at, "unit-name", f"what is made for {path} would have a name of {longest} characters",
                f"at most {_UNIT_NAME_MAX}; all but letters, digits, `:`, `_`, `.` and `/` count several times",
            )  # fmt: skip


def rule_shown(profile: Profile) -> Found:
    """not-the-image: below a bind from a path stands what its source holds, which rofs cannot make immutable."""
    for item in profile.immutable:
        cover = nearest(item.path, profile.mounts)
        if cover is not None and not is_writable_decl(cover) and not is_within(cover.path, item.path):
            yield _problem(
                profile, item.at, "not-the-image", f"{item.path} shows what {cover.source} holds, not the image",
                f"declare {PurePosixPath(str(cover.source)) / item.path.relative_to(cover.path)} immutable",
            )  # fmt: skip


def rule_hidden(profile: Profile) -> Found:
    """hidden: what is baked in must not lie under a mount that starts empty."""
    for decl in profile.files:
        for owned in SYSTEM_OWNED:
            if is_within(decl.path, owned):
                at = (*decl.at, "path")
                yield _problem(profile, at, "hidden", f"{decl.path} would be hidden by what is mounted on {owned}")
        for mount in profile.mounts:
            if is_within(mount.path, decl.path):
                line = profile.marks.find(mount.at).line
                message = f"{decl.path} is a file or link, and line {line} mounts on {mount.path}"
                yield _problem(profile, (*decl.at, "path"), "file-and-mount", message)
    places = [(f.path, (*f.at, "path")) for f in profile.files]
    places += [(user.home_path, user.at) for user in profile.users]
    for path, at in places:
        cover = nearest(path, profile.mounts)
        if cover is None or _on_island(path, cover, profile) or (cover.path == path and at[0] == "files"):
            continue
        if not shows_image(cover):
            line = profile.marks.find(cover.at).line
            yield _problem(
                profile, at, "hidden", f"{path} would be hidden by the {cover.type} at {cover.path} (line {line})",
                "make it an overlay, or a bind with seed: image",
            )  # fmt: skip


def _on_island(path: PurePosixPath, cover: MountDecl, profile: Profile) -> bool:
    """Whether an immutable path inside the mount shows the image's content there."""
    return any(is_within(path, i.path) and is_within(i.path, cover.path) for i in profile.immutable)


def rule_generated(profile: Profile) -> Found:
    """generated-path: two writers of one file, and one of them is rofs."""
    for decl in profile.files:
        unit = decl.path.parent == UNIT_DIR and decl.path.suffix == ".mount"
        if decl.path in GENERATED or unit:
            yield _problem(
                profile, (*decl.at, "path"), "generated-path", f"{decl.path} is generated by rofs",
                "declare mounts and users instead",
            )  # fmt: skip


def rule_cmdline(profile: Profile) -> Found:
    """cmdline: words that would take back what the profile promises (notes 20 and 21)."""
    for at, words in _cmdlines(profile).items():
        for word in words:
            key = word.partition("=")[0]
            if word == "rw" or key in ("init", "rdinit", "systemd.volatile", "systemd.unit"):
                yield _problem(profile, at, "cmdline", f"{word} contradicts the layout", "take it away")
            if key == "root" and profile.root is not None:
                yield _problem(profile, at, "cmdline", f"{word} overrides root.device", "take one of the two away")


def _cmdlines(profile: Profile) -> dict[KeyPath, list[str]]:
    """The words for each architecture that is built, by where they are written."""
    at: KeyPath = ("kernel", "cmdline")
    return {
        (*at, name) if (*at, name) in profile.marks.values else at: profile.kernel.cmdline.get(name, "").split()
        for name in profile.architectures
    }


def rule_masked_file(profile: Profile) -> Found:
    """masked-file: a unit that the profile both brings and masks; the file would win."""
    made = {f.path: f for f in profile.files}
    for index, name in enumerate(profile.units.mask):
        file = made.get(UNIT_DIR / name)
        if file is not None:
            line = profile.marks.find(file.at).line
            yield _problem(
                profile, ("units", "mask", index), "masked-file", f"{name} is put into the image by line {line}",
                "take one of the two away",
            )  # fmt: skip


def rule_kernel(profile: Profile) -> Found:
    """kernel-twice: an architecture has one kernel."""
    for name in profile.architectures:
        if name in profile.kernel.image and name in profile.kernel.package:
            at = ("kernel", "package")
            yield _problem(profile, at, "kernel-twice", f"{name} has both a package and an image", "take one away")


def rule_other_init(profile: Profile) -> Found:
    """no-units: units are systemd's."""
    if profile.init == "systemd":
        return
    places: list[tuple[KeyPath, object]] = [
        (("units", "enable"), profile.units.enable),
        (("units", "mask"), profile.units.mask),
        (("verify", "units"), profile.verify.units),
        (("verify", "tolerate_write_errors"), profile.verify.tolerate_write_errors),
    ]
    for at, names in places:
        if names:
            yield _problem(profile, at, "no-units", "units are systemd's, and `init` is other", "take them away")


def rule_memory(profile: Profile) -> Found:
    """memory: caps that add up to more than the verified machine has protect nothing."""
    caps = [d.size_bytes or DEFAULT_SIZE_BYTES for d in profile.mounts if d.on_tmpfs]
    caps += [s.volatile_bytes for s in persistent_stores(profile) if s.on_failure == "volatile"]
    if sum(caps) > profile.verify.memory_bytes:
        yield _warning(
            profile, ("mounts",), "memory",
            f"the caps add up to {sum(caps) >> 20}M, verify.memory is {profile.verify.memory_bytes >> 20}M",
            "lower the sizes, or set verify.memory to what the device has",
        )  # fmt: skip


def rule_no_state(profile: Profile) -> Found:
    """no-state: what shall survive needs a place."""
    if profile.state is not None:
        return
    places: list[KeyPath] = [("machine_id",)] if profile.machine_id == "state" else []
    places += [(*d.at, "upper" if d.type == "overlay" else "source") for d in profile.mounts if d.on_state]
    for at in places:
        yield _problem(
            profile, at, "no-state", "the profile has no state partition",
            "add `state: {device: LABEL=state, size: 64M, on_failure: volatile}`, or refuse",
        )  # fmt: skip


def rule_devices(profile: Profile) -> Found:
    """device-twice: two mounts of one file system are two names for one promise."""
    first: dict[str, int] = {}
    for store in persistent_stores(profile):
        at = (*store.at, "device")
        if store.device in first:
            yield _problem(profile, at, "device-twice", f"{store.device} is already used on line {first[store.device]}")
        first.setdefault(store.device, profile.marks.find(at).line)


def rule_refuse(profile: Profile) -> Found:
    """no-panic: an initrd that refuses ends in a panic, and without panic= the kernel stays there for ever."""
    if all(any(_panics(word) for word in words) for words in _cmdlines(profile).values()):
        return
    for store in persistent_stores(profile):
        if store.on_failure == "refuse":
            yield _warning(
                profile, (*store.at, "on_failure"), "no-panic", "refuse ends in a kernel panic, and nothing reboots",
                'say kernel: {cmdline: "panic=10"}',
            )  # fmt: skip


def _panics(word: str) -> bool:
    key, _, value = word.partition("=")
    return key == "panic" and value != "0"


def rule_hides_units(profile: Profile) -> Found:
    """hides-units: what is written over rofs's own units and fstab outlives the image that brings others."""
    for path in (PurePosixPath("/etc/fstab"), UNIT_DIR) if profile.init == "systemd" else ():
        cover = nearest(path, profile.mounts)
        if cover is None or not (cover.on_state or cover.store) or _on_island(path, cover, profile):
            continue
        yield _warning(
            profile, (*cover.at, "path"), "hides-units", f"what is written to {path} hides what rofs generates there",
            f"declare {path} immutable, unless changed units shall count on the device",
        )  # fmt: skip


def rule_machine_id(profile: Profile) -> Found:
    """machine-id: it is decided by its own key."""
    items: tuple[Immutable | MountDecl, ...] = (*profile.immutable, *profile.mounts)
    for item in items:
        if is_within(item.path, MACHINE_ID) and machine_id_is_made(profile):
            message = f"machine_id: {profile.machine_id} provides {MACHINE_ID}"
            yield _problem(profile, item.at, "machine-id", message, "take it away")


PROFILE_RULES: tuple[Callable[[Profile], Found], ...] = (
    rule_twice, rule_under_immutable, rule_system_owned, rule_bind_sources, rule_overlay_path,
    rule_name_length, rule_shown, rule_hidden, rule_generated, rule_cmdline, rule_memory,
    rule_no_state, rule_devices, rule_refuse, rule_hides_units, rule_machine_id, rule_kernel, rule_other_init,
    rule_masked_file,
)  # fmt: skip


# --- rules that need the tree ---------------------------------------------------------------------


def rule_init(profile: Profile, facts: TreeFacts) -> Found:
    """no-init, no-systemd, is-systemd: who is PID 1 decides who mounts."""
    debian = isinstance(profile.source, DebianSource)
    at = (*profile.source.at, "packages" if debian else "path")
    if profile.init == "other" and any(f.path == PurePosixPath("/sbin/init") for f in profile.files):
        return
    if facts.init == "none":
        hint = "add a package that has an init" if debian else "is it a whole root file system?"
        yield _problem(profile, at, "no-init", "the tree has no /sbin/init", hint)
    elif facts.init == "other" and profile.init == "systemd":
        hint = ("add systemd-sysv to the packages, or " if debian else "") + "say `init: other`"
        yield _problem(profile, at, "no-systemd", "the tree's init is not systemd", hint)
    elif facts.init == "systemd" and profile.init == "other":
        yield _problem(profile, ("init",), "is-systemd", "the tree's init is systemd", "take `init: other` away")


def rule_tree_fstab(profile: Profile, facts: TreeFacts) -> Found:
    """undeclared-mount: what the tree mounts by its own fstab, which rofs replaces."""
    declared = {d.path for d in profile.mounts}
    for line in (facts.text("/etc/fstab") or b"").decode("utf-8", "replace").splitlines():
        fields = line.split()
        if len(fields) < 4 or fields[0].startswith("#") or not fields[1].startswith("/"):
            continue
        where = PurePosixPath(unfstab(fields[1]))
        if where in declared or where == PurePosixPath("/") or any(is_within(where, p) for p in SYSTEM_OWNED):
            continue
        yield _warning(
            profile, profile.source.at, "undeclared-mount",
            f"the tree's own fstab mounts {fields[0]} on {where}, which the profile does not", "declare it in `mounts`",
        )  # fmt: skip


def rule_passwords(profile: Profile, facts: TreeFacts) -> Found:
    """empty-password: a tree made for the workbench lets everybody in."""
    made = {f.path for f in profile.files}
    for path in ("/etc/shadow", "/etc/passwd"):
        for line in (facts.text(path) or b"").decode("utf-8", "replace").splitlines():
            name, _, rest = line.partition(":")
            if name and rest.startswith(":") and PurePosixPath(path) not in made:
                yield _problem(
                    profile, profile.source.at, "empty-password", f"{name} has an empty password in {path} of the tree",
                    f"set `*` there and log in with a key; a table of your own goes into `files` as {path}",
                )  # fmt: skip


def rule_ssh_include(profile: Profile, facts: TreeFacts) -> Found:
    """ssh-include: an sshd that reads no drop-ins would make host keys of its own in a read-only /etc."""
    config = PurePosixPath("/etc/ssh/sshd_config")
    text = facts.text(config)
    if text is None or facts.lookup("/usr/sbin/sshd") is None or any(f.path == config for f in profile.files):
        return
    if not re.search(rb"^\s*include\s.*/etc/ssh/sshd_config\.d/", text, re.IGNORECASE | re.MULTILINE):
        yield _problem(
            profile, profile.source.at, "ssh-include", f"{config} of the tree reads no sshd_config.d, where rofs names"
            " the host key", f"give {config} in `files`, beginning with `Include /etc/ssh/sshd_config.d/*.conf`",
        )  # fmt: skip


def rule_seed_attributes(profile: Profile, facts: TreeFacts) -> Found:
    """no-cp: capabilities survive seeding only by a cp(1) that copies them."""
    if facts.has_own_cp():
        return
    for decl in profile.mounts:
        if decl.type not in ("bind", "partition") or not shows_image(decl):
            continue
        found = next((p for p, n in facts.nodes.items() if n.caps and p.startswith(f"{decl.path}/")), None)
        if found is not None:
            yield _problem(
                profile, (*decl.at, "path"), "no-cp", f"{found} has capabilities, which busybox's cp would lose",
                "add coreutils to the tree, say seed: empty, or take an overlay",
            )  # fmt: skip


def rule_accounts(profile: Profile, facts: TreeFacts) -> Found:
    """unknown-user, unknown-group: names must be of the tree or of the profile."""
    users = {*facts.users(), *(u.name for u in profile.users)}
    groups = {*facts.groups(), *(u.name for u in profile.users)}
    owned: tuple[MountDecl | FileDecl, ...] = (*profile.mounts, *profile.files)
    for decl in owned:
        if decl.owner and find_uid(profile, facts, decl.owner) is None:
            yield _unknown(profile, (*decl.at, "owner"), "user", decl.owner, users)
        if decl.group and find_gid(profile, facts, decl.group) is None:
            yield _unknown(profile, (*decl.at, "group"), "group", decl.group, groups)
    for home in profile.home:
        if home.user not in users:
            yield _unknown(profile, (*home.at, "user"), "user", home.user, users)
    for user in profile.users:
        for index, group in enumerate(user.groups):
            if group not in groups:
                yield _unknown(profile, (*user.at, "groups", index), "group", group, groups)


def _unknown(profile: Profile, at: KeyPath, kind: str, name: str, known: Iterable[str]) -> Problem:
    hint = did_you_mean(name, known) or f"no package of the profile makes it: add the package, or the {kind}"
    return _problem(profile, at, f"unknown-{kind}", f"no {kind} {name!r} in the tree or the profile", hint)


def rule_user_clash(profile: Profile, facts: TreeFacts) -> Found:
    """user-exists, group-exists, no-such-shell: a second account of one name or number is a security hole."""
    names, groups = facts.users(), facts.groups()
    by_gid = {gid: name for name, gid in groups.items()}
    made = {f.path for f in profile.files}
    by_uid = {account.uid: name for name, account in names.items()}
    for user in profile.users:
        if user.name in names:
            yield _problem(
                profile, (*user.at, "name"), "user-exists", f"a package makes the user {user.name!r} already"
            )
        elif user.uid in by_uid:
            yield _problem(
                profile,
                (*user.at, "uid"),
                "user-exists",
                f"uid {user.uid} is {by_uid[user.uid]!r} in the tree",
            )
        gid = user.primary_gid
        if user.gid is None and by_gid.get(gid, user.name) != user.name:
            yield _problem(
                profile, (*user.at, "uid"), "group-exists", f"the number {gid} is that of the group {by_gid[gid]!r}",
                f"say gid: {gid} if that is meant, or choose another uid",
            )  # fmt: skip
        elif gid not in by_gid and user.name in groups and user.name not in names:
            yield _problem(
                profile, (*user.at, "name"), "group-exists",
                f"the tree has a group {user.name!r} of the number {groups[user.name]}",
                f"say gid: {groups[user.name]} if that is meant, or choose another name",
            )  # fmt: skip
        if facts.lookup(user.shell) is None and PurePosixPath(user.shell) not in made:
            yield _problem(profile, (*user.at, "shell"), "no-such-shell", f"{user.shell} is not in the tree")


def rule_paths(profile: Profile, facts: TreeFacts) -> Found:
    """symlink, not-a-directory, no-such-path: what a mount stands on (notes 2 and 28)."""
    for decl in profile.mounts:
        at = (*decl.at, "path")
        yield from _no_symlink(profile, facts, decl.path, at)
        node = facts.node(decl.path)
        if node is not None and node.kind not in ("dir", "symlink"):
            yield _problem(
                profile,
                at,
                "not-a-directory",
                f"{decl.path} is a {node.kind} in the tree",
                "name its directory",
            )
    made = {f.path for f in profile.files} | {p for f in profile.files for p in f.path.parents}
    made |= {user.home_path for user in profile.users} | {*GENERATED} | _ALSO_MADE
    for item in profile.immutable:
        yield from _no_symlink(profile, facts, item.path, item.at)
        if facts.lookup(item.path) is None and item.path not in made:
            hint = did_you_mean(str(item.path), (p for p, n in facts.nodes.items() if n.kind == "dir"))
            yield _problem(profile, item.at, "no-such-path", f"{item.path} is not in the tree", hint)


def _no_symlink(profile: Profile, facts: TreeFacts, path: PurePosixPath, at: KeyPath) -> Found:
    link = facts.find_symlink_prefix(path)
    if link is not None:
        hint = f"say {facts.resolve(path)}"
        yield _problem(profile, at, "symlink", f"{link} is a symbolic link in the tree", hint)


def rule_hidden_home(profile: Profile, facts: TreeFacts) -> Found:
    """hidden: dot-files of a user whom a package makes; the profile's own users are judged without the tree."""
    for home in profile.home:
        account = facts.users().get(home.user)
        cover = nearest(account.home, profile.mounts) if account else None
        if account and cover and not shows_image(cover) and not _on_island(account.home, cover, profile):
            yield _problem(
                profile, (*home.at, "user"), "hidden",
                f"{account.home} would be hidden by the {cover.type} at {cover.path}",
                "make it an overlay, or a bind with seed: image",
            )  # fmt: skip


def rule_bind_source_exists(profile: Profile, facts: TreeFacts) -> Found:
    """no-such-source: a bind from a path that the image has not and nothing makes."""
    made = {p for f in profile.files for p in (f.path, *f.path.parents)}
    mounted = {d.path for d in profile.mounts}
    for decl in profile.mounts:
        if not decl.shows_path:
            continue
        source = PurePosixPath(str(decl.source))
        cover = nearest(source, profile.mounts)
        baked = (facts.lookup(source) is not None or source in made) and (cover is None or shows_image(cover))
        at_run_time = _is_run_time(source) and not is_within(source, RUN)
        if not baked and source not in mounted and not at_run_time:
            yield _problem(profile, (*decl.at, "source"), "no-such-source", f"{source} is not in the tree")


def rule_mount_point(profile: Profile, facts: TreeFacts) -> Found:
    """no-mount-point: below a read-only bind nobody can make the directory to mount on (note 28)."""
    made = {p for f in profile.files for p in (f.path, *f.path.parents)} | {d.path for d in profile.mounts}
    for decl in profile.mounts:
        above = nearest(decl.path.parent, profile.mounts)
        if above is None or is_writable_decl(above) or _is_run_time(PurePosixPath(str(above.source))):
            continue
        real = PurePosixPath(str(above.source)) / decl.path.relative_to(above.path)
        cover = nearest(real, profile.mounts)
        if (cover is None or shows_image(cover)) and real not in made and facts.lookup(real) is None:
            yield _problem(
                profile, (*decl.at, "path"), "no-mount-point",
                f"{above.path} shows {above.source} read-only, and there is no {real} to mount on",
                f"put it into the image, say by a file below {real}",
            )  # fmt: skip


def rule_units(profile: Profile, facts: TreeFacts) -> Found:
    """unknown-unit: a unit that is not there can be neither enabled nor active."""
    if profile.init == "other":
        return
    own = {f.path.name for f in profile.files if is_within(f.path, UNIT_DIR)}
    known = {*facts.units(), *own}
    places = [(name, ("units", "enable", i)) for i, name in enumerate(profile.units.enable)]
    places += [(name, ("units", "mask", i)) for i, name in enumerate(profile.units.mask)]
    enabled = len(profile.units.enable)
    places += [(name, ("verify", "units", i)) for i, name in enumerate(profile.verify.units)]
    for index, (name, at) in enumerate(places):
        prefix, sep, rest = name.partition("@")
        template = f"{prefix}@.{rest.rpartition('.')[2]}" if sep else name
        made_up = index >= enabled and name.endswith((".mount", ".slice", ".scope", ".device"))  # by PID 1 itself
        if name not in known and template not in known and not made_up:
            yield _problem(profile, at, "unknown-unit", f"no unit {name!r} in the tree", did_you_mean(name, known))


def rule_seeds_fit(profile: Profile, facts: TreeFacts) -> Found:
    """seed-size: what is seeded must fit into its file system, and into the tmpfs that may stand in for it."""
    seeded: dict[str, int] = {}
    for decl in profile.mounts:
        if (decl.on_state or decl.store) and decl.type != "overlay" and decl.seed == "image":
            name = decl.store.name if decl.store else "state"
            seeded[name] = seeded.get(name, 0) + _disk_use(facts, decl.path)
    for store in persistent_stores(profile):
        need = seeded.get(store.name, 0)
        rooms = [("size", store.size_bytes * 3 // 4)]  # the journal, the inodes and root's reserve take the rest
        if store.on_failure == "volatile":
            rooms.append(("volatile_size", store.volatile_bytes))
        for key, room in rooms:
            if need > room:
                yield _problem(
                    profile, (*store.at, key), "seed-size",
                    f"the seeds take {need >> 10}K, {key} has room for {room >> 10}K", f"raise {key}",
                )  # fmt: skip


def _disk_use(facts: TreeFacts, path: PurePosixPath) -> int:
    """Bytes of everything below a path of the tree, in whole pages; a name takes one itself."""
    below = (node for name, node in facts.nodes.items() if name.startswith(f"{path}/"))
    return sum(PAGE_BYTES + -(-node.size // PAGE_BYTES) * PAGE_BYTES for node in below)


TREE_RULES: tuple[Callable[[Profile, TreeFacts], Found], ...] = (
    rule_init, rule_accounts, rule_user_clash, rule_paths, rule_hidden_home, rule_bind_source_exists, rule_units,
    rule_seeds_fit, rule_tree_fstab, rule_passwords, rule_seed_attributes,
    rule_ssh_include, rule_mount_point,
)  # fmt: skip
