# SPDX-License-Identifier: MIT
"""A user's private key -> proof that the user can log in over the network, seen from both sides."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rofs.errors import MachineError
from rofs.run import run
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Outcome, Verdict, decide, text, trouble
from rofs.verify.contract import Contract
from rofs.verify.login import Identity, Login
from rofs.verify.scenario import Scenario

SSH_PORT = 22
LOGIN_TIMEOUT_S = 120


def find_identity(contract: Contract, key: Path | None) -> Identity | None:
    """Whose private key this is, by the authorized_keys of the image; MachineError if nobody's."""
    if key is None:
        return None
    public = run(["ssh-keygen", "-y", "-P", "", "-f", str(key.absolute())], timeout_s=30).stdout.split()[:2]
    layout = contract.layout
    for user in layout.profile.users:
        path = user.home_path / ".ssh/authorized_keys"
        lines = next((e.content for e in contract.entries if e.path == path), b"").decode().splitlines()
        if any(" ".join(public) in line for line in lines):
            return Identity(user=user.name, key=key.absolute())
    raise MachineError(f"{key} is the key of no user of the image: authorized_keys has its public half nowhere")


class Outside:
    """The login of one boot over the forwarded port, while the guest waits for what it leaves."""

    def __init__(self, identity: Identity, scenario: Scenario, *, work: Path, logs: Path) -> None:
        self._identity, self._scenario, self._work, self._logs = identity, scenario, work, logs
        self._mark = f"/dev/shm/rofs-login-{secrets.token_hex(8)}"  # noqa: S108 - the guest's
        self._login: Login | None = None

    def start(self, port: int) -> None:
        """Called when the port is known; a reset and a broken state bring another host key."""
        same = self._scenario.state in ("new", "used", "kept")
        hosts = self._work / ("known_hosts" if same else f"known_hosts-{self._scenario.number}")
        self._login = Login(
            self._identity, port, known_hosts=hosts, command=f"touch {self._mark}", log=self._logs / "ssh.log"
        )
        self._login.start()

    def check(self) -> Check:
        """In the guest: the file that only the login can have made, by its owner."""
        user = self._identity.user
        wait = f"until test -e {self._mark}; do sleep 0.2; done; stat -c %U {self._mark}; rm {self._mark}"
        return Check(
            promise="ssh", subject=f"{user} logs in with the key", at=(), phase="after",
            ops=(wire.shell(LOGIN_TIMEOUT_S, wait),), judge=partial(_judge_login, user),
        )  # fmt: skip

    def outcome(self) -> Outcome:
        """From outside: what ssh said."""
        ok, words = self._login.finish() if self._login else (False, "no port was forwarded")
        return Outcome(
            boot=self._scenario.number, promise="ssh", subject="seen from outside", at=(),
            verdict=decide(ok, "a login over the network", words),
        )  # fmt: skip


def _judge_login(user: str, facts: Sequence[Facts]) -> Verdict:
    seen = text(facts[0]).strip()
    return decide(seen == user, f"a login of {user}", trouble(facts[0]) or f"a file of {seen or 'nobody'}")
