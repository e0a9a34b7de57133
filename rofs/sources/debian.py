# SPDX-License-Identifier: MIT
"""The packages of `source.debian` -> a tar of the installed tree, by mmdebstrap: as root in its own mount
namespace, otherwise in a user namespace. Both give the same bytes.

mmdebstrap sees a repository of exactly these packages and installs all of them; it needs no network.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rofs.errors import SourceError, ToolError
from rofs.machine.arch import Arch
from rofs.packages import Deb
from rofs.profile import DebianSource
from rofs.run import find_program, run
from rofs.sources.binfmt import ensure_emulation
from rofs.sources.dpkg import parse_packages
from rofs.sources.repository import write_repository

MERGED_USR = Path("/usr/share/mmdebstrap/hooks/merged-usr")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""For mmdebstrap's own helpers: it starts `env python3` once for each package, which must be the system's."""

NEUTRAL_HOST = 'hostname localhost && echo localhost >"$1/etc/hostname" && : >"$1/etc/resolv.conf"'
"""mmdebstrap copies the host's own for the packages' scripts, which may write down what they find. A hook
is run by sh, with the tree's directory as its first argument."""

NO_PRELOAD = {"LD_PRELOAD": ""}
"""The tree has no library of the host's, and mapped users cannot share a clock with faketime(1)."""

BEFORE_MERGED_USR = frozenset({"wheezy", "jessie", "stretch", "buster", "bullseye"})

BASE = Path("/var/tmp")  # noqa: S108 -- in it a directory of ours alone, whose owner is checked

OF_ONE_MACHINE: tuple[str, ...] = (
    "/etc/ssh/ssh_host_*_key",
    "/etc/ssh/ssh_host_*_key.pub",
    "/etc/dropbear/dropbear_*_host_key",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/dbus/machine-id",
    "/var/lib/urandom/random-seed",
    "/var/lib/random-seed",
    "/var/lib/seedrng",
)
"""Never of an image, wherever the tree comes from: globs as `rofs.image.union.drop_matcher` reads them."""

