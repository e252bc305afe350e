"""Checked input of the allocators: what a user passes, as the kernels want it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import IntArray, per_query, whole


@dataclass(frozen=True)
class Limits:
    """What each of N queries may and must spend. Arrays have one element, for all queries, or N."""

    n_queries: int
    total_tokens: int
    """The budget, in tokens."""
    window: int
    """Tokens a window."""
    least: IntArray
    """Fewest windows."""
    most: IntArray
    """Most windows."""
    window_cost: IntArray
    """Tokens charged for one window."""

    def full(self, name: str) -> IntArray:
        """A fresh (N,) copy of `least`, `most` or `window_cost`."""
        return np.broadcast_to(getattr(self, name), self.n_queries).copy()

    def cost(self, windows: IntArray) -> int:
        """Tokens that (N,) or (1,) windows cost the whole batch."""
        if windows.size == 1 and self.window_cost.size == 1:
            return self.n_queries * int(windows[0]) * int(self.window_cost[0])
        if self.window_cost.size == 1:
            return int(windows.sum()) * int(self.window_cost[0])
        return int((windows * self.window_cost).sum())


def check_limits(
    n_queries: int,
    num_windows: int,
    total_tokens: int,
    window: int,
    min_windows: npt.ArrayLike,
    max_windows: npt.ArrayLike | None,
    window_cost: npt.ArrayLike | None,
) -> Limits:
    """Check a batch's limits.

    Raises:
        ValueError: If one is out of range or out of shape, or the budget cannot pay for every query's
            minimum; that message gives the smallest budget that can.
    """
    n_queries = whole("the number of queries", n_queries, at_least=1)
    total_tokens = whole("total_tokens", total_tokens, at_least=0)
    window = whole("window", window, at_least=1)
    least = per_query("min_windows", min_windows, n_queries, low=0, high=num_windows)
    if max_windows is None:
        most = np.array([num_windows])
    else:
        most = per_query("max_windows", max_windows, n_queries, low=0, high=num_windows)
    above = np.flatnonzero(np.atleast_1d(least > most))
    if above.size:
        raise ValueError(
            f"min_windows must not exceed max_windows, got {_at(least, above[0])} and {_at(most, above[0])} "
            f"for query {above[0]}"
        )
    if window_cost is None:
        costs = np.array([window])
    else:
        costs = per_query("window_cost", window_cost, n_queries, low=1, high=2**31)
    limits = Limits(n_queries, total_tokens, window, least, most, costs)
    smallest = limits.cost(least)
    if total_tokens < smallest:
        raise ValueError(
            f"total_tokens must pay for every query's min_windows, which takes {smallest} tokens, "
            f"got {total_tokens}"
        )
    return limits


def _at(values: IntArray, query: int) -> int:
    return int(values[query if values.size > 1 else 0])
