# SPDX-License-Identifier: MIT
"""A name, and perhaps a rootfs tar -> the text of a commented profile to start from, and the file with it.

What a tar asks for is read from the tar: its init, its architecture, and what its own directories and fstab
say is written to.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rofs.errors import SourceError
from rofs.generate.render import render
from rofs.layout import SYSTEM_OWNED, is_within
from rofs.machine.arch import ARCHES
from rofs.schema import SCHEMA_FILE
from rofs.sources.archive import unpack_tar
from rofs.treefacts import TreeFacts, read_facts
from rofs.values import BadValue, host_path

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A profile's name that is a host's name too."""
_FALLBACK = "device"
_NO_STRINGS = frozenset({"null", "true", "false", "yes", "no", "on", "off"})
_PLAIN = re.compile(r"[a-z][a-z0-9-]*|/[A-Za-z0-9_./-]*")
_MOUNT_POINT = re.compile(r"(?=.{2,100}$)(/(?!\.\.?(/|$))[A-Za-z0-9_.+@-]+)+")
_SIZE = re.compile(r"[1-9]\d*[kKmMgG]?")
_READ_ONLY = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/opt")
_KEY_MAKERS = (("/etc/ssh", "sshd"), ("/etc/dropbear", "dropbear"))
_MAX_LINKS = 12


@dataclass(frozen=True, slots=True)
class Scratch:
    """A mount the profile starts with; `size` as the profile says it."""

    path: PurePosixPath
    type: str
    size: str
    why: str


def make_name(text: str) -> str:
    """Any text, such as a directory's name -> a name for a profile."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].rstrip("-") or _FALLBACK


def write_starter(out: Path, name: str, tar: Path | None) -> None:
    """Write the profile `name` to `out`, of a Debian or of the tree in `tar`; nothing is ever overwritten.

    Raises SourceError for a tar that cannot be used, OSError where the file cannot be made.
    """
    _refuse_existing(out)
    text = debian_profile(name) if tar is None else _of_tar(out, name, tar)
    _write_new(out, text)


def debian_profile(name: str) -> str:
    """A small Debian with systemd."""
    return render("profile-debian.yaml.j2", schema=_schema(), name=_scalar(name))


def _of_tar(out: Path, name: str, tar: Path) -> str:
    path = _beside(out, tar)
    with tempfile.TemporaryDirectory(prefix="rofs-init-") as directory:
        plain = Path(directory, "tree.tar")
        sha256 = unpack_tar(tar, plain, None)
        facts = read_facts(plain)
    if facts.init == "none":
        raise SourceError(f"{tar} has neither /sbin/init nor systemd (is it a root file system?)")
    arch = facts.machine()
    if arch is None or arch not in ARCHES:
        raise SourceError(
            f"{tar} is for {arch or 'no machine that can be told'}, and rofs builds for {', '.join(ARCHES)}"
        )
    return tar_profile(name, path, sha256, arch, facts)


def _beside(out: Path, tar: Path) -> str:
    """The tar's path as the profile names it; SourceError where it cannot."""
    directory = out.absolute().parent.resolve()
    found = tar.resolve(strict=True)
    if not found.is_relative_to(directory):
        raise SourceError(
            f"{tar} is not below {directory}, where the profile would be, and a profile names only what is"
            " (copy the file there, or put the profile above it: --output)"
        )
    try:
        return host_path(str(found.relative_to(directory)))
    except BadValue as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise SourceError(f"{tar} cannot be named in a profile: {error.message}{hint}") from None


def tar_profile(name: str, path: str, sha256: str, arch: str, facts: TreeFacts) -> str:
    """The tree of a tar, which lies at `path` from the profile."""
    mounts = find_scratch(facts)
    data = next(
        (
            p
            for p in (PurePosixPath("/var/lib", name), PurePosixPath("/data", name))
            if not facts.find_symlink_prefix(p)
        ),
        PurePosixPath("/persistent", name),
    )
    immutable = [
        p
        for p in _READ_ONLY
        if _is_directory(facts, p) and not any(is_within(m.path, PurePosixPath(p)) for m in mounts)
    ]
    return render(
        "profile-tar.yaml.j2",
        schema=_schema(), name=_scalar(name), arch=arch, path=_quoted(path),
        sha256=_quoted(sha256), init=facts.init, uid=_free_uid(facts), immutable=immutable,
        links=find_links(facts, mounts), data=_scalar(str(data)),
        mounts=[{"path": _scalar(str(m.path)), "type": m.type, "size": m.size, "why": m.why} for m in mounts],
    )  # fmt: skip


