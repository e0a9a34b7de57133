# SPDX-License-Identifier: MIT
"""rofs.sources.debs: the store holds exactly what was meant, whole or not at all; by the real apt."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from aptrepo import SUITE, Repository

from rofs import run
from rofs.errors import Interrupted, SourceError
from rofs.machine.arch import ARCHES
from rofs.packages import Package
from rofs.sources.apt import PrivateApt
from rofs.sources.debs import LOCK, DebStore, PackageGone
from rofs.sources.resolve import open_apt

pytestmark = pytest.mark.needs("apt-get", "dpkg-deb", "apt-config")


class Shop:
    """A repository, an apt that reads it, and a store."""

    def __init__(self, top: Path) -> None:
        self.top, self.count = top, 0
        (top / "repo").mkdir()
        self.repo, self.store = Repository(top / "repo"), DebStore(top / "debs")
        self.one = self.repo.add("one", "1:1.0+a~b-1", arch="amd64")
        self.two = self.repo.add("two")

    def apt(self) -> PrivateApt:
        """One that has read what is published now."""
        self.count += 1
        sources = self.repo.publish()
        return open_apt(
            self.top / f"apt{self.count}", ARCHES["amd64"], SUITE, sources, self.top / "log", lambda _: None
        )

    def kept(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.store.root.glob("*.deb")}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_what_is_fetched_is_there_by_its_hash(shop: Shop) -> None:
    both = [shop.one, shop.two]
    assert shop.store.missing(both) == both
    shop.store.fetch(both, shop.apt())
    assert shop.store.missing(both) == []
    assert shop.kept() == {f"{p.sha256}.deb": shop.repo.debs[p.name].read_bytes() for p in both}
    assert {path.stat().st_mode & 0o777 for path in shop.store.root.glob("*.deb")} == {0o444}


@pytest.mark.parametrize("damage", ["shorter", "one bit", "gone"])
def test_a_damaged_file_is_noticed_and_fetched_again(shop: Shop, damage: str) -> None:
    apt, path = shop.apt(), shop.store.path(shop.one)
    shop.store.fetch([shop.one], apt)
    good = path.read_bytes()
    path.chmod(0o644)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(good[:-1] if damage == "shorter" else bytes([good[0] ^ 1]) + good[1:])
    assert shop.store.missing([shop.one]) == [shop.one]
    shop.store.fetch([shop.one], apt)
    assert path.read_bytes() == good


def test_a_version_that_is_no_longer_there_is_named(shop: Shop) -> None:
    old = shop.two
    shop.repo.remove("two")
    shop.repo.add("two", "1.1")
    with pytest.raises(PackageGone, match=r"two 1\.0 \(all\): .*no longer.*rofs lock.*--inputs") as caught:
        shop.store.fetch([shop.one, old], shop.apt())
    assert caught.value.packages == (old,)
    assert shop.kept() == {}


def test_a_package_that_nobody_has_any_more_is_named(shop: Shop) -> None:
    shop.repo.remove("two")
    with pytest.raises(PackageGone) as caught:
        shop.store.fetch([shop.one, shop.two], shop.apt())
    assert caught.value.packages == (shop.two,)


def test_other_bytes_under_the_same_version_are_refused(shop: Shop) -> None:
    old = shop.two
    shop.repo.remove("two")
    assert shop.repo.add("two", content="built again").sha256 != old.sha256
    with pytest.raises(PackageGone, match="other bytes") as caught:
        shop.store.fetch([shop.one, old], shop.apt())
    assert caught.value.packages == (old,)
    assert shop.kept() == {}, "all or nothing, so that nothing is mistaken for a finished fetch"


def test_a_lock_without_the_size_of_the_file_is_not_it(shop: Shop) -> None:
    shop.store.fetch([shop.one], shop.apt())
    assert shop.store.missing([replace(shop.one, size=shop.one.size + 1)])


def test_a_mirror_that_lost_a_file_says_so(shop: Shop) -> None:
    apt = shop.apt()
    shop.repo.debs["one"].unlink()
    with pytest.raises(SourceError, match="one"):
        shop.store.fetch([shop.one], apt)


def test_builds_at_once_do_not_disturb_each_other(shop: Shop) -> None:
    apts = [shop.apt() for _ in range(4)]
    both: list[Package] = [shop.one, shop.two]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda apt: shop.store.fetch(both, apt), apts))
    assert shop.store.missing(both) == [] and len(shop.kept()) == 2


def test_who_fetches_what_others_want_too_is_waited_for(shop: Shop) -> None:
    """Whatever the order in which they name them."""
    both: list[Package] = [shop.one, shop.two]
    fetched, apt = list[Package](), shop.apt()

    def build(packages: list[Package]) -> None:
        with shop.store.alone(packages):
            if missing := shop.store.missing(packages):
                fetched.extend(missing)
                shop.store.fetch(missing, apt)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(build, [both, both[::-1], both, both[::-1], [shop.one], [shop.two]]))
    assert sorted(p.name for p in fetched) == ["one", "two"] and shop.store.missing(both) == []


def test_packages_of_their_own_are_fetched_side_by_side(shop: Shop) -> None:
    with shop.store.alone([shop.one]), ThreadPoolExecutor(1) as pool:

        def other() -> None:
            with shop.store.alone([shop.two]):
                pass

        pool.submit(other).result(60)


def test_who_waits_for_anothers_packages_can_be_stopped(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr(run, "check_stopped", stopped)
    with shop.store.alone([shop.one]), pytest.raises(Interrupted), shop.store.alone([shop.one]):
        pytest.fail("both at once")


def test_a_store_that_cannot_be_written_is_an_error(shop: Shop) -> None:
    (shop.top / "debs").write_text("a file in its place")
    with pytest.raises(SourceError, match="debs: cannot"):
        shop.store.fetch([shop.one], shop.apt())


def test_what_a_killed_fetch_left_goes(shop: Shop) -> None:
    left = shop.store.root / ".rofs-work-left"
    left.mkdir(parents=True)
    (left / "half.deb").write_text("half")
    shop.store.fetch([shop.two], shop.apt())
    assert {path.name for path in shop.store.root.iterdir()} == {LOCK, f"{shop.two.sha256}.deb"}
