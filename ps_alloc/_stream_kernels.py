"""Compiled streaming passes: what every query would take at given prices, sixteen rows at a time. Checks
nothing.

N queries, W windows, R rows in a list of rows. Settings of a query are arrays of one element or of N, as in
`_curve_kernels`.
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
    rows: IntArray,
    begin: int,
    end: int,
    low_price: float,
    high_price: float,
    least: IntArray,
    most: IntArray,
    weight: FloatArray,
    window_cost: IntArray,
    base: FloatArray,
    weight_scale: float,
    windows: IntArray,
) -> tuple[IntArray, int, int, int, float, bool]:
    """Best windows of rows at two prices; rows where they agree are decided for every price in between.

    Args:
        curves: (N, W).
        rows: (R,) the queries to look at; empty for all N.
        begin: First position in `rows` (or query) to look at.
        end: The one after the last.
        low_price: Scaled value per token: of weights divided by `weight_scale`.
        high_price: The same, not below `low_price`.
        least: Fewest windows.
        most: Most windows.
        weight: What a correct answer is worth.
        window_cost: Tokens charged for one window.
        base: Value at zero windows.
        weight_scale: The largest weight.
        windows: (N,) receives the windows of decided rows.

    Returns:
        The undecided rows; tokens of the decided ones; tokens of the undecided at the high and at the low
        price; summed weighted value of the decided; whether a value looked at may lie outside [0, 1].
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
    undecided = np.empty(end - begin + 1, np.int64)
    extra = np.empty(end - begin + 1, np.int64)  # windows that an undecided row takes more at the low price
    num_undecided = 0
    suspicious = False
    decided_cost, high_cost, low_cost = 0, 0, 0
    decided_value = 0.0
    for group in range(begin, end, LANES):
        size = min(LANES, end - group)
        if least.size > 1 or base.size > 1 or window_cost.size > 1:
            for r in range(size):
                i = rows[group + r] if rows.size > 0 else group + r
                start[r] = base[i if base.size > 1 else 0]
                if least[i if least.size > 1 else 0] > 0:
                    start[r] = -np.inf
                elif weight.size > 1:
                    start[r] *= weight[i] / weight_scale
                cost = window_cost[i if window_cost.size > 1 else 0]
                low_step[r] = low_price * cost
                high_step[r] = high_price * cost
        if plain and rows.size == 0 and size == LANES:
            # Read where they lie; all other curves are brought into the block first.
            suspicious |= best_of_sixteen(
                curves[group : group + LANES], start, low_step, high_step, low_windows, high_windows
            )
        else:
            for r in range(size):
                i = rows[group + r] if rows.size > 0 else group + r
                curve = curves[i]
                if rows.size == 0:
                    for k in range(w):
                        suspicious |= not (curve[k] >= 0 and curve[k] <= 1)
                if plain:
                    for k in range(w):
                        block[r, k] = curve[k]
                else:
                    scale = weight[i] / weight_scale if weight.size > 1 else 1.0
                    low = least[i if least.size > 1 else 0]
                    high = most[i if most.size > 1 else 0]
                    for k in range(w):
                        block[r, k] = curve[k] * scale if low <= k + 1 and k < high else -np.inf
            best_of_sixteen(block, start, low_step, high_step, low_windows, high_windows)
        for r in range(size):  # without branches: whether a row is decided is hard to foresee
            i = rows[group + r] if rows.size > 0 else group + r
            k = high_windows[r]
            windows[i] = k
            decided_cost += k * window_cost[i if window_cost.size > 1 else 0]
            accuracy = np.float64(curves[i, max(k - 1, 0)])
            if k == 0:
                accuracy = base[i if base.size > 1 else 0]
            decided_value += weight[i if weight.size > 1 else 0] * accuracy
            undecided[num_undecided] = i
            extra[num_undecided] = low_windows[r] - k
            num_undecided += low_windows[r] != k
    for u in range(num_undecided):  # take the undecided out again
        i = undecided[u]
        k = windows[i]
        cost = window_cost[i if window_cost.size > 1 else 0]
        decided_cost -= k * cost
        high_cost += k * cost
        low_cost += (k + extra[u]) * cost
        accuracy = np.float64(curves[i, k - 1]) if k > 0 else base[i if base.size > 1 else 0]
        decided_value -= weight[i if weight.size > 1 else 0] * accuracy
    return undecided[:num_undecided].copy(), decided_cost, high_cost, low_cost, decided_value, suspicious


@kernel
def ties_at_price(
    curves: npt.NDArray[np.floating],
    rows: IntArray,
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
    """Fewest and most windows of (R,) rows that are best at `price`, up to `tolerance` in value.

    Writes them into `fewest` and `furthest` (R,) and returns their total costs.
    """
    low_cost, high_cost = 0, 0
    for r in range(rows.size):
        i = rows[r]
        low = least[i if least.size > 1 else 0]
        high = most[i if most.size > 1 else 0]
        scale = weight[i if weight.size > 1 else 0]
        step = window_cost[i if window_cost.size > 1 else 0]
        best = -np.inf
        for k in range(low, high + 1):
            value = np.float64(curves[i, k - 1]) if k > 0 else base[i if base.size > 1 else 0]
            best = max(best, scale * value - price * (k * step))
        fewest[r] = -1
        for k in range(low, high + 1):
            value = np.float64(curves[i, k - 1]) if k > 0 else base[i if base.size > 1 else 0]
            if scale * value - price * (k * step) >= best - tolerance:
                furthest[r] = k
                if fewest[r] < 0:
                    fewest[r] = k
        low_cost += fewest[r] * step
        high_cost += furthest[r] * step
    return low_cost, high_cost
