"""The `ps-eval` command. A subcommand is a function: its signature makes the flags, its docstring help."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, set_parsing_settings

from ps_alloc.errors import accept_any_text, run_command

# A flag's help is its field's docstring where the flags are a dataclass's fields.
set_parsing_settings(docstring_parse_attribute_docstrings=True)

# Subcommand: where its function lives, and its line in `ps-eval --help` (the docstring's first line). A
# function is imported only when its subcommand is run, so that torch and vLLM load only where they are used.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "ps_eval.demo:demo_command",
        "Walk the whole path on the embedded reasoner: trace, learn, decide, spend; live beside replay.",
    ),
    "make-problems": (
        "ps_eval.measuring.make_problems:make_problems_command",
        "Write word problems, the embedded models' world, as a question set.",
    ),
    "trace": (
        "ps_eval.measuring.trace:trace_command",
        "Sample chains of thought and probe them for answers: questions to a curve table.",
    ),
    "answer": (
        "ps_eval.spending.answer:answer_command",
        "Answer questions, each with the thinking tokens it needs, within one budget for all.",
    ),
    "run": (
        "ps_eval.spending.run:run_command",
        "Answer questions under allocated budgets, once for each policy and mean budget.",
    ),
    "replay": (
        "ps_eval.spending.replay:replay_command",
        "Measure policies × budgets on the curves of a curve table.",
    ),
    "experiment": (
        "ps_eval.experiments.command:experiment_command",
        "Run an experiment and write its record, pictures and report; `all` runs every one.",
    ),
    "report": (
        "ps_eval.reporting.report:report_command",
        "Collect folders of results into one self-contained HTML page, and a Markdown file beside it.",
    ),
    "assess": (
        "ps_eval.assess.command:assess_command",
        "Say what predicted budgets would bring on your own samples; the first command to run.",
    ),
    "import-samples": (
        "ps_eval.logs.command:import_samples_command",
        "Make a curve table of samples and logs: rows, Inspect, lm-evaluation-harness, OpenAI, vLLM, SGLang.",
    ),
    "serve": (
        "ps_eval.serve.command:serve_command",
        "Stand before an OpenAI-compatible server and give each request its thinking budget.",
    ),
    "diffuse": (
        "ps_eval.diffusion.diffuse:diffuse_command",
        "Answer questions with a masked-diffusion model, block by block.",
    ),
    "ablate": (
        "ps_eval.diffusion.ablate:ablate_command",
        "Compare schedules of diffusion decoding: accuracy, cost and speed on the same questions.",
    ),
    "import-paper": (
        "ps_eval.measuring.import_paper:import_paper",
        "Convert the paper's published CSV files into curve tables.",
    ),
}


FROM_ENVIRONMENT = ("serve",)
"""Commands whose flags are environment variables too: `PS_EVAL_SERVE__UPSTREAM`."""


def main(args: list[str] | None = None) -> int:
    """Run `ps-eval` with `args` (default: those of the process).

    Returns:
        The exit code: 0, 2 after bad input, 130 after Ctrl-C.
    """
    accept_any_text()
    try:
        function, settings = _parsed(sys.argv[1:] if args is None else args)
    except SystemExit as stop:  # --help: 0; jsonargparse has printed what is wrong with a flag: 2
        return int(stop.code or 0)
    return run_command(lambda: function(**settings))


def settings_of(args: list[str]) -> dict[str, Any]:
    """What a command would be called with.

    Raises:
        ValueError: If a flag is wrong, or a file that it names; what, is printed.
    """
    try:
        return _parsed(args)[1]
    except SystemExit:
        raise ValueError("the command's flags or its --config file cannot be read") from None


def _parsed(args: list[str]) -> tuple[Callable[..., None], dict[str, Any]]:
    command = args[0] if args else ""
    parser = ArgumentParser(
        prog="ps-eval",
        description="Spend token budgets and measure what they bring.",
        default_env=command in FROM_ENVIRONMENT,
        env_prefix="PS_EVAL",
    )
    subcommands = parser.add_subcommands(dest="command")
    function = None
    for name, (target, summary) in COMMANDS.items():
        subparser = ArgumentParser(description=summary)
        if name == command:
            module, attribute = target.split(":")
            imported = importlib.import_module(module)
            function = getattr(imported, attribute)
            subparser.add_argument("--config", action="config", help="YAML file with any of these settings.")
            subparser.add_function_arguments(function, as_positional=True, fail_untyped=True)
            args = _normalise(args, get_type_hints(getattr(imported, "SETTINGS", function)))
        subcommands.add_subcommand(name, subparser, help=summary)
    settings = parser.parse_args(args)
    assert function is not None  # parse_args refuses a command that is not in COMMANDS
    return function, _without_config(parser.instantiate(settings)[settings.command])


def _without_config(settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "config"}


def _normalise(args: list[str], hints: dict[str, Any]) -> list[str]:
    """Accept `--train-table` for `--train_table`, `--budgets 32,48` for `--budgets [32,48]`, `--quick` for
    `--quick true`, and several words for a positional list.
    """
    lists = {name for name, hint in hints.items() if _is_list(hint)}
    switches = {name for name, hint in hints.items() if hint is bool}
    flags: list[str] = []
    words: list[str] = []
    waiting = ""  # the flag whose value comes next
    for argument in args:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            waiting = ""
            if equals:
                flags.append(f"--{name}={_bracketed(value) if name in lists else value}")
            elif name in switches:
                flags.append(f"--{name}=true")
            else:
                flags.append(f"--{name}")
                waiting = name
        elif waiting:
            flags.append(_bracketed(argument) if waiting in lists else argument)
            waiting = ""
        elif argument in ("true", "false") and flags and flags[-1].endswith("=true"):
            flags[-1] = flags[-1].removesuffix("true") + argument
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            words.append(argument)
    command, *positional = words or [""]
    first = next(iter(hints), "")
    if positional and first in lists:
        positional = [_bracketed(",".join(positional))]
    return [command, *positional, *flags]


def _bracketed(value: str) -> str:
    return value if value.startswith("[") else f"[{value}]"


def _is_list(hint: Any) -> bool:
    """Also of an optional list: `list[int] | None`."""
    return get_origin(hint) in (list, tuple) or any(
        get_origin(part) in (list, tuple) for part in get_args(hint)
    )
