"""Checked input of the allocators: what a user passes, as the kernels want it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import (
    LARGEST_TOTAL,
    FloatArray,
    IntArray,
    check_curves,
    numbers,
    per_query,
    per_query_float,
    vector,
    whole,
)
from ps_alloc.allocation import Allocation
from ps_alloc.kernels.access import USE_UNITS
from ps_alloc.kernels.curves import first_invalid_use, total_cost
from ps_alloc.predictions import check_budgets

NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Costs:
    """What each number of windows costs each query, in whole units."""

    budgets: IntArray
    """(W,). Tokens granted with 1 .. W windows."""
    grid: IntArray
    """(W + 1,). Units for 0 .. W windows; in tokens, and the most a use may be, where `use` holds rows."""
    rate: IntArray
    """(1,) or (N,). Units a unit of the grid."""
    use: npt.NDArray[np.floating]
    """(N, W) tokens, or (0, W) where the grid is the cost."""
    unit: int
    """Units a token."""
    expected: FloatArray
    """(W,). Tokens expected to be used with 1 .. W windows, where `use` holds no rows."""
    window: int | None
    """Tokens a window, where the grid is of whole windows."""
    charged: str
    """`Allocation.charged`."""

    def of(self, windows: npt.NDArray[np.integer]) -> int:
        """Units that (N,) windows cost together."""
        return int(total_cost(windows, self.use, self.rate, self.grid))

    def fit(self, windows: npt.NDArray[np.integer], total_tokens: int) -> bool:
        """Whether (N,) windows cost no more, with uses as they are instead of rounded up to units."""
        if self.unit == 1:
            return self.of(windows) <= total_tokens
        return math.fsum(self.used(windows)) <= total_tokens

    def used(self, windows: npt.NDArray[np.integer]) -> FloatArray:
        """(N,). Tokens that queries with these windows are expected to use, not rounded to units."""
        taken = np.maximum(windows - 1, 0)
        rows = self.use[np.arange(windows.size), taken] if len(self.use) else self.expected[taken]
        return np.where(windows > 0, rows, 0.0).astype(np.float64)

    @property
    def arrays(self) -> tuple[npt.NDArray[np.floating], IntArray, IntArray]:
        """`use`, `rate` and `grid`, as kernels take them."""
        return self.use, self.rate, self.grid

    def check_use(self) -> None:
        """Refuse a use that is NaN, falls along its row, or is above its budget, naming the first.

        Raises:
            ValueError: If there is one.
        """
        row, column = first_invalid_use(self.use, self.grid[1:].astype(np.float64))
        if row >= 0:
            before = self.use[row, column - 1] if column else 0.0
            raise ValueError(
                f"use must not fall along a row and lie in [0, budget], got {self.use[row, column]} after "
                f"{before} under a budget of {self.budgets[column]} at row {row}, column {column}"
            )


@dataclass(frozen=True, eq=False)
class Limits:
    """What each of N queries may and must spend. Arrays have one element, for all queries, or N."""

    n_queries: int
    total_tokens: int
    """The budget, in tokens."""
    least: IntArray
    """Fewest windows."""
    most: IntArray
    """Most windows."""
    costs: Costs
    budget: int
    """The budget in units, as far as it can be of use."""

    def allocation(
        self,
        windows: IntArray,
        method: str,
        units: int,
        expected_accuracy: float | None = None,
        price: float | None = None,
        gap_bound: float | None = None,
        invalid: npt.NDArray[np.integer] = NO_ROWS,
    ) -> Allocation:
        """What is returned of (N,) windows that cost so many units; `invalid` are (M,) rows."""
        costs = self.costs
        return Allocation(
            windows=windows,
            window=costs.window,
            total_tokens=self.total_tokens,
            spent_tokens=min(self.total_tokens, -(-units // costs.unit)),
            method=method,
            expected_accuracy=expected_accuracy,
            price=price,
            gap_bound=gap_bound,
            budgets=costs.budgets,
            charged=costs.charged,
            used=costs.used(windows) if costs.charged == "used" else None,
            invalid=invalid if invalid.size else None,
        )

    def fewest(self) -> IntArray:
        """A fresh (N,) copy of `least`."""
        return np.broadcast_to(self.least, self.n_queries).copy()

    def settings(self, weight: FloatArray, base: FloatArray) -> tuple[Any, ...]:
        """What kernels take as `settings`."""
        return self.least, self.most, weight, base, self.costs.rate, self.costs.grid


def check_costs(
    n_queries: int,
    num_windows: int,
    window: int,
    *,
    budgets: npt.ArrayLike | None = None,
    use: npt.ArrayLike | None = None,
    window_cost: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> Costs:
    """Costs from whichever of a window, a grid of budgets, expected use and a cost a window was given.

    Args:
        n_queries: N.
        num_windows: W.
        window: Tokens a window, where there are no `budgets`.
        budgets: (W,) tokens.
        use: (W,) or (N, W) expected tokens.
        window_cost: Units a window, one number or (N,).
        dtype: The curves': kernels see one type of numbers, unless `use` needs float64.

    Raises:
        ValueError: If one is out of range or shape, two exclude each other, or sums could overflow.
    """
    window = whole("window", window, at_least=1)
    if budgets is None:
        tokens, grid, expected = _whole_windows(window, num_windows)
    else:
        tokens = check_budgets(budgets, size=num_windows)
        grid, expected = np.concatenate(([0], tokens)), tokens.astype(np.float64)
    rate, unit, rows = np.ones(1, np.int64), 1, _no_use(num_windows, np.dtype(dtype))
    if window_cost is not None:
        if budgets is not None or use is not None:
            raise ValueError("window_cost must stand alone, got it with budgets or use, which are costs too")
        grid = np.arange(num_windows + 1)
        rate = per_query("window_cost", window_cost, n_queries, low=1, high=2**31)
    elif use is not None and numbers("use", use).ndim == 1:
        expected = vector("use", use, size=num_windows, low=0.0)
        grid, unit = _shared_use(expected, tokens)
    elif use is not None:
        rows = check_curves(numbers("use", use), "use")
        if rows.shape != (n_queries, num_windows):
            raise ValueError(
                f"use must have shape ({num_windows},) or ({n_queries}, {num_windows}), got {rows.shape}"
            )
        unit = USE_UNITS
    grid.flags.writeable = False  # one type of array, one compiled kernel
    largest = int(grid[-1]) * (unit if rows.size else 1) * int(rate.max()) * n_queries
    if largest > LARGEST_TOTAL:
        raise ValueError(
            f"the costs of all queries together must be at most {LARGEST_TOTAL // unit} tokens, "
            f"got up to {largest // unit} for {n_queries} queries"
        )
    charged = "used" if use is not None else "granted" if window_cost is None else "window_cost"
    return Costs(tokens, grid, rate, rows, unit, expected, window if budgets is None else None, charged)


@lru_cache
def _whole_windows(window: int, num_windows: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Budgets, grid and expected use of whole windows."""
    if window * num_windows > LARGEST_TOTAL:
        raise ValueError(
            f"window must be at most 2**62 tokens divided by the {num_windows} windows, got {window}"
        )
    grid = np.arange(num_windows + 1) * window
    return _frozen(grid[1:].copy()), _frozen(grid), _frozen(grid[1:].astype(np.float64))


