# SPDX-License-Identifier: MIT
"""report.html in headless Chromium: whole, legible, the broken first, and not taken over by a hostile guest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from layouts import RICH, layout_of
from reported import ALL, BAD, CONSOLE, GOOD, MARKUP, PLAIN, VAR, hostile, record, report, result

from rofs.verify.report import Report, write_report
from tests.browser import (
    WIDTHS,
    Browser,
    check_alone,
    check_promises,
    check_tree,
    check_verdict,
    check_width,
    chromium,
    opened,
)

pytestmark = pytest.mark.needs("chromium")

LONG = "/" + "x" * 300
REPORTS = {
    "good": report(GOOD, PLAIN),
    "broken": report(*ALL),
    "hostile": hostile(),
    "long words": report(
        *(type(o)(boot=o.boot, promise=o.promise, subject=LONG, at=o.at, verdict=o.verdict) for o in ALL),
        boots=[record(made=result(LONG * 9))], notes=(LONG,),
    ),
    "no boot": report(boots=()),
}  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


def page_of(about: Report, directory: Path) -> Path:
    write_report(about, directory)
    return directory / "report.html"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_opens_alone_whole_and_in_its_width(name: str, width: int, browser: Browser, tmp_path: Path) -> None:
    with opened(browser, page_of(REPORTS[name], tmp_path), width) as made:
        made.page.locator("details").evaluate_all("all => all.forEach(e => { e.open = true; })")
        check_alone(made)
        check_verdict(made)
        check_width(made)
        check_promises(made)
        profile = layout_of(RICH).profile
        check_tree(made, {*(str(d.path) for d in profile.mounts), *(str(i.path) for i in profile.immutable)})


def test_what_is_broken_comes_before_all_else_and_alone_if_asked(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, page_of(report(*ALL), tmp_path)) as made:
        sections = made.page.locator("section").evaluate_all("all => all.map(e => e.id)")
        assert sections == ["broken", "machine", "tree", "timeline", "promises", "console"]
        first = made.page.locator("section#broken")
        assert first.locator("tr[data-subject]").count() == len({VAR.subject, BAD.subject})
        assert "mounts[1]" in first.inner_text() and "squashfs" in first.inner_text()
        kept = made.page.locator("#promises .kept-group, #promises .kept-row")
        assert any(row.is_visible() for row in kept.all())
        made.page.get_by_label("only what is broken").check()
        assert not any(row.is_visible() for row in kept.all())
        assert made.page.locator("#promises tr.broken").first.is_visible()


def test_the_console_is_shown_on_a_click_and_not_run(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, page_of(hostile(), tmp_path)) as made:
        console = made.page.locator("#console pre").first
        assert not console.is_visible()
        made.page.locator("#console summary").first.click()
        assert console.is_visible() and "Reached target local-fs.target." in console.inner_text()
        assert MARKUP in console.inner_text()
        assert made.page.locator("script, img, iframe").count() == 0
        check_alone(made)


def test_a_script_in_the_page_would_not_run(browser: Browser, tmp_path: Path) -> None:
    """Where escaping failed the page's own policy would still hold; and `check_alone` would see it."""
    file = page_of(report(GOOD), tmp_path)
    text = file.read_text("utf-8")
    file.write_text(text.replace("<header>", f"{MARKUP}<link rel=stylesheet href='x.css'><header>"), "utf-8")
    with opened(browser, file) as made:
        assert made.page.title() == "sample arm64: accepted"
        with pytest.raises(AssertionError):
            check_alone(made)


CONTRAST = """() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = numbers(c).map(v => v / 255).map(
    v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if ((numbers(c)[3] ?? 1) > 0) return c; }
    return "rgb(255,255,255)"; };
  const words = [...document.querySelectorAll("body *")].filter(
    e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && !e.matches("title, .inside"));
  return words.map(e => { const style = getComputedStyle(e);
    const a = light(e.closest("svg") ? style.fill : style.color), b = light(behind(e));
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 120)]; });
}"""


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_can_be_read(
    scheme: Literal["light", "dark"], media: Literal["screen", "print"], browser: Browser, tmp_path: Path
) -> None:
    """4.5 to 1 is what WCAG 2 asks of text."""
    with opened(browser, page_of(report(*ALL), tmp_path), scheme=scheme) as made:
        made.page.emulate_media(media=media)
        ratios = made.page.evaluate(CONTRAST)
        assert len(ratios) > 100
        assert [words for ratio, words in ratios if ratio < 4.5] == []
        paper = made.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light" or media == "print")


def test_each_kind_has_a_shape_of_its_own(browser: Browser, tmp_path: Path) -> None:
    """Whoever sees no colours, or prints without, tells them apart all the same."""
    with opened(browser, page_of(report(GOOD), tmp_path)) as made:
        marks = made.page.locator("#tree .legend li").evaluate_all(
            """all => all.map(e => { const m = e.querySelector(".mark");
                return [m.tagName, m.classList.contains("hollow")].join(); })"""
        )
        kinds = made.page.locator("#tree .legend b").all_inner_texts()
        assert len(marks) == len(set(marks)) == len(kinds) and {"immutable", "read-only", "volatile"} <= set(kinds)


def test_printed_it_shows_every_promise(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, page_of(report(*ALL), tmp_path)) as made:
        kept = made.page.locator("#promises .kept-group tr[data-subject]").first
        assert not kept.is_visible()
        made.page.emulate_media(media="print")
        assert kept.is_visible() and not made.page.locator("nav").is_visible()


def test_the_timeline_names_its_parts(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, page_of(report(GOOD, boots=[record(made=result(CONSOLE))]), tmp_path)) as made:
        bars = made.page.locator("#timeline rect.bar")
        assert bars.count() == 6 and all((box := bar.bounding_box()) and box["width"] > 10 for bar in bars.all())
        made.page.locator("#timeline summary").click()
        words = made.page.locator("#timeline details").inner_text()
        assert "the initrd starts" in words and "shutdown" in words and "2.25" in words
