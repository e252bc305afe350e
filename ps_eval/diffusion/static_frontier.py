"""The best static schedules at a cost: the upper concave envelope of what was measured."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def static_frontier(accuracy: Array, cost: Array, at: npt.ArrayLike) -> Array:
    """Accuracy of the best static schedules, mixed by lot, at some mean costs.

    Args:
        accuracy: (S,) of each schedule.
        cost: (S,) mean cost of each.
        at: Mean costs; below the cheapest schedule its own accuracy counts.

    Returns:
        The upper concave envelope of the schedules there.
    """
    order = np.lexsort((-accuracy, cost))
    hull: list[int] = []
    for i in order:
        if hull and accuracy[i] <= accuracy[hull[-1]]:
            continue
        while len(hull) > 1 and _below(accuracy, cost, hull[-2], hull[-1], int(i)):
            hull.pop()
        hull.append(int(i))
    return np.interp(np.asarray(at, np.float64), cost[hull], accuracy[hull])


def resample_counts(n: int, n_resamples: int, seed: int) -> Array:
    """(n_resamples, n): how often each question is drawn, as a share; means of resamples are products."""
    drawn = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    return np.array([np.bincount(row, minlength=n) for row in drawn]) / n


def _below(accuracy: Array, cost: Array, a: int, b: int, c: int) -> bool:
    """Whether b lies on or below the line from a to c."""
    return bool(
        (accuracy[b] - accuracy[a]) * (cost[c] - cost[a]) <= (accuracy[c] - accuracy[a]) * (cost[b] - cost[a])
    )
