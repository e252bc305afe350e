"""From per-question scores to summary rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ps_eval.reporting.frontier import EqualUse, Point, equal_use, levels_of
from ps_eval.reporting.statistics import paired_bootstrap, wilson_interval
from ps_eval.reporting.summary import Mode, SummaryRow

Cell = tuple[str, int]
"""Policy and mean budget."""


def cell_name(policy: str, budget: int) -> str:
    """What a cell's files are called; a policy's `module:function` without a colon, for all file systems."""
    return f"{policy.replace(':', '.')}-{budget}"


def summarise(
    mode: Mode,
    scores: Mapping[Cell, npt.NDArray[np.float64]],
    *,
    reasoning_tokens: Mapping[Cell, float | npt.NDArray[np.float64]],
    granted_tokens: Mapping[Cell, float] | None = None,
    answer_tokens: Mapping[Cell, float] | None = None,
    forced: Mapping[Cell, float] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[SummaryRow]:
    """Accuracy of each cell with its interval, and its gain over `uniform` at the same budget allowed.

    Of graded answers, 0 or 1 each, the interval of an accuracy is Wilson's; of measured curves, the
    bootstrap's over questions. Gains are paired either way.

    Args:
        mode: `live` or `replay`.
        scores: Cell to (N,) scores of the same N questions, in [0, 1].
        reasoning_tokens: Cell to reasoning tokens really used: (N,), or their mean.
        granted_tokens: Cell to the mean tokens granted; those used by default.
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
        used = float(np.mean(reasoning_tokens[cell]))
        low, high = float(intervals.lows[i]), float(intervals.highs[i])
        if np.isin(scores[cell], (0.0, 1.0)).all():
            low, high = wilson_interval(float(intervals.means[i]), len(scores[cell]))
        rows.append(
            SummaryRow(
                mode=mode,
                policy=policy,
                budget=budget,
                accuracy=float(intervals.means[i]),
                low=low,
                high=high,
                mean_reasoning_tokens=used,
                mean_granted_tokens=granted_tokens[cell] if granted_tokens else used,
                mean_answer_tokens=answer_tokens[cell] if answer_tokens else None,
                forced=forced[cell] if forced else None,
                n=len(scores[cell]),
                gain=float(intervals.gains[i]) if compared else None,
                gain_low=float(intervals.gain_lows[i]) if compared else None,
                gain_high=float(intervals.gain_highs[i]) if compared else None,
            )
        )
    return rows


def compare(
    mode: Mode,
    scores: Mapping[Cell, npt.NDArray[np.float64]],
    used: Mapping[Cell, npt.NDArray[np.float64]],
    *,
    levels: Sequence[float] = (),
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[EqualUse]:
    """The policies of these cells at equal tokens really used (`ps_eval.reporting.frontier`).

    Args:
        mode: `live` or `replay`.
        scores: Cell to (N,) scores of the same N questions.
        used: Cell to (N,) reasoning tokens really used.
        levels: Mean tokens used at which to compare; by default those that `uniform` uses.
        n_resamples: Bootstrap resamples of the questions.
        seed: Of the bootstrap.
    """
    points: dict[str, list[Point]] = {}
    for cell in scores:
        points.setdefault(cell[0], []).append(Point(scores[cell], used[cell]))
    return equal_use(points, levels or levels_of(points), mode=mode, n_resamples=n_resamples, seed=seed)
