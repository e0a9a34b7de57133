# SPDX-License-Identifier: MIT
"""Overlays, seeds, what must survive and what must not, policies and the factory reset."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping

from tests.mutants.edits import drop_in, initrd_mounts, put_file, replaced, unit
from tests.mutants.mutation import Edit, Mutation

ATTACH = 'attach LABEL=state ext4 rw,nosuid,nodev,noatime "$state"'
COPIED = 'own "$4" "$5" "$data/seeding/tree"'
"""Of the step that makes a seed: the tree is copied, and not yet in place."""
COUNTER = "/run/rofs/state/data/bind/var-lib-counter"
VAR_OVERLAY = "mount -t overlay -o rw,lowerdir=/run/rofs/image/var,"
STATE_ETC = "/run/rofs/state/data/overlay/etc"
EVENT = 'echo "$1: volatile, $why" >>/run/rofs/events'
KEPT_OPTIONS = "rw,lowerdir=/run/rofs/image/var,upperdir=/run/rofs/tmpfs/var/upper,workdir=/run/rofs/tmpfs/var/work"
SAVES_TMP = """\
[Unit]
RequiresMountsFor=/tmp /run/rofs/state
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/bin/cp -a /run/rofs/state/tmp /
ExecStop=/bin/cp -a /tmp /run/rofs/state
"""
CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
"""cap_net_raw, as vfs_cap_data of linux/capability.h."""


def covered(path: str, where: str, cover: str) -> Edit:
    """/init that makes the mount on /sysroot/WHERE while something else covers PATH, and takes that away again.

    The mount table then looks as it should.
    """
    return replaced(
        f"{{ point / /sysroot{where} &&", f"{{ {cover} && point / /sysroot{where} &&",
        f"overlay /sysroot{where}; }}", f"overlay /sysroot{where} && umount {path}; }}",
    )  # fmt: skip


def seed_with(command: str) -> Edit:
    """/init that runs a command between a seed's copying and its taking place."""
    return replaced(COPIED, f"{{ {command}; }} && {COPIED}")


def with_capability(member: tarfile.TarInfo) -> None:
    """A file of the image that may do more than its user."""
    member.pax_headers = {
        **member.pax_headers,
        "SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape"),
    }


def keeps_no(what: str) -> Edit:
    """/init that forgets something of the state at each boot."""
    return replaced('    [ -d "$data" ] || found=new\n', f'    [ -d "$data" ] || found=new\n    rm -rf {what}\n')


