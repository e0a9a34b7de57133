# SPDX-License-Identifier: MIT
"""Profile -> Inputs: the bytes of every file it names, read once.

Nothing after this module reads beside a profile.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from rofs.errors import KeyPath, Problem, ProfileError
from rofs.ownership import Ownership, parse_ownership
from rofs.profile import DebianSource, DirectorySource, PerArch, Profile, TarSource
from rofs.publickeys import parse_public_keys
from rofs.values import BadValue, show

MAX_FILE_BYTES = 64 << 20
"""Files are held in memory; what is larger belongs into a package."""

_KEYS = PurePosixPath(".ssh/authorized_keys")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DotFile:
    """One node of a dot-files directory, by its path below the home."""

    path: PurePosixPath
    kind: Literal["file", "dir", "symlink"]
    content: bytes = b""
    target: str = ""
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardFiles:
    """A board's own kernel: its image, its modules (a directory or tar) and its configuration."""

    image: Path
    modules: Path | None
    config: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the files beside the profile hold, by the index of the entry in the profile that names them.

    An entry without files has no item: `files[i]` with `content` or `link`, `users[i]` without keys.
    `digests` is the sha256 of each file that was read, by its name in the profile; of a directory of
    dot-files one of all that a home gets of it. Trees and kernels are not among them.
    """

    files: Mapping[int, bytes]
    authorized_keys: Mapping[int, tuple[str, ...]]
    dotfiles: Mapping[int, tuple[DotFile, ...]]
    apt_sources: bytes | None
    trees: Mapping[str, Path] = field(default_factory=dict)
    ownership: Ownership | None = None
    kernels: Mapping[str, BoardFiles] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


def load_inputs(
    profile: Profile, architectures: Sequence[str] = (), on_read: Callable[[Path], None] = lambda _: None
) -> Inputs:
    """Read every file the profile names; ProfileError carries every one that cannot be used.

    `on_read` gets each file or directory before it is read.

    Trees and kernels are those of `architectures`, without any of the profile's. They are not read here,
    only found: what is large is read where it is needed.
    """
    reader = _Reader(profile, on_read)
    chosen = tuple(architectures) or profile.architectures
    files: dict[int, bytes] = {}
    for index, decl in enumerate(profile.files):
        if decl.source is not None:
            content = reader.content(decl.source, (*decl.at, "source"), bytes)
            files[index] = content if content is not None else b""
    keys: dict[int, tuple[str, ...]] = {}
    for index, user in enumerate(profile.users):
        lines: dict[str, None] = {}  # the same key in two files counts once
        for number, name in enumerate(user.authorized_keys):
            found = reader.content(name, (*user.at, "authorized_keys", number), parse_public_keys)
            lines.update(dict.fromkeys(found or ()))
        if user.authorized_keys:
            keys[index] = tuple(lines)
    dotfiles = {
        index: reader.dotfiles(home.dotfiles, (*home.at, "dotfiles")) for index, home in enumerate(profile.home)
    }
    reader.problems += _keys_twice(profile, dotfiles)
    sources = profile.source.sources if isinstance(profile.source, DebianSource) else None
    apt = None if sources is None else reader.content(sources, (*profile.source.at, "sources"), bytes)
    trees, ownership = _tree(profile, reader, chosen)
    kernels = _kernels(profile, reader, chosen)
    if reader.problems:
        raise ProfileError(reader.problems)
    return Inputs(
        files=files, authorized_keys=keys, dotfiles=dotfiles, apt_sources=apt, trees=trees, ownership=ownership,
        kernels=kernels, digests=reader.digests,
    )  # fmt: skip


def _keys_twice(profile: Profile, dotfiles: Mapping[int, tuple[DotFile, ...]]) -> Iterator[Problem]:
    """keys-twice: who may log in is said once, or somebody reads the wrong list."""
    keys = {user.name: user.at for user in profile.users if user.authorized_keys}
    for index, home in enumerate(profile.home):
        if home.user in keys and any(file.path == _KEYS for file in dotfiles[index]):
            at, line = (*home.at, "dotfiles"), profile.marks.find(keys[home.user]).line
            message = f"{home.dotfiles} holds {_KEYS}, and {home.user} has authorized_keys in line {line}"
            yield Problem(profile.marks.find(at), message, "keys-twice", at, "take one of the two away")


def _tree(
    profile: Profile, reader: _Reader, architectures: Sequence[str]
) -> tuple[Mapping[str, Path], Ownership | None]:
    """The tar or directory of each architecture, and whose what in it is."""
    source = profile.source
    if isinstance(source, DebianSource):
        return {}, None
    kind = "a file" if isinstance(source, TarSource) else "a directory"
    trees = reader.find(source.path, (*source.at, "path"), architectures, (kind,))
    if not isinstance(source, DirectorySource) or source.ownership is None:
        return trees, None
    name = source.ownership
    try:
        ownership = reader.take(
            name, (*source.at, "ownership"), lambda path: parse_ownership(reader.read(name, path), str(path))
        )
    except ProfileError as error:
        reader.problems += error.problems
        ownership = None
    return trees, ownership


def _kernels(profile: Profile, reader: _Reader, architectures: Sequence[str]) -> dict[str, BoardFiles]:
    """A board's own kernel, for the architectures that have one."""
    kernel = profile.kernel
    own = [name for name in architectures if name in kernel.image]
    found = {
        key: reader.find(paths, (*kernel.at, key), [name for name in own if name in paths], kinds)
        for key, paths, kinds in (
            ("image", kernel.image, ("a file",)),
            ("modules", kernel.modules, ("a directory", "a file")),
            ("config", kernel.config, ("a file",)),
        )
    }
    return {
        name: BoardFiles(image=image, modules=found["modules"].get(name), config=found["config"].get(name))
        for name, image in found["image"].items()
    }


