# SPDX-License-Identifier: MIT
"""A manager like systemd's on a private socket, for the real probe: D-Bus as far as it is spoken there."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SOCKET = "run/systemd/private"
MANAGER = "/org/freedesktop/systemd1"
Row = tuple[str, str, str, str]
"""Name, load, active and sub state."""


def path_of(name: str) -> str:
    """The object path of a unit: what is no letter, and a digit at the beginning, becomes _xx."""
    safe = (c if c.isascii() and (c.isalpha() or (i and c.isdigit())) else f"_{ord(c):02x}" for i, c in enumerate(name))
    return f"{MANAGER}/unit/{''.join(safe)}"


class Out:
    """Values -> bytes, each aligned from the beginning of the body."""

    def __init__(self) -> None:
        self.raw = b""

    def align(self, to: int) -> None:
        self.raw += b"\0" * (-len(self.raw) % to)

    def u32(self, value: int) -> None:
        self.align(4)
        self.raw += struct.pack("=I", value)

    def text(self, value: str) -> None:
        self.u32(len(value.encode()))
        self.raw += value.encode() + b"\0"

    def signature(self, value: str) -> None:
        self.raw += bytes([len(value)]) + value.encode() + b"\0"

    def variant(self, value: str | int) -> None:
        self.signature("u" if isinstance(value, int) else "s")
        self.u32(value) if isinstance(value, int) else self.text(value)

    def array(self, rows: Sequence[Sequence[str | int]]) -> None:
        inner = Out()
        for row in rows:
            inner.align(8)
            for value in row:
                inner.u32(value) if isinstance(value, int) else inner.text(value)
        self.u32(len(inner.raw))
        self.align(8)
        self.raw += inner.raw


@dataclass
class Manager:
    """What it answers. `jobs` stay for so many questions; `noise` is a signal before each answer."""

    units: Sequence[Row] = ()
    properties: Mapping[tuple[str, str], str | int] = field(default_factory=dict)
    states: list[str] = field(default_factory=lambda: ["running"])
    jobs: list[list[tuple[str, str, str]]] = field(default_factory=list)
    refused: Mapping[str, str] = field(default_factory=dict)
    noise: bool = True
    answer: bytes | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def body(self, path: str, method: str, words: Sequence[str]) -> Out:
        """KeyError: the answer is an error of that name."""
        out = Out()
        if method == "ListUnits":
            out.array([(n, f"of {n}", lo, a, s, "", path_of(n), 0, "", "/") for n, lo, a, s in self.units])
        elif method == "ListJobs":
            rows = self.jobs.pop(0) if self.jobs else []
            out.array([(7, unit, kind, state, f"/job/{unit}", path_of(unit)) for unit, kind, state in rows])
        elif method == "StartUnit":
            if words[0] in self.refused:
                raise KeyError(self.refused[words[0]])
            out.text(f"/job/{words[0]}")
        elif words[1] == "SystemState":
            out.variant(self.states.pop(0) if len(self.states) > 1 else self.states[0])
        else:
            names = {path_of(n): n for n, _ in self.properties}
            out.variant(self.properties[names.get(path, path), words[1]])
        return out

    def message(self, kind: int, serial: int, out: Out, error: str = "") -> bytes:
        fields = Out()
        for code, sign, value in ((5, "u", serial), (4, "s", error), (8, "g", "x")):
            if value == "":
                continue
            fields.align(8)
            fields.raw += bytes([code])
            fields.signature(sign)
            if isinstance(value, int):
                fields.u32(value)
            elif sign == "g":
                fields.signature(value)
            else:
                fields.text(value)
        head = struct.pack("=cBBBIII", b"l", kind, 0, 1, len(out.raw), 9, len(fields.raw))
        fields.align(8)
        return head + fields.raw + out.raw

    def serve(self, client: socket.socket) -> None:
        hello = b""
        while not hello.endswith(b"BEGIN\r\n"):
            if not (more := client.recv(1)):
                return
            hello += more
        assert hello.startswith(b"\0AUTH EXTERNAL ")
        client.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
        while head := client.recv(16, socket.MSG_WAITALL):
            _, _, _, _, size, serial, length = struct.unpack("=cBBBIII", head)
            rest = client.recv(length + -length % 8 + size, socket.MSG_WAITALL)
            self.reply(client, serial, rest[:length], rest[length + -length % 8 :])

    def reply(self, client: socket.socket, serial: int, fields: bytes, raw: bytes) -> None:
        path, method = (self.field(fields, code) for code in (1, 3))
        words = []
        at = 0
        while at < len(raw):
            at += -at % 4
            (length,) = struct.unpack_from("=I", raw, at)
            words.append(raw[at + 4 : at + 4 + length].decode())
            at += 5 + length
        self.asked.append((method, path, *words))
        if self.noise:
            client.sendall(self.message(4, 0, Out()))
        if self.answer is not None:
            client.sendall(self.answer)
            return
        try:
            client.sendall(self.message(2, serial, self.body(path, method, words)))
        except KeyError as error:
            client.sendall(self.message(3, serial, Out(), str(error.args[0]).strip("()") or "no.such"))

    @staticmethod
    def field(fields: bytes, wanted: int) -> str:
        at = 0
        while at < len(fields):
            at += -at % 8
            code, kind = fields[at], fields[at + 2 : at + 3]
            at += 4
            if kind == b"g":
                size, skip = fields[at], 1
            else:
                at += -at % 4
                size, skip = struct.unpack_from("=I", fields, at)[0], 4
            if code == wanted:
                return fields[at + skip : at + skip + size].decode()
            at += skip + size + 1
        raise AssertionError(f"no field {wanted} in {fields!r}")


@contextmanager
def listening(root: Path, manager: Manager) -> Iterator[Manager]:
    """The manager on its socket below `root`."""
    path = root / SOCKET
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def run() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client, suppress(ConnectionError):
                    manager.serve(client)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield manager
        server.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)
