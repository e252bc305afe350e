"""What one request may take: tokens, what they are expected to cost, and what they are worth."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import FloatArray, IntArray, numbers, real
from ps_alloc._checks import curve as checked_curve

USE_TOLERANCE = 1e-6  # means of float32 may stand a rounding above the budget


class Choices(NamedTuple):
    """K choices of a request, the fewest tokens first."""

    windows: IntArray
    """(K,) which grid point each is; 0: none."""
    tokens: IntArray
    """(K,) granted."""
    use: FloatArray
    """(K,) tokens expected to be used."""
    value: FloatArray
    """(K,) correct answers expected, in ordinary ones."""

    def best(self, price: float, most_use: float = math.inf) -> int:
        """The choice that is worth most at a price, of those that use `most_use` tokens at most; the first
        where none does.
        """
        surplus = self.value - price * self.use
        if most_use < math.inf:
            payable = self.use <= most_use
            payable[0] = True
            surplus = np.where(payable, surplus, -np.inf)
        return int(np.argmax(surplus))

    def within(self, limit: int) -> Choices:
        """Those within a client's limit in tokens; of the first beyond it, the part within.

        That part is worth what lies on the straight line from the choice before: a limit just above a dip
        does not buy what a whole window more would.
        """
        number = int(np.searchsorted(self.tokens, limit)) + 1
        tokens, use = np.minimum(self.tokens[:number], limit), np.minimum(self.use[:number], limit)
        value = self.value[:number].copy()
        if 1 < number <= len(self.tokens):
            value[-1] = np.interp(limit, self.tokens[number - 2 : number], value[-2:])
        return Choices(self.windows[:number], tokens, use, value)

    def is_more_possible(self, choice: int) -> bool:
        """Whether a lower price could make the request take another choice."""
        return bool((self.value > self.value[choice]).any())


def choices_of(
    curve: npt.ArrayLike,
    budgets: IntArray,
    *,
    use: npt.ArrayLike | None,
    least: int,
    most: int,
    weight: float,
    base_accuracy: float,
) -> Choices:
    """A request's choices: grid points `least` to `most`; 0 is to have no reasoning at all.

    Args:
        curve: (W,) accuracies.
        budgets: (W,) tokens.
        use: (W,) tokens expected to be used under each; None: all.
        least: Fewest windows.
        most: Most windows; beyond W it is W.
        weight: What a correct answer is worth.
        base_accuracy: Accuracy without reasoning.

    Raises:
        ValueError: If a value or shape does not fit.
    """
    values = checked_curve("curve", curve, least_size=max(1, least))
    if values.size != budgets.size:
        raise ValueError(f"curve must have one value a budget ({budgets.size}), got {values.size}")
    used = budgets.astype(np.float64) if use is None else _checked_use(use, budgets)
    most = min(most, values.size)
    value = np.append(real("base_accuracy", base_accuracy, low=0.0, high=1.0), values[:most])
    value *= real("weight", weight, low=0.0)
    tokens, used = np.append(0, budgets[:most])[least:], np.append(0.0, used[:most])[least:]
    return Choices(np.arange(least, most + 1), tokens, used, value[least:])


def _checked_use(use: npt.ArrayLike, budgets: IntArray) -> FloatArray:
    used = numbers("use", use).astype(np.float64)
    if used.shape != budgets.shape:
        raise ValueError(f"use must have the curve's shape {budgets.shape}, got {used.shape}")
    bad = np.flatnonzero(~((used >= 0) & (used <= budgets * (1 + USE_TOLERANCE))))
    if bad.size:
        column = bad[0]
        raise ValueError(
            f"use must lie between 0 and the budget, {budgets[column]} tokens, got {used[column]} "
            f"at column {column}"
        )
    return np.minimum(used, budgets)
