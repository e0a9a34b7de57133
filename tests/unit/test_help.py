# SPDX-License-Identifier: MIT
"""Every line of `--help` is true: held against the parser, the verbs' own code, errors.py, and the README."""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import re
import shlex
from pathlib import Path

import pytest
from layouts import profile_of
from state_layouts import STATE

from rofs import cli, errors
from rofs.machine.arch import ARCHES
from rofs.problems import render_problems
from rofs.progress import make_progress
from rofs.starter import NAME
from rofs.verify import report
from rofs.verify.faults import FAULTS
from rofs.verify.scenario import scenarios

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
NO_METAVARS = frozenset({"YAML", "QEMU", "JSON", "LINE", "COLUMN", "ARCH", "NOT", "FILE", "PATH"})
"""Words in capitals that stand for themselves, or are explained where they stand."""
SAMPLES = {"N": "3", "SIZE": "1G", "NAME": "box", "PATH": "/var/lib", "WORDS": "quiet", "DATE": "2010-01-01",
           "SECONDS": "90", "AGE": "7d"}  # fmt: skip
"""What to type for a metavar; a file's name for every other."""


def verbs(of: argparse.ArgumentParser, prefix: str = "") -> dict[str, argparse.ArgumentParser]:
    """Each verb, and of one that has actions each of these behind it: `cache trim`."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in (a for a in of._actions if isinstance(a, argparse._SubParsersAction)):
        for name, parser in action.choices.items():
            found |= verbs(parser, f"{prefix}{name} ") or {prefix + name: parser}
    return found


VERBS = verbs(cli.make_parser())
HELPS = {verb: " ".join(parser.format_help().split()) for verb, parser in VERBS.items()}
ACTIONS = [
    (verb, action)
    for verb, parser in VERBS.items()
    for action in parser._actions
    if not isinstance(action, argparse._HelpAction)
]
OPTIONS = [(verb, action) for verb, action in ACTIONS if action.option_strings]


def label(pair: tuple[str, argparse.Action]) -> str:
    verb, action = pair
    return f"{verb} {action.option_strings[-1] if action.option_strings else action.metavar}"


def sample(action: argparse.Action) -> str:
    if action.choices:
        return str(next(choice for choice in action.choices if choice != action.default))
    return SAMPLES.get(str(action.metavar), "some/file")


def typed(verb: str, *more: str) -> argparse.Namespace:
    """A verb with what it cannot be without, and `more`."""
    positionals = [a for v, a in ACTIONS if v == verb and not a.option_strings and a.nargs != "?"]
    return cli.make_parser().parse_args([*verb.split(), *map(sample, positionals), *more])


# --- what a verb says, it takes, and what it takes, it uses -----------------------------------------


def attributes_read(function: str) -> set[str]:
    """The attributes of its options that a function of cli.py reads, itself or in one it hands them to."""
    tree = ast.parse(inspect.getsource(getattr(cli, function)))
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    name = definition.args.args[0].arg
    found: set[str] = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
            found.add(node.attr)
        elif isinstance(node, ast.Call) and any(isinstance(a, ast.Name) and a.id == name for a in node.args):
            assert isinstance(node.func, ast.Name), f"{function} hands its options out of cli.py"
            found |= attributes_read(node.func.id)
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_read_and_nothing_else(verb: str) -> None:
    function = VERBS[verb].get_default("verb")
    assert attributes_read(function.__name__) == {action.dest for v, action in ACTIONS if v == verb}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_the_function_of_its_name(verb: str) -> None:
    function = VERBS[verb].get_default("verb")
    assert function.__name__ == re.sub("[ -]", "_", verb) and function.__module__ == "rofs.cli"
    assert function.__doc__ == f"`rofs {verb}`."


@pytest.mark.parametrize(("verb", "action"), OPTIONS, ids=map(label, OPTIONS))
def test_every_option_is_taken_and_changes_something(verb: str, action: argparse.Action) -> None:
    assert getattr(typed(verb), action.dest) == action.default
    for option in action.option_strings:
        words = [option] if action.nargs == 0 else [option, sample(action)]
        assert getattr(typed(verb, *words), action.dest) != action.default
        if action.nargs == "?":
            assert getattr(typed(verb, option), action.dest) != action.default


REPEATED = [pair for pair in OPTIONS if isinstance(pair[1], argparse._AppendAction)]


@pytest.mark.parametrize(("verb", "action"), REPEATED, ids=map(label, REPEATED))
def test_what_may_be_repeated_is_kept_twice(verb: str, action: argparse.Action) -> None:
    option = action.option_strings[-1]
    assert len(getattr(typed(verb, option, sample(action), option, sample(action)), action.dest)) == 2


def test_only_what_may_be_repeated_says_so() -> None:
    for verb, action in OPTIONS:
        if "repeated" in str(action.help):
            assert (verb, action) in REPEATED


@pytest.mark.parametrize(("verb", "action"), ACTIONS, ids=map(label, ACTIONS))
def test_the_default_that_is_named_is_the_default(verb: str, action: argparse.Action) -> None:
    """Either the value itself, or words for one that is only known when the verb runs."""
    named = re.search(r"\(default: ([^)]+)\)", str(action.help))
    if named and action.default is None:
        assert " " in named[1], "a value that the parser does not know"
    elif named:
        assert str(action.default) == named[1]
    elif action.option_strings and action.nargs != 0 and not action.choices:
        assert action.default in (None, "", []), "a default that is not named"
    if action.choices and action.default is not None and not isinstance(action.default, list):
        assert action.default in action.choices


CHOICES = [(verb, action, choice) for verb, action in ACTIONS for choice in action.choices or ()]


@pytest.mark.parametrize(("verb", "action", "choice"), CHOICES, ids=[f"{label(c[:2])} {c[2]}" for c in CHOICES])
def test_every_choice_works(verb: str, action: argparse.Action, choice: str) -> None:
    taken = getattr(typed(verb, action.option_strings[-1], choice), action.dest)
    assert taken in (choice, [choice])
    assert choice in VERBS[verb].format_help()
    match verb, action.dest:
        case _, "arch":
            assert choice in ARCHES
        case _, "progress":
            make_progress(io.StringIO(), taken).note("a word")
        case "check", "format":
            assert render_problems([], taken) == {"text": "", "json": "[]\n", "github": ""}[choice]
        case "verify", "format":
            assert callable(getattr(report, f"render_{choice}"))
        case "doctor", "format":
            pass  # both are printed in test_doctor.py
        case _:
            pytest.fail("a choice that nothing tries")


def test_all_architectures_can_be_chosen() -> None:
    (action,) = (a for v, a in OPTIONS if (v, a.dest) == ("build", "arch"))
    assert action.choices == tuple(ARCHES)


# --- what a text names, there is --------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_and_placeholder_that_a_text_names_is_of_that_verb(verb: str) -> None:
    own = {option for option in VERBS[verb]._option_string_actions if option.startswith("--")}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", HELPS[verb])) == own
    placeholders = {word for v, a in ACTIONS if v == verb for word in re.findall(r"[A-Z_]+", str(a.metavar))}
    assert set(re.findall(r"\b[A-Z][A-Z_]{2,}\b", HELPS[verb])) <= placeholders | NO_METAVARS


@pytest.mark.parametrize(("verb", "action"), ACTIONS, ids=map(label, ACTIONS))
def test_every_line_says_something_and_its_example_is_taken(verb: str, action: argparse.Action) -> None:
    text = str(action.help)
    assert action.help and text[0] not in " ." and text[-1] not in " .," and "%" not in text
    for example in re.findall(r"such as ([^\s,;]+)", text):
        assert action.type is not None
        convert = action.type
        assert callable(convert)
        convert(example)
        if action.metavar == "IMAGE_DIR":
            images, profile, arch = example.split("/")
            assert typed("build").output == Path(images) and arch in ARCHES
            assert (ROOT / "profiles" / f"{profile}.yaml").is_file()


def test_every_architecture_in_a_text_is_one() -> None:
    for text in HELPS.values():
        assert set(re.findall(r"\b(?:amd64|i386|arm\w+|riscv\w+)\b", text)) <= {*ARCHES}


def test_the_number_of_boots() -> None:
    words = HELPS["build"]
    assert "An image without state is booted twice;" in words and len(scenarios(profile_of(""))) == 2
    assert "one with state also after a factory reset, and once for each thing that may be wrong" in words
    assert [s.state for s in scenarios(profile_of(STATE))] == ["new", "used", "reset", *["lost"] * len(FAULTS)]
    assert "two boots" in HELPS["verify"] and len(scenarios(profile_of(STATE), kept=True)) == 2


def test_the_names_that_init_takes() -> None:
    assert "lower-case letters, digits and dashes, at most 63 characters" in HELPS["init"]
    assert all(NAME.fullmatch(word) for word in ("a", "9", "a-9", "a" * 63))
    assert not any(NAME.fullmatch(word) for word in ("A", "a_b", "ä", "a" * 64, ""))


# --- exit statuses ----------------------------------------------------------------------------------


def statuses(of: type[errors.RofsError] = errors.RofsError) -> set[int]:
    return {of.exit_status}.union(*(statuses(kind) for kind in of.__subclasses__()))


def test_every_exit_status_is_one_and_all_are_said() -> None:
    everywhere = {0, *statuses()}
    readme = re.search(r"^Exit status: (.*?)\n\n", README, re.MULTILINE | re.DOTALL)
    assert readme
    for text in (cli.EPILOG.partition("exit status:")[2], readme[1]):
        assert {int(number) for number in re.findall(r"\b\d+\b", text)} == everywhere
    for verb, parser in VERBS.items():
        assert parser.epilog == cli.EPILOG
        named = re.findall(r"[Ee]xit status (\d+)", str(parser.description))
        assert {int(number) for number in named} <= everywhere, verb


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("the profile is wrong", errors.ProfileError), ("a tool or source failed", errors.ToolError),
        ("a tool or source failed", errors.SourceError), ("verification rejected the image", errors.Rejected),
        ("QEMU itself failed", errors.MachineError), ("interrupted", errors.Interrupted),
        ("is a bug in rofs", errors.RofsError),
    ],
)  # fmt: skip
def test_what_an_exit_status_means(words: str, kind: type[errors.RofsError]) -> None:
    assert f"{kind.exit_status} {words}" in " ".join(cli.EPILOG.split())


# --- the whole command, and the README --------------------------------------------------------------


def readme_rows() -> dict[str, tuple[list[str], str]]:
    """The README's table of verbs: what is typed after each, and what is said of it."""
    rows = re.findall(r"^\| `rofs ([a-z-]+(?: [a-z]+)?)([^`]*)` \| (.*) \|$", README, re.MULTILINE)
    return {verb: (shlex.split(words), text) for verb, words, text in rows}


