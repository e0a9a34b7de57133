# SPDX-License-Identifier: MIT
"""This host -> what rofs needs of it and what it has: tools, accelerators, emulation, cache, apt's suites.

Everything is asked side by side, nothing is changed, and nothing that is found out is remembered.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rofs import __version__
from rofs.errors import Interrupted, RofsError, ToolError
from rofs.machine.accel import find_accel, run_probe
from rofs.machine.arch import ARCHES, Arch, host_arch
from rofs.run import find_program, run, stoppable
from rofs.sources.apt import find_host_sources
from rofs.sources.binfmt import BINFMT_MISC, emulates
from rofs.sources.debian import require_user_namespace
from rofs.store import default_cache_dir

ANSWER_S = 10.0
"""How long a tool may take to say its version; some are slow on a busy machine, none is that slow."""
PROOF_S = 30.0
"""How long the tiny guest may take without KVM."""
_VERSIONS = (re.compile(r"\bversion (\d[\w.]*)"), re.compile(r"(?:^|[\s_(])v?(\d[\w.]*)"))
"""The plainer word first: the name of qemu-x86_64 has a number in it too."""
_SUITE = re.compile(r"[a-z][a-z0-9.-]*(?<!-updates)(?<!-security)(?<!-backports)")


@dataclass(frozen=True, slots=True)
class Tool:
    """A host program. `asks` makes it say its version; empty where it cannot. Not `needed`: rofs can do without."""

    program: str
    package: str
    purpose: str
    asks: tuple[str, ...] = ("--version",)
    needed: bool = True


QEMU_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-i386": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-arm": "qemu-system-arm",
}

TOOLS: tuple[Tool, ...] = (
    Tool("mmdebstrap", "mmdebstrap", "Debian packages to a tree"),
    Tool("gpg", "gpg", "the signatures of packages"),
    Tool("update-ca-certificates", "ca-certificates", "mirrors that speak https", ()),
    Tool("newuidmap", "uidmap", "trees without root", ()),
    Tool("unshare", "util-linux", "trees without root"),
    Tool("apt-get", "apt", "the kernel's package"),
    Tool("dpkg-deb", "dpkg", "the kernel's package"),
    Tool("depmod", "kmod", "the index of the kernel's modules"),
    Tool("arch-test", "arch-test", "whether another architecture's programs run"),
    Tool("update-binfmts", "binfmt-support", "another architecture's programs"),
    Tool("mount", "mount", "another architecture's programs, in a container"),
    *(
        Tool(f"{arch.qemu_user}-static", "qemu-user-static", f"programs of {arch.name}", needed=False)
        for arch in ARCHES.values()
        if arch.name != host_arch()
    ),
    Tool("tar2sqfs", "squashfs-tools-ng", "the squashfs"),
    Tool("sqfs2tar", "squashfs-tools-ng", "reading it back for verification"),
    Tool("rdsquashfs", "squashfs-tools-ng", "where two builds differ", needed=False),
    Tool("setpriv", "util-linux", "build --check-reproducible by another user", needed=False),
    Tool("unsquashfs", "squashfs-tools", "looking into a squashfs by hand", ("-version",), needed=False),
    Tool("mkfs.ext4", "e2fsprogs", "file systems that persist", ("-V",)),
    Tool("debugfs", "e2fsprogs", "breaking them for verification", ("-V",)),
    Tool("cp", "coreutils", "copies of them to break"),
    *(Tool(arch.qemu, QEMU_PACKAGES[arch.qemu], f"booting {arch.name}") for arch in ARCHES.values()),
    Tool("qemu-img", "qemu-utils", "disks that cannot be harmed"),
    Tool("ssh", "openssh-client", "a login from outside (--identity)", ("-V",), needed=False),
    Tool("ssh-keygen", "openssh-client", "a login from outside (--identity)", (), needed=False),
)
"""What rofs runs, in the order of a build."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A tool on this host: what it said, or "missing", or what is wrong with it; `good` if it can be used."""

    tool: Tool
    version: str
    good: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """Something else rofs stands on; `fix` is a command for root, "" where there is none or no need of one."""

    topic: str
    subject: str
    found: str
    good: bool = True
    fix: str = ""


