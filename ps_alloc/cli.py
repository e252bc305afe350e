"""`ps-alloc`: token budgets from predictions on disk."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from ps_alloc import commands
from ps_alloc.completion import FLAG, print_completion
from ps_alloc.errors import accept_any_text, did_you_mean, run_command
from ps_alloc.frontier_command import frontier_command

OVERVIEW = """\
Give each query the reasoning tokens it can use: the same spend, more right answers.

  ps-alloc greedy --predictions predictions.npz --budget 96 --output allocation.json

spends 96 tokens a query on average, and writes one budget a query.

  greedy      allocate by predicted accuracy curves
  difficulty  allocate by predicted difficulty classes
  calibrate   refit predicted curves to measured ones
  guard       find the budgets at which predictions are worth using
  frontier    show what each budget is expected to buy
  bench       time the allocator on this machine

ps-alloc COMMAND --help explains each. Files: docs/formats.md.
"""
PREDICTIONS_HELP = "predictions.npz, a .npy of (N, W) accuracies in [0, 1], or a .json of difficulty classes"


def main(args: Sequence[str] | None = None) -> int:
    """Run `ps-alloc`; return its exit code (0, or 2 with one sentence after bad input)."""
    accept_any_text()
    given = list(sys.argv[1:] if args is None else args)
    parser, by_name = _parser()
    if not given:
        sys.stdout.write(OVERVIEW)
        return 0
    if given[0] == FLAG:
        return print_completion(given, lambda: parser)
    if given[0] in by_name:
        by_name[given[0]].refuse_unknown(given[1:])
    elif not given[0].startswith("-"):
        parser.error(f"there is no command {given[0]!r}{did_you_mean(given[0], by_name)}")
    parsed = parser.parse_args(given)
    return run_command(lambda: parsed.run(parsed))


class _Parser(argparse.ArgumentParser):
    """A command's parser: an unknown flag is named with the command's own usage and its nearest."""

    def refuse_unknown(self, args: Sequence[str]) -> None:
        """Before anything else is checked: a misspelt flag is not a missing one."""
        known = list(self._option_string_actions)
        for flag in (arg.split("=")[0] for arg in args if arg.startswith("--") and arg != "--"):
            if not any(name.startswith(flag) for name in known):
                self.error(f"there is no {flag}{did_you_mean(flag, known)}")

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}\n")


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(prog="ps-alloc", usage="ps-alloc COMMAND ...", add_help=False)
    parser.add_argument("-h", "--help", action=_Overview, nargs=0)
    parser.add_argument("--version", action="version", version=_versions())
    subparsers = parser.add_subparsers(
        required=True, metavar="COMMAND", prog="ps-alloc", parser_class=_Parser
    )
    by_name: dict[str, _Parser] = {}

    def command(name: str, run: Callable[[argparse.Namespace], None], help: str) -> _Parser:
        by_name[name] = subparsers.add_parser(name, description=help, help=help)
        by_name[name].add_argument("--json", action="store_true", help="print the result as JSON")
        by_name[name].set_defaults(run=run)
        return by_name[name]

    greedy = command("greedy", commands.allocate_command, "Allocate by predicted accuracy curves.")
    classes = command("difficulty", commands.allocate_command, "Allocate by predicted difficulty classes.")
    for allocating in (greedy, classes):
        tokens = allocating.add_mutually_exclusive_group(required=True)
        tokens.add_argument("--budget", type=float, help="mean reasoning tokens per query")
        tokens.add_argument("--total-tokens", type=int, help="reasoning tokens of the whole batch")
        allocating.add_argument("--method", choices=("hull", "myopic", "uniform"), default="hull")
        allocating.add_argument("--leftover", choices=("spread", "all", "keep"), default="spread")
        allocating.add_argument("--guard", metavar="FILE", help="what `ps-alloc guard` wrote: else uniform")

    front = command("frontier", frontier_command, "Show what each budget is expected to buy.")
    front.add_argument("--accuracy", type=float, help="find the least budget expected to reach it")
    front.add_argument("--picture", metavar="FILE.png", help="draw them (needs matplotlib)")
    front.add_argument("--points", type=int, default=13, help="budgets to show (default: 13)")

    calibrate = command("calibrate", commands.calibrate_command, "Refit predicted curves to measured ones.")
    calibrate.add_argument("--n-traces", type=int, default=1, help="traces a measured curve (default: 1)")
    guard = command("guard", commands.guard_command, "Find the budgets at which predictions beat uniform.")
    guard.add_argument("--budgets", required=True, metavar="32,64,…", help="mean tokens per query to try")
    guard.add_argument("--z", type=float, default=2.0, help="standard errors a gain must exceed (default: 2)")
    for checking in (calibrate, guard):
        checking.add_argument(
            "--outcomes", required=True, metavar="FILE", help="measured curves of the same questions"
        )

    for reading in (greedy, classes, front, calibrate, guard):
        reading.add_argument("--predictions", required=True, metavar="FILE", help=PREDICTIONS_HELP)
        reading.add_argument("--output", required=True, metavar="FILE", help="the file to write")
        reading.add_argument(
            "--window",
            type=int,
            help="tokens a window, where the file does not say (default: 16)",
        )
        reading.add_argument("--grid", metavar="256,512,…", help="tokens of each column, instead of --window")
        if reading is not calibrate:
            reading.add_argument("--min-windows", type=int, default=1, help="fewest windows a query gets (1)")
            reading.add_argument("--calibration", metavar="FILE", help="what `ps-alloc calibrate` wrote")

    bench = command("bench", commands.bench_command, "Time the allocator here, against copying its input.")
    bench.add_argument("--queries", type=int, nargs="+", default=[128, 1000, 100_000, 1_000_000])
    bench.add_argument("--windows", type=int, default=16)
    bench.add_argument("--repeats", type=int, default=9)
    return parser, by_name


class _Overview(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(OVERVIEW)
        parser.exit()


def _versions() -> str:
    found = []
    for package in ("predictive-scheduling", "numpy", "numba"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # run from a checkout that was never installed
            found.append(f"{package} (not installed)")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
