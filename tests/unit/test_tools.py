# SPDX-License-Identifier: MIT
"""rofs.tools: the versions of what shapes bytes, as dpkg has them."""

from __future__ import annotations

import hashlib
import subprocess
import zlib
from pathlib import Path

import pytest

from rofs import __version__
from rofs.tools import IMAGE_TOOLS, KERNEL_TOOLS, TREE_TOOLS, tool_versions

STATUS = """\
Package: tar
Status: install ok installed
Version: 1.34

Package: not-kmod
Status: install ok installed
Version: 9
Description: x
 Package: kmod

Package: apt
Status: deinstall ok config-files
Version: 2.6

Package: dpkg
Essential: yes
Status: install ok installed
Version: 1.21.22
"""


def test_versions_of_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    assert tool_versions(["tar", "kmod", "apt", "dpkg"], tmp_path / "status") == {"dpkg": "1.21.22", "tar": "1.34"}
    own = {"python-zlib": zlib.ZLIB_RUNTIME_VERSION, "rofs": __version__}
    assert tool_versions(status=tmp_path / "status") == {"dpkg": "1.21.22", "tar": "1.34", **own}
    assert tool_versions(status=tmp_path / "none") == own


@pytest.mark.needs("dpkg-query")
def test_of_this_host_it_says_what_dpkg_says() -> None:
    names = sorted({*TREE_TOOLS, *KERNEL_TOOLS, *IMAGE_TOOLS})
    argv = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status} ${Version}\n", *names]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    rows = [line.split() for line in said.splitlines()]
    assert tool_versions(names) == {row[0]: row[2] for row in rows if row[1] == "installed"}


def test_a_program_that_comes_first_on_the_path_counts_by_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "status").write_text(STATUS)
    program, seen = tmp_path / "dpkg-deb", []
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for text in ("#!/bin/sh", "#!/bin/sh -e"):
        program.write_text(text)
        program.chmod(0o755)
        seen.append(tool_versions(["dpkg", "tar"], tmp_path / "status"))
        assert seen[-1] == {"dpkg": f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", "tar": "1.34"}
    assert seen[0] != seen[1]
