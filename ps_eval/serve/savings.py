"""What prediction brought: the last decisions, and what an equal budget for all would have needed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_eval.serve.exchange import Exchange
from ps_eval.serve.forecast import grid_of

MOST_KEPT = 200
"""Decisions that are remembered."""


class Savings:
    """One lane's answered requests, as their predictions see them."""

    def __init__(self, budgets: npt.NDArray[np.int64]) -> None:
        """Begin.

        Args:
            budgets: (W,) tokens at which the predicted curves stand.
        """
        self._grid = np.concatenate([[0], budgets]).astype(np.float64)
        self._sum = np.zeros(len(self._grid))  # of the curves, which begin at 0 tokens with nothing right
        self._tokens = self._right = 0.0
        self._sequences = 0

    def fits(self, budgets: npt.NDArray[np.int64]) -> bool:
        """Whether curves on this grid may be added."""
        return np.array_equal(self._grid[1:], budgets)

    def add(self, curve: npt.NDArray[np.float64], tokens: int, sequences: int) -> None:
        """A request was granted so many tokens a sequence on this (W,) curve."""
        whole = np.concatenate([[0.0], curve])
        self._sum += whole * sequences
        self._right += float(np.interp(tokens, self._grid, whole)) * sequences
        self._tokens += tokens * sequences
        self._sequences += sequences

    def seen(self, target: float) -> dict[str, Any] | None:
        """In tokens a sequence and shares of right answers; None before the first request.

        Returns:
            `granted`, the mean; `predicted_right` with it; `uniform_right`, with an equal budget of the same
            mean for all; `uniform_needed`, the equal budget that would be right as often, or None where none
            on the grid is; `saved`, the difference in all tokens so far (at least, where None is needed).
        """
        if not self._sequences:
            return None
        mean_curve = np.maximum.accumulate(self._sum / self._sequences)
        granted, right = self._tokens / self._sequences, self._right / self._sequences
        needed = _first_at(self._grid, mean_curve, right)
        at_least = self._grid[-1] if needed is None else needed
        return {
            "requests": self._sequences,
            "granted": granted,
            "target": target,
            "predicted_right": right,
            "uniform_right": float(np.interp(granted, self._grid, mean_curve)),
            "uniform_needed": needed,
            "saved": (at_least - granted) * self._sequences,
        }


def _first_at(grid: npt.NDArray[np.float64], rising: npt.NDArray[np.float64], wanted: float) -> float | None:
    """Where the broken line through (grid, rising) first reaches `wanted`."""
    if wanted > rising[-1] + 1e-9:
        return None
    after = min(int(np.searchsorted(rising, wanted - 1e-9)), len(grid) - 1)
    if after == 0:
        return float(grid[0])
    low, high = rising[after - 1], rising[after]
    share = 1.0 if high <= low else min(1.0, (wanted - low) / (high - low))
    return float(grid[after - 1] + share * (grid[after] - grid[after - 1]))


class Seen:
    """The last decisions, without a word of what was asked, and each lane's savings."""

    def __init__(self) -> None:
        self.last: deque[Mapping[str, Any]] = deque(maxlen=MOST_KEPT)
        self._savings: dict[str, Savings] = {}

    def ended(self, exchange: Exchange) -> None:
        """A request has ended; those without a budget are passed over."""
        grant, lane = exchange.grant, exchange.lane
        if grant is None or lane is None or grant.account is None or grant.booking is None:
            return
        self.last.append(
            {
                "time": round(time.time(), 3),
                "id": exchange.id,
                "rule": lane.budgets.name,
                "route": exchange.route.name,
                "outcome": exchange.outcome,
                "sequences": grant.sequences,
                "granted": grant.tokens,
                "used": exchange.used,
                "price": grant.price,
                "fallback": grant.fallback,
                "explored": grant.explored,
                "seconds": round(exchange.seconds, 3),
            }
        )
        # Where the client's own limit decided, an equal budget would have been cut as well.
        if exchange.outcome == "ok" and grant.curve is not None and not grant.booking.limited:
            budgets = grid_of(grant.account.pacer, len(grant.curve))
            savings = self._savings.get(lane.budgets.name)
            if savings is None or not savings.fits(budgets):  # another predictor since a reload
                savings = self._savings[lane.budgets.name] = Savings(budgets)
            savings.add(grant.curve, grant.tokens, grant.sequences)

    def savings(self, rule: str, target: float) -> dict[str, Any] | None:
        """Of a lane, by its rule's name."""
        savings = self._savings.get(rule)
        return None if savings is None else savings.seen(target)
