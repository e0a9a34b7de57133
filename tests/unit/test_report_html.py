# SPDX-License-Identifier: MIT
"""The page as text: it needs nothing else, and what a hostile guest says stays text. test_report_page.py opens it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from layouts import HOSTILE, KEPT, PARTED, RICH, layout_of
from reported import ALL, CONSOLE, GOOD, MARKUP, hostile, record, report, result

from rofs.verify.check import Outcome, broken
from rofs.verify.drawings import BAR
from rofs.verify.report import Report, render_html
from rofs.verify.report_html import CONSOLE_KEPT
from rofs.verify.report_tree import KINDS, Row, tree_rows

VOID = {"meta", "br", "input", "img", "hr", "link"}
URLS = {"src", "srcset", "action", "data", "poster", "formaction", "background", "style", "xlink:href"}


class Page(HTMLParser):
    """Every element with its attributes, and the text in each; ValueError where one is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        if self._open:
            raise ValueError(f"never closed: {self._open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if self._open.pop() != tag:
            raise ValueError(f"closed out of turn: {tag}")

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(about: Report) -> Page:
    return Page(render_html(about))


@pytest.mark.parametrize("about", [report(*ALL), report(GOOD), report(boots=(), notes=()), hostile()])
def test_it_needs_nothing_else_and_runs_nothing(about: Report) -> None:
    made = page(about)
    tags = {name for name, _ in made.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "embed", "form", "base", "foreignObject", "image"}
    for _, attributes in made.elements:
        assert not [name for name in attributes if name in URLS or name.startswith("on")]
    assert all(a["href"].startswith("#") for a in made.all("a"))
    assert not re.search(r"url\(|@import|expression\(", made.texts["style"][0])


def test_its_policy_allows_its_style_and_no_more() -> None:
    made = page(hostile())
    (policy,) = [m["content"] for m in made.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(made.texts["style"][0].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert len(made.all("style")) == 1


def test_what_a_guest_says_is_text() -> None:
    text = render_html(hostile())
    assert MARKUP not in text and "&lt;script&gt;" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    console = page(hostile()).texts["pre"][0]
    assert MARKUP in console and "Reached target local-fs.target." in console and "\x1b" not in console


def test_no_fragment_leads_nowhere() -> None:
    for about in (report(*ALL), report(GOOD)):
        made = page(about)
        ids = {attributes["id"] for _, attributes in made.elements if "id" in attributes}
        assert {a["href"].removeprefix("#") for a in made.all("a")} <= ids


def test_a_long_console_keeps_both_ends() -> None:
    long = f"first{'x' * 3 * CONSOLE_KEPT}last"
    (shown,) = page(report(GOOD, boots=[record(made=result(long))])).texts["pre"]
    assert shown.strip().startswith("first") and shown.endswith("last")
    assert len(shown) < 2 * CONSOLE_KEPT + 100 and f"[... {CONSOLE_KEPT + 9} characters left out ...]" in shown


def test_the_machine_is_named() -> None:
    words = " ".join(page(report(*ALL)).texts["dd"])
    for fact in ("tcg (no /dev/kvm)", "512 MiB, 2 CPUs", "ro root=/dev/vda", "7.2.19", f"sha256 {'0a' * 32}"):
        assert fact in words


@pytest.mark.parametrize("text", [RICH, KEPT, PARTED, HOSTILE, "", "immutable: [/usr/share/doc, /opt/x]\n"])
def test_the_tree_has_every_declared_path_once_and_below_its_parent(text: str) -> None:
    layout = layout_of(text)
    rows = tree_rows(layout, ())
    paths = [str(r.path) for r in rows]
    assert len(set(paths)) == len(paths) and paths[0] == "/"
    declared = {str(d.path) for d in layout.profile.mounts} | {str(i.path) for i in layout.profile.immutable}
    assert declared | {str(p) for p in layout.top_level} <= set(paths)
    assert declared == {str(r.path) for r in rows if r.declared}
    for number, row in enumerate(rows):
        if row.parent is not None:
            above = rows[row.parent]
            assert row.parent < number and row.depth == above.depth + 1 and above.path / row.name == row.path
    made = page(report(GOOD, layout=layout))
    assert [g["data-path"] for g in made.all("g") if "data-path" in g] == paths


def row(rows: tuple[Row, ...], path: str) -> Row:
    (found,) = [r for r in rows if str(r.path) == path]
    return found


@pytest.mark.parametrize(
    ("text", "path", "kind", "words"),
    [
        (RICH, "/", "immutable", "image-ro, by the initrd"),
        (RICH, "/usr", "immutable", "image-ro"),
        (RICH, "/etc", "volatile", "overlay-tmpfs, 8 MiB, 2048 inodes, 0755 0:0, by the initrd"),
        (RICH, "/etc/ssh", "immutable", "pinned-ro, by the initrd"),
        (RICH, "/var/cache", "volatile", "tmpfs, 16 MiB, 1024 inodes, 0700 1000:1000, by systemd"),
        (RICH, "/srv/data", "volatile", "bind-rw, from /var/www, by systemd"),
        (RICH, "/srv/shown", "read-only", "bind-ro, from /var/lib, by systemd"),
        (RICH, "/srv/doc", "immutable", "bind-ro, from /usr/share/doc, by systemd"),
        (RICH, "/dev", "system", "of the kernel and PID 1"),
        (KEPT, "/etc", "persistent", "overlay-state, 0755 0:0, by the initrd"),
        (KEPT, "/var/www", "persistent", "bind-state, 2750 33:33, by systemd"),
        (PARTED, "/var", "persistent", "partition, 0755 0:0, by the initrd"),
        (PARTED, "/etc/machine-id", "persistent", "machine-id, 0444 0:0, by the initrd"),
    ],
)
def test_what_the_tree_says_of_a_path(text: str, path: str, kind: str, words: str) -> None:
    found = row(tree_rows(layout_of(text), ()), path)
    assert (found.kind, found.words) == (kind, words) and kind in KINDS


def test_the_tree_shows_where_something_broke() -> None:
    cap = Outcome(boot=1, promise="size cap", subject="/tmp", at=(), verdict=broken("", ""))
    rows = tree_rows(layout_of(RICH), report(*ALL, cap, cap).broken)
    assert (row(rows, "/var").broken, row(rows, "/tmp").broken, row(rows, "/").broken) == (1, 2, 0)


def test_every_boot_is_drawn_on_one_clock() -> None:
    boots = [record(), record(2, "state missing", made=result(CONSOLE, seconds=16.5))]
    made = page(report(GOOD, boots=boots))
    bars = [a for a in made.all("rect") if a.get("class", "").startswith("bar ")]
    assert {a["class"].removeprefix("bar ") for a in bars} == {
        "firmware", "kernel", "initrd", "userspace", "checks", "shutdown",
    }  # fmt: skip
    ends = [max(float(a["x"]) + float(a["width"]) for a in bars if a["y"] == y) for y in ("4", "30")]
    begins = min(float(a["x"]) for a in bars)
    assert ends[1] - begins == pytest.approx(2 * (ends[0] - begins)) == pytest.approx(BAR)