OVERLAYS: Mapping[str, Mutation] = {
    "an overlay over a copy of the image": Mutation(
        profile="busybox",
        init=replaced(
            "{ point / /sysroot/var &&", "{ cp -a /run/rofs/image/var /run/copy && point / /sysroot/var &&",
            VAR_OVERLAY, "mount -t overlay -o rw,lowerdir=/run/copy,",
        ),
        names=["mount: /var (overlay-tmpfs)"],
    ),
    "an overlay with one more layer over the image": Mutation(
        profile="busybox",
        init=replaced(
            "{ point / /sysroot/var &&", "{ mkdir /run/more && point / /sysroot/var &&",
            VAR_OVERLAY, "mount -t overlay -o rw,lowerdir=/run/more:/run/rofs/image/var,",
        ),
        names=["mount: /var (overlay-tmpfs)"],
    ),
    "an overlay over something else, and no trace of it": Mutation(
        profile="busybox",
        init=covered(
            "/run/rofs/image/etc", "/etc",
            "cp -a /run/rofs/image/etc /run/copy && echo more >>/run/copy/dpkg/dpkg.cfg.d/99mmdebstrap && "
            "mount -o bind /run/copy /run/rofs/image/etc",
        ),
        names=["image content: /etc"],
    ),
    "an overlay that is not empty at the start": Mutation(
        profile="appliance",
        init=initrd_mounts(
            "echo 0.0 >/sysroot/etc/debian_version", 'touch -d "2020-01-01 00:00" /sysroot/etc/debian_version'
        ),
        names=["image content: /etc"],
        seen=["not empty at the start: debian_version"],
    ),
    "state's upper in memory": Mutation(
        profile="busybox",
        init=replaced(
            "{ point / /sysroot/etc &&", "{ mkdir -p /run/evil/upper /run/evil/work && point / /sysroot/etc &&",
            f"upperdir={STATE_ETC}/upper,workdir={STATE_ETC}/work", "upperdir=/run/evil/upper,workdir=/run/evil/work",
        ),
        names=["mount: /etc (overlay-state)"],
    ),
    "state's upper in memory, and no trace of it": Mutation(
        profile="busybox",
        boots=2,
        init=covered(
            STATE_ETC, "/etc", f"mount -t tmpfs evil {STATE_ETC} && mkdir {STATE_ETC}/upper {STATE_ETC}/work"
        ),
        names=["persistent: /etc"],
        sample=True,
    ),
    "memory's upper on the state disk": Mutation(
        profile="busybox",
        init=replaced(
            "{ point / /sysroot/var &&", '{ mkdir -p "$state/evil/upper" "$state/evil/work" && point / /sysroot/var &&',
            "upperdir=/run/rofs/tmpfs/var/upper,workdir=/run/rofs/tmpfs/var/work",
            'upperdir=$state/evil/upper,workdir=$state/evil/work',
        ),
        names=["mount: /var (overlay-tmpfs)", "size cap: /var"],
    ),
    "memory's upper on the state disk, and no trace of it": Mutation(
        profile="busybox",
        boots=2,
        init=covered(
            "/run/rofs/tmpfs/var", "/var",
            'mkdir -p "$state/evil/upper" "$state/evil/work" && mount -o bind "$state/evil" /run/rofs/tmpfs/var',
        ),
        names=["volatile: /var", "size cap: /var"],
    ),
    "an overlay with redirect_dir=on": Mutation(
        profile="sensor-gateway",
        init=replaced("redirect_dir=off", "redirect_dir=on"),
        names=["mount: /etc (overlay-state)"],
    ),
    "an overlay with metacopy=on": Mutation(
        profile="busybox",
        init=replaced("redirect_dir=off,metacopy=off", "redirect_dir=on,metacopy=on"),
        names=["mount: /etc (overlay-state)"],
    ),
    "an overlay with xino=on": Mutation(
        profile="busybox", init=replaced("xino=off", "xino=on"), names=["mount: /etc (overlay-state)"]
    ),
    "an overlay that never syncs": Mutation(
        profile="busybox", init=replaced("xino=off", "xino=off,volatile"), names=["mount: /etc (overlay-state)"]
    ),
    "an overlay in memory with metacopy=on": Mutation(
        put=[drop_in("var.mount", f"[Mount]\nOptions={KEPT_OPTIONS},metacopy=on\n")],
        names=["mount: /var (overlay-tmpfs)"],
    ),
    "an upper directory that all may write": Mutation(
        profile="busybox",
        init=initrd_mounts("chmod 0777 /sysroot/var"),
        names=["mount: /var (overlay-tmpfs)"],
    ),
}  # fmt: skip

