# SPDX-License-Identifier: MIT
"""State that fell back, was seeded badly, forgot, or remembers too much: the check of that promise says so."""

from __future__ import annotations

from typing import Any

import pytest
from guest import BOOTED, Answer, Guest, Rule, content, mounted, rejected, replaced
from state_layouts import boot_of, made

from rofs.layout import EVENTS, RESET_FLAG, STATE
from rofs.verify.state import state_checks
from rofs.verify.volatile import CANARY, survives

SAID = f"read {EVENTS}"
APP = "compare /run/rofs/state/data/bind/var-lib-app /run/rofs/image/var/lib/app"
STORE = "compare /srv/store /run/rofs/image/srv/store"
ETC = "compare /run/rofs/state/data/overlay/etc/upper /run/rofs/image/etc upper"
ON_STATE = {"mount: /run/rofs/state (state)", "mount: /srv/store (partition)"}


def guest(state: str, number: int | None = None, name: str = "state") -> Guest:
    return Guest(*made(name), boot_of(name, state, number))


def lying(state: str, op: str, rule: Rule, name: str = "state") -> Guest:
    found = guest(state, name=name)
    found.rules[op] = rule
    return found


def compared(*entries: Answer, **facts: Any) -> Answer:
    """An answer to `compare`."""
    counts = {"compared": 9, "equal": 9 - len(entries), "files": 5, "truncated": False}
    return {"errno": None, "entries": list(entries), **counts, **facts}


def differs(path: str, *what: str, how: str = "differs", mtime: int = BOOTED + 60) -> Answer:
    return {"path": path, "how": how, "mtime": mtime, **({"what": list(what)} if what else {})}


def checks_of(state: str, number: int | None = None, name: str = "state") -> set[str]:
    return {c.name for c in state_checks(made(name)[0], boot_of(name, state, number))}


# --- which ------------------------------------------------------------------------------------------


def test_nothing_where_nothing_persists() -> None:
    assert checks_of("none", name="rich") == set()


@pytest.mark.parametrize("state", ["new", "used", "reset", "lost"])
def test_each_promise_is_looked_at(state: str) -> None:
    names = checks_of(state)
    assert {n.partition(" (")[0] for n in names if n.startswith("state: ")} == {"state: state", "state: /srv/store"}
    assert {"seeded once: /var/lib/app", "seeded once: /srv/store", "hidden by state: /etc"} <= names
    assert {n for n in names if n.startswith("seed: ")} == (
        set() if state == "used" else {"seed: /var/lib/app", "seed: /srv/store"}
    )


@pytest.mark.parametrize(
    ("state", "number", "promise"),
    [("new", 1, ""), ("used", 2, "persistent"), ("reset", 3, "factory reset"), ("lost", 4, ""), ("kept", 1, ""),
     ("kept", 2, "persistent")],
)  # fmt: skip
def test_a_boot_looks_for_what_the_one_before_left_on_its_disks(state: str, number: int, promise: str) -> None:
    lasting = {"/etc", "/var/lib/app", "/var/www", "/srv/store", "/srv/shown"}
    names = checks_of(state, number)
    for other in ("persistent", "factory reset"):
        found = {n.partition(": ")[2] for n in names if n.startswith(f"{other}: /")} - {str(STATE)}
        found = {n for n in found if not n.startswith(str(RESET_FLAG))}
        assert found == (lasting if other == promise else set())


def test_a_writable_bind_lasts_as_long_as_what_it_shows() -> None:
    for name, lasting in (("state", True), ("rich", False)):
        layout, _ = made(name)
        (shown,) = [m for m in layout.mounts if m.promise.value == "bind-rw"]
        assert survives(layout, shown) is lasting


# --- whether it is there ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["new", "used", "reset", "kept"])
def test_a_fall_back_in_silence(state: str) -> None:
    quiet = guest(state)
    quiet.table = guest("lost").table
    found = rejected(quiet)
    assert set(found) == ON_STATE
    assert all("type is tmpfs, not ext4" in seen for seen in found.values())


def test_a_disk_that_is_used_although_it_is_broken() -> None:
    bold = guest("lost")
    bold.table = guest("used").table
    found = rejected(bold)
    assert set(found) == ON_STATE and all("type is ext4, not tmpfs" in seen for seen in found.values())


def test_what_stands_in_has_its_cap() -> None:
    found = rejected(mounted(guest("lost"), "/run/rofs/state", ",size=32768k", ""))
    assert list(found) == ["mount: /run/rofs/state (state)"]
    assert "size is not set, not 32768k" in found["mount: /run/rofs/state (state)"]


