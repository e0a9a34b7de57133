# SPDX-License-Identifier: MIT
"""The tree of promises, drawn."""

from __future__ import annotations

import pytest
from layouts import KEPT, PARTED, RICH, layout_of, profile_of

from rofs.generate.picture import render_picture
from rofs.layout import build_layout

SMALL = """\
immutable: [/usr, /etc/a/b]
mounts:
  - {path: /etc, type: overlay, upper: tmpfs, size: 8M}
  - {path: /tmp, type: tmpfs, size: 32M, mode: "1777"}
"""
PICTURE = """\
/              image-ro, by the initrd  [source]
├── etc        overlay-tmpfs, 8192K, 2048 inodes, by the initrd  [mounts[0]]
│   └── a      pin, by the initrd  [immutable[1]]
│       └── b  pinned-ro, from /run/rofs/image/etc/a/b, by the initrd  [immutable[1]]
├── tmp        tmpfs, 32768K, 8192 inodes, 1777 ?:?, by systemd  [mounts[1]]
└── usr        image-ro (declared)
"""


def test_a_small_one() -> None:
    assert render_picture(build_layout(profile_of(SMALL), None)) == PICTURE


@pytest.mark.parametrize("text", [RICH, KEPT, PARTED], ids=["rich", "kept", "parted"])
def test_every_path_once_and_the_words_in_one_column(text: str) -> None:
    layout = layout_of(text)
    lines = render_picture(layout).splitlines()
    visible = [m for m in layout.mounts if not str(m.where).startswith("/run/rofs")]
    assert sum(line.endswith("]") for line in lines) == len(visible)
    assert len(lines) == len({m.where for m in visible} | {*layout.immutable, *layout.top_level})
    assert not [line for line in lines if "None" in line]
    assert next(line for line in lines if "── run" in line).endswith("of the kernel and PID 1")


def test_what_persists_and_where() -> None:
    rows = [" ".join(line.strip("│├└─ ").split()) for line in render_picture(layout_of(PARTED)).splitlines()]
    for row in (
        "var partition, 0755 0:0, by the initrd [mounts[0]]",
        "lib overlay-state, 0755 0:0, by systemd [mounts[1]]",
        "a/it's in partition, 0750 33:33, by the initrd [mounts[4]]",
        "opt bind-state, from /run/rofs/state/data/bind/opt, 0755 0:0, by systemd [mounts[5]]",
        "machine-id machine-id, from /run/rofs/state/data/identity/machine-id, 0444 0:0, by the initrd [machine_id]",
    ):
        assert row in rows