SEEDS: Mapping[str, Mutation] = {
    "a seed with a hole": Mutation(
        profile="sensor-gateway",
        init=seed_with('rm -f "$data/seeding/tree/calibration.json"'),
        names=["seed: /var/lib/gateway"],
    ),
    "a seed with another content": Mutation(
        profile="busybox",
        init=seed_with(
            'cd "$data/seeding/tree" && echo old >>README && touch -r /sysroot/var/lib/counter/README README; cd /'
        ),
        names=["seed: /var/lib/counter"],
    ),
    "a seed of an older image": Mutation(
        profile="busybox",
        put=[put_file("/var/lib/counter/table", "of the image\n")],
        init=seed_with('cd "$data/seeding/tree" && echo old >table && touch -d "2020-01-01 00:00" table; cd /'),
        names=["seed: /var/lib/counter"],
    ),
    "a seed whose directory has another owner": Mutation(
        profile="busybox",
        init=replaced(COPIED, 'own "$4" 1:1 "$data/seeding/tree"'),
        names=["mount: /var/lib/counter (bind-state)"],
    ),
    "a seed whose files have another owner": Mutation(
        profile="busybox", init=seed_with('chown -R 1:1 "$data/seeding/tree"'), names=["seed: /var/lib/counter"]
    ),
    "a seed with another mode": Mutation(
        profile="busybox", init=seed_with('chmod 0666 "$data/seeding/tree/README"'), names=["seed: /var/lib/counter"]
    ),
    "a seed without capabilities": Mutation(
        profile="sensor-gateway",
        meta={
            "/var/lib/gateway/calibration.json": with_capability
        },
        init=replaced("cp -a $preserve", "cp -dR --preserve=mode,ownership,timestamps"),
        names=["seed: /var/lib/gateway"],
        seen=["in xattrs"],
    ),
    "a seed in memory with another content": Mutation(
        profile="appliance",
        init=initrd_mounts("echo more >>/run/rofs/tmpfs/srv-www/data/index.html"),
        names=["generated: files[3]: /srv/www/index.html"],
    ),
    "a seed in memory of an older image": Mutation(
        profile="appliance",
        put=[put_file("/srv/www/table", "of the image\n")],
        init=initrd_mounts(
            "cd /run/rofs/tmpfs/srv-www/data && echo old >table", 'touch -d "2020-01-01 00:00" table; cd /'
        ),
        names=["image content: /srv/www"],
        seen=["table differs in"],
    ),
    "a seed that is made anew at each boot": Mutation(
        profile="busybox",
        boots=2,
        init=replaced('    if [ -d "$3" ]; then', '    rm -rf "$3"\n    if [ -d "$3" ]; then'),
        names=["persistent: /var/lib/counter", "seeded once: /var/lib/counter"],
    ),
}  # fmt: skip

SURVIVAL: Mapping[str, Mutation] = {
    "state that is quietly a tmpfs": Mutation(
        profile="sensor-gateway",
        init=replaced(ATTACH, 'mount -t tmpfs -o rw,nosuid,nodev,noatime tmpfs "$state"'),
        names=["mount: /run/rofs/state (state)"],
        sample=True,
    ),
    "state that begins anew at each boot": Mutation(
        profile="busybox",
        boots=2,
        init=replaced('    [ -d "$data" ] || found=new\n', '    rm -rf "$data"\n    [ -d "$data" ] || found=new\n'),
        names=["persistent: /etc", "persistent: /var/lib/counter", "state: state (state used)"],
    ),
    "state that begins anew at each boot and says nothing of it": Mutation(
        profile="busybox",
        boots=2,
        init=replaced(
            '    [ -d "$data" ] || found=new\n',
            '    [ -d "$data" ] || found=new\n    rm -rf "$data/overlay" "$data/bind"/*/* "$data/bind"/*/.[!.]*\n',
        ),
        names=["persistent: /etc", "persistent: /var/lib/counter"],
    ),
    "one bind of state that does not survive": Mutation(
        profile="busybox", boots=2, init=keeps_no(f"{COUNTER}/.[!.]* {COUNTER}/*"),
        names=["persistent: /var/lib/counter"],
    ),
    "a tmpfs that a service saves and restores": Mutation(
        profile="sensor-gateway", boots=2, put=unit("mutant.service", SAVES_TMP), names=["volatile: /tmp"]
    ),
    "state open to all": Mutation(
        profile="busybox",
        init=replaced('own 0700 0:0 "$state"', 'own 0755 0:0 "$state"'),
        names=["mount: /run/rofs/state (state)"],
    ),
    "state mounted a second time elsewhere": Mutation(
        profile="busybox",
        init=initrd_mounts('mkdir /run/other && mount -t ext4 -o rw "$device" /run/other'),
        names=["nothing undeclared: mount table"],
    ),
    "state that shows another directory": Mutation(
        profile="busybox",
        init=replaced(
            f"bind {COUNTER} /sysroot/var/lib/counter", f"bind {COUNTER}/../../identity /sysroot/var/lib/counter"
        ),
        names=["mount: /var/lib/counter (bind-state)"],
    ),
}  # fmt: skip