_Question = Callable[[], Seen | Finding]


@dataclass(frozen=True, slots=True)
class Examination:
    """All of it."""

    tools: tuple[Seen, ...]
    findings: tuple[Finding, ...]

    @property
    def install(self) -> str:
        """The one command that brings what is missing, "" where nothing is."""
        packages = dict.fromkeys(seen.tool.package for seen in self.tools if seen.version == "missing")
        return f"apt-get install --no-install-recommends {' '.join(packages)}" if packages else ""

    @property
    def ready(self) -> bool:
        """Whether everything needed is here."""
        return all(seen.good or not seen.tool.needed for seen in self.tools) and all(f.good for f in self.findings)


def examine(tools: Sequence[Tool] = TOOLS) -> Examination:
    """Ask everything side by side, but for the one proof that counts seconds: it runs alone."""
    own = [arch for arch in ARCHES.values() if arch.name == host_arch()]
    proofs: list[_Question] = [partial(examine_accel, arch) for arch in own]
    rest: list[_Question] = [partial(ask, tool) for tool in tools]
    rest += [partial(examine_accel, arch) for arch in ARCHES.values() if arch not in own]
    rest += [partial(examine_emulation, arch) for arch in ARCHES.values()]
    rest += [examine_namespace, examine_cache, examine_apt]
    answers = [*(stoppable(*proofs) if proofs else ()), *stoppable(*rest)]
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    findings = [answer for answer in answers if isinstance(answer, Finding)]
    return Examination(
        tools=tuple(answer for answer in answers if isinstance(answer, Seen)),
        findings=tuple(sorted(findings, key=lambda finding: TOPICS.index(finding.topic))),
    )


def ask(tool: Tool, timeout_s: float = ANSWER_S) -> Seen:
    """Whether a tool is here, and its version by its own word."""
    if find_program(tool.program) is None:
        return Seen(tool, "missing", good=False)
    if not tool.asks:
        return Seen(tool, "here", good=True)
    try:
        said = run([tool.program, *tool.asks], timeout_s=timeout_s, ok=range(126))
    except ToolError as error:
        return Seen(tool, error.reason, good=False)
    return Seen(tool, find_version(f"{said.stdout}\n{said.stderr_tail}"), good=True)


def find_version(text: str) -> str:
    """What a program says of itself -> its version, from the first line that has one; "here" where none has.

    Further down there may be the version of a licence.
    """
    for line in text.splitlines():
        for pattern in _VERSIONS:
            if match := pattern.search(line):
                return match[1]
    return "here"


def examine_accel(arch: Arch) -> Finding:
    """The accelerator a guest really runs with: one is run."""
    try:
        with tempfile.TemporaryDirectory(prefix="rofs-doctor-") as nowhere:  # its memory of the verdict goes with it
            accel = find_accel(arch, Path(nowhere))
        if accel.name == "tcg" or "ROFS_ACCEL" in os.environ:
            run_probe(arch, accel.name, timeout_s=PROOF_S)
    except Interrupted:
        raise
    except ToolError as error:
        last = "".join(f"; {line}" for line in error.tail.strip().splitlines()[-1:])
        return Finding("accelerator", arch.name, f"none: {error}{last}", good=False)
    except RofsError as error:
        return Finding("accelerator", arch.name, f"none: {error}", good=False)
    return Finding("accelerator", arch.name, f"{accel.name} ({accel.reason})")


