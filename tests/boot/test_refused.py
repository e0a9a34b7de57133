# SPDX-License-Identifier: MIT
"""What only the packages can tell of a profile: each wrong name at its place, once, and nothing published."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.boot, pytest.mark.needs("mmdebstrap", "apt-get")]

MINIMAL = (Path(__file__).resolve().parents[2] / "profiles" / "minimal.yaml").read_text()
NO_PACKAGES, NO_KERNEL = ("rofs-no-such-package", "rofs-nor-this"), "linux-image-rofs-none"


def place_of(text: str, word: str) -> str:
    """line:column of a word that stands there once."""
    assert text.count(word) == 1
    before = text[: text.index(word)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


CASES = {
    "packages": (MINIMAL.replace("dbus]", f"{NO_PACKAGES[0]}, dbus, {NO_PACKAGES[1]}]"), NO_PACKAGES),
    "kernel": (MINIMAL.replace("linux-image-cloud", NO_KERNEL), (NO_KERNEL,)),
    "owner and group": (
        MINIMAL + "  - {path: /mnt, type: tmpfs, size: 1M, owner: nobody-here, group: no-such-group}\n",
        ("nobody-here", "no-such-group"),
    ),
    "unit": (MINIMAL + "\nunits: {enable: [no-such.service]}\n", ("no-such.service",)),
}


@pytest.mark.parametrize("name", CASES)
def test_an_unknown_name_is_refused_at_its_place(
    name: str, rofs: Callable[..., subprocess.CompletedProcess[str]], built: Callable[[str], Path], tmp_path: Path
) -> None:
    built("minimal")  # so that its tree is in the cache
    text, words = CASES[name]
    profile, output = tmp_path / "wrong.yaml", tmp_path / "images"
    profile.write_text(text)
    # mmdebstrap looks for packages only after the essential ones are installed: one architecture will do.
    options = ("--arch", "amd64") if name == "packages" else ()
    result = rofs("build", profile, "--output", output, *options)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if ": error: " in line]
    for word in words:
        at = f"{profile}:{place_of(text, word)}: error: "
        assert [word in line for line in errors if line.startswith(at)] == [True], result.stderr
    assert len(errors) == len(words), result.stderr
    assert list(output.rglob("*")) == []
