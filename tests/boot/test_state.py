# SPDX-License-Identifier: MIT
"""What must survive, on real boots: sensor-gateway on both architectures, both policies, every kind of /etc and
identity, settings that count at the next boot, and an image update under kept state."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from guestrun import EVENTS, FAILED, RUNNING, assert_running, build_image, copy_disk, run_guest, write_profile

from rofs.verify import probe_wire as wire

pytestmark = [pytest.mark.boot, pytest.mark.needs("mkfs.ext4", "debugfs", "mkswap", "ssh", "ssh-keygen", "qemu-img")]

Rofs = Callable[..., subprocess.CompletedProcess[str]]
PROFILES = Path(__file__).resolve().parents[2] / "profiles"
SSH_PACKAGES = ("systemd-sysv", "udev", "dbus", "openssh-server", "mosquitto", "mosquitto-clients")
"""Those of profiles/sensor-gateway.yaml, so that the tree comes from the cache."""
FAULTS = ("missing", "corrupt", "foreign", "read-only", "full")
TITLES = ["state new", "state used", "factory reset", *(f"state {fault}" for fault in FAULTS)]
REASONS = {
    "missing": "no file system {tag} after 5 s",
    "corrupt": "found by {tag}, cannot be mounted as ext4",
    "foreign": "found by {tag}, cannot be mounted as ext4",
    "read-only": "found by {tag}, cannot be written",
    "full": "found by {tag}, cannot be written",
}
LOOK = (RUNNING, FAILED, EVENTS)


class Report:
    """A report.json."""

    def __init__(self, directory: Path) -> None:
        self.data: dict[str, Any] = json.loads((directory / "report.json").read_text())

    def seen(self, boot: int, promise: str) -> dict[str, str]:
        """Subject -> what was seen, of checks that were kept."""
        rows = [c for c in self.data["checks"] if (c["boot"], c["promise"]) == (boot, promise)]
        assert all(row["ok"] for row in rows), [row for row in rows if not row["ok"]]
        return {row["subject"]: row["seen"] for row in rows}

    @property
    def titles(self) -> list[str]:
        return [boot["title"] for boot in self.data["boots"]]


def accepted(done: subprocess.CompletedProcess[str], directory: Path) -> Report:
    assert done.returncode == 0, done.stdout + done.stderr
    return Report(directory)


# --- sensor-gateway ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["amd64", "arm64"])
def gateway(request: pytest.FixtureRequest, built: Callable[[str], Path]) -> Path:
    return built("sensor-gateway") / str(request.param)


def test_the_gateway_runs_whatever_its_state_is(gateway: Path) -> None:
    report = Report(gateway)
    assert report.data["verdict"] == "accepted" and report.titles == TITLES
    assert [boot["ended"] for boot in report.data["boots"]] == ["off"] * len(TITLES)
    for boot in range(1, len(TITLES) + 1):
        system = report.seen(boot, "system")
        assert system["running"] == "running" and re.fullmatch(r"none of \d+", system["no failed unit"])
        assert report.seen(boot, "verify.units").keys() == {
            "mosquitto.service", "ssh.service", "systemd-networkd.service",
        }  # fmt: skip


def test_the_report_says_which_policy_acted_and_why(gateway: Path) -> None:
    report = Report(gateway)
    for number, said in ((1, "new"), (2, "used"), (3, "reset")):
        assert list(report.seen(number, "state").values()) == [said]
    for number, fault in enumerate(FAULTS, start=4):
        (seen,) = report.seen(number, "state").values()
        assert seen.startswith("volatile, ") and REASONS[fault].format(tag="LABEL=state") in seen, seen
    text = (gateway / "report.txt").read_text()
    assert "boot 4 (state missing): " in text and "volatile, no file system LABEL=state" in text


def test_what_was_written_survives_a_cold_restart_and_not_a_factory_reset(gateway: Path) -> None:
    report, profile = Report(gateway), yaml.safe_load((PROFILES / "sensor-gateway.yaml").read_text())
    kept = {m["path"] for m in profile["mounts"] if "state" in (m.get("upper"), m.get("source"))}
    lost = {m["path"] for m in profile["mounts"]} - kept
    assert report.seen(1, "canary").keys() >= kept | lost
    assert report.seen(2, "persistent").keys() == kept and report.seen(2, "volatile").keys() == lost
    assert report.seen(3, "factory reset").keys() == {*kept, "/run/rofs/state"}
    assert report.seen(3, "volatile").keys() == lost
    seeded = {"/var/lib/mosquitto", "/var/lib/gateway"}
    for boot, word in ((1, "seeded"), (2, "kept"), (3, "seeded"), (4, "seeded")):
        assert report.seen(boot, "seeded once") == dict.fromkeys(seeded, word)
    assert report.seen(1, "seed").keys() == seeded == report.seen(3, "seed").keys()
    assert report.seen(1, "seed")["/var/lib/gateway"] == "1 of the image's paths, 1 equal"


def test_identity_is_kept_until_the_reset(gateway: Path) -> None:
    report = Report(gateway)
    assert report.seen(2, "identity") == {
        "machine-id": "the same", "ssh host key": "the same", "random seed": "another one",
    }  # fmt: skip
    assert set(report.seen(3, "identity").values()) == {"another one"}
    ids = {seen for boot in range(1, 9) for seen in report.seen(boot, "machine-id").values()}
    assert len(ids) == 7 and all(re.fullmatch("[0-9a-f]{32}", i) for i in ids)  # boots 1 and 2 share theirs
    assert all(s.startswith("ssh-ed25519 ") for b in range(1, 9) for s in report.seen(b, "ssh host key").values())


def test_every_immutable_path_was_attacked_in_the_new_and_in_the_used_state(gateway: Path) -> None:
    report = Report(gateway)
    for boot in (1, 2):
        attacked = report.seen(boot, "immutable")
        assert {"/usr", "/opt", "/etc/ssh", "/etc/fstab", "/etc/systemd/system", "/"} <= attacked.keys()
        assert all(attacked[p].startswith("pinned-ro;") for p in ("/etc/ssh", "/etc/fstab", "/etc/systemd/system"))
        assert report.seen(boot, "pinned").keys() == {"/etc/systemd"}


def test_no_key_and_no_id_is_in_what_ships(gateway: Path, tmp_path: Path) -> None:
    manifest = json.loads((gateway / "manifest.json").read_text())
    paths = {entry["path"] for entry in manifest["files"]}
    assert not [
        p for p in paths if re.search(r"/(ssh_host_[^/]*|random-seed|machine-id)$", p) and p != "/etc/machine-id"
    ]
    assert {"state.img", "rootfs.squashfs", "initrd.img"} <= manifest["outputs"].keys()
    assert "shipped files unchanged" in Report(gateway).seen(0, "image")
    inside = subprocess.run(
        ["debugfs", "-R", "ls -p /", gateway / "state.img"], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split("/")[5] for line in inside.split() if line.count("/") > 5} == {".", "..", "lost+found"}


# --- refuse, a partition, a read-only /etc ----------------------------------------------------------

REFUSE = """\
kernel: {cmdline: "panic=10"}
state: {size: 16M, on_failure: refuse}
files:
  - {path: /var/lib/app/defaults.conf, content: "level=1\\n", mode: "0640", group: adm}
  - {path: /srv/data/index, content: "of the image\\n"}
