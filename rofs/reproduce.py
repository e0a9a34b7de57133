# SPDX-License-Identifier: MIT
"""A profile -> one architecture of it built twice from nothing, in other circumstances.

Each build is a rofs process of its own with an empty cache: it is given the resolution and the packages, which are
inputs, and nothing else. The first runs as this process does; the second through `elsewhere.py`, with as much changed
as this host lets us change.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rofs.errors import ToolError
from rofs.packages import Deb
from rofs.run import TAIL_LINES, find_program, run
from rofs.store import WORK_PREFIX, find_umask, link_or_copy

LAUNCHER = Path(__file__).with_name("elsewhere.py")
USER, UID, SUBIDS = "rofs-check", 54321, "rofs-check:1000000:65536\n"
"""The unprivileged user of a second build by root: made for it, in a mount namespace that only it sees."""
TIME_ZONE, HOST_NAME, DAYS = "Pacific/Kiritimati", "another-host", 400
ZONES = Path("/usr/share/zoneinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a build runs in beside its own directory; None or "" for that of this process.

    `user`: by another one, unprivileged, which takes root. `days`: by a
    clock that is so much ahead. `missing` says what this host keeps us from changing, and why.
    """

    user: bool = False
    umask: int | None = None
    cpus: tuple[int, ...] = ()
    hostname: str = ""
    time_zone: str = ""
    locale: str = ""
    days: int = 0
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For people."""
        about = {
            "user": self.user and USER,
            "umask": self.umask is not None and f"{self.umask:04o}",
            "CPUs": len(self.cpus),
            "host name": self.hostname,
            "time zone": self.time_zone,
            "locale": self.locale,
            "time": self.days and f"{self.days:+d} days",
        }
        return ", ".join(f"{name} {value}" for name, value in about.items() if value)


def other_circumstances() -> Circumstances:
    """As much as can be changed here of what this process runs in."""
    missing = []
    if user_problem := _user_problem():
        missing.append(f"user ({user_problem})")
    if find_program("faketime") is None:
        missing.append("date (apt-get install faketime)")
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    if len(cpus) == 1:
        missing.append("CPU count (there is one)")
    root = os.geteuid() == 0
    if not root:
        missing.append("host name (only root can change it)")
    return Circumstances(
        user=not user_problem,
        umask=0o027 if find_umask() == 0o077 else 0o077,
        cpus=cpus[:1] if len(cpus) > 1 else (),
        hostname=HOST_NAME if root else "",
        time_zone=TIME_ZONE,
        locale=other_locale(),
        days=DAYS if find_program("faketime") else 0,
        missing=tuple(missing),
    )


def other_locale() -> str:
    """One of this host's that is not ours, of another language where there is one."""
    said = run(["locale", "-a"]).stdout.split() if find_program("locale") else []
    now = os.environ.get("LC_ALL") or os.environ.get("LANG") or "C"
    plain = ("C", "POSIX", "C.utf8", "C.UTF-8")
    return next((name for name in said if name not in plain and name != now), "POSIX")


def _user_problem() -> str:
    """What keeps us from building as another user, or ""."""
    if os.geteuid() != 0:
        return "only root can change it"
    if missing := [name for name in ("newuidmap", "setpriv") if find_program(name) is None]:
        return f"no {' and no '.join(missing)}"
    if absent := [name for name in _ACCOUNTS if not Path("/etc", name).is_file()]:
        return f"no /etc/{absent[0]}"
    python = Path(os.path.realpath(sys.executable))
    if not all(path.stat().st_mode & 0o1 for path in (python, *python.parents)):
        return f"no other may run {python}"
    try:
        return f"{UID} is {pwd.getpwuid(UID).pw_name}'s"
    except KeyError:
        return ""


_CAPS = "-all,+dac_read_search"
_BECOME_USER = (
    "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", f"--inh-caps={_CAPS}", f"--ambient-caps={_CAPS}",
    "--",
)  # fmt: skip
"""The user may read everything: the profile, its files and rofs itself may be root's alone. It may do no more."""
_ACCOUNTS = {
    "passwd": f"{USER}:x:{UID}:{UID}::/nonexistent:/bin/sh\n",
    "group": f"{USER}:x:{UID}:\n",
    "subuid": SUBIDS,
    "subgid": SUBIDS,
}


