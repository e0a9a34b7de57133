# SPDX-License-Identifier: MIT
"""Profile, facts -> Layout, as far as it persists: state, partitions, the machine-id, and what stands in for them."""

from __future__ import annotations

import pytest
from layouts import KEPT, PARTED, RICH, P, layout_of, profile_of
from test_layout import at, closed, orders

from rofs.layout import (
    DATA,
    IMAGE,
    SAFE_OVERLAY,
    STATE,
    Promise,
    Role,
    Stage,
    as_volatile,
    build_layout,
    etc_is_writable,
    machine_id_is_bound,
    persistent_stores,
    store_file,
)

STATEFUL = "state: {on_failure: volatile}\n"
PARTITION = "type: partition, device: LABEL=p, on_failure: refuse"


def test_an_overlay_on_state() -> None:
    layout = layout_of(STATEFUL + "mounts: [{path: /srv/a-b, type: overlay, upper: state, options: [nosuid]}]\n")
    mount, base = at(layout, "/srv/a-b"), DATA / "overlay/srv-a=2db"
    assert mount.options == (
        "rw", "nosuid", "lowerdir=/run/rofs/image/srv/a-b", f"upperdir={base}/upper", f"workdir={base}/work",
        "index=off", "redirect_dir=off", "metacopy=off", "xino=off",
    )  # fmt: skip
    assert (mount.what, mount.type, mount.promise) == ("overlay", "overlay", Promise.OVERLAY_STATE)
    assert (mount.stage, mount.needs) == (Stage.SYSTEMD, (IMAGE, base))
    assert (mount.size_bytes, mount.inodes) == (None, None), "the state partition is the limit"
    assert [m.role for m in layout.mounts].count(Role.BACKING) == 0
    upper, work = layout.prepares
    assert (upper.of, upper.path, upper.mode, upper.uid, upper.gid, upper.seed) == (
        mount.where, base / "upper", 0o755, 0, 0, None,
    )  # fmt: skip
    assert (work.of, work.path, work.mode) == (mount.where, base / "work", 0o700)


def test_only_an_upper_that_outlives_its_lower_is_careful() -> None:
    layout = layout_of("mounts: [{path: /srv, type: overlay, upper: tmpfs}]\n")
    assert not set(SAFE_OVERLAY) & set(at(layout, "/srv").options)


def test_an_overlay_on_state_at_etc_brings_its_partition_forward() -> None:
    layout = layout_of(KEPT)
    initrd = {str(m.where) for m in layout.mounts if m.stage is Stage.INITRD}
    assert {"/etc", "/etc/ssh", "/run/rofs/state", "/run/rofs/image"} <= initrd
    late = {"/srv", "/srv/a", "/tmp", "/var", "/var/lib/app"}
    assert not initrd & late, "what is not below /etc is systemd's"


def test_a_bind_from_state() -> None:
    layout = layout_of(
        STATEFUL + "mounts: [{path: /var/www, type: bind, source: state, owner: daemon, options: [noexec]}]\n"
    )
    mount = at(layout, "/var/www")
    assert (mount.what, mount.type) == ("/run/rofs/state/data/bind/var-www", "none")
    assert mount.options == ("bind", "private", "rw", "noexec", "nosuid", "nodev", "noatime")
    assert (mount.promise, mount.stage, mount.size_bytes) == (Promise.BIND_STATE, Stage.SYSTEMD, None)
    assert mount.needs == (P(mount.what),)
    assert (mount.mode, mount.uid, mount.gid) == (0o2750, 1, 1)
    (made,) = layout.prepares
    assert (made.of, made.path, made.seed) == (mount.where, P(mount.what), IMAGE / "var/www")
    assert (made.mode, made.uid, made.gid) == (0o2750, 1, 1)
    state = at(layout, "/run/rofs/state")
    assert state.options == ("rw", "nosuid", "nodev", "noatime")
    assert (state.what, state.type, state.mode, state.stage) == ("LABEL=state", "ext4", 0o700, Stage.INITRD)


