# SPDX-License-Identifier: MIT
"""rofs.explain: every row of the design's table of promises, what hides what, and who says so."""

from __future__ import annotations

import json
from functools import cache
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import KEPT, P, layout_of, profile_of
from state_layouts import FACTS, TEXTS, made

from rofs.explain import (
    After,
    Explanation,
    Fate,
    Lost,
    explain,
    explanation_data,
    parse_path,
    render_explanation,
)
from rofs.layout import SYSTEM_OWNED, Layout, Promise, Stage, build_layout, is_within

SAME, NEW, IMAGE, EMPTY = Fate.SAME, Fate.NEW_IMAGE, Fate.IMAGE, Fate.EMPTY
KEPT_, FLUSHED, HIDES, ANEW = Fate.KEPT, Fate.FLUSHED, Fate.HIDES, Fate.ANEW
EXTRA = """\
state: {on_failure: volatile}
mounts:
  - {path: /var, type: bind, source: tmpfs, size: 8M}
  - {path: /srv, type: bind, source: tmpfs, size: 8M, seed: empty}
  - {path: /opt/run, type: bind, source: /run/user, access: rw}
  - {path: /opt/twice, type: bind, source: /opt/run}
"""
"""What the others lack: seeded and empty tmpfs, and a bind of what PID 1 keeps."""


@cache
def layout_for(name: str) -> Layout:
    texts = {"kept": KEPT, "extra": EXTRA}
    return layout_of(texts[name], FACTS) if name in texts else made(name)[0]


def at(name: str, path: str) -> Explanation:
    return explain(layout_for(name), P(path))


def keys(explanation: Explanation) -> list[str]:
    return [place["key"] for place in explanation_data(explanation)["places"]]


# --- the table of promises ------------------------------------------------------------------------

