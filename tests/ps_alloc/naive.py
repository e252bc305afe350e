"""Slow twins of the kernels: plain Python, simple enough to trust by reading. And curves to try them on."""

import itertools
import math

import numpy as np


def exhaustive(curves, total_windows, least=1, most=None):
    """The best expected correct answers by trying every combination. Tiny batches only."""
    n, w = curves.shape
    most = w if most is None else most
    best = -1.0
    for windows in itertools.product(range(least, most + 1), repeat=n):
        if sum(windows) <= total_windows:
            value = sum(float(curves[i, k - 1]) if k else 0.0 for i, k in enumerate(windows))
            best = max(best, value)
    return best


def exact_dp(values, costs, budget):
    """The best total value choosing one (cost, value) a row: dynamic program over every budget."""
    best = [0.0] * (budget + 1)
    for row_values, row_costs in zip(values, costs, strict=True):
        best = [
            max(
                (best[b - c] + v for v, c in zip(row_values, row_costs, strict=True) if c <= b),
                default=-math.inf,
            )
            for b in range(budget + 1)
        ]
    return best[budget]


def highs(values, costs, budget):
    """The best total value by HiGHS (scipy's milp): the referee from outside. Rows may be ragged."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    row = np.repeat(np.arange(len(values)), [len(v) for v in values])
    value, cost = np.concatenate(values).astype(float), np.concatenate(costs).astype(float)
    one_each = csr_array((np.ones(row.size), (row, np.arange(row.size))))
    result = milp(
        -value,
        integrality=np.ones(row.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(csr_array(cost[None]), -np.inf, budget),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert result.success, result.message
    return -result.fun


def released_myopic(predictions, token_budget, window=16):
    """The published allocator, rewritten from the authors' description of it step by step.

    Gains are looked up one window ahead; while the best is negative, further ahead; ties go to the first
    query; leftover windows are dealt in turn from the first query on.
    """
    n, w = len(predictions), len(predictions[0])
    windows = [1] * n
    left = (token_budget * n - window * n) // window
    while left > 0:
        ahead, best = 1, -1.0
        while best < 0:
            gains = [
                predictions[i][windows[i] - 1 + ahead] - predictions[i][windows[i] - 1]
                if windows[i] + ahead <= w
                else -1.0
                for i in range(n)
            ]
            best = max(gains)
            if all(gain == -1.0 for gain in gains):
                break
            if best < 0:
                ahead += 1
        if best < 0:
            break
        windows[gains.index(best)] += 1
        left -= 1
    i = 0
    while left > 0 and min(windows) < w:
        if windows[i % n] < w:
            windows[i % n] += 1
            left -= 1
        i += 1
    return np.array(windows)


def level(windows, most, costs, tokens):
    """Raise one query at a time, always one with the fewest windows, while all at that level can be paid."""
    windows = list(windows)
    while True:
        open_rows = [i for i in range(len(windows)) if windows[i] < most[i]]
        if not open_rows:
            return windows, tokens
        lowest = min(windows[i] for i in open_rows)
        rows = [i for i in open_rows if windows[i] == lowest]
        price = sum(costs[i] for i in rows)
        if price > tokens:
            return windows, tokens
        for i in rows:
            windows[i] += 1
        tokens -= price


def envelope_value(costs, values, cost):
    """Upper concave envelope of points at `cost`, by trying every pair of points around it."""
    best = -math.inf
    for (c1, v1), (c2, v2) in itertools.combinations_with_replacement(zip(costs, values, strict=True), 2):
        if c1 == c2 == cost:
            best = max(best, v1, v2)
        elif c1 <= cost <= c2 and c1 < c2:
            best = max(best, v1 + (v2 - v1) * (cost - c1) / (c2 - c1))
    return best


def make_curves(kind, n, w, rng):
    """(n, w) float32 curves: concave, logistic (S-shaped), step, noisy, or a few copied many times."""
    k = np.arange(1, w + 1)
    if kind == "concave":
        curves = rng.uniform(0.2, 1, (n, 1)) * (1 - np.exp(-k / rng.uniform(1, w, (n, 1))))
    elif kind == "logistic":
        curves = rng.uniform(0.2, 1, (n, 1)) / (
            1 + np.exp(-(k - rng.uniform(0, w, (n, 1))) / rng.uniform(0.3, 2, (n, 1)))
        )
    elif kind == "step":
        curves = rng.uniform(0.2, 1, (n, 1)) * (k >= rng.integers(1, w + 1, (n, 1)))
    elif kind == "noisy":
        curves = make_curves("logistic", n, w, rng) + rng.normal(0, 0.05, (n, w))
    elif kind == "copies":
        curves = make_curves("noisy", 3, w, rng)[rng.integers(0, 3, n)]
    else:
        raise ValueError(kind)
    return np.clip(curves, 0, 1).astype(np.float32)


KINDS = ("concave", "logistic", "step", "noisy", "copies")
