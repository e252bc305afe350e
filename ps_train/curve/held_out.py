"""What a predictor is worth on the questions it was not trained on, as a fit's last words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE
from rich.table import Table

from ps_alloc import allocate
from ps_alloc._checks import whole_total
from ps_alloc.baselines import uniform
from ps_train.curve.metrics import flattened_pearson, per_window_pearson, sensible_budgets
from ps_train.curve_table import score_windows
from ps_train.question_length import means_by_length
from ps_train.schema import CurveSchema

Curves = npt.NDArray[np.float32]
NUM_RESAMPLES = 2000


def held_out_table(module: Any) -> Table | None:
    """Accuracy at sensible budgets by predictions, by the question's length and evenly spread.

    Args:
        module: After its fit: a `PredictorModule` with `held_out_curves`.

    Returns:
        The table; None where nothing was held out.
    """
    curves = module.held_out_curves()
    if curves is None or not {"train", "val"} <= set(module.rows):
        return None
    predicted, measured = curves
    train, val = module.rows["train"], module.rows["val"]
    if "curves" not in train.targets or len(measured) != len(val):
        return None
    by_length = means_by_length(train.texts, train.targets["curves"], val.texts)
    correlation = per_window_pearson(predicted, measured).mean()
    table = Table(
        "mean tokens",
        "even",
        "by length",
        "predicted",
        "gain",
        "over length",
        title=f"{len(measured)} held-out questions: r {correlation:.3f} per budget, "
        f"{flattened_pearson(predicted, measured):.3f} flattened; accuracy in %, gains in points (95%)",
        title_justify="left",
        box=SIMPLE,
    )
    for budget in sensible_budgets(module.net.schema.grid):
        even, length, ours = (
            spend(curves, measured, budget, module.net.schema) for curves in (None, by_length, predicted)
        )
        table.add_row(
            f"{budget:g}",
            *(f"{100 * scores.mean():.1f}" for scores in (even, length, ours)),
            in_points(ours - even),
            in_points(ours - length),
        )
    return table


def spend(
    curves: npt.NDArray[np.floating] | None, measured: Curves, budget: float, schema: CurveSchema
) -> npt.NDArray[np.float64]:
    """(N,) what each question scores when all share `budget` mean tokens by `curves`; None: evenly."""
    n, num_windows = measured.shape
    total = whole_total(budget, n)
    if curves is None:
        windows = uniform(n, total, **schema.on_grid, min_windows=1, max_windows=num_windows).windows
    else:
        windows = allocate(curves, total, **schema.on_grid).windows
    return score_windows(measured, windows)


def in_points(differences: npt.NDArray[np.float64]) -> str:
    """A mean difference with its 95% paired-bootstrap interval: `+8.4 [+6.7, +10.2]`."""
    rng = np.random.default_rng(0)
    n = len(differences)
    means = [differences[rng.integers(0, n, n)].mean() for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{100 * differences.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
