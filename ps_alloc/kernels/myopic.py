"""Compiled form of the allocator published with *Predictive Scheduling*, arXiv 2602.01237. Checks nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc.kernels.access import accuracy_at, at, cost_at
from ps_alloc.kernels.jit import kernel

IntArray = npt.NDArray[np.int64]


@kernel
def myopic(
    curves: npt.NDArray[np.floating],
    use: npt.NDArray[np.floating],
    settings: Any,
    windows: IntArray,
    left: int,
) -> int:
    """Raise `windows` (N,) in place, one window at a time; return what is left of the budget.

    Each step gives one window to the query whose *next* window gains most. The released code has a quirk kept
    here: where every next window would lose, it looks h = 2, 3, ... windows ahead until some query gains or
    ties over h windows, and still gives that query one window only. It stops when no query gains at any
    distance, or when the step it chose cannot be paid.

    One tournament tree a distance finds the best query in O(log N); trees are built when first needed.
    """
    _, most, weight, base, rate, grid = settings
    n, w = curves.shape
    leaves = 1
    while leaves < n:
        leaves *= 2
    tree = np.empty((w + 1, 2 * leaves), np.float64)
    built = 0
    while True:
        distance = 1
        while distance <= w:
            if distance > built:
                for i in range(leaves):
                    gain = -np.inf
                    if i < n and windows[i] + distance <= at(most, i):
                        here = accuracy_at(curves, base, i, i, windows[i])
                        gain = at(weight, i) * (accuracy_at(curves, base, i, i, windows[i] + distance) - here)
                    tree[distance, leaves + i] = gain
                for node in range(leaves - 1, 0, -1):
                    tree[distance, node] = max(tree[distance, 2 * node], tree[distance, 2 * node + 1])
                built = distance
            if tree[distance, 1] >= 0.0:
                break
            distance += 1
        if distance > w:
            break
        node = 1
        while node < leaves:  # the leftmost of equal gains, as argmax does
            node = 2 * node if tree[distance, 2 * node] == tree[distance, node] else 2 * node + 1
        i = node - leaves
        k = windows[i] + 1
        step = cost_at(use, rate, grid, i, i, k) - cost_at(use, rate, grid, i, i, windows[i])
        if step > left:
            break
        windows[i] = k
        left -= step
        for other in range(1, built + 1):
            gain = -np.inf
            if k + other <= at(most, i):
                here = accuracy_at(curves, base, i, i, k)
                gain = at(weight, i) * (accuracy_at(curves, base, i, i, k + other) - here)
            node = leaves + i
            tree[other, node] = gain
            while node > 1:
                node //= 2
                tree[other, node] = max(tree[other, 2 * node], tree[other, 2 * node + 1])
    return left


@kernel
def raise_in_turn(
    windows: IntArray,
    most: IntArray,
    use: npt.NDArray[np.floating],
    rate: IntArray,
    grid: IntArray,
    left: int,
) -> int:
    """Give one window each to query 0, 1, 2, ... and round again, while one can be paid; return what is left.

    What the released code does with windows that gain nothing.
    """
    raised = True
    while left > 0 and raised:
        raised = False
        for i in range(windows.size):
            k = windows[i] + 1
            if k <= at(most, i):
                step = cost_at(use, rate, grid, i, i, k) - cost_at(use, rate, grid, i, i, windows[i])
                if step <= left:
                    windows[i] = k
                    left -= step
                    raised = True
    return left
