# SPDX-License-Identifier: MIT
"""Root file systems that rofs did not make, as archives: the layouts of a Buildroot image with busybox and of a
Yocto-like one with sysvinit. GNU tar, mmdebstrap and the host's compressors write them; nothing of rofs does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rofs.build import DEFAULT_EPOCH
from rofs.machine.arch import ARCHES
from rofs.sources.apt import find_host_sources, host_options, sources_suffix
from rofs.sources.binfmt import ensure_emulation
from rofs.sources.debian import MERGED_USR, SYSTEM_PATH, path_options, scratch
from rofs.store import Cache, default_cache_dir

SUITE = "bookworm"
SYSVINIT_PACKAGES = ("sysvinit-core", "initscripts", "sysv-rc", "procps", "kmod", "iproute2", "openssh-server")
COMPRESSORS: Mapping[str, tuple[str, ...]] = {
    ".tar": ("cat",), ".tar.gz": ("gzip", "-1"), ".tar.xz": ("xz", "-0", "-T2"), ".tar.zst": ("zstd", "-q", "-c"),
}  # fmt: skip
WWW = 33


def pack(plain: Path, out: Path) -> Path:
    """A plain tar -> one compressed as the end of `out`'s name says."""
    kind = next(end for end in sorted(COMPRESSORS, key=len, reverse=True) if out.name.endswith(end))
    with plain.open("rb") as source, out.open("wb") as target:
        subprocess.run(COMPRESSORS[kind], stdin=source, stdout=target, check=True)
    return out


