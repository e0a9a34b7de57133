# SPDX-License-Identifier: MIT
"""Document -> Profile: the user's declaration, checked and typed. Nothing after this sees a raw dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from rofs import values
from rofs.document import Marks, load
from rofs.errors import KeyPath, ProfileError
from rofs.machine.arch import ARCHES
from rofs.schema import check_schema

Architecture = Literal["amd64", "arm64", "i386", "armhf"]
PerArch = Mapping[str, str]
"""Architecture -> value. One value in the profile stands for every architecture; what is not there is not said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianSource:
    """`source.debian`: packages of one suite. `sources` is an apt sources file beside the profile."""

    suite: str
    packages: tuple[str, ...]
    variant: Literal["extract", "essential", "minbase", "important", "standard"]
    docs: bool
    locales: tuple[str, ...]
    sources: str | None
    at: KeyPath = ("source", "debian")


@dataclass(frozen=True, slots=True, kw_only=True)
class TarSource:
    """`source.tar`: a root file system as an archive beside the profile, and what its sha256 must be."""

    path: PerArch
    sha256: PerArch
    at: KeyPath = ("source", "tar")


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorySource:
    """`source.directory`: a root file system as a directory beside the profile; `ownership` is a device table."""

    path: PerArch
    ownership: str | None
    at: KeyPath = ("source", "directory")


