"""What the commands of `ps-alloc` do once their flags are read."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from ps_alloc._checks import real, whole, whole_total
from ps_alloc.files import check_output
from ps_alloc.predictions import Predictions


def allocate_command(parsed: argparse.Namespace) -> None:
    """`ps-alloc greedy` and `difficulty`."""
    inputs = [name for name in (parsed.predictions, parsed.calibration, parsed.guard) if name is not None]
    check_output(parsed.output, inputs=inputs)
    predictions = calibrated(read_predictions(parsed), parsed.calibration)
    settings: dict[str, Any] = {"method": parsed.method, "min_windows": parsed.min_windows} | grid_settings(
        predictions
    )
    total = _total_tokens(parsed, predictions)
    if parsed.guard is None:
        from ps_alloc.allocate import allocate  # brings the compiler
    else:
        from ps_alloc.guard import Guard

        allocate = Guard.load(parsed.guard).allocate
    allocation = allocate(predictions.curves, total, leftover=parsed.leftover, **settings)
    unlike = None if predictions.unlike is None else np.flatnonzero(predictions.unlike)
    replace(allocation, ids=predictions.ids, unlike=unlike).save(parsed.output)
    summary = {
        "output": parsed.output,
        "queries": len(allocation),
        "spent_tokens": allocation.spent_tokens,
        "total_tokens": allocation.total_tokens,
        "expected_accuracy": allocation.expected_accuracy,
        "method": allocation.method,
        "unlike": None if unlike is None else unlike.size,
    }
    text = (
        "{output}: {queries} queries, {spent_tokens} of {total_tokens} tokens, "
        "expected accuracy {expected_accuracy:.4f} ({method})\n"
    ).format(**summary)
    if allocation.method != parsed.method:
        text += f"{parsed.guard}: no clear gain was validated at this budget, so all get the same\n"
    if unlike is not None and unlike.size:
        text += (
            f"{unlike.size} queries are unlike those the predictor learned from: their curves are guesses\n"
        )
    text += f"next: ps-eval run --questions … --model … --allocations {parsed.output}\n"
    print_result(parsed, summary, text)


def calibrate_command(parsed: argparse.Namespace) -> None:
    """`ps-alloc calibrate`."""
    from ps_alloc.calibration import PlattCalibrator

    check_output(parsed.output, inputs=(parsed.predictions, parsed.outcomes))
    predictions = read_predictions(parsed)
    outcomes = _outcomes(parsed, predictions)
    calibrator = PlattCalibrator.fit(predictions.curves, outcomes.curves, parsed.n_traces)
    calibrator.save(parsed.output)
    rows = [
        {"budget": int(budget), "slope": slope, "shift": shift}
        for budget, slope, shift in zip(
            predictions.budgets, calibrator.slopes.tolist(), calibrator.shifts.tolist(), strict=True
        )
    ]
    following = f"next: ps-alloc guard --calibration {parsed.output} … on further questions\n"
    table = "".join("{budget:>8} {slope:>8.3f} {shift:>8.3f}\n".format(**row) for row in rows)
    print_result(
        parsed,
        {"output": parsed.output, "rows": rows},
        f"  tokens    slope    shift\n{table}{parsed.output}\n{following}",
    )


def guard_command(parsed: argparse.Namespace) -> None:
    """`ps-alloc guard`."""
    from ps_alloc.guard import Guard

    inputs = (parsed.predictions, parsed.outcomes, *([parsed.calibration] if parsed.calibration else []))
    check_output(parsed.output, inputs=inputs)
    predictions = calibrated(read_predictions(parsed), parsed.calibration)
    outcomes = _outcomes(parsed, predictions)
    guard = Guard.fit(
        predictions.curves,
        outcomes.curves,
        _numbers("--budgets", parsed.budgets),
        min_windows=parsed.min_windows,
        z=parsed.z,
        grid=predictions.budgets,
        use=predictions.use,
    )
    guard.save(parsed.output)
    rows = [
        {"budget": budget, "gain": gain, "error": error, "allowed": guard.allows(budget)}
        for budget, gain, error in zip(
            guard.budgets.tolist(), guard.gains.tolist(), guard.errors.tolist(), strict=True
        )
    ]
    text = "  budget     gain    error\n"
    for row in rows:
        verdict = "" if row["allowed"] else "   uniform: no clear gain"
        text += "{budget:>8g} {gain:>+8.4f} {error:>8.4f}".format(**row) + verdict + "\n"
    calibration = f" --calibration {parsed.calibration}" if parsed.calibration else ""
    text += f"{parsed.output}\nnext: ps-alloc greedy --guard {parsed.output}{calibration} …\n"
    print_result(parsed, {"output": parsed.output, "rows": rows}, text)


def bench_command(parsed: argparse.Namespace) -> None:
    """`ps-alloc bench`."""
    from ps_alloc.bench import time_allocator

    for name in ("queries", "windows", "repeats"):
        for value in parsed.queries if name == "queries" else [getattr(parsed, name)]:
            whole(f"--{name}", value, at_least=1)
    if not parsed.json:
        sys.stdout.write("medians; ratio: to copying the curves once, in the same run\n")
    rows = []
    for n in parsed.queries:
        rows.append(time_allocator(n, parsed.windows, parsed.repeats))
        line = "{queries:>9} x {windows}: {milliseconds:9.3f} ms, {copies:7.1f} copies\n".format(**rows[-1])
        sys.stdout.write("" if parsed.json else line)
    print_result(parsed, rows, "")


def read_predictions(parsed: argparse.Namespace, name: str = "predictions") -> Predictions:
    """The file of a flag, on the grid that it or the flags name.

    Raises:
        ValueError: If a flag names another grid than the file's own, or as `Predictions.load`.
    """
    path, window = getattr(parsed, name), 16 if parsed.window is None else parsed.window
    grid = None if parsed.grid is None else _numbers("--grid", parsed.grid)
    predictions = Predictions.load(path, window=window, budgets=grid)
    own = predictions.budgets.tolist()
    if grid is not None and own != grid:
        raise ValueError(f"--grid must be that of {path}, {own!s:.60}, got {parsed.grid}")
    if grid is None and parsed.window not in (None, predictions.window):
        raise ValueError(f"--window must be that of {path}, whose budgets are {own!s:.60}, got {window}")
    return predictions


def _outcomes(parsed: argparse.Namespace, predictions: Predictions) -> Predictions:
    """Measured curves of the same questions on the same budgets."""
    outcomes = read_predictions(parsed, "outcomes")
    if predictions.ids is not None and outcomes.ids is not None:
        predictions.check_ids(outcomes.ids, parsed.predictions)
    if outcomes.budgets.tolist() != predictions.budgets.tolist():
        raise ValueError(f"{parsed.outcomes} must have the budgets of {parsed.predictions}, but has others")
    return outcomes


def calibrated(predictions: Predictions, calibration: str | None) -> Predictions:
    """Predictions with their curves refitted, where there is a calibration."""
    if calibration is None:
        return predictions
    from ps_alloc.calibration import PlattCalibrator

    return replace(predictions, curves=PlattCalibrator.load(calibration).apply(predictions.curves))


def grid_settings(predictions: Predictions) -> dict[str, Any]:
    """Settings of `allocate` for the columns of `predictions`."""
    if predictions.window is not None and predictions.use is None:
        return {"window": predictions.window}
    return {"budgets": predictions.budgets, "use": predictions.use}


def _total_tokens(parsed: argparse.Namespace, predictions: Predictions) -> int:
    """The batch's budget; what is too little for everyone's fewest windows is said in the user's words."""
    n, fewest = len(predictions), parsed.min_windows
    least = 0.0
    if 1 <= fewest <= predictions.budgets.size:
        cost = predictions.budgets if predictions.use is None else predictions.use.mean(axis=0, dtype=float)
        least = float(cost[fewest - 1])
    if parsed.total_tokens is not None:
        if parsed.total_tokens < least * n:
            raise ValueError(
                f"--total-tokens must be at least {least * n:g}, {least:g} for each of {n} queries "
                f"(--min-windows {fewest}), got {parsed.total_tokens}"
            )
        return int(parsed.total_tokens)
    budget = real("--budget", parsed.budget, low=0.0, high=2.0**40)
    if budget < least:
        raise ValueError(
            f"--budget must be at least {least:g} tokens (--min-windows {fewest}), got {budget:g}"
        )
    return whole_total(budget, n)


def _numbers(flag: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{flag} must be numbers with commas between them, such as 32,64, got {text!r}"
        ) from None


def print_result(parsed: argparse.Namespace, content: Any, text: str) -> None:
    """Print for people, or with --json for programs."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n" if parsed.json else text)