def sha256(path: Path) -> str:
    """As sha256sum(1) says it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- Buildroot ----------------------------------------------------------------------------------------

_INITTAB = """\
::sysinit:/bin/mount -t proc proc /proc
::sysinit:/bin/mount -o remount,rw /
::sysinit:/bin/mkdir -p /dev/pts /dev/shm
::sysinit:/bin/mount -a
::sysinit:/bin/mkdir -p /run/lock/subsys
::sysinit:/sbin/swapon -a
null::sysinit:/bin/ln -sf /proc/self/fd /dev/fd
null::sysinit:/bin/ln -sf /proc/self/fd/0 /dev/stdin
null::sysinit:/bin/ln -sf /proc/self/fd/1 /dev/stdout
null::sysinit:/bin/ln -sf /proc/self/fd/2 /dev/stderr
::sysinit:/bin/hostname -F /etc/hostname
::sysinit:/etc/init.d/rcS
console::respawn:/sbin/getty -L console 0 vt100
::shutdown:/etc/init.d/rcK
::shutdown:/sbin/swapoff -a
::shutdown:/bin/umount -a -r
"""
_FSTAB = """\
# <file system>\t<mount pt>\t<type>\t<options>\t<dump>\t<pass>
/dev/root\t/\t\text2\trw,noauto\t0\t1
proc\t\t/proc\t\tproc\tdefaults\t0\t0
devpts\t\t/dev/pts\tdevpts\tdefaults,gid=5,mode=620,ptmxmode=0666\t0\t0
tmpfs\t\t/dev/shm\ttmpfs\tmode=1777\t0\t0
tmpfs\t\t/tmp\t\ttmpfs\tmode=1777\t0\t0
tmpfs\t\t/run\t\ttmpfs\tmode=0755,nosuid,nodev\t0\t0
sysfs\t\t/sys\t\tsysfs\tdefaults\t0\t0
"""
_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUP = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
wheel:x:10:root
dialout:x:18:
www-data:x:33:
operator:x:37:
staff:x:50:
users:x:100:
nobody:x:65534:
"""
_ALL_SCRIPTS = """\
#!/bin/sh
for script in {order}; do
    [ -x "$script" ] && "$script" {word}
done
"""
_DAEMON = """\
#!/bin/sh
pidfile=/var/run/{name}.pid
case "$1" in
start)
    printf 'Starting {name}: '
    start-stop-daemon -b -m -S -q -p "$pidfile" -x {program} -- {options} && echo OK || echo FAIL
    ;;
stop)
    printf 'Stopping {name}: '
    start-stop-daemon -K -q -p "$pidfile" && rm -f "$pidfile" && echo OK || echo FAIL
    ;;
*)
    echo "Usage: $0 {{start|stop}}"
    exit 1
    ;;
esac
"""
_RANDOM_SEED = """\
#!/bin/sh
seed=/var/lib/random-seed
case "$1" in
start) [ ! -f "$seed" ] || cat "$seed" >/dev/urandom ;;
esac
umask 077
dd if=/dev/urandom of="$seed" bs=512 count=1 2>/dev/null
"""
_NETWORK = """\
#!/bin/sh
mkdir -p /run/network
case "$1" in
start) ip link set lo up && echo 'nameserver 127.0.0.1' >/etc/resolv.conf ;;
stop) ip link set lo down ;;
esac
"""
_REMOUNT = """\
#!/bin/sh
# Somebody's idea of first-boot set-up.
[ "$1" = start ] || exit 0
mount -o remount,rw /
touch /breach /usr/share/breach 2>/run/breach
"""
_COUNTER = """\
#!/bin/sh
[ "$1" = start ] || exit 0
starts=$(cat /var/lib/counter/starts)
echo $((starts + 1)) >/var/lib/counter/starts
"""
_FILES: Mapping[str, tuple[int, str]] = {
    "etc/inittab": (0o644, _INITTAB),
    "etc/fstab": (0o644, _FSTAB),
    "etc/passwd": (0o644, _PASSWD),
    "etc/group": (0o644, _GROUP),
    "etc/shadow": (0o600, "".join(f"{line.split(':')[0]}:*:::::::\n" for line in _PASSWD.splitlines())),
    "etc/hostname": (0o644, "buildroot\n"),
    "etc/hosts": (0o644, "127.0.0.1\tlocalhost\n127.0.1.1\tbuildroot\n"),
    "etc/issue": (0o644, "Welcome to Buildroot\n"),
    "etc/profile": (0o644, "export PATH=/bin:/sbin:/usr/bin:/usr/sbin\nexport PS1='# '\numask 022\n"),
    "etc/os-release": (0o644, "NAME=Buildroot\nVERSION=2023.02\nID=buildroot\n"),
    "etc/protocols": (0o644, "ip 0 IP\nicmp 1 ICMP\n"),
    "etc/shells": (0o644, "/bin/sh\n"),
    "etc/network/interfaces": (0o644, "auto lo\niface lo inet loopback\n"),
    "etc/init.d/rcS": (0o755, _ALL_SCRIPTS.format(order="/etc/init.d/S??*", word="start")),
    "etc/init.d/rcK": (0o755, _ALL_SCRIPTS.format(order="$(ls -r /etc/init.d/S??*)", word="stop")),
    "etc/init.d/S01syslogd": (0o755, _DAEMON.format(name="syslogd", program="/sbin/syslogd", options="-n")),
    "etc/init.d/S02klogd": (0o755, _DAEMON.format(name="klogd", program="/sbin/klogd", options="-n")),
    "etc/init.d/S20random-seed": (0o755, _RANDOM_SEED),
    "etc/init.d/S30first-boot": (0o755, _REMOUNT),
    "etc/init.d/S40network": (0o755, _NETWORK),
    "etc/init.d/S50httpd": (0o755, _DAEMON.format(name="httpd", program="/usr/sbin/httpd", options="-f -h /var/www")),
    "etc/init.d/S90counter": (0o755, _COUNTER),
    "usr/share/udhcpc/default.script": (0o755, "#!/bin/sh\nexit 0\n"),
    "usr/share/doc/notes": (0o644, "shipped with the image\n"),
    "var/lib/counter/README": (0o644, "How often this device was started.\n"),
    "var/lib/counter/starts": (0o644, "0\n"),
    "var/www/index.html": (0o644, "<p>It works.\n"),
}  # fmt: skip
_LINKS: Mapping[str, str] = {
    "etc/mtab": "../proc/self/mounts",
    "etc/resolv.conf": "../run/resolv.conf",
    "lib32": "lib",
    "lib64": "lib",
    "usr/lib64": "lib",
    "dev/log": "../run/log",
    "var/cache": "../tmp",
    "var/lib/misc": "../../tmp",
    "var/lock": "../run/lock",
    "var/log": "../tmp",
    "var/run": "../run",
    "var/spool": "../tmp",
    "var/tmp": "../tmp",
}
_DIRECTORIES: Mapping[str, int] = {
    "bin": 0o755, "sbin": 0o755, "lib": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755, "usr/lib": 0o755,
    "dev": 0o755, "proc": 0o755, "sys": 0o755, "run": 0o755, "home": 0o755, "media": 0o755, "mnt": 0o755,
    "opt": 0o755, "srv": 0o755, "root": 0o700, "tmp": 0o1777, "var/www": 0o755,
}  # fmt: skip


