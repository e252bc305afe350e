"""Allocation on a grid of budgets, at granted tokens or at the tokens that are expected to be used."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from ps_alloc import Allocation, OptionMenus, allocate, allocate_options
from ps_alloc.baselines import uniform

UNITS = 64
"""Parts of a token that expected use is rounded to."""

FloatArray = npt.NDArray[np.floating]


def allocate_on_grid(
    curves: FloatArray,
    total_tokens: int,
    budgets: npt.NDArray[np.int64],
    *,
    use: FloatArray | None = None,
    min_windows: int = 1,
    method: Literal["hull", "myopic"] = "hull",
    leftover: Literal["spread", "keep"] = "spread",
) -> Allocation:
    """Spend `total_tokens` where the curves say it buys most.

    Args:
        curves: (N, W) accuracy under each budget.
        total_tokens: Of the whole batch: granted tokens or, with `use`, tokens expected to be used.
        budgets: (W,) the grid.
        use: (N, W) expected tokens really used under each budget; None charges the budgets themselves.
        min_windows: Fewest grid points a query is granted.
        method: Of `ps_alloc.allocate`.
        leftover: Of `ps_alloc.allocate`.
    """
    window = int(budgets[0])
    if use is None:
        return allocate(
            curves, total_tokens, window=window, min_windows=min_windows, method=method, leftover=leftover
        )
    options, spent = _choose(curves, use, total_tokens, min_windows)
    return Allocation(options, window, total_tokens, spent, method)


def uniform_on_grid(
    n_queries: int, total_tokens: int, budgets: npt.NDArray[np.int64], *, min_windows: int = 1
) -> Allocation:
    """The same budget for every query, as nearly as the grid allows, at granted tokens."""
    return uniform(
        n_queries, total_tokens, window=int(budgets[0]), min_windows=min_windows, max_windows=len(budgets)
    )


def _choose(
    curves: FloatArray, use: FloatArray, total_tokens: int, least: int
) -> tuple[npt.NDArray[np.int64], int]:
    n, w = curves.shape
    values = np.concatenate([np.zeros((n, 1)), curves], axis=1)[:, least:]
    costs = np.concatenate([np.zeros((n, 1)), np.ceil(use * UNITS)], axis=1)[:, least:].astype(np.int64)
    menus = OptionMenus(np.arange(n + 1) * (w + 1 - least), costs.ravel(), values.ravel())
    chosen = allocate_options(menus, total_tokens * UNITS)
    return chosen.options + least, -(-chosen.spent_tokens // UNITS)
