"""What the shell may complete after `ps-eval`: every command's flags, and the names that some take."""

from __future__ import annotations

import argparse
import importlib
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ps_eval.command_line import CommandParser
from ps_eval.flag_values import plain_type


def completion_parser() -> argparse.ArgumentParser:
    """A parser of all commands whose packages are installed; it imports each of them."""
    from ps_eval.cli import COMMANDS

    parser = argparse.ArgumentParser(prog="ps-eval")
    parser.add_argument("--version", action="store_true", help="versions")
    commands = parser.add_subparsers()
    for name, (target, summary) in COMMANDS.items():
        module, attribute = target.split(":")
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError:  # an extra that is not installed
            continue
        function, fields_of = getattr(imported, attribute), getattr(imported, "SETTINGS", None)
        command = CommandParser(f"ps-eval {name}", function, fields_of)
        # As add_parser does with parsers of its own making.
        commands.choices[name] = _with_names(command, function if fields_of is None else fields_of)
        commands._choices_actions.append(commands._ChoicesPseudoAction(name, (), summary))
    return parser


def _with_names(parser: CommandParser, source: Any) -> CommandParser:
    """Let the flags that take a name know the names; what else they take may be typed all the same."""
    names = _names()
    hints = get_type_hints(source)
    for action in parser._actions:
        hint = plain_type(hints.get(action.dest, str))
        if get_origin(hint) is Literal:
            action.choices = list(get_args(hint))
        elif action.dest in names and action.choices is None:
            action.choices = names[action.dest]
    return parser


def _names() -> dict[str, list[str]]:
    from ps_eval.engines import ENGINES, RAY
    from ps_eval.grading.graders import GRADER_NAMES
    from ps_eval.spending.policies import POLICIES

    return {
        "engine": [*ENGINES, RAY],
        "grader": list(GRADER_NAMES),
        "policy": list(POLICIES),
        "policies": list(POLICIES),
    }
