"""The dual question: what accuracy does each budget buy, and what budget does an accuracy take?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray, check_curves, check_values, numbers, per_query_float, real
from ps_alloc._hull import Rows
from ps_alloc._menus import Menus, segment_steps, steepest_first
from ps_alloc._problem import NO_ROWS, Limits, check_costs, check_limits, check_weights
from ps_alloc.allocate import allocate
from ps_alloc.kernels.curves import curve_menus, mean_accuracy
from ps_alloc.kernels.menus import envelopes
from ps_alloc.kernels.stream import split_by_price

# Larger batches are drawn through exact points between which an even sample of so many queries gives the
# shape.
SAMPLED_QUERIES = 8_192
DIRECT_VALUES = 1_000_000  # N * W up to here: every breakpoint of every query
KNOTS = (0.15, 0.5)  # shares of the sample's tokens at which exact points are computed


@dataclass(frozen=True, eq=False)
class Frontier:
    """What a batch's best allocations cost and are expected to be worth, at M budgets from least to most.

    Between two of them the best allocations lie at most one step below the straight line.
    """

    tokens: IntArray
    """(M,). Total tokens, not falling; from every query's fewest windows to all the curves can use."""
    expected_accuracy: FloatArray
    """(M,). Mean over queries (weighted, where weights were given), not falling."""
    price: FloatArray
    """(M,). Correct answers that one more token buys from here on, falling; the last is 0."""
    n_queries: int
    exact: bool
    """Whether every breakpoint of every query is there; large batches are sampled between exact points."""

    def at(self, tokens: npt.ArrayLike) -> FloatArray:
        """Expected accuracy at total budgets, on the straight lines between the points.

        Below the first point nothing is possible: NaN.

        Raises:
            ValueError: If they are no numbers.
        """
        wanted = numbers("tokens", tokens).astype(np.float64)
        value = np.interp(wanted, self.tokens, self.expected_accuracy)
        reached: FloatArray = np.where(wanted < self.tokens[0], np.nan, value)
        return reached


