# SPDX-License-Identifier: MIT
"""A key and a forwarded port -> a login from outside, tried while the guest boots.

It is ssh(1) with nothing of the caller's own: no configuration, no agent, no other key. The host key of
the first login goes into a file; at the next one another key is a refusal, which is how boots are compared.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from rofs.errors import Interrupted, ToolError
from rofs.run import Result, run

HOST = "rofs-guest"
"""What the guest is called in the file of host keys: its port differs from boot to boot."""

AGAIN_S = 0.5
CONNECT_TIMEOUT_S = 10
"""From the connection to the end of the handshake; a port is open before the guest is there to answer."""

TRY_TIMEOUT_S = 120
SSH_FAILED = 255
REFUSALS = ("Permission denied", "Host key verification failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who logs in, and the private key that proves it."""

    user: str
    key: Path


def ssh_argv(identity: Identity, port: int, known_hosts: Path, command: str) -> list[str]:
    """ssh's words. As an option, a key that is missing is an error; after -i, ssh would take others."""
    options = {
        "IdentityFile": _quoted(identity.key),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": _quoted(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "HostKeyAlias": HOST,
        "ConnectTimeout": str(CONNECT_TIMEOUT_S),
        "LogLevel": "ERROR",
    }
    argv = ["ssh", "-F", "none", "-p", str(port)]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    return [*argv, f"{identity.user}@127.0.0.1", command]


def _quoted(path: Path) -> str:
    """A path as one word of ssh_config(5), its tokens expanded to themselves."""
    return f'"{path.absolute()}"'.replace("%", "%%")


class Login(threading.Thread):
    """Runs `command` over ssh until it was run, was refused for good, or `finish` is called."""

    def __init__(self, identity: Identity, port: int, known_hosts: Path, command: str, log: Path) -> None:
        super().__init__(name="rofs-login", daemon=True)
        self._argv, self._log = ssh_argv(identity, port, known_hosts, command), log
        self._over = threading.Event()
        self._ok, self._words = False, "not tried"

    def run(self) -> None:
        """Try, wait a little, try again."""
        while not self._over.is_set() and self._try():
            self._over.wait(AGAIN_S)

    def finish(self) -> tuple[bool, str]:
        """Stop it -> whether the command ended with 0, and what it or ssh said last.

        A try that goes on is waited for, so the guest had better be gone.
        """
        self._over.set()
        self.join()
        return self._ok, self._words

    def _try(self) -> bool:
        """One login; whether another may end otherwise."""
        try:
            result = run(self._argv, log=self._log, timeout_s=TRY_TIMEOUT_S, ok=range(256))
        except Interrupted:
            return False
        except ToolError as error:
            self._words = " ".join(filter(None, (str(error), error.hint)))
            return True
        self._ok, self._words = result.status == 0, _words(result)
        return result.status == SSH_FAILED and not any(refusal in self._words for refusal in REFUSALS)


def _words(result: Result) -> str:
    """What was said, in one line, without the frames around ssh's warnings."""
    said = [*result.stdout.splitlines(), *result.stderr_tail.splitlines()]
    words = " | ".join(line for line in (line.strip(" @") for line in said) if line)
    return words or f"exit status {result.status}, no word"
