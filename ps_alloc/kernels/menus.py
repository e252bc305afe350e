"""Compiled core: multiple-choice knapsack over menus of (cost, value). Checks nothing (docs/allocation.md).

Menus are stored row after row (CSR): items `start[i] .. start[i + 1] - 1` belong to query i, costs strictly
increase within a row, and the first item of each row is mandatory (the cheapest thing one may do).

N queries, M items in all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_alloc.kernels.jit import kernel

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


# Rows up to this size are wrapped, longer ones chained. Wrapping takes (items x vertices) steps, but without
# branches that the processor could mispredict; chaining takes (items) steps with many.
WRAPPED_ITEMS = 32


@kernel
def envelopes(
    start: IntArray, cost: IntArray, value: FloatArray, floor: float
) -> tuple[IntArray, IntArray, FloatArray]:
    """Upper concave envelope of each row, as segments of falling slope above `floor`.

    Short rows by gift wrapping, long ones by Andrew's monotone chain. Collinear points stay, so that a tie
    can be cut at its fewest windows.

    Returns:
        Of each segment, rows in order: its row, the item it leads to, its slope in value per unit of cost.
    """
    seg_row = np.empty(cost.size, np.int64)
    seg_item = np.empty(cost.size, np.int64)
    seg_slope = np.empty(cost.size, np.float64)
    end = 0
    for row in range(start.size - 1):
        first = end
        if start[row + 1] - start[row] <= WRAPPED_ITEMS:
            here = start[row]
            last_slope = np.inf
            while here >= 0:
                best, to = floor, -1
                for item in range(here + 1, start[row + 1]):
                    slope = (value[item] - value[here]) / (cost[item] - cost[here])
                    better = slope > best
                    best = slope if better else best
                    to = item if better else to
                if to >= 0:
                    # Rounding must not make a later segment of a row steeper than an earlier one.
                    last_slope = min(best, last_slope)
                    seg_row[end], seg_item[end], seg_slope[end] = row, to, last_slope
                    end += 1
                here = to
            continue
        for item in range(start[row] + 1, start[row + 1]):
            while True:
                top = seg_item[end - 1] if end > first else start[row]
                slope = (value[item] - value[top]) / (cost[item] - cost[top])
                if end == first or slope <= seg_slope[end - 1]:
                    break
                end -= 1
            if slope > floor:
                seg_row[end], seg_item[end], seg_slope[end] = row, item, slope
                end += 1
    return seg_row[:end], seg_item[:end], seg_slope[:end]


@kernel
def climb(
    start: IntArray, cost: IntArray, seg_row: IntArray, seg_item: IntArray, order: IntArray, budget: int
) -> tuple[IntArray, int, int]:
    """Take envelope segments in the given order until one does not fit.

    Returns:
        (N,) the item reached in each row, the budget left, and how many segments were taken.
    """
    choice = start[:-1].copy()
    slack = budget
    for row in range(choice.size):
        slack -= cost[choice[row]]
    taken = 0
    while taken < order.size:
        segment = order[taken]
        row, item = seg_row[segment], seg_item[segment]
        step = cost[item] - cost[choice[row]]
        if step > slack:
            break
        slack -= step
        choice[row] = item
        taken += 1
    return choice, slack, taken


@kernel
def take_what_fits(
    start: IntArray, cost: IntArray, seg_row: IntArray, seg_item: IntArray, order: IntArray, budget: int
) -> tuple[IntArray, int]:
    """Take envelope segments in the given order, passing over those that do not fit and what follows in their
    rows.

    Returns:
        (N,) the item reached in each row, and the budget left.
    """
    choice = start[:-1].copy()
    slack = budget
    for row in range(choice.size):
        slack -= cost[choice[row]]
    closed = np.zeros(choice.size, np.bool_)
    for segment in order:
        row, item = seg_row[segment], seg_item[segment]
        step = cost[item] - cost[choice[row]]
        if closed[row] or step > slack:
            closed[row] = True
            continue
        slack -= step
        choice[row] = item
    return choice, slack


@kernel
def smallest_losses(
    start: IntArray, cost: IntArray, value: FloatArray, choice: IntArray, rows: IntArray, price: float
) -> tuple[FloatArray, float]:
    """What each of (R,) rows gives up at least, in value - price * cost, when it changes its choice.

    Returns:
        (R,) the losses (infinity where a row has one item only), and the largest absolute value seen.
    """
    loss = np.full(rows.size, np.inf)
    largest = 0.0
    for r in range(rows.size):
        chosen = choice[rows[r]]
        for item in range(start[rows[r]], start[rows[r] + 1]):
            largest = max(largest, abs(value[item]))
            if item != chosen:
                loss[r] = min(loss[r], loss_of(cost, value, chosen, item, price))
    return loss, largest


@kernel
def loss_of(cost: IntArray, value: FloatArray, chosen: int, item: int, price: float) -> float:
    """What a row gives up when it takes another item than its best at this price.

    From differences: costs may be so large that `value - price * cost` holds nothing of the value.
    """
    return max(0.0, value[chosen] - value[item] - price * (cost[chosen] - cost[item]))
