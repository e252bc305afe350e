"""Compiled passes over curves and windows. Checks nothing.

N queries, W windows, R rows that stand for some or all queries. Settings of a query (`least`, `most`,
`weight`, `window_cost`, `base`) are arrays of one element, shared by all queries, or of N.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_alloc._jit import kernel

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
def curve_menus(
    curves: npt.NDArray[np.floating],
    ids: IntArray,
    least: IntArray,
    most: IntArray,
    weight: FloatArray,
    window_cost: IntArray,
    base: FloatArray,
) -> tuple[IntArray, IntArray, FloatArray]:
    """Menus for `_menu_kernels.solve`: item k - least of a row is k windows.

    Args:
        curves: (R, W) rows to make menus for.
        ids: (R,) the rows' queries; empty where row i is query i.
        least: Fewest windows.
        most: Most windows.
        weight: What a correct answer is worth.
        window_cost: Tokens charged for one window.
        base: Value at zero windows.

    Returns:
        (R + 1,) starts, (M,) costs in tokens, (M,) weighted values.
    """
    start = np.zeros(len(curves) + 1, np.int64)
    for r in range(len(curves)):
        i = ids[r] if ids.size > 0 else r
        low = least[i if least.size > 1 else 0]
        high = most[i if most.size > 1 else 0]
        start[r + 1] = start[r] + high - low + 1
    cost = np.empty(start[-1], np.int64)
    value = np.empty(start[-1], np.float64)
    for r in range(len(curves)):
        i = ids[r] if ids.size > 0 else r
        low = least[i if least.size > 1 else 0]
        w = weight[i if weight.size > 1 else 0]
        c = window_cost[i if window_cost.size > 1 else 0]
        for item in range(start[r], start[r + 1]):
            k = low + item - start[r]
            accuracy = np.float64(curves[r, k - 1]) if k > 0 else base[i if base.size > 1 else 0]
            cost[item] = k * c
            value[item] = w * accuracy
    return start, cost, value


@kernel
def mean_accuracy(
    curves: npt.NDArray[np.floating], windows: IntArray, weight: FloatArray, base: FloatArray
) -> float:
    """Weighted mean over queries of the curve at the given windows. Rows are summed in order."""
    total = 0.0
    weights = 0.0
    for i in range(windows.size):
        w = weight[i if weight.size > 1 else 0]
        k = windows[i]
        total += w * (np.float64(curves[i, k - 1]) if k > 0 else base[i if base.size > 1 else 0])
        weights += w
    return total / weights


@kernel
def raise_evenly(windows: IntArray, most: IntArray, window_cost: IntArray, tokens: int) -> int:
    """Raise `windows` (N,) in place towards one common level, never above `most`; return the tokens left.

    The level is the highest that `tokens` pay for. What remains buys one window more for a share of the
    queries that stand at the level, spread evenly over their order (every second one when half can be paid).
    """
    low, high = 0, most.max()  # the level lies in [low, high]
    while low < high:
        level = (low + high + 1) // 2
        price = 0
        for i in range(windows.size):
            top = min(level, most[i if most.size > 1 else 0])
            if top > windows[i]:
                price += (top - windows[i]) * window_cost[i if window_cost.size > 1 else 0]
        if price <= tokens:
            low = level
        else:
            high = level - 1
    level = low
    open_cost = 0
    for i in range(windows.size):
        c = window_cost[i if window_cost.size > 1 else 0]
        top = min(level, most[i if most.size > 1 else 0])
        if top > windows[i]:
            tokens -= (top - windows[i]) * c
            windows[i] = top
        if windows[i] == level and level < most[i if most.size > 1 else 0]:
            open_cost += c
    # Error diffusion in whole numbers: the share tokens / open_cost of the open queries, evenly spaced.
    share = tokens
    error = 0
    for i in range(windows.size):
        c = window_cost[i if window_cost.size > 1 else 0]
        if windows[i] == level and level < most[i if most.size > 1 else 0]:
            error += share * c
            if error >= open_cost * c and c <= tokens:
                error -= open_cost * c
                windows[i] += 1
                tokens -= c
    return tokens
