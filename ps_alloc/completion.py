"""Shell completion: a script that a shell reads once, made of the flags that a command really has."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

FLAG = "--print-completion"
SHELLS = ("bash", "zsh", "fish", "tcsh")


def print_completion(args: Sequence[str], parser: Callable[[], argparse.ArgumentParser]) -> int:
    """`COMMAND --print-completion SHELL`: write the script to the standard output.

    Args:
        args: What was typed after the command's name.
        parser: Makes the parser that knows all subcommands and flags.

    Returns:
        The exit code: 0, or 2 after a sentence about what is wrong.
    """
    shell = args[1] if len(args) == 2 else None
    if shell not in SHELLS:
        known = ", ".join(SHELLS)
        sys.stderr.write(
            f"error: {FLAG} must be followed by one of {known}, got {' '.join(args[1:]) or 'none'}\n"
        )
        return 2
    try:
        import shtab
    except ModuleNotFoundError:
        sys.stderr.write(
            f"error: {FLAG} needs the package shtab, which is not installed: pip install shtab\n"
        )
        return 2
    complete = parser()
    for one in [complete, *_children(complete)]:
        for action in one._actions:
            if _takes_text(action):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(complete, shell) + "\n")
    return 0


def _children(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [child for group in groups for child in group.choices.values()]


def _takes_text(action: argparse.Action) -> bool:
    """Whether a file may be meant: neither a switch, a number, nor one of a few words."""
    is_switch = action.nargs == 0 or isinstance(action, argparse._SubParsersAction)
    return not is_switch and action.choices is None and action.type in (None, str)
