# SPDX-License-Identifier: MIT
"""Profile, facts -> Layout: order, stages, names, defaults, pins; whatever the order of keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import HOSTILE_KEPT, KEPT, PARTED, RICH, P, layout_of, profile_of, tree

from rofs.layout import (
    DATA,
    DEFAULT_SIZE_BYTES,
    IMAGE,
    Layout,
    Mount,
    Promise,
    Role,
    Stage,
    backing_name,
    build_layout,
    default_inodes,
    is_within,
)
from rofs.lint import lint
from rofs.treefacts import Node

ETC = P("/etc")
FILE = Node("file", 0o755, 0, 0, 9)


def at(layout: Layout, where: str) -> Mount:
    mount = layout.mount_at(P(where))
    assert mount is not None, where
    return mount


def orders(layout: Layout) -> None:
    """Parents before children, sources before users, the initrd before systemd."""
    done: list[Mount] = []
    every = {m.where for m in layout.mounts}
    assert len(every) == len(layout.mounts), "one mount a path"
    for mount in layout.mounts:
        there = {m.where for m in done}
        for path in (mount.where, *mount.needs):
            above = {p for p in (path, *path.parents) if p in every} - {mount.where}
            assert above <= there, f"{mount.where} needs {above - there}"
        done.append(mount)
    stages = [m.stage for m in layout.mounts]
    assert stages == sorted(stages, key=lambda s: s is Stage.SYSTEMD)


def closed(layout: Layout) -> None:
    """At or below /etc is the initrd's, and so is all it stands on."""
    early = [m for m in layout.mounts if m.stage is Stage.INITRD]
    assert {m.where for m in layout.mounts if is_within(m.where, ETC)} <= {m.where for m in early}
    for mount in early:
        for path in (mount.where, *mount.needs):
            late = [m.where for m in layout.mounts if m.stage is Stage.SYSTEMD and is_within(path, m.where)]
            assert not late, f"{mount.where} stands on {late}"


def prepared(layout: Layout) -> None:
    """Each mount that writes to a place of its own has that place made, on the file system that it is on."""
    by_path = {m.where: m for m in layout.mounts}
    for prepare in layout.prepares:
        mount = by_path[prepare.of]
        store = layout.owner(prepare.path)
        if mount.promise is Promise.PARTITION:
            assert prepare.path == mount.where
        elif mount.promise in (Promise.OVERLAY_STATE, Promise.BIND_STATE):
            assert store.role is Role.STATE and is_within(prepare.path, DATA)
        else:
            assert store.role is Role.BACKING and store.at == mount.at
        assert prepare.path == mount.where or layout.mounts.index(store) < layout.mounts.index(mount)
    own = {Promise.BIND_TMPFS, Promise.OVERLAY_TMPFS, Promise.BIND_STATE, Promise.OVERLAY_STATE, Promise.PARTITION}
    assert {p.of for p in layout.prepares} == {m.where for m in layout.mounts if m.promise in own}
    places = [p.path for p in layout.prepares]
    assert not [(a, b) for a in places for b in places if a != b and is_within(a, DATA) and is_within(a, b)]
    assert len(set(places)) == len(places), "no two keep their data in one place"


