"""Spend a budget of rows or passes over menus of schedules, and compare with the best static schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_alloc import OptionMenus, allocate_options
from ps_eval.diffusion.generate import Chooser, PolicyMaker
from ps_eval.diffusion.schedules import schedule_named
from ps_train.menu.ridge import MenuPredictor

Array = npt.NDArray[np.float64]
UNIT = 1000  # costs are whole numbers to the allocator: thousandths of a row or pass


@dataclass(frozen=True)
class SpendRow:
    """One policy at one mean cost."""

    policy: str
    cost: float
    """Mean rows or passes a response, really run."""
    accuracy: float
    static: float
    """What the best static schedules reach at that cost, the two beside it mixed by lot."""
    gain_low: float
    """Lower end of the 95% paired bootstrap interval of `accuracy - static`."""
    gain_high: float

    @property
    def gain(self) -> float:
        """Accuracy above the static frontier, as a share."""
        return self.accuracy - self.static


def choose(accuracy: Array, cost: Array, mean_cost: float) -> npt.NDArray[np.int64]:
    """One option a question, within a mean cost, where the predictions say it buys most.

    Args:
        accuracy: (N, S) predicted.
        cost: (N, S) predicted, above 0.
        mean_cost: Mean cost a question; the cheapest options where even they cost more.

    Returns:
        (N,) columns.
    """
    whole = np.maximum(1, np.rint(cost * UNIT)).astype(np.int64)
    total = max(int(mean_cost * UNIT * len(whole)), int(whole.min(axis=1).sum()))
    menus = OptionMenus.from_lists(list(whole), list(accuracy))
    return allocate_options(menus, total).options


def menu_chooser(predictor: MenuPredictor, mean_cost: float) -> Chooser:
    """Chooses schedules for a batch from what the first pass says of its prompts.

    Raises:
        ValueError: If `mean_cost` is not above 0, or the predictor's options are no schedules.
    """
    if not mean_cost > 0:
        raise ValueError(f"mean_cost must be above 0, got {mean_cost}")
    schedules = [schedule_named(name) for name in predictor.options]

    def chosen(features: dict[str, npt.NDArray[np.float32]]) -> list[PolicyMaker]:
        expected = predictor.predict(features)
        return [schedules[k] for k in choose(expected.accuracy, expected.cost, mean_cost)]

    return chosen


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


def compare(
    measured_accuracy: Array,
    measured_cost: Array,
    predicted: dict[str, tuple[Array, Array]],
    mean_costs: Sequence[float],
    *,
    others: tuple[Array, Array] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> list[SpendRow]:
    """Every policy at every mean cost, beside the static frontier at the cost that was really run.

    The frontier is measured on the same resampled questions, so that luck in the questions does not count.

    Args:
        measured_accuracy: (N, S).
        measured_cost: (N, S).
        predicted: Policy to predicted (accuracy, cost), each (N, S).
        mean_costs: What the policies are allowed, a question.
        others: Measured (accuracy, cost), each (N, T), of schedules that no policy may choose but the static
            frontier may.
        n_resamples: Of the questions.
        seed: Of the resamples.
    """
    n = len(measured_accuracy)
    drawn = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    # How often each question is drawn: means of resamples are products with it.
    counts = np.array([np.bincount(row, minlength=n) for row in drawn]) / n
    right_s, paid_s = (
        (measured_accuracy, measured_cost)
        if others is None
        else (np.hstack([measured_accuracy, others[0]]), np.hstack([measured_cost, others[1]]))
    )
    static_accuracy, static_cost = counts @ right_s, counts @ paid_s
    rows = []
    for name, (accuracy, cost) in predicted.items():
        for mean_cost in mean_costs:
            chosen = choose(accuracy, cost, mean_cost)
            right, paid = measured_accuracy[np.arange(n), chosen], measured_cost[np.arange(n), chosen]
            spent, reached = counts @ paid, counts @ right
            beside = np.array(
                [
                    static_frontier(a, c, at)
                    for a, c, at in zip(static_accuracy, static_cost, spent, strict=True)
                ]
            )
            low, high = np.quantile(reached - beside, [0.025, 0.975])
            static = static_frontier(right_s.mean(0), paid_s.mean(0), paid.mean())
            rows.append(
                SpendRow(
                    name, float(paid.mean()), float(right.mean()), float(static), float(low), float(high)
                )
            )
    return rows


def _below(accuracy: Array, cost: Array, a: int, b: int, c: int) -> bool:
    """Whether b lies on or below the line from a to c."""
    return bool(
        (accuracy[b] - accuracy[a]) * (cost[c] - cost[a]) <= (accuracy[c] - accuracy[a]) * (cost[b] - cost[a])
    )
