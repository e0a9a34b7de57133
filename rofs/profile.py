# SPDX-License-Identifier: MIT
"""Document -> Profile: the user's declaration, checked and typed. Nothing after this sees a raw dict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from rofs.document import Marks
from rofs.errors import KeyPath

Architecture = Literal["amd64", "arm64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianSource:
    """`source.debian`: packages of one suite. `sources` is an apt sources file beside the profile."""

    suite: str
    packages: tuple[str, ...]
    variant: Literal["essential", "minbase", "important", "standard"]
    docs: bool
    locales: tuple[str, ...]
    sources: str | None
    at: KeyPath = ("source", "debian")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """`kernel`: package without the architecture's suffix, command line, extra initrd modules."""

    package: str
    cmdline: str
    modules: tuple[str, ...]
    at: KeyPath = ("kernel",)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """`users[i]`: `home` None means /home/NAME; `gid` None means a group of the same name and number."""

    name: str
    uid: int
    gid: int | None
    groups: tuple[str, ...]
    shell: str
    home: PurePosixPath | None
    comment: str
    authorized_keys: tuple[str, ...]
    at: KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class DotFiles:
    """`home[i]`: a directory beside the profile, baked into the user's home."""

    user: str
    dotfiles: str
    at: KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDecl:
    """`files[i]`: exactly one of `source` (a file beside the profile), `content`, `link`."""

    path: PurePosixPath
    source: str | None
    content: str | None
    link: str | None
    mode: int | None
    owner: str | None
    group: str | None
    at: KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """`units`: enabled and masked at build time."""

    enable: tuple[str, ...]
    mask: tuple[str, ...]
    at: KeyPath = ("units",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Immutable:
    """`immutable[i]`."""

    path: PurePosixPath
    at: KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDecl:
    """`mounts[i]`: sizes in bytes, `options` as in mount(8), None where the profile is silent.

    type tmpfs: size, inodes, mode, owner, group.
    type overlay: upper ("tmpfs"), size, inodes.
    type bind: source "tmpfs" (size, inodes, mode, owner, group, seed) or an absolute path (access).
    `required` False means the boot goes on without it (`nofail`).
    """

    path: PurePosixPath
    type: Literal["tmpfs", "overlay", "bind"]
    upper: Literal["tmpfs"] | None
    source: str | None
    access: Literal["ro", "rw"]
    size_bytes: int | None
    inodes: int | None
    mode: int | None
    owner: str | None
    group: str | None
    seed: Literal["image", "empty"]
    options: tuple[str, ...]
    required: bool
    at: KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """`image`: how the squashfs is written. `level` None is the compressor's default."""

    format: Literal["squashfs"]
    compression: Literal["zstd", "xz", "lz4", "gzip"]
    level: int | None
    block_size: int
    acl: Literal["error", "drop"]
    at: KeyPath = ("image",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """`verify`: units that must be active, shell commands that must exit 0, the guest's memory."""

    units: tuple[str, ...]
    commands: tuple[str, ...]
    memory_bytes: int
    at: KeyPath = ("verify",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A whole profile. `file` is absolute; `marks` gives the place of any key path."""

    file: Path
    marks: Marks
    name: str
    description: str
    architectures: tuple[Architecture, ...]
    hostname: str
    machine_id: Literal["transient"]
    source: DebianSource
    kernel: Kernel
    users: tuple[User, ...]
    home: tuple[DotFiles, ...]
    files: tuple[FileDecl, ...]
    units: Units
    immutable: tuple[Immutable, ...]
    mounts: tuple[MountDecl, ...]
    image: ImageOptions
    verify: Verify