@pytest.mark.parametrize(
    ("path", "old", "new", "name", "seen"),
    [
        ("/run/rofs/state", "254:16", "254:32", "/run/rofs/state (state)", "on device 254:32, its disk is 254:16"),
        ("/srv/store", "254:32", "254:16", "/srv/store (partition)", "on device 254:16, its disk is 254:32"),
        ("/run/rofs/state", "rw,nosuid,nodev,noatime", "rw,nosuid,noatime", "/run/rofs/state (state)", "flags are"),
        ("/run/rofs/state", "rw,nosuid", "ro,nosuid", "/run/rofs/state (state)", "flags are noatime,nodev,nosuid,ro"),
        ("/var/lib/app", "/data/bind/var-lib-app", "/data/bind/var-www", "/var/lib/app (bind-state)", "shows /data"),
        ("/var/lib/app", "254:16", "0:77", "/var/lib/app (bind-state)", "of 0:77, not "),
    ],
)
def test_another_disk_or_directory(path: str, old: str, new: str, name: str, seen: str) -> None:
    found = rejected(mounted(guest("used"), path, old, new))
    assert seen in found[f"mount: {name}"]


def test_the_mount_of_state_is_roots_alone() -> None:
    found = rejected(lying("used", "lstat /run/rofs/state", lambda true: {**true, "mode": 0o755}))
    assert "mode is 0755, not 0700" in found["mount: /run/rofs/state (state)"]


@pytest.mark.parametrize(
    ("state", "old", "new", "names"),
    [
        ("used", "state: used", "state: volatile, no room", {"state: state (state used)"}),
        ("used", "state: used", "state: new", {"state: state (state used)"}),
        ("used", "state: used\n", "", {"state: state (state used)"}),
        ("used", "state: used\n", "state: volatile, x\nstate: used\n", {"state: state (state used)"}),
        ("new", "state: new", "state: used", {"state: state (state new)"}),
        ("kept", "state: used", "state: new", {"state: state (state of a device)"}),
        ("reset", "state: reset", "state: used", {"state: state (factory reset)"}),
        ("lost", "state: volatile, ", "state: ", {"state: state (state missing)"}),
        (
            "lost", "/srv/store: volatile, ", "/srv/store: ",
            {"state: /srv/store (state missing)", "seeded once: /srv/store"},
        ),
        (
            "used", "/srv/store: kept", "/srv/store: volatile, x\n/srv/store: seeded",
            {"state: /srv/store (state used)", "seeded once: /srv/store"},
        ),
        (
            "reset", "/srv/store: seeded", "/srv/store: kept",
            {"state: /srv/store (factory reset)", "seeded once: /srv/store"},
        ),
    ],
)  # fmt: skip
def test_the_initrds_own_word(state: str, old: str, new: str, names: set[str]) -> None:
    assert set(rejected(lying(state, SAID, replaced(old, new)))) == names


def test_no_word_at_all() -> None:
    found = rejected(lying("new", SAID, {"errno": "ENOENT"}))
    assert set(found) == {
        "state: state (state new)", "state: /srv/store (state new)", "seeded once: /var/lib/app",
        "seeded once: /var/www", "seeded once: /srv/store",
    }  # fmt: skip
    assert found["state: state (state new)"] == "the initrd says nothing of it"


# --- overlays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "old", "new", "seen"),
    [
        ("/etc", "upperdir=/run/rofs/state/data/overlay/", "upperdir=/run/rofs/tmpfs/", "upperdir is /run/rofs/tmpfs"),
        ("/etc", "workdir=/run/rofs/state/data/overlay/", "workdir=/run/rofs/tmpfs/", "workdir is /run/rofs/tmpfs"),
        ("/etc", "lowerdir=/run/rofs/image/etc", "lowerdir=/etc", "lowerdir is /etc"),
        ("/etc", " - overlay overlay ", " - tmpfs overlay ", "type is tmpfs, not overlay"),
        ("/var", "upperdir=/run/rofs/tmpfs/", "upperdir=/run/rofs/state/data/overlay/", "upperdir is /run/rofs/state"),
        ("/etc", "workdir=", "index=on,workdir=", "index is on, not off"),
        ("/etc", "workdir=", "redirect_dir=on,workdir=", "redirect_dir is on, not off"),
        ("/etc", "workdir=", "metacopy=on,workdir=", "metacopy is on, not off"),
        ("/etc", "workdir=", "xino=on,workdir=", "xino is on, not off"),
        ("/etc", "workdir=", "volatile,workdir=", "undeclared options volatile"),
        ("/etc", "workdir=", "nfs_export=on,workdir=", "undeclared options nfs_export"),
        ("/var", "workdir=", "index=on,workdir=", "undeclared options index"),
    ],
)
def test_an_overlay_that_is_another(path: str, old: str, new: str, seen: str) -> None:
    found = rejected(mounted(guest("new"), path, old, new))
    (name,) = found
    assert name.startswith(f"mount: {path} (overlay-") and seen in found[name]


