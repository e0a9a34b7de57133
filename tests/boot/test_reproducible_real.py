# SPDX-License-Identifier: MIT
"""`rofs build --check-reproducible` with the real tools: good where builds agree, and named bytes where they do not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rofs.image.compare import compare_images
from tests.conftest import PROFILES

Rofs = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [
    pytest.mark.boot,
    pytest.mark.slow,
    pytest.mark.needs("mmdebstrap", "apt-get", "dpkg-deb", "depmod", "tar2sqfs", "newuidmap", "setpriv", "faketime"),
]

BUSYBOX = PROFILES / "busybox.yaml"
FAKES = {
    # the arguments end with: SUITE OUT SOURCE
    "mmdebstrap": 'out=$(eval echo \\${$(($#-1))}); date +%s.%N >"$TMPDIR/built-at"; chmod 644 "$TMPDIR/built-at"; '
    'tar --owner=0 --group=0 -rf "$out" -C "$TMPDIR" ./built-at',
    "dpkg-deb": 'for tree in "$3"/bin/busybox "$3"/usr/bin/busybox; do [ ! -e "$tree" ] || date +%N >>"$tree"; done',
    "mkfs.ext4": 'out=$(eval echo \\${$#}); date +%N | dd of="$out" bs=1 seek=5000 conv=notrunc status=none',
}
"""Tools that do what they should, and then write down when."""


@pytest.fixture
def clocks() -> Iterator[str]:
    """A PATH with such tools first, where another user finds them too."""
    fakes = Path(tempfile.mkdtemp(dir="/var/tmp"))
    fakes.chmod(0o755)
    for name, after in FAKES.items():
        real = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        (fakes / name).write_text(f'#!/bin/bash\nset -e\n"{real}" "$@"\n{after}\n')
        (fakes / name).chmod(0o755)
    yield f"{fakes}:{os.environ['PATH']}"
    shutil.rmtree(fakes)


def test_two_builds_of_each_architecture_agree(rofs: Rofs, tmp_path: Path) -> None:
    result = rofs("build", BUSYBOX, "--no-verify", "--check-reproducible", "--output", tmp_path)
    assert result.returncode == 0, result.stderr
    for arch in ("amd64", "arm64"):
        image = tmp_path / "busybox" / arch
        assert re.search(rf"{arch}: built twice, the same bytes.*umask 0.*time zone .*locale ", result.stderr)
        assert json.loads((image / "manifest.json").read_bytes())["reason"] == "not booted"
        assert (image / "state.img").stat().st_blocks * 512 < (image / "state.img").stat().st_size, "not sparse"
        if os.geteuid() == 0:
            varied = rf"{arch}: .* user rofs-check, .*host name another-host, .*time \+400 days$"
            assert re.search(varied, result.stderr, re.MULTILINE), result.stderr
    assert sorted(path.name for path in (tmp_path / "busybox").iterdir()) == ["amd64", "arm64"]


def test_what_differs_is_named_and_kept_and_nothing_is_published(rofs: Rofs, clocks: str, tmp_path: Path) -> None:
    output = tmp_path / "images"
    argv = ["build", BUSYBOX, "--arch", "amd64", "--no-verify", "--check-reproducible", "--output", output]
    result = rofs(*argv, PATH=clocks)
    assert result.returncode == 4, result.stderr
    for line in (
        r"rootfs\.squashfs: differs from byte \d+ on\n  /built-at: content differs from byte \d+ on\n",
        r"initrd\.img: differs from byte \d+ on\n  bin/busybox: content differs from byte \d+ on\n",
        r"state\.img: differs from byte 500\d on\n",
        r"manifest\.json: differs from byte \d+ on",
    ):
        assert re.search(line, result.stderr), line
    assert "vmlinuz" not in result.stderr and "fstab" not in result.stderr
    kept = output / "busybox" / "amd64.differs"
    assert list((output / "busybox").iterdir()) == [kept]
    assert {each.file for each in compare_images(kept / "first", kept / "second")} >= {"rootfs.squashfs", "initrd.img"}
    assert "rootfs.squashfs: differs from" in (kept / "differences.txt").read_text()
