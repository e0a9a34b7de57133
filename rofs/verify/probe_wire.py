# SPDX-License-Identifier: MIT
"""Operations -> the plan the guest probe reads; the lines it writes -> events.

`probe/README.md` has the protocol. Paths are str, bytes or PurePath; a str may carry any byte by
surrogateescape (`os.fsencode`). In events, names and link targets come percent-encoded as `quote`
does it, contents in base64.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from rofs.errors import ToolError

Text = str | bytes | PurePath

WIRE_VERSION = 1
PORT_NAME = "rofs.probe"
"""The name of the virtio-serial port that the probe looks for."""

MOST_VALUES = 1 << 18
"""In one event; a `list` has 65536 names at most, and a name may have commas."""

_UNSAFE = re.compile(rb"[^\x21-\x7e]|%")
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. `timeout_s` None leaves the probe's own limit, 30 s for most."""

    name: str
    args: tuple[bytes, ...] = ()
    timeout_s: int | None = None

    def __str__(self) -> str:
        return " ".join([self.name, *(quote(arg) for arg in self.args)])


def _op(name: str, *args: Text | int) -> Op:
    return Op(name, tuple(str(a).encode() if isinstance(a, int) else os.fsencode(a) for a in args))


def read(path: Text, max_bytes: int | None = None) -> Op:
    """`errno`, `data`, `truncated`. Regular files, /proc and /sys; 1 MiB unless told, 16 MiB at most."""
    return _op("read", path) if max_bytes is None else _op("read", path, max_bytes)


def list_dir(path: Text) -> Op:
    """`errno`, `names` (quoted, unsorted), `types` (a letter each of "fdlpscb?"), `truncated`."""
    return _op("list", path)


def lstat(path: Text) -> Op:
    """`errno`, `type`, `mode` (permission bits), `uid`, `gid`, `size`, `target`, `xattrs` (quoted), ..."""
    return _op("lstat", path)


def statvfs(path: Text) -> Op:
    """`errno`, `f_type`, `flags` (names: "ro", "nosuid"), `frsize`, `blocks`, `bfree`, `files`, `ffree`."""
    return _op("statvfs", path)


def exists(path: Text) -> Op:
    """`errno`, `exists`; a link counts for itself."""
    return _op("exists", path)


def attack(path: Text, *, only: str = "") -> Op:
    """`errno`, `type`, `mount`, `attacks`: [{name, errno, effect, restored?, detail?, skipped?}]; all, or one."""
    return _op("attack", path, f"only={only}") if only else _op("attack", path)


def compare(path: Text, reference: Text, *, upper: bool = False) -> Op:
    """`errno`, `compared`, `equal`, `files` (how many), `truncated`, `entries`: [{path, how, what?, mtime?}].

    `path` is quoted and relative, `what` a list of what differs, `mtime` in seconds, of the side of `path`. `how` is
    "differs" or "missing" where `path` is no whole copy of `reference`; of an upper directory, "differs", "same",
    "deleted" or "opaque" where it hides something of `reference`.
    """
    return _op("compare", path, reference, "upper") if upper else _op("compare", path, reference)


def blkwrite(device: Text) -> Op:
    """`open`, `read`, `write`, `fsync`, `roget` (errno each), `read_only` (BLKROGET; -1 unknown)."""
    return _op("blkwrite", device)


def canary(path: Text, text: str) -> Op:
    """`errno`: writes `text` to the file and flushes it."""
    return _op("canary", path, text)


def write(path: Text) -> Op:
    """`create`, `write`, `read_back`, `rename`, `unlink` (errno each) and `writable`, in a directory."""
    return _op("write", path)


def fillinodes(path: Text, count: int) -> Op:
    """`errno`, `made`, `removed`: empty files in a fresh directory of `path`, which is an inode itself."""
    return _op("fillinodes", path, count)


def sync() -> Op:
    """`errno`."""
    return _op("sync")


def shell(timeout_s: int, command: str) -> Op:
    """/bin/sh -c: `status` or `exit_signal` or `timeout`; `seconds`, `data`, `tail`, `dropped`."""
    return _op("exec", timeout_s, command)


def run(timeout_s: int, *argv: Text) -> Op:
    """The same without a shell."""
    return _op("run", timeout_s, *argv)


def running(timeout_s: int) -> Op:
    """Wait until systemd has started everything. `errno`, `state`, `jobs` ("UNIT TYPE STATE"), `seconds`."""
    return _op("running", timeout_s)


def units(names: Iterable[str] = ()) -> Op:
    """`errno`, `units`: [{name, description, load, active, sub, ...}] of systemd, without devices; all quoted.

    A mount also has `FragmentPath`, a service that is not inactive `NRestarts`, one that is not active either
    `Result` and `ExecMainStatus`. `names` maps each of the names to that of its unit.
    """
    return _op("units", *names)


def timers(timeout_s: int) -> Op:
    """Start what the timers of systemd would. `errno`, `started`: [{unit, error, waiting}], `seconds`."""
    return _op("timers", timeout_s)


