# SPDX-License-Identifier: MIT
"""An image directory -> outcomes that need no boot: its squashfs holds the manifest's tree, no identity, no open door.

The bytes of the squashfs do not count: the same tree packed anew at another level is the same image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rofs.errors import ImageError
from rofs.image.manifest import describe_files, tree_of
from rofs.image.readback import Limits, read_squashfs
from rofs.layout import Layout
from rofs.treefacts import Node, resolve_key
from rofs.values import show
from rofs.verify.check import Outcome, Verdict, broken, decide

SHOWN = 20
MOST_MORE_PATHS = 100_000
MOST_MORE_BYTES = 4 << 30
MOST_HOST_KEYS = 1000
"""Beyond what the manifest lists; a tree with more is not read to its end."""

_PASSWD, _SHADOW = "/etc/passwd", "/etc/shadow"
_SSHD = "/etc/ssh"
_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_SEEDS = ("/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed")
_KEY_DIRECTORIES = (_SSHD, "/etc/dropbear")
_LOOKED_AT = (_PASSWD, _SHADOW, *_IDS)
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----|\ASSH PRIVATE KEY FILE FORMAT|\APuTTY-User-Key-File"
    rb"|\A\0\0\0.(?:ssh-|ecdsa-)[a-z0-9-]+\0",
    re.DOTALL,
)
"""By the header: of PEM and OpenSSH, of the first SSH, of PuTTY, of dropbear."""
_HOST_KEY = re.compile(rb'^[ \t]*HostKey(?=[ \t=])[ \t]*=?[ \t]*"?([^"\s]+)', re.IGNORECASE | re.MULTILINE)
_DEFAULT_KEY = re.compile(r".*/ssh_host_[^/]*_key", re.DOTALL)
"""What sshd looks for by itself, whatever is in it."""
_DIGITS = 12
"""Of a hash, in words."""

Tree = Mapping[str, Mapping[str, Any]]
"""By path, as `tree_of` gives it."""


def tree_outcomes(image: Path, layout: Layout, *, log: Path | None = None) -> tuple[Outcome, ...]:
    """Read the squashfs of an image directory once and judge it; the boot of these outcomes is 0.

    What is wrong with the squashfs or the manifest is a broken promise. ToolError where sqfs2tar is not
    there or does not end.
    """
    said, trouble = _read_manifest(image / "manifest.json")
    try:
        tree = _read_tree(image / "rootfs.squashfs", said, log)
    except ImageError as error:
        unread = broken("a squashfs that can be read to its end", str(error))
        return tuple(_outcome(subject, unread) for subject in ("as built", "identity", "passwords"))
    as_built = broken("the files that manifest.json lists", trouble) if trouble else judge_tree(said, tree.files)
    return (
        _outcome("as built", as_built),
        _outcome("identity", _judge_identity(tree)),
        _outcome("passwords", _judge_passwords(tree, {str(file.path) for file in layout.profile.files})),
    )


def _outcome(subject: str, verdict: Verdict) -> Outcome:
    return Outcome(boot=0, promise="image tree", subject=subject, at=(), verdict=verdict)


def _read_manifest(path: Path) -> tuple[Tree, str]:
    """What it says of the tree, or why it says nothing."""
    try:
        manifest = json.loads(path.read_bytes())
        return tree_of(manifest.get("files") if isinstance(manifest, dict) else None), ""
    except OSError as error:
        return {}, f"manifest.json cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        return {}, f"manifest.json cannot be used: {error}"


# --- what is in the squashfs ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Read:
    """The tree as it is; `texts` and `keys` by the path that carries the content, `named` by HostKey lines."""

    files: Tree
    links: Mapping[str, Node]
    carriers: Mapping[str, str]
    texts: Mapping[str, bytes]
    keys: frozenset[str]
    named: frozenset[str]

    def find(self, path: str) -> str | None:
        """Where the content is that a program gets by this path; None where there is nothing."""
        found = resolve_key(self.links, path)
        return self.carriers.get(found) if found is not None else None

    def size(self, path: str) -> int:
        found = self.find(path)
        return int(self.files[found].get("size", 0)) if found is not None else 0


def _read_tree(squashfs: Path, said: Tree, log: Path | None) -> _Read:
    wanted = _wanted(said)
    texts: dict[str, bytes] = {}
    keys: set[str] = set()
    named: set[str] = set()

    def on_head(path: str, head: bytes) -> None:
        if path in wanted and len(texts) < len(_LOOKED_AT):
            texts[path] = head
        if path.startswith(f"{_SSHD}/"):
            named.update(match.decode("utf-8", "surrogateescape") for match in _HOST_KEY.findall(head))
        if len(named) > MOST_HOST_KEYS:
            raise ImageError(f"more than {MOST_HOST_KEYS} HostKey lines in {_SSHD}")
        if _PRIVATE_KEY.search(head, 0, 4096):
            keys.add(path)

    sizes = (each.get("size", 0) for each in said.values())
    most = sum(size for size in sizes if isinstance(size, int)) + MOST_MORE_BYTES
    records = read_squashfs(squashfs, Limits(len(said) + MOST_MORE_PATHS, most), on_head, log=log)
    return _Read(
        files=tree_of(describe_files(records)),
        links=_links({record.path: record.target for record in records if record.kind == "symlink"}),
        carriers={r.path: r.target if r.kind == "hardlink" else r.path for r in records},
        texts=texts,
        keys=frozenset(keys),
        named=frozenset(named),
    )


def _links(targets: Mapping[str, str]) -> dict[str, Node]:
    return {path: Node("symlink", 0o777, 0, 0, target=target) for path, target in targets.items()}


def _wanted(said: Tree) -> frozenset[str]:
    """The paths whose content is judged, through the manifest's symbolic links, and their hard links."""
    links = _links({path: str(each.get("target")) for path, each in said.items() if each.get("kind") == "symlink"})
    found = {resolve_key(links, path) or path for path in _LOOKED_AT}
    files = {said[path]["same_file"] for path in found if "same_file" in said.get(path, {})}
    return frozenset({*_LOOKED_AT, *found, *(p for p, each in said.items() if each.get("same_file") in files)})


