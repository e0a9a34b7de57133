# SPDX-License-Identifier: MIT
"""The initrd's /init: a shell takes it, words stay words, and it does what the layout says, in that order.

What it does with what persists is in test_initrd_state.py and test_initrd_partition.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from layouts import HOSTILE, HOSTILE_KEPT, KEPT, PARTED, RICH, P, layout_of

from rofs.generate.initrd import APPLETS, needed_modules, render_initrd
from rofs.layout import Role, Stage

EVIL_MODULES = [P("/lib/modules/6.1/a.ko"), P('/lib/m/$(touch "pwned")`touch pwned`"; touch pwned; ".ko')]
ETC_HOSTILE = (
    'immutable: ["/etc/x y/it\'s", "/etc/$(touch pwned)", "/etc/-x"]\n'
    "mounts:\n"
    "  - {path: /etc, type: tmpfs, size: 4M}\n"
    '  - {path: "/etc/`touch pwned`", type: bind, source: tmpfs, size: 4M, required: false}\n'
    '  - {path: "/etc/\\"; touch pwned; \\"", type: bind, source: "/usr/share/doc"}\n'
    '  - {path: "/etc/ü*?[a]", type: overlay, upper: tmpfs, size: 4M}\n'
)
TEXTS = {"rich": RICH, "hostile": HOSTILE, "etc": ETC_HOSTILE, "none": ""}


def script(name: str) -> str:
    return render_initrd(layout_of(TEXTS[name]), EVIL_MODULES)


@pytest.mark.parametrize("text", [*TEXTS.values(), KEPT, PARTED, HOSTILE_KEPT], ids=range(len(TEXTS) + 3))
def test_a_shell_takes_it(text: str) -> None:
    subprocess.run(["sh", "-n"], input=render_initrd(layout_of(text), EVIL_MODULES), text=True, check=True)


@pytest.mark.parametrize("name", ["none", "rich"])
def test_without_stores_the_script_has_nothing_of_them(name: str) -> None:
    functions = set(re.findall(r"^(\w+)\(\)", script(name), re.MULTILINE))
    assert functions == {"say", "fail", "bind", "point", "own", "hex", "number", "partuuid", "find_root"}
    assert not re.search(r"\b(findfs|umount|sync|mv)\b", script(name))


def test_modules_of_what_persists_are_loaded() -> None:
    assert needed_modules(layout_of("initrd: {modules: [nvme]}\n")) == ("nvme",)
    assert needed_modules(layout_of(RICH)) == ("overlay",)
    assert needed_modules(layout_of(KEPT)) == ("overlay", "ext4")
    assert set(needed_modules(layout_of(PARTED))) >= {"ext4"}


def rehearse(text: str, tmp_path: Path, **fake: str) -> list[list[str]]:
    """Run the script with every program replaced by one that writes down its words -> those words.

    Nothing of the host can be touched: PATH holds the fakes alone, and what the shell itself would write
    to or read from lies below `tmp_path`.
    """
    fakes, log = tmp_path / "bin", tmp_path / "log"
    fakes.mkdir()
    for applet in (*APPLETS, "true"):
        body = fake.get(applet, '/bin/cat "$@"' if applet == "cat" else "")
        path = fakes / applet
        path.write_text(
            "#!/bin/sh\n{ printf '%s\\0' " + applet + f' "$@"; printf "\\n\\0"; }} >>{log}\n{body}\nexit 0\n'
        )
        path.chmod(0o755)
    for name in ("/dev/kmsg", "/dev/console", "/proc/cmdline"):
        text = text.replace(name, str(tmp_path / name.replace("/", "_")))
    text = text.replace("export PATH=/bin", f"export PATH={fakes}")
    text = text.replace("[ -f /rofs-probe/enter ]", "false").replace('until find_root "$wanted"', "until true")
    (tmp_path / "_proc_cmdline").write_text("quiet root=/dev/vdz init=/sbin/other\n")
    done = subprocess.run(
        ["/bin/sh", "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stderr == "", done.stderr
    calls = log.read_bytes().decode().split("\n\0")
    return [call.split("\0")[:-1] for call in calls if call]


FAKE_BLOCKDEV = '[ "$1" = --getro ] && echo 1'


@pytest.mark.parametrize("name", TEXTS)
def test_words_survive_and_nothing_is_injected(tmp_path: Path, name: str) -> None:
    layout = layout_of(TEXTS[name])
    calls = rehearse(script(name), tmp_path, blockdev=FAKE_BLOCKDEV)
    assert not list(tmp_path.rglob("pwned")), "a name was run"
    assert [c for c in calls if c[0] == "insmod"] == [["insmod", str(m)] for m in EVIL_MODULES]
    mounted = [c[-1] for c in calls if c[0] == "mount" and "remount" not in c[2]]
    declared = [m for m in layout.mounts if m.stage is Stage.INITRD]
    early = [f"/sysroot{m.where}" for m in declared if m.role not in (Role.ROOT, Role.IMAGE, Role.BACKING)]
    backings = [str(m.where) for m in declared if m.role is Role.BACKING]
    fixed = ["/dev", "/proc", "/sys", "/sysroot", "/sysroot/run", "/run/rofs/image"]
    moved = ["/sysroot/dev", "/sysroot/proc", "/sysroot/sys"]
    assert mounted == [*fixed, *backings, *early, *moved]
    made = [c[-1] for c in calls if c[0] == "chmod"]
    assert made == [str(p.path) for p in layout.prepares]
    assert calls[-1] == ["switch_root", "/sysroot", "/sbin/other"]


def test_the_command_line_names_root_and_init(tmp_path: Path) -> None:
    calls = rehearse(script("none"), tmp_path, blockdev=FAKE_BLOCKDEV)
    assert ["blockdev", "--setro", "/dev/vdz"] in calls
    assert ["mount", "-t", "squashfs", "-o", "ro", "/dev/vdz", "/sysroot"] in calls
    assert calls.index(["blockdev", "--setro", "/dev/vdz"]) < [c[0] for c in calls].index("switch_root")


def test_a_device_that_stays_writable_stops_the_boot(tmp_path: Path) -> None:
    calls = rehearse(script("none"), tmp_path, blockdev='[ "$1" = --getro ] && echo 0')
    assert calls[-1][0] == "blockdev"
    assert "cannot be set read-only" in (tmp_path / "_dev_console").read_text()


@pytest.mark.parametrize(("name", "required"), [("etc", False), ("rich", True)])
def test_a_mount_that_fails(tmp_path: Path, name: str, required: bool) -> None:
    """Required: the boot stops, and says where; otherwise it is said and goes on."""
    path = "/etc/`touch pwned`" if name == "etc" else "/etc/ssh"
    calls = rehearse(script(name), tmp_path, blockdev=FAKE_BLOCKDEV, mount=f"case $* in *'{path}') exit 1;; esac")
    assert (calls[-1][0] != "switch_root") == required
    said = (tmp_path / "_dev_kmsg").read_text()
    assert f"rofs: cannot mount {path}" in said and ("<2>" in said) == required
    assert not list(tmp_path.rglob("pwned"))


def test_every_program_it_calls_is_in_the_initrd(tmp_path: Path) -> None:
    for index, name in enumerate(TEXTS):
        place = tmp_path / str(index)
        place.mkdir()
        assert {c[0] for c in rehearse(script(name), place, blockdev=FAKE_BLOCKDEV)} <= set(APPLETS)


def test_a_file_is_shown_on_a_file_and_a_directory_on_a_directory(tmp_path: Path) -> None:
    function = script("rich").partition("point() {")[2].partition("\n}\n")[0]
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "there").write_text("kept")
    calls = [("file", "new/a b"), ("dir", "new/d"), ("file", "there"), ("made", "new/m")]
    for what, where in calls:
        code = f'point() {{{function}\n}}\npoint "$1" "$2"'
        argv = ["sh", "-euc", code, "sh", str(tmp_path / what), str(tmp_path / where)]
        subprocess.run(argv, check=True, env=dict(os.environ))
    assert (tmp_path / "new/a b").is_file() and (tmp_path / "new/d").is_dir()
    assert (tmp_path / "there").read_text() == "kept" and (tmp_path / "made").is_dir()


def test_a_seed_is_copied_before_owner_and_mode_are_set(tmp_path: Path) -> None:
    text = "mounts: [{path: /var/www, type: bind, source: tmpfs}]\n"
    calls = rehearse(render_initrd(layout_of(text), []), tmp_path, blockdev=FAKE_BLOCKDEV)
    data = "/run/rofs/tmpfs/var-www/data"
    start = calls.index(["mkdir", data])
    assert calls[start + 1 : start + 4] == [
        ["chroot", "/sysroot", "cp", "-a", "/run/rofs/image/var/www/.", data],
        ["chown", "33:33", data],
        ["chmod", "2750", data],
    ]
