# SPDX-License-Identifier: MIT
"""Layout -> checks of what makes a machine this one: in each boot that it is there, over boots that it is the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from rofs.entry import Entry
from rofs.generate.identity import HOST_KEY
from rofs.layout import DATA, MACHINE_ID, Layout, image_path
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Outcome, Verdict, broken, data, decide, text, trouble
from rofs.verify.scenario import Scenario

_ID = wire.read(str(MACHINE_ID))
_IMAGE_ID = wire.read(image_path(MACHINE_ID))
_KEPT_ID = wire.read(str(DATA / "identity/machine-id"))
_PUBLIC_KEY = wire.read(f"{HOST_KEY}.pub")
_SEED = wire.read(str(DATA / "identity/random-seed"))
_SEED_STAT = wire.lstat(str(DATA / "identity/random-seed"))
_NAMES = {"machine-id": _ID, "ssh host key": _PUBLIC_KEY, "random seed": _SEED}
"""What is compared over boots, and the operation that asks for it."""

Seen = Mapping[str, bytes]
"""Name -> what a boot had."""


def identity_checks(layout: Layout, entries: Sequence[Entry]) -> Iterator[Check]:
    """Whatever the scenario, a machine has an id; and a key of its own where it has sshd."""
    kept_id = layout.profile.machine_id == "state"
    yield Check(
        promise="machine-id", subject=layout.profile.machine_id, at=("machine_id",),
        ops=(_ID, _IMAGE_ID, *((_KEPT_ID,) if kept_id else ())), judge=_judge_id,
    )  # fmt: skip
    if has_sshd(entries):
        yield Check(
            promise="ssh host key", subject=str(HOST_KEY), at=(),
            ops=(wire.lstat(str(HOST_KEY)), _PUBLIC_KEY, wire.run(60, "sshd", "-T"),
                 wire.run(60, "ssh-keygen", "-y", "-P", "", "-f", str(HOST_KEY))),
            judge=_judge_key,
        )  # fmt: skip
    if keeps_seed(entries):
        yield Check(
            promise="random seed", subject=str(DATA / "identity/random-seed"), at=("state",),
            ops=(_SEED_STAT, _SEED), judge=_judge_seed,
        )  # fmt: skip


def has_sshd(entries: Sequence[Entry]) -> bool:
    """Whether rofs gave the image's sshd its key."""
    return any(e.content == f"HostKey {HOST_KEY}\n".encode() for e in entries)


def keeps_seed(entries: Sequence[Entry]) -> bool:
    """Whether systemd-random-seed was turned to the state partition."""
    return any(e.path.parent.name == "systemd-random-seed.service.d" for e in entries)


def _judge_id(facts: Sequence[Facts]) -> Verdict:
    """Empty in the image, so that PID 1, or the initrd, makes one (note 23)."""
    seen = text(facts[0]).strip()
    if not re.fullmatch("[0-9a-f]{32}", seen):
        return broken("32 hexadecimal digits", trouble(facts[0]) or seen or "an empty file")
    if data(facts[1]) != b"":
        shown = text(facts[1]).strip() or trouble(facts[1]) or facts[1].get("errno") or "an empty line"
        return broken("none in the image, an empty file", f"{shown} in the image: every device would be this one")
    kept = text(facts[2]).strip() if len(facts) > 2 else seen
    return decide(kept == seen, "32 hexadecimal digits, as kept", f"{seen}, kept is {kept}" if kept != seen else seen)


def _judge_key(facts: Sequence[Facts]) -> Verdict:
    private, public, effective, derived = facts
    expected = "an ed25519 key of this machine alone, 0600 root, the only one sshd uses"
    used = [line.split()[1] for line in text(effective).splitlines() if line.startswith("hostkey ")]
    wrong = []
    if (private.get("type"), private.get("mode"), private.get("uid")) != ("file", 0o600, 0):
        wrong.append(
            f"{private.get('type') or private.get('errno')} {private.get('mode') or 0:04o} {private.get('uid')}"
        )
    if used != [str(HOST_KEY)]:
        wrong.append(f"sshd uses {', '.join(used) or 'none'}")
    words = text(public).split()
    if words[:1] != ["ssh-ed25519"] or text(derived).split()[:2] != words[:2]:
        wrong.append("the public key is not that of the private one")
    trouble_seen = next((trouble(f) for f in facts if trouble(f)), "")
    return decide(not wrong, expected, trouble_seen or "; ".join(wrong) or " ".join(words[:2]))


def _judge_seed(facts: Sequence[Facts]) -> Verdict:
    """systemd writes a new one as soon as it has read the old one, so that none is used twice."""
    stat, content = facts
    size = len(data(content) or b"")
    seen = f"{stat.get('type') or stat.get('errno')} {stat.get('mode') or 0:04o}, {size} bytes"
    ok = stat.get("type") == "file" and stat.get("mode") == 0o600 and size >= 32
    return decide(ok, "a seed of 32 bytes or more that only root can read", trouble(content) or seen)


# --- over boots -------------------------------------------------------------------------------------


def remember(answers: Mapping[wire.Op, Facts]) -> Seen:
    """What a boot had, from its answers."""
    found = {name: data(answers[op]) for name, op in _NAMES.items() if op in answers}
    return {name: value for name, value in found.items() if value}


def compare_boots(layout: Layout, scenario: Scenario, before: Seen, now: Seen) -> Iterator[Outcome]:
    """What must be the same as in the boot before on the same disks, and what must not.

    Only boots that share their disks are compared. The random seed must be a new one each time.
    """
    persists = {
        "machine-id": layout.profile.machine_id == "state",
        "ssh host key": layout.profile.state is not None,
        "random seed": False,
    }
    for name in before:
        same = persists[name] and scenario.state != "reset"
        expected = f"the {name} of boot {scenario.number - 1}" if same else f"another {name} than before"
        if name not in now:
            verdict = broken(expected, "none at all")
        else:
            equal = before[name] == now[name]
            verdict = decide(equal == same, expected, "the same" if equal else "another one")
        yield Outcome(boot=scenario.number, promise="identity", subject=name, at=_at(layout, name), verdict=verdict)


def _at(layout: Layout, name: str) -> tuple[str, ...]:
    if name == "machine-id":
        return ("machine_id",)
    return ("state",) if layout.profile.state is not None else ()
