# SPDX-License-Identifier: MIT
"""Layout, architecture, scenario -> the kernel's command line of a boot, and the check that the guest had it.

The words are the contract's, not those of the file in the image's directory, which somebody may have changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rofs.cmdline import make_cmdline
from rofs.layout import Layout
from rofs.machine.arch import ARCHES, Arch
from rofs.machine.qemu import machine_cmdline
from rofs.verify import probe_wire as wire
from rofs.verify.check import Check, Facts, Verdict, broken, data, kept, text, trouble
from rofs.verify.scenario import Scenario

SUFFIX = "panic=-1"
"""Added to the command line, which the report names whole: a panic ends the boot at once."""
RESET = "rofs.reset=1"


def expected_cmdline(layout: Layout, arch: Arch, scenario: Scenario) -> str:
    """What the image ships, on QEMU's machine, and what verification adds."""
    words = [machine_cmdline(make_cmdline(layout.profile, arch), arch), *added_words(layout, scenario)]
    return " ".join(words)


def added_words(layout: Layout, scenario: Scenario) -> tuple[str, ...]:
    """The suffix; without a state partition there is no place for the flag of a factory reset."""
    reset = scenario.state == "reset" and layout.profile.state is None
    return (SUFFIX, RESET) if reset else (SUFFIX,)


def cmdline_checks(layout: Layout, scenario: Scenario, arch: Arch | None) -> Iterator[Check]:
    """`arch` None: any of the profile's."""
    arches = [ARCHES[name] for name in layout.profile.architectures] if arch is None else [arch]
    expected = {expected_cmdline(layout, each, scenario) for each in arches}
    yield Check(
        promise="system", subject="command line", at=("kernel", "cmdline"), ops=(wire.read("/proc/cmdline"),),
        judge=partial(_judge, sorted(expected)),
    )  # fmt: skip


def _judge(expected: Sequence[str], facts: Sequence[Facts]) -> Verdict:
    wanted = " or ".join(expected)
    if data(facts[0]) is None:
        return broken(wanted, trouble(facts[0]) or f"cannot be read: {facts[0].get('errno')}")
    seen = text(facts[0]).split()
    if seen in [line.split() for line in expected]:
        return kept(wanted, " ".join(seen))
    known = {word for line in expected for word in line.split()}
    strange = [word for word in seen if word not in known]
    words = f"not the contract's: {' '.join(strange)}; " if strange else ""
    return broken(wanted, f"{words}{' '.join(seen)}")
