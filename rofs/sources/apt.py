# SPDX-License-Identifier: MIT
"""The host's apt configuration -> the sources of one suite; and a private apt for a foreign architecture.

The formats are those of sources.list(5). Everything found is written as deb822 stanzas, so that one form
goes on to mmdebstrap and apt. Nothing here asks for privilege or changes the host's own apt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rofs.machine.arch import Arch
from rofs.run import Result, run

Stanza = Mapping[str, str]
"""The fields of one deb822 source, names in their usual spelling."""

_OPTION_FIELDS = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}
_LEFT_OUT = {"Architectures", "Enabled", "Types", "Suites"}
_PASSED_ON = re.compile(
    r"^Acquire::(?:https?::(?:\S+::)?(?:Proxy|Verify-\S+|CaInfo)(?:::\S+)?|Check-(?:Date|Valid-Until)|Retries)\s"
)
"""How the host reaches its mirror, and which of its mirror's dates it trusts: options mmdebstrap ignores."""


def suites_of(suite: str) -> frozenset[str]:
    """The names under which Debian publishes a suite and its updates ("/updates" until buster)."""
    return frozenset({suite, f"{suite}-updates", f"{suite}-security", f"{suite}/updates"})


def find_host_sources(suite: str, etc_apt: Path = Path("/etc/apt")) -> bytes | None:
    """The host's own sources of `suite` and its updates as one deb822 file, None if it has none."""
    stanzas: list[Stanza] = []
    for path in _source_files(etc_apt):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # readable for root alone, say with a password in it: not ours to use
        stanzas += parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)
    wanted = [chosen for stanza in stanzas if (chosen := _choose(stanza, suite))]
    if not any(suite in stanza["Suites"].split() for stanza in wanted):
        return None
    return render_deb822(wanted).encode()


def _source_files(etc_apt: Path) -> Iterator[Path]:
    """In the order apt reads them; other suffixes are ignored, as apt does."""
    main, parts = etc_apt / "sources.list", etc_apt / "sources.list.d"
    if main.is_file():
        yield main
    if parts.is_dir():
        yield from sorted(p for p in parts.iterdir() if p.suffix in (".list", ".sources") and p.is_file())


def _choose(stanza: Stanza, suite: str) -> Stanza | None:
    """The part of a source that offers binary packages of `suite`.

    Its limit to the host's architectures is taken off, since the target may be another one.
    """
    suites = [name for name in stanza.get("Suites", "").split() if name in suites_of(suite)]
    enabled = stanza.get("Enabled", "yes").strip().lower() not in (
        "no",
        "false",
        "0",
        "off",
        "without",
        "disable",
    )
    if not suites or not enabled or "deb" not in stanza.get("Types", "").split():
        return None
    rest = {name: value for name, value in stanza.items() if name not in _LEFT_OUT}
    return {"Types": "deb", "Suites": " ".join(suites), **rest}


def parse_one_line(text: str) -> list[Stanza]:
    """`deb [option=value ...] URI suite component...` lines -> stanzas; what is no source is skipped."""
    stanzas: list[Stanza] = []
    for line in text.splitlines():
        match = re.match(r"\s*(deb|deb-src)\s+(?:\[([^]]*)\]\s*)?([^#]*)", line)
        words = match[3].split() if match else []
        if not match or len(words) < 2:
            continue
        stanza: dict[str, str] = {"Types": match[1], "URIs": words[0], "Suites": words[1]}
        if words[2:]:
            stanza["Components"] = " ".join(words[2:])
        for option in (match[2] or "").split():
            name, _, value = option.partition("=")
            field = _OPTION_FIELDS.get(name.lower()) or _spelling(name)
            stanza[field.rstrip("+-")] = value.replace(",", " ")
        stanzas.append(stanza)
    return stanzas


