"""The best static schedules at a cost, mixed by lot, and what a policy gains over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Measured(NamedTuple):
    """Responses to N questions under S schedules or policies: each (N, S)."""

    right: Array
    """Share of runs answered correctly."""
    paid: Array
    """Rows or passes of a response."""
    tokens: Array
    """Of a response."""

    def columns(self, columns: Sequence[int]) -> Measured:
        """Some of the schedules."""
        return Measured(*(values[:, list(columns)] for values in self))

    def picked(self, option: npt.NDArray[np.int64]) -> Measured:
        """Of question n its `option[n]`: each (N,)."""
        return Measured(*(values[np.arange(len(option)), option] for values in self))

    def beside(self, policies: Sequence[Measured]) -> Measured:
        """With policies, each (N,), as further columns."""
        return Measured(*(np.column_stack(values) for values in zip(self, *policies, strict=True)))


@dataclass(frozen=True)
class Gain:
    """A policy's accuracy above the best static schedules at its own cost, as a share; 95% interval."""

    static: float
    """What the static schedules reach there, two of them mixed by lot where that is better."""
    gain: float
    low: float
    high: float


def static_frontier(accuracy: Array, cost: Array, at: npt.ArrayLike) -> Array:
    """Accuracy of the best static schedules, mixed by lot, at some mean costs.

    Args:
        accuracy: (S,) of each schedule.
        cost: (S,) mean cost of each.
        at: Mean costs; below the cheapest schedule its own accuracy counts.

    Returns:
        The upper concave envelope of the schedules there.
    """
    hull = on_frontier(accuracy, cost)
    return np.interp(np.asarray(at, np.float64), cost[hull], accuracy[hull])


def on_frontier(accuracy: Array, cost: Array) -> list[int]:
    """Columns of the schedules that make the upper concave envelope, from cheap to dear."""
    hull: list[int] = []
    for i in np.lexsort((-accuracy, cost)):
        if hull and accuracy[i] <= accuracy[hull[-1]]:
            continue
        while len(hull) > 1 and _below(accuracy, cost, hull[-2], hull[-1], int(i)):
            hull.pop()
        hull.append(int(i))
    return hull


def means(measured: Measured, weights: Array) -> tuple[Array, Array]:
    """Accuracies and costs a token over weighted questions; weights (resamples, N), each row summing to 1."""
    cost = (weights @ measured.paid) / np.maximum(weights @ measured.tokens, 1e-9)
    return weights @ measured.right, cost


def gains_over_static(policies: Measured, static: Measured, counts: Array) -> list[Gain]:
    """Policies beside static schedules, each at its own cost a token.

    The frontier is measured on the same resampled questions, so that luck in the questions does not count.

    Args:
        policies: Each (N, P).
        static: Each (N, S).
        counts: (resamples, N), from `resample_counts`.
    """
    n = len(policies.right)
    weights = np.concatenate([np.full((1, n), 1 / n), counts])
    reached, spent = means(policies, weights)
    frontiers = zip(*means(static, weights), spent, strict=True)
    beside = np.array([static_frontier(accuracy, cost, at) for accuracy, cost, at in frontiers])
    gains = reached - beside  # (1 + resamples, P)
    lows, highs = np.quantile(gains[1:], [0.025, 0.975], axis=0)
    return [Gain(*map(float, values)) for values in zip(beside[0], gains[0], lows, highs, strict=True)]


def resample_counts(n: int, n_resamples: int, seed: int) -> Array:
    """(n_resamples, n): how often each question is drawn, as a share; means of resamples are products."""
    drawn = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    return np.array([np.bincount(row, minlength=n) for row in drawn]) / n


def _below(accuracy: Array, cost: Array, a: int, b: int, c: int) -> bool:
    """Whether b lies on or below the line from a to c."""
    return bool(
        (accuracy[b] - accuracy[a]) * (cost[c] - cost[a]) <= (accuracy[c] - accuracy[a]) * (cost[b] - cost[a])
    )