# --- as built ---------------------------------------------------------------------------------------


def judge_tree(said: Tree, seen: Tree) -> Verdict:
    """Nothing differs, nothing is missing, nothing is more; what is dangerous is named first."""
    expected = f"the {len(said)} paths of manifest.json, each as it says"
    found = [(not dangers, path, words) for path, dangers, words in _differences(said, seen)]
    if not found:
        size_bytes = sum(each.get("size", 0) for each in seen.values())
        return decide(True, expected, f"{len(seen)} paths, {size_bytes} bytes of content, each as it says")
    shown = [f"{_shown(path)}: {words}" for _, path, words in sorted(found)[:SHOWN]]
    if len(found) > SHOWN:
        shown.append(f"and {len(found) - SHOWN} more")
    count = f"{len(found)} paths differ" if len(found) > 1 else "1 path differs"
    return broken(expected, f"{count}: {'; '.join(shown)}")


def _differences(said: Tree, seen: Tree) -> Iterator[tuple[str, list[str], str]]:
    """Path, what is dangerous about it, and all of it in words."""
    for path in said.keys() | seen.keys():
        was, now = said.get(path, {}), seen.get(path, {})
        if was != now:
            dangers = list(_dangers(was, now))
            words = [*dangers, *(_changes(was, now) if was and now else [_more_or_less(was, now)])]
            yield path, dangers, ", ".join(words)


