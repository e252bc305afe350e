"""Rows that are no curves, where one of them must not stop a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._leftover import uniform_windows
from ps_alloc._problem import Costs, Limits
from ps_alloc.allocation import Allocation
from ps_alloc.kernels.curves import invalid_rows


def find_invalid(curves: npt.NDArray[np.floating], costs: Costs) -> npt.NDArray[np.intp]:
    """(M,) rows with an accuracy that is NaN or outside [0, 1], or a use that is none."""
    return np.flatnonzero(invalid_rows(curves, costs.use, costs.grid[1:].astype(np.float64)))


def clip_rows(
    curves: npt.NDArray[np.floating], costs: Costs, rows: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.floating], Costs]:
    """Copies in which these rows are curves: values clipped to [0, 1], a use to [0, budget] and not falling.

    NaN counts as accuracy 0, and as the whole budget of use: what cannot be read earns nothing.
    """
    clipped = curves.copy()
    clipped[rows] = np.clip(np.nan_to_num(curves[rows], nan=0.0), 0.0, 1.0)
    if len(costs.use):
        use = costs.use.copy()
        budgets = costs.grid[1:].astype(use.dtype)
        readable = np.where(np.isnan(use[rows]), budgets, use[rows])
        use[rows] = np.maximum.accumulate(np.clip(readable, 0.0, budgets), axis=1)
        use.flags.writeable = False
        costs = replace(costs, use=use)
    clipped.flags.writeable = False
    return clipped, costs


def charge_in_full(costs: Costs, rows: npt.NDArray[np.intp]) -> Costs:
    """Costs in which these rows use their whole budget."""
    if not len(costs.use):
        return costs
    use = costs.use.copy()
    use[rows] = costs.grid[1:].astype(use.dtype)
    use.flags.writeable = False
    return replace(costs, use=use)


def around_invalid(
    curves: npt.NDArray[np.floating],
    limits: Limits,
    bad: npt.NDArray[np.intp],
    per_query: dict[str, Any],
    shared: dict[str, Any],
) -> Allocation:
    """Uniform's windows for the bad rows, and an allocation of what they leave for the others.

    Args:
        curves: (N, W).
        limits: Of the whole batch, the bad rows charged in full.
        bad: (M,) the bad rows.
        per_query: Arguments of `allocate` that may have a value for each query.
        shared: The others.
    """
    from ps_alloc.allocate import allocate

    n_queries, costs = limits.n_queries, limits.costs
    windows = uniform_windows(limits)
    good = np.setdiff1d(np.arange(n_queries), bad)
    expected = price = gap = None
    if good.size and np.any(_pick(per_query["weights"], good)):
        for_bad = np.zeros(n_queries, np.int64)
        for_bad[bad] = windows[bad]
        left = (limits.budget - costs.of(for_bad)) // costs.unit
        picked = {name: _pick(setting, good) for name, setting in per_query.items()}
        others = allocate(curves[good], left, **shared, **picked)
        windows[good] = others.windows
        expected, price, gap = others.expected_accuracy, others.price, others.gap_bound
    method = "hull" if shared["method"] == "auto" else shared["method"]
    return limits.allocation(windows, method, costs.of(windows), expected, price, gap, bad)


def _pick(setting: Any, rows: npt.NDArray[np.intp]) -> Any:
    """A setting for some of the queries: unchanged where it is shared by all."""
    return setting if np.ndim(setting) == 0 else np.asarray(setting)[rows]