NAMES = st.sampled_from(["a", "b", "etc", "srv"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
MOUNTS = st.one_of(
    st.fixed_dictionaries({"path": PATHS, "type": st.just("tmpfs"), "size": st.just("4M")}),
    st.fixed_dictionaries({"path": PATHS, "type": st.just("overlay"), "upper": st.just("tmpfs")}),
    st.fixed_dictionaries({"path": PATHS, "type": st.just("bind"), "source": st.just("tmpfs")}),
    st.fixed_dictionaries(
        {"path": PATHS, "type": st.just("bind"), "source": PATHS, "access": st.sampled_from(["ro", "rw"])}
    ).filter(lambda m: m["path"] != m["source"]),
    st.fixed_dictionaries({"path": PATHS, "type": st.just("overlay"), "upper": st.just("state")}),
    st.fixed_dictionaries({"path": PATHS, "type": st.just("bind"), "source": st.just("state")}),
    st.fixed_dictionaries({"path": PATHS, "type": st.just("partition"), "on_failure": st.just("volatile")}).map(
        lambda m: m | {"device": "LABEL=" + m["path"].replace("/", ".")}
    ),
)
STATES = st.sampled_from([None, "state", "transient"])
"""What machine_id says; None without a state partition."""
PROFILES = st.tuples(
    st.lists(MOUNTS, max_size=6, unique_by=lambda m: m["path"]), st.lists(PATHS, max_size=3, unique=True)
)


INITS = st.sampled_from(["systemd", "other"])


def built(mounts: list[dict[str, Any]], immutable: list[str], machine_id: str | None, init: str) -> Layout | None:
    """None where lint finds an error."""
    state = f"state: {{on_failure: volatile}}\nmachine_id: {machine_id}\n" if machine_id else ""
    text = f"init: {init}\n{state}mounts: {json.dumps(mounts)}\nimmutable: {json.dumps(immutable)}\n"
    profile = profile_of(text)
    if any(p.severity == "error" for p in lint(profile, None)):
        return None
    return build_layout(profile, None)


@given(profile=PROFILES, machine_id=STATES, init=INITS, seed=st.randoms())
@settings(deadline=None, max_examples=300)
def test_whatever_lint_lets_through_orders_itself(
    profile: tuple[list[dict[str, Any]], list[str]], machine_id: str | None, init: str, seed: Any
) -> None:
    mounts, immutable = profile
    layout = built(mounts, immutable, machine_id, init)
    if layout is None:
        return
    orders(layout)
    closed(layout)
    prepared(layout)
    assert init == "systemd" or {m.stage for m in layout.mounts} == {Stage.INITRD}
    shuffled = [{k: m[k] for k in reversed(m)} for m in mounts]
    seed.shuffle(shuffled)
    other = built(shuffled, immutable, machine_id, init)
    assert other is not None
    assert [replace(m, at=()) for m in other.mounts] == [replace(m, at=()) for m in layout.mounts]
    assert other.prepares == layout.prepares


@pytest.mark.parametrize("text", [RICH, KEPT, PARTED, HOSTILE_KEPT], ids=["rich", "kept", "parted", "hostile"])
def test_the_examples_order_themselves(text: str) -> None:
    layout = layout_of(text)
    orders(layout)
    closed(layout)
    prepared(layout)


def test_the_examples_have_every_promise_and_role() -> None:
    mounts = [m for text in (RICH, KEPT, PARTED) for m in layout_of(text).mounts]
    assert {m.promise for m in mounts} == set(Promise)
    assert {m.role for m in mounts} == set(Role)


def test_the_stage_of_ancestors_and_sources_of_etc() -> None:
    layout = layout_of(
        "mounts:\n"
        "  - {path: /etc/app, type: bind, source: /srv/conf/app, access: rw}\n"
        "  - {path: /srv/conf, type: bind, source: /var/conf, access: rw}\n"
        "  - {path: /var, type: overlay, upper: tmpfs}\n"
        "  - {path: /srv, type: tmpfs}\n"
        "  - {path: /tmp, type: tmpfs}\n"
        "  - {path: /etcetera, type: tmpfs}\n"
    )
    closed(layout)
    early = {str(m.where) for m in layout.mounts if m.stage is Stage.INITRD and m.role is Role.DECLARED}
    assert early == {"/etc/app", "/srv/conf", "/var", "/srv"}


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=2, unique=True))
def test_backing_names_are_one_to_one(texts: list[str]) -> None:
    a, b = (P("/" + t.replace("\0", "0")) for t in texts)
    assert (backing_name(a) == backing_name(b)) == (str(a).strip("/") == str(b).strip("/"))
    assert not set(backing_name(a)) - set("=-_.ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")


def test_backing_names_are_readable() -> None:
    assert backing_name(P("/var/lib/a-b")) == "var-lib-a=2db"
    assert backing_name(P("/ä,b")) == "=c3=a4=2cb"


