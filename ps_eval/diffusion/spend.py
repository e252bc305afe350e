"""Spend a budget of rows or passes over menus of schedules, and compare with the best static schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_alloc import OptionMenus, allocate_options
from ps_alloc.diffusion import AcceptanceHead
from ps_eval.diffusion.generate import Chooser, PolicyMaker
from ps_eval.diffusion.schedules import schedule_named
from ps_eval.diffusion.static_frontier import resample_counts, static_frontier
from ps_train.menu.ridge import MenuPredictor

Array = npt.NDArray[np.float64]
Policy = Callable[[float], tuple[Array, Array]]
"""A mean cost a question to each question's accuracy and cost, (N,) each, as measured."""
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


def menu_chooser(predictor: MenuPredictor, mean_cost: float, head: AcceptanceHead | None = None) -> Chooser:
    """Chooses schedules for a batch from what the first pass says of its prompts.

    Args:
        predictor: Of accuracies and costs.
        mean_cost: Of a response.
        head: The model's acceptance head, for schedules that accept by it.

    Raises:
        ValueError: If `mean_cost` is not above 0, or the predictor's options are no schedules.
    """
    if not mean_cost > 0:
        raise ValueError(f"mean_cost must be above 0, got {mean_cost}")
    schedules = [schedule_named(name).maker(head) for name in predictor.options]

    def chosen(features: dict[str, npt.NDArray[np.float32]]) -> list[PolicyMaker]:
        expected = predictor.predict(features)
        return [schedules[k] for k in choose(expected.accuracy, expected.cost, mean_cost)]

    return chosen


def choosing(by: tuple[Array, Array], measured: tuple[Array, Array]) -> Policy:
    """Choose by some accuracies and costs, be measured by others; each (N, S)."""

    def policy(mean_cost: float) -> tuple[Array, Array]:
        at = np.arange(len(by[0])), choose(*by, mean_cost)
        return measured[0][at], measured[1][at]

    return policy


def half_split(right: npt.ArrayLike, cost: Array) -> Policy:
    """What knowing each question's accuracies is worth: choose by half the runs, be measured by the others.

    A half's accuracies are shrunk to their schedule's mean by as much as the halves disagree: few runs say
    little. With few runs the oracle still misses some of what could be known.

    Args:
        right: (N, S, R) of R runs, R at least 2; of an odd number the last is left out.
        cost: (N, S).

    Raises:
        ValueError: If there are fewer than 2 runs.
    """
    runs = np.asarray(right, np.float64)
    half = runs.shape[2] // 2
    if not half:
        raise ValueError(f"a half-split oracle needs at least 2 runs a question, got {runs.shape[2]}")
    halves = runs[:, :, :half].mean(2), runs[:, :, half : 2 * half].mean(2)
    kept = np.array([_slope(halves[0][:, s], halves[1][:, s]) for s in range(runs.shape[1])])
    shrunk = [h.mean(0) + kept * (h - h.mean(0)) for h in halves]
    both = [choosing((shrunk[a], cost), (halves[1 - a], cost)) for a in (0, 1)]

    def policy(mean_cost: float) -> tuple[Array, Array]:
        (right_a, paid_a), (right_b, paid_b) = (side(mean_cost) for side in both)
        return (right_a + right_b) / 2, (paid_a + paid_b) / 2

    return policy


def compare(
    measured_accuracy: Array,
    measured_cost: Array,
    policies: dict[str, Policy],
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
        policies: By name.
        mean_costs: What the policies are allowed, a question.
        others: Measured (accuracy, cost), each (N, T), of schedules that no policy may choose but the static
            frontier may.
        n_resamples: Of the questions.
        seed: Of the resamples.
    """
    counts = resample_counts(len(measured_accuracy), n_resamples, seed)
    right_s, paid_s = (
        (measured_accuracy, measured_cost)
        if others is None
        else (np.hstack([measured_accuracy, others[0]]), np.hstack([measured_cost, others[1]]))
    )
    static_accuracy, static_cost = counts @ right_s, counts @ paid_s
    rows = []
    for name, policy in policies.items():
        for mean_cost in mean_costs:
            right, paid = policy(mean_cost)
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


def _slope(x: Array, y: Array) -> float:
    """How much of a difference in x is found again in y, within [0, 1]."""
    spread = float(x.var() + y.var()) / 2
    together = float(((x - x.mean()) * (y - y.mean())).mean())
    return min(1.0, max(0.0, together / spread)) if spread else 0.0
