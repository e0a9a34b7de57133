# SPDX-License-Identifier: MIT
"""A published image directory -> a fresh report, after its files were compared with the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rofs.errors import MachineError
from rofs.image.manifest import check_outputs
from rofs.layout import persistent_stores
from rofs.machine.accel import find_accel
from rofs.machine.arch import ARCHES
from rofs.machine.disk import check_state
from rofs.machine.slots import Slots
from rofs.progress import Progress
from rofs.run import stoppable
from rofs.store import default_cache_dir, workspace
from rofs.verify.contract import load_contract
from rofs.verify.outside import find_identity
from rofs.verify.report import Report, make_report, write_report
from rofs.verify.request import AS_IT_IS, BOOT_TIMEOUT_S, Request, Session, Variation
from rofs.verify.session import verify_image


def verify_again(
    image: Path,
    reports: Path,
    use_manifest: bool,
    progress: Progress,
    *,
    state: Mapping[str, Path] | None = None,
    identity: Path | None = None,
    boots: int | None = None,
    jobs: int | None = None,
    variation: Variation = AS_IT_IS,
    timeout_s: float = BOOT_TIMEOUT_S,
) -> Report:
    """Boot `image` and judge it by its own promises.json; reports and logs go to `reports`.

    `state` are a device's disks by the name of what they hold, read and never written; `identity` is a
    private key; `boots` ends it early, and `variation` is another machine: the report says so. `jobs` boots
    go on at once. MachineError where the directory is no image, or its files are not the manifest's and
    `use_manifest` asks for that.
    """
    contract = load_contract(image)
    check_state(persistent_stores(contract.layout.profile), state or {})
    user = find_identity(contract, identity)
    notes, hashes = _compare(image, use_manifest)
    logs = reports / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    def verify() -> Session:
        accel = find_accel(ARCHES[contract.architecture], default_cache_dir())
        with workspace(default_cache_dir() / "verify") as work:  # which also clears what a killed one left
            request = Request(
                image=image, contract=contract, accel=accel, work=work, logs=logs, state=state or {}, identity=user,
                boots=boots, hashes=hashes, slots=Slots(jobs), variation=variation, timeout_s=timeout_s,
            )  # fmt: skip
            return verify_image(request, progress)

    session = stoppable(verify)[0]
    if isinstance(session, BaseException):
        raise session
    report = make_report(contract.layout, session, (*notes, *session.notes))
    write_report(report, reports)
    return report


def _compare(image: Path, use_manifest: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """What a reader must know, and the hashes of the files that are as the manifest says."""
    hashes: dict[str, str] = {}
    try:
        manifest = json.loads((image / "manifest.json").read_bytes())
        different = check_outputs(image, manifest)
        hashes = {name: said["sha256"] for name, said in manifest["outputs"].items() if name not in different}
    except (OSError, ValueError, KeyError) as error:
        different = [f"manifest.json ({error})"]
    if not different:
        return ("every file is as the manifest says",), hashes
    shown = ", ".join(different)
    if use_manifest:
        raise MachineError(
            f"{image}: these are not the files that were built: {shown} (--no-manifest verifies them all the same)"
        )
    return (f"NOT the files that were built, verified with --no-manifest: {shown}",), hashes