@pytest.mark.parametrize(
    ("keys", "path", "seeded"),
    [
        ("", "/var/www", True),
        (", seed: image", "/var/www", True),
        (", seed: empty", "/var/www", False),
        ("", "/srv/nothing", False),
    ],
)
@pytest.mark.parametrize("kind", ["type: bind, source: state", PARTITION])
def test_what_a_store_is_seeded_with(kind: str, keys: str, path: str, seeded: bool) -> None:
    (made,) = layout_of(f"{STATEFUL}mounts: [{{path: {path}, {kind}{keys}}}]\n").prepares
    assert made.seed == (IMAGE / path[1:] if seeded else None)


@pytest.mark.parametrize(
    "owner", ["files: [{path: /srv/new/a/b, content: x}]", "users: [{name: b, uid: 1, home: /srv/new}]"]
)
def test_the_profiles_own_content_is_a_seed_too(owner: str) -> None:
    (made,) = layout_of(f"{STATEFUL}{owner}\nmounts: [{{path: /srv/new, type: bind, source: state}}]\n").prepares
    assert made.seed == IMAGE / "srv/new"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", ("nosuid", "nodev", "noatime")),
        (", options: [noexec]", ("noexec", "noatime")),
        (", options: [relatime, nodev]", ("relatime", "nodev")),
        (", options: [strictatime]", ("strictatime",)),
        (", options: [noatime, nodev]", ("noatime", "nodev")),
        (", options: [nodiratime]", ("nodiratime", "noatime")),
        (", options: [errors=remount-ro]", ("errors=remount-ro", "noatime")),
    ],
)
def test_a_partition(options: str, expected: tuple[str, ...]) -> None:
    kind = "type: partition, device: UUID=0a1b2c3d-0000-4000-8000-0123456789ab, on_failure: refuse"
    layout = layout_of(f"mounts: [{{path: /var/www, {kind}{options}}}, {{path: /x, type: bind, source: /var/www}}]\n")
    mount = at(layout, "/var/www")
    assert mount.options == ("rw", *expected)
    assert (mount.what, mount.type) == ("UUID=0a1b2c3d-0000-4000-8000-0123456789ab", "ext4")
    assert (mount.stage, mount.promise, mount.role) == (Stage.INITRD, Promise.PARTITION, Role.DECLARED)
    assert (mount.mode, mount.uid, mount.gid) == (0o2750, 33, 33)
    (made,) = layout.prepares
    assert (made.of, made.path, made.mode, made.uid) == (mount.where, mount.where, 0o2750, 33)
    inherited = [o for o in ("nosuid", "nodev", "noexec", "noatime", "nodiratime") if o in expected]
    assert at(layout, "/x").options == ("bind", "private", "ro", *inherited)
    assert not [m for m in layout.mounts if m.role in (Role.STATE, Role.BACKING)]


@pytest.mark.parametrize(
    ("mounts", "order", "early"),
    [
        pytest.param(
            ["{path: /srv, type: overlay, upper: tmpfs}", "{path: /srv/a, type: bind, source: state}"],
            ["/run/rofs/tmpfs/srv", "/srv", "/srv/a"],
            {"/run/rofs/tmpfs/srv"},
            id="a bind from state in an overlay on tmpfs",
        ),
        pytest.param(
            ["{path: /srv, type: overlay, upper: state}", "{path: /srv/a, type: tmpfs}"],
            ["/srv", "/srv/a"],
            set(),
            id="a tmpfs in an overlay on state",
        ),
        pytest.param(
            [f"{{path: /var, {PARTITION}}}", "{path: /var/lib, type: overlay, upper: state}"],
            ["/var", "/var/lib"],
            {"/var"},
            id="an overlay on state in a partition",
        ),
        pytest.param(
            ["{path: /srv, type: overlay, upper: tmpfs}", f"{{path: /srv/a/b, {PARTITION}}}"],
            ["/run/rofs/tmpfs/srv", "/srv", "/srv/a/b"],
            {"/run/rofs/tmpfs/srv", "/srv", "/srv/a/b"},
            id="a partition in an overlay on tmpfs",
        ),
        pytest.param(
            ["{path: /srv, type: bind, source: state}", f"{{path: /srv/a, {PARTITION}}}"],
            ["/srv", "/srv/a"],
            {"/srv", "/srv/a"},
            id="a partition in a bind from state",
        ),
        pytest.param(
            [f"{{path: /srv, {PARTITION}}}", f"{{path: /srv/a, {PARTITION.replace('=p', '=b')}}}"],
            ["/srv", "/srv/a"],
            {"/srv", "/srv/a"},
            id="a partition in a partition",
        ),
        pytest.param(
            ["{path: /etc/app, type: bind, source: state}", "{path: /etc, type: overlay, upper: tmpfs}"],
            ["/run/rofs/tmpfs/etc", "/etc", "/etc/app"],
            {"/run/rofs/tmpfs/etc", "/etc", "/etc/app"},
            id="a bind from state below etc",
        ),
        pytest.param(
            ["{path: /etc/app, type: bind, source: /srv/conf, access: rw}", "{path: /srv, type: bind, source: state}"],
            ["/srv", "/etc/app"],
            {"/srv", "/etc/app"},
            id="a bind from state that etc shows",
        ),
    ],
)  # fmt: skip
def test_one_in_another(mounts: list[str], order: list[str], early: set[str]) -> None:
    layout = layout_of(STATEFUL + "machine_id: transient\n" + f"mounts: [{', '.join(mounts)}]\n")
    orders(layout)
    closed(layout)
    fixed = {"/", "/run/rofs/image", "/run/rofs/state"}
    assert [str(m.where) for m in layout.mounts if str(m.where) not in fixed] == order
    assert {str(m.where) for m in layout.mounts if m.stage is Stage.INITRD} == fixed | early


