# SPDX-License-Identifier: MIT
"""The system that comes up on the promises: units, restarts, cycles, journals, the network, timers, memory."""

from __future__ import annotations

from collections.abc import Mapping

from tests.mutants.edits import UNITS, background, initrd_mounts, put_link, replaced, service, unit, when_written
from tests.mutants.mutation import Mutation

CYCLE = "[Unit]\nAfter={other}\nRequires={other}\n[Service]\nType=oneshot\nExecStart=/bin/true\n"
LOOP = "[Service]\nExecStart=/bin/sh -c 'sleep 1'\nRestart=always\nRestartSec=4\n"
FAILS = "[Service]\nType=oneshot\nExecStart=/bin/false\n"
LISTENS = "[Socket]\nListen{kind}=4444\n[Install]\nWantedBy=sockets.target\n"
HOLDS = "head -c 232M /dev/zero >/dev/shm/mutant; head -c 80M /dev/zero >/run/mutant"

SYSTEM: Mapping[str, Mutation] = {
    "a unit that fails": Mutation(
        put=unit("broken.service", FAILS),
        names=["system: no failed unit", "system: running"],
        seen=["broken.service", "degraded"],
    ),
    "a degraded boot: a mount that may fail": Mutation(
        put=unit("mnt.mount", "[Mount]\nWhat=none\nWhere=/mnt\nType=nonesuch\n"),
        names=["system: running", "system: no failed unit"],
    ),
    "a unit that is always started again": Mutation(
        put=unit("mutant.service", LOOP), names=["system: no restart loop"], seen=["mutant.service"]
    ),
    "a unit that fails and is always started again": Mutation(
        put=unit("mutant.service", "[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=3\n"),
        names=["system: no restart loop"],
    ),
    "an ordering cycle": Mutation(
        put=[
            *unit("one.service", CYCLE.format(other="two.service")),
            *unit("two.service", CYCLE.format(other="one.service")),
        ],
        names=["system: no ordering cycle"],
        seen=["ordering cycle"],
        sample=True,
    ),
    "a wanted unit that is not enabled": Mutation(
        profile="appliance",
        drop=[f"{UNITS}/multi-user.target.wants/appliance.service"],
        names=["verify.units: appliance.service", "generated: units.enable: "],
    ),
    "a wanted unit that is masked": Mutation(
        profile="appliance",
        drop=[f"{UNITS}/appliance.service"],
        put=[put_link(f"{UNITS}/appliance.service", "/dev/null")],
        names=["verify.units: appliance.service", "generated: files[1]: "],
    ),
    "a service on another port": Mutation(
        profile="sensor-gateway",
        edit={"/etc/mosquitto/conf.d/gateway.conf": replaced("1883", "1884")},
        names=["verify.commands: mosquitto_pub"],
    ),
    "a profile's command that fails": Mutation(
        profile="busybox",
        init=initrd_mounts("ln -s /dev/null /sysroot/var/lib/counter/starts"),
        names=["verify.commands: test -s /var/lib/counter/starts"],
    ),
    "a service that writes where it may not": Mutation(
        put=service("touch /usr/mutant; true"),
        names=["journal: writes refused"],
        seen=["mutant"],
        sample=True,
    ),
    "a service that finds no room": Mutation(
        put=service("dd if=/dev/zero of=/tmp/mutant bs=1M count=40; rm -f /tmp/mutant"),
        names=["journal: writes refused"],
    ),
    "a service that writes where it may not, every now and then": Mutation(
        put=background("sleep 1; while sleep 3; do touch /opt/mutant; done"),
        names=["journal: writes refused"],
    ),
    "a listener nobody declared": Mutation(
        profile="sensor-gateway",
        put=[
            *unit("mutant.socket", LISTENS.format(kind="Stream"), "sockets.target"),
            *unit("mutant.service", "[Service]\nExecStart=/bin/cat\n", "never.target"),
        ],
        names=["network: listens"],
        seen=["4444"],
        sample=True,
    ),
    "a datagram listener nobody declared": Mutation(
        profile="sensor-gateway",
        put=[
            *unit("mutant.socket", LISTENS.format(kind="Datagram"), "sockets.target"),
            *unit("mutant.service", "[Service]\nExecStart=/bin/cat\n", "never.target"),
        ],
        names=["network: listens"],
        seen=["4444"],
    ),
    "a declared listener that is not there": Mutation(
        profile="sensor-gateway",
        put=[put_link(f"{UNITS}/ssh.service", "/dev/null")],
        names=["network: listens", "verify.units: ssh.service"],
    ),
    "a program made setuid in a writable directory": Mutation(
        put=service("cp /bin/dash /var/tmp/mutant; chmod 4755 /var/tmp/mutant"),
        names=["setuid: on writable mounts"],
        seen=["/var/tmp/mutant"],
    ),
    "memory that is gone before the caps are reached": Mutation(
        put=service(HOLDS),
        names=["memory: all caps filled"],
    ),
    "a timer whose work fails": Mutation(
        put=[
            *unit("mutant.timer", "[Timer]\nOnBootSec=1h\n", "timers.target"),
            *unit("mutant.service", FAILS, "never.target"),
        ],
        names=["timers: started early"],
        seen=["mutant"],
    ),
    "a service that writes where it may not during the attacks": Mutation(
        put=when_written("/var", "touch /usr/mutant; true"),
        names=["journal: after the attacks"],
    ),
}  # fmt: skip