def files(paths: Iterable[Text], max_bytes: int = 0) -> Op:
    """`files`: for each path what `lstat` says, `path` (quoted) and, of a regular file, `read`: what `read` says.

    `max_bytes` 0 reads none.
    """
    return _op("files", max_bytes, *paths)


def sift(timeout_s: int, words: Sequence[str], *argv: Text) -> Op:
    """As `run`, but of the output only the lines with one of the words, in any case of letters; `lines` counts all."""
    return _op("sift", timeout_s, len(words), *words, *argv)


def klog(*words: str) -> Op:
    """`errno`, `found`: the lines of the kernel's log with one of the words; `lines`, `truncated`."""
    return _op("klog", *words)


def listeners(timeout_s: int, wanted: Iterable[str]) -> Op:
    """`errno`, `sockets`: [{proto, address, port, loopback, pid, program}], `truncated`, `seconds`.

    Waits until each of `wanted`, such as tcp/22, has one that is not on the loopback, or the time is over.
    """
    return _op("listeners", timeout_s, *wanted)


def marked(pairs: Iterable[tuple[Text, Text]]) -> Op:
    """`trees`: for each path and its reference, which may be "", {root, errno, looked, truncated, found}.

    `found`: [{path, mode, uid, marks, image}], all that is setuid, setgid, has capabilities, is a device or a
    file that anybody may write; `image` whether the reference has the same.
    """
    return _op("marked", *(part for pair in pairs for part in pair))


def brim(floor_bytes: int, paths: Iterable[Text]) -> Op:
    """`total`, `before`, `available` (memory in bytes), `oom_kills`, and `mounts`, all full at the same time.

    Each {path, errno, fitted, size, left, inodes, how, memory}: `memory` where it stopped because fewer than
    `floor_bytes` of memory would have been left.
    """
    return _op("brim", floor_bytes, *paths)


def settle(timeout_s: int, quiet_ms: int = 2000) -> Op:
    """Wait until the boot has come to rest; the answer comes soon after `timeout_s` at the latest.

    `errno`, `settled`, `waited_ms`, `processes` (created since boot), `pid1` (quoted, the target of
    /proc/1/exe), `pid1_args` (quoted), `uptime_ms`; not settled, `busy`: quoted names of what still runs.
    """
    return _op("settle", timeout_s, quiet_ms)


def poweroff(mode: Literal["clean", "cut"]) -> Op:
    """The last operation: by the init, or at once and without sync."""
    return _op("poweroff", mode)


def quote(text: Text) -> str:
    """Bytes -> ASCII: what is not printable, the space and "%" become %XX."""
    return _UNSAFE.sub(lambda m: b"%%%02X" % m[0][0], os.fsencode(text)).decode("ascii")


def unquote(text: str) -> bytes:
    """The inverse of `quote`."""
    return _ENCODED.sub(lambda m: bytes([int(m[1], 16)]), os.fsencode(text))


def encode_plan(ops: Iterable[Op]) -> bytes:
    """One line per operation, so that its event's id is its number from 1.

    ValueError for a NUL, which no path or argument can hold.
    """
    lines = [_encode_op(op) for op in ops]
    return "".join(line + "\n" for line in lines).encode("ascii")


def _encode_op(op: Op) -> str:
    if any(b"\0" in arg for arg in op.args):
        raise ValueError(f"NUL in an argument of {op.name!r}: {op.args!r}")
    name = op.name if op.timeout_s is None else f"{op.name}@{op.timeout_s}"
    return "\t".join([name, *(quote(arg) for arg in op.args)])


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the probe.

    `kind` is "op" for the answer to operation `id`, else "start", "end", "error", "crash" or
    "still-on". `facts` is the whole object.
    """

    kind: str
    id: int | None
    facts: Mapping[str, Any]

    def data(self, key: str = "data") -> bytes | None:
        """A base64 fact as bytes, None when it is not there or not base64."""
        value = self.facts.get(key)
        if not isinstance(value, str):
            return None
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None


def parse_event(line: str | bytes) -> Event | None:
    """An event, or None for anything else: noise, a line cut short, an empty one, more values than any answer has."""
    if line.count("," if isinstance(line, str) else b",") > MOST_VALUES:  # type: ignore[arg-type]
        return None  # each would take some hundred bytes of memory
    try:
        found = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    kind, number = found.get("event"), found.get("id")
    if isinstance(kind, str):
        return Event(kind, None, MappingProxyType(found))
    if isinstance(number, int) and not isinstance(number, bool) and isinstance(found.get("op"), str):
        return Event("op", number, MappingProxyType(found))
    return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def find_probe(arch: str) -> Path:
    """The probe for a guest of `arch` (Debian's name) in the installed package."""
    name = f"rofs-probe-{arch}"
    # a package in a zip would have no path; rofs is never run from one, its templates are read by path too
    path = Path(str(resources.files("rofs") / "verify" / "probe" / "bin" / name))
    if not path.is_file():
        hint = "`pip install .` in a checkout builds it"
        raise ToolError((name,), f"the guest probe for {arch} is not installed at {path}", hint=hint)
    return path
