# SPDX-License-Identifier: MIT
"""rofs.sources.apt: the host's sources of one suite, in whatever form the host keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rofs.machine.arch import ARCHES
from rofs.sources.apt import (
    find_host_sources,
    host_options,
    make_private_apt,
    parse_deb822,
    parse_one_line,
    render_apt_conf,
    render_deb822,
    sources_suffix,
)

DEB822 = """\
# the mirror
Types: deb deb-src
# in the middle
URIs: http://deb.example.org/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/example.gpg

types: deb
uris: http://sec.example.org/debian-security
suites: bookworm-security
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://off.example.org/debian
Suites: bookworm
Components: main
Enabled: no
"""

WANTED = """\
Types: deb
Suites: bookworm bookworm-updates
URIs: http://deb.example.org/debian
Components: main contrib
Signed-By: /usr/share/keyrings/example.gpg

Types: deb
Suites: bookworm-security
URIs: http://sec.example.org/debian-security
Components: main
Signed-By: 
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS
 -----END PGP PUBLIC KEY BLOCK-----
"""  # noqa: W291 -- as deb822 has it


def etc_apt(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        where = "sources.list" if name == "main_list" else f"sources.list.d/{stem}.{suffix}"
        (tmp_path / where).write_text(text)
    return tmp_path


def test_deb822_is_filtered(tmp_path: Path) -> None:
    found = find_host_sources("bookworm", etc_apt(tmp_path, debian_sources=DEB822))
    assert found is not None and found.decode() == WANTED


URI = "http://deb.example.org/debian"
OPTIONS = "Signed-By: /k.gpg\nTrusted: yes\n"
ONE_LINE = [
    (
        f"deb {URI} bookworm main contrib # ours",
        f"Types: deb\nSuites: bookworm\nURIs: {URI}\nComponents: main contrib\n",
    ),
    (
        f"deb [arch=amd64,i386 signed-by=/k.gpg trusted=yes]  {URI}  bookworm-security main",
        f"Types: deb\nSuites: bookworm-security\nURIs: {URI}\nComponents: main\n{OPTIONS}",
    ),
    (
        f"deb {URI} bookworm/updates main",
        f"Types: deb\nSuites: bookworm/updates\nURIs: {URI}\nComponents: main\n",
    ),
    (f"#deb {URI} bookworm main", ""),
    (f"deb-src {URI} bookworm main", ""),
    (f"deb {URI} bookworm-backports main", ""),
    (f"deb {URI} trixie main", ""),
    ("deb [broken", ""),
    ("nonsense", ""),
]


@pytest.mark.parametrize(("line", "wanted"), ONE_LINE)
def test_one_line_form_is_filtered(tmp_path: Path, line: str, wanted: str) -> None:
    suite = "deb http://always.example.org/ bookworm main\n"
    found = find_host_sources("bookworm", etc_apt(tmp_path, main_list=f"{suite}{line}\n"))
    assert found is not None
    rest = found.decode().partition("Components: main\n")[2]
    assert rest.removeprefix("\n") == wanted


def test_files_are_read_as_apt_reads_them(tmp_path: Path) -> None:
    line = "deb http://{}.example.org/ bookworm main\n"
    directory = etc_apt(
        tmp_path,
        z_list=line.format("last"),
        main_list=line.format("first"),
        a_list=line.format("second"),
        a_disabled=line.format("never"),
    )
    found = find_host_sources("bookworm", directory)
    assert found is not None
    hosts = [s["URIs"].removeprefix("http://").split(".")[0] for s in parse_deb822(found.decode())]
    assert hosts == ["first", "second", "last"]


@pytest.mark.parametrize("suite", ["trixie", "book", "bookworm-updates-x"])
def test_none_where_the_host_has_not_the_suite(tmp_path: Path, suite: str) -> None:
    assert find_host_sources(suite, etc_apt(tmp_path, debian_sources=DEB822)) is None


def test_updates_alone_are_no_suite(tmp_path: Path) -> None:
    directory = etc_apt(tmp_path, main_list="deb http://deb.example.org/ bookworm-security main\n")
    assert find_host_sources("bookworm", directory) is None


def test_none_where_there_is_no_apt(tmp_path: Path) -> None:
    assert find_host_sources("bookworm", tmp_path / "missing") is None


VALUE = st.text("abc/:.-", min_size=1)
STANZA = st.dictionaries(st.sampled_from(["Types", "URIs", "Suites", "Components", "Signed-By"]), VALUE, min_size=1)


@given(st.lists(STANZA))
def test_parse_of_render_is_identity(stanzas: list[dict[str, str]]) -> None:
    assert parse_deb822(render_deb822(stanzas)) == stanzas


@given(st.text())
def test_any_text_parses(text: str) -> None:
    parse_deb822(text)
    parse_one_line(text)


SUFFIXES = [
    (b"deb http://example.org/ bookworm main", ".list"),
    (b"# x\n  deb [a=b] http://example.org/ bookworm main", ".list"),
    (b"Types: deb\nURIs: http://example.org/", ".sources"),
    (b"# deb of ours\nTypes: deb", ".sources"),
]


@pytest.mark.parametrize(("text", "suffix"), SUFFIXES)
def test_format_of_a_sources_file(text: bytes, suffix: str) -> None:
    assert sources_suffix(text) == suffix


def test_how_the_host_reaches_its_mirror_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    passed = [
        'Acquire::http::Proxy "http://proxy.example.org:3128";',
        'Acquire::https::deb.example.org::Proxy "DIRECT";',
        'Acquire::Check-Valid-Until "false";',
        'Acquire::Retries "3";',
    ]
    others = ['APT::Install-Recommends "1";', 'Acquire::Languages "none";', 'DPkg::Post-Invoke:: "true";']
    config = tmp_path / "apt-config"
    config.write_text("#!/bin/sh\ncat <<'E'\n" + "\n".join([*others, *passed]) + "\nE\n")
    config.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert list(host_options()) == passed


def test_private_apt_is_of_the_target_and_trusts_what_the_host_trusts(tmp_path: Path) -> None:
    conf = render_apt_conf(tmp_path, ARCHES["arm64"], ['Acquire::Retries "3";'])
    assert 'APT::Architectures "arm64";' in conf and f'Dir "{tmp_path}";' in conf
    assert 'Dir::Etc::TrustedParts "/etc/apt/trusted.gpg.d";' in conf
    assert conf.endswith('Acquire::Retries "3";\n')


@pytest.mark.needs("apt-config")
def test_a_private_apt_below_a_relative_path_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt runs in a directory of its own, and without its configuration it would answer for the host."""
    monkeypatch.chdir(tmp_path)
    apt = make_private_apt(Path("here"), ARCHES["arm64"], b"", (), tmp_path / "log")
    assert apt.run("apt-config", "shell", "dir", "Dir").stdout == f"dir='{tmp_path}/here'\n"
