# SPDX-License-Identifier: MIT
"""The tree's own record of its packages, and their licences."""

from __future__ import annotations

from pathlib import Path

import pytest
from tarmaker import file, folder, symlink, write_tar

from rofs.sources.dpkg import PackageFacts, find_packages, parse_os_release, parse_packages
from rofs.sources.licences import declared_licence
from rofs.treefacts import Node, make_facts, read_facts

STATUS = b"""\
Package: zlib1g
Status: install ok installed
Maintainer: Mark Brown <broonie@debian.org>
Architecture: amd64
Multi-Arch: same
Source: zlib
Version: 1:1.2.13.dfsg-1
Description: compression
 Version: not this
Homepage: http://zlib.net/

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: bash
Status: hold ok installed
Maintainer: Foo, Inc.
Architecture: amd64
Source: bash (5.2.15-2)
Version: 5.2.15-2+b13
Homepage: not a link

Package: half
Status: install ok half-installed
Version: 2

Package: nameless-version
Status: install ok installed
"""
BASH = PackageFacts(
    name="bash", version="5.2.15-2+b13", architecture="amd64", source="bash", source_version="5.2.15-2",
    maintainer="Foo, Inc.",
)  # fmt: skip
ZLIB = PackageFacts(
    name="zlib1g", version="1:1.2.13.dfsg-1", architecture="amd64", source="zlib", source_version="1:1.2.13.dfsg-1",
    maintainer="Mark Brown <broonie@debian.org>", homepage="http://zlib.net/",
)  # fmt: skip
OPKG = b"Package: dropbear\nVersion: 2022.83-r0\nStatus: install user installed\nArchitecture: cortexa53\n"
COPYRIGHT = b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: Expat\n"


def test_what_is_installed() -> None:
    assert parse_packages(STATUS) == (BASH, ZLIB)
    assert parse_packages(b"") == ()


def test_one_name_for_two_architectures_is_two_packages() -> None:
    status = b"Package: a\nArchitecture: %s\nStatus: install ok installed\nVersion: 1\n"
    both = parse_packages(status % b"i386" + b"\n" + status % b"amd64")
    assert [package.architecture for package in both] == ["amd64", "i386"]


def test_bytes_that_are_no_text_do_no_harm() -> None:
    (package,) = parse_packages(b"Package: a\nVersion: 1\nMaintainer: J\xf6rg\nStatus: install ok installed\n")
    assert package.maintainer == "J\ufffdrg"


@pytest.mark.parametrize("path", ["/var/lib/opkg/status", "/usr/lib/opkg/status"])
def test_a_tree_of_opkg(path: str) -> None:
    (package,) = find_packages(make_facts({}, {path: OPKG}))
    assert (package.manager, package.name, package.architecture) == ("opkg", "dropbear", "cortexa53")


def test_a_tree_of_dpkg_with_licences_also_behind_links() -> None:
    facts = make_facts(
        {"/usr/share/doc/zlib1g": Node("symlink", 0o777, 0, 0, target="zlib-doc")},
        {"/var/lib/dpkg/status": STATUS, "/usr/share/doc/zlib-doc/copyright": COPYRIGHT},
    )
    assert [(package.name, package.licence) for package in find_packages(facts)] == [("bash", ""), ("zlib1g", "MIT")]


def test_the_files_are_kept_of_a_tar(tmp_path: Path) -> None:
    docs = [
        folder("usr/share/doc/b"),
        file("usr/share/doc/b/copyright", COPYRIGHT),
        symlink("usr/share/doc/dropbear", "b"),
    ]
    tar = write_tar(tmp_path / "tree.tar", file("usr/lib/opkg/status", OPKG), *docs)
    assert [(package.name, package.licence) for package in find_packages(read_facts(tar))] == [("dropbear", "MIT")]


def test_a_tree_without_a_record() -> None:
    assert find_packages(make_facts({})) == ()


def test_os_release() -> None:
    text = b'# x\nID=debian\nVERSION_CODENAME=\'bookworm\'\nNAME="Debian GNU/Linux"\nBAD="x\nTWO=a b\n=c\nEMPTY=\n'
    assert parse_os_release(text) == {
        "ID": "debian", "VERSION_CODENAME": "bookworm", "NAME": "Debian GNU/Linux", "EMPTY": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "expression"),
    [
        (["GPL-2+"], "GPL-2.0-or-later"),
        (["GPL-2"], "GPL-2.0-only"),
        (["GPL-2.0+", "GPL-2+"], "GPL-2.0-or-later"),
        (["LGPL-2.1+", "Expat", "Expat"], "LGPL-2.1-or-later AND MIT"),
        (["Expat or GPL-1+"], "GPL-1.0-or-later OR MIT"),
        (["Expat or GPL-1+", "ISC"], "(GPL-1.0-or-later OR MIT) AND ISC"),
        (["ISC and BSD-3-clause"], "BSD-3-Clause AND ISC"),
        (["GFDL-NIV-1.3+"], "GFDL-1.3-no-invariants-or-later"),
        (["GPL-2+", "public-domain"], ""),
        (["GPL"], ""),
        (["GPL-4+"], ""),
        (["MIT"], ""),  # of which copyright-format says that there are many
        (["GPL-3+ with Bison exception"], ""),
        (["GPL-2+ or AFL-2.1, and Expat"], ""),
        ([""], ""),
        ([], ""),
    ],
)
def test_a_licence_is_said_only_where_all_of_it_can_be(said: list[str], expression: str) -> None:
    files = "".join(f"Files: {number}/*\nCopyright: x\nLicense: {name}\n text\n\n" for number, name in enumerate(said))
    head = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nLicense: Beerware\n\n"
    assert declared_licence(f"{head}{files}License: Beerware\n text\n".encode()) == expression
    assert declared_licence(files.encode()) == "", "not of that format"


def test_files_without_a_licence_leave_it_open() -> None:
    assert declared_licence(COPYRIGHT) == "MIT"
    assert declared_licence(COPYRIGHT + b"\nFiles: debian/*\nCopyright: x\n") == ""
