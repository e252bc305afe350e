"""`ps-alloc frontier`: what each budget is expected to buy, as a table, a file and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ps_alloc._checks import whole
from ps_alloc.commands import calibrated, grid_settings, print_result, read_predictions
from ps_alloc.files import atomic_path, check_output, write_json

COLUMNS = ("budget", "accuracy", "uniform", "price")


def frontier_rows(curves: Any, *, points: int, accuracy: float | None, **settings: Any) -> dict[str, Any]:
    """The frontier at evenly spaced budgets beside uniform, and the budget that an accuracy takes.

    Args:
        curves: (N, W) predicted curves.
        points: How many budgets.
        accuracy: An accuracy to reach, or None.
        **settings: Keyword arguments of `ps_alloc.frontier`.

    Raises:
        ValueError: As `ps_alloc.frontier` and `budget_for`.
    """
    from ps_alloc.allocate import allocate
    from ps_alloc.frontier import budget_for, frontier

    line = frontier(curves, **settings)
    n = line.n_queries
    rows = []
    for total in np.unique(np.linspace(line.tokens[0], line.tokens[-1], points).astype(np.int64)):
        ours = allocate(curves, int(total), **settings)
        even = allocate(curves, int(total), method="uniform", **settings)
        rows.append(
            {
                "budget": float(total) / n,
                "accuracy": ours.expected_accuracy,
                "uniform": even.expected_accuracy,
                "price": ours.price,
            }
        )
    content: dict[str, Any] = {"n": n, "exact": line.exact, "rows": rows}
    if accuracy is not None:
        total = budget_for(curves, accuracy, **settings)
        content["target"] = {"accuracy": accuracy, "total_tokens": total, "budget": total / n}
    return content


def frontier_command(parsed: argparse.Namespace) -> None:
    """`ps-alloc frontier`."""
    whole("--points", parsed.points, at_least=2, at_most=1000)
    inputs = [name for name in (parsed.predictions, parsed.calibration) if name is not None]
    output = check_output(parsed.output, inputs=inputs)
    if parsed.picture is not None and check_output(parsed.picture, inputs=inputs) == output:
        raise ValueError(f"--picture must be another file than --output, but both are {parsed.picture}")
    predictions = calibrated(read_predictions(parsed), parsed.calibration)
    content = frontier_rows(
        predictions.curves,
        points=parsed.points,
        accuracy=parsed.accuracy,
        min_windows=parsed.min_windows,
        **grid_settings(predictions),
    )
    write_json(parsed.output, content)
    text = f"  budget  accuracy   uniform  answers per 1,000 tokens\n{_table(content['rows'])}"
    if "target" in content:
        text += "accuracy {accuracy:g} takes {budget:.1f} tokens a query, {total_tokens} in all\n".format(
            **content["target"]
        )
    if parsed.picture is not None:
        text += draw(content, parsed.picture) + "\n"
    print_result(parsed, content, f"{text}{parsed.output}\n")


def _table(rows: list[dict[str, Any]]) -> str:
    return "".join(
        f"{row['budget']:>8.1f} {row['accuracy']:>9.4f} {row['uniform']:>9.4f} {1000 * row['price']:>12.4f}\n"
        for row in rows
    )


def draw(content: dict[str, Any], path: str | Path) -> str:
    """Draw expected accuracy against mean tokens; say where the picture is, or how to get one.

    matplotlib is no dependency of this package: without it there is the table alone.
    """
    try:
        import matplotlib
    except ImportError:
        return f"{path} was not drawn: that takes matplotlib (pip install matplotlib)"
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    budget, accuracy, uniform, _ = (np.array([row[name] for row in content["rows"]]) for name in COLUMNS)
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for values, name, colour in (
        (accuracy, "predicted", "#0072B2"),
        (uniform, "the same for all", "#7f7f7f"),
    ):
        axes.plot(budget, values, color=colour, linewidth=2.0)
        middle = len(values) // 2
        above = name == "predicted"
        axes.annotate(
            name,
            (budget[middle], values[middle]),
            xytext=(-6, 6) if above else (6, -6),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            color=colour,
        )
    if "target" in content:
        target = content["target"]
        axes.plot(target["budget"], target["accuracy"], "o", color="#0072B2")
    axes.set(xlabel="mean tokens a query", ylabel="expected accuracy", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
    return str(path)