class _Reader:
    """Reads below the profile's directory and collects what went wrong."""

    def __init__(self, profile: Profile, on_read: Callable[[Path], None]) -> None:
        self.problems: list[Problem] = []
        self._on_read = on_read
        self.digests: dict[str, str] = {}
        self._marks = profile.marks
        self._base = profile.file.parent

    def take(self, name: str, at: KeyPath, read: Callable[[Path], _T]) -> _T | None:
        """What `read` makes of the file `name`, or None and a problem at `at`."""
        try:
            return read(self._resolve(name))
        except BadValue as error:
            message, rule, hint = f"{show(name)} {error.message}", error.rule, error.hint
        except FileNotFoundError:
            message, rule, hint = f"{show(name)} does not exist", "missing-file", "looked beside the profile"
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
            reason = getattr(error, "strerror", None) or str(error)
            message, rule = f"{show(name)} cannot be read: {reason}", "unreadable-file"
            hint = str(getattr(error, "filename", None) or "")
        self.problems.append(Problem(self._marks.find(at), message, rule, at, hint))
        return None

    def content(self, name: str, at: KeyPath, parse: Callable[[bytes], _T]) -> _T | None:
        """What `parse` makes of the bytes of the file `name`, or None and a problem at `at`."""
        return self.take(name, at, lambda path: parse(self.read(name, path)))

    def read(self, name: str, path: Path) -> bytes:
        """The bytes of the file called `name`, whose hash is kept."""
        content = _read_file(path)
        self.digests[name] = hashlib.sha256(content).hexdigest()
        return content

    def dotfiles(self, name: str, at: KeyPath) -> tuple[DotFile, ...]:
        """What a directory of dot-files holds; nothing, and a problem, where it cannot be used."""
        found = self.take(name, at, _read_dotfiles) or ()
        about = [(str(f.path), f.kind, f.content, f.target, f.executable) for f in found]
        self.digests[name] = hashlib.sha256(repr(about).encode()).hexdigest()
        return found

    def find(self, paths: PerArch, at: KeyPath, architectures: Sequence[str], kinds: Sequence[str]) -> dict[str, Path]:
        """The file or directory of each architecture; one of the wrong kind, or none, is a problem."""
        found: dict[str, Path] = {}
        for arch in architectures:
            if arch not in paths:
                message, hint = f"nothing is named for {arch}", f"add {arch}, or leave it out of `architectures`"
                self.problems.append(Problem(self._marks.find(at), message, "no-architecture", at, hint))
                continue
            here = (*at, arch) if (*at, arch) in self._marks.values else at
            path = self.take(paths[arch], here, lambda path: _of_kind(path, kinds))
            if path is not None:
                found[arch] = path
        self.problems[:] = dict.fromkeys(self.problems)  # one name may stand for every architecture
        return found

    def _resolve(self, name: str) -> Path:
        """The file itself. A link that leaves the directory would make the image depend on this machine."""
        base = self._base.resolve(strict=True)
        self._on_read(base / name)
        path = (base / name).resolve(strict=True)
        if not path.is_relative_to(base):
            raise BadValue(
                "leads out of the profile's directory", "copy it there, or put the profile above it", "bad-path"
            )
        return path