def make_buildroot(directory: Path, busybox: Path, *, inittab: str = "") -> Path:
    """The tree's directory: `busybox` with a link for each applet, skeleton, init scripts.

    `inittab` are lines that somebody has put before the line of rcS.
    """
    tree = directory / "target"
    for name, mode in _DIRECTORIES.items():
        (tree / name).mkdir(parents=True, exist_ok=True)
        (tree / name).chmod(mode)
    for name, (mode, text) in _FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    table = tree / "etc/inittab"
    table.write_text(table.read_text().replace("::sysinit:/etc/init.d/rcS\n", f"{inittab}::sysinit:/etc/init.d/rcS\n"))
    for name, target in _LINKS.items():
        (tree / name).symlink_to(target)
    shutil.copyfile(busybox, tree / "bin/busybox")
    (tree / "bin/busybox").chmod(0o4755)
    for applet in _applets():
        if not os.path.lexists(tree / applet):
            above = "../" * applet.count("/")
            (tree / applet).symlink_to("busybox" if applet.startswith("bin/") else f"{above}bin/busybox")
    return tree


def _applets() -> list[str]:
    """`busybox --list-full` of the host's own busybox-static, which is of the same version."""
    done = subprocess.run(["busybox", "--list-full"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def tar_buildroot(tree: Path, out: Path) -> Path:
    """As Buildroot calls GNU tar; a run for each owner does the work of its fakeroot."""
    plain = out.with_name(f"{out.name}.plain")
    common = ("--format=gnu", "--sort=name", "--numeric-owner", f"--mtime=@{DEFAULT_EPOCH - 86400}", "-C", str(tree))
    subprocess.run(["tar", "-cf", plain, *common, "--owner=0", "--group=0", "--exclude=./var/www", "."], check=True)
    subprocess.run(["tar", "-rf", plain, *common, f"--owner={WWW}", f"--group={WWW}", "./var/www"], check=True)
    pack(plain, out)
    plain.unlink()
    return out


# --- sysvinit -----------------------------------------------------------------------------------------


def fetch_sysvinit(arch: str) -> Path:
    """A plain PAX tar of Debian packages with sysvinit, kept in the cache for the next session."""

    def make(directory: Path) -> None:
        _mmdebstrap(arch, directory / "tree.tar")

    key = hashlib.sha256(" ".join((SUITE, *SYSVINIT_PACKAGES)).encode()).hexdigest()[:16]
    return Cache(default_cache_dir()).entry("test-sysvinit", f"{arch}-{key}", make).path / "tree.tar"


def _mmdebstrap(arch: str, out: Path) -> None:
    ensure_emulation(ARCHES[arch])
    with scratch(root=os.geteuid() == 0) as work:
        sources = find_host_sources(SUITE)
        mirror = [work / f"host{sources_suffix(sources)}"] if sources else []
        for file in mirror:
            file.write_bytes(sources or b"")
        argv = [
            "mmdebstrap", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}", "--variant=essential",
            f"--architectures={arch}", "--format=tar", f"--include={','.join(SYSVINIT_PACKAGES)}",
            *(f"--dpkgopt={option}" for option in path_options(docs=False, locales=())),
            *(f"--aptopt={option}" for option in host_options()),
            f"--hook-dir={MERGED_USR}", SUITE, str(out), *map(str, mirror),
        ]  # fmt: skip
        env = {**os.environ, "SOURCE_DATE_EPOCH": str(DEFAULT_EPOCH), "TMPDIR": str(work), "PATH": SYSTEM_PATH}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
