"""Compiled streaming passes: what every query would take at given prices, sixteen rows at a time.

Checks nothing; the package's docstring has the words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc.kernels.access import USE_UNITS, accuracy_at, at, cost_at
from ps_alloc.kernels.jit import kernel
from ps_alloc.kernels.simd import LANES, best_of_sixteen

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
# Single precision rounds a value - cost * price, and the comparison of two, by less than this times 1 + the
# largest cost * price.
ROUNDING = 2.0**-21
LARGEST_STEP = 1e30  # times the largest cost: a price beyond every use, still a float32


@kernel
def split_by_price(
    curves: npt.NDArray[np.floating],
    use: npt.NDArray[np.floating],
    ids: IntArray,
    settings: Any,
    prices: tuple[float, float],
    windows: npt.NDArray[np.int32],
    undecided_curves: npt.NDArray[np.floating],
    undecided_use: npt.NDArray[np.floating],
    undecided_ids: IntArray,
) -> tuple[int, tuple[int, int, int], tuple[float, float, float], bool]:
    """Best windows of rows at two prices; rows where they agree are decided for every price in between.

    Args:
        curves: (R, W).
        use: (R, W), or (0, W).
        ids: (R,) the rows' queries; empty where row i is query i.
        settings: As everywhere.
        prices: Value a unit of cost, the lower and the higher one.
        windows: (N,) receives the windows at the high price.
        undecided_curves: (C, W) receives the curves of undecided rows. C may be too small for all.
        undecided_use: (C, W) their use, or (0, W).
        undecided_ids: (C,) their queries.

    Returns:
        How many rows are undecided; cost of the decided rows, and of the undecided at the high and at the low
        price; summed weighted values of the same; whether a value or a use may be out of range.
    """
    least, most, weight, base, rate, grid = settings
    w = curves.shape[1]
    used = use.shape[0] > 0
    width = (w + LANES - 1) // LANES * LANES
    unit = 1.0 / USE_UNITS if used else 1.0  # the vectors hold uses in tokens
    grid_row = np.zeros(width, np.float32)
    for k in range(w):
        grid_row[k] = grid[k + 1]
    varies = max(least.size, most.size, weight.size, base.size, rate.size, use.shape[0]) > 1
    bounded = least.size > 1 or most.size > 1 or least[0] > 1 or most[0] < w
    plain = curves.itemsize == 4 and use.itemsize == 4 and not bounded
    # Vectors are read to their full width: past the end of a narrow row, but not past the end of the array.
    padded = np.full((LANES + 1) * width, -np.inf, np.float32)
    block = padded[: LANES * w].reshape(LANES, w)
    use_padded = np.zeros((LANES + 1) * width, np.float32)
    use_block = use_padded[: LANES * w].reshape(LANES, w)[: LANES if used else 0]
    lanes, best = np.empty((4, LANES), np.float32), np.empty((2, LANES), np.int32)
    num_undecided = 0
    suspicious = False
    decided_cost, high_cost, low_cost = 0, 0, 0
    decided_value, high_value, low_value = 0.0, 0.0, 0.0
    for group in range(0, len(curves), LANES):
        size = min(LANES, len(curves) - group)
        if group == 0 or varies:
            for r in range(LANES):
                row = group + min(r, size - 1)
                i = ids[row] if ids.size > 0 else row
                lanes[0, r] = at(base, i) if at(least, i) == 0 else -np.inf
                # A row's own price: per unit of its grid or use, for an answer worth 1.
                largest = np.float64(use[row, w - 1]) if used else np.float64(grid[w])
                scale = at(rate, i) / unit
                limit = LARGEST_STEP / max(largest, 1.0)
                if at(weight, i) > 0.0:
                    low = min(limit, prices[0] * scale / at(weight, i))
                    high = min(limit, prices[1] * scale / at(weight, i))
                else:
                    low = limit if prices[0] > 0.0 else 0.0
                    high = limit
                lanes[1, r] = low
                lanes[2, r] = high
                lanes[3, r] = ROUNDING * (1.0 + high * (largest + unit))
        in_place = plain and (len(curves) - group) * w >= (LANES - 1) * w + width
        if in_place:
            # Read where they lie; all other curves are brought into the block first.
            curve_block, used_block = curves[group : group + LANES], use[group : group + LANES]
            suspicious |= best_of_sixteen(curve_block, used_block, grid_row, lanes, best)
        else:
            for r in range(size):
                i = ids[group + r] if ids.size > 0 else group + r
                low_k, high_k = at(least, i), at(most, i)
                for k in range(w):
                    value = curves[group + r, k]
                    suspicious |= not (value >= 0 and value <= 1)
                    block[r, k] = value if low_k <= k + 1 and k < high_k else -np.inf
                if used:
                    before = np.float64(0.0)
                    for k in range(w):
                        cost = np.float64(use[group + r, k])
                        suspicious |= not (cost >= before and cost <= grid[k + 1])
                        before = cost
                        use_block[r, k] = cost
            best_of_sixteen(block, use_block, grid_row, lanes, best)
        for r in range(size):
            row = group + r
            i = ids[row] if ids.size > 0 else row
            k = np.int64(best[1, r])  # type: ignore[assignment]
            windows[i] = k
            cost = cost_at(use, rate, grid, row, i, k)
            if best[0, r] == k:
                decided_value += at(weight, i) * accuracy_at(curves, base, row, i, k)
                decided_cost += cost
                continue
            if num_undecided < undecided_ids.size:
                undecided_ids[num_undecided] = i
                undecided_curves[num_undecided] = curves[row]
                if used:
                    undecided_use[num_undecided] = use[row]
            num_undecided += 1
            low_k = np.int64(best[0, r])
            high_cost += cost
            low_cost += cost_at(use, rate, grid, row, i, low_k)
            high_value += at(weight, i) * accuracy_at(curves, base, row, i, k)
            low_value += at(weight, i) * accuracy_at(curves, base, row, i, low_k)
    costs, values = (decided_cost, high_cost, low_cost), (decided_value, high_value, low_value)
    return num_undecided, costs, values, suspicious


@kernel
def best_at_price(
    curves: npt.NDArray[np.floating],
    use: npt.NDArray[np.floating],
    ids: IntArray,
    settings: Any,
    price: float,
    tolerance: float,
    fewest: IntArray,
    furthest: IntArray,
) -> tuple[int, int]:
    """Fewest and most windows of (R, W) rows that are best at `price`, up to `tolerance` in value.

    Writes them into `fewest` and `furthest` (R,) and returns their total costs.
    """
    least, most, weight, base, rate, grid = settings
    low_cost, high_cost = 0, 0
    reduced = np.empty(curves.shape[1] + 1, np.float64)
    for r in range(len(curves)):
        i = ids[r] if ids.size > 0 else r
        low, high, w = at(least, i), at(most, i), at(weight, i)
        cheapest = cost_at(use, rate, grid, r, i, low)
        best = -np.inf
        for k in range(low, high + 1):
            # Above the cheapest choice's cost, which may be so large that nothing of the value is left.
            cost = cost_at(use, rate, grid, r, i, k) - cheapest
            reduced[k] = w * accuracy_at(curves, base, r, i, k) - price * cost
            best = max(best, reduced[k])
        fewest[r] = -1
        for k in range(low, high + 1):
            if reduced[k] >= best - tolerance:
                furthest[r] = k
                if fewest[r] < 0:
                    fewest[r] = k
        low_cost += cost_at(use, rate, grid, r, i, fewest[r])
        high_cost += cost_at(use, rate, grid, r, i, furthest[r])
    return low_cost, high_cost


@kernel
def settle_tied(
    curves: npt.NDArray[np.floating],
    use: npt.NDArray[np.floating],
    ids: IntArray,
    settings: Any,
    fewest: IntArray,
    furthest: IntArray,
    slack: int,
    span: int,
    windows: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.bool_], int, float]:
    """Give tied rows their most windows in order while `slack` pays for that, and the others the fewest.

    Args:
        curves: (R, W).
        use: (R, W) or (0, W).
        ids: (R,) or empty.
        settings: As everywhere.
        fewest: (R,) what each row takes at least.
        furthest: (R,) what it may take as well.
        slack: What the budget leaves when all take the fewest.
        span: Leave so many tied rows undecided on either side of the last that is paid.
        windows: (N,) receives the windows of the decided rows.

    Returns:
        (R,) which rows are left, and cost and summed weighted value of the others.
    """
    _, _, weight, base, rate, grid = settings
    paid = 0  # tied rows that get the most
    for r in range(len(curves)):
        if furthest[r] > fewest[r]:
            i = ids[r] if ids.size > 0 else r
            slack -= cost_at(use, rate, grid, r, i, furthest[r]) - cost_at(use, rate, grid, r, i, fewest[r])
            if slack < 0:
                break
            paid += 1
    left = np.zeros(len(curves), np.bool_)
    cost, value = 0, 0.0
    tied = 0
    for r in range(len(curves)):
        i = ids[r] if ids.size > 0 else r
        k = fewest[r]
        if furthest[r] > k:
            left[r] = paid - span <= tied < paid + span
            if tied < paid:
                k = furthest[r]
            tied += 1
        if not left[r]:
            windows[i] = k
            cost += cost_at(use, rate, grid, r, i, k)
            value += at(weight, i) * accuracy_at(curves, base, r, i, k)
    return left, cost, value
