# SPDX-License-Identifier: MIT
"""Another kernel command line, and an initrd that does not do its part."""

from __future__ import annotations

from collections.abc import Mapping

from tests.mutants.edits import initrd_mounts, replaced
from tests.mutants.mutation import Mutation

BOOTS, SAID = "boot: the system boots, answers and powers off", "system: command line"

COMMAND_LINE: Mapping[str, Mutation] = {
    "rw for ro": Mutation(cmdline=replaced("ro ", "rw "), names=[SAID]),
    "rw after ro": Mutation(profile="busybox", cmdline=replaced("ro ", "ro rw "), names=[SAID], sample=True),
    "a mount masked": Mutation(
        cmdline=replaced("ro ", "ro systemd.mask=tmp.mount "),
        names=["mount: /tmp (tmpfs)", "unit: tmp.mount", SAID],
        seen=["nothing is mounted on /tmp"],
    ),
    "a shell for an init": Mutation(
        profile="busybox", cmdline=replaced("ro ", "ro init=/bin/sh "), names=[SAID, "system: settled"]
    ),
    "a shell for systemd": Mutation(
        cmdline=replaced("ro ", "ro init=/bin/sh "), names=[BOOTS], options=("--boot-timeout", "60")
    ),
    "another target": Mutation(
        cmdline=replaced("ro ", "ro systemd.unit=basic.target "), names=[BOOTS], options=("--boot-timeout", "60")
    ),
    "a word taken away": Mutation(profile="busybox", cmdline=replaced("panic=10", ""), names=[SAID]),
    "a whole root in memory": Mutation(cmdline=replaced("ro ", "ro systemd.volatile=state "), names=[SAID]),
    "a factory reset at each boot": Mutation(
        profile="busybox",
        boots=2,
        cmdline=replaced("ro ", "ro rofs.reset=1 "),
        names=[SAID, "persistent: /etc", "state: state (state used)"],
    ),
    "an initrd that gives up": Mutation(
        init=initrd_mounts('fail "the mutant says so"'),
        names=[BOOTS],
        seen=["rofs: the mutant says so", "Kernel panic - not syncing"],
        sample=True,
    ),
    "an initrd without a module": Mutation(
        profile="busybox", init=replaced("insmod /lib/modules/overlay.ko", "true"), names=[BOOTS]
    ),
}  # fmt: skip
