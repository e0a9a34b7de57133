# SPDX-License-Identifier: MIT
"""Layout, Scenario -> checks of what must survive: it does, it was seeded whole and once, a reset takes it away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath

from rofs.layout import (
    DATA,
    EVENTS,
    MACHINE_ID,
    RESET_FLAG,
    STATE,
    Layout,
    Mount,
    Prepare,
    Promise,
    image_path,
    persistent_stores,
)
from rofs.profile import Persistent
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, data, decide, kept, names, text, trouble
from rofs.verify.copies import MOST_SHOWN, copy_check, find_flaw, path_of, words_of
from rofs.verify.scenario import Scenario
from rofs.verify.volatile import CANARY, canary_text, survives


def state_checks(layout: Layout, scenario: Scenario) -> Iterator[Check]:
    """Only where something persists."""
    for store in persistent_stores(layout.profile):
        yield Check(
            promise="state", subject=f"{store.name} ({scenario.title})", at=store.at, ops=(wire.read(str(EVENTS)),),
            judge=partial(_judge_store, store, scenario),
        )  # fmt: skip
    for mount in layout.mounts:
        if scenario.finds_canaries and survives(layout, mount):
            yield from _survival(mount, scenario)
    for prepare in layout.prepares:
        mount = layout.owner(prepare.of)
        if mount.promise in (Promise.BIND_STATE, Promise.PARTITION):
            yield from _seed_checks(layout, mount, prepare, scenario)
        if mount.promise is Promise.OVERLAY_STATE and prepare.path.name == "upper":
            yield Check(
                promise="hidden by state", subject=str(mount.where), at=mount.at,
                ops=(wire.compare(str(prepare.path), image_path(mount.where), upper=True),),
                judge=partial(_judge_hidden, mount.where),
            )  # fmt: skip
    if scenario.state == "reset" and layout.profile.state is not None:
        yield Check(
            promise="factory reset", subject=str(STATE), at=("state",), ops=(wire.list_dir(str(STATE)),),
            judge=_judge_reset,
        )  # fmt: skip
    if scenario.state == "used" and layout.profile.state is not None:
        yield Check(
            promise="factory reset", subject=f"{RESET_FLAG} for the next boot", at=("state",), phase="after",
            ops=(wire.canary(str(RESET_FLAG), ""), wire.sync(), wire.exists(str(RESET_FLAG))),
            judge=_judge_flag,
        )  # fmt: skip


def _judge_store(store: Persistent, scenario: Scenario, facts: Sequence[Facts]) -> Verdict:
    """The initrd's own word of what it did; the mount table is judged elsewhere."""
    said = _said(store.name, facts[0])
    if scenario.state == "lost":
        expected, ok = "volatile, with the reason", any(words.startswith("volatile, ") for words in said)
    elif store.name == "state":
        expected = "used" if scenario.state == "kept" else scenario.state
        ok = said == [expected]
    else:
        expected, ok = " or ".join(_seeding(scenario)), len(said) == 1 and said[0] in _seeding(scenario)
    return decide(ok, expected, trouble(facts[0]) or "; ".join(said) or "the initrd says nothing of it")


def _said(name: str, facts: Facts) -> list[str]:
    lines = (line.partition(": ") for line in text(facts).splitlines())
    return [words for subject, _, words in lines if subject == name]


def _is_fresh(scenario: Scenario) -> bool:
    """Whether a seed must have been made in this boot."""
    return scenario.state in ("new", "lost", "reset")


def _seeding(scenario: Scenario) -> tuple[str, ...]:
    """What the initrd may say of a seed. An image may bring a bind that the state of a device has not yet."""
    if _is_fresh(scenario):
        return ("seeded",)
    return ("kept", "seeded") if scenario.state == "kept" and scenario.number == 1 else ("kept",)


