# SPDX-License-Identifier: MIT
"""A published image directory -> a fresh report, after its files were compared with the manifest."""

from __future__ import annotations

import json
from pathlib import Path

from rofs.errors import MachineError
from rofs.image.manifest import check_outputs
from rofs.machine.accel import find_accel
from rofs.machine.arch import ARCHES
from rofs.progress import Progress
from rofs.run import stoppable
from rofs.store import default_cache_dir, workspace
from rofs.verify.contract import load_contract
from rofs.verify.report import Report, write_report
from rofs.verify.session import Session, verify_image


def verify_again(image: Path, reports: Path, use_manifest: bool, progress: Progress) -> Report:
    """Boot `image` and judge it by its own promises.json; reports and logs go to `reports`.

    MachineError where the directory is no image, or its files are not the manifest's and
    `use_manifest` asks for that.
    """
    contract = load_contract(image)
    notes = _compare(image, use_manifest)
    logs = reports / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    def boots() -> Session:
        accel = find_accel(ARCHES[contract.architecture], default_cache_dir())
        with workspace(default_cache_dir() / "verify") as work:  # which also clears what a killed one left
            return verify_image(image, contract, accel, work, logs, progress)

    session = stoppable(boots)[0]
    if isinstance(session, BaseException):
        raise session
    report = Report(profile=contract.layout.profile, session=session, notes=notes)
    write_report(report, reports)
    return report


def _compare(image: Path, use_manifest: bool) -> tuple[str, ...]:
    try:
        different = check_outputs(image, json.loads((image / "manifest.json").read_bytes()))
    except (OSError, ValueError, KeyError) as error:
        different = [f"manifest.json ({error})"]
    if not different:
        return ("every file is as the manifest says",)
    shown = ", ".join(different)
    if use_manifest:
        raise MachineError(
            f"{image}: these are not the files that were built: {shown} (--no-manifest verifies them all the same)"
        )
    return (f"NOT the files that were built, verified with --no-manifest: {shown}",)
