# SPDX-License-Identifier: MIT
"""`rofs build` twice: the second does nothing but say again what the first said, unless something is different."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rofs import build, cli, stamp
from rofs.build import Built, Options
from rofs.errors import Rejected
from rofs.progress import Progress
from rofs.stamp import Ledger


class Shop:
    """Pretends to build; what is asked of it is counted."""

    def __init__(self, root: Path) -> None:
        self.profile, self.output, self.asked = root / "p.yaml", root / "images", list[Options]()
        self.profile.write_text("name: p")
        self.error: Exception | None = None

    def build(self, path: Path, options: Options, progress: Progress, ledger: Ledger) -> list[Built]:
        self.asked.append(options)
        ledger.enter(path)
        progress.note("p.yaml:1:1: warning: a word")
        progress.remark("an entry is made again")
        out = options.output / "p" / "amd64"
        out.mkdir(parents=True, exist_ok=True)
        (out / "rootfs.squashfs").write_text("x")
        if self.error:
            raise self.error
        return [Built(arch="amd64", directory=out, report=None, state=stamp.find_state(out))]

    def run(self, *more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(["build", str(self.profile), "--output", str(self.output), "--no-verify", *more])
        assert isinstance(ended.value.code, int)
        return ended.value.code


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    made = Shop(tmp_path)
    monkeypatch.setattr(stamp, "_FRESH_NS", 0)
    monkeypatch.setattr(stamp, "_CODE", tmp_path / "code")
    monkeypatch.setattr(build, "build", made.build)
    monkeypatch.setenv("ROFS_CACHE_DIR", str(tmp_path / "cache"))
    return made


def test_the_second_build_does_nothing_and_says_the_same(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert shop.run() == 0
    first = capsys.readouterr()
    assert shop.run() == 0
    second = capsys.readouterr()
    assert len(shop.asked) == 1
    assert second.out == first.out != ""
    assert "warning: a word" in first.err and "warning: a word" in second.err
    assert "an entry is made again" in first.err and "an entry is made again" not in second.err
    assert "nothing has changed since this was published 0 s ago" in second.err


@pytest.mark.parametrize(
    "change",
    [
        lambda shop, env: shop.profile.write_text("name: other"),
        lambda shop, env: (shop.output / "p" / "amd64" / "rootfs.squashfs").unlink(),
        lambda shop, env: env.setenv("SOURCE_DATE_EPOCH", "1"),
        lambda shop, env: env.setenv("PATH", "/usr/bin"),
    ],
    ids=["the profile", "the image", "the epoch", "the tools"],
)
def test_a_difference_is_built(
    change: Callable[[Shop, pytest.MonkeyPatch], object], shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shop.run() == 0
    change(shop, monkeypatch)
    assert shop.run() == 0
    assert len(shop.asked) == 2


def test_another_wish_is_built(shop: Shop) -> None:
    shop.run()
    shop.run("--arch", "amd64")
    shop.run("--refresh")
    assert len(shop.asked) == 3


def test_the_number_of_boots_at_once_makes_no_difference(shop: Shop) -> None:
    shop.run()
    shop.run("--jobs", "7")
    assert len(shop.asked) == 1


def test_what_failed_is_tried_again(shop: Shop) -> None:
    shop.error = Rejected("broken")
    assert shop.run() == 4
    assert shop.run() == 4
    assert len(shop.asked) == 2


@pytest.mark.parametrize("text", ["", "0", "4294967295"])
def test_an_epoch_is_a_number_of_seconds(text: str) -> None:
    assert build.find_epoch({"SOURCE_DATE_EPOCH": text}) == int(text or build.DEFAULT_EPOCH)


@pytest.mark.parametrize("text", ["4294967296", "-1", "1e9", "٣", "yesterday", " 1"])
def test_an_epoch_that_is_none_is_refused(text: str, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    assert shop.run() == 3
    assert shop.asked == []
