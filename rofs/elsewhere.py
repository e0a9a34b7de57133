# SPDX-License-Identifier: MIT
"""A command line -> the same command on what looks like another machine.

    python -I -S elsewhere.py '{"umask": 63, "cpus": [0], "hostname": "x", "binds": [["FROM", "TO"]]}' argv...

What is not named stays as it is. A host name or a bind takes namespaces of its own, which take root, and are gone with
the command. Standard library only, nothing of rofs: it becomes the command.
"""

import ctypes
import json
import os
import socket
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS = 0x20000, 0x4000000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000  # linux/mount.h


def _checked(status: int, doing: str) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{doing}: {os.strerror(code)}")


def enter(spec: dict[str, Any]) -> None:
    """Make this process, and what it will start, see what `spec` says. OSError where that may not be."""
    libc = ctypes.CDLL(None, use_errno=True)
    if "hostname" in spec:
        _checked(libc.unshare(CLONE_NEWUTS), "unshare")
        socket.sethostname(spec["hostname"])
    if spec.get("binds"):
        _checked(libc.unshare(CLONE_NEWNS), "unshare")
        _checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    for source, target in spec.get("binds", ()):
        _checked(libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None), f"bind {target}")
    if "cpus" in spec:
        os.sched_setaffinity(0, spec["cpus"])
    if "umask" in spec:
        os.umask(spec["umask"])


def main(words: list[str]) -> None:
    """Does not return."""
    enter(json.loads(words[0]))
    os.execvp(words[1], words[1:])  # noqa: S606 -- what this program is for


if __name__ == "__main__":
    main(sys.argv[1:])
