# SPDX-License-Identifier: MIT
"""Profiles with something persistent, a tree with sshd to build them on, and the boots each of them gets."""

from __future__ import annotations

from functools import cache

from layouts import HOSTILE, HOSTILE_KEPT, PARTED, RICH, entries_of, layout_of, tree

from rofs.entry import Entry
from rofs.layout import Layout
from rofs.treefacts import Node
from rofs.verify.scenario import Scenario, scenarios

FACTS = tree(
    {
        "/usr/sbin/sshd": Node("file", 0o755, 0, 0, 9),
        "/var/lib/systemd": Node("dir", 0o755, 0, 0),
        "/var/lib/app": Node("dir", 0o755, 0, 0),
        "/var/lib/app/inner": Node("dir", 0o755, 0, 0),
        "/srv/store": Node("dir", 0o755, 0, 0),
        "/srv/store/cache": Node("dir", 0o755, 0, 0),
    }
)

STATE = """\
hostname: gateway
users:
  - {name: bob, uid: 1000, groups: [dialout]}
files:
  - {path: /etc/app.conf, content: "a: 1\\n"}
  - {path: /var/lib/app/calibration.json, content: "{}\\n"}
  - {path: /srv/store/readme, content: "mine\\n"}
immutable: [/usr, /etc/ssh, /etc/fstab, /etc/systemd/system]
state: {device: LABEL=state, size: 64M, volatile_size: 32M, on_failure: volatile}
mounts:
  - {path: /etc, type: overlay, upper: state}
  - {path: /var, type: overlay, upper: tmpfs, size: 16M}
  - {path: /var/lib/app, type: bind, source: state, owner: bob, mode: "0750", seed: image}
  - {path: /var/lib/app/inner, type: tmpfs, size: 4M}
  - {path: /var/www, type: bind, source: state, seed: empty}
  - {path: /srv/store, type: partition, device: UUID=01234567-89ab-cdef-0123-456789abcdef, on_failure: volatile}
  - {path: /srv/store/cache, type: tmpfs, size: 4M}
  - {path: /srv/shown, type: bind, source: /var/lib/app, access: rw}
  - {path: /srv/looked, type: bind, source: /var/www}
  - {path: /tmp, type: tmpfs, size: 4M}
"""
"""Every persistent promise once, and what else they meet."""
BOUND = """\
state: {on_failure: refuse}
mounts:
  - {path: /var, type: overlay, upper: state}
"""
"""A read-only /etc, over which the kept machine-id is bound."""
TRANSIENT = """\
machine_id: transient
state: {on_failure: volatile}
mounts:
  - {path: /etc, type: overlay, upper: state}
"""
"""All of /etc is kept but the machine-id."""
PARTITIONS = """\
mounts:
  - {path: /var, type: partition, device: LABEL=var, on_failure: volatile, options: [nosuid, noexec]}
  - {path: /srv/store, type: partition, device: LABEL=store, on_failure: refuse, seed: empty}
"""
"""No state partition: nothing but two paths persists, and one of them must."""
TEXTS = {
    "rich": RICH, "hostile": HOSTILE, "state": STATE, "bound": BOUND, "transient": TRANSIENT, "partitions": PARTITIONS,
    "parted": PARTED, "hostile-kept": HOSTILE_KEPT,
}  # fmt: skip


@cache
def made(name: str) -> tuple[Layout, tuple[Entry, ...]]:
    """A layout of TEXTS and what is generated for it; the old ones in the old tree."""
    facts = tree() if name in ("rich", "hostile") else FACTS
    layout = layout_of(TEXTS[name], facts)
    return layout, entries_of(layout, facts)


def boots(name: str) -> tuple[Scenario, ...]:
    """Every boot that differs in its checks: of those with something broken the first, then a device's own."""
    layout, _ = made(name)
    fresh = scenarios(layout.profile)
    kept = scenarios(layout.profile, kept=True) if fresh[0].state != "none" else ()
    return (*(s for s in fresh if s.number <= 4), *kept)


def boot_of(name: str, state: str, number: int | None = None) -> Scenario:
    """The first boot with this state, or the one of that number."""
    return next(s for s in boots(name) if s.state == state and number in (None, s.number))
