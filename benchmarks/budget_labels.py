"""How well do budgets read off noisy curves hold? Two halves of the same traces, and the rule's settings.

    python benchmarks/budget_labels.py ../shared/data/gsm8k_r1_distill_1.5b/train

Each window's traces are split at random. `differ`: mean difference of the two halves' budgets in tokens;
`corr`: their correlation; `mean`: the mean budget; `kept`: accuracy that one half measures at the other's
budget, as a share of its own (smoothed) best.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from ps_train.budget.labels import needed_budgets
from ps_train.curve_table import CurveTable, score_windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.9, 0.95, 1.0])
    parser.add_argument("--smoothing", type=int, nargs="+", default=[1, 3, 5])
    arguments = parser.parse_args()

    table = CurveTable.load(arguments.table, features=[])
    traces = np.broadcast_to(table.n_traces[:, None], table.curves.shape)
    right = np.rint(table.curves * traces).astype(np.int64)
    half = np.random.default_rng(0).hypergeometric(right, traces - right, traces // 2)
    halves = half / (traces // 2), (right - half) / (traces - traces // 2)

    shown = Table("share", "smoothing", "differ", "corr", "mean", "kept")
    for share in arguments.shares:
        for smoothing in arguments.smoothing:
            one, two = (
                needed_budgets(half, table.window, share=share, smoothing=smoothing) for half in halves
            )
            known = one[1] & two[1]
            budgets = [labels[0][known] for labels in (one, two)]
            measured = halves[1][known]
            reached = score_windows(measured, budgets[0] // table.window).mean()
            best = np.lib.stride_tricks.sliding_window_view(measured, 3, axis=1).mean(-1).max(1).mean()
            figures = (
                np.abs(budgets[0] - budgets[1]).mean(),
                np.corrcoef(*budgets)[0, 1],
                budgets[0].mean(),
            )
            formats = ("{:.1f}", "{:.3f}", "{:.0f}")
            shown.add_row(
                f"{share:g}",
                str(smoothing),
                *(form.format(value) for form, value in zip(formats, figures, strict=True)),
                f"{reached / best:.1%}",
            )
    Console().print(shown)


if __name__ == "__main__":
    main()
