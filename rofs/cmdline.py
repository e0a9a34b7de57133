# SPDX-License-Identifier: MIT
"""Profile, architecture -> the kernel's command line that an image ships."""

from __future__ import annotations

from rofs.machine.arch import Arch
from rofs.profile import Profile


def make_cmdline(profile: Profile, arch: Arch) -> str:
    """What the boot loader shall say to the kernel."""
    console = profile.kernel.console.get(arch.name)
    words = ["ro", *([f"console={console}"] if console else []), profile.kernel.cmdline.get(arch.name, "")]
    return " ".join(word for word in words if word)