mounts:
  - {path: /var, type: partition, device: LABEL=var, size: 48M, on_failure: refuse}
  - {path: /var/tmp, type: tmpfs, size: 4M}
  - {path: /var/lib/app, type: bind, source: state, mode: "0750", group: adm}
  - {path: /srv, type: overlay, upper: tmpfs, size: 8M}
  - {path: /srv/data, type: overlay, upper: state}
  - {path: /srv/data/cache, type: tmpfs, size: 4M}
verify: {tolerate_write_errors: [systemd-tmpfiles-setup.service]}
"""


@pytest.fixture(scope="module")
def refusing(rofs: Rofs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("refuse")
    done = rofs("build", write_profile(directory, "refuse", REFUSE), "--output", directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "refuse"


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_a_refusing_image_reboots_instead_of_running_without_its_state(refusing: Path, arch: str) -> None:
    report = Report(refusing / arch)
    assert report.titles == TITLES
    assert [boot["ended"] for boot in report.data["boots"]] == ["off"] * 3 + ["crash"] * 5
    for number, fault in enumerate(FAULTS, start=4):
        (seen,) = report.seen(number, "state").values()
        assert REASONS[fault].format(tag="LABEL=state") in seen and "(on_failure: refuse)" in seen, seen
        assert "reset itself" in seen


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_a_partition_is_seeded_once_and_nests_with_state_and_tmpfs(refusing: Path, arch: str) -> None:
    report = Report(refusing / arch)
    for boot, word in ((1, "seeded"), (2, "kept"), (3, "seeded")):
        assert report.seen(boot, "seeded once") == {"/var": word, "/var/lib/app": word}
    assert report.seen(2, "persistent").keys() == {"/var", "/var/lib/app", "/srv/data"}
    assert report.seen(2, "volatile").keys() == {"/var/tmp", "/srv", "/srv/data/cache"}
    assert int(report.seen(1, "seed")["/var"].split()[0]) > 100
    assert "/etc/machine-id (machine-id)" in report.seen(1, "mount")
    assert report.seen(2, "identity")["machine-id"] == "the same"
    assert report.seen(3, "identity")["machine-id"] == "another one"


# --- a writable /etc in memory, ssh from outside -----------------------------------------------------

STAFF = """\
kernel: {{cmdline: "panic=10"}}
state: {{device: UUID=6b7ae0b8-9f0e-4f64-9d0b-3e0c64a5d2f1, size: 16M, on_failure: volatile, volatile_size: 16M}}
users:
  - {{name: staff1, uid: 1000, authorized_keys: [key.pub]}}