ROWS = {
    "nothing": ("state", "/opt/x", Promise.IMAGE_RO, False, After(SAME, SAME, SAME, NEW), []),
    "immutable": ("state", "/usr/bin/x", Promise.IMAGE_RO, False, After(SAME, SAME, SAME, NEW), ["immutable[0]"]),
    "island": ("state", "/etc/ssh/x", Promise.PINNED_RO, False, After(SAME, SAME, SAME, NEW), ["immutable[1]"]),
    "tmpfs": ("state", "/tmp/x", Promise.TMPFS, True, After(EMPTY, EMPTY, EMPTY, EMPTY), ["mounts[9]"]),
    "overlay tmpfs": ("state", "/var/x", Promise.OVERLAY_TMPFS, True, After(IMAGE, IMAGE, IMAGE, NEW), ["mounts[1]"]),
    "overlay state": (
        "state", "/etc/x", Promise.OVERLAY_STATE, True, After(KEPT_, FLUSHED, IMAGE, HIDES), ["mounts[0]", "state"],
    ),
    "bind state": (
        "state", "/var/lib/app/x", Promise.BIND_STATE, True, After(KEPT_, FLUSHED, IMAGE, KEPT_),
        ["mounts[2]", "state"],
    ),
    "bind state, empty": (
        "state", "/var/www/x", Promise.BIND_STATE, True, After(KEPT_, FLUSHED, EMPTY, KEPT_), ["mounts[4]", "state"],
    ),
    "bind tmpfs": ("extra", "/var/x", Promise.BIND_TMPFS, True, After(IMAGE, IMAGE, IMAGE, NEW), ["mounts[0]"]),
    "bind tmpfs, empty": (
        "extra", "/srv/x", Promise.BIND_TMPFS, True, After(EMPTY, EMPTY, EMPTY, EMPTY), ["mounts[1]"],
    ),
    "bind rw": (
        "state", "/srv/shown/x", Promise.BIND_STATE, True, After(KEPT_, FLUSHED, IMAGE, KEPT_),
        ["mounts[7]", "mounts[2]", "state"],
    ),
    "bind ro": (
        "state", "/srv/looked/x", Promise.BIND_STATE, False, After(KEPT_, FLUSHED, EMPTY, KEPT_),
        ["mounts[8]", "mounts[4]", "state"],
    ),
    "bind of the image": (
        "rich", "/srv/doc/x", Promise.IMAGE_RO, False, After(SAME, SAME, SAME, NEW), ["mounts[7]", "immutable[0]"],
    ),
    "partition": (
        "partitions", "/var/x", Promise.PARTITION, True, After(KEPT_, FLUSHED, IMAGE, KEPT_), ["mounts[0]"],
    ),
    "partition, empty": (
        "partitions", "/srv/store/x", Promise.PARTITION, True, After(KEPT_, FLUSHED, EMPTY, KEPT_), ["mounts[1]"],
    ),
    "machine-id, bound": (
        "bound", "/etc/machine-id", Promise.MACHINE_ID, False, After(KEPT_, KEPT_, ANEW, KEPT_),
        ["machine_id", "state"],
    ),
    "machine-id, written": (
        "state", "/etc/machine-id", Promise.OVERLAY_STATE, True, After(KEPT_, KEPT_, ANEW, KEPT_),
        ["mounts[0]", "machine_id", "state"],
    ),
    "machine-id, transient": (
        "transient", "/etc/machine-id", Promise.OVERLAY_STATE, True, After(ANEW, ANEW, ANEW, ANEW),
        ["mounts[0]", "machine_id", "state"],
    ),
    "of the system": ("state", "/run/x", None, None, After(ANEW, ANEW, ANEW, ANEW), []),
    "bind of the system's": ("extra", "/opt/run/x", None, True, After(ANEW, ANEW, ANEW, ANEW), ["mounts[2]"]),
    "behind the promises": ("state", "/run/rofs/state/x", Promise.STATE, None, None, ["state"]),
    "the image's content": ("state", "/run/rofs/image/etc/x", Promise.IMAGE_RO, False, None, []),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_of_the_table(
    row: tuple[str, str, Promise | None, bool | None, After | None, list[str]],
) -> None:
    name, path, promise, writable, after, places = row
    seen = at(name, path)
    assert (seen.promise, seen.writable, keys(seen)) == (promise, writable, places)
    assert after in (None, seen.after)
    text = render_explanation(seen)
    assert text.startswith(f"{path}\n") and "None" not in text
    for place in seen.places:
        assert place.mark is None or f"{place.mark.file}:{place.mark.line}: " in text


def test_every_promise_of_the_layouts_has_its_words() -> None:
    for name in (*TEXTS, "kept", "extra"):
        for mount in layout_for(name).mounts:
            render_explanation(explain(layout_for(name), mount.where))


# --- the one model decides ------------------------------------------------------------------------


def paths() -> st.SearchStrategy[tuple[str, PurePosixPath]]:
    """At, above and below everything that is mounted, shown or declared in any of the layouts."""

    def below(name: str) -> st.SearchStrategy[tuple[str, PurePosixPath]]:
        layout = layout_for(name)
        known = {m.where for m in layout.mounts} | {P(m.what) for m in layout.mounts if m.what.startswith("/")}
        known |= {*layout.immutable, *layout.top_level}
        bases = sorted(known | {parent for path in known for parent in path.parents})
        tail = st.lists(st.sampled_from(["x", "lib", "ssh", "system"]), max_size=2)
        return st.builds(lambda base, more: (name, base.joinpath(*more)), st.sampled_from(bases), tail)

    return st.sampled_from([*TEXTS, "kept", "extra"]).flatmap(below)


@given(paths())
def test_it_says_of_every_path_what_the_layout_says(where: tuple[str, PurePosixPath]) -> None:
    name, path = where
    layout = layout_for(name)
    seen = explain(layout, path)
    if seen.writable is None:
        assert any(is_within(path, owned) for owned in SYSTEM_OWNED)
    assert bool(seen.writable) is layout.is_writable(path)
    assert (seen.strength is not None) is (seen.writable is False)
    assert seen.lands is None or seen.writable
    json.dumps(explanation_data(seen))
    render_explanation(seen)


# --- nested ---------------------------------------------------------------------------------------


def test_a_pinned_directory_is_written_as_its_surroundings_and_cannot_be_renamed() -> None:
    pin, inside, island = (at("state", p) for p in ("/etc/systemd", "/etc/systemd/x", "/etc/systemd/system"))
    assert (pin.promise, pin.writable, pin.shown_from) == (Promise.OVERLAY_STATE, True, ())
    assert keys(pin) == ["immutable[3]", "mounts[0]", "state"]
    assert pin.below == (P("/etc/systemd/system"),)
    (note,) = pin.notes
    assert "cannot be renamed" in note and "/etc/systemd/system" in note
    assert inside.writable and not inside.notes
    assert (island.writable, island.strength) == (False, "pinned-ro")


def test_a_bind_shows_its_source_and_not_what_is_mounted_below_that() -> None:
    """/var/lib/app/inner is a tmpfs; the bind of /var/lib/app shows the directory under it."""
    assert at("state", "/var/lib/app/inner/x").promise is Promise.TMPFS
    shown = at("state", "/srv/shown/inner/x")
    assert (shown.promise, shown.shown_from) == (Promise.BIND_STATE, (P("/var/lib/app/inner/x"),))


def test_a_bind_of_a_bind_is_followed_to_its_end() -> None:
    twice = at("extra", "/opt/twice/x")
    assert twice.shown_from == (P("/opt/run/x"), P("/run/user/x")) and twice.promise is None
    assert (twice.writable, twice.strength) == (False, "mount-ro")
    assert any("root may remount" in note for note in twice.notes)


@pytest.mark.parametrize(
    ("name", "path", "strength"),
    [
        ("state", "/usr", "image-ro"),
        ("state", "/etc/ssh", "pinned-ro"),
        ("state", "/srv/looked", "mount-ro"),
        ("rich", "/srv/doc", "pinned-ro"),
        ("bound", "/etc/machine-id", "mount-ro"),
        ("state", "/tmp", None),
    ],
)
def test_what_makes_it_read_only(name: str, path: str, strength: str | None) -> None:
    assert at(name, path).strength == strength


# --- where it lands, since when, and without state ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "lands"),
    [
        ("state", "/etc/a/b", ("/run/rofs/state/data/overlay/etc/upper/a/b", "LABEL=state", 64 << 20, True)),
        ("state", "/var/lib/app/db", ("/run/rofs/state/data/bind/var-lib-app/db", "LABEL=state", 64 << 20, True)),
        ("state", "/srv/shown/db", ("/run/rofs/state/data/bind/var-lib-app/db", "LABEL=state", 64 << 20, True)),
        ("state", "/var/log", ("/run/rofs/tmpfs/var/upper/log", None, 16 << 20, False)),
        ("state", "/tmp/a", ("/tmp/a", None, 4 << 20, False)),
        ("extra", "/srv/a", ("/run/rofs/tmpfs/srv/data/a", None, 8 << 20, False)),
        ("partitions", "/var/a", ("/var/a", "LABEL=var", 64 << 20, False)),
        ("extra", "/opt/run/a", None),
        ("state", "/usr/a", None),
    ],
)
def test_where_it_lands_and_what_fits(name: str, path: str, lands: tuple[str, str | None, int, bool] | None) -> None:
    seen = at(name, path).lands
    assert lands == (seen and (str(seen.path), seen.device, seen.size_bytes, seen.shared))
    if seen is not None:
        text = render_explanation(at(name, path))
        assert f"{seen.path}, {'on ' + seen.device if seen.device else 'in memory'}" in text
        assert f"{seen.size_bytes >> 20}M" in text


