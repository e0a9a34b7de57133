# SPDX-License-Identifier: MIT
"""Every mutant by its name, in one order."""

from __future__ import annotations

from collections.abc import Mapping

from tests.mutants.commandline import COMMAND_LINE
from tests.mutants.disks import DISKS
from tests.mutants.identity import IDENTITY
from tests.mutants.immutable import IMMUTABLE
from tests.mutants.mounts import MOUNTS
from tests.mutants.mutation import Mutation
from tests.mutants.state import STATE
from tests.mutants.system import SYSTEM
from tests.mutants.tree import TREE

SUBJECTS: Mapping[str, Mapping[str, Mutation]] = {
    "mounts": MOUNTS,
    "what is immutable": IMMUTABLE,
    "overlays, seeds and state": STATE,
    "the system": SYSTEM,
    "identity and users": IDENTITY,
    "the image's tree": TREE,
    "command line and initrd": COMMAND_LINE,
    "files and disks": DISKS,
}
MUTANTS: Mapping[str, Mutation] = {name: what for subject in SUBJECTS.values() for name, what in subject.items()}
assert len(MUTANTS) == sum(len(subject) for subject in SUBJECTS.values()), "a name is there twice"

SAMPLE = tuple(name for name, what in MUTANTS.items() if what.sample)
"""Those that the tests run."""
THIRD = tuple(MUTANTS)[::3]
"""Of every subject, for the architecture that takes longer."""
