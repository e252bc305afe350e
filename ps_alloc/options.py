"""Menus of options per query: reasoning length × number of samples, or models of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import LARGEST_TOTAL, check_curves, check_values, numbers, shown, vector, whole
from ps_alloc._menus import Menus, solve

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
MOST_SAMPLES = 1000


class OptionMenus(NamedTuple):
    """Options of N queries in CSR form, M options in all: query i has options `start[i]` to `start[i + 1] -
    1`.
    """

    start: npt.ArrayLike
    """(N + 1,) whole numbers, rising from 0 to M. Every query needs one option at least."""
    cost: npt.ArrayLike
    """(M,) whole tokens (or any one unit), not negative. In any order."""
    value: npt.ArrayLike
    """(M,) expected accuracy, in [0, 1]; times a weight, if some answers are worth more: any finite
    values."""

    @classmethod
    def from_lists(cls, costs: Sequence[npt.ArrayLike], values: Sequence[npt.ArrayLike]) -> OptionMenus:
        """Join one list of costs and one of values for each query.

        Raises:
            ValueError: If a query's lists differ in length.
        """
        cost_rows, value_rows = [np.atleast_1d(c) for c in costs], [np.atleast_1d(v) for v in values]
        if len(cost_rows) != len(value_rows) or not cost_rows:
            raise ValueError(
                f"costs and values must hold one list a query, got {len(cost_rows)} and {len(value_rows)}"
            )
        for i, (c, v) in enumerate(zip(cost_rows, value_rows, strict=True)):
            if c.shape != v.shape or c.ndim != 1:
                raise ValueError(
                    f"costs and values must be equally long, got {c.shape} and {v.shape} for query {i}"
                )
        start = np.concatenate(([0], np.cumsum([row.size for row in cost_rows])))
        return cls(start, np.concatenate(cost_rows), np.concatenate(value_rows))


@dataclass(frozen=True, eq=False)
class OptionAllocation:
    """The option chosen for each of N queries."""

    options: IntArray
    """(N,). Position of the chosen option within its query's menu."""
    costs: IntArray
    """(N,). What it costs."""
    total_tokens: int
    """The budget."""
    spent_tokens: int
    """Sum of `costs`. Never above `total_tokens`."""
    expected_value: float
    """Mean over queries of the chosen options' values."""
    price: float
    """Shadow price: value that one more token would buy; 0 where the budget does not bind."""
    gap_bound: float
    """At most this much more `expected_value` is possible; 0 is proved optimal."""


def allocate_options(menus: OptionMenus, total_tokens: int) -> OptionAllocation:
    """Choose one option for every query: the most summed value for `total_tokens`.

    The same solver as `allocate`: concave envelopes, then an exact core around the break. Options that cost
    no less than a better one are never chosen. Ties go to the cheaper option, then to the earlier query.

    Args:
        menus: The options of every query.
        total_tokens: Most that the chosen options may cost together.

    Raises:
        ValueError: If the menus are inconsistent, a cost is negative or not whole, a value is not finite, or
            not even the cheapest options fit in `total_tokens`; that message gives the smallest budget that
            works.
    """
    start, cost, value = _check_menus(menus)
    total_tokens = whole("total_tokens", total_tokens, at_least=0)
    row = np.repeat(np.arange(start.size - 1), np.diff(start))
    # By row, then cost, then falling value; keep what is worth more than everything cheaper.
    order = np.lexsort((-value, cost, row))
    row, cost_sorted, value_sorted = row[order], cost[order], value[order]
    keep = _undominated(row, value_sorted)
    row, cost_kept, value_kept, position = row[keep], cost_sorted[keep], value_sorted[keep], order[keep]
    kept_start = np.searchsorted(row, np.arange(start.size))
    smallest = int(cost_kept[kept_start[:-1]].sum())
    if total_tokens < smallest:
        raise ValueError(
            f"total_tokens must pay for every query's cheapest option, which takes {smallest} tokens, "
            f"got {total_tokens}"
        )
    # Values near 1 in size: rounding is judged against that, and sums of any finite values stay finite.
    exponent = int(np.frexp(np.abs(value_kept).max())[1])
    value_kept = np.ldexp(value_kept, -exponent)
    solution = solve(Menus(kept_start, cost_kept, value_kept), total_tokens)
    chosen_costs = cost_kept[solution.choice]
    n_queries = start.size - 1
    return OptionAllocation(
        options=position[solution.choice] - start[:-1],
        costs=chosen_costs,
        total_tokens=total_tokens,
        spent_tokens=int(chosen_costs.sum()),
        expected_value=float(np.ldexp(value_kept[solution.choice].mean(), exponent)),
        price=float(np.ldexp(solution.price, exponent)),
        gap_bound=float(np.ldexp(solution.gap / n_queries, exponent)),
    )