def frontier(
    curves: npt.ArrayLike,
    *,
    window: int = 16,
    budgets: npt.ArrayLike | None = None,
    use: npt.ArrayLike | None = None,
    min_windows: npt.ArrayLike = 1,
    max_windows: npt.ArrayLike | None = None,
    weights: npt.ArrayLike = 1.0,
    window_cost: npt.ArrayLike | None = None,
    base_accuracy: npt.ArrayLike = 0.0,
) -> Frontier:
    """Every budget at which the best allocation changes, what it is expected to be worth there, and its
    price.

    One solve: the segments of all envelopes, sorted by slope, summed up. Batches of more than a million
    values are drawn through four exact points, between which an even sample of queries gives the shape.

    Args:
        curves: (N, W) as for `allocate`, and so are all settings.
        window: Tokens a window.
        budgets: (W,) the tokens granted at each grid point, in place of whole windows.
        use: (W,) or (N, W) tokens expected to be really used.
        min_windows: Fewest windows, one number or (N,).
        max_windows: Most windows, one number or (N,).
        weights: What a correct answer is worth, one number or (N,).
        window_cost: Tokens charged for a window, one number or (N,).
        base_accuracy: Accuracy at zero windows, one number or (N,).

    Raises:
        ValueError: As `allocate`.
    """
    values = check_curves(curves)
    n_queries, num_windows = values.shape
    costs = check_costs(
        n_queries, num_windows, window, budgets=budgets, use=use, window_cost=window_cost, dtype=values.dtype
    )
    limits = check_limits(n_queries, num_windows, 2**62, costs, min_windows, max_windows)
    weight, exponent = check_weights(weights, n_queries)
    base = per_query_float("base_accuracy", base_accuracy, n_queries, high=1.0)
    settings = limits.settings(weight, base)
    total_weight = float(weight.sum()) * (n_queries / weight.size)

    rows = Rows(values, costs.use, NO_ROWS)
    if values.size <= DIRECT_VALUES:
        check_values(values)
        costs.check_use()
        cost, value, slope = _breakpoints(rows, settings)
    else:
        cost, value, slope = _through_knots(rows, limits, settings, total_weight)
    return Frontier(
        tokens=-(-cost // costs.unit),
        expected_accuracy=value / total_weight,
        price=np.ldexp(slope * costs.unit, exponent),
        n_queries=n_queries,
        exact=values.size <= DIRECT_VALUES,
    )


def budget_for(curves: npt.ArrayLike, accuracy: float, **settings: Any) -> int:
    """The least `total_tokens` of which `allocate` expects this accuracy.

    Args:
        curves: (N, W) as for `allocate`.
        accuracy: Mean expected accuracy to reach, in (0, 1].
        **settings: Keyword arguments of `frontier`.

    Raises:
        ValueError: If no budget is expected to reach it, or as `frontier`.
    """
    accuracy = real("accuracy", accuracy, above=0.0, high=1.0)
    line = frontier(curves, **settings)
    best = float(line.expected_accuracy[-1])

    def reaches(total: int) -> bool:
        expected = allocate(curves, total, leftover="keep", **settings).expected_accuracy
        return expected is not None and expected >= accuracy - 1e-12

    least, most = int(line.tokens[0]), int(line.tokens[-1])
    if best < accuracy - 1e-12 and not (not line.exact and reaches(most)):
        raise ValueError(
            f"accuracy must be one that the curves expect of some budget, at most {best:.6g}, "
            f"got {accuracy:g}"
        )
    # No allocation lies above the line, so none with fewer tokens than its own reaches the accuracy; and the
    # next breakpoint does. Between them allocations are tried.
    above = int(np.searchsorted(line.expected_accuracy, accuracy - 1e-12))
    high = int(line.tokens[min(above, line.tokens.size - 1)])
    low = int(np.floor(np.interp(accuracy - 2e-12, line.expected_accuracy, line.tokens)))
    step = max(1, (most - least) // 10_000)
    while not reaches(high):  # only where the line is sampled, or a proof was given up
        high, step = min(most, high + step), 2 * step
        if high == most:
            break
    low = max(least, min(low, high) - (0 if line.exact else step))
    while not line.exact and low > least and reaches(low):
        low, step = max(least, low - step), 2 * step
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return low


def _breakpoints(rows: Rows, settings: tuple[Any, ...]) -> tuple[IntArray, FloatArray, FloatArray]:
    """Summed cost and weighted value after each segment, steepest first, and the slope of the next one."""
    *items, _ = curve_menus(*rows, settings)
    menus = Menus(*items)
    seg_row, seg_item, seg_slope = envelopes(*menus, 0.0)
    costs, values = segment_steps(menus, seg_row, seg_item)
    order = steepest_first(seg_slope)
    first = menus.start[:-1]
    cost = np.concatenate(([menus.cost[first].sum()], costs[order]))
    value = np.concatenate(([menus.value[first].sum()], values[order]))
    return np.cumsum(cost), np.cumsum(value), np.append(seg_slope[order], 0.0)


def _through_knots(
    rows: Rows, limits: Limits, settings: tuple[Any, ...], total_weight: float
) -> tuple[IntArray, FloatArray, FloatArray]:
    """A sample's breakpoints, bent so that they pass through exact points of all queries."""
    sample = rows.sample(SAMPLED_QUERIES)
    check_values(sample.curves)
    cost, value, slope = _breakpoints(sample, settings)
    knots = np.searchsorted(cost, cost[0] + np.array(KNOTS) * (cost[-1] - cost[0]))
    knots = np.unique(knots[(knots > 0) & (knots < cost.size - 1)])
    prices = [float(slope[k]) for k in knots]

    windows = np.empty(len(rows.curves), np.int32)
    nowhere = Rows(np.empty_like(rows.curves[:0]), np.empty_like(rows.use[:0]), NO_ROWS)
    exact_cost, exact_value = [limits.costs.of(limits.fewest())], [0.0]
    exact_value[0] = mean_accuracy(rows.curves, limits.fewest(), *settings[2:4]) * total_weight
    # Of ties the low price takes the most and the high one the fewest: at price 0 the fewest are wanted.
    pairs = [(0.0, 0.0)] if not prices else [(prices[-1], prices[0]), (0.0, 0.0)]
    for low, high in pairs:
        _, costs, values, suspicious = split_by_price(*rows, settings, (low, high), windows, *nowhere)
        if suspicious:
            check_values(rows.curves)
            limits.costs.check_use()
        for which in (1, 2)[: 1 if low == high else 2]:
            exact_cost.append(max(exact_cost[-1], costs[0] + costs[which]))
            exact_value.append(max(exact_value[-1], values[0] + values[which]))
    corners = np.concatenate(([0], knots, [cost.size - 1]))
    bent_cost = np.interp(cost, cost[corners], exact_cost)
    bent_value = np.interp(value, value[corners], exact_value)
    return np.round(bent_cost).astype(np.int64), bent_value, slope
