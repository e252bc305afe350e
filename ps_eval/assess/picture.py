"""The picture of an assessment: accuracy against tokens really used, a line a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from ps_alloc.files import atomic_path
from ps_eval.assess.words import label
from ps_eval.reporting.frontier import Point
from ps_eval.reporting.words import COLOURS

EXTRA_COLOURS = {"predicted_scout": "#0072b2"}


def plot_frontiers(points: Mapping[str, Sequence[Point]], path: str | Path) -> None:
    """Write the picture as a PNG, atomically."""
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)  # a canvas of our own: pyplot's global state stays out of it
    panel = figure.subplots()
    for policy, line in points.items():
        pairs = sorted((float(point.used.mean()), float(point.scores.mean())) for point in line)
        panel.plot(
            [used for used, _ in pairs],
            [accuracy for _, accuracy in pairs],
            label=label(policy),
            color={**COLOURS, **EXTRA_COLOURS}.get(policy),
            linestyle="--" if policy == "oracle" else "-",
            linewidth=2.2 if policy.startswith("predicted") else 1.4,
        )
    panel.set_xlabel("mean tokens really used per question")
    panel.set_ylabel("accuracy")
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8.5)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
