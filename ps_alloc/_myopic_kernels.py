"""Compiled form of the allocator published with *Predictive Scheduling*, arXiv 2602.01237. Checks nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ps_alloc._jit import kernel

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@kernel
def myopic(
    curves: npt.NDArray[np.floating],
    windows: IntArray,
    most: IntArray,
    weight: FloatArray,
    base: FloatArray,
    steps: int,
) -> int:
    """Raise `windows` (N,) in place, one window at a time, up to `steps` times; return the steps left.

    Each step gives one window to the query whose *next* window gains most. The released code has a quirk kept
    here: where every next window would lose, it looks h = 2, 3, ... windows ahead until some query gains or
    ties over h windows, and still gives that query one window only. It stops when no query gains at any
    distance.

    One tournament tree a distance finds the best query in O(log N); trees are built when first needed.
    """
    n, w = curves.shape
    leaves = 1
    while leaves < n:
        leaves *= 2
    tree = np.empty((w + 1, 2 * leaves), np.float64)
    built = 0
    while steps > 0:
        distance = 1
        while distance <= w:
            if distance > built:
                for i in range(leaves):
                    gain = -np.inf
                    if i < n and windows[i] + distance <= most[i if most.size > 1 else 0]:
                        k = windows[i]
                        here = np.float64(curves[i, k - 1]) if k > 0 else base[i if base.size > 1 else 0]
                        ahead = np.float64(curves[i, k + distance - 1])
                        gain = weight[i if weight.size > 1 else 0] * (ahead - here)
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
        windows[i] += 1
        steps -= 1
        k = windows[i]
        for other in range(1, built + 1):
            gain = -np.inf
            if k + other <= most[i if most.size > 1 else 0]:
                ahead = np.float64(curves[i, k + other - 1])
                gain = weight[i if weight.size > 1 else 0] * (ahead - np.float64(curves[i, k - 1]))
            node = leaves + i
            tree[other, node] = gain
            while node > 1:
                node //= 2
                tree[other, node] = max(tree[other, 2 * node], tree[other, 2 * node + 1])
    return steps


@kernel
def raise_in_turn(windows: IntArray, most: IntArray, steps: int) -> int:
    """Give one window each to query 0, 1, 2, ... and round again, up to `steps`; return the steps left.

    What the released code does with windows that gain nothing.
    """
    raised = True
    while steps > 0 and raised:
        raised = False
        for i in range(windows.size):
            if steps > 0 and windows[i] < most[i if most.size > 1 else 0]:
                windows[i] += 1
                steps -= 1
                raised = True
    return steps