files:
  - {{path: /etc/systemd/network/10-wired.network, content: "[Match]\\nType=ether\\n[Network]\\nDHCP=yes\\n"}}
units: {{enable: [systemd-networkd.service]}}
immutable: [/etc/ssh]
mounts:
  - {{path: /etc, type: overlay, upper: tmpfs, size: 8M}}
  - {{path: /var, type: overlay, upper: tmpfs, size: 32M}}
  - {{path: /home/staff1/notes, type: bind, source: state, seed: empty, owner: staff1, mode: "0700"}}
  - {{path: /srv/records, type: partition, device: LABEL=records, size: 16M, on_failure: volatile, seed: empty}}
verify: {{units: [ssh.service], tolerate_write_errors: [systemd-tmpfiles-setup.service]}}
{more}"""


def make_key(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "key"], check=True)
    return directory / "key"


def test_staff_logs_in_over_the_loopback_and_meets_the_same_host_key(rofs: Rofs, tmp_path: Path) -> None:
    key = make_key(tmp_path)
    profile = write_profile(tmp_path, "staff", STAFF.format(more=""), SSH_PACKAGES)
    done = rofs("build", profile, "--output", tmp_path, "--arch", "amd64", "--identity", key)
    report = accepted(done, tmp_path / "staff/amd64")
    for boot in range(1, 9):
        assert report.seen(boot, "ssh").keys() == {"staff1 logs in with the key", "seen from outside"}
        assert report.seen(boot, "ssh")["staff1 logs in with the key"] == "a file of staff1"
    assert report.seen(2, "identity")["machine-id"] == "the same"  # copied into the overlay on tmpfs at each boot
    assert report.seen(2, "persistent").keys() == {"/home/staff1/notes", "/srv/records"}
    assert report.seen(2, "volatile").keys() == {"/etc", "/var"}
    commands = (tmp_path / "staff/amd64/logs/qemu.log").read_text()
    assert commands.count("hostfwd=tcp:127.0.0.1:0-:22") == 8 and "restrict=on" in commands
    everything = b"".join(p.read_bytes() for p in (tmp_path / "staff/amd64").rglob("*") if p.is_file())
    assert b"PRIVATE KEY" not in everything


def test_without_state_every_boot_is_another_machine(rofs: Rofs, tmp_path: Path) -> None:
    body = (
        "mounts:\n  - {path: /var, type: overlay, upper: tmpfs, size: 32M}\n  - {path: /tmp, type: tmpfs, size: 8M}\n"
    )
    body += "verify: {units: [ssh.service]}\n"
    profile = write_profile(tmp_path, "nobody", body, SSH_PACKAGES)
    report = accepted(rofs("build", profile, "--output", tmp_path, "--arch", "amd64"), tmp_path / "nobody/amd64")
    assert report.titles == ["", ""]
    assert report.seen(2, "identity") == {"machine-id": "another one", "ssh host key": "another one"}


# --- settings that count at the next boot, and an image update under them ---------------------------

SETTINGS = """\
machine_id: transient
state: {{size: 16M, on_failure: volatile}}
files:
  - {{path: /etc/motd, content: "{motd}\\n"}}
  - {{path: /etc/issue, content: "{motd}\\n"}}
  - {{path: /var/lib/app/table, content: "{motd}\\n"}}
  - {{path: /var/lib/app/other, content: "the same in all\\n"}}
mounts:
  - {{path: /etc, type: overlay, upper: state}}
  - {{path: /var, type: overlay, upper: tmpfs, size: 32M}}
  - {{path: /var/lib/app, type: bind, source: state}}
  - {{path: /tmp, type: tmpfs, size: 8M}}