def test_a_safe_option_may_be_shown() -> None:
    """Where it is not the kernel's default it is shown as it was given."""
    assert rejected(mounted(guest("new"), "/etc", "workdir=", "xino=off,workdir=")) == {}


# --- seeds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["new", "reset", "lost"])
@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (compared(differs("calibration.json", how="missing")), "calibration.json missing"),
        (compared(differs("calibration.json", "content")), "calibration.json differs in content"),
        (compared(differs("a%20b", "mode", "owner")), "a%20b differs in mode and owner"),
        (compared(differs("ping", "xattrs")), "ping differs in xattrs"),
        (compared(differs("link", "type")), "link differs in type"),
        (compared(differs("dir", "mount")), "dir differs in mount"),
        (compared(differs("x", "unreadable")), "x differs in unreadable"),
        (compared(differs("log", "content", "mtime"), differs("x", "content")), "1 written since"),
        (compared(truncated=True), "9 of the image's paths"),
        (compared(differs("log", "content", "mtime", mtime=BOOTED - 11)), "log differs in content and mtime; 9 of"),
        (compared(differs("log", "mtime", mtime=0), differs("x", "content", "mtime")), "log differs in mtime; 9 of"),
        (compared({"path": "log", "how": "differs", "what": ["mtime"]}), "log differs in mtime"),
        (compared(errno="ENOENT"), "cannot be compared: ENOENT"),
        (compared(errno="EIO"), "cannot be compared: EIO"),
        (compared(differs("a", "content", "mtime"), differs("b", "mtime"), files=2), "nothing is left to compare"),
    ],
)
def test_a_seed_that_is_no_copy(state: str, answer: Answer, seen: str) -> None:
    found = rejected(lying(state, APP, answer))
    assert list(found) == ["seed: /var/lib/app"]
    assert seen in found["seed: /var/lib/app"]


def test_what_a_service_wrote_since_is_its_own() -> None:
    entries = [differs("log", "size", "content", "mtime"), differs("state", "mode", "mtime")]
    answer = compared(*entries)
    assert rejected(lying("new", APP, answer)) == {}
    (check,) = [c for c in state_checks(made("state")[0], boot_of("state", "new")) if c.name == "seed: /var/lib/app"]
    verdict = lying("new", APP, answer).ask(check)
    assert verdict.ok and verdict.seen == "9 of the image's paths, 7 equal, 2 written since"


STAT, RUN = "read /proc/stat", "lstat /run/rofs"


@pytest.mark.parametrize(
    ("started", "made", "written", "ok"),
    [
        (BOOTED, BOOTED, BOOTED - 10, True),
        (BOOTED, BOOTED, BOOTED - 11, False),
        (300, 302, 310, True),  # no clock at all, so 1970
        (BOOTED, 302, 310, True),  # the initrd had none, and then PID 1 set it
        (BOOTED, 302, BOOTED, True),
        (302, BOOTED, 310, True),  # set back
        (BOOTED, 302, 100, False),
        (1_600_000_000, 1_600_000_000, 1_650_000_000, True),  # before the image was built
    ],
)
def test_when_it_was_written_is_said_by_the_guests_own_clock(started: int, made: int, written: int, ok: bool) -> None:
    other = lying("new", APP, compared(differs("log", "content", "mtime", mtime=written)))
    other.rules[STAT] = replaced(str(BOOTED), str(started))
    other.rules[RUN] = lambda true: {**true, "mtime": made}
    assert set(rejected(other)) & {"seed: /var/lib/app"} == (set() if ok else {"seed: /var/lib/app"})


