"""`ps-alloc`: token budgets from predictions on disk."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_alloc.allocate import allocate
from ps_alloc.allocation import Allocation
from ps_alloc.difficulty import allocate_by_difficulty, load_difficulty_predictions
from ps_alloc.errors import run_command


def main(args: Sequence[str] | None = None) -> int:
    """Run `ps-alloc`; return its exit code (0, or 2 with one sentence after bad input)."""
    parsed = _parser().parse_args(args)
    return run_command(lambda: parsed.run(parsed))


def read_predictions(path: str | Path) -> npt.NDArray[np.floating]:
    """Open `predictions.npy`, memory-mapped: curves larger than memory are no problem.

    Raises:
        ValueError: If the file is missing, is not `.npy`, or holds pickled objects, which could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"predictions must be an existing .npy file, got {path}")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} must be a .npy file of plain numbers, but {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ps-alloc", description="Token budgets from predicted accuracy curves."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    greedy = commands.add_parser("greedy", help="allocate by predicted curves (.npy)")
    greedy.add_argument("--predictions", required=True, metavar="P.npy", help="(N, W) accuracies in [0, 1]")
    greedy.set_defaults(run=_greedy)

    difficulty = commands.add_parser("difficulty", help="allocate by predicted difficulty classes (.json)")
    difficulty.add_argument(
        "--predictions",
        required=True,
        metavar="P.json",
        help="class_curves, and labels or probabilities (probabilities are used where there are both)",
    )
    difficulty.set_defaults(run=_difficulty)

    for command in (greedy, difficulty):
        tokens = command.add_mutually_exclusive_group(required=True)
        tokens.add_argument("--budget", type=float, help="mean reasoning tokens per query")
        tokens.add_argument("--total-tokens", type=int, help="reasoning tokens of the whole batch")
        command.add_argument("--window", type=int, default=16, help="tokens a window (default: 16)")
        command.add_argument(
            "--min-windows", type=int, default=1, help="fewest windows a query gets (default: 1)"
        )
        command.add_argument("--method", choices=("hull", "myopic", "uniform"), default="hull")
        command.add_argument("--leftover", choices=("spread", "keep"), default="spread")
        command.add_argument(
            "--output", required=True, metavar="A.json", help="where to write the allocation"
        )

    bench = commands.add_parser("bench", help="time the allocator on this machine, against copying its input")
    bench.add_argument("--queries", type=int, nargs="+", default=[128, 1000, 100_000, 1_000_000])
    bench.add_argument("--windows", type=int, default=16)
    bench.add_argument("--repeats", type=int, default=9)
    bench.set_defaults(run=_bench)
    return parser


def _total_tokens(parsed: argparse.Namespace, n_queries: int) -> int:
    if parsed.total_tokens is not None:
        return int(parsed.total_tokens)
    if not 0 <= parsed.budget < 2**40:
        raise ValueError(f"--budget must be a number of tokens, not negative, got {parsed.budget}")
    return int(parsed.budget * n_queries)


def _greedy(parsed: argparse.Namespace) -> None:
    curves = read_predictions(parsed.predictions)
    if curves.ndim != 2:
        raise ValueError(f"{parsed.predictions} must hold an array of shape (N, W), got shape {curves.shape}")
    allocation = allocate(
        curves,
        _total_tokens(parsed, len(curves)),
        window=parsed.window,
        min_windows=parsed.min_windows,
        method=parsed.method,
        leftover=parsed.leftover,
    )
    _finish(allocation, parsed.output)


def _difficulty(parsed: argparse.Namespace) -> None:
    predictions = load_difficulty_predictions(parsed.predictions)
    shares = predictions.labels if predictions.probabilities is None else predictions.probabilities
    allocation = allocate_by_difficulty(
        predictions.class_curves,
        _total_tokens(parsed, len(shares) if shares is not None else 0),
        labels=predictions.labels,
        probabilities=predictions.probabilities,
        window=parsed.window,
        min_windows=parsed.min_windows,
        method=parsed.method,
        leftover=parsed.leftover,
    )
    _finish(replace(allocation, ids=predictions.ids), parsed.output)


def _finish(allocation: Allocation, output: str) -> None:
    allocation.save(output)
    sys.stdout.write(
        f"{output}: {len(allocation)} queries, "
        f"{allocation.spent_tokens} of {allocation.total_tokens} tokens, "
        f"expected accuracy {allocation.expected_accuracy:.4f} ({allocation.method})\n"
    )


def _bench(parsed: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    sys.stdout.write("medians; ratio: to copying the curves once, in the same run\n")
    for n in parsed.queries:
        gains = np.abs(rng.normal(0, 0.06, (n, parsed.windows)))
        curves = np.clip(gains.cumsum(axis=1) + rng.normal(0, 0.03, gains.shape), 0, 1).astype(np.float32)
        copy = np.empty_like(curves)
        total = n * 6 * 16
        allocate(curves, total)  # compiles, or loads the compiled kernels
        seconds: list[float] = []
        ratios: list[float] = []
        for _ in range(parsed.repeats):
            begin = time.perf_counter()
            np.copyto(copy, curves)
            middle = time.perf_counter()
            allocate(curves, total)
            end = time.perf_counter()
            seconds.append(end - middle)
            ratios.append((end - middle) / (middle - begin))
        sys.stdout.write(
            f"{n:>9} x {parsed.windows}: {np.median(seconds) * 1e3:9.3f} ms, "
            f"{np.median(ratios):7.1f} copies\n"
        )
