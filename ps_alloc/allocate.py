"""The front door: predicted curves and a token budget in, windows for every query out."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ps_alloc import _hull
from ps_alloc._checks import FloatArray, IntArray, check_curves, check_values, one_of, per_query_float
from ps_alloc._invalid import around_invalid, charge_in_full, clip_rows, find_invalid
from ps_alloc._leftover import at_least_uniform, cheapest_step, spend_everything, uniform_windows
from ps_alloc._problem import NO_ROWS, Limits, check_costs, check_limits, check_weights
from ps_alloc._reserve import allocate_with_reserve
from ps_alloc.allocation import Allocation
from ps_alloc.kernels.curves import mean_accuracy, raise_without_loss
from ps_alloc.kernels.myopic import myopic, raise_in_turn

Method = Literal["auto", "hull", "myopic", "uniform"]
Leftover = Literal["spread", "keep", "all"]
Invalid = Literal["raise", "clip", "uniform"]
METHODS, LEFTOVERS, INVALID = get_args(Method), get_args(Leftover), get_args(Invalid)
ROUNDING = 1e-12  # of a mean of accuracies


def allocate(
    curves: npt.ArrayLike,
    total_tokens: int,
    *,
    window: int = 16,
    budgets: npt.ArrayLike | None = None,
    use: npt.ArrayLike | None = None,
    min_windows: npt.ArrayLike = 1,
    max_windows: npt.ArrayLike | None = None,
    weights: npt.ArrayLike = 1.0,
    window_cost: npt.ArrayLike | None = None,
    base_accuracy: npt.ArrayLike = 0.0,
    leftover: Leftover = "spread",
    method: Method = "auto",
    invalid: Invalid = "raise",
    overspend_rate: float | None = None,
) -> Allocation:
    """Spend `total_tokens` over N queries where their curves say it buys the most correct answers.

    Args:
        curves: (N, W) probabilities; `curves[i, k]` is query i's accuracy after `(k + 1) * window` tokens, or
            under `budgets[k]`. Dips are allowed. float32 and float64 in C order are read in place, other
            arrays are copied first.
        total_tokens: Reasoning tokens for the whole batch. More than every query can use is no error.
        window: Tokens a window.
        budgets: (W,) the tokens granted at each grid point, whole and rising, in place of whole windows: such
            as 256, 512, 1024, ... "k windows" then means the k-th grid point everywhere.
        use: (W,) or (N, W) tokens expected to be really used under each budget: at most the budget, and not
            falling. They are what is charged to `total_tokens`; the budgets themselves by default.
        min_windows: Fewest windows a query gets, one number or (N,). 0 allows queries no reasoning.
        max_windows: Most windows, one number or (N,); W by default.
        weights: What a correct answer is worth, one number or (N,), not negative.
        window_cost: Tokens charged to the budget for one window, one number or (N,); `window` by default. A
            query sent to a model twice as expensive costs twice as much. Not with `budgets` or `use`.
        base_accuracy: Accuracy at zero windows, one number or (N,). Used where `min_windows` is 0.
        leftover: What happens to tokens that raise no curve. "keep" leaves them unspent. "spread" spends them
            only where that lowers no curve: more budget never means less expected accuracy, and never less
            than uniform's (above 4,096 queries within `gap_bound`). "all" spends all it can where the curves
            lose least: predictions are wrong somewhere, and the budget is there. The published allocator
            spends all; so does "myopic" with either.
        method: "hull" (what "auto" chooses): greedy on the upper concave envelopes with an exact core,
            optimal within `gap_bound`. "myopic": the allocator of *Predictive Scheduling* (arXiv 2602.01237).
            "uniform": the same for every query, whatever the curves and `leftover` say.
        invalid: What becomes of rows with an accuracy that is NaN or outside [0, 1], or a use that falls or
            lies outside [0, budget]. "raise" refuses the batch. "clip" clips them, and takes NaN for an
            accuracy of 0 and a use of the whole budget. "uniform" gives these queries what uniform would,
            charged in full, and allocates the rest of the budget to the others, of which alone it then
            expects an accuracy. `Allocation.invalid` says which they were.
        overspend_rate: With `use`: keep so much back that the tokens really used exceed `total_tokens` in at
            most this share of batches, by a normal bound on the largest spread that the expected uses allow.
            How far the answer is from the best one that does so is not known: it has no `gap_bound`.

    Returns:
        The allocation. Ties go to fewer windows, then to the earlier query; the answer depends on nothing but
        the input.

    Raises:
        ValueError: If an argument is out of range or out of shape, a curve holds NaN or a value outside [0,
            1], or the budget cannot pay for every query's `min_windows`.
    """
    one_of("method", method, METHODS)
    one_of("leftover", leftover, LEFTOVERS)
    one_of("invalid", invalid, INVALID)
    per_query = {"use": use, "min_windows": min_windows, "max_windows": max_windows, "weights": weights}
    per_query |= {"window_cost": window_cost, "base_accuracy": base_accuracy}
    shared = {"window": window, "budgets": budgets, "leftover": leftover, "method": method}
    if overspend_rate is not None:
        settings = {"invalid": invalid, **per_query, **shared}
        return allocate_with_reserve(curves, total_tokens, overspend_rate, **settings)
    values = check_curves(curves)
    n_queries, num_windows = values.shape
    costs = check_costs(
        n_queries, num_windows, window, budgets=budgets, use=use, window_cost=window_cost, dtype=values.dtype
    )
    bad = find_invalid(values, costs) if invalid != "raise" else NO_ROWS
    if bad.size and invalid == "clip":
        values, costs = clip_rows(values, costs, bad)
    elif bad.size:
        if use is not None and not len(costs.use):  # bad rows do not share the others' use
            use = np.tile(costs.expected, (n_queries, 1))
            costs = check_costs(n_queries, num_windows, window, budgets=budgets, use=use)
        costs = charge_in_full(costs, bad)
    limits = check_limits(n_queries, num_windows, total_tokens, costs, min_windows, max_windows)
    weight, exponent = check_weights(weights, n_queries)
    base = per_query_float("base_accuracy", base_accuracy, n_queries, high=1.0)
    if bad.size and invalid == "uniform":
        return around_invalid(values, limits, bad, {**per_query, "use": use}, shared)

    price: float | None = None
    gap: float | None = None
    if method in ("uniform", "myopic"):
        check_values(values)
        costs.check_use()
        windows = (
            uniform_windows(limits)
            if method == "uniform"
            else _myopic(values, limits, weight, base, leftover)
        )
        expected, units = mean_accuracy(values, windows, weight, base), costs.of(windows)
    else:
        windows, units, expected, price, gap = _hull_and_leftover(values, limits, weight, base, leftover)
        price = float(np.ldexp(price * costs.unit, exponent))
    return limits.allocation(
        windows, "hull" if method == "auto" else method, units, float(expected), price, gap, bad
    )


def _hull_and_leftover(
    curves: npt.NDArray[np.floating], limits: Limits, weight: FloatArray, base: FloatArray, leftover: Leftover
) -> tuple[IntArray, int, float, float, float]:
    """Windows, their cost in units, mean accuracy, price a unit, and bound of the mean."""
    costs, n_queries = limits.costs, limits.n_queries
    windows, spent, value, price, gap = _hull.allocate_hull(curves, limits, weight, base)
    if costs.unit > 1 and n_queries > _hull.DIRECT_ROWS:  # what rounding to whole units may hide
        gap += price * n_queries
    total_weight = float(weight.sum()) * (n_queries / weight.size)
    expected, gap = value / total_weight, gap / total_weight
    left, kept = limits.budget - spent, expected
    if leftover != "keep" and left > 0 and left >= cheapest_step(limits):
        settings = limits.settings(weight, base)
        left = raise_without_loss(curves, costs.use, settings, windows, left)
        if leftover == "all" and left >= cheapest_step(limits):
            spend_everything(curves, limits, settings, windows, left)
        expected, spent = mean_accuracy(curves, windows, weight, base), costs.of(windows)
    if kept - expected > ROUNDING or (gap > 0.0 and n_queries <= _hull.DIRECT_ROWS):
        windows, expected = at_least_uniform(curves, limits, weight, base, windows, expected)
        spent = costs.of(windows)
    if abs(kept - expected) > ROUNDING:
        gap = max(0.0, gap + kept - expected)
    return windows, spent, float(expected), price, gap


def _myopic(
    curves: npt.NDArray[np.floating], limits: Limits, weight: FloatArray, base: FloatArray, leftover: Leftover
) -> IntArray:
    windows = limits.fewest()
    settings = limits.settings(weight, base)
    left = myopic(curves, limits.costs.use, settings, windows, limits.budget - limits.costs.of(windows))
    if leftover != "keep":
        raise_in_turn(windows, limits.most, *limits.costs.arrays, left)
    return windows