def _survival(mount: Mount, scenario: Scenario) -> Iterator[Check]:
    where = f"{mount.where}/{CANARY}"
    if scenario.state == "reset":
        yield Check(
            promise="factory reset", subject=str(mount.where), at=mount.at, ops=(wire.list_dir(str(mount.where)),),
            judge=_judge_taken,
        )  # fmt: skip
    else:
        yield Check(
            promise="persistent", subject=str(mount.where), at=mount.at, ops=(wire.read(where),),
            judge=partial(_judge_kept, scenario.number - 1),
        )  # fmt: skip


def _judge_kept(number: int, facts: Sequence[Facts]) -> Verdict:
    seen = data(facts[0])
    ok = seen is not None and seen.decode("utf-8", "replace").strip() == canary_text(number)
    return decide(ok, f"what boot {number} wrote is there", trouble(facts[0]) or _shown(facts[0]))


def _shown(facts: Facts) -> str:
    return repr(text(facts)) if data(facts) is not None else str(facts.get("errno") or "nothing")


def _judge_taken(facts: Sequence[Facts]) -> Verdict:
    found = names(facts[0])
    expected = "what was written before the reset is gone"
    if found is None:
        return broken(expected, trouble(facts[0]) or str(facts[0].get("errno")))
    return decide(CANARY not in found, expected, f"{CANARY} is {'still there' if CANARY in found else 'gone'}")


def _judge_flag(facts: Sequence[Facts]) -> Verdict:
    ok = facts[0].get("errno", "") is None and facts[1].get("errno", "") is None and facts[2].get("exists") is True
    return decide(ok, "the flag is set, for the next boot to find", trouble(facts[0]) or ("set" if ok else "not set"))


def _judge_reset(facts: Sequence[Facts]) -> Verdict:
    """The flag is gone, and so is what was renamed away."""
    found, expected = names(facts[0]), f"nothing but {DATA.name}"
    if found is None:
        return broken(expected, trouble(facts[0]) or str(facts[0].get("errno")))
    return decide({*found} - {"lost+found"} == {DATA.name}, expected, ", ".join(sorted(found)))


# --- seeds and what hides the image -----------------------------------------------------------------


def _seed_checks(layout: Layout, mount: Mount, prepare: Prepare, scenario: Scenario) -> Iterator[Check]:
    yield Check(
        promise="seeded once", subject=str(mount.where), at=mount.at, ops=(wire.read(str(EVENTS)),),
        judge=partial(_judge_once, str(mount.where), _seeding(scenario)),
    )  # fmt: skip
    if prepare.seed is None:
        return
    inner = tuple(m.where.relative_to(mount.where) for m in layout.mounts if mount.where in m.where.parents)
    if _is_fresh(scenario):
        yield copy_check("seed", mount, prepare, inner)
    elif scenario.state == "kept":
        yield Check(
            promise="hidden by state", subject=str(mount.where), at=mount.at,
            ops=(wire.compare(str(prepare.path), str(prepare.seed)),), judge=partial(_judge_hidden, mount.where),
        )  # fmt: skip


def _judge_once(where: str, accepted: tuple[str, ...], facts: Sequence[Facts]) -> Verdict:
    said = [words for words in _said(where, facts[0]) if not words.startswith("volatile, ")]
    seen = trouble(facts[0]) or "; ".join(said) or "the initrd says nothing"
    return decide(len(said) == 1 and said[0] in accepted, " or ".join(accepted), seen)


def _judge_hidden(where: PurePosixPath, facts: Sequence[Facts]) -> Verdict:
    """No promise is broken by it: a setting that was changed on the device is why there is state."""
    answer, expected = facts[0], "a list of what the image's content is hidden by"
    if flaw := find_flaw(answer):
        return broken(expected, flaw)
    found = [e for e in answer["entries"] if where / path_of(e) != MACHINE_ID and e.get("what") != ["mount"]]
    more = ", and more" if answer["truncated"] or len(found) > MOST_SHOWN else ""
    return kept(expected, f"{words_of(found)}{more}" if found else "nothing of the image is hidden")