def test_sizes_where_the_profile_is_silent() -> None:
    tmp = at(layout_of("mounts: [{path: /tmp, type: tmpfs}]\n"), "/tmp")
    assert (tmp.size_bytes, tmp.inodes) == (DEFAULT_SIZE_BYTES, DEFAULT_SIZE_BYTES // 4096)
    assert tmp.options == ("rw", "nosuid", "nodev", "size=65536k", "nr_inodes=16384", "mode=1777")


@pytest.mark.parametrize(("size", "inodes"), [(4096, 1024), (4 << 20, 1024), (64 << 20, 16384)])
def test_inodes_follow_the_size(size: int, inodes: int) -> None:
    assert default_inodes(size) == inodes


@pytest.mark.parametrize(
    ("keys", "mode", "uid", "gid"),
    [
        ("", 0o2750, 33, 33),
        (", mode: '0700'", 0o700, 33, 33),
        (", mode: '0000'", 0, 33, 33),
        (", owner: daemon", 0o2750, 1, 1),
        (", group: dialout", 0o2750, 33, 20),
        (", owner: daemon, group: dialout", 0o2750, 1, 20),
    ],
)
def test_mode_and_owner_are_the_images_unless_said(keys: str, mode: int, uid: int, gid: int) -> None:
    layout = layout_of(f"mounts: [{{path: /var/www, type: bind, source: tmpfs{keys}}}]\n")
    mount = at(layout, "/var/www")
    assert (mount.mode, mount.uid, mount.gid) == (mode, uid, gid)
    (made,) = layout.prepares
    assert (made.mode, made.uid, made.gid) == (mode, uid, gid)
    assert made.seed == IMAGE / "var/www"


def test_a_path_the_image_has_not() -> None:
    layout = layout_of("mounts: [{path: /opt/new/data, type: bind, source: tmpfs}]\n")
    mount = at(layout, "/opt/new/data")
    assert (mount.mode, mount.uid, mount.gid) == (0o755, 0, 0)
    assert layout.prepares[0].seed is None, "nothing to seed from"
    assert P("/opt/new/data") in layout.mount_points
    assert P("/opt") in layout.top_level


def test_without_a_tree_nothing_is_made_up() -> None:
    layout = build_layout(profile_of("mounts: [{path: /var/www, type: bind, source: tmpfs}]\n"), None)
    mount = at(layout, "/var/www")
    assert (mount.mode, mount.uid, mount.gid) == (None, None, None)


def test_directories_are_pinned_from_the_island_up_to_the_root() -> None:
    layout = layout_of(
        "immutable: [/var/lib/app/keep/here]\n"
        "mounts:\n"
        "  - {path: /var, type: overlay, upper: tmpfs, options: [nosuid, noatime]}\n"
        "  - {path: /var/lib/app, type: tmpfs, options: [noexec]}\n"
    )
    pins = {str(m.where): m for m in layout.mounts if m.role is Role.PIN}
    # Renaming /var/lib, above the mount that holds the island, would move the island as well.
    assert set(pins) == {"/var/lib", "/var/lib/app/keep"}
    assert pins["/var/lib"].options == ("bind", "private", "rw", "nosuid", "noatime")
    assert pins["/var/lib/app/keep"].options == ("bind", "private", "rw", "noexec")
    island = at(layout, "/var/lib/app/keep/here")
    assert (island.what, island.promise) == ("/run/rofs/image/var/lib/app/keep/here", Promise.PINNED_RO)


def test_no_island_where_nothing_can_be_written() -> None:
    layout = layout_of("immutable: [/usr, /etc/ssh]\nmounts: [{path: /var, type: overlay, upper: tmpfs}]\n")
    assert not [m for m in layout.mounts if m.role in (Role.ISLAND, Role.PIN)]


def test_an_island_within_an_island_is_one() -> None:
    layout = layout_of(
        "immutable: [/etc/ssh, /etc/ssh/a/b]\nmounts: [{path: /etc, type: overlay, upper: tmpfs}]\n",
        tree({"/etc/ssh/a/b": Node("dir", 0o755, 0, 0)}),
    )
    assert [str(m.where) for m in layout.mounts if m.role is not Role.BACKING][2:] == ["/etc", "/etc/ssh"]
    assert not layout.is_writable(P("/etc/ssh/a/b"))


def test_islands_of_a_mount_that_may_be_missing_may_be_too() -> None:
    layout = layout_of("immutable: [/srv/a/b]\nmounts: [{path: /srv, type: tmpfs, required: false}]\n")
    assert [at(layout, p).required for p in ("/srv", "/srv/a", "/srv/a/b")] == [False] * 3


@pytest.mark.parametrize(
    ("source", "flags"), [("/run/app", ("nosuid", "nodev")), ("/var/www", ("noexec",)), ("/usr/share/doc", ())]
)
def test_a_bind_says_the_flags_of_what_it_shows(source: str, flags: tuple[str, ...]) -> None:
    var = "{path: /var, type: overlay, upper: tmpfs, options: [noexec]}"
    text = f"mounts: [{var}, {{path: /x, type: bind, source: {source}}}]\n"
    assert at(layout_of(text), "/x").options == ("bind", "private", "ro", *flags)


def test_who_owns_a_path() -> None:
    layout = layout_of(RICH)
    for path, promise in {
        "/usr/bin": Promise.IMAGE_RO,
        "/etc/x": Promise.OVERLAY_TMPFS,
        "/etc/ssh/x": Promise.PINNED_RO,
        "/var/lib/x": Promise.PIN,
        "/var/lib/dpkg/x": Promise.PINNED_RO,
        "/srv/www/x": Promise.BIND_TMPFS,
    }.items():
        assert layout.owner(P(path)).promise is promise, path
    assert layout.is_writable(P("/var/lib/x")) and not layout.is_writable(P("/srv/doc/x"))


def test_top_level_directories() -> None:
    layout = layout_of(
        "users: [{name: bob, uid: 1000, home: /data/bob}]\n"
        "files: [{path: /opt/a/b, content: x}, {path: /bin/c, content: x}, {path: /top, content: x}]\n"
        "mounts: [{path: /made/here, type: tmpfs}]\n"
    )
    found = {str(p) for p in layout.top_level}
    assert {"/data", "/opt", "/made", "/usr", "/tmp"} <= found
    assert not found & {"/", "/bin", "/top"}, "the root, a link, a file"


def test_mount_points_that_are_missing() -> None:
    facts = tree()
    layout = layout_of("mounts: [{path: /var/new, type: tmpfs}, {path: /tmp, type: tmpfs}]\n", facts)
    assert layout.mount_points == (PurePosixPath("/var/new"),)


@pytest.mark.parametrize(
    ("nodes", "own"),
    [
        ({}, True),
        ({"/usr/bin/cp": Node("symlink", 0o777, 0, 0, target="busybox"), "/usr/bin/busybox": FILE}, False),
        ({"/usr/bin/cp": Node("symlink", 0o777, 0, 0, target="toybox"), "/usr/bin/toybox": FILE}, False),
        ({"/usr/bin/cp": Node("symlink", 0o777, 0, 0, target="gcp"), "/usr/bin/gcp": FILE}, True),
        ({"/usr/bin/cp": Node("symlink", 0o777, 0, 0, target="cp")}, False),
    ],
)
def test_whether_the_image_copies_its_seeds_itself(nodes: dict[str, Node], own: bool) -> None:
    assert layout_of("", tree(nodes)).own_cp is own


def test_the_rest_of_a_layout_is_not_the_inits() -> None:
    one, two = (layout_of(f"init: {init}\nimmutable: [/usr]\n") for init in ("systemd", "other"))
    assert (one.mount_points, one.top_level, one.immutable, one.prepares) == (
        two.mount_points, two.top_level, two.immutable, two.prepares,
    )  # fmt: skip
