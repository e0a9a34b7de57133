# SPDX-License-Identifier: MIT
"""Names of kernel modules and the kernel's own index -> the module files to load, in order.

The texts are modules.dep(5) and modules.builtin as depmod writes them, paths relative to
/lib/modules/RELEASE.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from rofs.errors import ImageError


def module_name(path: str) -> str:
    """ "kernel/fs/overlayfs/overlay.ko.xz" -> "overlay"; the kernel takes `-` and `_` for the same."""
    return PurePosixPath(path).name.partition(".")[0].replace("-", "_")


def parse_modules_dep(text: str) -> dict[str, tuple[str, ...]]:
    """Lines `path: dependency...` -> {path: its dependencies, nearest first}."""
    found = {}
    for line in text.splitlines():
        path, colon, depends = line.partition(":")
        if colon:
            found[path.strip()] = tuple(depends.split())
    return found


def module_closure(
    modules_dep: str,
    names: Iterable[str],
    *,
    builtin: str = "",
    optional: Iterable[str] = (),
) -> list[str]:
    """The files of `names` and of all they need, each after what it needs.

    What `builtin` (modules.builtin) has is satisfied. `optional` are wanted too, but may be missing.
    Raises ImageError naming every module the kernel does not have.
    """
    depends = parse_modules_dep(modules_dep)
    paths = {module_name(path): path for path in depends}
    inside = {module_name(path) for path in builtin.split()}
    unknown: list[str] = []
    order: dict[str, None] = {}
    wanted, spare = list(names), list(optional)
    for name in [*wanted, *spare]:
        key = module_name(name)
        if key in paths:
            _add(paths[key], depends, order)
        elif key not in inside and name in wanted:
            unknown.append(name)
    if unknown:
        raise ImageError(f"the kernel has no module {', '.join(dict.fromkeys(unknown))}")
    return list(order)


def _add(path: str, depends: dict[str, tuple[str, ...]], order: dict[str, None]) -> None:
    """Put a file behind its dependencies. depmod's lists are complete, with the deepest last."""
    if path in order:
        return
    for below in reversed(depends.get(path, ())):
        order.setdefault(below)
    order[path] = None
