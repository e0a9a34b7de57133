# SPDX-License-Identifier: MIT
"""A QEMU's monitor socket -> answers and events (qemu-qmp-ref(7)).

Everything read here comes from QEMU itself, never from the guest.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rofs.errors import MachineError

ANSWER_TIMEOUT_S = 60.0


class Qmp:
    """One connection, already past the greeting. QEMU serves one client at a time."""

    def __init__(self, path: Path) -> None:
        """Connect; OSError where nobody listens (yet)."""
        self._socket = _connect(path)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._file = self._socket.makefile("r", encoding="utf-8", errors="replace")
        self._events: list[dict[str, Any]] = []
        try:
            self._receive()
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the monitor to the next client."""
        self._file.close()
        self._socket.close()

    def _receive(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise ConnectionError("QEMU closed its QMP socket")
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return what it says; events meanwhile are kept. `_` in an argument's name is `-`."""
        self.order(command, **arguments)
        while True:
            message = self._receive()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise MachineError(f"QMP {command}: {message['error'].get('desc', message['error'])}")
            self._events.append(message)

    def order(self, command: str, **arguments: Any) -> None:
        """Run a command whose answer nobody waits for; from any thread, also while another reads `events`."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._socket.sendall(json.dumps(request).encode() + b"\r\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event until QEMU ends, which may be a long wait."""
        self._socket.settimeout(None)
        while True:
            while self._events:
                yield self._events.pop(0)
            try:
                self._events.append(self._receive())
            except (OSError, ValueError):  # ValueError: cut in mid-line by a killed QEMU
                return


def _connect(path: Path) -> socket.socket:
    """Connect to a unix socket by a path of any length; sun_path holds 108 bytes (unix(7))."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection
