# SPDX-License-Identifier: MIT
"""What makes a machine this one, and who may use it."""

from __future__ import annotations

from collections.abc import Mapping

from tests.mutants.edits import UNITS, background, initrd_mounts, no_line, put_file, put_link, replaced
from tests.mutants.mutation import Mutation

ID = "0123456789abcdef0123456789abcdef"
KEYS = "/home/technician/.ssh/authorized_keys"
TECHNICIAN = "technician:x:1000:1000:"
HOST_KEY_SCRIPT = "/usr/lib/rofs/ssh-host-key"

IDENTITY: Mapping[str, Mutation] = {
    "a machine-id in the image": Mutation(
        boots=2,
        edit={"/etc/machine-id": lambda _: f"{ID}\n"},
        names=["image tree: identity", "identity: machine-id"],
    ),
    "a machine-id on the command line": Mutation(
        boots=2,
        cmdline=replaced("ro ", f"ro systemd.machine_id={ID} "),
        names=["identity: machine-id", "system: command line"],
    ),
    "a machine-id that is new at each boot": Mutation(
        profile="busybox",
        boots=2,
        init=replaced('machine_id=$(cat "$1" 2>/dev/null)', "machine_id="),
        names=["identity: machine-id"],
    ),
    "a machine-id that is not the one kept": Mutation(
        profile="busybox",
        init=initrd_mounts(f"rm -f /sysroot/etc/machine-id; echo {ID} >/sysroot/etc/machine-id"),
        names=["machine-id: state"],
    ),
    "a machine-id that is none": Mutation(
        profile="busybox",
        init=initrd_mounts("rm -f /sysroot/etc/machine-id; echo uninitialized >/sysroot/etc/machine-id"),
        names=["machine-id: state"],
    ),
    "a host key in the image": Mutation(
        profile="sensor-gateway",
        put=[put_file("/etc/ssh/ssh_host_ed25519_key", "a key of all machines\n", 0o600)],
        names=["image tree: identity"],
    ),
    "a host key in the image that sshd uses": Mutation(
        profile="sensor-gateway",
        put=[put_file("/etc/ssh/baked", "a key of all machines\n", 0o600)],
        edit={"/etc/ssh/sshd_config.d/10-rofs.conf": lambda text: text + "HostKey /etc/ssh/baked\n"},
        names=["ssh host key: ", "generated: "],
    ),
    "a host key that is new at each boot": Mutation(
        profile="sensor-gateway",
        boots=2,
        edit={HOST_KEY_SCRIPT: replaced("set -eu\n", 'set -eu\nrm -f /run/rofs/identity/ssh_host*\n')},
        names=["identity: ssh host key"],
    ),
    "a host key that others may read": Mutation(
        profile="sensor-gateway",
        edit={HOST_KEY_SCRIPT: lambda text: text + 'chmod 0644 "$key"\n'},
        names=["ssh host key: "],
    ),
    "a random seed that is not kept": Mutation(
        profile="sensor-gateway",
        put=[put_link(f"{UNITS}/systemd-random-seed.service", "/dev/null")],
        names=["random seed: "],
    ),
    "another hostname": Mutation(
        edit={"/etc/hostname": lambda _: "other\n"}, names=["hostname: minimal", "generated: hostname: "]
    ),
    "a hostname that does not resolve": Mutation(
        edit={"/etc/hosts": no_line("127.0.1.1")}, names=["hostname: minimal", "generated: hostname: "]
    ),
    "a hostname set later": Mutation(
        put=background("echo other >/proc/sys/kernel/hostname"), names=["hostname: minimal"]
    ),
    "a user of another uid": Mutation(
        profile="appliance",
        edit={"/etc/passwd": replaced(TECHNICIAN, "technician:x:1001:1000:")},
        names=["user: technician"],
        sample=True,
    ),
    "a user with another shell": Mutation(
        profile="appliance",
        edit={"/etc/passwd": replaced("technician:/bin/bash", "technician:/bin/sh")},
        names=["user: technician"],
    ),
    "a user who is in a group less": Mutation(
        profile="appliance",
        edit={"/etc/group": replaced("dialout:x:20:technician", "dialout:x:20:")},
        names=["user: technician", "generated: users: "],
    ),
    "root without a password": Mutation(
        profile="appliance",
        edit={"/etc/shadow": replaced("root:*:", "root::")},
        names=["image tree: passwords"],
    ),
    "root with a password": Mutation(
        profile="minimal",
        edit={"/etc/shadow": replaced("root:*:", "root:$6$salt$hash:")},
        names=["image tree: as built"],
    ),
    "root without a password, said in passwd": Mutation(
        edit={"/etc/passwd": replaced("root:x:", "root::")},
        names=["image tree: passwords"],
    ),
    "a user without a password": Mutation(
        profile="appliance",
        edit={"/etc/shadow": replaced("technician:*:", "technician::")},
        names=["user: technician", "image tree: passwords"],
    ),
    "a second root": Mutation(
        edit={"/etc/passwd": lambda text: text + "toor:x:0:0::/root:/bin/sh\n"}, names=["image tree: as built"]
    ),
    "a key of the technician that others may write": Mutation(
        profile="appliance",
        put=[put_file(KEYS, "another\n", 0o666, 1000)],
        names=["generated: users[0]"],
        seen=[f"{KEYS}: mode is 0666, not 0600", "the content differs"],
    ),
    "a key added for the technician": Mutation(
        profile="appliance",
        edit={KEYS: lambda text: text + "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE another\n"},
        names=["generated: users[0]"],
    ),
}  # fmt: skip
