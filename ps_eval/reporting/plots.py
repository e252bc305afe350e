"""Pictures of run summaries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ps_alloc.files import atomic_path
from ps_eval.reporting.summary import SummaryRow
from ps_eval.reporting.words import COLOURS, LABELS, label

PANEL_INCHES = (6.0, 4.4)


def plot_accuracy(rows: Sequence[SummaryRow], path: str | Path, title: str | None = None) -> None:
    """Write the picture of `draw_accuracy` as a PNG, atomically.

    Raises:
        ValueError: If there are no rows.
    """
    figure = draw_accuracy(rows, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def draw_accuracy(rows: Sequence[SummaryRow], title: str | None = None) -> Figure:
    """Draw accuracy against mean reasoning tokens: a line a policy, with its 95% band.

    Live rows and replay rows get a panel each, side by side on one accuracy axis. Live rows are placed at the
    tokens generated, replay rows at those the table says are used (granted, where it does not know).

    Args:
        rows: Of one run or several; at least one.
        title: Above the panels.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("rows must hold at least one summary row, got none")
    modes = [mode for mode in ("live", "replay") if any(row.mode == mode for row in rows)]
    figure = Figure(figsize=(PANEL_INCHES[0] * len(modes), PANEL_INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)  # a canvas of our own: pyplot's global state stays out of it
    panels = figure.subplots(1, len(modes), sharex=True, sharey=True, squeeze=False)[0]
    for panel, mode in zip(panels, modes, strict=True):
        _draw_panel(panel, [row for row in rows if row.mode == mode], mode)
    panels[0].set_ylabel("accuracy")
    for panel in panels:
        label_lines(panel)
    if title:
        figure.suptitle(title)
    return figure


def _draw_panel(panel: Axes, rows: Sequence[SummaryRow], mode: str) -> None:
    for policy in sorted({row.policy for row in rows}, key=_rank):
        line = sorted(
            (row for row in rows if row.policy == policy), key=lambda row: row.mean_reasoning_tokens
        )
        tokens = [row.mean_reasoning_tokens for row in line]
        colour = COLOURS.get(policy)
        (drawn,) = panel.plot(
            tokens,
            [row.accuracy for row in line],
            marker="o",
            markersize=4,
            linewidth=2.2 if policy == "hull" else 1.4,
            linestyle="--" if policy.endswith("oracle") else "-",
            color=colour,
            label=label(policy),
            zorder=3 if policy == "hull" else 2,
        )
        panel.fill_between(
            tokens,
            [row.low for row in line],
            [row.high for row in line],
            color=drawn.get_color(),
            alpha=0.12,
            linewidth=0,
        )
    spent = "generated" if mode == "live" else "used"
    panel.set_title(f"{mode} (n = {rows[0].n})", fontsize=10)
    panel.set_xlabel(f"mean reasoning tokens per question, {spent}")
    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def label_lines(panel: Axes, size: float = 8.5) -> None:
    """Write each line's label at its right end, in its colour; labels make room for each other."""
    lines = [line for line in panel.get_lines() if not str(line.get_label()).startswith("_")]
    low, high = panel.get_ylim()
    step = (high - low) * 0.055
    ends = sorted(lines, key=lambda line: float(np.asarray(line.get_ydata())[-1]))
    heights: list[float] = []
    for line in ends:
        height = float(np.asarray(line.get_ydata())[-1])
        heights.append(max(height, heights[-1] + step) if heights else height)
    excess = heights[-1] - high if heights else 0.0
    heights = [height - max(0.0, excess) for height in heights]
    edge = max((float(np.asarray(line.get_xdata())[-1]) for line in ends), default=0.0)
    for line, height in zip(ends, heights, strict=True):
        panel.annotate(
            str(line.get_label()),
            (edge, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=line.get_color(),
            annotation_clip=False,
        )


def _rank(policy: str) -> int:
    """Legend order; names of no policy come last."""
    return list(LABELS).index(policy) if policy in LABELS else len(LABELS)
