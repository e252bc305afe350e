"""Spend a budget of rows or passes over menus of schedules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_alloc import OptionMenus, allocate_options
from ps_alloc._checks import whole_total
from ps_alloc.diffusion import AcceptanceHead
from ps_eval.diffusion.generate import Chooser, PolicyMaker
from ps_eval.diffusion.schedules import schedule_named
from ps_train.menu.ridge import MenuPrediction, MenuPredictor

Array = npt.NDArray[np.float64]
Choice = npt.NDArray[np.int64]
UNIT = 1000  # costs are whole numbers to the allocator: thousandths of a row or pass


def choose(accuracy: Array, cost: Array, mean_cost: float) -> Choice:
    """One option a question, within a mean cost, where the predictions say it buys most.

    Args:
        accuracy: (N, S) predicted.
        cost: (N, S) predicted, above 0.
        mean_cost: Mean cost a question; the cheapest options where even they cost more.

    Returns:
        (N,) columns.
    """
    whole = np.maximum(1, np.rint(cost * UNIT)).astype(np.int64)
    total = max(whole_total(mean_cost * UNIT, len(whole)), int(whole.min(axis=1).sum()))
    menus = OptionMenus.from_lists(list(whole), list(accuracy))
    return allocate_options(menus, total).options


def choose_predicted(expected: MenuPrediction, budget: float, per_token: bool) -> Choice:
    """`choose` by a prediction: (N,) columns.

    Args:
        expected: Of N questions.
        budget: Mean cost a response; or a token, where `per_token`.
        per_token: Whether the budget grows with the tokens that the responses are expected to have.

    Raises:
        ValueError: If the budget counts tokens and the predictor learned none.
    """
    if per_token:
        if expected.tokens is None:
            raise ValueError(
                "a budget a token needs a predictor that expects tokens, got one of an earlier version: "
                "run ps-eval fit-menu again"
            )
        budget *= float(expected.tokens.mean())
    return choose(expected.accuracy, expected.cost, budget)


def menu_chooser(
    predictor: MenuPredictor, budget: float, head: AcceptanceHead | None = None, *, per_token: bool = False
) -> Chooser:
    """Chooses schedules for a batch from what the first pass says of its prompts.

    Args:
        predictor: Of accuracies and costs.
        budget: Mean cost of a response, or of a token where `per_token`.
        head: The model's acceptance head, for schedules that accept by it.
        per_token: See `choose_predicted`.

    Raises:
        ValueError: If `budget` is not above 0, or the predictor's options are no schedules.
    """
    if not budget > 0:
        raise ValueError(f"budget must be above 0, got {budget}")
    schedules = [schedule_named(name).maker(head) for name in predictor.options]

    def chosen(features: dict[str, npt.NDArray[np.float32]]) -> list[PolicyMaker]:
        return [schedules[k] for k in choose_predicted(predictor.predict(features), budget, per_token)]

    return chosen


def half_split(right: npt.ArrayLike, cost: Array, mean_cost: float) -> list[tuple[Choice, Array]]:
    """What knowing each question's accuracies is worth: choose by half the runs, be measured by the others.

    A half's accuracies are shrunk to their schedule's mean by as much as the halves disagree: few runs say
    little. With few runs the oracle still misses some of what could be known.

    Args:
        right: (N, S, R) of R runs, R at least 2; of an odd number the last is left out.
        cost: (N, S).
        mean_cost: Mean cost a question.

    Returns:
        For each half the options it chooses, (N,), and the accuracies of the other half, (N, S).

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
    return [(choose(shrunk[a], cost, mean_cost), halves[1 - a]) for a in (0, 1)]


def _slope(x: Array, y: Array) -> float:
    """How much of a difference in x is found again in y, within [0, 1]."""
    spread = float(x.var() + y.var()) / 2
    together = float(((x - x.mean()) * (y - y.mean())).mean())
    return min(1.0, max(0.0, together / spread)) if spread else 0.0
