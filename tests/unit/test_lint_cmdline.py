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