MACHINE_IDS = [
    # what covers /etc/machine-id, whether it can be written where it stands
    ("", False),
    ("mounts: [{path: /etc, type: overlay, upper: state}]", True),
    ("mounts: [{path: /etc, type: overlay, upper: tmpfs}]", True),
    ("mounts: [{path: /etc, type: tmpfs}]", True),
    ("mounts: [{path: /etc, type: bind, source: state}]", True),
    ("mounts: [{path: /etc, type: partition, device: LABEL=e, on_failure: refuse}]", True),
    ("mounts: [{path: /etc, type: bind, source: /run/etc, access: rw}]", True),
    ("mounts: [{path: /etc, type: bind, source: /run/etc}]", False),
    ("mounts: [{path: /etc/ssh, type: overlay, upper: state}]", False),
    ("immutable: [/etc]", False),
    ("immutable: [/etc/ssh]\nmounts: [{path: /etc, type: overlay, upper: state}]", True),
    ("mounts: [{path: /etc, type: overlay, upper: state}, {path: /etc/machine-id.d, type: tmpfs}]", True),
]


@pytest.mark.parametrize(("text", "writable"), MACHINE_IDS, ids=range(len(MACHINE_IDS)))
@pytest.mark.parametrize("kept", [True, False])
def test_the_machine_id_is_bound_where_it_cannot_be_written(text: str, writable: bool, kept: bool) -> None:
    head = STATEFUL + f"machine_id: {'state' if kept else 'transient'}\n"
    layout = layout_of(f"{head}{text}\n")
    assert etc_is_writable(layout.profile) is writable
    assert machine_id_is_bound(layout.profile) is (kept and not writable)
    mount = layout.mount_at(P("/etc/machine-id"))
    assert (mount is not None) == (kept and not writable)
    if mount is not None:
        assert (mount.what, mount.type) == ("/run/rofs/state/data/identity/machine-id", "none")
        assert mount.options == ("bind", "private", "ro", "nosuid", "nodev", "noatime")
        assert (mount.role, mount.promise, mount.stage) == (Role.IDENTITY, Promise.MACHINE_ID, Stage.INITRD)
        assert (mount.mode, mount.at, mount.required) == (0o444, ("machine_id",), True)
        assert not layout.is_writable(mount.where)


def test_an_immutable_etc_inside_a_writable_one_is_read_only() -> None:
    """Seen from the innermost mount: an island above the machine-id takes its writing away, one outside does not."""
    inside = STATEFUL + "immutable: [/etc/machine-id]\nmachine_id: transient\n"
    assert not etc_is_writable(profile_of(inside + "mounts: [{path: /etc, type: overlay, upper: state}]\n"))
    assert not etc_is_writable(profile_of(inside))


def test_without_state_no_machine_id_is_kept() -> None:
    layout = layout_of("")
    assert not machine_id_is_bound(layout.profile)
    assert not [m for m in layout.mounts if m.role in (Role.STATE, Role.IDENTITY)]


