"""Spending again while the traces run: what early finishers left goes where it buys most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray, check_curves, check_values, numbers, vector, whole
from ps_alloc.allocate import allocate
from ps_alloc.predictions import check_budgets, uniform_budgets


@dataclass(frozen=True)
class Reallocation:
    """Budgets for N traces that run."""

    tokens: IntArray
    """(N,). Tokens each trace may have in all; those it has already where it is to answer now."""
    goes_on: npt.NDArray[np.bool_]
    """(N,). Whether it may think further."""
    expected_accuracy: FloatArray
    """(N,). Under its budget, as forecast."""
    expected_further: FloatArray
    """(N,). Tokens it is expected to use beyond those it has."""
    price: float
    """Correct answers that one more token would buy; 0 where tokens are left over."""


def reallocate(
    curves: npt.ArrayLike,
    total_tokens: int,
    *,
    elapsed: npt.ArrayLike,
    now: npt.ArrayLike,
    window: int = 16,
    budgets: npt.ArrayLike | None = None,
    use: npt.ArrayLike | None = None,
    segment: int | None = None,
) -> Reallocation:
    """Give N traces that run the tokens that are left, where their forecasts say it buys the most answers.

    The tokens still to be spent are charged, not those behind: a trace whose answer stands costs nothing and
    gets nothing. Ask again at every checkpoint, with what is really left then.

    Args:
        curves: (N, W) accuracy forecast under each budget of the grid. What lies behind a trace is not read.
        total_tokens: Tokens that all of them may still use.
        elapsed: (N,) tokens each has used.
        now: (N,) accuracy if it answered now.
        window: Tokens a window, where the grid is of whole windows.
        budgets: (W,) the grid, rising, instead of `window`.
        use: (N, W) tokens expected to be used in all under each budget, those behind included; the budgets
            themselves by default. Values below `elapsed` count as `elapsed`.
        segment: Tokens until the traces are asked about again. With it, what they can use until then, none
            beyond its `tokens`, never exceeds `total_tokens`, however wrong `use` is: those that gain least a
            token answer now. Traces that stop nowhere before must be given no budgets before either. Without
            it, the same is true of all tokens granted where no `use` is given.

    Raises:
        ValueError: If an argument is out of range or out of shape.
    """
    values = check_curves(curves)
    check_values(values)
    n_traces, n_budgets = values.shape
    grid = (
        uniform_budgets(whole("window", window, at_least=1), n_budgets)
        if budgets is None
        else check_budgets(budgets)
    )
    if len(grid) != n_budgets:
        raise ValueError(f"budgets must be one a column of curves ({n_budgets}), got {len(grid)}")
    spent = vector("elapsed", elapsed, size=n_traces, low=0.0)
    base = vector("now", now, size=n_traces, low=0.0, high=1.0)
    left = whole("total_tokens", total_tokens)
    ahead = grid > spent[:, None]
    costs = np.where(ahead, grid - spent[:, None], 0.0)
    if use is not None:
        expected = numbers("use", use)
        if expected.shape != values.shape:
            raise ValueError(f"use must have the shape of curves {values.shape}, got {expected.shape}")
        # A forecast may fall below what was used already; it may not fall along the grid.
        further = np.maximum.accumulate(np.where(ahead, expected - spent[:, None], 0.0), axis=1)
        costs = np.clip(further, 0.0, costs)
    decided = allocate(
        np.where(ahead, values, base[:, None]),
        left,
        budgets=grid,
        use=costs,
        min_windows=0,
        base_accuracy=base,
        leftover="keep",
    )
    rows, last = np.arange(n_traces), np.maximum(decided.windows - 1, 0)
    goes_on = (decided.windows > 0) & ahead[rows, last]
    gain, further = values[rows, last] - base, costs[rows, last]
    if segment is not None:
        length = whole("segment", segment, at_least=1)
        until_asked = np.minimum(length, grid[last] - spent)
        order = np.argsort(-gain / np.maximum(further, 1e-9), kind="stable")
        order = order[goes_on[order]]
        goes_on[order[np.cumsum(until_asked[order]) > left]] = False
    return Reallocation(
        tokens=np.where(goes_on, grid[last], spent).astype(np.int64),
        goes_on=goes_on,
        expected_accuracy=np.where(goes_on, values[rows, last], base).astype(np.float64),
        expected_further=np.where(goes_on, further, 0.0),
        price=float(decided.price or 0.0),
    )
