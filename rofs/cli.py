# SPDX-License-Identifier: MIT
"""The command line: one function a verb. Alone in rofs, it prints and exits."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rofs import __version__
from rofs.errors import Interrupted, MachineError, ProfileError, Rejected, RofsError, ToolError
from rofs.machine.arch import ARCHES

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
    _add_build(verbs)
    _add_verify(verbs)
    _add_check(verbs)
    _add_plan(verbs)
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
    parser.add_argument(
        "--arch", action="append", default=[], choices=tuple(ARCHES), help="only this architecture; may be repeated"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("images"),
        metavar="DIR",
        help="publish below DIR (default: images)",
    )
    parser.add_argument("--no-verify", action="store_true", help="publish without booting; the manifest says so")
    parser.add_argument(
        "--refresh", action="store_true", help="fetch packages and kernel anew instead of from the cache"
    )
    _add_identity(parser)
    _add_progress(parser)
    parser.set_defaults(verb=build)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


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


# --- the verbs ------------------------------------------------------------------------------------


def build(options: argparse.Namespace) -> int:
    """`rofs build`."""
    from rofs import build as builder
    from rofs.progress import make_progress

    chosen = builder.Options(
        architectures=tuple(dict.fromkeys(options.arch)), output=options.output, verify=not options.no_verify,
        refresh=options.refresh, epoch=builder.find_epoch(), identity=options.identity,
    )  # fmt: skip
    built = builder.build(options.profile, chosen, make_progress(sys.stderr, options.progress))
    for result in built:
        print(_summary(result))
    builder.reject(built)
    return 0


def _summary(result: object) -> str:
    """One architecture: the verdict and every broken promise."""
    from rofs.build import Built
    from rofs.verify.report import render_outcome

    assert isinstance(result, Built)  # noqa: S101 - for the type checker; the import is lazy
    if result.report is None:
        return f"{result.directory}: built, NOT verified"
    session, broken = result.report.session, result.report.broken
    seconds = " + ".join(f"{b.result.seconds:.1f} s" for b in session.boots)
    head = f"{result.directory}: {'verified' if session.accepted else 'REJECTED'}, "
    head += f"{len(session.outcomes) - len(broken)} of {len(session.outcomes)} checks kept, "
    head += f"boots {seconds} ({'/'.join(sorted({b.result.accel_seen for b in session.boots}))})"
    return "\n".join([head, *(line for o in broken for line in render_outcome(result.report, o))])


def verify(options: argparse.Namespace) -> int:
    """`rofs verify`."""
    from rofs.progress import make_progress
    from rofs.verify import report as reports
    from rofs.verify.again import verify_again

    progress = make_progress(sys.stderr, options.progress)
    named = [_named(word) for word in options.state]
    state = dict(named)
    if len(state) < len(named):
        raise MachineError("--state: two files for one file system")
    report = verify_again(
        options.image, options.report or options.image, not options.no_manifest, progress, state=state,
        identity=options.identity, boots=options.boots,
    )  # fmt: skip
    render = {"text": reports.render_text, "json": reports.render_json, "junit": reports.render_junit}
    print(render[options.format](report), end="")
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
