# SPDX-License-Identifier: MIT
"""The tree of promises, drawn."""

from __future__ import annotations

from layouts import RICH, layout_of, profile_of

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


def test_every_path_once_and_the_words_in_one_column() -> None:
    layout = layout_of(RICH)
    lines = render_picture(layout).splitlines()
    visible = [m for m in layout.mounts if not str(m.where).startswith("/run/rofs")]
    assert sum(line.endswith("]") for line in lines) == len(visible)
    assert len(lines) == len({m.where for m in visible} | {*layout.immutable, *layout.top_level})
    assert not [line for line in lines if "None" in line]
    assert next(line for line in lines if "── run" in line).endswith("of the kernel and PID 1")
