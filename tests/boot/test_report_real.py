# SPDX-License-Identifier: MIT
"""The reports of a real verification: as their schema says, and opened in Chromium by a user of the image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rofs.verify.contract import load_contract
from tests.browser import WIDTHS, check_alone, check_promises, check_tree, check_verdict, check_width, chromium, opened

pytestmark = [pytest.mark.boot, pytest.mark.needs("mmdebstrap")]

SCHEMA = Path(__file__).resolve().parents[2] / "rofs/report.schema.json"


@pytest.fixture(params=["amd64", "arm64"])
def image(request: pytest.FixtureRequest, built: Callable[[str], Path]) -> Path:
    return built("busybox") / str(request.param)


def test_report_json_is_what_its_schema_says(image: Path) -> None:
    report: dict[str, Any] = json.loads((image / "report.json").read_text())
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(report)
    manifest = json.loads((image / "manifest.json").read_text())["outputs"]
    assert report["files"] == {name: manifest[name]["sha256"] for name in report["files"]}
    assert {"rootfs.squashfs", "vmlinuz", "initrd.img", "state.img"} == report["files"].keys()
    assert report["tools"].keys() == {"rofs", "qemu"} and report["tools"]["qemu"][0].isdigit()
    assert {check["boot"] for check in report["checks"]} >= {0, 1, len(report["boots"])}


def test_the_timeline_of_every_boot_is_whole(image: Path) -> None:
    """Of each, the kernel, the initrd, the probe and the power-off were heard, in this order."""
    for boot in json.loads((image / "report.json").read_text())["boots"]:
        seconds = {moment["what"]: moment["seconds"] for moment in boot["timeline"]}
        order = ["the kernel starts", "the initrd starts", "probe started", "first answer", "last answer", "ended"]
        assert [seconds[what] for what in order] == sorted(seconds[what] for what in order)
        assert 0 <= seconds["the kernel starts"] < seconds["the initrd starts"] < seconds["probe started"]
        assert [m["what"] for m in boot["timeline"] if m["what"].startswith("rofs: state")], boot["title"]
        assert seconds["ended"] == pytest.approx(boot["seconds"], abs=0.01)


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", WIDTHS)
def test_report_html_in_a_browser(image: Path, width: int) -> None:
    layout = load_contract(image).layout
    with chromium() as browser, opened(browser, image / "report.html", width) as made:
        check_alone(made)
        check_verdict(made)
        check_width(made)
        check_promises(made)
        profile = layout.profile
        check_tree(made, {*(str(d.path) for d in profile.mounts), *(str(i.path) for i in profile.immutable)})
        assert made.page.locator("#timeline g.boot").count() == len(made.data["boots"])
        console = made.page.locator("#console pre").first
        made.page.locator("#console summary").first.click()
        assert "Run /init as init process" in console.inner_text()
