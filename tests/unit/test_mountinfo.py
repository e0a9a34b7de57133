# SPDX-License-Identifier: MIT
"""/proc/PID/mountinfo -> rows, from lines the kernel wrote and from this very process's."""

from __future__ import annotations

from pathlib import Path

from layouts import P

from rofs.verify.mountinfo import covering, parse_mountinfo

TEXT = """\
22 1 254:0 / / ro,relatime shared:1 - squashfs /dev/vda ro,errors=continue
30 22 0:25 / /var rw,nosuid,relatime shared:9 master:2 - overlay overlay rw,lowerdir=/run/rofs/image/var
31 30 0:26 /a\\040b /srv/x\\043y rw,relatime - tmpfs tm\\040pfs rw,size=4096k,nr_inodes=1024
32 31 0:27 / /var rw - tmpfs second rw
"""


def test_rows() -> None:
    root, var, bind, second = parse_mountinfo(TEXT)
    assert (root.device, root.where, root.type, root.source) == ("254:0", P("/"), "squashfs", "/dev/vda")
    assert root.flags == {"ro", "relatime"}
    assert var.propagation == {"shared:9", "master:2"}
    assert var.settings == {"rw": "", "lowerdir": "/run/rofs/image/var"}
    assert (bind.root, bind.where, bind.source) == ("/a b", P("/srv/x#y"), "tm pfs")
    assert bind.settings["size"] == "4096k"
    assert str(bind) == "tmpfs tm pfs[/a b] relatime,rw rw,size=4096k,nr_inodes=1024"
    assert second.propagation == frozenset()


def test_the_later_mount_covers() -> None:
    rows = parse_mountinfo(TEXT)
    assert covering(rows, P("/var/x")) == rows[3]
    assert covering(rows, P("/usr")) == rows[0]
    assert covering(rows, P("/var"), without=P("/var")) == rows[0]
    assert covering((), P("/var")) is None


def test_a_line_cut_short_is_a_strange_mount_and_no_crash() -> None:
    (row,) = parse_mountinfo("22 1 - x")
    assert row.where == P(".")
    (row,) = parse_mountinfo("no table at all\n")
    assert (row.where, row.type) == (P("."), "")
    assert parse_mountinfo("") == ()


def test_only_the_kernels_line_breaks_are_some() -> None:
    odd = "31 30 0:26 / /srv/a\x0c\x1c\x85\u2028\rb rw,relatime - tmpfs t rw\n"
    (*_, row) = parse_mountinfo(TEXT + odd)
    assert (len(parse_mountinfo(TEXT + odd)), row.where) == (5, P("/srv/a\x0c\x1c\x85\u2028\rb"))


def test_this_process() -> None:
    rows = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    assert {"/", "/proc"} <= {str(row.where) for row in rows}
    assert all(row.type and row.flags for row in rows)