def find_scratch(facts: TreeFacts) -> tuple[Scratch, ...]:
    """What such a tree writes to: /var, /tmp, the tmpfs of its fstab, where its ssh server makes keys."""
    found: dict[PurePosixPath, Scratch] = {}

    def add(path: PurePosixPath, kind: str, size: str, why: str) -> None:
        node = facts.node(path)
        fits = facts.find_symlink_prefix(path) is None and (node is None or node.kind == "dir")
        if fits and _MOUNT_POINT.fullmatch(str(path)) and not any(is_within(path, owned) for owned in SYSTEM_OWNED):
            found.setdefault(path, Scratch(path, kind, size, why))

    if _is_directory(facts, "/var"):
        add(PurePosixPath("/var"), "overlay", "64M", "The image's /var, with whatever is written to it on top.")
    for path, size in _tmpfs_lines(facts):
        add(facts.find_resolved(path) or path, "tmpfs", size, "Empty at each boot, as in the tar's own fstab.")
    add(PurePosixPath("/tmp"), "tmpfs", "32M", "Empty at each boot.")  # noqa: S108 - in the image
    for directory, server in _KEY_MAKERS if facts.init != "systemd" else ():
        if _is_directory(facts, directory) and facts.lookup(f"/usr/sbin/{server}"):
            why = f"Where {server} makes its host keys: new ones at each boot, unless it is kept (decision 3)."
            add(PurePosixPath(directory), "overlay", "1M", why)
    return tuple(sorted(found.values(), key=lambda mount: mount.path))


def find_links(facts: TreeFacts, mounts: tuple[Scratch, ...]) -> list[str]:
    """Links of the tree's upper levels that lead from elsewhere into a scratch path."""
    found = []
    for path, node in sorted(facts.nodes.items()):
        at = PurePosixPath(path)
        if node.kind == "symlink" and len(at.parts) <= 3 and path != "/etc/resolv.conf" and path.isprintable():
            to = facts.find_resolved(at)
            if any(to and is_within(to, m.path) and not is_within(at, m.path) for m in mounts if m.type == "tmpfs"):
                found.append(path)
    return [*found[:_MAX_LINKS], *(["more"] if len(found) > _MAX_LINKS else [])]


def _tmpfs_lines(facts: TreeFacts) -> Iterator[tuple[PurePosixPath, str]]:
    """Path and size of each tmpfs in the tree's fstab(5)."""
    for line in (facts.text("/etc/fstab") or b"").decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) < 3 or words[0].startswith("#") or words[2] != "tmpfs" or not words[1].startswith("/"):
            continue
        options = words[3].split(",") if len(words) > 3 else []
        size = next((o.partition("=")[2] for o in options if o.startswith("size=")), "")
        yield PurePosixPath(words[1]), size.upper() if _SIZE.fullmatch(size) else "16M"


def _is_directory(facts: TreeFacts, path: str) -> bool:
    """A real one, with no link before it."""
    node = facts.node(path)
    return node is not None and node.kind == "dir" and facts.find_symlink_prefix(path) is None


def _free_uid(facts: TreeFacts) -> int:
    taken = {account.uid for account in facts.users().values()} | set(facts.groups().values())
    return next(uid for uid in range(1000, 60000) if uid not in taken)


def _scalar(text: str) -> str:
    """A string as YAML has it: plain where that is the same string, else quoted."""
    plain = _PLAIN.fullmatch(text) and text not in _NO_STRINGS
    return text if plain else _quoted(text)


def _quoted(text: str) -> str:
    """YAML's double-quoted form; what a reader could not see is written by its number."""
    plain = (f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(plain)}"'


def _schema() -> str:
    """Where the schema is installed; a path with blanks as a URI, since the comment ends at the first."""
    path = SCHEMA_FILE.absolute()
    return path.as_uri() if re.search(r"\s", str(path)) else str(path)


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise FileExistsError(
            errno.EEXIST, "is there already and stays as it is (choose another with --output)", str(out)
        )


def _write_new(out: Path, text: str) -> None:
    """Put the whole file at `out`, or nothing."""
    part = out.absolute().with_name(f".rofs-init-{secrets.token_hex(4)}")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _take_name(part, out)
    except OSError as error:
        _refuse_existing(out)
        raise OSError(error.errno, error.strerror, str(out)) from error
    finally:
        part.unlink(missing_ok=True)


def _take_name(part: Path, out: Path) -> None:
    """A link, unlike a rename, never takes another's place; some file systems have none."""
    try:
        out.hardlink_to(part)
    except OSError:
        _refuse_existing(out)
        part.rename(out)
