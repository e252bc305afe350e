"""Pictures of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ps_alloc.files import atomic_path


def plot_frontier(rows: Sequence[Mapping[str, Any]], reference: str, path: str | Path) -> None:
    """Accuracy against speed, one mark a schedule with its 95% intervals; PNG, written atomically.

    Args:
        rows: From `ps_eval.diffusion.ablate.summarise_cells`.
        reference: The schedule whose speed is 1.
        path: The file.
    """
    figure = Figure(figsize=(8.0, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for row in rows:
        panel.errorbar(
            row["speed"],
            row["accuracy"],
            xerr=[[row["speed"] - row["speed_low"]], [row["speed_high"] - row["speed"]]],
            yerr=[[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]],
            marker="*" if row["schedule"] == reference else "o",
            markersize=12 if row["schedule"] == reference else 6,
            color=_colour(row["schedule"]),
            elinewidth=0.6,
            alpha=0.9,
        )
        panel.annotate(
            row["schedule"], (row["speed"], row["accuracy"]), (5, 4), textcoords="offset points", fontsize=7
        )
    panel.set_xlabel(f"responses per second, {reference} = 1")
    panel.set_ylabel(f"accuracy (n = {rows[0]['n']})")
    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_histories(histories: Mapping[str, Sequence[tuple[int, float, int]]], path: str | Path) -> None:
    """Block size, threshold and tokens committed at each step of one response, a line a schedule.

    Args:
        histories: Schedule to its steps, from `AdaptiveInferenceScheduler.history`.
        path: The file; PNG, written atomically.
    """
    figure = Figure(figsize=(8.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, sharex=True)
    for name, steps in histories.items():
        for panel, values in zip(panels, zip(*steps, strict=True), strict=True):
            panel.plot(range(1, len(values) + 1), values, label=name, linewidth=1.2, drawstyle="steps-mid")
    for panel, label in zip(panels, ("block size", "threshold", "tokens committed"), strict=True):
        panel.set_ylabel(label)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("step of the response")
    panels[0].legend(fontsize=6, ncols=3, frameon=False)
    _save(figure, path)


def _colour(schedule: str) -> str:
    """Okabe and Ito's palette by kind of schedule."""
    if schedule.endswith("+correction"):
        return "#009e73"
    if schedule.startswith("ours"):
        return "#0072b2"
    return "#7f7f7f" if schedule.startswith(("static", "one")) else "#e69f00"


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