def _of_kind(path: Path, kinds: Sequence[str]) -> Path:
    kind = "a directory" if path.is_dir() else "a file" if path.is_file() else "something else"
    if kind not in kinds:
        raise BadValue(f"is {kind}, not {' or '.join(kinds)}", "", "wrong-file-kind")
    return path


def _read_file(path: Path) -> bytes:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise BadValue("is a directory" if stat.S_ISDIR(mode) else "is not a regular file", "", "wrong-file-kind")
    with path.open("rb") as stream:
        content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise BadValue(f"is larger than {MAX_FILE_BYTES >> 20} MiB", "put it into a package", "too-large")
    return content


def _read_dotfiles(path: Path) -> tuple[DotFile, ...]:
    if not path.is_dir():
        raise BadValue("is not a directory", "name the directory that holds the dot-files", "wrong-file-kind")
    return tuple(_walk(path, PurePosixPath()))


def _walk(directory: Path, at: PurePosixPath) -> list[DotFile]:
    """Everything below `directory`, in the order of the names' bytes, each directory before what is in it."""
    found: list[DotFile] = []
    for entry in sorted(os.scandir(directory), key=lambda entry: os.fsencode(entry.name)):
        path = at / entry.name
        if not entry.name.isprintable():  # neither control characters nor bytes that are not UTF-8
            raise BadValue(f"holds a name that is not printable UTF-8: {show(str(path))}", "", "bad-path")
        if entry.is_symlink():
            link = os.readlink(entry.path)  # noqa: PTH115 -- a Path would not keep it letter by letter
            found.append(DotFile(path=path, kind="symlink", target=_inner_target(path, link)))
        elif entry.is_dir():
            found.append(DotFile(path=path, kind="dir"))
            found += _walk(Path(entry.path), path)
        elif entry.is_file():
            executable = bool(entry.stat().st_mode & stat.S_IXUSR)
            content = _read_file(Path(entry.path))
            found.append(DotFile(path=path, kind="file", content=content, executable=executable))
        else:
            hint = "regular files, directories and symbolic links alone"
            raise BadValue(f"holds {show(str(path))}, which is none of what a home is made of", hint, "wrong-file-kind")
    return found


def _inner_target(link: PurePosixPath, target: str) -> str:
    """A link's target, if it stays in the directory: in the image the rest is somewhere else."""
    depth = len(link.parts) - 1
    for part in target.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0 or target.startswith("/"):
            message = f"holds the link {show(str(link))} that leads out of it, to {show(target)}"
            raise BadValue(message, "use `files:` with `link:` for that", "bad-path")
    if not target.isprintable():
        raise BadValue(f"holds the link {show(str(link))} to a name that is not printable UTF-8", "", "bad-path")
    return target
