# SPDX-License-Identifier: MIT
"""Profile -> the check of what others can reach over the network: exactly what the profile says, if it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rofs.profile import Profile
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, decide, kept, parts, trouble

WAIT_S = 30
"""A port of a network's client, as of DHCP, is there when the network answers, which no state of a unit says."""


def network_checks(profile: Profile) -> Iterator[Check]:
    """What has no port, a raw socket, is only reported."""
    listen = profile.verify.listen
    yield Check(
        promise="network", subject="listens", at=("verify", "listen") if listen is not None else (),
        ops=(wire.listeners(WAIT_S, sorted(listen or ())),), judge=partial(_judge, listen),
    )  # fmt: skip


def _judge(declared: Sequence[str] | None, facts: Sequence[Facts]) -> Verdict:
    answer = facts[0]
    expected = "reported only" if declared is None else f"{', '.join(declared) or 'nothing'}, and nothing else"
    if answer.get("errno", "") is not None or not isinstance(answer.get("sockets"), list) or answer.get("truncated"):
        return broken(expected, trouble(answer) or f"no whole list of sockets: {answer.get('errno')}")
    outside = [s for s in parts(answer, "sockets") if s.get("loopback") is not True]
    shown = sorted({_words(s) for s in outside})
    seen = ", ".join(shown) or "nothing but on the loopback"
    if declared is None:
        return kept(expected, f"{seen} (not declared, only reported)")
    ports = {f"{s.get('proto')}/{s.get('port')}" for s in outside if s.get("proto") != "raw"}
    strange, missing = sorted(ports - set(declared)), sorted(set(declared) - ports)
    wrong = [f"not declared: {', '.join(strange)}"] if strange else []
    wrong += [f"not there: {', '.join(missing)}"] if missing else []
    return decide(not wrong, expected, "; ".join([*wrong, seen]))


def _words(socket: Facts) -> str:
    """`tcp 0.0.0.0:22 sshd`."""
    address = str(socket.get("address"))
    shown = f"[{address}]" if ":" in address else address
    return f"{socket.get('proto')} {shown}:{socket.get('port')} {socket.get('program') or '(nobody)'}"
