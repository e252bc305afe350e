"""Pictures of run summaries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ps_alloc.files import atomic_path
from ps_eval.reporting.summary import SummaryRow
from ps_eval.spending.policies import POLICIES

LABELS = {
    "uniform": "uniform",
    "mix": "no-information mix",
    "myopic": "myopic greedy (the paper's)",
    "hull": "hull greedy (ours)",
    "honest_oracle": "noise-honest oracle",
    "oracle": "oracle",
}
# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = {
    "uniform": "#7f7f7f",
    "mix": "#e69f00",
    "myopic": "#009e73",
    "hull": "#0072b2",
    "honest_oracle": "#cc79a7",
    "oracle": "#000000",
}
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
    tokens generated, replay rows at the tokens allocated.

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
    panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for panel, mode in zip(panels, modes, strict=True):
        _draw_panel(panel, [row for row in rows if row.mode == mode], mode)
    panels[0].set_ylabel("accuracy")
    panels[-1].legend(frameon=False, fontsize=9)
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
            label=LABELS.get(policy, policy),
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
    spent = "generated" if mode == "live" else "allocated"
    panel.set_title(f"{mode} (n = {rows[0].n})", fontsize=10)
    panel.set_xlabel(f"mean reasoning tokens per question, {spent}")
    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _rank(policy: str) -> int:
    """Legend order; names of no policy come last."""
    return POLICIES.index(policy) if policy in POLICIES else len(POLICIES)
