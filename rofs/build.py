# SPDX-License-Identifier: MIT
"""Profile -> published image directories: the one place where all rooms meet.

profile, inputs -> lint -> tree, kernel -> facts -> lint -> layout -> entries -> squashfs, initrd
    -> verification -> images/<profile>/<arch>/
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from rofs.cmdline import make_cmdline
from rofs.entry import Entry
from rofs.errors import (
    ImageError,
    Interrupted,
    Problem,
    ProfileError,
    Rejected,
    RofsError,
    SourceError,
    ToolError,
)
from rofs.fetch import Fetcher, Tree, check_machine, require_unchanged
from rofs.generate import generate
from rofs.generate.initrd import APPLETS, needed_modules, render_initrd
from rofs.generate.mounts import mount_entries
from rofs.image.compare import Difference, compare_images
from rofs.image.filesystem import make_filesystem
from rofs.image.firmware import read_firmware
from rofs.image.initrd import choose_modules, module_paths, write_initrd
from rofs.image.manifest import build_manifest, hash_file, hash_outputs, write_manifest
from rofs.image.modules import ModuleFiles, read_kernel
from rofs.image.records import Records
from rofs.image.squashfs import write_squashfs
from rofs.image.union import drop_matcher
from rofs.inputs import Inputs, load_inputs
from rofs.kernelfacts import Need, lacking, unverifiable
from rofs.layout import Layout, build_layout, persistent_stores, store_file
from rofs.lint import lint
from rofs.lock import ArchLock, Lock, lock_path
from rofs.locking import keep_others, make_lock, read_lock, require, usable
from rofs.machine.arch import ARCHES, Arch
from rofs.machine.slots import Slots
from rofs.profile import DebianSource, Profile, load_profile
from rofs.progress import Progress
from rofs.reproduce import Circumstances, Given, build_in, other_circumstances
from rofs.run import both, run, stoppable
from rofs.sbom import write_sboms
from rofs.sources.debian import scratch, sweep_scratch
from rofs.sources.debs import CARRIED, DebStore
from rofs.sources.dpkg import PackageFacts, find_packages
from rofs.sources.kernel import Boot
from rofs.stamp import Ledger, find_state
from rofs.store import Cache, default_cache_dir, publish, workspace
from rofs.tools import tool_versions
from rofs.treefacts import TreeFacts, read_facts
from rofs.verify.contract import FILE, PROFILE, Contract, load_contract, render_contract

if TYPE_CHECKING:
    from rofs.verify.report import Report

HOST = (Path("/etc/apt"), Path("/var/lib/dpkg/status"))
"""What an image depends on of the host: where packages come from, and the tools, of which dpkg knows the versions."""
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
DEFAULT_EPOCH = 1704067200
"""2024-01-01T00:00:00Z: every time in an image, unless SOURCE_DATE_EPOCH says otherwise."""
LAST_EPOCH = (1 << 32) - 1

NOT_BOOTED = "not booted"
"""The manifest's reason where nothing but the wish keeps an image from being verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line decides. `architectures` empty means the profile's own.

    `identity` is the private key of a user of the image, with which verification logs in. `jobs` is how many
    boots go on at once, whichever architecture they are of; None is as many as there is room for. `locked`: use
    nothing but what the lock names; `inputs`, which `rofs export-inputs` wrote, is where packages come from then.
    `check_reproducible`: build twice from nothing, and publish what both agree on.
    """

    architectures: tuple[str, ...] = ()
    output: Path = Path("images")
    verify: bool = True
    refresh: bool = False
    epoch: int = DEFAULT_EPOCH
    identity: Path | None = None
    jobs: int | None = None
    locked: bool = False
    check_reproducible: bool = False
    inputs: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One architecture's result: where it lies, the report if it was booted, and what keeps it from being.

    `state` is that of the directory as it was published, as `find_stamp` compares it.
    """

    arch: str
    directory: Path
    report: Report | None
    obstacle: str = ""
    state: str = ""

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against shipping it: an unverified image was asked for, or cannot be booted here."""
        return self.report is None or self.report.session.accepted


def load(
    path: Path, architectures: Sequence[str] = (), ledger: Ledger | None = None
) -> tuple[Profile, Inputs, list[Problem]]:
    """Profile, the files it names, and the warnings; ProfileError with every error found together.

    All of them are entered in `ledger`.
    """
    ledger = ledger or Ledger()
    ledger.enter(path)
    profile = load_profile(path)
    problems = lint(profile, None)
    try:
        inputs = load_inputs(profile, architectures, ledger.enter)
    except ProfileError as error:
        raise ProfileError([*problems, *error.problems]) from None
    return profile, inputs, _refuse(problems)


def _refuse(problems: Sequence[Problem]) -> list[Problem]:
    """Raise where one of them is an error; else they are warnings."""
    if any(p.severity == "error" for p in problems):
        raise ProfileError(list(problems))
    return list(problems)


def find_epoch(environment: dict[str, str] | None = None) -> int:
    """SOURCE_DATE_EPOCH (reproducible-builds.org) or the default; SourceError for one that no squashfs can hold."""
    text = (environment if environment is not None else os.environ).get("SOURCE_DATE_EPOCH", "")
    if not text:
        return DEFAULT_EPOCH
    if not (text.isascii() and text.isdigit() and int(text) <= LAST_EPOCH):
        raise SourceError(f"SOURCE_DATE_EPOCH: {text!r} is not a number of seconds since 1970, from 0 to {LAST_EPOCH}")
    return int(text)


def build(path: Path, options: Options, progress: Progress, ledger: Ledger | None = None) -> list[Built]:
    """Build, verify and publish every architecture, side by side; the first error is raised at the end.

    A rejected image is not an error here: it is in the list, kept beside the last good one. What it depends on, of this
    host and beside the profile, is entered in `ledger`.
    """
    ledger = ledger or Ledger()
    for place in (*HOST, lock_path(path)):
        ledger.enter(place)
    profile, inputs, warnings = load(path, options.architectures, ledger)
    for warning in warnings:
        progress.note(str(warning))
    sweep_scratch()
    Cache(default_cache_dir()).sweep()
    chosen = options.architectures or profile.architectures
    slots = Slots(options.jobs)
    work = [_Job(profile, inputs, ARCHES[name], options, slots, progress) for name in chosen]
    lock = None if options.refresh else read_lock(path)
    if options.locked:
        asked = {job.arch.name: ArchLock(asked=job.fetcher.asked()) for job in work}
        with passing_work() as scratch:
            lock = require(lock, make_lock(profile, inputs, asked, options.epoch, scratch), path)
    for job in work:
        job.fetcher.locked = usable(lock, job.fetcher, progress.note)
    try:
        results = stoppable(*(job.build for job in work))
    except BaseException:
        _say_published(work, progress)
        raise
    with suppress(OSError):  # where nothing was built, nothing is left: not even an empty directory
        (options.output / profile.name).rmdir()
    errors = [e for e in results if isinstance(e, BaseException)]
    if errors:
        _say_published(work, progress)
    if wrong := {name: e for name, e in zip(chosen, results, strict=True) if isinstance(e, ProfileError)}:
        raise _join(wrong, len(chosen))
    for error in sorted(errors, key=lambda e: isinstance(e, RofsError)):  # a bug of ours first
        raise error
    return [result for result in results if isinstance(result, Built)]


def _say_published(work: Sequence[_Job], progress: Progress) -> None:
    """What is there all the same, where not all is."""
    for job in work:
        if job.published is not None:
            progress.remark(f"{job.arch.name}: {job.published} is there, of this build")


def lock(path: Path, architectures: Sequence[str], epoch: int, progress: Progress) -> tuple[Lock | None, Lock]:
    """Resolve a profile's packages anew -> the lock that was there, and that of now, which is not written.

    Architectures that are not chosen stay as they were.
    """
    profile, inputs, warnings = load(path, architectures)
    for warning in warnings:
        progress.note(str(warning))
    old = read_lock(path)
    chosen = [ARCHES[name] for name in architectures or profile.architectures]
    cache = Cache(default_cache_dir(), progress.remark)
    fetchers = [Fetcher(profile, inputs, arch, cache, progress, epoch=epoch, refresh=True) for arch in chosen]
    with passing_work() as work:
        found = stoppable(*(partial(_resolve, fetcher, work) for fetcher in fetchers))
        for error in found:
            if isinstance(error, BaseException):
                raise error
        now = make_lock(profile, inputs, _by_name(chosen, found), epoch, work)
    return old, keep_others(old, now, profile.architectures)


@contextmanager
def passing_work() -> Iterator[Path]:
    """A directory that goes again, logs and all: no error then points there."""
    with TemporaryDirectory(prefix="rofs-lock-") as name:
        try:
            yield Path(name)
        except SourceError as error:
            error.args = tuple(re.sub(rf"\nfull output: {re.escape(name)}.*", "", str(word)) for word in error.args)
            raise


def _carried(inputs: Path | None) -> DebStore | None:
    """The packages in a directory of inputs."""
    if inputs is None:
        return None
    if not (inputs / CARRIED).is_dir():
        raise SourceError(f"{inputs}: no directory of inputs; `rofs export-inputs` writes one")
    return DebStore(inputs / CARRIED)


def _by_name(chosen: Sequence[Arch], found: Sequence[object]) -> dict[str, ArchLock]:
    return {arch.name: each for arch, each in zip(chosen, found, strict=True) if isinstance(each, ArchLock)}


def _resolve(fetcher: Fetcher, work: Path) -> ArchLock:
    own = work / fetcher.arch.name
    own.mkdir()
    return fetcher.resolution(own, own)


def _join(errors: Mapping[str, ProfileError], architectures: int) -> ProfileError:
    """Each problem once, with the architectures that have it where not all do."""
    found: dict[Problem, list[str]] = {}
    for name, error in errors.items():
        for problem in error.problems:
            found.setdefault(problem, []).append(name)
    return ProfileError(
        [
            p if len(names) == architectures else replace(p, message=f"{p.message} for {', '.join(names)}")
            for p, names in found.items()
        ]
    )


class _Job:
    """One architecture of one build."""

    def __init__(
        self, profile: Profile, inputs: Inputs, arch: Arch, options: Options, slots: Slots, progress: Progress
    ) -> None:
        self.profile, self.inputs, self.arch, self.options = profile, inputs, arch, options
        self.slots, self.progress = slots, progress
        self.published: Path | None = None
        self.fetcher = Fetcher(
            profile, inputs, arch, Cache(default_cache_dir(), progress.remark), progress, epoch=options.epoch,
            refresh=options.refresh, carried=_carried(options.inputs),
        )  # fmt: skip

    def build(self) -> Built:
        """All steps. A disk that refuses what Python writes is no bug of ours."""
        try:
            return self._build(self.options.output / self.profile.name)
        except OSError as error:
            if error.filename is not None or error.errno not in _OF_THE_DISK:
                raise
            places = f"{self.options.output} or {self.fetcher.cache.root}"
            raise ImageError(f"{self.arch.name}: {error.strerror}, below {places}") from error

    def _build(self, parent: Path) -> Built:
        """In a workspace beside the destination."""
        parent.mkdir(parents=True, exist_ok=True)
        with workspace(parent) as work:
            image = work / "image"
            (image / "logs").mkdir(parents=True)
            with self._logs_kept(image / "logs", parent / f"{self.arch.name}.failed"):
                write = self.write_twice if self.options.check_reproducible else self.write_image
                contract, obstacle = write(image, work)
                report = self.verify(image, contract, work) if self.options.verify and not obstacle else None
            accepted = report is None or report.session.accepted
            dest = parent / (self.arch.name if accepted else f"{self.arch.name}.rejected")
            state = find_state(image)
            publish(image, dest)
            self.published = dest
            if accepted:
                shutil.rmtree(parent / f"{self.arch.name}.rejected", ignore_errors=True)
                shutil.rmtree(self._kept(), ignore_errors=True)
            shutil.rmtree(parent / f"{self.arch.name}.failed", ignore_errors=True)
        return Built(arch=self.arch.name, directory=dest, report=report, obstacle=obstacle, state=state)

    @staticmethod
    @contextmanager
    def _logs_kept(logs: Path, kept: Path) -> Iterator[None]:
        """A tool that failed names its log: keep it beside the results, where the workspace goes away."""
        try:
            yield
        except (ProfileError, Interrupted, Rejected):
            raise
        except RofsError as error:
            try:
                publish(logs, kept)
            except ImageError:
                raise error from None  # a full disk has no room for its own story
            error.args = tuple(str(word).replace(str(logs), str(kept)) for word in error.args)
            if isinstance(error, ToolError) and error.log is not None and logs in error.log.parents:
                error.log = kept / error.log.relative_to(logs)
                error.tail = error.tail.replace(str(logs), str(kept))
            raise

    # --- what is made of it -----------------------------------------------------------------------

    def write_image(self, image: Path, work: Path) -> tuple[Contract, str]:
        """Everything but the report, and why it cannot be verified, or "".

        Nothing is written into the image before the lint has passed.
        """
        logs = image / "logs"
        tree, boot = both(partial(self.fetcher.tree, work, logs), partial(self.fetcher.boot_files, work, logs))
        tars = [tree.tar, *([boot.modules_tar] if self.profile.kernel.install_modules else [])]
        facts = read_facts(tars[0], tars[1:])
        check_machine(tree, facts.machine(), self.arch, self.profile)
        self._note_dropped(tree, facts)
        known = lint(self.profile, None)
        for warning in _refuse([p for p in lint(self.profile, facts) if p not in known]):
            self.progress.note(str(warning))
        layout = build_layout(self.profile, facts)
        modules = ModuleFiles(boot.modules_tar, boot.release)
        kernel = read_kernel(modules, boot.config)
        _refuse([self._lack(need) for need in lacking(kernel, layout)])
        obstacle = unverifiable(kernel, self.arch)
        entries = generate(layout, self.inputs, facts, self.options.epoch)
        chosen = choose_modules(modules, needed_modules(layout), kernel)
        firmware = read_firmware(tars, entries, self.profile, facts)
        facts = facts.slim()
        records, _ = both(
            partial(self._write_root, image, tree, tars, facts, entries, logs),
            partial(self._write_boot, image, layout, boot, modules, chosen, firmware),
        )
        require_unchanged(tree)
        contract = Contract(architecture=self.arch.name, layout=layout, entries=entries)
        self._write_stores(image)
        self._write_texts(image, layout, contract)
        self._write_manifest(image, records, tree, facts, boot, entries, obstacle or NOT_BOOTED)
        return contract, obstacle

    def write_twice(self, image: Path, work: Path) -> tuple[Contract, str]:
        """As `write_image`, by two other processes; Rejected where their images differ, which are both kept then."""
        logs, other = image / "logs", other_circumstances()
        given = Given(self.profile.file, tuple(self.fetcher.debs(work, logs)), tuple(self.fetcher.answers))
        words = ["--arch", self.arch.name, *(["--locked"] if self.options.locked else [])]
        with scratch(root=os.geteuid() == 0, log=logs / "twice.log") as home:
            made = []
            for name, circumstances in (("first", Circumstances()), ("the-second-build", other)):
                with self.progress.step(f"{self.arch.name}: {name.replace('-', ' ')}") as step:
                    log, epoch = logs / f"{name}.log", self.options.epoch
                    images = build_in(home / name, given, words, circumstances, epoch=epoch, log=log, say=step.update)
                    made.append(images / self.profile.name / self.arch.name)
            if differences := compare_images(*made):
                self._keep_both(made, differences, other, work)
            run(["cp", "-r", "--sparse=always", f"{made[0]}/.", image], log=logs / "twice.log")
        missing = f"; not varied: {', '.join(other.missing)}" if other.missing else ""
        self.progress.note(f"{self.arch.name}: built twice, the same bytes. The second: {other}{missing}")
        reason = json.loads((image / "manifest.json").read_bytes())["reason"]
        return load_contract(image), "" if reason == NOT_BOOTED else reason

    def _keep_both(
        self, made: Sequence[Path], differences: Sequence[Difference], other: Circumstances, work: Path
    ) -> NoReturn:
        both, kept = work / "both", self._kept()
        for name, image in zip(("first", "second"), made, strict=True):
            (both / name).mkdir(parents=True)
            run(["cp", "-r", "--sparse=always", f"{image}/.", both / name])
        text = "\n".join(map(str, differences))
        (both / "differences.txt").write_text(f"{text}\n\nThe second: {other}\n", "utf-8", "surrogateescape")
        publish(both, kept)
        raise Rejected(f"{self.arch.name}: two builds of the same inputs differ; both are in {kept}:\n{text}")

    def _kept(self) -> Path:
        """Two images that should have been the same."""
        return self.options.output / self.profile.name / f"{self.arch.name}.differs"

    def _note_dropped(self, tree: Tree, facts: TreeFacts) -> None:
        """Of a tree that somebody else made nothing goes without a word."""
        if not isinstance(self.profile.source, DebianSource):
            matches = drop_matcher(tree.drop)
            left = sorted(path for path in facts.nodes if matches(path))
            if left:
                self.progress.note(f"{self.arch.name}: left out, since it is of one machine: {', '.join(left)}")

    def _lack(self, need: Need) -> Problem:
        hint = f"build the kernel with {need.option}, or change what needs it"
        return Problem(self.profile.marks.find(need.at), str(need), "kernel-lacks", need.at, hint)

    def _write_root(
        self, image: Path, tree: Tree, tars: list[Path], facts: TreeFacts, entries: tuple[Entry, ...], logs: Path
    ) -> Records:
        options = self.profile.image
        level = "" if options.level is None else f"-{options.level}"
        with self.progress.step(f"{self.arch.name}: squashfs ({options.compression}{level})") as step:
            out = image / "rootfs.squashfs"
            records = write_squashfs(
                out, tars, entries, options=options, epoch=self.options.epoch, resolve=facts.resolve,
                drop=tree.drop, keep_times=tree.keep_times, log=logs / "squashfs.log",
                blocks=default_cache_dir() / "blocks",
                note=lambda text: self.progress.remark(f"{self.arch.name}: {text}"),
            )  # fmt: skip
            step.update(f"{out.stat().st_size >> 10} KiB, {len(records)} paths")
        return records

    def _write_boot(
        self, image: Path, layout: Layout, boot: Boot, modules: ModuleFiles, chosen: list[str],
        firmware: dict[str, bytes],
    ) -> None:  # fmt: skip
        write_initrd(
            image / "initrd.img",
            script=render_initrd(layout, module_paths(chosen)),
            applets=APPLETS, busybox=boot.busybox, modules=modules, chosen=chosen, firmware=firmware,
            cache=self.fetcher.cache,
        )  # fmt: skip
        shutil.copyfile(boot.vmlinuz, image / "vmlinuz")
        (image / "cmdline").write_text(make_cmdline(self.profile, self.arch) + "\n", encoding="utf-8")

    def _write_stores(self, image: Path) -> None:
        """Empty file systems to start from; a device keeps its own over updates."""
        for store in persistent_stores(self.profile):
            out, seed = image / store_file(store), f"{self.profile.name}/{self.arch.name}/{store.name}"
            make_filesystem(
                out, device=store.device, size_bytes=store.size_bytes, seed=seed, epoch=self.options.epoch,
                log=image / "logs" / "filesystems.log",
            )  # fmt: skip

    def _write_texts(self, image: Path, layout: Layout, contract: Contract) -> None:
        write_generated(layout, image)
        (image / FILE).write_bytes(render_contract(contract))
        shutil.copyfile(self.profile.file, image / PROFILE)

    def _write_manifest(
        self, image: Path, records: Records, tree: Tree, facts: TreeFacts, boot: Boot,
        entries: tuple[Entry, ...], reason: str,
    ) -> None:  # fmt: skip
        packages = find_packages(facts)
        manifest = build_manifest(
            profile=self.profile.name, architecture=self.arch.name, epoch=self.options.epoch,
            verified=False, reason=reason, files=records, outputs=hash_outputs(image),
            inputs={
                **tree.inputs,
                "packages": {p.name: p.version for p in packages},
                "kernel": {
                    "package": boot.package, "version": boot.version, "release": boot.release, **boot.files,
                },
                "busybox-static": boot.busybox_version,
            },
            tools=tool_versions(),
        )  # fmt: skip
        self._write_sboms(image, manifest, packages, facts, entries)
        write_manifest(image / "manifest.json", manifest)

    def _write_sboms(
        self, image: Path, manifest: dict[str, Any], packages: Sequence[PackageFacts], facts: TreeFacts,
        entries: tuple[Entry, ...],
    ) -> None:  # fmt: skip
        """Beside the manifest, which they are made of and which names them too."""
        generated = {str(facts.resolve(e.path.parent) / e.path.name): e.content for e in entries if e.kind == "file"}
        release = facts.text("/etc/os-release") or facts.text("/usr/lib/os-release") or b""
        suite = self.profile.kernel.suite
        cache = self.fetcher.cache
        for path in write_sboms(image, manifest, packages, generated, os_release=release, suite=suite, cache=cache):
            manifest["outputs"][path.name] = {"size": path.stat().st_size, "sha256": hash_file(path)}
        manifest["outputs"] = dict(sorted(manifest["outputs"].items()))

    def verify(self, image: Path, contract: Contract, work: Path) -> Report:
        """Boot it, and say in the manifest how that went."""
        from rofs.machine.accel import find_accel  # lazily, as the others: a build without it need not wait
        from rofs.verify.outside import find_identity
        from rofs.verify.report import make_report, write_report
        from rofs.verify.request import Request
        from rofs.verify.session import verify_image

        accel = find_accel(self.arch, default_cache_dir())
        outputs = json.loads((image / "manifest.json").read_bytes())["outputs"]
        request = Request(
            image=image, contract=contract, accel=accel, work=work, logs=image / "logs",
            identity=find_identity(contract, self.options.identity),
            hashes={name: said["sha256"] for name, said in outputs.items()}, slots=self.slots,
        )  # fmt: skip
        session = verify_image(request, self.progress)
        report = make_report(contract.layout, session, session.notes)
        write_report(report, image)
        mark_verified(image, report)
        return report


def mark_verified(image: Path, report: Report) -> None:
    """The manifest's last word; its other fields stay as built."""
    path = image / "manifest.json"
    manifest = json.loads(path.read_bytes())
    accepted = report.session.accepted
    manifest["verified"] = accepted
    manifest["reason"] = "" if accepted else f"{len(report.broken)} promises broken: see report.txt"
    write_manifest(path, manifest)


def write_generated(layout: Layout, directory: Path) -> None:
    """fstab, and for systemd units/, for reading: what the image holds, byte by byte."""
    for entry in mount_entries(layout):
        if entry.kind == "file":
            target = directory if entry.path.name == "fstab" else directory / "units"
            target.mkdir(parents=True, exist_ok=True)
            (target / entry.path.name).write_bytes(entry.content)


def reject(built: Sequence[Built]) -> None:
    """Rejected, if one of them was."""
    wrong = [b for b in built if not b.accepted]
    if wrong:
        raise Rejected("; ".join(f"{b.directory}: {len(b.report.broken)} broken" for b in wrong if b.report))
