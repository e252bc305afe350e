"""The `ps-eval` command. A subcommand is a function: its signature makes the flags, its docstring help."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ps_alloc.completion import FLAG, print_completion
from ps_alloc.errors import accept_any_text, did_you_mean, missing_package, run_command
from ps_eval.command_examples import EXAMPLES

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
    "assess": (
        "ps_eval.assess.command:assess_command",
        "Say what predicted budgets would bring on your own samples: accuracy at equal tokens, tokens saved.",
    ),
    "import-samples": (
        "ps_eval.logs.command:import_samples_command",
        "Make a curve table of samples: rows, or logs of Inspect, lm-eval-harness, OpenAI, vLLM, SGLang.",
    ),
    "arms": (
        "ps_eval.logs.arms:arms_command",
        "Compare a gateway's rules by its decision log: tokens, finished answers, feedback; A/B in a table.",
    ),
    "answer": (
        "ps_eval.spending.answer:answer_command",
        "Answer questions, each with the thinking tokens it needs, within one budget for all.",
    ),
    "serve": (
        "ps_eval.serve.command:serve_command",
        "Stand before an OpenAI-compatible server and give each request its thinking budget.",
    ),
    "roll": (
        "ps_eval.spending.roll:roll_command",
        "Answer questions, forecasting again at every checkpoint who should think on.",
    ),
    "trace": (
        "ps_eval.measuring.trace:trace_command",
        "Sample chains of thought and probe them for answers: questions to a curve table.",
    ),
    "run": (
        "ps_eval.spending.run:run_command",
        "Answer questions under allocated budgets, once for each policy and mean budget.",
    ),
    "replay": (
        "ps_eval.spending.replay:replay_command",
        "Measure policies × budgets on the curves of a curve table.",
    ),
    "report": (
        "ps_eval.reporting.report:report_command",
        "Collect folders of results into one self-contained HTML page, and a Markdown file beside it.",
    ),
    "diffuse": (
        "ps_eval.diffusion.diffuse:diffuse_command",
        "Answer questions with a masked-diffusion model, block by block.",
    ),
    "ablate": (
        "ps_eval.diffusion.ablate:ablate_command",
        "Compare schedules of diffusion decoding: accuracy, cost and speed on the same questions.",
    ),
    "menu": (
        "ps_eval.diffusion.menu:menu_command",
        "Decode questions under every schedule of a menu: a table to learn choosing from.",
    ),
    "fit-menu": (
        "ps_eval.diffusion.menu:fit_menu_command",
        "Learn from a menu table which schedule serves a question, and what it costs.",
    ),
    "frontier": (
        "ps_eval.diffusion.frontier:frontier_command",
        "Schedules of menu tables side by side: accuracy against rows, passes and milliseconds a token.",
    ),
    "fit-acceptance": (
        "ps_eval.diffusion.fit_acceptance:fit_acceptance_command",
        "Learn which tokens a diffusion model may commit at once, from its own slow responses.",
    ),
    "experiment": (
        "ps_eval.experiments.command:experiment_command",
        "Run an experiment and write its record, pictures and report; `all` runs every one.",
    ),
    "import-paper": (
        "ps_eval.measuring.import_paper:import_paper",
        "Convert the paper's published CSV files into curve tables.",
    ),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "See it work": ("demo", "make-problems"),
    "Learn from what you have": ("assess", "import-samples", "arms"),
    "Answer questions": ("answer", "serve", "roll"),
    "Measure": ("trace", "run", "replay", "report"),
    "Diffusion models": ("diffuse", "ablate", "menu", "fit-menu", "frontier", "fit-acceptance"),
    "The paper's experiments, and ours": ("experiment", "import-paper"),
}
"""In the order and under the titles of the overview."""
EXTRAS = {"serve": "serve"}
"""Of the distribution, which a command needs; the others need `eval`."""
FROM_ENVIRONMENT = ("serve",)
"""Commands whose flags are environment variables too: `PS_EVAL_SERVE__UPSTREAM`."""
OVERVIEW = """\
Give each question the thinking tokens it needs: same spend, more right answers.

  ps-eval assess logs.jsonl
      would it pay for you? reads logs of evaluations that you have already
  ps-eval demo
      the whole path on a small model that comes with it, no GPU, 3 minutes
  ps-eval answer --questions new.jsonl --predictor P --model M \\
      --budget 512 --output out.jsonl
      your questions, one budget for all, with a predictor of yours

A predictor is learned from a trace: ps-eval trace, then ps-train fit.
{commands}

ps-eval COMMAND --help explains each, with examples. Files: docs/formats.md.
Completion: ps-eval --print-completion bash
"""
PACKAGES = ("predictive-scheduling", "torch", "transformers", "vllm", "openai", "ray")
"""Whose versions `--version` tells: this package and what it runs models with."""


def main(args: list[str] | None = None) -> int:
    """Run `ps-eval` with `args` (default: those of the process).

    Returns:
        The exit code: 0, 2 after bad input, 130 after Ctrl-C.
    """
    accept_any_text()
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0
    if given[0] == "--version":
        sys.stdout.write(versions() + "\n")
        return 0
    if given[0] == FLAG:
        from ps_eval.completion import completion_parser

        return print_completion(given, completion_parser)
    try:
        function, settings = _parsed(given)
    except SystemExit as stop:  # --help: 0; what is wrong has been said: 2
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
    """A command's function, and what to call it with."""
    name = args[0]
    if name not in COMMANDS:
        sys.stderr.write(f"error: there is no command {name!r}{did_you_mean(name, COMMANDS)}\n")
        raise SystemExit(2)
    module, attribute = COMMANDS[name][0].split(":")
    try:
        from ps_eval.command_line import CommandParser

        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: {missing_package(f'ps-eval {name}', error, EXTRAS.get(name, 'eval'))}\n")
        raise SystemExit(2) from None
    function = getattr(imported, attribute)
    environment = f"PS_EVAL_{name.upper()}__" if name in FROM_ENVIRONMENT else None
    fields_of = getattr(imported, "SETTINGS", None)
    parser = CommandParser(f"ps-eval {name}", function, fields_of, environment, EXAMPLES.get(name, ()))
    return function, parser.settings(args[1:])


def overview() -> str:
    """What `ps-eval` alone prints: what it is for, a first command, all commands; 80 columns wide."""
    width = max(map(len, COMMANDS)) + 4
    lines: list[str] = []
    for title, names in GROUPS.items():
        lines += ["", f"{title}:"]
        for name in names:
            first = f"  {name}".ljust(width)
            lines.append(
                textwrap.fill(COMMANDS[name][1], 80, initial_indent=first, subsequent_indent=" " * width)
            )
    return OVERVIEW.format(commands="\n".join(lines))


def versions() -> str:
    """Of this package and of what it runs models with, as far as they are installed."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found) or "predictive-scheduling (not installed)"


if __name__ == "__main__":
    sys.exit(main())