def test_who_may_write_what_persists() -> None:
    layout = layout_of(PARTED)
    for path, promise, writable in [
        ("/var/x", Promise.PARTITION, True),
        ("/var/lib/x", Promise.OVERLAY_STATE, True),
        ("/var/lib/dpkg/x", Promise.PINNED_RO, False),
        ("/opt/x", Promise.BIND_STATE, True),
        ("/etc/machine-id", Promise.MACHINE_ID, False),
        ("/run/rofs/state/data", Promise.STATE, False),
    ]:
        assert layout.owner(P(path)).promise is promise, path
        assert layout.is_writable(P(path)) is writable, path


def test_islands_in_what_persists_are_pinned() -> None:
    layout = layout_of(
        STATEFUL + "immutable: [/srv/a/b, /var/lib/dpkg]\n"
        "mounts:\n"
        "  - {path: /srv, type: bind, source: state}\n"
        "  - {path: /var, type: partition, device: LABEL=v, on_failure: refuse}\n"
    )
    pins = {str(m.where): m.options for m in layout.mounts if m.role is Role.PIN}
    assert pins == dict.fromkeys(("/srv/a", "/var/lib"), ("bind", "private", "rw", "nosuid", "nodev", "noatime"))
    islands = {str(m.where): m.what for m in layout.mounts if m.role is Role.ISLAND}
    assert islands == {p: f"/run/rofs/image{p}" for p in ("/srv/a/b", "/var/lib/dpkg")}


def test_stores_in_the_order_of_the_profile() -> None:
    layout = layout_of(PARTED)
    stores = persistent_stores(layout.profile)
    assert [s.name for s in stores] == ["state", "/var", "/srv/a/it's in"], "state first, then as they are written"
    assert [store_file(s) for s in stores] == [
        "state.img", "partition-var.img", "partition-srv-a-it=27s=20in.img",
    ]  # fmt: skip
    assert persistent_stores(profile_of("")) == ()
    named_so = profile_of("mounts: [{path: /state, type: partition, device: LABEL=a, on_failure: refuse}]\n")
    assert [store_file(s) for s in persistent_stores(named_so)] == ["partition-state.img"]


def test_a_boot_without_any_store() -> None:
    layout = layout_of(PARTED)
    volatile = as_volatile(layout)
    changed = {str(b.where): b for a, b in zip(layout.mounts, volatile.mounts, strict=True) if a != b}
    assert set(changed) == {"/run/rofs/state", "/var", "/srv/a/it's in"}
    assert {(m.what, m.type) for m in changed.values()} == {("tmpfs", "tmpfs")}
    assert changed["/run/rofs/state"].options == (
        "rw", "nosuid", "nodev", "noatime", "size=65536k", "nr_inodes=16384", "mode=0700",
    )  # fmt: skip
    # 64M, though the partition has 128M; and no less inodes than an empty service needs.
    assert changed["/var"].options[-3:] == ("size=65536k", "nr_inodes=16384", "mode=0755")
    assert changed["/srv/a/it's in"].options == (
        "rw", "noexec", "relatime", "size=16384k", "nr_inodes=4096", "mode=0750",
    )  # fmt: skip
    for mount in changed.values():
        before = at(layout, str(mount.where))
        assert (mount.promise, mount.role, mount.stage, mount.mode, mount.uid) == (
            before.promise, before.role, before.stage, before.mode, before.uid,
        )  # fmt: skip
    assert (volatile.prepares, volatile.profile) == (layout.prepares, layout.profile)


def test_options_of_a_file_system_are_not_those_of_the_tmpfs_in_its_place() -> None:
    kind = (
        "type: partition, device: LABEL=a, on_failure: volatile, volatile_size: 6M, options: [errors=remount-ro, nodev]"
    )
    volatile = as_volatile(layout_of(f"mounts: [{{path: /srv, {kind}}}]\n"))
    assert at(volatile, "/srv").options == ("rw", "nodev", "noatime", "size=6144k", "nr_inodes=1536", "mode=0755")


def test_a_layout_without_stores_is_the_same_without_them() -> None:
    layout = layout_of(RICH)
    assert as_volatile(layout) == layout


def test_state_is_there_before_the_tree_is_known() -> None:
    layout = build_layout(profile_of(KEPT), None)
    assert at(layout, str(STATE)).mode == 0o700
    assert at(layout, "/var/www").mode is None
    assert {p.mode for p in layout.prepares if p.of == P("/var/www")} == {0o755}
