"""Compiled passes over curves and windows. Checks nothing; the package's docstring has the words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc.kernels.access import accuracy_at, at, cost_at
from ps_alloc.kernels.jit import kernel

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@kernel
def first_invalid(values: npt.NDArray[np.floating]) -> int:
    """Index of the first of (M,) values that is NaN or outside [0, 1]; -1 where there is none."""
    for i in range(values.size):
        if not (values[i] >= 0 and values[i] <= 1):
            return i
    return -1


@kernel
def first_invalid_use(use: npt.NDArray[np.floating], budgets: FloatArray) -> tuple[int, int]:
    """Row and column of the first use that is NaN, below the one before it or 0, or above its budget; or -1.

    Args:
        use: (R, W).
        budgets: (W,) most that each may be.
    """
    for r in range(use.shape[0]):
        before = 0.0
        for k in range(use.shape[1]):
            here = np.float64(use[r, k])
            if not (here >= before and here <= budgets[k]):
                return r, k
            before = here
    return -1, -1


@kernel
def invalid_rows(
    curves: npt.NDArray[np.floating], use: npt.NDArray[np.floating], budgets: FloatArray
) -> npt.NDArray[np.bool_]:
    """(N,). Which rows hold a value that is NaN or outside [0, 1], or a use as `first_invalid_use` says."""
    invalid = np.zeros(len(curves), np.bool_)
    for i in range(len(curves)):
        before = 0.0
        for k in range(curves.shape[1]):
            invalid[i] |= not (curves[i, k] >= 0 and curves[i, k] <= 1)
            if use.shape[0] > 0:
                here = np.float64(use[i, k])
                invalid[i] |= not (here >= before and here <= budgets[k])
                before = here
    return invalid


@kernel
def curve_menus(
    curves: npt.NDArray[np.floating], use: npt.NDArray[np.floating], ids: IntArray, settings: Any
) -> tuple[IntArray, IntArray, FloatArray, IntArray]:
    """Menus for `_menus.solve`. Of windows that cost the same, only the best has an item.

    Args:
        curves: (R, W) rows to make menus for.
        use: (R, W) their use, or (0, W).
        ids: (R,) the rows' queries; empty where row i is query i.
        settings: As everywhere.

    Returns:
        (R + 1,) starts, (M,) costs, (M,) weighted values, and (M,) windows: empty where all windows have
        items, so that item j of a row is `least + j` windows.
    """
    least, most, weight, base, rate, grid = settings
    # Where costs can stand still, of windows that cost the same only the best has an item.
    flat = use.shape[0] > 0
    for k in range(curves.shape[1]):
        flat |= grid[k] == grid[k + 1]
    size = 0
    for r in range(len(curves)):
        i = ids[r] if ids.size > 0 else r
        size += at(most, i) - at(least, i) + 1
    start = np.zeros(len(curves) + 1, np.int64)
    cost = np.empty(size, np.int64)
    value = np.empty(size, np.float64)
    windows = np.empty(size if flat else 0, np.int64)
    end = 0
    for r in range(len(curves)):
        i = ids[r] if ids.size > 0 else r
        low, high, w, step = at(least, i), at(most, i), at(weight, i), at(rate, i)
        if not flat:
            for k in range(low, high + 1):
                cost[end + k - low] = grid[k] * step
                value[end + k - low] = w * accuracy_at(curves, base, r, i, k)
            end += high + 1 - low
        else:
            for k in range(low, high + 1):
                c, v = cost_at(use, rate, grid, r, i, k), w * accuracy_at(curves, base, r, i, k)
                if k > low and c == cost[end - 1]:
                    if v <= value[end - 1]:
                        continue
                    end -= 1
                cost[end], value[end], windows[end] = c, v, k
                end += 1
        start[r + 1] = end
    return start, cost[:end], value[:end], windows[: end if flat else 0]


@kernel
def mean_accuracy(
    curves: npt.NDArray[np.floating], windows: IntArray, weight: FloatArray, base: FloatArray
) -> float:
    """Weighted mean over queries of the curve at the given windows. Rows are summed in order."""
    total = 0.0
    weights = 0.0
    for i in range(windows.size):
        w = at(weight, i)
        total += w * accuracy_at(curves, base, i, i, windows[i])
        weights += w
    return total / weights


@kernel
def total_cost(windows: IntArray, use: npt.NDArray[np.floating], rate: IntArray, grid: IntArray) -> int:
    """What windows (N,) cost together."""
    total = 0
    for i in range(windows.size):
        total += cost_at(use, rate, grid, i, i, windows[i])
    return total


@kernel
def raise_evenly(
    windows: IntArray,
    most: IntArray,
    use: npt.NDArray[np.floating],
    rate: IntArray,
    grid: IntArray,
    left: int,
) -> int:
    """Raise `windows` (N,) in place towards one common level, never above `most`; return what is left.

    The level is the highest that `left` pays for. What remains buys one window more for a share of the
    queries that stand at the level, spread evenly over their order (every second one when half can be paid).
    """
    low, high = 0, most.max()  # the level lies in [low, high]
    while low < high:
        level = (low + high + 1) // 2
        price = 0
        for i in range(windows.size):
            top = min(level, at(most, i))
            if top > windows[i]:
                price += cost_at(use, rate, grid, i, i, top) - cost_at(use, rate, grid, i, i, windows[i])
        if price <= left:
            low = level
        else:
            high = level - 1
    level = low
    open_cost = 0
    dearest = 1
    for i in range(windows.size):
        top = min(level, at(most, i))
        if top > windows[i]:
            left -= cost_at(use, rate, grid, i, i, top) - cost_at(use, rate, grid, i, i, windows[i])
            windows[i] = top
        if windows[i] == level and level < at(most, i):
            step = cost_at(use, rate, grid, i, i, level + 1) - cost_at(use, rate, grid, i, i, level)
            open_cost += step
            dearest = max(dearest, step)
    # Error diffusion in whole numbers: the share left / open_cost of the open queries, evenly spaced. Both
    # are shortened until their products with a step fit.
    share, whole = left, open_cost
    while whole > 2**61 // dearest:
        share, whole = share // 2, whole // 2
    error = 0
    for i in range(windows.size):
        if windows[i] == level and level < at(most, i):
            step = cost_at(use, rate, grid, i, i, level + 1) - cost_at(use, rate, grid, i, i, level)
            error += share * step
            if error >= whole * step and step <= left:
                error -= whole * step
                windows[i] += 1
                left -= step
    return left


@kernel
def raise_without_loss(
    curves: npt.NDArray[np.floating],
    use: npt.NDArray[np.floating],
    settings: Any,
    windows: IntArray,
    left: int,
) -> int:
    """Raise `windows` (N,) in place wherever that lowers no curve; return what is left.

    A query's next step leads to the next grid point that is worth no less. Steps from few windows come before
    steps from more; among equals the earlier query.
    """
    _, most, _, base, rate, grid = settings
    w = curves.shape[1]
    for level in range(w):
        for i in range(windows.size):
            if windows[i] != level:
                continue
            here = accuracy_at(curves, base, i, i, level)
            for k in range(level + 1, at(most, i) + 1):
                if accuracy_at(curves, base, i, i, k) >= here:
                    step = cost_at(use, rate, grid, i, i, k) - cost_at(use, rate, grid, i, i, level)
                    if step <= left:
                        windows[i] = k
                        left -= step
                    break
        if left <= 0:
            break
    return left


@kernel
def raise_one_each(
    windows: IntArray,
    most: IntArray,
    use: npt.NDArray[np.floating],
    rate: IntArray,
    grid: IntArray,
    left: int,
) -> int:
    """Give single windows, fewest first, then in order, while one can be paid; return what is left."""
    for level in range(most.max()):
        for i in range(windows.size):
            if windows[i] == level and level < at(most, i):
                step = cost_at(use, rate, grid, i, i, level + 1) - cost_at(use, rate, grid, i, i, level)
                if step <= left:
                    windows[i] += 1
                    left -= step
    return left