"""
UNIT = "[Unit]\\nDescription=set on the device\\n[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=true\\n"
CHANGE_SYSTEM = f"""set -e
echo set-on-device > /etc/hostname
printf '{UNIT}[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/device.service
printf '{UNIT}[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/preset.service
mkdir -p /etc/systemd/system-preset
printf 'enable preset.service\\ndisable *\\n' > /etc/systemd/system-preset/00-device.preset
systemctl enable device.service
systemctl preset preset.service
mkdir /etc/late
echo 'tmpfs /etc/late tmpfs size=64k 0 0' >> /etc/fstab
"""
CHANGE_FILES = """set -e
echo changed on the device > /etc/motd
rm /etc/issue
echo changed on the device > /var/lib/app/table
echo of the device > /var/lib/app/own
"""


@pytest.fixture(scope="module")
def versions(rofs: Rofs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("settings")
    one, two = (
        build_image(rofs, write_profile(directory / motd, "settings", SETTINGS.format(motd=motd)), directory / motd)
        for motd in ("one", "two")
    )
    return one, two


def change(image: Path, script: str, disk: Path, work: Path) -> None:
    """A first boot in which somebody changes things, and a clean shutdown."""
    first = run_guest(image, [*LOOK, wire.shell(60, script)], [copy_disk(image / "state.img", disk)], work)
    assert_running(first)
    assert first.answers[3].get("status") == 0, first.text(3)
    assert "state: new" in first.events


def test_units_presets_fstab_and_hostname_of_the_upper_count_at_the_next_boot(
    versions: tuple[Path, Path], rofs: Rofs, tmp_path: Path
) -> None:
    image, disk = versions[0], tmp_path / "state.raw"
    change(image, CHANGE_SYSTEM, disk, tmp_path / "one")
    ask = [
        *LOOK, wire.read("/proc/sys/kernel/hostname"), wire.run(30, "systemctl", "is-active", "device.service"),
        wire.run(30, "systemctl", "is-active", "preset.service"), wire.run(30, "findmnt", "-no", "FSTYPE", "/etc/late"),
        wire.read("/etc/machine-id"),
    ]  # fmt: skip
    ids = set()
    for number in (2, 3):
        again = run_guest(image, ask, [copy_disk(disk, tmp_path / f"{number}.raw")], tmp_path / str(number))
        assert_running(again)
        assert again.events == ["/var/lib/app: kept", "state: used"]
        assert [again.text(n).strip() for n in range(3, 7)] == ["set-on-device", "active", "active", "tmpfs"]
        ids.add(again.text(7).strip())
    assert len(ids) == 2 and all(re.fullmatch("[0-9a-f]{32}", i) for i in ids)  # transient, though /etc is kept
    done = rofs("verify", image, "--state", disk, "--report", tmp_path / "report")
    assert done.returncode == 4, done.stdout  # such an image is not what was promised, and the report says where
    assert "another /etc/fstab" in done.stdout and "/etc/late (tmpfs tmpfs" in done.stdout


def test_an_image_update_under_kept_state_boots_and_the_report_lists_what_is_hidden(
    versions: tuple[Path, Path], rofs: Rofs, tmp_path: Path
) -> None:
    one, two = versions
    disk = tmp_path / "state.raw"
    change(one, CHANGE_FILES, disk, tmp_path / "change")
    before = disk.read_bytes()
    done = rofs("verify", two, "--state", disk, "--report", tmp_path / "report")
    report = accepted(done, tmp_path / "report")
    assert report.titles == ["state of a device"] * 2
    for boot in (1, 2):
        hidden = report.seen(boot, "hidden by state")
        assert re.search(r"\bmotd differs in \S*.*content", hidden["/etc"]) and "issue deleted" in hidden["/etc"]
        assert "table differs in" in hidden["/var/lib/app"] and "other" not in hidden["/var/lib/app"]
    assert report.seen(2, "persistent").keys() == {"/etc", "/var/lib/app"}
    assert disk.read_bytes() == before
    look = [*LOOK, wire.read("/etc/motd"), wire.read("/var/lib/app/table"), wire.read("/run/rofs/image/etc/motd")]
    ran = run_guest(two, look, [copy_disk(disk, tmp_path / "again.raw")], tmp_path / "again")
    assert_running(ran)
    assert [ran.text(n) for n in (3, 4, 5)] == ["changed on the device\n"] * 2 + ["two\n"]
    reset = run_guest(
        two, look, [copy_disk(disk, tmp_path / "reset.raw")], tmp_path / "reset", words="rofs.reset=1"
    )  # fmt: skip
    assert_running(reset)
    assert reset.events == ["/var/lib/app: seeded", "state: reset"]
    assert [reset.text(n) for n in (3, 4, 5)] == ["two\n"] * 3
    shutil.rmtree(tmp_path, ignore_errors=True)
