"""Compiled core: multiple-choice knapsack over menus of (cost, value). Checks nothing (docs/allocation.md).
derives it.

Menus are stored row after row (CSR): items `start[i] .. start[i + 1] - 1` belong to query i, costs strictly
increase within a row, and the first item of each row is mandatory (the cheapest thing one may do).

N queries, M items in all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_alloc._jit import kernel

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@kernel
def solve(
    start: IntArray, cost: IntArray, value: FloatArray, budget: int, core_span: int, state_limit: int
) -> tuple[IntArray, float, float, bool]:
    """Choose one item a row: greedy on the concave envelopes, then a dynamic program around the break.

    Args:
        start: (N + 1,) first item of each row.
        cost: (M,) cost of each item.
        value: (M,) value of each item.
        budget: Most the chosen items may cost; at least the sum of the first items' costs.
        core_span: The dynamic program considers the rows of this many envelope segments on either side of the
            break; 0 considers every row, which can prove optimality.
        state_limit: Most states the dynamic program may create.

    Returns:
        (N,) the item chosen in each row; the price (value per unit of cost at the margin, 0 when the budget
        does not bind); a bound on how much value is missing from the optimum; whether optimality is proved.
    """
    seg_row, seg_item, seg_slope = envelopes(start, cost, value)
    # Stable: equal slopes keep row order, and within a row the cheaper step comes first.
    order = np.argsort(-seg_slope, kind="mergesort")
    choice = start[:-1].copy()
    slack = budget
    for item in choice:
        slack -= cost[item]
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
    if taken == order.size:  # every row has its best value: the budget does not bind
        return choice, 0.0, 0.0, True
    price = seg_slope[order[taken]]
    if slack == 0:
        return choice, price, 0.0, True
    if core_span == 0:
        rows = np.arange(start.size - 1)
    else:
        rows = np.unique(seg_row[order[max(0, taken - core_span) : taken + core_span]])
    gap, complete = fill_slack(start, cost, value, choice, rows, price, slack, state_limit)
    return choice, price, gap, complete and core_span == 0


@kernel
def envelopes(start: IntArray, cost: IntArray, value: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Upper concave envelope of each row, as segments of falling positive slope (Andrew's monotone chain).

    Returns:
        Of each segment, rows in order: its row, the item it leads to, its slope in value per unit of cost.
    """
    seg_row = np.empty(cost.size, np.int64)
    seg_item = np.empty(cost.size, np.int64)
    seg_slope = np.empty(cost.size, np.float64)
    end = 0
    for row in range(start.size - 1):
        first = end
        for item in range(start[row] + 1, start[row + 1]):
            while True:
                top = seg_item[end - 1] if end > first else start[row]
                slope = (value[item] - value[top]) / (cost[item] - cost[top])
                # Collinear points stay, so that a tie can be cut at its fewest windows.
                if end == first or slope <= seg_slope[end - 1]:
                    break
                end -= 1
            if slope > 0.0:
                seg_row[end], seg_item[end], seg_slope[end] = row, item, slope
                end += 1
    return seg_row[:end], seg_item[:end], seg_slope[:end]