def test_the_verbs_of_help_and_readme_are_the_verbs() -> None:
    listed = re.findall(r"^    ([a-z-]+)(?: |$)", cli.make_parser().format_help(), re.MULTILINE)
    assert sorted(listed) == sorted({verb.split()[0] for verb in VERBS})
    assert sorted(readme_rows()) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_readmes_row_of_a_verb(verb: str) -> None:
    """Its placeholders are those of the usage line, its options are taken."""
    words, text = readme_rows()[verb]
    positionals = [a for v, a in ACTIONS if v == verb and not a.option_strings]
    usual = {None: "{}", "+": "{}...", "?": "[{}]"}
    assert words == [usual[a.nargs if isinstance(a.nargs, str) else None].format(a.metavar) for a in positionals]
    for used in re.findall(r"`(--[^`]+)`", text):
        option, *value = used.split()
        action = VERBS[verb]._option_string_actions[option]
        assert not value or value[0] in str(action.metavar) or value[0] in (action.choices or ())
        for alternative in re.findall(rf"`{option} [^`]+` or `([^-`]+)`", text):
            assert alternative in (action.choices or ())


def test_the_commands_of_the_readme_are_commands() -> None:
    """Every `rofs …` typed in a code block is taken by the parser."""
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    typed_in = re.findall(r"(?:^|&& )(?:\.venv/bin/)?rofs ([^\n&]+)", blocks, re.MULTILINE)
    assert typed_in
    for line in typed_in:
        cli.make_parser().parse_args(shlex.split(line))