def majority_vote_values(curves: npt.ArrayLike, n_samples: int) -> FloatArray:
    """Accuracy of a majority vote over independent samples, from the accuracy of one.

    Assumes that samples are independent given the query, and that all wrong answers agree with each other: a
    vote is right when more than half of the samples are, and a tie is broken by a fair coin. Wrong answers
    that scatter make real votes better than this; mistakes that samples share make them worse. An accuracy
    below one half *falls* with more samples, as real votes do against a popular wrong answer (Condorcet's
    jury theorem).

    Args:
        curves: (N, W) accuracy of one sample.
        n_samples: Samples a vote.

    Returns:
        (N, W) float64.

    Raises:
        ValueError: If the curves are not values in [0, 1], or `n_samples` is not a whole number from 1 to
            1000.
    """
    checked = check_curves(curves)
    check_values(checked)
    n = whole("n_samples", n_samples, at_least=1, at_most=MOST_SAMPLES)
    p = checked.astype(np.float64)
    # P(k of n right), k from 0 on, by adding one sample at a time: positive terms only, stable for every p.
    right = np.zeros((n + 1, *p.shape))
    right[0] = 1.0
    for _ in range(n):
        right[1:] = right[1:] * (1 - p) + right[:-1] * p
        right[0] *= 1 - p
    vote = right[n // 2 + 1 :].sum(axis=0)
    if n % 2 == 0:
        vote += 0.5 * right[n // 2]
    return np.clip(vote, 0.0, 1.0)


def vote_menus(curves: npt.ArrayLike, sample_counts: Sequence[int], *, window: int = 16) -> OptionMenus:
    """Menus of every (windows, samples) pair, valued by `majority_vote_values`.

    Args:
        curves: (N, W) accuracy of one sample.
        sample_counts: S numbers of samples to choose from.
        window: Tokens a window. k windows and n samples cost `k * n * window` tokens.

    Returns:
        Menus of W * S options each; option `k * S + s` means `k + 1` windows and `sample_counts[s]` samples.

    Raises:
        ValueError: As `majority_vote_values`, or if there are no sample counts.
    """
    window = whole("window", window, at_least=1, at_most=2**40)
    counts = [
        whole("sample_counts", count, at_least=1, at_most=MOST_SAMPLES)
        for count in vector("sample_counts", sample_counts)
    ]
    values = np.stack([majority_vote_values(curves, count) for count in counts], axis=-1)  # (N, W, S)
    n_queries, num_windows, _ = values.shape
    cost = (np.arange(1, num_windows + 1)[:, None] * np.array(counts) * window).ravel()
    start = np.arange(n_queries + 1) * cost.size
    return OptionMenus(start, np.tile(cost, n_queries), values.reshape(-1))


def _undominated(row: IntArray, value: FloatArray) -> npt.NDArray[np.bool_]:
    """Which options, sorted by row and cost, are worth more than all before them in their row."""
    best = value.copy()
    first = np.ones(row.size, bool)
    first[1:] = row[1:] != row[:-1]
    # A running maximum within rows by doubling distances: after step d, best covers 2 d options.
    group_begin = np.maximum.accumulate(np.where(first, np.arange(row.size), 0))
    distance = 1
    depth = int((np.arange(row.size) - group_begin).max(initial=0))
    while distance <= depth:
        reaches = np.flatnonzero(np.arange(row.size) - distance >= group_begin)
        best[reaches] = np.maximum(best[reaches], best[reaches - distance])
        distance *= 2
    better = np.ones(row.size, bool)
    better[1:] = value[1:] > best[:-1]
    return first | better


def _check_menus(menus: OptionMenus) -> tuple[IntArray, IntArray, FloatArray]:
    if not isinstance(menus, OptionMenus):
        raise ValueError(f"menus must be OptionMenus of start, cost and value, got {shown(menus)}")
    start, cost, value = (numbers(name, part) for name, part in zip(menus._fields, menus, strict=True))
    if start.ndim != 1 or start.size < 2 or start.dtype.kind not in "iu":
        raise ValueError(
            f"start must be whole numbers of shape (N + 1,), N at least 1, got {start.dtype} {start.shape}"
        )
    if cost.ndim != 1 or value.shape != cost.shape:
        raise ValueError(f"cost and value must have one shape (M,), got {cost.shape} and {value.shape}")
    start = start.astype(np.int64)
    if start[0] != 0 or start[-1] != cost.size:
        raise ValueError(f"start must run from 0 to M = {cost.size}, got {start[0]} to {start[-1]}")
    empty = np.flatnonzero(np.diff(start) < 1)
    if empty.size:
        raise ValueError(f"every query must have an option, got none for query {empty[0]}")
    largest = LARGEST_TOTAL // cost.size
    bad = np.flatnonzero(~((cost >= 0) & (cost <= largest) & (cost == np.floor(cost))))
    if bad.size:
        raise ValueError(
            f"cost must be whole numbers, not negative and at most {largest} (2**62 a number of options), "
            f"got {cost[bad[0]]} at option {bad[0]}"
        )
    bad = np.flatnonzero(~np.isfinite(value))
    if bad.size:
        raise ValueError(f"value must be finite, got {value[bad[0]]} at option {bad[0]}")
    return start, np.ascontiguousarray(cost, dtype=np.int64), np.ascontiguousarray(value, dtype=np.float64)