DROP: tuple[str, ...] = (
    *OF_ONE_MACHINE,
    # names the build host or its mirror
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/*",
    "/etc/apt/mirrors/*",
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d/*",
    "/etc/apt/apt.conf.d/??mmdebstrap",  # the host's proxy may be in it
    "/etc/hostname",  # mmdebstrap copies the host's, for the package scripts
    "/etc/resolv.conf",  # the same
    "/var/lib/apt/lists/*",
    "/var/lib/apt/mirrors/*",
    "/var/cache/apt/*",
    "/var/lib/dhcp/*.leases",
    # differs from build to build, or is only the way here
    "/etc/.pwd.lock",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/etc/subuid-",
    "/etc/subgid-",
    "/var/cache/debconf/*-old",
    "/var/cache/ldconfig/aux-cache",  # inode numbers and times
    "/var/cache/man/*",
    "/var/backups/*",
    "/var/lib/dpkg/*-old",
    "/var/lib/dpkg/lock*",
    "/var/lib/dpkg/triggers/Lock",
    "/var/log/**.log",  # dpkg, alternatives, bootstrap: when this was built
    "/var/log/apt/*",
    "/var/log/journal",  # carries ACLs, and the journal is volatile
    # left by package scripts where every running system starts empty
    "/run/*",
    "/tmp/*",  # noqa: S108 -- paths of the image
    "/var/tmp/*",  # noqa: S108
)
"""What a tree of packages must not carry into an image either."""


class UnknownPackage(SourceError):
    """Packages that no source has; `packages` are their names."""

    def __init__(self, packages: Iterable[str]) -> None:
        self.packages = tuple(packages)
        plural = "packages" if len(self.packages) > 1 else "package"
        super().__init__(f"unknown {plural}: {', '.join(self.packages)}")


def mmdebstrap_argv(
    source: DebianSource, arch: Arch, packages: Iterable[str], *, repository: Path, out: Path, root: bool
) -> list[str]:
    """The command that writes the tree of all `packages` to `out`; `repository` holds them and nothing else.

    They are all named, so apt has nothing to choose. To be run where the host's name may be changed.
    """
    argv = [
        "mmdebstrap",
        f"--mode={'root' if root else 'unshare'}",
        f"--variant={'extract' if source.variant == 'extract' else 'essential'}",
        f"--architectures={arch.name}",
        "--format=tar",
        *(f"--dpkgopt={option}" for option in path_options(source.docs, source.locales)),
        f"--setup-hook={NEUTRAL_HOST}",
    ]
    if named := ",".join(packages):
        argv.append(f"--include={named}")
    if merges_usr(source):
        # without it the package usrmerge converts the tree, and brings all of perl: 49 MB of 156
        argv.append(f"--hook-dir={MERGED_USR}")
    return [*argv, source.suite, str(out), f"deb [trusted=yes] copy:{repository} ./"]


def merges_usr(source: DebianSource) -> bool:
    """Whether the tree begins with /bin, /lib and /sbin as links into /usr."""
    return source.suite not in BEFORE_MERGED_USR


def path_options(docs: bool, locales: Sequence[str]) -> list[str]:
    """dpkg(1) path filters, the last match wins: licences and the wanted locales stay."""
    options = []
    if not docs:
        left_out = ("doc", "doc-base", "info", "lintian", "man")
        options += [f"path-exclude=/usr/share/{name}/*" for name in left_out]
        options.append("path-include=/usr/share/doc/*/copyright")
    options.append("path-exclude=/usr/share/locale/*")
    options.append("path-include=/usr/share/locale/locale.alias")
    wanted = {part for locale in locales for part in _locale_names(locale)}
    return [*options, *(f"path-include=/usr/share/locale/{name}/*" for name in sorted(wanted))]


def _locale_names(locale: str) -> set[str]:
    """ "de_AT.UTF-8@euro" -> the directories gettext looks into: de_AT, de."""
    plain = re.split(r"[.@]", locale)[0]
    return {plain, plain.split("_")[0]}


def install_tree(
    source: DebianSource,
    arch: Arch,
    debs: Sequence[Deb],
    out: Path,
    log: Path,
    epoch: int,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Install all packages for `arch` and write the tree to the tar `out`, all times at most `epoch`.

    `debs` are the whole closure, each with its file. Raises SourceError or ToolError.
    """
    root = os.geteuid() == 0
    if not root:
        require_user_namespace()
    ensure_emulation(arch)
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        if on_line is not None and line.startswith("I: "):
            on_line(line.removeprefix("I: ").rstrip("."))

    with scratch(root=root, log=log) as work:
        repository = work / "repository"
        repository.mkdir()
        write_repository(repository, debs, source.suite)
        names = [package.name for package, _ in debs]
        argv = mmdebstrap_argv(source, arch, names, repository=repository, out=out, root=root)
        env = {"SOURCE_DATE_EPOCH": str(epoch), "TMPDIR": str(work), "PATH": SYSTEM_PATH, **NO_PRELOAD}
        try:
            run(_with_own_host_name(argv, root=root), log=log, env=env, on_line=hear)
        except ToolError as error:
            if error.reason == "not found":
                raise
            plain = ToolError(tuple(argv), error.reason, tail=error.tail, log=error.log)
            raise explain_apt(plain, source.suite, "\n".join(said)) from error


def _with_own_host_name(argv: list[str], *, root: bool) -> list[str]:
    """As root mmdebstrap shares the host's UTS namespace, in its own user namespace it has one."""
    program = find_program(argv[0])
    return ["unshare", "--uts", str(program), *argv[1:]] if root and program else argv


def explain_apt(error: ToolError, suite: str, said: str = "") -> SourceError:
    """What apt said -> the error that names the cause: unknown packages, no such suite, no network..."""
    said = said or error.tail
    unknown = re.findall(r"^E: Unable to locate package (\S+)", said, re.MULTILINE)
    unknown += re.findall(r"^E: Package '(\S+)' has no installation candidate", said, re.MULTILINE)
    unknown += re.findall(r"^E: Can't (?:find|select).* package '?(\S+?)'?(?: |$)", said, re.MULTILINE)
    if unknown:
        return UnknownPackage(dict.fromkeys(unknown))
    causes = (
        (r"NO_PUBKEY|BADSIG|EXPKEYSIG|is not signed|not live until", "a signature that cannot be verified"),
        (r"does not have a Release file", f"no suite {suite!r} in the apt sources"),
        (r"Could not connect|Could not resolve|Temporary failure|Unable to connect", "no way to the mirror"),
        (r"Hash Sum mismatch|File has unexpected size", "a mirror in mid-update; try again"),
        (r"No space left on device", "no space left on the disk"),
    )
    cause = next((words for pattern, words in causes if re.search(pattern, said)), str(error))
    lines = [line for line in said.splitlines() if re.match(r"(E|Err|W: GPG)\b", line)] or said.splitlines()
    where = f"\nfull output: {error.log}" if error.log else ""
    return SourceError("\n  ".join([f"apt failed: {cause}", *lines[-8:]]) + where)


def require_user_namespace() -> None:
    """Refuse early, with the command that helps, where mmdebstrap cannot map users."""
    problem = ""
    user = getpass.getuser()
    if find_program("newuidmap") is None:
        problem = "apt-get install uidmap"
    elif not all(_has_range(Path(file), user) for file in ("/etc/subuid", "/etc/subgid")):
        problem = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    elif run(["unshare", "--user", "true"], ok=range(256)).status != 0:
        problem = "sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0"
    if problem:
        raise SourceError(f"packages cannot be installed without root on this host (as root: {problem})")


def _has_range(file: Path, user: str) -> bool:
    try:
        owners = {line.partition(":")[0] for line in file.read_text().splitlines()}
    except OSError:
        return False
    return not owners.isdisjoint({user, str(os.getuid())})


@contextmanager
def scratch(*, root: bool, log: Path | None = None, base: Path | None = None) -> Iterator[Path]:
    """A temporary directory that users mapped from ours can reach; removes those of killed runs first.

    Each is held by a lock, which the kernel drops with its holder. The home or $TMPDIR may be closed to
    mapped users, who would then not reach mmdebstrap's own directory.
    """
    home = (base or BASE) / f"rofs-{os.geteuid()}"
    home.mkdir(mode=0o755, exist_ok=True)
    state = home.lstat()
    if state.st_uid != os.geteuid() or home.is_symlink():
        raise SourceError(f"{home} belongs to somebody else (remove it)")
    home.chmod(0o755)  # whatever the umask
    with ExitStack() as held:
        with _sweeping(home, root=root, log=log):
            work = Path(tempfile.mkdtemp(prefix="work-", dir=home))
            held.enter_context(_locked(work))
        work.chmod(0o755)
        try:
            yield work
        finally:
            remove_tree(work, root=root, log=log)


def sweep_scratch(*, base: Path | None = None) -> None:
    """Remove what killed runs left; a build that finds its tree in the cache would not pass by there."""
    home = (base or BASE) / f"rofs-{os.geteuid()}"
    if home.is_dir() and not home.is_symlink():
        with _sweeping(home, root=os.geteuid() == 0, log=None):
            pass


@contextmanager
def _sweeping(home: Path, *, root: bool, log: Path | None) -> Iterator[None]:
    """Remove what nobody holds. Until the context ends nobody else sweeps: what is made in it can be locked first."""
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for stale in sorted(home.glob("work-*")):
            with _locked(stale) as free:
                if free:
                    remove_tree(stale, root=root, log=log)
        yield
    finally:
        os.close(fd)


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Hold the lock of a directory if it is free; whether it was."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False  # gone meanwhile
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)


def remove_tree(directory: Path, *, root: bool, log: Path | None) -> None:
    """Remove a tree of which mapped users own parts; what cannot go now goes with the next run."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists() and not root:
        mapped = ["unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", str(directory)]
        with suppress(ToolError):
            run(mapped, log=log, ok=range(256))


def parse_status(status: bytes) -> dict[str, str]:
    """dpkg's status file -> {package: version} of what is installed, by name."""
    return {package.name: package.version for package in parse_packages(status)}