def examine_emulation(arch: Arch, binfmt_misc: Path = BINFMT_MISC) -> Finding:
    """Whether package scripts of the architecture run here."""
    topic, host = "programs", arch.name == host_arch()
    try:
        if emulates(arch):
            return Finding(topic, arch.name, "run: the host's own" if host else "run")
        reason = "do not run"
    except ToolError as error:
        reason = f"cannot be tried: {error}"
    mount = f"mount -t binfmt_misc binfmt_misc {BINFMT_MISC} && "
    fix = f"{'' if (binfmt_misc / 'register').exists() else mount}update-binfmts --enable {arch.qemu_user}"
    return Finding(topic, arch.name, reason, good=False, fix=fix)


def examine_namespace() -> Finding:
    """Whether packages can be installed by the user who asks."""
    if os.geteuid() == 0:
        return Finding("packages", "as root", "can be installed")
    try:
        require_user_namespace()
    except RofsError as error:
        return Finding("packages", "without root", str(error), good=False)
    except KeyError:
        return Finding("packages", "without root", f"the user {os.geteuid()} has no name on this host", good=False)
    return Finding("packages", "without root", "can be installed, in a user namespace")


def examine_cache() -> Finding:
    """The cache: how large it is, and whether it can be written, also where it has to be made first."""
    cache = default_cache_dir().absolute()
    there = next(path for path in (cache, *cache.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Finding("cache", str(cache), f"cannot be written: {there}", good=False)
    return Finding("cache", str(cache), f"{disk_use(cache) >> 20} MiB" if cache == there else "not there yet")


def disk_use(directory: Path) -> int:
    """Bytes that everything below takes on the disk; what goes away meanwhile does not count."""
    total = 0
    for at, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(f"{at}/{name}").st_blocks * 512
            except OSError:
                continue
    return total


def examine_apt(etc_apt: Path = Path("/etc/apt")) -> Finding:
    """The suites that the host's own apt sources have; never where from."""
    suites = host_suites(etc_apt)
    found = f"the host's own for {', '.join(suites)}" if suites else "none of the host's own: Debian's are taken"
    return Finding("apt sources", "", found)


def host_suites(etc_apt: Path) -> list[str]:
    """Every word of apt's files that `find_host_sources` takes for a suite."""
    words: set[str] = set()
    for path in (etc_apt / "sources.list", *etc_apt.glob("sources.list.d/*")):
        try:
            words.update(path.read_text(encoding="utf-8", errors="replace").split())
        except OSError:
            continue  # find_host_sources passes over it too
    return sorted(word for word in words if _SUITE.fullmatch(word) and find_host_sources(word, etc_apt))


TOPICS = ("accelerator", "programs", "packages", "cache", "apt sources")


def render_text(examination: Examination) -> str:
    """Tables for people, what is wrong marked with !, the commands last."""
    rows = [("  tool", "version", "package", "for")]
    rows += [
        (_mark(s.good, s.tool.needed) + s.tool.program, s.version, s.tool.package, s.tool.purpose)
        for s in examination.tools
    ]
    facts = [(_mark(f.good) + f.topic, f.subject, f.found) for f in examination.findings]
    lines = [f"rofs {__version__}", *_columns(rows), "", *_columns(facts), ""]
    if examination.install:
        lines.append(f"to install what is missing, as root: {examination.install}")
    lines += [f"for {f.subject} {f.topic}, as root: {f.fix}" for f in examination.findings if f.fix]
    lines.append(
        "everything needed is here" if examination.ready else "something needed is not here: see the lines with !"
    )
    return "\n".join(lines) + "\n"


def _mark(good: bool, needed: bool = True) -> str:
    """! before what is needed and not good, - before what rofs can do without."""
    return "  " if good else "! " if needed else "- "


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def render_json(examination: Examination) -> str:
    """The same for programs."""
    data = {
        "ready": examination.ready,
        "install": examination.install,
        "tools": [{**asdict(s.tool), "version": s.version, "good": s.good} for s in examination.tools],
        "findings": [asdict(finding) for finding in examination.findings],
    }
    return json.dumps(data, indent=1, sort_keys=True) + "\n"
