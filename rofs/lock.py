# SPDX-License-Identifier: MIT
"""Lock <-> `<profile>.lock`: every input of a profile's images by hash, one line each, and what differs between two.

Nothing in it says where an input came from: no mirror, no proxy, no path of the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rofs.document import Document, load
from rofs.errors import Problem, ProfileError
from rofs.packages import Package, sort_packages
from rofs.schema import check_shape
from rofs.values import show

SCHEMA = "rofs/lock/v1"
SCHEMA_FILE = Path(__file__).with_name("lock.schema.json")
MAX_BYTES = 16 << 20
_HEAD = "# Written by `rofs lock`: every input of the images by its hash. Keep it with the profile.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchLock:
    """One architecture: the packages of the tree (none of a tar or directory), the kernel's and busybox's.

    `kernel` is None where a board brings its own; `initrd` only where it is not known. `asked` is what the
    profile said when this was the answer, as sorted words for people.
    """

    asked: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()
    kernel: Package | None = None
    initrd: Package | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Every input. `sources` and `files` are path beside the profile -> sha256; `tools` is name -> version.

    `epoch` is the newest time in an image, in seconds.
    """

    profile: str
    epoch: int
    architectures: Mapping[str, ArchLock]
    sources: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)


def lock_path(profile: Path) -> Path:
    """gateway.yaml -> gateway.lock, beside it."""
    return profile.with_suffix(".lock")


# --- text -----------------------------------------------------------------------------------------


def render_lock(lock: Lock) -> str:
    """The file's text: sorted, one line for each input."""
    architectures = {name: _arch_data(arch) for name, arch in sorted(lock.architectures.items())}
    data: dict[str, Any] = {"schema": SCHEMA, "profile": lock.profile, "epoch": lock.epoch}
    data["architectures"] = architectures
    for name in ("sources", "files", "tools"):
        if table := getattr(lock, name):
            data[name] = dict(sorted(table.items()))
    return _HEAD + _dump(data)


def _arch_data(arch: ArchLock) -> dict[str, Any]:
    found: dict[str, Any] = {"asked": list(arch.asked)} if arch.asked else {}
    for key, package in (("kernel", arch.kernel), ("initrd", arch.initrd)):
        if package:
            found[key] = _Line(asdict(package))
    if arch.packages:
        found["packages"] = [_Line(asdict(package)) for package in sort_packages(arch.packages)]
    return found


class _Line(dict[str, Any]):
    """A mapping that is written in one line."""


def _dump(data: dict[str, Any]) -> str:
    """YAML; the library quotes what would otherwise be read as something other than a string."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    def line(dumper: yaml.SafeDumper, value: _Line) -> yaml.Node:
        return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=True)

    Dumper.add_representer(_Line, line)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=False, width=1 << 20, default_flow_style=False)


# --- reading --------------------------------------------------------------------------------------


def load_lock(path: Path) -> Lock:
    """Read a lock; ProfileError carries everything that is wrong in it, with its place."""
    document = load(path, "lock", MAX_BYTES)
    problems = [*document.problems, *check_shape(document, SCHEMA_FILE)]
    if not problems:
        problems = list(_twice(document))
    if problems:
        raise ProfileError(problems)
    data = document.data
    return Lock(
        profile=data["profile"],
        epoch=data["epoch"],
        architectures={name: _arch(arch) for name, arch in data["architectures"].items()},
        **{name: data.get(name, {}) for name in ("sources", "files", "tools")},
    )


def _arch(data: dict[str, Any]) -> ArchLock:
    single = {key: Package(**data[key]) for key in ("kernel", "initrd") if key in data}
    packages = sort_packages(Package(**item) for item in data.get("packages", ()))
    return ArchLock(asked=tuple(sorted(data.get("asked", ()))), packages=packages, **single)


def _twice(document: Document) -> Iterator[Problem]:
    """A tree has one version of a package: a merge of two locks may leave both."""
    for arch, data in document.data["architectures"].items():
        seen: dict[str, int] = {}
        for index, item in enumerate(data.get("packages", ())):
            at = ("architectures", arch, "packages", index)
            mark = document.marks.find(at)
            if item["name"] in seen:
                hint = f"the first is in line {seen[item['name']]}"
                yield Problem(mark, f"the package {show(item['name'])} is there twice", "duplicate-value", at, hint)
            seen.setdefault(item["name"], mark.line)


# --- what differs ---------------------------------------------------------------------------------


def differences(old: Lock, new: Lock) -> list[str]:
    """What has changed, a line each, in plain words; nothing where the two are equal."""
    lines = [f"{name} {was} -> {now}" for name, was, now in _heads(old, new) if was != now]
    for name in sorted({*old.architectures, *new.architectures}):
        was, now = old.architectures.get(name), new.architectures.get(name)
        if was is None or now is None:
            lines.append(f"{name}: {'new' if was is None else 'gone'}")
        else:
            lines += [f"{name}: {line}" for line in _arch_differences(was, now)]
    for table in ("sources", "files"):
        lines += _hash_differences(getattr(old, table), getattr(new, table))
    return lines + _tool_differences(old.tools, new.tools)


def _heads(old: Lock, new: Lock) -> Iterator[tuple[str, object, object]]:
    yield "profile", old.profile, new.profile
    yield "epoch", old.epoch, new.epoch


def _arch_differences(old: ArchLock, new: ArchLock) -> Iterator[str]:
    yield from asked_differences(old.asked, new.asked)
    for role, was, now in (("kernel", old.kernel, new.kernel), ("initrd", old.initrd, new.initrd)):
        if was is None or now is None or was.name != now.name:
            if was != now:
                yield f"{role}: {_named(was)} -> {_named(now)}"
        else:
            yield from _package_differences(was, now)
    before, after = ({package.name: package for package in arch.packages} for arch in (old, new))
    for name in sorted({*before, *after}):
        if name not in before:
            yield f"new: {_named(after[name])}"
        elif name not in after:
            yield f"gone: {_named(before[name])}"
        else:
            yield from _package_differences(before[name], after[name])


def asked_differences(old: Iterable[str], new: Iterable[str]) -> Iterator[str]:
    """Of what a profile asks for."""
    was, now = set(old), set(new)
    yield from (f"asked for now: {words}" for words in sorted(now - was))
    yield from (f"no longer asked for: {words}" for words in sorted(was - now))


def _package_differences(old: Package, new: Package) -> Iterator[str]:
    """Of two packages of one name."""
    if old.version != new.version:
        yield f"{old.name} {old.version} -> {new.version}"
    elif old.architecture != new.architecture:
        yield f"{old.name} {old.version}: {old.architecture} -> {new.architecture}"
    elif old != new:
        yield f"{old.name} {old.version}: other bytes under the same version"


def _named(package: Package | None) -> str:
    return f"{package.name} {package.version}" if package else "none"


def _hash_differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for path in sorted({*old, *new}):
        if path not in old:
            yield f"new: {path}"
        elif path not in new:
            yield f"gone: {path}"
        elif old[path] != new[path]:
            yield f"{path} changed"


def _tool_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    names = sorted({*old, *new})
    return [f"{n} {old.get(n, 'none')} -> {new.get(n, 'none')}" for n in names if old.get(n) != new.get(n)]
