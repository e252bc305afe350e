"""The price of a token in a stream, moved by how much more or less than its share the stream spends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

# Standing still at price 0 a log price could never rise again; nobody buys tokens that bring less than this
# many correct answers each, and nobody can offer more than one for a token.
LOWEST_PRICE = 1e-9
HIGHEST_PRICE = 1.0
# The first requests move the price further: (1 + WARM_UP_GAIN) times at the start, then less and less.
WARM_UP_GAIN, WARM_UP = 15.0, 50.0
# How slowly lasting debt teaches the price; at 1 debt would just not overshoot 0 on its way back, if what is
# taken fell in proportion to the price.
DAMPING = 1.5
DEEPEST_DEBT = 100  # in horizons


class Move(NamedTuple):
    """What one booking did; `PriceControl.undo` takes it back."""

    debt: float = 0.0
    """Tokens that the debt rose by, after all bounds."""
    learnt: float = 0.0
    """What the log price rose by, beside the debt's own push."""


@dataclass
class PriceControl:
    """A price that holds a rate.

    The stream's *debt* is what it has spent above its rate, less what it has spent below. It pushes the log
    price by `step` for each request's worth, within ± `horizon`: what luck has moved comes back with the
    debt. That alone is dual mirror descent on the allocation problem (Balseiro, Lu and Mirrokni 2020). Beyond
    it, the price learns

    - from debt that lasts, slowly, so that the debt ends near 0 and the rate is held from the first request;
    - from what a request takes more or less than its share where debt or credit stand at the horizon, and,
      falling off, in the first hundred requests: only of requests that would have taken something else at
      another price.

    Credit beyond the horizon is forgotten: what was not spent for a long time is not spent at once later.
    Debt is remembered up to 100 horizons.

    Not safe to share between threads.
    """

    log_price: float
    """Logarithm of the correct answers that a token must buy."""
    unit: float
    """One request's worth, in tokens."""
    horizon: float
    """Tokens of credit or debt, at least a unit."""
    step: float
    """What a unit of debt adds to the log price. At 0 the price is fixed."""
    max_move: float
    """Units that one booking may add to the debt or take from it."""
    warm_up: float = 0.0
    """How many times further the next request moves the price: where that is a guess, `WARM_UP_GAIN` for the
    first."""
    debt: float = 0.0
    """Tokens spent above the rate; negative: credit."""
    n_requests: int = 0
    """Requests booked."""

    @property
    def price(self) -> float:
        """Correct answers a token must buy."""
        return math.exp(self.log_price)

    @property
    def deepest(self) -> float:
        """Tokens of debt that are remembered."""
        return DEEPEST_DEBT * self.horizon

    def accrue(self, tokens: float) -> float:
        """Let time earn tokens.

        Returns:
            Those that went beyond the horizon and are forgotten.
        """
        after = self.debt - tokens
        self._owe(after)
        return max(0.0, -self.horizon - after)

    def book(
        self,
        over: float,
        requests: int,
        *,
        limited: bool = False,
        rises: bool = False,
        falls: bool = False,
        wanted: float | None = None,
        forgotten: float = 0.0,
        largest: float = 0.0,
    ) -> Move:
        """Count requests.

        Args:
            over: Tokens they took together above their share; negative where they took less.
            requests: How many.
            limited: Whether their clients' limits decided: then lasting debt teaches nothing either.
            rises: Whether they would have taken less at some higher price.
            falls: Whether they would have taken more at some lower price.
            wanted: What they would have taken above their share, where debt kept them from it.
            forgotten: What `accrue` returned since the last booking.
            largest: Tokens that one request can take: always counted in full.
        """
        bound = max(self.max_move * self.unit, largest)
        over = min(max(over, -bound), bound)
        learnt = 0.0
        if abs(self.debt) < self.horizon and not limited:
            learnt += self._slow(requests)
        # Where the price is far off, debt goes beyond the horizon, or would if it were not held there.
        after = self.debt + over
        warming = over * self.warm_up
        self.warm_up *= math.exp(-requests / WARM_UP)
        if wanted is not None:
            learnt += self.step * min(max(wanted, 0.0), bound) / self.unit
        elif rises:
            beyond = max(0.0, after - max(self.debt, self.horizon))
            learnt += self.step * (beyond + max(0.0, warming)) / self.unit
        if falls:
            beyond = min(0.0, after + self.horizon) - forgotten
            learnt += self.step * (beyond + min(0.0, warming)) / self.unit
        before = self.debt
        self.n_requests += requests
        self._owe(after)
        self._shift(learnt)
        return Move(self.debt - before, learnt)

    def correct(self, over: float, largest: float = 0.0) -> None:
        """Count what became known later of requests that were booked before."""
        bound = max(self.max_move * self.unit, largest)
        self._owe(self.debt + min(max(over, -bound), bound))

    def undo(self, move: Move, requests: int) -> None:
        """Take a booking back; what has happened since stays."""
        self.n_requests -= requests
        self._owe(self.debt - move.debt)
        self._shift(-move.learnt)

    def undo_slow(self, requests: int) -> None:
        """Take back what `requests` taught slowly, where no `Move` of theirs was kept."""
        self._shift(-self._slow(requests))

    def _slow(self, requests: int) -> float:
        return (self.step / (2 * DAMPING)) ** 2 * self.debt / self.unit * min(requests, self.max_move)

    def _owe(self, debt: float) -> None:
        """Set the debt, within its bounds, and let it push the price."""
        before, debt = self.debt, min(max(debt, -self.horizon), self.deepest)
        self.debt = debt
        self._shift(self.step * (min(debt, self.horizon) - min(before, self.horizon)) / self.unit)

    def _shift(self, log_factor: float) -> None:
        lowest, highest = math.log(LOWEST_PRICE), math.log(HIGHEST_PRICE)
        self.log_price = min(max(self.log_price + log_factor, lowest), highest)