@dataclass(frozen=True, slots=True)
class Given:
    """The inputs of a build: its profile, all its packages, and the cache's entries with apt's answers."""

    profile: Path
    debs: tuple[Deb, ...]
    answers: tuple[Path, ...]


def build_in(
    home: Path,
    given: Given,
    words: Sequence[str],
    circumstances: Circumstances,
    *,
    epoch: int,
    log: Path,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Build with an empty cache, in and below the new directory `home` -> where its images are.

    `words` are more for `rofs build`. ToolError with rofs's own words where it fails.
    """
    for directory in (home, home / "cache", home / "tmp"):
        directory.mkdir()
        directory.chmod(0o755)
    _put_inputs(home / "cache", given)
    profile, env = given.profile.absolute(), {"ROFS_CACHE_DIR": str(home / "cache")}
    here = circumstances == Circumstances()
    if not here:
        (home / "profile").symlink_to(profile.parent)
        profile = home / "profile" / profile.name
        env |= {"TMPDIR": str(home / "tmp"), "HOME": str(home)}
    env |= {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONPATH": str(Path(__file__).parents[1])}
    argv = [sys.executable, "-m", "rofs", "build", str(profile), "--output", str(home / "images"), "--no-verify"]
    argv += ["--progress", "plain", *words]
    start, more = _start(circumstances, home)
    said: deque[str] = deque(maxlen=TAIL_LINES)

    def hear(line: str) -> None:
        said.append(line)
        say(line)

    try:
        run([*start, *argv], env=env | more, cwd=None if here else home, log=log, on_line=hear)
    except ToolError as error:
        tail, kept = "\n".join(said), log.with_suffix("")
        for logs in home.glob("images/*/*.failed"):
            shutil.copytree(logs, kept, dirs_exist_ok=True)
            tail = tail.replace(str(logs), str(kept))
        raise ToolError(tuple(argv), error.reason, tail=tail, log=log) from error
    return home / "images"


def _put_inputs(cache: Path, given: Given) -> None:
    """The packages by their hash, and apt's answers; all else a build makes itself."""
    (cache / "debs").mkdir()
    for sha256, path in {package.sha256: path for package, path in given.debs}.items():
        link_or_copy(path, cache / "debs" / f"{sha256}.deb")
    for entry in {answer.parent for answer in given.answers}:
        new = cache / entry.parent.name / entry.name
        shutil.copytree(entry, new, ignore=shutil.ignore_patterns(WORK_PREFIX + "*"))


def _start(circumstances: Circumstances, home: Path) -> tuple[list[str], dict[str, str]]:
    """What stands before a command that runs in these circumstances, and its environment."""
    root, by_other = os.geteuid() == 0, circumstances.user
    env: dict[str, str] = {}
    binds = _make_user(home) if by_other else []
    if circumstances.time_zone:
        env["TZ"] = circumstances.time_zone
        zone, own = ZONES / circumstances.time_zone, Path("/etc/localtime")
        binds += [(str(zone), str(own))] if zone.is_file() and own.exists() and root else []
    if circumstances.locale:
        env |= {"LC_ALL": circumstances.locale, "LANG": circumstances.locale}
    clock: list[str] = []
    if circumstances.days:
        clock = ["faketime", "--exclude-monotonic", "-f", f"{circumstances.days:+d}d"]
        env["NO_FAKE_STAT"] = "1"  # or the files of packages would seem so much younger too
    about = {"hostname": circumstances.hostname, "cpus": circumstances.cpus, "umask": circumstances.umask}
    spec = {"binds": binds, **{name: value for name, value in about.items() if value not in ("", (), None)}}
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(spec)]
    return [*launcher, *(_BECOME_USER if by_other else []), *clock], env


def _make_user(home: Path) -> list[tuple[str, str]]:
    """Account files with one user more -> what to bind where; and the directories become that user's."""
    etc = home / "etc"
    etc.mkdir()
    for name, line in _ACCOUNTS.items():
        text = Path("/etc", name).read_text("utf-8", "surrogateescape")
        (etc / name).write_text(text.rstrip("\n") + "\n" * bool(text) + line, "utf-8", "surrogateescape")
        (etc / name).chmod(0o644)
    for directory, _, _ in os.walk(home):
        os.chown(directory, UID, UID)
    return [(str(etc / name), f"/etc/{name}") for name in _ACCOUNTS]