@pytest.mark.parametrize(
    ("name", "path", "stage", "unit"),
    [
        ("state", "/usr", Stage.INITRD, None),
        ("state", "/etc/x", Stage.INITRD, None),
        ("state", "/var/lib/app/x", Stage.SYSTEMD, "var-lib-app.mount"),
        ("state", "/run", None, None),
    ],
)
def test_since_when(name: str, path: str, stage: Stage | None, unit: str | None) -> None:
    seen = at(name, path)
    assert (seen.stage, seen.unit) == (stage, unit)
    assert {None: "running", Stage.INITRD: "before PID 1", Stage.SYSTEMD: str(unit)}[stage] in render_explanation(seen)


@pytest.mark.parametrize(
    ("name", "path", "lost"),
    [
        ("state", "/etc/x", ("state", "volatile", IMAGE, 32 << 20)),
        ("state", "/var/www/x", ("state", "volatile", EMPTY, 32 << 20)),
        ("state", "/srv/looked/x", ("state", "volatile", EMPTY, 32 << 20)),
        ("state", "/etc/machine-id", ("state", "volatile", ANEW, 32 << 20)),
        ("bound", "/var/x", ("state", "refuse", IMAGE, 64 << 20)),
        ("partitions", "/var/x", ("/var", "volatile", IMAGE, 64 << 20)),
        ("partitions", "/srv/store/x", ("/srv/store", "refuse", EMPTY, 64 << 20)),
        ("transient", "/etc/machine-id", None),
        ("state", "/var/x", None),
        ("state", "/usr", None),
    ],
)
def test_what_happens_when_the_state_is_lost(name: str, path: str, lost: tuple[object, ...] | None) -> None:
    seen = at(name, path)
    assert lost == (seen.lost and (seen.lost.store, seen.lost.policy, seen.lost.fate, seen.lost.room_bytes))
    if isinstance(seen.lost, Lost):
        said = f"(on_failure: {seen.lost.policy}, {seen.lost.mark.file}:{seen.lost.mark.line})"
        assert said in render_explanation(seen)


