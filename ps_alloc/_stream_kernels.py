"""Compiled streaming passes: what every query would take at given prices, sixteen rows at a time. Checks
nothing.

N queries, W windows, R rows that stand for some or all queries. Settings of a query are arrays of one element
or of N, as in `_curve_kernels`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_alloc._jit import kernel
from ps_alloc._simd import LANES, best_of_sixteen

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@kernel
def split_by_price(
    curves: npt.NDArray[np.floating],
    ids: IntArray,
    low_price: float,
    high_price: float,
    least: IntArray,
    most: IntArray,
    weight: FloatArray,
    window_cost: IntArray,
    base: FloatArray,
    weight_scale: float,
    windows: npt.NDArray[np.int32],
    undecided: IntArray,
    undecided_curves: npt.NDArray[np.floating],
) -> tuple[int, int, int, int, float, bool]:
    """Best windows of rows at two prices; rows where they agree are decided for every price in between.

    Args:
        curves: (R, W).
        ids: (R,) the rows' queries; empty where row i is query i.
        low_price: Scaled value per token: of weights divided by `weight_scale`.
        high_price: The same, not below `low_price`.
        least: Fewest windows.
        most: Most windows.
        weight: What a correct answer is worth.
        window_cost: Tokens charged for one window.
        base: Value at zero windows.
        weight_scale: The largest weight.
        windows: (N,) receives the windows at the high price.
        undecided: (C,) receives the queries of the undecided rows.
        undecided_curves: (C, W) receives their curves. C may be too small for all.

    Returns:
        How many rows are undecided; tokens of the decided rows; tokens of the undecided at the high and at
        the low price; summed weighted value of the decided; whether a value may lie outside [0, 1]. The sums
        are meaningless where more rows are undecided than there is room for.
    """
    w = curves.shape[1]
    width = (w + LANES - 1) // LANES * LANES
    bounded = least.size > 1 or most.size > 1 or least[0] > 1 or most[0] < w
    plain = curves.itemsize == 4 and w == width and weight.size == 1 and not bounded
    block = np.full((LANES, width), -np.inf, np.float32)
    start = np.full(LANES, base[0] if least[0] == 0 else -np.inf, np.float32)
    low_step = np.full(LANES, low_price * window_cost[0], np.float32)
    high_step = np.full(LANES, high_price * window_cost[0], np.float32)
    low_windows = np.empty(LANES, np.int32)
    high_windows = np.empty(LANES, np.int32)
    num_undecided = 0
    suspicious = False
    decided_cost, high_cost, low_cost = 0, 0, 0
    decided_value = 0.0
    for group in range(0, len(curves), LANES):
        size = min(LANES, len(curves) - group)
        if least.size > 1 or base.size > 1 or window_cost.size > 1:
            for r in range(size):
                i = ids[group + r] if ids.size > 0 else group + r
                start[r] = base[i if base.size > 1 else 0]
                if least[i if least.size > 1 else 0] > 0:
                    start[r] = -np.inf
                elif weight.size > 1:
                    start[r] *= weight[i] / weight_scale
                cost = window_cost[i if window_cost.size > 1 else 0]
                low_step[r] = low_price * cost
                high_step[r] = high_price * cost
        if plain and size == LANES:
            # Read where they lie; all other curves are brought into the block first.
            suspicious |= best_of_sixteen(
                curves[group : group + LANES], start, low_step, high_step, low_windows, high_windows
            )
        else:
            for r in range(size):
                i = ids[group + r] if ids.size > 0 else group + r
                scale = weight[i] / weight_scale if weight.size > 1 else 1.0
                low = least[i if least.size > 1 else 0]
                high = most[i if most.size > 1 else 0]
                curve = curves[group + r]
                for k in range(w):
                    suspicious |= not (curve[k] >= 0 and curve[k] <= 1)
                for k in range(w):
                    block[r, k] = curve[k] * scale if low <= k + 1 and k < high else -np.inf
            best_of_sixteen(block, start, low_step, high_step, low_windows, high_windows)
        for r in range(size):
            i = ids[group + r] if ids.size > 0 else group + r
            k = high_windows[r]
            cost = window_cost[i if window_cost.size > 1 else 0]
            windows[i] = k
            if low_windows[r] == k:
                accuracy = np.float64(curves[group + r, k - 1]) if k > 0 else base[i if base.size > 1 else 0]
                decided_value += weight[i if weight.size > 1 else 0] * accuracy
                decided_cost += k * cost
                continue
            if num_undecided < undecided.size:
                undecided[num_undecided] = i
                undecided_curves[num_undecided] = curves[group + r]
            num_undecided += 1
            high_cost += k * cost
            low_cost += low_windows[r] * cost
    return num_undecided, decided_cost, high_cost, low_cost, decided_value, suspicious


@kernel
def ties_at_price(
    curves: npt.NDArray[np.floating],
    ids: IntArray,
    price: float,
    tolerance: float,
    least: IntArray,
    most: IntArray,
    weight: FloatArray,
    window_cost: IntArray,
    base: FloatArray,
    fewest: IntArray,
    furthest: IntArray,
) -> tuple[int, int]:
    """Fewest and most windows of (R, W) rows that are best at `price`, up to `tolerance` in value.

    Writes them into `fewest` and `furthest` (R,) and returns their total costs.
    """
    low_cost, high_cost = 0, 0
    for r in range(len(curves)):
        i = ids[r] if ids.size > 0 else r
        low = least[i if least.size > 1 else 0]
        high = most[i if most.size > 1 else 0]
        scale = weight[i if weight.size > 1 else 0]
        step = window_cost[i if window_cost.size > 1 else 0]
        best = -np.inf
        for k in range(low, high + 1):
            value = np.float64(curves[r, k - 1]) if k > 0 else base[i if base.size > 1 else 0]
            best = max(best, scale * value - price * (k * step))
        fewest[r] = -1
        for k in range(low, high + 1):
            value = np.float64(curves[r, k - 1]) if k > 0 else base[i if base.size > 1 else 0]
            if scale * value - price * (k * step) >= best - tolerance:
                furthest[r] = k
                if fewest[r] < 0:
                    fewest[r] = k
        low_cost += fewest[r] * step
        high_cost += furthest[r] * step
    return low_cost, high_cost
