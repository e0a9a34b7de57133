# SPDX-License-Identifier: MIT
"""Names of kernel modules and the kernel's own index -> the module files to load, in order.

The texts are modules.dep(5) and its neighbours as depmod writes them, paths relative to
/lib/modules/RELEASE.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rofs.errors import ImageError
from rofs.kernelfacts import KernelFacts, module_name, parse_config
from rofs.tarindex import list_members


class ModuleFiles:
    """The files below lib/modules/RELEASE of the tar that `sources.kernel.write_modules_tar` wrote."""

    def __init__(self, tar: Path, release: str) -> None:
        self.release, self._tar = release, tar
        self._places: dict[str, tuple[int, int]] = {}
        for _, info in list_members(tar):
            if info.isreg():
                self._places[info.name] = (info.offset_data, info.size)
            elif info.islnk():
                self._places[info.name] = self._places[info.linkname]

    def read(self, name: str) -> bytes | None:
        """The content of one; None if it is not there."""
        place = self._places.get(f"lib/modules/{self.release}/{name}")
        if place is None:
            return None
        with self._tar.open("rb") as file:
            file.seek(place[0])
            return file.read(place[1])

    def index(self, name: str) -> str:
        """modules.NAME; "" where the kernel has none, or has no modules at all."""
        return (self.read(f"modules.{name}") or b"").decode("utf-8", "replace")


def read_kernel(modules: ModuleFiles, config: Path | None) -> KernelFacts:
    """What a kernel's configuration and its tar of modules say of it."""
    text = config.read_text("utf-8", "replace") if config else None
    return KernelFacts(
        release=modules.release,
        config=None if text is None else parse_config(text),
        builtin=frozenset(map(module_name, modules.index("builtin").split())),
        modules=frozenset(map(module_name, parse_modules_dep(modules.index("dep")))),
    )


def parse_modules_dep(text: str) -> dict[str, tuple[str, ...]]:
    """Lines `path: dependency...` -> {path: its dependencies, nearest first}."""
    found = {}
    for line in text.splitlines():
        path, colon, depends = line.partition(":")
        if colon:
            found[path.strip()] = tuple(depends.split())
    return found


def parse_softdep(text: str) -> dict[str, tuple[str, ...]]:
    """Lines `softdep name pre: a b post: c` -> {name: (a, b)}; what is wanted afterwards is no matter of the initrd."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.partition(" post:")[0].split()
        if words[:1] == ["softdep"] and "pre:" in words:
            name = module_name(words[1])
            found[name] = (*found.get(name, ()), *words[words.index("pre:") + 1 :])
    return found


def parse_alias(text: str) -> dict[str, tuple[str, ...]]:
    """Lines `alias other-name module` -> {other_name: modules}, without the patterns that stand for devices."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "alias" and not set("*?[:") & set(words[1]):
            name = words[1].replace("-", "_")
            found[name] = (*found.get(name, ()), words[2])
    return found


def module_closure(
    modules_dep: str,
    names: Iterable[str],
    *,
    builtin: str = "",
    optional: Iterable[str] = (),
    softdep: str = "",
    alias: str = "",
) -> list[str]:
    """The files of `names` and of all they need, each after what it needs.

    What `builtin` (modules.builtin) has is satisfied. `optional` are wanted too, but may be missing, as
    may be what a module would only like to have before it (`softdep`). A name may be an `alias`.
    Raises ImageError naming every module the kernel does not have.
    """
    index = _Index(modules_dep, softdep, alias)
    inside = {module_name(path) for path in builtin.split()}
    order: dict[str, None] = {}
    wanted = list(names)
    unknown = [n for n in wanted if not index.find(n) and module_name(n) not in inside]
    if unknown:
        raise ImageError(f"the kernel has no module {', '.join(dict.fromkeys(unknown))}")
    for name in [*wanted, *optional]:
        for path in index.find(name):
            index.add(path, order, set())
    return list(order)


class _Index:
    """depmod's texts, parsed: `depends` by path (complete, the deepest last), the others by name."""

    def __init__(self, modules_dep: str, softdep: str, alias: str) -> None:
        self.depends = parse_modules_dep(modules_dep)
        self.paths = {module_name(path): path for path in self.depends}
        self.before = parse_softdep(softdep)
        self.aliases = parse_alias(alias)

    def find(self, name: str) -> list[str]:
        """The file of a module, or those of all that an alias stands for."""
        key = module_name(name)
        names = (key,) if key in self.paths else self.aliases.get(key, ())
        return [self.paths[module_name(n)] for n in names if module_name(n) in self.paths]

    def add(self, path: str, order: dict[str, None], waiting: set[str]) -> None:
        """Put a file behind what it needs, and behind what it would like to have first."""
        if path in order or path in waiting:
            return
        waiting.add(path)  # soft dependencies may go round in a circle
        liked = [p for name in self.before.get(module_name(path), ()) for p in self.find(name)]
        needed = reversed(self.depends.get(path, ()))
        for below in (*needed, *(p for p in liked if path not in self.depends[p])):
            self.add(below, order, waiting)
        order[path] = None