def test_another_file_system_may_keep_the_device_from_starting() -> None:
    assert any("/srv/store the device does not start" in note for note in at("partitions", "/usr").notes)
    assert not any("does not start" in note for note in at("partitions", "/srv/store/x").notes)
    assert not any("does not start" in note for note in at("state", "/usr").notes)


def test_without_systemd_the_initrd_mounts_everything_and_makes_the_machine_id() -> None:
    layout = layout_of("init: other\nmounts:\n  - {path: /tmp, type: tmpfs}\n")
    tmp, identity = explain(layout, P("/tmp/x")), explain(layout, P("/etc/machine-id"))
    assert (tmp.stage, tmp.unit) == (Stage.INITRD, None)
    assert (identity.promise, identity.writable, identity.lost) == (Promise.MACHINE_ID, False, None)
    assert identity.after.reboot is ANEW
    assert any("the initrd makes a new id" in note for note in identity.notes)


# --- who says so ----------------------------------------------------------------------------------


def test_the_line_is_the_line_of_the_profile() -> None:
    profile = profile_of(
        "immutable: [/usr]\nmounts:\n  - {path: /tmp, type: tmpfs}\nfiles:\n  - {path: /a, content: x}"
    )
    layout = build_layout(profile, None)
    for path, line, key in (("/usr/x", 4, "immutable[0]"), ("/tmp/x", 6, "mounts[0]"), ("/a", 8, "files[0]")):
        seen = explain(layout, P(path))
        (place,) = seen.places
        assert place.mark is not None and place.mark.line == line
        assert f"profile.yaml:{line}: {key}\n" in render_explanation(seen)


def test_undeclared_means_immutable_and_is_said() -> None:
    assert "nothing in the profile names it: undeclared means immutable" in render_explanation(at("state", "/opt"))
    assert "undeclared" not in render_explanation(at("state", "/usr"))
    assert "undeclared" not in render_explanation(at("state", "/run"))
    file = explain(layout_of('files: [{path: /a, content: "x"}]'), P("/a"))
    assert "files[0]" in render_explanation(file) and "nothing else" in render_explanation(file)


def test_without_the_packages_it_says_what_it_does_not_know() -> None:
    profile = profile_of(TEXTS["state"])
    unknown, known = (explain(build_layout(profile, facts), P("/bin/x")) for facts in (None, FACTS))
    line = "symbolic links of the tree are not followed"
    assert line in render_explanation(unknown) and line not in render_explanation(known)


def test_what_may_be_missing_and_what_is_generated() -> None:
    assert any(note.startswith("required: false") for note in at("rich", "/srv/extra/x").notes)
    assert any("generated by rofs" in note for note in at("state", "/etc/fstab").notes)
    assert any("generated by rofs" in note for note in at("state", "/etc/systemd/system/var.mount").notes)


def test_the_data_is_plain_and_whole() -> None:
    data = json.loads(json.dumps(explanation_data(at("state", "/srv/shown/x"))))
    assert data["schema"] == "rofs/explain/v1" and data["path"] == "/srv/shown/x"
    assert data["promise"] == "bind-state" and data["shown_from"] == ["/var/lib/app/x"]
    assert data["after"] == {
        "reboot": "kept",
        "power_cut": "kept-if-flushed",
        "factory_reset": "image-again",
        "update": "kept",
    }
    assert data["places"][0]["key"] == "mounts[7]" and data["places"][0]["mark"]["line"] > 1
    assert data["stage"] == "systemd" and data["lost"]["mark"]["column"] > 1


# --- what a user types ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"), [("/", "/"), ("/etc/", "/etc"), ("//etc", "/etc"), ("/a//b/./c", "/a/b/c"), ("/it's", "/it's")]
)
def test_a_path_has_one_spelling(text: str, path: str) -> None:
    assert str(parse_path(text)) == path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("etc/ssh", "write '/etc/ssh'"),
        ("", "write '/'"),
        ("./x", "write '/x'"),
        ("/usr/../etc", "write '/etc'"),
        ("/a\nb", "no path"),
        ("/\udcff", "no path"),
    ],
)
def test_a_bad_path_says_what_to_write(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_path(text)
