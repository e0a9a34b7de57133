# SPDX-License-Identifier: MIT
"""Edits of texts and things to put into an image, from which mutants are made.

An edit that finds nothing to change is an error: the mutant would be none.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from rofs.entry import Entry
from tests.mutants.mutation import Edit

UNITS = "/etc/systemd/system"
BEFORE_PID_1 = "# Only verification brings this"
"""The line of /init after which all mounts are made; a mutant's own stand before it."""


def replaced(*pairs: str) -> Edit:
    """Text with each old for its new, in the order old, new, old, new."""

    def edit(text: str) -> str:
        for old, new in zip(pairs[::2], pairs[1::2], strict=True):
            assert old in text, f"nothing to break: {old!r} is not in\n{text}"
            text = text.replace(old, new)
        return text

    return edit


def no_line(start: str) -> Edit:
    """Without the one line that starts so."""

    def edit(text: str) -> str:
        lines = text.splitlines(keepends=True)
        rest = [line for line in lines if not line.startswith(start)]
        assert len(rest) == len(lines) - 1, f"nothing to break: {start!r}"
        return "".join(rest)

    return edit


def no_mount(where: str) -> Edit:
    """/init without the two lines that mount on /sysroot/WHERE."""

    def edit(text: str) -> str:
        lines = text.splitlines(keepends=True)
        found = [n for n, line in enumerate(lines) if line.startswith("{ point ") and f" /sysroot{where} &&" in line]
        assert len(found) == 1, f"nothing to break: no mount on {where}"
        del lines[found[0] : found[0] + 2]
        return "".join(lines)

    return edit


def initrd_mounts(*lines: str) -> Edit:
    """/init with lines that run when all its own mounts are made, and before PID 1."""
    return replaced(BEFORE_PID_1, "\n".join([*lines, BEFORE_PID_1]))


def put_file(path: str, content: str | bytes, mode: int = 0o644, owner: int = 0) -> Entry:
    """A file of the image."""
    data = content.encode() if isinstance(content, str) else content
    return Entry(path=PurePosixPath(path), kind="file", mode=mode, uid=owner, gid=owner, content=data)


def put_link(path: str, target: str) -> Entry:
    """A symbolic link of the image."""
    return Entry(path=PurePosixPath(path), kind="symlink", mode=0o777, target=target)


def unit(name: str, text: str, wanted_by: str = "multi-user.target") -> list[Entry]:
    """A unit and the link that starts it."""
    return [put_file(f"{UNITS}/{name}", text), put_link(f"{UNITS}/{wanted_by}.wants/{name}", f"../{name}")]


def service(command: str, name: str = "mutant.service") -> list[Entry]:
    """A oneshot that runs a shell's command during the boot, which waits for it."""
    return unit(name, oneshot(command))


def drop_in(name: str, text: str) -> Entry:
    """Lines that are added to a unit while its file stays as it is."""
    return put_file(f"{UNITS}/{name}.d/mutant.conf", text)


def background(command: str, name: str = "mutant.service") -> list[Entry]:
    """A service that runs a shell's command beside the boot, and goes on during the checks."""
    return unit(name, f"[Service]\nType=exec\nExecStart=/bin/sh -c '{command}'\n")


def when_written(directory: str, command: str) -> list[Entry]:
    """A command that runs as soon as somebody makes a file in a directory, as verification does when it is loud.

    PID 1 listens for it once the boot is over, since a look every now and then would miss what is gone at once.
    """
    text = f"[Path]\nPathModified={directory}\nUnit=mutant.service\n"
    return [*unit("mutant.path", text), put_file(f"{UNITS}/mutant.service", oneshot(command))]


def oneshot(command: str) -> str:
    """A service that runs a shell's command."""
    return f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '{command}'\n"
