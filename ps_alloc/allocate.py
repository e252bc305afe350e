"""The front door: predicted curves and a token budget in, windows for every query out."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray, check_curves, check_values, one_of, per_query_float
from ps_alloc._curve_kernels import mean_accuracy, raise_evenly
from ps_alloc._hull import allocate_hull, spread_leftover
from ps_alloc._myopic_kernels import myopic, raise_in_turn
from ps_alloc._problem import Limits, check_limits
from ps_alloc.allocation import Allocation

Method = Literal["auto", "hull", "myopic", "uniform"]
Leftover = Literal["spread", "keep"]


def allocate(
    curves: npt.ArrayLike,
    total_tokens: int,
    *,
    window: int = 16,
    min_windows: npt.ArrayLike = 1,
    max_windows: npt.ArrayLike | None = None,
    weights: npt.ArrayLike = 1.0,
    window_cost: npt.ArrayLike | None = None,
    base_accuracy: npt.ArrayLike = 0.0,
    leftover: Leftover = "spread",
    method: Method = "auto",
) -> Allocation:
    """Spend `total_tokens` over N queries where their curves say it buys the most correct answers.

    Args:
        curves: (N, W) probabilities; `curves[i, k]` is query i's accuracy after `(k + 1) * window` tokens.
            Dips are allowed. float32 and float64 in C order are read in place, other arrays are copied first.
        total_tokens: Reasoning tokens for the whole batch. More than every query can use is no error.
        window: Tokens a window.
        min_windows: Fewest windows a query gets, one number or (N,). 0 allows queries no reasoning.
        max_windows: Most windows, one number or (N,); W by default.
        weights: What a correct answer is worth, one number or (N,), not negative.
        window_cost: Tokens charged to the budget for one window, one number or (N,); `window` by default. A
            query sent to a model twice as expensive costs twice as much.
        base_accuracy: Accuracy at zero windows, one number or (N,). Used where `min_windows` is 0.
        leftover: What happens to tokens that raise no curve. "keep" leaves them unspent. "spread" spends them
            where the curves lose least (the released allocator's way for "myopic"): predictions are wrong
            somewhere, and the budget is there; the expected accuracy can then fall where curves dip.
        method: "hull" (what "auto" chooses): greedy on the upper concave envelopes with an exact core,
            optimal within `gap_bound`. "myopic": the allocator of *Predictive Scheduling* (arXiv 2602.01237).
            "uniform": the same for every query, whatever the curves and `leftover` say.

    Returns:
        The allocation. Ties go to fewer windows, then to the earlier query; the answer depends on nothing but
        the input.

    Raises:
        ValueError: If an argument is out of range or out of shape, a curve holds NaN or a value outside [0,
            1], or the budget cannot pay for every query's `min_windows`.
    """
    one_of("method", method, get_args(Method))
    one_of("leftover", leftover, get_args(Leftover))
    values = check_curves(curves)
    n_queries, num_windows = values.shape
    limits = check_limits(n_queries, num_windows, total_tokens, window, min_windows, max_windows, window_cost)
    weight = per_query_float("weights", weights, limits.n_queries)
    total_weight = float(weight.sum()) * (n_queries / weight.size)
    if not 0.0 < total_weight < np.inf:
        raise ValueError(f"weights must have a finite sum above zero, got {total_weight:g}")
    base = per_query_float("base_accuracy", base_accuracy, limits.n_queries, high=1.0)

    price: float | None = None
    gap: float | None = None
    if method in ("uniform", "myopic"):
        check_values(values)
        windows = _uniform(limits) if method == "uniform" else _myopic(values, limits, weight, base, leftover)
        expected = mean_accuracy(values, windows, weight, base)
    else:
        windows, value, price, summed_gap = allocate_hull(values, limits, weight, base)
        expected, gap = value / total_weight, summed_gap / total_weight
        left = limits.total_tokens - limits.cost(windows)
        if leftover == "spread" and left >= limits.window_cost.min():
            spread_leftover(values, limits, weight, base, windows, left)
            before, expected = expected, mean_accuracy(values, windows, weight, base)
            gap = max(0.0, gap + before - expected)
    return Allocation(
        windows=windows,
        window=limits.window,
        total_tokens=limits.total_tokens,
        spent_tokens=limits.cost(windows),
        method="hull" if method == "auto" else method,
        expected_accuracy=float(expected),
        price=price,
        gap_bound=gap,
    )


def _uniform(limits: Limits) -> IntArray:
    windows = limits.full("least")
    raise_evenly(windows, limits.most, limits.window_cost, limits.total_tokens - limits.cost(windows))
    return windows


def _myopic(
    curves: npt.NDArray[np.floating],
    limits: Limits,
    weight: FloatArray,
    base: FloatArray,
    leftover: Leftover,
) -> IntArray:
    if limits.window_cost.size > 1:
        raise ValueError("method 'myopic' must have one window_cost for all queries, got one each")
    windows = limits.full("least")
    steps = (limits.total_tokens - limits.cost(windows)) // int(limits.window_cost[0])
    steps = myopic(curves, windows, limits.most, weight, base, steps)
    if leftover == "spread":
        raise_in_turn(windows, limits.most, steps)
    return windows