POLICIES: Mapping[str, Mutation] = {
    "refuse that runs on": Mutation(
        profile="busybox-refuse",
        boots=4,
        init=replaced("stand_in state refuse", "stand_in state volatile"),
        names=["state: refused (state missing)"],
        sample=True,
    ),
    "volatile that refuses": Mutation(
        profile="busybox",
        boots=4,
        init=replaced("stand_in state volatile", "stand_in state refuse"),
        names=["boot: the system boots, answers and powers off"],
    ),
    "volatile that says nothing of it": Mutation(
        profile="busybox", boots=4, init=replaced(EVENT, "true"), names=["state: state (state missing)"]
    ),
    "a stand-in without a cap": Mutation(
        profile="busybox",
        boots=4,
        init=replaced("size=4096k,nr_inodes=1024,mode=0700", "mode=0700"),
        names=["mount: /run/rofs/state"],
    ),
    "a stand-in that has only what is volatile": Mutation(
        profile="busybox",
        boots=4,
        init=replaced(
            f"{{ point {COUNTER} /sysroot/var/lib/counter &&",
            f'{{ if [ -z "$preserve" ]; then mkdir -p /run/no; mount -o bind /run/no {COUNTER}; fi; '
            f"point {COUNTER} /sysroot/var/lib/counter &&",
        ),
        names=["nothing undeclared: mount table", "seed: /var/lib/counter"],
    ),
}  # fmt: skip

RESET: Mapping[str, Mutation] = {
    "a reset that takes nothing away": Mutation(
        profile="sensor-gateway",
        boots=3,
        init=replaced('mv "$data" "$data.old"', "true"),
        names=["factory reset: /etc", "identity: ssh host key"],
    ),
    "a reset that keeps its flag": Mutation(
        profile="busybox",
        boots=3,
        init=replaced('    rm -rf "$flag" &&', "    true &&"),
        names=["factory reset: /run/rofs/state"],
    ),
    "a reset that keeps a bind": Mutation(
        profile="busybox",
        boots=3,
        init=replaced(
            '    mkdir -p "$data/overlay" "$data/bind"',
            '    [ -z "$reset" ] || { mkdir -p "$data/bind"; mv "$state/saved" "$data/bind/var-lib-counter"; }\n'
            '    mkdir -p "$data/overlay" "$data/bind"',
            '[ ! -d "$data" ] || mv', f'[ ! -d "$data" ] || mv "{COUNTER}" "$state/saved"; mv',
        ),
        names=["factory reset: /var/lib/counter"],
    ),
    "a reset that keeps the identity": Mutation(
        profile="busybox",
        boots=3,
        init=replaced(
            '    mkdir -p "$data/overlay" "$data/bind"',
            '    [ -z "$reset" ] || { mkdir -p "$data"; mv "$state/saved" "$data/identity"; }\n'
            '    mkdir -p "$data/overlay" "$data/bind"',
            '[ ! -d "$data" ] || mv', '[ ! -d "$data" ] || mv "$data/identity" "$state/saved"; mv',
        ),
        names=["identity: machine-id"],
    ),
    "a reset that is not made": Mutation(
        profile="busybox",
        boots=3,
        init=replaced('[ -e "$flag" ] && reset=1', "true"),
        names=["state: state (factory reset)", "factory reset: /etc"],
        sample=True,
    ),
}  # fmt: skip

STATE: Mapping[str, Mutation] = {**OVERLAYS, **SEEDS, **SURVIVAL, **POLICIES, **RESET}
