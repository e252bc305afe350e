"""Intervals that know that another draw of questions would have taught the predictor something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ps_eval.assess.folds import Refits
from ps_eval.assess.points import mixed_points, priced_points, uniform_points
from ps_eval.assess.verdict import mean_line
from ps_eval.reporting.frontier import EqualUse, Point, equal_use

Float = npt.NDArray[np.float64]

SHARE = 0.25
"""Of what the jackknife's variance has more than the bootstrap's, the part that is added. The jackknife is
on average never too small (Efron and Stein 1981), and far too large for fits that change much with their
questions; with a quarter, intervals hold what they say: `benchmarks/assess_worlds.py`."""
MOST = 500
"""Of more questions, so many drawn by chance say how much wider; the more there are, the less it is."""
GROUPS = 10
"""More folds are put together: every two of them are a fit."""
RESAMPLES = 500
NORMAL = 1.96
REFERENCES = ("uniform", "mix")


def widened(
    rows: Sequence[EqualUse], refits: Refits, charged: Float | float, guess: float, *, seed: int = 0
) -> list[EqualUse]:
    """Rows of one predicted policy with wider intervals.

    The bootstrap over questions holds predictions fixed. Here every fold is left out in turn, and what is
    left is fitted, allocated and scored anew (the delete-a-group jackknife).

    Args:
        rows: At several levels of use.
        refits: What the policy was predicted by.
        charged: (N,) tokens that each question costs beforehand.
        guess: Accuracy of a question that is given nothing.
        seed: Of the questions that are drawn, and the bootstrap.
    """
    if not rows:
        return []
    levels = [row.used for row in rows]
    costs = np.broadcast_to(np.asarray(charged, np.float64), len(refits.table))
    if len(costs) > MOST or refits.folds.max() >= GROUPS:
        drawn = np.random.default_rng(seed).permutation(len(costs)) < MOST
        refits, costs = refits.take(drawn, GROUPS), costs[drawn]

    def points(gone: int | None) -> dict[str, list[Point]]:
        table = refits.table.take(refits.without(gone))
        own = priced_points(table, refits.left_out(gone), guess, charged=costs[refits.without(gone)])
        return {"own": own, "uniform": uniform_points(table), "mix": mixed_points(table, guess)}

    left = []
    for gone in np.unique(refits.folds).tolist():
        own, *others = (np.interp(levels, *mean_line(line)) for line in points(gone).values())
        left.append([own, *(own - other for other in others)])
    spread = np.array(left)  # (folds, accuracy and gains, levels)
    jackknife = (len(spread) - 1) * spread.var(axis=0)
    drawn_again = equal_use(
        points(None), levels, mode="replay", references=REFERENCES, n_resamples=RESAMPLES, seed=seed
    )
    fixed = {row.used: row for row in drawn_again if row.policy == "own"}
    found = []
    for row, (own, *over) in zip(rows, jackknife.T, strict=True):
        if (same := fixed.get(row.used)) is None:
            found.append(row)
            continue
        low, high = _wider((row.accuracy, row.low, row.high), same.low, same.high, own)
        gains = dict(row.gains)
        for name, variance in zip(REFERENCES, over, strict=True):
            if name in gains and name in same.gains:
                _, *ends = same.gains[name]
                gains[name] = [gains[name][0], *_wider(gains[name], ends[0], ends[1], variance)]
        found.append(replace(row, low=max(low, 0.0), high=min(high, 1.0), gains=gains))
    return found


def _wider(
    interval: Sequence[float], fixed_low: float, fixed_high: float, variance: float
) -> tuple[float, float]:
    """An interval (value, low, high), wider as a jackknife's variance asks beside a bootstrap's interval."""
    value, low, high = interval
    bootstrap = ((fixed_high - fixed_low) / (2 * NORMAL)) ** 2
    more = max(variance / bootstrap - 1, 0.0) if bootstrap > 0 else 0.0
    factor = float(np.sqrt(1 + SHARE * more))
    return value - factor * (value - low), value + factor * (high - value)
