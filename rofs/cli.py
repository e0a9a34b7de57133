# SPDX-License-Identifier: MIT
"""The command line: one function a verb. Alone in rofs, it prints and exits."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import NoReturn

from rofs import __version__
from rofs.errors import Interrupted, MachineError, ProfileError, Rejected, RofsError, SourceError, ToolError
from rofs.machine.arch import ARCHES

FIRST_YEAR, LAST_YEAR = 1970, 2099
"""What every machine's clock can be set to."""

EPILOG = """\
exit status: 0 done, 2 the profile is wrong, 3 a tool or source failed, 4 verification rejected the
image, 5 QEMU itself failed, 130 interrupted; 1 is a bug in rofs.
"""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one verb and exit with the status that errors.py gives its outcome."""
    signal.signal(signal.SIGTERM, _terminate)
    options = make_parser().parse_args(argv)
    try:
        status = options.verb(options)
        sys.stdout.flush()
    except RofsError as error:
        _say(render_error(error))
        status = error.exit_status
    except KeyboardInterrupt:
        _say("rofs: interrupted; what was published before is untouched")
        status = Interrupted.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        if error.filename is None:
            raise  # a bug: what a user named has a name
        _say(f"rofs: error: {error.filename}: {error.strerror}")
        status = ToolError.exit_status
    sys.exit(status)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """A pipeline's SIGTERM ends a build as a terminal's SIGINT does."""
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def render_error(error: RofsError) -> str:
    """What went wrong, the last words of the tool, where the rest is, and what to do."""
    if isinstance(error, ProfileError):
        return str(error)
    if not isinstance(error, ToolError):
        return f"rofs: error: {error}"
    lines = [f"rofs: error: {error.reason}"]
    if error.argv:
        lines.append(f"  command: {' '.join(error.argv)}")
    lines += [f"  | {line}" for line in error.tail.splitlines()]
    if error.log is not None and error.log.exists():
        lines.append(f"  full output: {error.log}")
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(
        prog="rofs",
        description="Turn a YAML profile into a read-only Linux image, and prove it by booting it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rofs {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    # In the order of their use.
    _add_init(verbs)
    _add_check(verbs)
    _add_plan(verbs)
    _add_explain(verbs)
    _add_lock(verbs)
    _add_build(verbs)
    _add_export_inputs(verbs)
    _add_verify(verbs)
    _add_boot(verbs)
    _add_doctor(verbs)
    _add_cache(verbs)
    return parser


Verbs = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _verb(verbs: Verbs, name: str, help_text: str, description: str) -> argparse.ArgumentParser:  # type: ignore[valid-type]
    return verbs.add_parser(  # type: ignore[attr-defined,no-any-return]
        name, help=help_text, description=description, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def _add_build(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "build", "build, boot, verify and publish a profile",
        "Build the profile for each of its architectures, boot each image in QEMU, check every promise,\n"
        "and publish images/<profile>/<arch>/. A rejected image is kept as <arch>.rejected with its report;\n"
        "the last good one stays where it is. An image without state is booted twice; one with state also\n"
        "after a factory reset, and once for each thing that may be wrong with the state partition.",
    )  # fmt: skip
    parser.add_argument("profile", type=Path, metavar="PROFILE", help="the YAML profile")
    _add_arch(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("images"),
        metavar="DIR",
        help="publish below DIR (default: images)",
    )
    parser.add_argument("--no-verify", action="store_true", help="publish without booting; the manifest says so")
    parser.add_argument(
        "--refresh", action="store_true", help="ask the package sources anew, whatever the cache or a lock says"
    )
    parser.add_argument(
        "--locked", action="store_true", help="use nothing but what PROFILE's lock names, or say what differs"
    )
    parser.add_argument(
        "--inputs", type=Path, metavar="DIR",
        help="with --locked: take packages from DIR, which `rofs export-inputs` wrote, and nothing from the network",
    )  # fmt: skip
    parser.add_argument(
        "--check-reproducible", action="store_true",
        help="build twice from nothing, by another user, at another place, date, time zone, locale, umask, host name "
        "and number of processors; publish only where both gave the same bytes, else name those that differ",
    )  # fmt: skip
    _add_jobs(parser, "whichever architecture they are of")
    _add_identity(parser)
    _add_progress(parser)
    parser.set_defaults(verb=build)


def _add_lock(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "lock", "write down every input of a profile's images, by hash",
        "Ask the package sources which packages the profile gets today, and write them, every file it names, the\n"
        "kernel and the versions of the tools into PROFILE's lock beside it (gateway.yaml: gateway.lock). What\n"
        "changed is printed. Builds use the packages of a lock that fits the profile; a locked build uses nothing\n"
        "else at all.",
    )  # fmt: skip
    parser.add_argument("profile", type=Path, metavar="PROFILE", help="the YAML profile")
    _add_arch(parser)
    _add_progress(parser)
    parser.set_defaults(verb=lock)


def _add_export_inputs(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "export-inputs", "write everything that a locked build reads into a directory",
        "Write DIR, whole or not at all: PROFILE and its lock, every file and tree it names, and every package of\n"
        "the lock by its hash. A locked build of the PROFILE in it that is given DIR needs no network. The tools are\n"
        "not in DIR: the host that builds has those of the lock, or says what differs.",
    )  # fmt: skip
    parser.add_argument("profile", type=Path, metavar="PROFILE", help="the YAML profile, with its lock beside it")
    parser.add_argument("directory", type=Path, metavar="DIR", help="made; or empty")
    _add_arch(parser)
    _add_progress(parser)
    parser.set_defaults(verb=export_inputs)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _clock(text: str) -> str:
    from datetime import datetime

    if re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d)?", text, re.ASCII):
        with suppress(ValueError):  # no such day
            if FIRST_YEAR <= datetime.fromisoformat(text).year <= LAST_YEAR:
                return text
    words = f"{text!r} is not a date, as 2010-01-01 or 2010-01-01T23:59:30, from {FIRST_YEAR} to {LAST_YEAR}"
    raise argparse.ArgumentTypeError(words)


def _add_arch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch", action="append", default=[], choices=tuple(ARCHES), help="only this architecture; may be repeated"
    )


def _add_jobs(parser: argparse.ArgumentParser, more: str) -> None:
    parser.add_argument(
        "--jobs", type=_positive, metavar="N",
        help=f"boot at most N guests at once, {more}; each keeps a core busy where it is emulated, and takes its "
        "memory (default: one for each core, where there is memory)",
    )  # fmt: skip


def _add_identity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--identity", type=Path, metavar="KEY",
        help="a private ssh key whose public half is in the profile: log in with it in every boot, over a port "
        "of the loopback that QEMU forwards",
    )  # fmt: skip


def _add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--progress", choices=("auto", "plain", "quiet"), default="auto",
        help="live on a terminal and lines in a pipe (auto), always lines, or nothing; on stderr",
    )  # fmt: skip


def _add_verify(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "verify", "boot a published image again and check every promise",
        "Boot the image in IMAGE_DIR as build does, and check it against the promises it was built with.\n"
        "The reports in IMAGE_DIR are written anew.",
    )  # fmt: skip
    parser.add_argument("image", type=Path, metavar="IMAGE_DIR", help="such as images/minimal/arm64")
    parser.add_argument(
        "--no-manifest",
        action="store_true",
        help="verify it although its hashes differ from the manifest's; the report says so",
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="write the reports and logs to DIR instead")
    parser.add_argument(
        "--state", action="append", default=[], metavar="[NAME=]FILE",
        help="boot with this raw image of a device's state partition (or with /PATH=FILE of the partition on PATH) "
        "instead of an empty one: two boots, FILE is not written, and the report lists what in it hides the image",
    )  # fmt: skip
    parser.add_argument(
        "--boots", type=_positive, metavar="N", help="only the first N boots, for a quick look; the report says so"
    )
    _add_jobs(parser, "those that share no disk")
    parser.add_argument(
        "--memory", type=_memory, metavar="SIZE",
        help="of the guest, such as 1G (default: the profile's verify.memory); this and the next two are for asking "
        "whether the image keeps its promises on another machine, and the report names it",
    )  # fmt: skip
    parser.add_argument("--cpus", type=_positive, metavar="N", help="processors of the guest (default: as build does)")
    parser.add_argument(
        "--clock", type=_clock, metavar="DATE",
        help="the guest's clock at its start, such as 2010-01-01, or 2010-01-01T23:59:30 (default: the host's clock)",
    )  # fmt: skip
    parser.add_argument(
        "--boot-timeout", type=_positive, default=600, metavar="SECONDS",
        help="a boot that has not ended by then has failed, and no further one begins (default: 600)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "json", "junit"), default="text", help="what is printed on stdout")
    _add_identity(parser)
    _add_progress(parser)
    parser.set_defaults(verb=verify)


def _add_check(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "check", "say what is wrong in profiles, without building",
        "Print every problem as FILE:LINE:COLUMN: error: … [key] (rule). Names of users, groups and units\n"
        "are known only with the packages, so build checks those.",
    )  # fmt: skip
    parser.add_argument("profiles", type=Path, nargs="+", metavar="PROFILE", help="YAML profiles")
    parser.add_argument(
        "--format",
        choices=("text", "json", "github"),
        default="text",
        help="for people, programs or GitHub annotations",
    )
    parser.set_defaults(verb=check)


def _add_plan(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "plan", "show what will be mounted where, without building",
        "Print the tree of promises. Modes and owners that come from the packages are unknown here.",
    )  # fmt: skip
    parser.add_argument("profile", type=Path, metavar="PROFILE", help="the YAML profile")
    parser.add_argument("--json", action="store_true", help="the whole layout as JSON")
    parser.add_argument(
        "--write", type=Path, metavar="DIR", help="write the generated fstab, units/ and init script to DIR"
    )
    parser.set_defaults(verb=plan)


def _add_explain(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "explain", "say who provides a path, who may write it, what survives, and which line says so",
        "Answer for one PATH of the running system: what provides it, whether it can be written and where that\n"
        "lands, what is there after a reboot, a power cut, a factory reset or an update, and without its state.\n"
        "The packages are not read: name the path that a symbolic link leads to.",
    )  # fmt: skip
    parser.add_argument("profile", type=Path, metavar="PROFILE", help="the YAML profile")
    parser.add_argument("path", type=_path_inside, metavar="PATH", help="absolute, such as /var/lib/misc")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.set_defaults(verb=explain)


def _path_inside(text: str) -> PurePosixPath:
    from rofs.explain import parse_path

    try:
        return parse_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_boot(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "boot", "open a console on a published image in QEMU",
        "Boot the image in IMAGE_DIR with its console on this terminal, or on stdin and stdout. Nothing in\n"
        "IMAGE_DIR is written, and what the guest writes is thrown away at the end. Ctrl-A X leaves, Ctrl-A C is\n"
        "QEMU's monitor. The network ends inside QEMU. Files that differ from the manifest are a warning here.",
    )  # fmt: skip
    parser.add_argument("image", type=Path, metavar="IMAGE_DIR", help="such as images/minimal/arm64")
    disks = parser.add_mutually_exclusive_group()
    disks.add_argument(
        "--keep-state", action="append", nargs="?", const="", metavar="[NAME=]FILE",
        help="keep what persists in FILE from run to run (default: beside the image, as ARCH.state.qcow2); it is "
        "made from the published state.img at first, as qcow2 where its name ends so, else raw; NAME is state or "
        "the /PATH of a partition",
    )  # fmt: skip
    disks.add_argument(
        "--state", action="append", default=[], metavar="[NAME=]FILE",
        help="boot with this raw image of a device's state partition (or with /PATH=FILE of the partition on PATH); "
        "FILE is not written",
    )  # fmt: skip
    parser.add_argument(
        "--ssh", action="store_true", help="forward a free port of the loopback to the guest's ssh; the command is said"
    )
    parser.add_argument(
        "--memory", type=_memory, metavar="SIZE", help="such as 1G (default: the profile's verify.memory)"
    )
    parser.add_argument("--cpus", type=_positive, default=2, metavar="N", help="processors of the guest (default: 2)")
    parser.add_argument("--append", default="", metavar="WORDS", help="more words for the kernel's command line")
    parser.set_defaults(verb=boot)


def _memory(text: str) -> int:
    from rofs.values import BadValue, memory

    try:
        return memory(text)
    except BadValue as error:
        raise argparse.ArgumentTypeError(f"{error} ({error.hint})") from None


def _add_init(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "init", "write a commented profile to start from",
        "Write NAME.yaml, a profile that explains itself and builds as it is: a small Debian with systemd for\n"
        "amd64 and arm64, or the root file system in a tar. A file that is there already is never overwritten.",
    )  # fmt: skip
    parser.add_argument(
        "name", type=_profile_name, nargs="?", metavar="NAME",
        help="the profile's name, also the host's: lower-case letters, digits and dashes, at most 63 characters "
        "(default: made from the name of the directory the file goes to)",
    )  # fmt: skip
    parser.add_argument(
        "--tar", type=Path, metavar="FILE",
        help="a root file system that Buildroot, Yocto or another tool made, in or below the directory the profile "
        "goes to; its init, architecture and what it writes to are read from it",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help="write FILE instead of NAME.yaml")
    parser.set_defaults(verb=init)


def _profile_name(text: str) -> str:
    from rofs.starter import NAME, make_name

    if NAME.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not the name of a host; {make_name(text)} would be")


def _add_doctor(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "doctor", "say what this host has of what rofs needs, and how to get the rest",
        "Ask every tool rofs runs for its version, prove which accelerator a guest runs with, and look at the\n"
        "emulation of other architectures, unprivileged builds, the cache and apt's suites. Nothing is changed.\n"
        "Exit status 3 where something needed is missing.",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for people or programs")
    parser.set_defaults(verb=doctor)


def _add_cache(verbs: Verbs) -> None:  # type: ignore[valid-type]
    parser = _verb(
        verbs, "cache", "show, trim or check what is kept for the builds to come",
        "Builds keep packages, trees, kernels and compressed blocks in ~/.cache/rofs, or where ROFS_CACHE_DIR says.\n"
        "Nothing in there is needed: what is removed or damaged is made again, at the price of time.",
    )  # fmt: skip
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    show = _verb(
        actions, "show", "say how large the cache is, and when it was of use",
        "Print a table by kind: how many entries, their size on the disk, when one was last of use, and since when\n"
        "the oldest was not.",
    )  # fmt: skip
    show.add_argument("--json", action="store_true", help="the same as JSON")
    show.set_defaults(verb=cache_show)
    trim = _verb(
        actions, "trim", "remove what was not of use for longest",
        "Remove what killed builds and older resolutions left, what was not of use for as long as --age says, and\n"
        "then the least recently used until the cache is no larger than --size. Builds may go on meanwhile: what\n"
        "they use stays. What was freed is printed.",
    )  # fmt: skip
    trim.add_argument("--size", type=_cache_size, metavar="SIZE", help="at most this much is left, such as 10G or 0")
    trim.add_argument("--age", type=_cache_age, metavar="AGE", help="not of use for so long, such as 30d, 12h or 0d")
    trim.set_defaults(verb=cache_trim)
    checks = _verb(
        actions, "check", "read the whole cache and remove what is damaged",
        "Hash every entry. What is damaged is named and removed; exit status 3 says that there was some. Builds check\n"
        "what they use in the same way.",
    )  # fmt: skip
    checks.set_defaults(verb=cache_check)


def _cache_size(text: str) -> int:
    return 0 if text == "0" else _size(text)


def _size(text: str) -> int:
    from rofs.values import BadValue, size

    try:
        return size(text)
    except BadValue as error:
        raise argparse.ArgumentTypeError(f"{error} ({error.hint})") from None


def _cache_age(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([hd])", text, re.ASCII)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days or hours, as 30d or 12h")
    return int(found[1]) * {"h": 3600, "d": 86400}[found[2]]


# --- the verbs ------------------------------------------------------------------------------------


def build(options: argparse.Namespace) -> int:
    """`rofs build`."""
    from rofs.progress import Noted, age, make_progress
    from rofs.stamp import Ledger, find_stamp
    from rofs.store import default_cache_dir

    if options.inputs and not options.locked:
        raise SourceError("--inputs goes with --locked: without a lock nobody knows which packages are meant")
    if options.refresh and options.locked:
        raise SourceError("--refresh asks the package sources anew and --locked asks nobody: leave one of them out")
    question = _question(options)
    anew = options.refresh or options.check_reproducible
    stamp = None if anew else find_stamp(default_cache_dir(), question)
    if stamp is not None:
        for line in (*stamp.notes, f"nothing has changed since this was published {age(time.time() - stamp.at)} ago"):
            _say(line)
        print("\n".join(stamp.said))
        return 0
    from rofs import build as builder

    chosen = builder.Options(
        architectures=tuple(dict.fromkeys(options.arch)), output=options.output, verify=not options.no_verify,
        refresh=options.refresh, epoch=builder.find_epoch(), identity=options.identity, jobs=options.jobs,
        locked=options.locked, inputs=options.inputs, check_reproducible=options.check_reproducible,
    )  # fmt: skip
    ledger = Ledger()
    progress = Noted(make_progress(sys.stderr, options.progress), ledger.notes)
    built = builder.build(options.profile, chosen, progress, ledger)
    said = [_summary(result) for result in built]
    print("\n".join(said))
    builder.reject(built)
    if not options.check_reproducible:  # a plain build does not say again what this one said
        ledger.save(default_cache_dir(), question, {result.directory: result.state for result in built}, said)
    return 0


def _question(options: argparse.Namespace) -> dict[str, object]:
    """What a build was asked, as far as it shapes what is published."""
    return {
        "profile": options.profile.absolute(), "output": options.output.absolute(), "arch": options.arch,
        "verify": not options.no_verify, "locked": options.locked, "identity": options.identity, "version": __version__,
        "inputs": options.inputs and options.inputs.absolute(),
        "environment": {name: os.environ.get(name) for name in ("SOURCE_DATE_EPOCH", "ROFS_ACCEL", "PATH")},
    }  # fmt: skip


def lock(options: argparse.Namespace) -> int:
    """`rofs lock`."""
    from rofs import build as builder
    from rofs.lock import differences, lock_path, render_lock
    from rofs.progress import make_progress
    from rofs.store import replace_file

    progress = make_progress(sys.stderr, options.progress)
    old, new = builder.lock(options.profile, tuple(dict.fromkeys(options.arch)), builder.find_epoch(), progress)
    path = lock_path(options.profile)
    if old != new:
        replace_file(path, render_lock(new).encode())
    if old is None:
        print(f"{path}: written")
    elif lines := differences(old, new):
        print("\n".join(lines))
    else:
        print(f"{path}: nothing has changed")
    return 0


def export_inputs(options: argparse.Namespace) -> int:
    """`rofs export-inputs`."""
    from rofs import export
    from rofs.progress import make_progress

    progress, profile, directory = make_progress(sys.stderr, options.progress), options.profile, options.directory
    count = export.export_inputs(profile, directory, tuple(dict.fromkeys(options.arch)), progress)
    print(f"{directory}: {count} packages, the profile, its lock and its files. Where there is no network:")
    print(f"  {shlex.join(('rofs', 'build', '--locked', '--inputs', str(directory), str(directory / profile.name)))}")
    return 0


def _summary(result: object) -> str:
    """One architecture: the verdict, what is broken, and where the whole report is."""
    from rofs.build import Built

    assert isinstance(result, Built)  # noqa: S101 - for the type checker; the import is lazy
    if result.report is None:
        return f"{result.directory}: built, NOT verified" + (f": {result.obstacle}" if result.obstacle else "")
    from rofs.verify.report import render_summary

    return render_summary(result.report, result.directory, result.directory).rstrip("\n")


def verify(options: argparse.Namespace) -> int:
    """`rofs verify`."""
    from rofs.progress import make_progress
    from rofs.verify import report as reports
    from rofs.verify.again import verify_again
    from rofs.verify.request import Variation

    progress = make_progress(sys.stderr, options.progress)
    named = [_named(word) for word in options.state]
    state = dict(named)
    if len(state) < len(named):
        raise MachineError("--state: two files for one file system")
    where = options.report or options.image
    report = verify_again(
        options.image, where, not options.no_manifest, progress, state=state,
        identity=options.identity, boots=options.boots, jobs=options.jobs, timeout_s=options.boot_timeout,
        variation=Variation(memory_bytes=options.memory, cpus=options.cpus, clock=options.clock),
    )  # fmt: skip
    render = {"json": reports.render_json, "junit": reports.render_junit}.get(options.format)
    print(render(report) if render else reports.render_summary(report, options.image, where), end="")
    if not report.session.accepted:
        raise Rejected(f"{options.image}: {len(report.broken)} promises broken")
    return 0


def _named(word: str) -> tuple[str, Path]:
    """`FILE`, `state=FILE` or `/PATH=FILE`: what it is of, and the file."""
    name, sep, file = word.partition("=")
    return (name, Path(file)) if sep and (name == "state" or name.startswith("/")) else ("state", Path(word))


def check(options: argparse.Namespace) -> int:
    """`rofs check`."""
    from rofs.inputs import load_inputs
    from rofs.lint import lint
    from rofs.problems import render_problems
    from rofs.profile import load_profile

    problems = []
    for path in options.profiles:
        try:
            profile = load_profile(path)
            problems += lint(profile, None)
            load_inputs(profile)
        except ProfileError as error:
            problems += error.problems
    text = render_problems(problems, options.format)
    if text:
        print(text.rstrip("\n"))
    return ProfileError.exit_status if any(p.severity == "error" for p in problems) else 0


def plan(options: argparse.Namespace) -> int:
    """`rofs plan`."""
    from rofs.build import load, write_generated
    from rofs.generate.initrd import render_initrd
    from rofs.generate.picture import render_picture
    from rofs.layout import build_layout
    from rofs.verify.contract import layout_data

    profile, _, warnings = load(options.profile)
    for warning in warnings:
        _say(str(warning))
    layout = build_layout(profile, None)
    if options.write:
        write_generated(layout, options.write)
        (options.write / "init").write_text(render_initrd(layout, []), encoding="utf-8")
    if options.json:
        print(json.dumps(layout_data(layout), indent=1, sort_keys=True))
    else:
        print(render_picture(layout), end="")
        _say("modes and owners that the profile leaves to the packages are decided by build")
    return 0


def explain(options: argparse.Namespace) -> int:
    """`rofs explain`."""
    from rofs import explain as explainer
    from rofs.build import load
    from rofs.layout import build_layout

    profile, _, _ = load(options.profile)
    explanation = explainer.explain(build_layout(profile, None), options.path)
    if options.json:
        print(json.dumps(explainer.explanation_data(explanation), indent=1, sort_keys=True))
    else:
        print(explainer.render_explanation(explanation), end="")
    return 0


def boot(options: argparse.Namespace) -> int:
    """`rofs boot`."""
    from rofs.layout import persistent_stores
    from rofs.machine import console
    from rofs.verify.contract import load_contract
    from rofs.verify.identity import has_sshd

    contract = load_contract(options.image)
    profile = contract.layout.profile
    if different := console.find_differences(options.image):
        _say(f"rofs: warning: NOT the files that were built: {', '.join(different)}")
    if options.ssh and not has_sshd(contract.entries):
        _say("rofs: warning: the image has no sshd, so nobody will answer at the forwarded port")
    keep = None if options.keep_state is None else _files(word for word in options.keep_state if word)
    wishes = console.Wishes(
        smp=options.cpus, append=options.append, ssh=options.ssh, state=_files(options.state), keep=keep
    )  # fmt: skip
    console.boot_console(
        options.image, ARCHES[contract.architecture], persistent_stores(profile),
        options.memory or profile.verify.memory_bytes, wishes,
        user=next((user.name for user in profile.users if user.authorized_keys), "root"),
        say=lambda text: _say(f"rofs: {text}"),
    )  # fmt: skip
    return 0


def _files(words: Iterable[str]) -> dict[str, Path]:
    """`[NAME=]FILE` words -> file by name."""
    named = [_named(word) for word in words]
    files = dict(named)
    if len(files) < len(named):
        raise MachineError("two files for one file system")
    return files


def init(options: argparse.Namespace) -> int:
    """`rofs init`."""
    from rofs.starter import make_name, write_starter

    directory = (options.output or Path("here")).absolute().parent
    name = options.name or make_name(directory.name)
    out = options.output or Path(f"{name}.yaml")
    write_starter(out, name, options.tar)
    print(f"{out} is written; it explains itself. Next:")
    for verb in ("check", "plan", "build"):
        print(f"  {shlex.join(('rofs', verb, str(out)))}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """`rofs doctor`."""
    from rofs.doctor import examine, render_json, render_text

    examination = examine()
    print((render_json if options.format == "json" else render_text)(examination), end="")
    return 0 if examination.ready else ToolError.exit_status


def cache_show(options: argparse.Namespace) -> int:
    """`rofs cache show`."""
    from rofs import cachecare
    from rofs.store import default_cache_dir

    root = default_cache_dir()
    items = cachecare.find_items(root)
    if options.json:
        print(json.dumps(cachecare.show_data(root, items), indent=1, sort_keys=True))
    else:
        print(cachecare.render_show(root, items), end="")
    return 0


def cache_trim(options: argparse.Namespace) -> int:
    """`rofs cache trim`."""
    from rofs import cachecare
    from rofs.store import default_cache_dir

    trimmed = cachecare.trim(default_cache_dir(), limit_bytes=options.size, max_age_s=options.age)
    print(cachecare.render_trimmed(trimmed), end="")
    return 0


def cache_check(options: argparse.Namespace) -> int:  # noqa: ARG001 -- all verbs are called alike
    """`rofs cache check`."""
    from rofs import cachecare
    from rofs.store import default_cache_dir

    checked, damaged = 0, 0
    for item, wrong in cachecare.check(default_cache_dir()):
        checked += 1
        if wrong:
            damaged += 1
            print(f"{item.path}: damaged: {wrong}; {cachecare.remove_damaged(item)}")
    print(f"{checked} entries checked, {damaged} damaged")
    return ToolError.exit_status if damaged else 0
