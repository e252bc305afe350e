"""`ps-train`: LightningCLI's fit, validate, test and predict, and beside them commands that are functions."""

from __future__ import annotations

import difflib
import importlib
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, version

from ps_alloc.completion import FLAG, print_completion
from ps_alloc.errors import accept_any_text, missing_package, run_command

# Command: where its function lives, and what it does. The function's signature makes the flags.
COMMANDS: dict[str, tuple[str, str]] = {
    "forecast": (
        "ps_train.forecast.command:forecast_command",
        "learn from kept traces what becomes of a trace under way",
    ),
    "light": (
        "ps_train.light.command:light_command",
        "fit a light text predictor on a curve table: numpy alone at inference",
    ),
    "make-budgets": (
        "ps_train.make_data:make_budgets_command",
        "write the budget that each question of a curve table needs",
    ),
    "make-difficulty": (
        "ps_train.make_data:make_difficulty_command",
        "write the difficulty class of each question of a curve table",
    ),
    "merge": (
        "ps_train.merge:merge_command",
        "fold a text predictor's adapters into its language model, for serving",
    ),
    "novelty": (
        "ps_train.novelty_command:novelty_command",
        "let a predictor saved without it tell questions unlike those it learned from",
    ),
    "stopping": (
        "ps_train.forecast.command:stopping_command",
        "learn when to stop thinking under a price, from kept traces and a forecaster",
    ),
    "sweep": ("ps_train.sweep:sweep_command", "score a predictor for each layer of a language model"),
}


LIGHTNING: dict[str, str] = {
    "fit": "train a predictor on a curve table",
    "validate": "figures of a predictor on the rows held out of its training table",
    "test": "figures of a predictor on another table",
    "predict": "what a predictor says of questions, for ps-alloc and ps-eval",
}


def main(args: list[str] | None = None) -> int:
    """Run `ps-train` on `args` (default: the command line) and return its exit code."""
    accept_any_text()
    given = sys.argv[1:] if args is None else args
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0
    if given[0] == "--version":
        sys.stdout.write(f"ps-train {_version()}\n")
        return 0
    if given[0] == FLAG:
        try:
            from ps_train.completion import completion_parser
        except ModuleNotFoundError as error:
            return _cannot(f"ps-train {FLAG}", error)
        return print_completion(given, completion_parser)
    if given[0] in COMMANDS:
        return _run_function(given[0], given[1:])
    if not given[0].startswith("-") and given[0] not in LIGHTNING:
        known = [*LIGHTNING, *COMMANDS]
        close = difflib.get_close_matches(given[0], known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        sys.stderr.write(f"error: no command {given[0]!r}: {hint}\n")
        return 2
    try:
        from ps_train.training_cli import run
    except ModuleNotFoundError as error:
        return _cannot("ps-train " + given[0], error)

    def train() -> None:
        try:
            run(args)
        except SystemExit as stop:
            codes.append(int(stop.code or 0))

    codes: list[int] = []
    return run_command(train) or sum(codes)


def overview() -> str:
    """The commands, and a first one to try."""
    from ps_train.presets import preset_names

    both = {**LIGHTNING, **{name: summary for name, (_, summary) in COMMANDS.items()}}
    width = max(map(len, both)) + 4
    lines = [
        textwrap.fill(summary, 80, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width)
        for name, summary in both.items()
    ]
    configs = textwrap.fill(f"Configs by name: {', '.join(preset_names())}; or any file.", 80)
    return (
        "From curve tables to predictors of accuracy curves.\n\n"
        "  ps-train fit --config curve_mlp --data.train T \\\n"
        "      --trainer.default_root_dir runs/mine\n"
        "      T: a folder that ps-eval trace --layers … writes; makes\n"
        "      runs/mine/predictor\n\n"
        + "\n".join(lines)
        + f"\n\n{configs}\nps-train COMMAND --help lists a command's flags.\n"
        "Completion: ps-train --print-completion bash\n"
    )


def _version() -> str:
    try:
        return version("predictive-scheduling")
    except PackageNotFoundError:
        return "(not installed)"


def _cannot(command: str, error: ModuleNotFoundError) -> int:
    sys.stderr.write(f"error: {missing_package(command, error, 'train')}\n")
    return 2


def _run_function(name: str, args: list[str]) -> int:
    target, summary = COMMANDS[name]
    module, attribute = target.split(":")
    try:
        from jsonargparse import ArgumentParser

        function = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        return _cannot(f"ps-train {name}", error)
    parser = ArgumentParser(prog=f"ps-train {name}", description=f"{summary[0].upper()}{summary[1:]}.")
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_function_arguments(function, fail_untyped=True)
    try:
        settings = parser.parse_args(args)
    except SystemExit as stop:  # --help: 0; jsonargparse has printed what is wrong with a flag: 2
        return int(stop.code or 0)
    settings.pop("config", None)
    return run_command(lambda: function(**settings.as_dict()))