def _more_or_less(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if not now:
        return f"missing, a {_shown(was.get('kind'))}"
    return f"not in the manifest, a {now['kind']} of mode {now['mode']}, owner {now['uid']}:{now['gid']}"


def _dangers(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What lets somebody in who was not let in before."""
    bits = _mode(now) & ~_mode(was)
    yield from (f"NEW {word}" for bit, word in ((0o4000, "SETUID"), (0o2000, "SETGID")) if bits & bit)
    if _is_open(now) and not _is_open(was):
        yield "NEWLY WORLD-WRITABLE"
    if now.get("caps") and now.get("caps") != was.get("caps"):
        yield "NEW CAPABILITIES"
    if now.get("kind") in ("char", "block") and any(now.get(key) != was.get(key) for key in ("kind", "rdev")):
        yield f"NEW DEVICE {now['rdev']}"


def _mode(each: Mapping[str, Any]) -> int:
    mode = each.get("mode", "0")
    return int(mode, 8) if isinstance(mode, str) and re.fullmatch("[0-7]{1,4}", mode) else 0


def _is_open(each: Mapping[str, Any]) -> bool:
    """Whether anybody may write it; of a sticky directory (/tmp) that is no news."""
    mode = _mode(each)
    return bool(mode & 0o002) and each.get("kind") != "symlink" and not (each.get("kind") == "dir" and mode & 0o1000)


def _changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(was.keys() | now.keys()):
        old, new = was.get(key), now.get(key)
        if old == new or (key == "xattrs" and was.get("caps") != now.get("caps")):
            continue
        if key == "xattrs" and isinstance(old or {}, dict):
            names = sorted(n for n in {**(old or {}), **(new or {})} if (old or {}).get(n) != (new or {}).get(n))
            yield f"xattrs {', '.join(map(_shown, names))}"
        elif key == "sha256":
            yield f"sha256 {_shown(new)[:_DIGITS]} instead of {_shown(old)[:_DIGITS]}"
        else:
            yield f"{_shown(key)} {_shown(new)} instead of {_shown(old)}"


def _shown(value: object) -> str:
    """As it is where that is one short line, for the surrogates of a name that is not UTF-8 have no encoding."""
    if value is None:
        return "none"
    plain = isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200
    return str(value) if plain else show(value)


# --- identity and passwords -------------------------------------------------------------------------


def _judge_identity(tree: _Read) -> Verdict:
    """Two devices of one image must not be the same one, nor anybody have their keys who has the image."""
    expected = "no machine-id, no ssh host key and no random seed of its own"
    ids = {tree.find(path): path for path in reversed(_IDS) if tree.size(path)}
    found = [f"{path} has content" for path in sorted(ids.values())]
    found += [f"{path} has content" for path in _SEEDS if tree.size(path)]
    found += [f"{_shown(path)} is a host key" for path in _host_keys(tree)]
    return decide(not found, expected, _listed(found) or "none of them")


def _listed(found: list[str]) -> str:
    """The first of them, and how many more; '' of none."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _host_keys(tree: _Read) -> list[str]:
    """Private keys in the directories of host keys and where sshd's configuration names one."""
    tops = [resolve_key(tree.links, path) or path for path in _KEY_DIRECTORIES]
    inside = {path for path in tree.files if any(path.startswith(f"{top}/") for top in tops)}
    keys = {path for path in inside | tree.named if tree.find(path) in tree.keys}
    return sorted(keys | {path for path in inside if _DEFAULT_KEY.fullmatch(path) and tree.size(path)})


def _judge_passwords(tree: _Read, given: set[str]) -> Verdict:
    """Nobody comes in without a password; a file that the profile itself brings (`given`) is its own decision."""
    expected = "no account with an empty password"
    wrong: list[str] = []
    shared: set[str] = set()
    for path in (_PASSWD, _SHADOW):
        carrier = tree.find(path)
        if carrier is None:
            continue
        text = tree.texts.get(carrier)
        if text is None or len(text) < tree.size(path):
            return broken(expected, f"{path} leads to {_shown(carrier)}, which could not be judged")
        accounts = list(_accounts(text))
        shared |= {name for name, field in accounts if not field.startswith(("*", "!")) and field not in ("", "x")}
        if path not in given:
            wrong += [f"{path}: {_shown(name)} has an empty password" for name, field in accounts if field == ""]
    brought = [path for path in (_PASSWD, _SHADOW) if path in given]
    seen = "none" + (f"; {', '.join(brought)} of `files` as the profile has it" if brought else "")
    if shared:
        seen += f"; the same password on every device: {', '.join(map(_shown, sorted(shared)))}"
    return decide(not wrong, expected, _listed(wrong) or seen)


def _accounts(text: bytes) -> Iterator[tuple[str, str]]:
    """Name and password field: `x` in passwd(5) sends on to shadow(5); `*` and `!` admit no password."""
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        name, colon, rest = line.partition(":")
        if colon and not name.startswith("#"):
            yield name, rest.partition(":")[0]
