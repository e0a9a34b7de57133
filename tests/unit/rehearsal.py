# SPDX-License-Identifier: MIT
"""The initrd's script run for real on directories: a small device with disks, boots and power cuts.

Nothing of the host can be touched. Every absolute path of the script is moved below one directory, every
program is a shell function which writes down its words first, and those that change files refuse any other
place. Making, copying, renaming and deleting is real; mounting a disk makes a link to its directory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from layouts import layout_of

from rofs.generate.initrd import APPLETS, render_initrd
from rofs.layout import Layout

TIMEOUT_S = 60
TOOLS = str(Path(shutil.which("cp") or "/usr/bin/cp").parent)
UUID = "01234567-89ab-4def-8123-456789abcdef"
MACHINE_ID = UUID.replace("-", "")
_ROOTS = re.compile(r"(?<![\w.])/(run|sysroot|dev|proc|sys)\b")

_PRELUDE = r"""
calls=0 failed=0
note() { printf '%s\0' "$@" >>"$R/log"; printf '\n\0' >>"$R/log"; }

# dash would read the backslashes in a name.
echo() { if [ "$1" = -n ]; then shift && printf %s "$*"; else printf '%s\n' "$*"; fi; }

# host: a program of the host, real: one of the initrd where there is its busybox.
host() { tool=$1 && shift && "$TOOLS/$tool" "$@"; }
real() { if [ -n "$BUSYBOX" ]; then "$BUSYBOX" "$@"; else host "$@"; fi; }

# step WORDS: writes them down, keeps the disks as they are before it, fails where it shall.
step() {
    note "$@"
    if [ -n "$CUTS" ]; then
        calls=$((calls + 1))
        host mkdir "$R/cuts/$calls" && host cp -a "$R/disks" "$R/flushed" "$R/cuts/$calls"
        printf '%s' "$*" >"$R/cuts/$calls/call"
        listed "$R/disks" >"$R/cuts/$calls/files"
    fi
    case $* in
    $FAIL) failed=$((failed + 1)); [ "$failed" -gt "$TIMES" ] ;;
    esac
}
listed() { host find "$@" -type f -printf '%i %s %p\0'; }
flushed() { [ -z "$CUTS" ] || listed "$@" >>"$R/flushed"; }

