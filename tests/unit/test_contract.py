# SPDX-License-Identifier: MIT
"""promises.json: what is written is read back as it was, and what is damaged is an error with words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import HEAD, HOSTILE, HOSTILE_KEPT, RICH, P, entries_of, tree
from state_layouts import PARTITIONS, STATE

from rofs.entry import Entry
from rofs.errors import MachineError
from rofs.layout import build_layout
from rofs.profile import load_profile
from rofs.verify.contract import FILE, PROFILE, SCHEMA, Contract, layout_data, load_contract, render_contract


def written(directory: Path, text: str = RICH, *, known: bool = True) -> Contract:
    (directory / PROFILE).write_text(HEAD + text, "utf-8")
    layout = build_layout(load_profile(directory / PROFILE), tree() if known else None)
    contract = Contract(architecture="arm64", layout=layout, entries=entries_of(layout))
    (directory / FILE).write_bytes(render_contract(contract))
    return contract


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("text", [RICH, HOSTILE, STATE, PARTITIONS, HOSTILE_KEPT, ""])
def test_a_round_trip(tmp_path: Path, text: str, known: bool) -> None:
    contract = written(tmp_path, text, known=known)
    again = load_contract(tmp_path)
    assert again == contract
    assert render_contract(again) == render_contract(contract)
    mount = contract.layout.mounts[-1]
    assert again.layout.profile.marks.find(mount.at) == contract.layout.profile.marks.find(mount.at)


ENTRIES = st.builds(
    Entry,
    path=st.text("abü /", min_size=1, max_size=9).map(lambda t: P("/" + t)),
    kind=st.sampled_from(["file", "dir", "symlink"]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 1 << 31),
    gid=st.integers(0, 1 << 31),
    content=st.binary(max_size=40),
    target=st.text(max_size=9).filter(lambda t: t.isprintable()),
    why=st.sampled_from(["users[0]", "rofs"]),
)


@given(entries=st.lists(ENTRIES, max_size=5))
@settings(deadline=None, max_examples=40)
def test_any_entries(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]) -> None:
    directory = tmp_path_factory.mktemp("contract")
    whole = written(directory)
    contract = Contract(architecture="amd64", layout=whole.layout, entries=tuple(entries))
    (directory / FILE).write_bytes(render_contract(contract))
    assert load_contract(directory) == contract


def damage(directory: Path, change: Any) -> None:
    data = json.loads((directory / FILE).read_bytes())
    change(data)
    (directory / FILE).write_text(json.dumps(data))


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff", b"{}", b'{"schema": null}', b"[" * 100000]
)
def test_what_is_no_contract(tmp_path: Path, raw: bytes) -> None:
    written(tmp_path)
    (tmp_path / FILE).write_bytes(raw)
    with pytest.raises(MachineError, match=FILE):
        load_contract(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema="rofs/promises/v9"), "another release"),
        (lambda d: d.pop("schema"), "schema"),
        (lambda d: d.pop("layout"), "layout"),
        (lambda d: d.update(layout=[]), ""),
        (lambda d: d.update(architecture="riscv"), "unknown architecture 'riscv'"),
        (lambda d: d["layout"]["mounts"][0].update(promise="magic"), "magic"),
        (lambda d: d["layout"]["mounts"][0].update(where=5), ""),
        (lambda d: d["layout"]["mounts"][0].pop("what"), "what"),
        (lambda d: d["entries"][0].update(content="not base64!"), ""),
        (lambda d: d["entries"][0].update(mode="x"), "x"),
        (lambda d: d["layout"]["profile"].pop("verify"), "verify"),
        (lambda d: d["layout"]["profile"].pop("state"), "state"),
        (lambda d: d["layout"]["profile"]["state"].pop("device"), "device"),
        (lambda d: d["layout"]["profile"]["state"].update(on_failure="hope"), "hope"),
    ],
)
def test_what_is_damaged(tmp_path: Path, change: Any, words: str) -> None:
    written(tmp_path, STATE)
    damage(tmp_path, change)
    with pytest.raises(MachineError) as caught:
        load_contract(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_directory_that_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no image that rofs built"):
        load_contract(tmp_path / "none")
    written(tmp_path)
    (tmp_path / PROFILE).write_text("a: [")
    with pytest.raises(MachineError):
        load_contract(tmp_path)
    (tmp_path / PROFILE).unlink()
    with pytest.raises(MachineError):
        load_contract(tmp_path)


def test_it_says_nothing_of_this_machine(tmp_path: Path) -> None:
    written(tmp_path)
    text = (tmp_path / FILE).read_text()
    assert str(tmp_path) not in text and SCHEMA in text
    assert json.loads(json.dumps(layout_data(load_contract(tmp_path).layout)))["mounts"][0]["where"] == "/"
