# SPDX-License-Identifier: MIT
"""fstab and mount units, judged by systemd's own verifier and fstab-generator; no root needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from layouts import HOSTILE, HOSTILE_KEPT, KEPT, PARTED, RICH, P, layout_of

from rofs.entry import Entry
from rofs.generate.escape import unit_name
from rofs.generate.mounts import mount_entries, render_fstab, render_unit
from rofs.layout import UNIT_DIR, Layout, Promise
from rofs.verify.mounts import parse_unit

GENERATOR = Path("/usr/lib/systemd/system-generators/systemd-fstab-generator")
HOST_UNITS = Path("/usr/lib/systemd/system")
STUBS = {
    "default.target": "[Unit]\nRequires=basic.target\nAfter=basic.target\n",
    "basic.target": "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n",
    "sysinit.target": "[Unit]\nWants=local-fs.target\nAfter=local-fs.target\nConflicts=shutdown.target\n",
    "local-fs.target": "[Unit]\nAfter=local-fs-pre.target\nDefaultDependencies=no\nConflicts=shutdown.target\n",
    "local-fs-pre.target": "[Unit]\n",
    "umount.target": "[Unit]\nDefaultDependencies=no\n",
    "shutdown.target": "[Unit]\nDefaultDependencies=no\n",
    "swap.target": "[Unit]\n",
}
LAYOUTS = {
    "rich": RICH,
    "hostile": HOSTILE,
    "none": "",
    "kept": KEPT,
    "parted": PARTED,
    "hostile-kept": HOSTILE_KEPT,
}


def install(root: Path, entries: Iterable[Entry]) -> Path:
    """A tree of unit files alone."""
    system = root / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for name, text in STUBS.items():
        (system / name).write_text(text)
    for entry in entries:
        path = root / str(entry.path).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "symlink":
            path.symlink_to(entry.target)
        else:
            path.write_bytes(entry.content)
    return root


def analyze(root: Path) -> str:
    """What `systemd-analyze verify` has to say; any word is a complaint, whatever the status (tried.md)."""
    argv = ["systemd-analyze", "verify", f"--root={root}", "--man=no", "default.target"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("name", LAYOUTS)
def test_systemd_finds_nothing(tmp_path: Path, name: str) -> None:
    assert analyze(install(tmp_path, mount_entries(layout_of(LAYOUTS[name])))) == ""


@pytest.mark.needs("systemd-analyze")
def test_systemd_would_find_a_wrong_name(tmp_path: Path) -> None:
    install(tmp_path, mount_entries(layout_of(RICH)))
    units = tmp_path / "etc/systemd/system"
    (units / "tmp.mount").rename(units / "tmpp.mount")
    (units / "local-fs.target.requires/tmp.mount").rename(units / "local-fs.target.requires/tmpp.mount")
    assert "Where= setting doesn't match unit name" in analyze(tmp_path)


@pytest.mark.needs("systemd-analyze")
def test_systemd_would_find_a_cycle_so_needs_are_spelled_as_it_reads_them(tmp_path: Path) -> None:
    """Each hostile path is made to need the others' last: only a path that is read right closes the ring."""
    paths = ["/srv/a b", '/srv/"q"', "/srv/it's", "/srv/b\\s", "/srv/%h", "/srv/#;x", "/srv/ü,$"]
    for index, path in enumerate(paths):
        root = tmp_path / str(index)
        text = (
            f"mounts:\n  - {{path: {_yaml(path)}, type: bind, source: /other/place}}\n"
            f"  - {{path: /other, type: bind, source: {_yaml('/usr' + path)}}}\n"
        )
        layout = layout_of(text)
        assert analyze(install(root, mount_entries(layout))) == "", path
        unit = root / "etc/systemd/system/other.mount"
        needs = re.findall("^RequiresMountsFor=.*$", unit.read_text(), re.MULTILINE)
        assert len(needs) == 1
        unit.write_text(
            unit.read_text()
            .replace("RequiresMountsFor=/usr", "RequiresMountsFor=")
            .replace('RequiresMountsFor="/usr', 'RequiresMountsFor="')
        )
        assert "ordering cycle" in analyze(root), path


def _yaml(text: str) -> str:
    import json

    return json.dumps(text)


def placeholders(layout: Layout) -> dict[str, str]:
    """Each device of the table -> a word that is none.

    Where /sys is read-only, as in a container, the generator drops every line with a device (tried.md).
    """
    devices = [m.what for m in layout.mounts if m.promise in (Promise.STATE, Promise.PARTITION)]
    return {what: f"placeholder-{index}" for index, what in enumerate(["/dev/root", *devices])}


def generated(tmp_path: Path, layout: Layout) -> Path:
    """The units that PID 1's generator makes of our fstab."""
    tab, out = tmp_path / "fstab", tmp_path / "out"
    text = render_fstab(layout)
    for device, word in placeholders(layout).items():
        assert f"\n{device} " in text
        text = text.replace(f"\n{device} ", f"\n{word} ")
    tab.write_text(text, "utf-8")
    out.mkdir()
    subprocess.run(
        [str(GENERATOR), *[str(out)] * 3],
        check=True,
        env={**os.environ, "SYSTEMD_FSTAB": str(tab)},
        capture_output=True,
    )
    return out