# guard WORDS: only below the device's directory.
guard() {
    for word; do
        case $word in
        */../*) echo "climbs: $word" >&2; kill -9 $$ ;;
        "$R"/*) ;;
        /*) echo "outside: $word" >&2; kill -9 $$ ;;
        esac
    done
}
change() { guard "$@" && step "$@" && real "$@"; }

chmod() { change chmod "$@"; }
head() { change head "$@"; }
ln() { change ln "$@"; }
mkdir() { change mkdir "$@"; }
mv() { change mv "$@"; }
rm() { change rm "$@"; }
cat() { note cat "$@"; real cat "$@"; }
tr() { note tr "$@"; real tr "$@"; }
chown() { step chown "$@"; }
cp() { echo "loses xattrs: cp $*" >&2; }
blockdev() { note blockdev "$@"; [ "$1" != --getro ] || echo 1; }
insmod() { note insmod "$@"; }
sleep() { note sleep "$@"; }
sh() { note sh "$@"; }
dd() { note dd "$@"; }
grep() { note grep "$@"; }
hexdump() { note hexdump "$@"; }
findfs() { note findfs "$@"; [ ! -d "$R/disks/$1" ] || echo "$R/disks/$1"; }
umount() { step umount "$@" && [ -h "$1" ] && host rm "$1" && host mkdir "$1"; }
mount() {
    step mount "$@" || return 1
    case $* in
    "-t ext4 "*) guard "$6" && host rmdir "$6" && host ln -s "$5" "$6" ;;
    "-o bind $R/sysroot $R/run/rofs/image") host rmdir "$4" && host ln -s "$R/image" "$4" ;;
    esac
}
sync() {
    step sync "$@" || return 1
    if [ "$1" = -f ]; then flushed "$R/disks"; else flushed "$@"; fi
}

# The image's own cp. What it sees at / is the sysroot, and /run is mounted there.
chroot() {
    step chroot "$@" || return 1
    [ "$1 $2" = "$R/sysroot cp" ] || { echo "cannot chroot: $*" >&2; return 1; }
    shift 2
    for word; do
        shift
        case $word in
        "$R/run/"* | -*) ;;
        *) word=$R/sysroot$word ;;
        esac
        set -- "$@" "$word"
    done
    guard "$@" && host cp "$@"
}
"""


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What a boot did. `calls` are the programs' words, as the script says them on a real machine."""

    status: int
    calls: list[list[str]]
    events: list[str]
    kernel_log: str
    console: str

    @property
    def reached_init(self) -> bool:
        """Whether PID 1 was started."""
        return bool(self.calls) and self.calls[-1][0] == "switch_root"

    def of(self, *programs: str) -> list[list[str]]:
        """The calls of these programs."""
        return [call for call in self.calls if call[0] in programs]


class Device:
    """`image` is what the squashfs holds, `disks/TAG` each persistent file system, `sysroot` the last boot's root."""

    def __init__(self, root: Path, layout: Layout, busybox: str = "") -> None:
        self.root, self.layout, self.busybox = root, layout, busybox
        self.sysroot_has: dict[str, str] = {}
        self.image, self.disks, self.sysroot = root / "image", root / "disks", root / "sysroot"
        for path in (self.image, self.disks, root / "bin"):
            path.mkdir(parents=True)
        program = root / "bin/switch_root"
        words = f"printf '%s\\0' switch_root \"$@\" >>{root}/log; printf '\\n\\0' >>{root}/log"
        program.write_text(f"#!/bin/sh\n{words}\n")
        program.chmod(0o755)

    def disk(self, tag: str) -> Path:
        """A new and empty file system of that tag."""
        path = self.disks / tag
        path.mkdir()
        return path

    def script(self) -> str:
        """The rendered script, moved below `root`."""
        text = _ROOTS.sub(rf"{self.root}/\1", render_initrd(self.layout, []))
        for old, new in {
            "export PATH=/bin": "PATH=/nothing",
            "exec switch_root ": f"exec {self.root}/bin/switch_root ",
            f">{self.root}/dev/kmsg": f">>{self.root}/dev/kmsg",
            f">{self.root}/dev/console": f">>{self.root}/dev/console",
            "[ -b ": "[ -e ",
        }.items():
            assert old in text, f"the script has no {old!r} any more"
            text = text.replace(old, new)
        return text

    def boot(self, words: str = "", *, fail: str = "", times: int = 99, cuts: bool = False) -> Boot:
        """Run the script with `words` on the kernel's command line.

        Calls like the pattern `fail` do so, `times` times; `@` is the device's directory. With `cuts` the disks
        are kept as they were before each call.
        """
        known = set(re.findall(r"^(\w+)\(\) ", _PRELUDE, re.MULTILINE))
        assert set(APPLETS) <= known | {"switch_root"}, "a program that the rehearsal does not know"
        self._power_on(words)
        argv = [*([self.busybox] if self.busybox else []), "sh", "-c", _PRELUDE + self.script()]
        env = {
            "R": str(self.root), "FAIL": fail.replace("@", str(self.root)), "TIMES": str(times),
            "CUTS": "1" if cuts else "", "BUSYBOX": self.busybox, "TOOLS": TOOLS, "LC_ALL": "C.UTF-8",
        }  # fmt: skip
        done = subprocess.run(
            argv, cwd=self.root, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.stderr == "", done.stderr
        events = self.root / "run/rofs/events"
        return Boot(
            status=done.returncode,
            calls=self._calls(),
            events=events.read_text().splitlines() if events.exists() else [],
            kernel_log=(self.root / "dev/kmsg").read_text(),
            console=(self.root / "dev/console").read_text(),
        )

    def _power_on(self, words: str) -> None:
        """Memory is empty, and the kernel has its files."""
        (self.root / "run").unlink(missing_ok=True)
        for name in ("sysroot", "dev", "proc", "sys", "cuts"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        random = self.root / "proc/sys/kernel/random"
        for path in (random, self.root / "dev", self.root / "cuts", self.sysroot / "run"):
            path.mkdir(parents=True)
        for name, content in self.sysroot_has.items():
            (self.sysroot / name).parent.mkdir(parents=True, exist_ok=True)
            (self.sysroot / name).write_text(content)
        (random / "uuid").write_text(f"{UUID}\n")
        (self.root / "proc/cmdline").write_text(f"quiet root={self.root}/dev/vda {words}\n")
        for name in ("kmsg", "console", "null", "random", "vda"):
            (self.root / "dev" / name).write_text("")
        (self.root / "log").write_text("")
        (self.root / "flushed").write_bytes(b"".join(b"%d %d %s\0" % key for key in _files(self.disks)))

    def _calls(self) -> list[list[str]]:
        raw = (self.root / "log").read_bytes().decode("utf-8", "surrogateescape").replace(str(self.root), "")
        return [call.split("\0")[:-1] for call in raw.split("\n\0") if call]

    def power_cuts(self, words: str = "") -> dict[str, Path]:
        """What the disks may hold if the power goes during a boot that ends well: words for it -> the disks.

        They are as they were before some call; or so, but what was written and not flushed is empty. Names are
        on the disk at any time, as with a journal of names alone. The same is not said twice.
        """
        assert self.boot(words, cuts=True).reached_init
        found: dict[str, Path] = {}
        seen: list[object] = []
        for cut in sorted((self.root / "cuts").iterdir(), key=lambda path: int(path.name)):
            when = f"{cut.name}, before " + (cut / "call").read_text("utf-8").replace(str(self.root), "")
            states = {when: cut / "disks"}
            kept = {key[:2] for key in _rows(cut / "flushed")}
            lost = [key[2] for key in _rows(cut / "files") if key[:2] not in kept and key[1]]
            if lost:
                bare = shutil.copytree(cut / "disks", cut / "bare", symlinks=True)
                for path in (bare / Path(os.fsdecode(name)).relative_to(self.disks) for name in lost):
                    mode = path.stat().st_mode
                    path.chmod(0o600)
                    path.write_bytes(b"")
                    path.chmod(mode)
                states[f"{when}, with {len(lost)} files empty"] = bare
            for name, disks in states.items():
                if (held := contents(disks)) not in seen:
                    seen.append(held)
                    found[name] = shutil.copytree(disks, self.root / "states" / str(len(seen)), symlinks=True)
        return found

    def restore(self, disks: Path) -> None:
        """The power comes back, and this is what the disks hold."""
        shutil.rmtree(self.disks)
        shutil.copytree(disks, self.disks, symlinks=True)


def _files(top: Path) -> list[tuple[int, int, bytes]]:
    files = (p for p in top.rglob("*") if p.is_file() and not p.is_symlink())
    return [(p.stat().st_ino, p.stat().st_size, os.fsencode(p)) for p in files]


def _rows(path: Path) -> list[tuple[int, int, bytes]]:
    rows = (row.split(b" ", 2) for row in path.read_bytes().split(b"\0") if row)
    return [(int(number), int(size), name) for number, size, name in rows]


SHELLS = ["host", pytest.param("busybox", marks=pytest.mark.needs("busybox"))]
"""What runs the script: the host's sh and tools, or the busybox that is in the initrd."""


def new_device(root: Path, profile: str, shell: str) -> Device:
    """A device whose image has content worth seeding."""
    busybox = (shutil.which("busybox") or "") if shell == "busybox" else ""
    device = Device(root / "device", layout_of(profile), busybox)
    fill(device.image / "var/lib/app")
    (device.image / "var/www").mkdir()
    (device.image / "var/www/index.html").write_text("<p>\n")
    return device


def fill(top: Path) -> None:
    """A tree in which whatever a copy can lose is there to be lost."""
    (top / "a b").mkdir(parents=True)
    for name, content in {"first.json": "{}\n", ".hidden": "h", "a b/new\nline": "n", "empty": ""}.items():
        (top / name).write_text(content)
        os.utime(top / name, (1_600_000_000, 1_600_000_000))
    (top / "link").symlink_to("nowhere")
    os.link(top / "first.json", top / "a b/again")
    os.setxattr(top / "first.json", "user.kept", b"yes")
    (top / "first.json").chmod(0o4640)
    (top / "a b").chmod(0o3700)
    top.chmod(0o777)


def contents(top: Path) -> dict[str, tuple[str, int, bytes]]:
    """Everything below a directory: kind, mode, content or target."""
    found: dict[str, tuple[str, int, bytes]] = {}
    for path in sorted(top.rglob("*")):
        name, mode = str(path.relative_to(top)), path.lstat().st_mode & 0o7777
        if path.is_symlink():
            found[name] = ("link", mode, os.fsencode(path.readlink()))
        elif path.is_dir():
            found[name] = ("dir", mode, b"")
        else:
            found[name] = ("file", mode, path.read_bytes())
    return found