Source = DebianSource | TarSource | DirectorySource


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """`kernel`: Debian's `package` (without the architecture's suffix), or a board's own `image`.

    `modules` (a directory or tar) and `config` go with `image`; all are beside the profile. Where an
    architecture has neither package nor image it gets Debian's usual kernel of `suite`. `console` is
    the value of `console=`; `install_modules` says whether the modules go into the image.
    """

    package: PerArch
    suite: str
    image: PerArch
    modules: PerArch
    config: PerArch
    cmdline: PerArch
    console: PerArch
    install_modules: bool
    at: KeyPath = ("kernel",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Initrd:
    """`initrd`: modules by name beside those rofs puts there; firmware by its name below /lib/firmware."""

    modules: tuple[str, ...]
    firmware: tuple[str, ...]
    at: KeyPath = ("initrd",)


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

    @property
    def home_path(self) -> PurePosixPath:
        """Where the user lives."""
        return self.home or PurePosixPath("/home", self.name)

    @property
    def primary_gid(self) -> int:
        """The number of the primary group."""
        return self.uid if self.gid is None else self.gid


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
class Persistent:
    """A file system of its own that outlives a boot: `state`, or a mount of `type: partition`.

    `name` is "state" or the path it is mounted on; `device` is LABEL=… or UUID=…, `size_bytes` that of the
    image which is published to start from, `volatile_bytes` the cap of the tmpfs that stands in where
    `on_failure` is volatile.
    """

    name: str
    device: str
    fstype: Literal["ext4"]
    size_bytes: int
    volatile_bytes: int
    on_failure: Literal["volatile", "refuse"]
    at: KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDecl:
    """`mounts[i]`: sizes in bytes, `options` as in mount(8), None where the profile is silent.

    type tmpfs: size, inodes, mode, owner, group.
    type overlay: upper "tmpfs" (size, inodes) or "state".
    type bind: source "tmpfs" (size, inodes, mode, owner, group, seed), "state" (mode, owner, group,
    seed) or an absolute path (access).
    type partition: store, mode, owner, group, seed.
    `required` False means the boot goes on without it (`nofail`).
    """

    path: PurePosixPath
    type: Literal["tmpfs", "overlay", "bind", "partition"]
    upper: Literal["tmpfs", "state"] | None
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
    store: Persistent | None
    at: KeyPath

    @property
    def on_tmpfs(self) -> bool:
        """Whether what is written there goes to a tmpfs of this mount's own."""
        return self.type == "tmpfs" or "tmpfs" in (self.upper, self.source)

    @property
    def on_state(self) -> bool:
        """Whether what is written there goes to the state partition."""
        return "state" in (self.upper, self.source)

    @property
    def shows_path(self) -> bool:
        """Whether it is a bind that shows another path of the running system."""
        return self.source is not None and not self.on_tmpfs and not self.on_state


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
    """`verify`: units that must be active, shell commands that must exit 0, the guest's memory.

    `listen` are the ports that others can reach, such as tcp/22; None where the profile does not say.
    `tolerate_write_errors` are units that may be refused a write.
    """

    units: tuple[str, ...]
    commands: tuple[str, ...]
    memory_bytes: int
    listen: tuple[str, ...] | None = None
    tolerate_write_errors: tuple[str, ...] = ()
    at: KeyPath = ("verify",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A whole profile. `file` is absolute; `marks` gives the place of any key path.

    `init` is the tree's PID 1: systemd, or any other that runs scripts. `root` is how the board finds the
    squashfs: /dev/…, PARTUUID=… or PARTLABEL=…
    """

    file: Path
    marks: Marks = field(compare=False, repr=False)
    name: str
    description: str
    architectures: tuple[Architecture, ...]
    hostname: str
    machine_id: Literal["state", "transient"]
    state: Persistent | None
    init: Literal["systemd", "other"]
    source: Source
    kernel: Kernel
    initrd: Initrd
    root: str | None
    users: tuple[User, ...]
    home: tuple[DotFiles, ...]
    files: tuple[FileDecl, ...]
    units: Units
    immutable: tuple[Immutable, ...]
    mounts: tuple[MountDecl, ...]
    image: ImageOptions
    verify: Verify


def load_profile(path: Path) -> Profile:
    """Read, check and type the profile at `path`; ProfileError carries every problem found.

    The files a profile names are read later, by inputs.py.
    """
    document = load(path)
    problems = [*document.problems, *check_schema(document)]
    if problems:
        raise ProfileError(problems)
    return _profile(document.data, path, document.marks)


# From here on the data has passed the schema: what is there has its type and form. The defaults are
# those the schema documents; a test compares the two.


def _profile(data: dict[str, Any], path: Path, marks: Marks) -> Profile:
    return Profile(
        file=path.absolute(),
        marks=marks,
        name=data["name"],
        description=data.get("description", ""),
        architectures=tuple(data.get("architectures", ("amd64", "arm64"))),
        hostname=data.get("hostname", data["name"]),
        machine_id=data.get("machine_id", "state" if "state" in data else "transient"),
        state=_persistent("state", data["state"], ("state",)) if "state" in data else None,
        init=data.get("init", "systemd"),
        source=_source(data["source"]),
        kernel=_kernel(data.get("kernel", {}), data["source"].get("debian", {}).get("suite", "bookworm")),
        initrd=_initrd(data.get("initrd", {})),
        root=data["root"]["device"] if "root" in data else None,
        users=tuple(_user(entry, ("users", i)) for i, entry in enumerate(data.get("users", ()))),
        home=tuple(
            DotFiles(user=entry["user"], dotfiles=entry["dotfiles"], at=("home", i))
            for i, entry in enumerate(data.get("home", ()))
        ),
        files=tuple(_file(entry, ("files", i)) for i, entry in enumerate(data.get("files", ()))),
        units=_units(data.get("units", {})),
        immutable=tuple(
            Immutable(path=PurePosixPath(text), at=("immutable", i)) for i, text in enumerate(data.get("immutable", ()))
        ),
        mounts=tuple(_mount(entry, ("mounts", i)) for i, entry in enumerate(data.get("mounts", ()))),
        image=_image(data.get("image", {})),
        verify=_verify(data.get("verify", {})),
    )


def _per_arch(data: dict[str, Any], key: str) -> PerArch:
    value = data.get(key, {})
    return dict(value) if isinstance(value, dict) else dict.fromkeys(ARCHES, value)


def _source(data: dict[str, Any]) -> Source:
    if "tar" in data:
        return TarSource(path=_per_arch(data["tar"], "path"), sha256=_per_arch(data["tar"], "sha256"))
    if "directory" in data:
        directory = data["directory"]
        return DirectorySource(path=_per_arch(directory, "path"), ownership=directory.get("ownership"))
    return _debian(data["debian"])


def _debian(data: dict[str, Any]) -> DebianSource:
    return DebianSource(
        suite=data.get("suite", "bookworm"),
        packages=tuple(data.get("packages", ())),
        variant=data.get("variant", "essential"),
        docs=data.get("docs", False),
        locales=tuple(data.get("locales", ())),
        sources=data.get("sources"),
    )


def _kernel(data: dict[str, Any], suite: str) -> Kernel:
    return Kernel(
        package=_per_arch(data, "package"),
        suite=data.get("suite", suite),
        image=_per_arch(data, "image"),
        modules=_per_arch(data, "modules"),
        config=_per_arch(data, "config"),
        cmdline=_per_arch(data, "cmdline"),
        console=_per_arch(data, "console"),
        install_modules=data.get("install_modules", True),
    )


def _initrd(data: dict[str, Any]) -> Initrd:
    return Initrd(modules=tuple(data.get("modules", ())), firmware=tuple(data.get("firmware", ())))


def _user(data: dict[str, Any], at: KeyPath) -> User:
    return User(
        name=data["name"],
        uid=data["uid"],
        gid=data.get("gid"),
        groups=tuple(data.get("groups", ())),
        shell=data.get("shell", "/bin/bash"),
        home=PurePosixPath(data["home"]) if "home" in data else None,
        comment=data.get("comment", ""),
        authorized_keys=tuple(data.get("authorized_keys", ())),
        at=at,
    )


def _file(data: dict[str, Any], at: KeyPath) -> FileDecl:
    return FileDecl(
        path=PurePosixPath(data["path"]),
        source=data.get("source"),
        content=data.get("content"),
        link=data.get("link"),
        mode=_mode(data),
        owner=data.get("owner"),
        group=data.get("group"),
        at=at,
    )


def _units(data: dict[str, Any]) -> Units:
    return Units(enable=tuple(data.get("enable", ())), mask=tuple(data.get("mask", ())))


def _persistent(name: str, data: dict[str, Any], at: KeyPath) -> Persistent:
    size = values.disk_size(data.get("size", "64M"))
    return Persistent(
        name=name,
        device=data.get("device", "LABEL=state"),
        fstype=data.get("fstype", "ext4"),
        size_bytes=size,
        volatile_bytes=values.size(data["volatile_size"]) if "volatile_size" in data else min(size, 64 << 20),
        on_failure=data["on_failure"],
        at=at,
    )


def _mount(data: dict[str, Any], at: KeyPath) -> MountDecl:
    source = data.get("source")
    from_path = source not in (None, "tmpfs", "state")
    partition = data["type"] == "partition"
    return MountDecl(
        path=PurePosixPath(data["path"]),
        type=data["type"],
        upper=data.get("upper"),
        source=source,
        access=data.get("access", "ro") if from_path else "rw",
        size_bytes=values.size(data["size"]) if "size" in data and not partition else None,
        inodes=values.count(data["inodes"]) if "inodes" in data else None,
        mode=_mode(data),
        owner=data.get("owner"),
        group=data.get("group"),
        seed=data.get("seed", "empty" if data["type"] == "tmpfs" else "image"),
        options=tuple(data.get("options", ())),
        required=data.get("required", True),
        store=_persistent(data["path"], data, at) if partition else None,
        at=at,
    )


def _mode(data: dict[str, Any]) -> int | None:
    return values.mode(data["mode"]) if "mode" in data else None


def _image(data: dict[str, Any]) -> ImageOptions:
    compression = data.get("compression", "zstd")
    return ImageOptions(
        format=data.get("format", "squashfs"),
        compression=compression,
        # Level 15 packs 12 % smaller than 3 for nine seconds more; beyond it little is gained.
        level=data.get("level", 15 if compression == "zstd" else None),
        block_size=values.block_size(data.get("block_size", "128K")),
        acl=data.get("acl", "error"),
    )


def _verify(data: dict[str, Any]) -> Verify:
    return Verify(
        units=tuple(data.get("units", ())),
        commands=tuple(data.get("commands", ())),
        memory_bytes=values.memory(data.get("memory", "512M")),
        listen=tuple(data["listen"]) if "listen" in data else None,
        tolerate_write_errors=tuple(data.get("tolerate_write_errors", ())),
    )