@kernel
def fill_slack(
    start: IntArray,
    cost: IntArray,
    value: FloatArray,
    choice: IntArray,
    rows: IntArray,
    price: float,
    slack: int,
    state_limit: int,
) -> tuple[float, bool]:
    """Change `choice` in place so that the slack is spent best: Pisinger's expanding core, by dynamic
    programming.

    At price p every item has a loss, what its row gives up in value - p * cost against the chosen item, which
    is the row's best. Any solution misses the linear relaxation's bound by the sum of its losses plus p *
    (unspent budget): both are never negative, so rows whose smallest loss exceeds the best total so far
    cannot take part in an optimum. Rows enter in the order of their smallest loss until that happens.

    Returns:
        The total of the best solution found (a bound on its distance from the optimum, 0 where optimality
        among `rows` is proved), and whether it is proved.
    """
    best = price * slack
    largest = 0.0
    row_loss = np.empty(rows.size, np.float64)
    for r in range(rows.size):
        chosen = choice[rows[r]]
        reduced = value[chosen] - price * cost[chosen]
        row_loss[r] = np.inf
        for item in range(start[rows[r]], start[rows[r] + 1]):
            largest = max(largest, abs(value[item]))
            if item != chosen:
                row_loss[r] = min(row_loss[r], max(0.0, reduced - (value[item] - price * cost[item])))
    tolerance = 1e-12 * largest  # below this, losses are rounding
    core = np.flatnonzero(row_loss < best - tolerance)
    core = core[np.argsort(row_loss[core], kind="mergesort")]

    # How far the rows still to come can move the spending down and up.
    down = np.zeros(core.size + 1, np.int64)
    up = np.zeros(core.size + 1, np.int64)
    for c in range(core.size - 1, -1, -1):
        row = rows[core[c]]
        chosen = choice[row]
        down[c], up[c] = down[c + 1], up[c + 1]
        reduced = value[chosen] - price * cost[chosen]
        least, most = 0, 0
        for item in range(start[row], start[row + 1]):
            if reduced - (value[item] - price * cost[item]) < best:
                least = min(least, cost[item] - cost[chosen])
                most = max(most, cost[item] - cost[chosen])
        down[c] += least
        up[c] += most

    # States: spending against the start, loss so far, and the last change made (a linked list in the pool).
    spent = np.zeros(1, np.int64)
    loss = np.zeros(1, np.float64)
    change = np.full(1, -1, np.int64)
    pool_parent = np.empty(256, np.int64)
    pool_row = np.empty(256, np.int64)
    pool_item = np.empty(256, np.int64)
    pooled = 0
    best_change = -1
    complete = True
    for c in range(core.size):
        if row_loss[core[c]] >= best - tolerance:
            break
        row = rows[core[c]]
        chosen = choice[row]
        reduced = value[chosen] - price * cost[chosen]
        new_spent, new_loss, new_change = spent, loss, change
        for item in range(start[row], start[row + 1]):
            item_loss = max(0.0, reduced - (value[item] - price * cost[item]))
            if item == chosen or item_loss >= best - tolerance:
                continue
            step = cost[item] - cost[chosen]
            # Merge the states so far with the old states moved by this item, dropping the dominated.
            size = new_spent.size + spent.size
            out_spent = np.empty(size, np.int64)
            out_loss = np.empty(size, np.float64)
            out_change = np.empty(size, np.int64)
            a = b = end = 0
            frontier = -np.inf  # the most value (up to a constant) among cheaper states
            while a < new_spent.size or b < spent.size:
                if b == spent.size or (
                    a < new_spent.size
                    and (
                        new_spent[a] < spent[b] + step
                        or (new_spent[a] == spent[b] + step and new_loss[a] <= loss[b] + item_loss)
                    )
                ):
                    s, lost, link, moved = new_spent[a], new_loss[a], new_change[a], False
                    a += 1
                else:
                    s, lost, link, moved = spent[b] + step, loss[b] + item_loss, change[b], True
                    b += 1
                unreachable = slack - s - up[c + 1]
                if (
                    price * s - lost <= frontier
                    or s + down[c + 1] > slack
                    or lost + price * max(0, unreachable) >= best
                ):
                    continue
                frontier = price * s - lost
                if moved:
                    if pooled == pool_row.size:
                        pool_parent = np.concatenate((pool_parent, np.empty_like(pool_parent)))
                        pool_row = np.concatenate((pool_row, np.empty_like(pool_row)))
                        pool_item = np.concatenate((pool_item, np.empty_like(pool_item)))
                    pool_parent[pooled], pool_row[pooled], pool_item[pooled] = link, row, item
                    link = pooled
                    pooled += 1
                    if s <= slack and lost + price * (slack - s) < best:
                        best = lost + price * (slack - s)
                        best_change = link
                out_spent[end], out_loss[end], out_change[end] = s, lost, link
                end += 1
            new_spent, new_loss, new_change = out_spent[:end], out_loss[:end], out_change[:end]
        spent, loss, change = new_spent, new_loss, new_change
        if pooled > state_limit:
            complete = c + 1 == core.size or row_loss[core[c + 1]] >= best - tolerance
            break
    while best_change >= 0:
        choice[pool_row[best_change]] = pool_item[best_change]
        best_change = pool_parent[best_change]
    return 0.0 if complete else best, complete
