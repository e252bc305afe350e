"""Compiled exact core: a dynamic program over the rows near the break. Checks nothing (docs/allocation.md).

Menus are as in `menus`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ps_alloc.kernels.jit import kernel
from ps_alloc.kernels.menus import loss_of

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@kernel
def worth_changing(
    start: IntArray, cost: IntArray, value: FloatArray, choice: IntArray, core: IntArray, slack: int
) -> npt.NDArray[np.bool_]:
    """Which of the core's (C,) rows some best solution may change: of copies in a row, only the first ones.

    The changes of a solution can be ordered so that their sums never leave (-d, d], d being the largest step
    or the slack. Where a sum comes again, what lies between adds up to nothing and can be left out: so no
    more rows need to change than different sums fit there.
    """
    copies = np.zeros(core.size, np.int64)  # equal rows directly before
    for c in range(1, core.size):
        begin, end = start[core[c]], start[core[c] + 1]
        shift = start[core[c - 1]] - begin
        same = end + shift == start[core[c - 1] + 1] and choice[core[c]] + shift == choice[core[c - 1]]
        item = begin
        while same and item < end:
            same = cost[item] == cost[item + shift] and value[item] == value[item + shift]
            item += 1
        copies[c] = copies[c - 1] + 1 if same else 0
    unit, largest = 0, slack
    for c in range(core.size if copies.max() > 1 else 0):
        for item in range(start[core[c]], start[core[c] + 1]):
            step = abs(cost[item] - cost[choice[core[c]]])
            unit, largest = math.gcd(unit, step), max(largest, step)
    return copies < 2 * (largest // max(1, unit)) + 2


@kernel
def fill_slack(
    start: IntArray,
    cost: IntArray,
    value: FloatArray,
    choice: IntArray,
    core: IntArray,
    core_loss: FloatArray,
    price: float,
    slack: int,
    tolerance: float,
    work_limit: int,
    state_limit: int,
) -> tuple[float, bool, int]:
    """Change `choice` (N,) in place so that the slack is spent best: a dynamic program over the core's rows.

    Args:
        start: (N + 1,) first item of each row.
        cost: (M,) cost of each item.
        value: (M,) value of each item.
        choice: (N,) the item chosen in each row: its best at `price`.
        core: (C,) the rows that may change, by rising `core_loss`.
        core_loss: (C,) the least each gives up by changing.
        price: Value per unit of cost at the margin.
        slack: Budget the choice leaves.
        tolerance: Losses that differ by less are rounding.
        work_limit: Stop when more states than this were looked at.
        state_limit: Thin the states out when more than this are alive; stop when four times as many are
            remembered.

    Returns:
        How far the best solution found is from the linear relaxation's bound, whether no choice of the core's
        rows is better, and how many states were looked at.
    """
    best = price * slack
    # How far the rows still to come can move the spending down and up.
    down = np.zeros(core.size + 1, np.int64)
    up = np.zeros(core.size + 1, np.int64)
    for c in range(core.size - 1, -1, -1):
        chosen = choice[core[c]]
        down[c], up[c] = 0, 0
        for item in range(start[core[c]], start[core[c] + 1]):
            if loss_of(cost, value, chosen, item, price) < best:
                down[c] = min(down[c], cost[item] - cost[chosen])
                up[c] = max(up[c], cost[item] - cost[chosen])
        down[c] += down[c + 1]
        up[c] += up[c + 1]

    # A state: spending against the start, loss so far, the last change in rows before (a linked list in the
    # pool), and the item this row changed to, or -1. States are sorted by spending; more of it always comes
    # with more value.
    spent = np.zeros(1, np.int64)
    loss = np.zeros(1, np.float64)
    change = np.full(1, -1, np.int64)
    pool = np.empty((256, 3), np.int64)  # parent change, row, item
    pooled = 0
    best_change, best_row, best_item = -1, -1, -1
    work = 0
    complete = True
    for c in range(core.size):
        if core_loss[c] >= best - tolerance:
            break
        row = core[c]
        chosen = choice[row]
        new_spent, new_loss, new_change = spent, loss, change
        new_item = np.full(spent.size, -1, np.int64)
        for item in range(start[row], start[row + 1]):
            item_loss = loss_of(cost, value, chosen, item, price)
            if item == chosen or item_loss >= best - tolerance:
                continue
            step = cost[item] - cost[chosen]
            # Merge the states so far with the old states moved by this item, dropping the dominated.
            size = new_spent.size + spent.size
            work += size
            if work > work_limit:
                break
            out_spent = np.empty(size, np.int64)
            out_loss = np.empty(size, np.float64)
            out_change = np.empty(size, np.int64)
            out_item = np.empty(size, np.int64)
            a, b, end = 0, 0, 0
            most_value = -np.inf  # among states that spend no more, up to a constant
            while a < new_spent.size or b < spent.size:
                keep = a < new_spent.size
                if keep and b < spent.size:
                    moved = spent[b] + step
                    keep = new_spent[a] < moved or (
                        new_spent[a] == moved and new_loss[a] <= loss[b] + item_loss
                    )
                if keep:
                    s, lost, link, to = new_spent[a], new_loss[a], new_change[a], new_item[a]
                    a += 1
                else:
                    s, lost, link, to = spent[b] + step, loss[b] + item_loss, change[b], item
                    b += 1
                left_over = max(0, slack - s - up[c + 1])
                if (
                    price * s - lost <= most_value
                    or s + down[c + 1] > slack
                    or lost + price * left_over >= best
                ):
                    continue
                most_value = price * s - lost
                if to == item and s <= slack and lost + price * (slack - s) < best:
                    best = lost + price * (slack - s)
                    best_change, best_row, best_item = link, row, item
                out_spent[end], out_loss[end], out_change[end], out_item[end] = s, lost, link, to
                end += 1
            stride = 1
            if end > state_limit:  # too many to prove anything: go on with some of them, evenly spaced
                complete = False
                stride = 32
            new_spent, new_loss = out_spent[:end:stride].copy(), out_loss[:end:stride].copy()
            new_change, new_item = out_change[:end:stride].copy(), out_item[:end:stride].copy()
        if work > work_limit or pooled + new_spent.size > 4 * state_limit:
            complete = False
            break
        for state in range(new_spent.size):
            if new_item[state] < 0:
                continue
            if pooled == len(pool):
                larger = np.empty((2 * pooled, 3), np.int64)
                larger[:pooled] = pool
                pool = larger
            pool[pooled, 0], pool[pooled, 1], pool[pooled, 2] = new_change[state], row, new_item[state]
            new_change[state] = pooled
            pooled += 1
        spent, loss, change = new_spent, new_loss, new_change
    if best_row >= 0:
        choice[best_row] = best_item
    while best_change >= 0:
        choice[pool[best_change, 1]] = pool[best_change, 2]
        best_change = pool[best_change, 0]
    return best, complete, work
