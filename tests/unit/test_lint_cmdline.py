# SPDX-License-Identifier: MIT
"""Words on the kernel's command line that contradict the layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from rofs.lint import lint
from rofs.profile import load_profile

PROFILE = """\
schema: rofs/v1
name: words
source: {debian: {packages: [systemd-sysv]}}
kernel: {cmdline: "panic=10 %s quiet"}
"""


@pytest.mark.parametrize("word", ["rw", "init=/bin/sh", "systemd.volatile=yes", "systemd.unit=rescue.target"])
def test_contradicting_words_are_errors(tmp_path: Path, word: str) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(PROFILE % word)
    (problem,) = lint(load_profile(path), None)
    assert (problem.rule, problem.mark.line) == ("cmdline", 4) and word in problem.message


@pytest.mark.parametrize("word", ["ro", "root=/dev/mmcblk0p2", "console=ttyS1", "systemd.show_status=0"])
def test_other_words_are_the_users_own(tmp_path: Path, word: str) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(PROFILE % word)
    assert lint(load_profile(path), None) == []


def problems(tmp_path: Path, *lines: str) -> list[tuple[str, int, int, str]]:
    path = tmp_path / "words.yaml"
    path.write_text(PROFILE.partition("kernel")[0] + "".join(f"{line}\n" for line in lines))
    return [(p.rule, p.mark.line, p.mark.column, p.message) for p in lint(load_profile(path), None)]


def test_each_architecture_is_told_at_its_own_words(tmp_path: Path) -> None:
    lines = ("kernel:", "  cmdline:", "    amd64: quiet init=/a", "    arm64: ro", "    armhf: rw systemd.unit=x")
    assert problems(tmp_path, *lines) == [("cmdline", 6, 12, "init=/a contradicts the layout")]
    assert problems(tmp_path, *lines, "architectures: [armhf, amd64]") == [
        ("cmdline", 6, 12, "init=/a contradicts the layout"),
        ("cmdline", 8, 12, "rw contradicts the layout"),
        ("cmdline", 8, 12, "systemd.unit=x contradicts the layout"),
    ]


def test_one_line_for_all_is_told_once(tmp_path: Path) -> None:
    lines = ("architectures: [amd64, arm64, i386, armhf]", "kernel: {cmdline: quiet rw}")
    assert problems(tmp_path, *lines) == [("cmdline", 5, 19, "rw contradicts the layout")]


@pytest.mark.parametrize("device", ["/dev/mmcblk0p2", "PARTUUID=8d2c5f0e-02", "PARTLABEL=rootfs-a"])
def test_a_root_that_is_named_twice(tmp_path: Path, device: str) -> None:
    """The kernel's word would win, on every device."""
    root, words = f"root: {{device: {device}}}", f"kernel: {{cmdline: rootwait root={device}}}"
    assert problems(tmp_path, root) == problems(tmp_path, words) == []
    assert problems(tmp_path, root, words) == [("cmdline", 5, 19, f"root={device} overrides root.device")]
