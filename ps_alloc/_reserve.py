"""Keep back tokens for the case that queries use more than is expected of them."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import real
from ps_alloc.allocation import Allocation

ROUNDS = 12


def allocate_with_reserve(
    curves: npt.ArrayLike, total_tokens: int, overspend_rate: float, **settings: Any
) -> Allocation:
    """Allocate so that the tokens really used exceed `total_tokens` in at most this share of batches.

    A use of mean m under a budget b has a variance of at most m (b - m), whatever its distribution
    (Bhatia-Davis). The sum over queries is taken for normal, and for independent given the predictions: fair
    from a few dozen queries on. It covers chance, not predictions that are wrong on average.

    Args:
        curves: As for `allocate`.
        total_tokens: Tokens that may really be used.
        overspend_rate: Share of batches.
        **settings: Of `allocate`, `use` among them.

    Raises:
        ValueError: If the rate is not in (0, 0.5], there is no `use`, or the budget cannot pay for every
            query's fewest windows and what must be kept back for them.
    """
    from ps_alloc.allocate import allocate

    rate = real("overspend_rate", overspend_rate, above=0.0, high=0.5)
    if settings.get("use") is None:
        raise ValueError("overspend_rate must come with use, got none: granted budgets are never overspent")
    deviations = NormalDist().inv_cdf(1.0 - rate)
    allocation = allocate(curves, total_tokens, **settings)
    allowed = allocation.total_tokens
    lowest, best = 0, None
    highest = allowed
    # The reserve falls with the budget: the largest budget that leaves room for its own reserve.
    for _ in range(ROUNDS):
        needed = allocation.spent_tokens + deviations * _deviation(allocation)
        if needed <= total_tokens:
            best, lowest = allocation, allowed
            if best.total_tokens == total_tokens or highest - lowest <= 1 + total_tokens // 10_000:
                break
            allowed = (lowest + highest) // 2
        else:
            highest = allowed
            over = max(1, math.ceil(needed - total_tokens))
            allowed = max(lowest, allowed - over) if best is None else (lowest + highest) // 2
        try:
            allocation = allocate(curves, allowed, **settings)
        except ValueError:
            break  # not even the fewest windows
    if best is None:
        raise ValueError(
            f"total_tokens must pay for every query's min_windows and a reserve for an overspend_rate of "
            f"{rate:g}, got {total_tokens}"
        )
    return replace(best, total_tokens=int(total_tokens), gap_bound=None)


def _deviation(allocation: Allocation) -> float:
    """Largest standard deviation of the tokens that the batch may really use."""
    mean, most = allocation.expected_used, allocation.tokens
    return math.sqrt(float(np.sum(mean * np.maximum(most - mean, 0.0))))
