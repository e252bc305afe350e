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

ROUNDS = 16


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

    def over(allocation: Allocation) -> float:
        """Tokens that the budget lacks for what it may really use."""
        return allocation.spent_tokens + deviations * _deviation(allocation) - total_tokens

    fewest = {**settings, "max_windows": settings.get("min_windows", 1)}
    best = allocate(curves, total_tokens, **fewest)
    if over(best) > 0:
        raise ValueError(
            f"total_tokens must pay for every query's min_windows and a reserve for an overspend_rate of "
            f"{rate:g}, got {total_tokens}"
        )
    # The reserve falls with the budget: look for the largest that leaves room for its own.
    lowest, highest, allowed = best.spent_tokens, best.total_tokens, best.total_tokens
    for round_ in range(ROUNDS):
        allocation = allocate(curves, allowed, **settings)
        lacks = over(allocation)
        if lacks <= 0:
            best, lowest = allocation, allowed
        else:
            highest = allowed
        if highest - lowest <= 1 + total_tokens // 10_000:
            break
        less = allowed - math.ceil(lacks)  # near the mark at once, where the reserve stays as it is
        towards = lacks > 0 and less > lowest and round_ < ROUNDS // 2
        allowed = less if towards else (lowest + highest) // 2
    return replace(best, total_tokens=int(total_tokens), gap_bound=None)


def _deviation(allocation: Allocation) -> float:
    """Largest standard deviation of the tokens that the batch may really use."""
    mean, most = allocation.expected_used, allocation.tokens
    return math.sqrt(float(np.sum(mean * np.maximum(most - mean, 0.0))))