def parse_deb822(text: str) -> list[Stanza]:
    """Paragraphs of `Name: value` with continuation lines -> stanzas; comment lines vanish."""
    stanzas: list[Stanza] = []
    fields: dict[str, str] = {}
    last = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                stanzas.append(fields)
            fields, last = {}, ""
        elif line[0] in " \t" and last:
            fields[last] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            last = _spelling(name.strip())
            fields[last] = value.strip()
    return stanzas


def render_deb822(stanzas: Iterable[Stanza]) -> str:
    """The inverse of `parse_deb822`."""
    paragraphs = ("".join(f"{name}: {value}\n" for name, value in stanza.items()) for stanza in stanzas)
    return "\n".join(paragraphs)


def _spelling(name: str) -> str:
    """Field names are case-insensitive; one spelling so that they can be compared."""
    return "URIs" if name.lower() == "uris" else "-".join(part.capitalize() for part in name.split("-"))


def sources_suffix(sources: bytes) -> str:
    """`.list` or `.sources`, by which apt and mmdebstrap know the format of a sources file."""
    return ".list" if re.search(rb"^\s*deb(-src)?\s", sources, re.MULTILINE) else ".sources"


def host_options() -> tuple[str, ...]:
    """The host's apt options that say how its mirror is reached, as apt.conf(5) lines."""
    dump = run(["apt-config", "dump"]).stdout
    return tuple(line for line in dump.splitlines() if _PASSED_ON.match(line))


def default_sources(suite: str, work: Path, log: Path) -> bytes:
    """The sources mmdebstrap chooses where nobody gives any; asks no network."""
    hook = f"--setup-hook=copy-out /etc/apt/sources.list {work}"
    argv = ["mmdebstrap", "--mode=chrootless", "--variant=custom", "--format=null", "--skip=update", hook]
    run([*argv, suite, "-"], log=log)
    return (work / "sources.list").read_bytes()


@dataclass(frozen=True, slots=True)
class PrivateApt:
    """An apt with its own lists and configuration below `root`, for one architecture; needs no privilege."""

    root: Path
    log: Path

    def run(self, *argv: str, cwd: Path | None = None) -> Result:
        """Run an apt program on this root; downloads land in `cwd`, or in `root`/debs."""
        env = {"APT_CONFIG": str(self.root / "apt.conf")}
        return run(argv, log=self.log, cwd=cwd or self.root / "debs", env=env)


def make_private_apt(root: Path, arch: Arch, sources: bytes, options: Iterable[str], log: Path) -> PrivateApt:
    """Lay out `root`; the keys trusted are the host's, as with mmdebstrap."""
    root = root.absolute()  # apt runs in other directories, and takes the host's configuration where it finds no other
    for name in (
        "etc/apt/sources.list.d",
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "debs",
        "var/lib/dpkg",
    ):
        (root / name).mkdir(parents=True)
    for name in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (root / name).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    (root / f"etc/apt/sources.list.d/rofs{sources_suffix(sources)}").write_bytes(sources)
    (root / "apt.conf").write_text(render_apt_conf(root, arch, options), encoding="utf-8")
    return PrivateApt(root, log)


def render_apt_conf(root: Path, arch: Arch, options: Iterable[str]) -> str:
    """apt.conf(5): everything below `root` but the host's keys; no drop to `_apt`, who cannot enter there."""
    lines = [
        f'APT::Architecture "{arch.name}";',
        f'APT::Architectures "{arch.name}";',
        f'Dir "{root}";',
        f'Dir::State::status "{root}/var/lib/dpkg/status";',
        'Dir::Etc::Trusted "/etc/apt/trusted.gpg";',
        'Dir::Etc::TrustedParts "/etc/apt/trusted.gpg.d";',
        'APT::Sandbox::User "root";',
        'Acquire::Languages "none";',
        'APT::Install-Recommends "false";',
        'pkgCacheGen::ForceEssential ",";',  # or apt takes itself for essential
        *options,
    ]
    return "\n".join(lines) + "\n"
