"""From per-question scores to summary rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ps_eval.reporting.statistics import paired_bootstrap
from ps_eval.reporting.summary import Mode, SummaryRow

Cell = tuple[str, int]
"""Policy and mean budget."""


def summarise(
    mode: Mode,
    scores: Mapping[Cell, npt.NDArray[np.float64]],
    *,
    reasoning_tokens: Mapping[Cell, float],
    answer_tokens: Mapping[Cell, float] | None = None,
    forced: Mapping[Cell, float] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[SummaryRow]:
    """Accuracy of each cell with its interval, and its gain over `uniform` at the same budget.

    Args:
        mode: `live` or `replay`.
        scores: Cell to (N,) scores of the same N questions, in [0, 1].
        reasoning_tokens: Cell to reasoning tokens per query.
        answer_tokens: Cell to answer tokens per query, where answers were generated.
        forced: Cell to the share of answers that were forced, where answers were generated.
        n_resamples: Bootstrap resamples of the questions.
        seed: Of the bootstrap.

    Returns:
        One row a cell, in the order of `scores`; gains are None where there is no `uniform` at that budget.
    """
    cells = list(scores)
    references = [
        cells.index(("uniform", b)) if ("uniform", b) in scores else i for i, (_, b) in enumerate(cells)
    ]
    intervals = paired_bootstrap(
        np.stack(list(scores.values())), references, n_resamples=n_resamples, seed=seed
    )
    rows = []
    for i, cell in enumerate(cells):
        policy, budget = cell
        compared = ("uniform", budget) in scores
        rows.append(
            SummaryRow(
                mode=mode,
                policy=policy,
                budget=budget,
                accuracy=float(intervals.means[i]),
                low=float(intervals.lows[i]),
                high=float(intervals.highs[i]),
                mean_reasoning_tokens=reasoning_tokens[cell],
                mean_answer_tokens=answer_tokens[cell] if answer_tokens else None,
                forced=forced[cell] if forced else None,
                n=len(scores[cell]),
                gain=float(intervals.gains[i]) if compared else None,
                gain_low=float(intervals.gain_lows[i]) if compared else None,
                gain_high=float(intervals.gain_highs[i]) if compared else None,
            )
        )
    return rows