@pytest.mark.needs(str(GENERATOR))
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_generator_agrees(tmp_path: Path, name: str) -> None:
    layout = layout_of(LAYOUTS[name])
    out = generated(tmp_path, layout)
    names = {unit_name(m.where) for m in layout.mounts}
    assert {p.name for p in out.glob("*.mount")} == names
    words = placeholders(layout)  # what the unit says of these, test_what_persists_is_named_by_its_tag judges
    for mount in layout.mounts:
        unit = unit_name(mount.where)
        ours = parse_unit(render_unit(layout, mount))
        theirs = parse_unit((out / unit).read_text())
        assert theirs == {**ours, "What": words.get(mount.what, ours["What"])}, unit
        target = "local-fs.target." + ("requires" if mount.required else "wants")
        assert (out / target / unit).is_symlink(), unit


@pytest.mark.needs(str(GENERATOR))
def test_the_generator_would_disagree(tmp_path: Path) -> None:
    layout = layout_of(RICH)
    out = generated(tmp_path, layout)
    mount = layout.mount_at(P("/tmp"))
    assert mount is not None
    text = (out / "tmp.mount").read_text()
    assert parse_unit(text.replace("nosuid", "suid")) != parse_unit(render_unit(layout, mount))


@pytest.mark.needs("findmnt")
@pytest.mark.parametrize("name", LAYOUTS)
def test_libmount_reads_the_same_table(tmp_path: Path, name: str) -> None:
    layout, tab = layout_of(LAYOUTS[name]), tmp_path / "fstab"
    tab.write_text(render_fstab(layout), "utf-8")
    argv = ["findmnt", "--fstab", "--tab-file", str(tab), "--json", "--list", "--output", "SOURCE,TARGET,FSTYPE"]
    import json

    rows = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)["filesystems"]
    assert {(r["source"], r["target"], r["fstype"]) for r in rows} == {
        (m.what, str(m.where), m.type) for m in layout.mounts
    }


def test_options_of_fstab_and_unit() -> None:
    layout = layout_of(RICH)
    fields = {line.split(" ")[1]: line.split(" ") for line in render_fstab(layout).splitlines() if line[0] != "#"}
    assert fields["/"][2:] == ["squashfs", "ro,x-initrd.mount", "0", "1"]
    assert fields["/srv/extra"][3].split(",")[-1] == "nofail"
    assert [w for w, f in fields.items() if "nofail" in f[3]] == ["/srv/extra"]
    initrd = {str(m.where) for m in layout.mounts if m.stage.value == "initrd"}
    assert {w for w, f in fields.items() if "x-initrd.mount" in f[3]} == initrd
    assert "x-systemd.requires-mounts-for=/run/rofs/tmpfs/srv-www/data" in fields["/srv/www"][3]
    assert all(f[4] == "0" and f[5] == str(int(w == "/")) for w, f in fields.items())


def test_what_persists_is_named_by_its_tag() -> None:
    """In both spellings: as /dev/disk/by-label/… PID 1 would wait for udev, which the initrd did not run."""
    layout = layout_of(PARTED)
    lines = [line.split(" ") for line in render_fstab(layout).splitlines()]
    uuid = "UUID=0a1b2c3d-0000-4000-8000-0123456789ab"
    assert [uuid, "/run/rofs/state", "ext4", "rw,nosuid,nodev,noatime,x-initrd.mount", "0", "0"] in lines
    assert ["LABEL=var", "/var", "ext4", "rw,nosuid,nodev,noatime,x-initrd.mount", "0", "0"] in lines
    assert ["LABEL=in", "/srv/a/it's\\040in", "ext4", "rw,noexec,relatime,nofail,x-initrd.mount", "0", "0"] in lines
    for where, what in {"/run/rofs/state": uuid, "/var": "LABEL=var"}.items():
        mount = layout.mount_at(P(where))
        assert mount is not None and f"\nWhat={what}\n" in render_unit(layout, mount)


def test_what_systemd_mounts_from_state_waits_for_it() -> None:
    layout = layout_of(KEPT)
    for where, needs in {
        "/var/www": ["/run/rofs/state/data/bind/var-www"],
        "/srv": ["/run/rofs/image", "/run/rofs/state/data/overlay/srv"],
        "/etc": [],  # the initrd's
    }.items():
        mount = layout.mount_at(P(where))
        assert mount is not None
        found = re.findall("^RequiresMountsFor=(.*)$", render_unit(layout, mount), re.MULTILINE)
        assert " ".join(found).split() == needs


def test_a_dependency_that_fstab_cannot_spell_is_the_units_alone() -> None:
    layout = layout_of("mounts: [{path: /x, type: bind, source: '/srv/a,b'}, {path: '/srv/a,b', type: tmpfs}]\n")
    assert "requires-mounts-for" not in render_fstab(layout)
    mount = layout.mount_at(P("/x"))
    assert mount is not None and "RequiresMountsFor=/srv/a,b\n" in render_unit(layout, mount)


def test_each_unit_is_linked_where_its_requirement_says() -> None:
    layout = layout_of(RICH)
    links = {e.path: e.target for e in mount_entries(layout) if e.kind == "symlink"}
    for mount in layout.mounts:
        name = unit_name(mount.where)
        target = "local-fs.target." + ("requires" if mount.required else "wants")
        assert links.pop(UNIT_DIR / target / name) == f"../{name}"
    assert not links


def test_the_host_has_the_oracles() -> None:
    """So that the skips above are seen for what they are."""
    assert HOST_UNITS.is_dir() == (shutil.which("systemd-analyze") is not None)
