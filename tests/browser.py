# SPDX-License-Identifier: MIT
"""A report.html opened in headless Chromium as a user opens it, and what the page did meanwhile."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, Page, sync_playwright

__all__ = [
    "WIDTHS", "Browser", "check_alone", "check_promises", "check_tree", "check_verdict", "check_width", "chromium",
    "opened",
]  # fmt: skip

WIDTHS = (400, 1400)
Scheme = Literal["light", "dark"]


@dataclass(frozen=True)
class Opened:
    """`said` is all that came to the browser's console and every error, `asked` every address it asked for."""

    page: Page
    file: Path
    said: list[str]
    asked: list[str]

    @property
    def data(self) -> dict[str, Any]:
        """The report.json beside it."""
        found: dict[str, Any] = json.loads(self.file.with_suffix(".json").read_text("utf-8"))
        return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's; root may use it only without its sandbox."""
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=args)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, file: Path, width: int = WIDTHS[1], scheme: Literal["light", "dark"] = "light"
) -> Iterator[Opened]:
    """A new page of its own."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    made = Opened(page, file, [], [])
    page.on("console", lambda message: made.said.append(message.text))
    page.on("pageerror", lambda error: made.said.append(str(error)))
    page.on("request", lambda request: made.asked.append(request.url))
    try:
        page.goto(file.as_uri())
        yield made
    finally:
        page.close()


def check_alone(made: Opened) -> None:
    """It asked for nothing but itself, and nothing in it went wrong or was run."""
    assert made.asked == [made.file.as_uri()]
    assert made.said == []
    data = made.data
    assert made.page.title() == f"{data['profile']} {data['architecture']}: {data['verdict']}"


def check_verdict(made: Opened) -> None:
    """Within the first screen, without a click."""
    verdict = made.page.locator("#verdict")
    box = verdict.bounding_box()
    assert verdict.is_visible() and box is not None and box["y"] + box["height"] < 900
    assert made.data["verdict"].upper() in verdict.inner_text()
    for note in made.data["notes"]:
        assert " ".join(note.split()) in " ".join(verdict.inner_text().split())


def check_width(made: Opened) -> None:
    """Nothing of the page lies outside the window; a drawing may be scrolled in its frame."""
    over = made.page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter(e => !e.closest("svg, pre")
            && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 200))"""
    )
    assert over == []
    assert made.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def check_tree(made: Opened, declared: set[str]) -> None:
    """Each declared path is drawn, with a mark, its name and the word for what it is."""
    for path in sorted(declared):
        node = made.page.locator(f"#tree g.node[data-path={json.dumps(path)}]")
        assert node.count() == 1, path
        box = node.locator(".mark").bounding_box()
        assert box is not None and box["width"] > 4 and box["height"] > 4, path
        kind = node.locator(".kind").text_content()
        assert kind in ("immutable", "read-only", "volatile", "persistent"), path
        assert node.locator(".name").text_content()


def check_promises(made: Opened) -> None:
    """Each check of report.json is there once, and what is broken comes first."""
    rows: list[list[str]] = made.page.evaluate(
        """() => [...document.querySelectorAll("#promises tr[data-subject] li[data-boots]")].flatMap(
            e => e.dataset.boots.split(" ").map(n => [e.closest("[data-promise]").dataset.promise, n]))"""
    )
    checks = made.data["checks"]
    assert Counter((promise, int(boot)) for promise, boot in rows) == Counter((c["promise"], c["boot"]) for c in checks)
    broken: list[bool] = made.page.evaluate(
        """() => [...document.querySelectorAll("#promises details")].map(e => e.classList.contains("broken"))"""
    )
    assert broken == sorted(broken, reverse=True)
    assert sum(broken) == sum(bool(p["broken"]) for p in made.data["counts"]["promises"].values())
    for details in made.page.locator("#promises details").all():
        kept = [("kept-row" in (row.get_attribute("class") or "")) for row in details.locator("tbody tr").all()]
        assert kept == sorted(kept) and kept