@pytest.mark.parametrize(
    ("op", "answer"),
    [(STAT, content("cpu 1\n")), (STAT, {"errno": "EIO"}), (STAT, content("btime x\n")), (RUN, {"errno": "ENOENT"})],
)
def test_a_boot_of_which_nobody_knows_when_it_began(op: str, answer: Answer) -> None:
    found = rejected(lying("new", op, answer))
    assert found["seed: /var/lib/app"] == "nobody knows when the boot began"
    assert found["image content: /etc"].endswith("nobody knows when the boot began")


def test_an_empty_directory_is_a_whole_seed() -> None:
    assert rejected(lying("new", APP, compared(compared=0, equal=0, files=0))) == {}


def test_what_is_mounted_inside_a_partition_is_not_its_seed() -> None:
    inner = differs("cache", "mount")
    assert rejected(lying("new", STORE, compared(inner, differs("cache/x", how="missing")))) == {}
    for other in ("cachet", "other"):
        found = rejected(lying("new", STORE, compared(inner, differs(other, "mount"))))
        assert f"{other} differs in mount" in found["seed: /srv/store"]


def test_an_update_may_bring_a_bind_that_the_state_has_not_yet() -> None:
    said = replaced("/var/lib/app: kept", "/var/lib/app: seeded")
    assert rejected(lying("kept", SAID, said)) == {}


@pytest.mark.parametrize(
    ("state", "old", "new"),
    [
        ("used", "/var/lib/app: kept", "/var/lib/app: seeded"),
        ("used", "/var/www: kept", "/var/www: seeded"),
        ("kept", "/var/lib/app: kept", "/var/lib/app: kept\n/var/lib/app: seeded"),
        ("new", "/var/lib/app: seeded", "/var/lib/app: kept"),
        ("reset", "/var/lib/app: seeded", "/var/lib/app: kept"),
        ("lost", "/var/lib/app: seeded\n", ""),
    ],
)
def test_seeded_twice_or_never(state: str, old: str, new: str) -> None:
    name = f"seeded once: {old.partition(':')[0]}"
    assert list(rejected(lying(state, SAID, replaced(old, new)))) == [name]


# --- what survives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [None, b"", b"rofs boot 2", b"rofs boot 11", b"\xff"])
def test_what_was_written_is_gone_or_of_another_boot(words: bytes | None) -> None:
    forgetful = guest("used")
    if words is None:
        del forgetful.files[f"/etc/{CANARY}"]
    else:
        forgetful.files[f"/etc/{CANARY}"] = words
    assert list(rejected(forgetful)) == ["persistent: /etc"]


def test_what_a_bind_shows_is_gone_with_it() -> None:
    forgetful = guest("kept", 2)
    del forgetful.files[f"/var/lib/app/{CANARY}"]
    assert set(rejected(forgetful)) == {"persistent: /var/lib/app", "persistent: /srv/shown"}


@pytest.mark.parametrize("state", ["used", "reset"])
@pytest.mark.parametrize("path", ["/tmp", "/var", "/var/lib/app/inner", "/srv/store/cache"])
def test_what_is_volatile_does_not_survive(state: str, path: str) -> None:
    keen = guest(state)
    keen.files[f"{path}/{CANARY}"] = b"rofs boot 1"
    assert list(rejected(keen)) == [f"volatile: {path}"]


# --- the factory reset ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/etc", "/var/www", "/srv/store"])
def test_what_a_reset_must_take(path: str) -> None:
    keen = guest("reset")
    keen.files[f"{path}/{CANARY}"] = b"rofs boot 2"
    assert rejected(keen) == {f"factory reset: {path}": f"{CANARY} is still there"}


@pytest.mark.parametrize(
    "names", [["data", "factory-reset"], ["data", "data.old"], ["data", ".rofs-proof"], ["lost+found"], [], None]
)
def test_what_a_reset_leaves_on_the_partition(names: list[str] | None) -> None:
    found = rejected(lying("reset", f"list {STATE}", lambda true: {**true, "names": names}))
    assert list(found) == [f"factory reset: {STATE}"]


def test_a_flag_that_is_still_there_is_seen() -> None:
    keen = guest("reset")
    keen.files[str(RESET_FLAG)] = b""
    assert rejected(keen) == {f"factory reset: {STATE}": "data, factory-reset, lost+found"}


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        (f"canary {RESET_FLAG} ", {"errno": "EROFS"}),
        ("sync", {"errno": "EIO"}),
        (f"exists {RESET_FLAG}", {"errno": None, "exists": False}),
        (f"exists {RESET_FLAG}", {"errno": "EIO"}),
    ],
)
def test_a_flag_that_was_not_set_proves_nothing(op: str, answer: Answer) -> None:
    assert f"factory reset: {RESET_FLAG} for the next boot" in rejected(lying("used", op, answer))