@lru_cache
def _no_use(num_windows: int, dtype: np.dtype[Any]) -> npt.NDArray[np.floating]:
    return _frozen(np.empty((0, num_windows), dtype))


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.flags.writeable = False
    return array


def _shared_use(use: FloatArray, tokens: IntArray) -> tuple[IntArray, int]:
    """Costs of 0 .. W windows from one use for all, and the units a token: 1 is enough for whole tokens."""
    fine = np.concatenate(([0.0], use))
    bad = np.flatnonzero((np.diff(fine) < 0) | (use > tokens))
    if bad.size:
        k = bad[0]
        raise ValueError(
            f"use must not fall and lie in [0, budget], got {use[k]:g} after {fine[k]:g} under a budget of "
            f"{tokens[k]} at position {k}"
        )
    if (fine == np.floor(fine)).all():
        return fine.astype(np.int64), 1
    if fine[-1] > LARGEST_TOTAL // USE_UNITS:
        raise ValueError(
            f"use must be at most {LARGEST_TOTAL // USE_UNITS} tokens where it is not whole, "
            f"got {fine[-1]:g} at position {use.size - 1}"
        )
    return np.ceil(fine * USE_UNITS).astype(np.int64), USE_UNITS


def check_limits(
    n_queries: int,
    num_windows: int,
    total_tokens: int,
    costs: Costs,
    min_windows: npt.ArrayLike,
    max_windows: npt.ArrayLike | None,
) -> Limits:
    """Check a batch's limits.

    Raises:
        ValueError: If one is out of range or out of shape, or the budget cannot pay for every query's
            minimum; that message gives the smallest budget that can.
    """
    total_tokens = whole("total_tokens", total_tokens, at_least=0)
    least = per_query("min_windows", min_windows, n_queries, low=0, high=num_windows)
    if max_windows is None:
        most = np.array([num_windows])
    else:
        most = per_query("max_windows", max_windows, n_queries, low=0, high=num_windows)
    if (least > most).any():
        above = np.flatnonzero(least > most)
        raise ValueError(
            f"min_windows must not exceed max_windows, got {_at(least, above[0])} and {_at(most, above[0])} "
            f"for query {above[0]}"
        )
    budget = min(total_tokens * costs.unit, LARGEST_TOTAL)
    limits = Limits(n_queries, total_tokens, least, most, costs, budget)
    if costs.use.shape[0] == 0 and least.size == 1 and costs.rate.size == 1:
        smallest = n_queries * int(costs.grid[least[0]]) * int(costs.rate[0])
    else:
        if least.any():
            _refuse_broken_use(costs, least)
        smallest = costs.of(limits.fewest())
    if budget < smallest and costs.fit(limits.fewest(), total_tokens):
        limits = replace(limits, budget=smallest)
    elif budget < smallest:
        needed = -(-smallest // costs.unit)
        raise ValueError(
            f"total_tokens must pay for every query's min_windows, which takes {needed} tokens, "
            f"got {total_tokens} (a query: {needed / n_queries:.4g}, got {total_tokens / n_queries:.4g})"
        )
    return limits


def check_weights(weights: npt.ArrayLike, n_queries: int) -> tuple[FloatArray, int]:
    """Weights times a power of two that brings the largest below 1, and that power.

    Nothing is rounded by it, and no product with a tiny weight underflows.
    """
    weight = per_query_float("weights", weights, n_queries)
    total = float(weight.sum()) * (n_queries / weight.size)
    if not 0.0 < total < np.inf:
        raise ValueError(f"weights must have a finite sum above zero, got {total:g}")
    exponent = int(np.frexp(weight.max())[1])
    return np.ldexp(weight, -exponent), exponent


def _refuse_broken_use(costs: Costs, least: IntArray) -> None:
    """What the minimum costs must be a number before the budget is compared with it."""
    if costs.use.size:
        first = costs.use[:, int(least[0]) - 1] if least.size == 1 else costs.use[:, : int(least.max())]
        if not (first.min() >= 0.0 and first.max() <= costs.grid[-1]):
            costs.check_use()


def _at(values: IntArray, query: int) -> int:
    return int(values[query if values.size > 1 else 0])