def test_the_flag_is_the_last_thing_that_is_done() -> None:
    """Nothing that is judged may come after it."""
    names = [c.name for c in state_checks(made("state")[0], boot_of("state", "used"))]
    assert names[-1] == f"factory reset: {RESET_FLAG} for the next boot"
    for state, number in (("new", 1), ("reset", 3), ("lost", 4), ("kept", 1), ("kept", 2)):
        assert not [n for n in checks_of(state, number) if str(RESET_FLAG) in n]


def test_without_a_state_partition_there_is_no_place_for_a_flag() -> None:
    assert not [n for n in checks_of("used", name="partitions") if "flag" in n or str(RESET_FLAG) in n]
    assert {n for n in checks_of("reset", name="partitions") if n.startswith("factory reset")} == {
        "factory reset: /var", "factory reset: /srv/store",
    }  # fmt: skip


# --- what hides the image ---------------------------------------------------------------------------


def hidden(answer: Answer, where: str = "/etc") -> tuple[bool, str]:
    checks = state_checks(made("state")[0], boot_of("state", "kept"))
    (check,) = [c for c in checks if c.name == f"hidden by state: {where}"]
    verdict = check.judge([answer])
    return verdict.ok, verdict.seen


def test_what_hides_the_image_is_listed_by_name_and_not_judged() -> None:
    entries = [differs("ssh", how="deleted"), differs("x", how="opaque"), differs("hosts", how="same"),
               differs("app.conf", "content", "mtime")]  # fmt: skip
    words = "app.conf differs in content and mtime, hosts same, ssh deleted, x opaque"
    assert hidden(compared(*entries)) == (True, words)
    assert rejected(lying("kept", ETC, compared(*entries))) == {}
    changed = compared(differs("calibration.json", "content"))
    assert hidden(changed, "/var/lib/app") == (True, "calibration.json differs in content")


def test_the_machine_id_is_no_news() -> None:
    nothing = (True, "nothing of the image is hidden")
    assert hidden(compared(differs("machine-id", "content"))) == hidden(compared()) == nothing
    assert hidden(compared(differs("sub/machine-id", "content")))[1] == "sub/machine-id differs in content"
    assert hidden(compared(differs("machine-id", "content")), "/var/lib/app")[1] == "machine-id differs in content"


def test_a_long_list_says_that_it_is_cut() -> None:
    entries = [differs(f"f{n:02}", "content") for n in range(21)]
    assert hidden(compared(*entries))[1].endswith(", f19 differs in content, and more")
    assert not hidden(compared(*entries[:20]))[1].endswith("and more")
    assert hidden(compared(entries[0], truncated=True))[1] == "f00 differs in content, and more"


@pytest.mark.parametrize("errno", ["ENOENT", "EIO"])
@pytest.mark.parametrize(("op", "name"), [(ETC, "/etc"), (APP, "/var/lib/app"), (STORE, "/srv/store")])
def test_a_list_that_cannot_be_had_is_a_broken_promise(op: str, name: str, errno: str) -> None:
    found = rejected(lying("kept", op, compared(errno=errno)))
    assert found == {f"hidden by state: {name}": f"cannot be compared: {errno}"}


def test_on_the_state_of_a_device_it_is_the_image_that_is_as_generated() -> None:
    """What the device changed is no broken promise; an image that is not as it was built is one."""
    changed = content("b: 2\n")
    assert rejected(lying("kept", "read /etc/app.conf 65536", changed)) == {}
    inside = rejected(lying("kept", "read /run/rofs/image/etc/app.conf 65536", changed))
    assert list(inside) == ["generated: files[0]: /etc/app.conf"]
    outside = rejected(lying("new", "read /etc/app.conf 65536", changed))
    assert list(outside) == ["generated: files[0]: /etc/app.conf"]


def test_a_name_that_the_device_deleted_is_listed_alone() -> None:
    def without_a(true: Answer) -> Answer:
        return {**true, "names": [n for n in true["names"] if n != "a"]}

    assert rejected(lying("kept", "list /etc", without_a)) == {}
    assert list(rejected(lying("new", "list /etc", without_a))) == ["image content: /etc"]


def test_what_is_mounted_inside_a_partition_hides_nothing() -> None:
    assert hidden(compared(differs("cache", "mount")), "/srv/store") == (True, "nothing of the image is hidden")
