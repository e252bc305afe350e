"""A stream's account: what it may spend, what it has spent, and the price that keeps the two together."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from ps_alloc._checks import real, whole
from ps_alloc.price import HIGHEST_PRICE, LOWEST_PRICE, WARM_UP_GAIN, Move, PriceControl

USUAL_PRICE = 0.003
# By default this many requests', or seconds', worth of tokens may be saved up and spent at once.
BURST_REQUESTS, BURST_SECONDS = 200.0, 120.0
ROUNDING = 1e-9  # tokens, and of all tokens


class Ledger:
    """Rate, debt and price of a stream, and bookings that were decided elsewhere; `Pacer` decides by it.

    Safe to share between threads.
    """

    def __init__(
        self,
        tokens_per_request: float | None,
        tokens_per_second: float | None,
        *,
        least: int,
        initial_price: float | None,
        step: float,
        burst: float | None,
        max_move: float,
        clock: Callable[[], float],
    ) -> None:
        """Open it; the arguments are those of `Pacer`, and `least` the tokens that every request gets.

        Raises:
            ValueError: If one is out of range.
        """
        if (tokens_per_request is None) == (tokens_per_second is None):
            raise ValueError(
                "a pacer must have either tokens_per_request or tokens_per_second, got both or none"
            )
        self.step = real("step", step, low=0.0, high=10.0)
        self.max_move = real("max_move", max_move, low=1.0, high=1e9)
        price = USUAL_PRICE
        if initial_price is not None:  # 0 is the price of a budget that bought everything
            price = max(LOWEST_PRICE, real("initial_price", initial_price, low=0.0, high=HIGHEST_PRICE))
        self.tokens_per_request: float | None = None
        self.tokens_per_second: float | None = None
        if tokens_per_second is None:
            self.tokens_per_request = real("tokens_per_request", tokens_per_request, low=0.0)
            if self.tokens_per_request < max(1, least):
                raise ValueError(
                    f"tokens_per_request must pay for min_windows, {least} tokens, "
                    f"and be at least 1, got {tokens_per_request}"
                )
            self.burst = self._burst(burst, self.tokens_per_request, BURST_REQUESTS)
            unit = self.tokens_per_request
        else:
            self.tokens_per_second = real("tokens_per_second", tokens_per_second, above=0.0)
            self.burst = self._burst(burst, self.tokens_per_second, BURST_SECONDS)
            unit = self.burst / BURST_REQUESTS
        # A second has no requests whose share could be known: there the price learns from the burst's ends.
        warm_up = WARM_UP_GAIN if initial_price is None and tokens_per_second is None else 0.0
        self._control = PriceControl(
            math.log(price), unit, self.burst / 2, self.step, self.max_move, warm_up=warm_up
        )
        self._spent = 0.0
        self._clock = clock
        self._time = clock()
        self._forgotten = 0.0
        self._lock = threading.RLock()

    @property
    def price(self) -> float:
        """Correct answers a token must buy at present."""
        return self._control.price

    @property
    def n_requests(self) -> int:
        """Requests (sequences) decided or charged so far, less those revoked."""
        return self._control.n_requests

    @property
    def spent_tokens(self) -> float:
        """Tokens booked so far: expected of open requests, used of settled ones."""
        return self._spent

    @property
    def debt_tokens(self) -> float:
        """Tokens spent above the rate, as far as they are remembered; negative: saved up."""
        return self._control.debt

    def charge(
        self, tokens: float, requests: int = 1, *, priced: bool = False, limited: bool = False
    ) -> float:
        """Book requests whose tokens were decided elsewhere, such as without a curve.

        Args:
            tokens: What they got together.
            requests: How many they were.
            priced: They were what `quote` said: if not, they teach the price nothing but their debt.
            limited: A client's limit decided: they earn no credit.

        Returns:
            Which share of them counts, after all bounds: for `refund`.

        Raises:
            ValueError: If a number is not in [0, 2**62], or `requests` not whole.
        """
        tokens, requests = real("tokens", tokens, low=0.0, high=2.0**62), whole("requests", requests)
        with self._lock:
            self._accrue()
            over = over_share(tokens, (self.tokens_per_request or 0.0) * requests, limited)
            teaches = priced and not limited
            move = self._control.book(over, requests, limited=limited, rises=teaches, falls=teaches)
            self._spend(tokens)
        full = tokens - (self.tokens_per_request or 0.0) * requests
        return min(max(move.debt / full, 0.0), 1.0) if full else 1.0

    def refund(self, tokens: float, requests: int = 0, share: float = 1.0) -> None:
        """Take back tokens that were charged but not used; later requests may spend them.

        Args:
            tokens: How many.
            requests: How many requests came to nothing and count no more; 0 where they were served for less.
            share: What `charge` returned for them: no more comes back than had counted.

        Raises:
            ValueError: If a number is out of range, or more than was booked so far.
        """
        tokens, requests = real("tokens", tokens, low=0.0, high=2.0**62), whole("requests", requests)
        share = real("share", share, low=0.0, high=1.0)
        with self._lock:
            if tokens > self._spent * (1 + ROUNDING) + ROUNDING or requests > self.n_requests:
                raise ValueError(
                    f"a refund must be of what was granted, {self._spent:g} tokens to "
                    f"{self.n_requests} requests, got {tokens:g} tokens of {requests} requests"
                )
            back = Move(share * (tokens - (self.tokens_per_request or 0.0) * requests))
            self._control.undo(back, requests)
            if share:
                self._control.undo_slow(requests)
            self._spend(-tokens)

    def _spend(self, tokens: float) -> None:
        """Book tokens, or take them back: in sums of fractions what is left of nothing may be below 0."""
        self._spent = max(0.0, self._spent + tokens)

    def _burst(self, burst: float | None, rate: float, times: float) -> float:
        return times * rate if burst is None else real("burst", burst, low=2 * rate)

    @property
    def _affordable(self) -> float:
        """Tokens that a request may take at most where debt is deep; else infinity."""
        control = self._control
        if self.step == 0:
            return math.inf
        if self.tokens_per_second is not None:  # a bucket: what is in it
            return control.horizon - control.debt
        # Beyond the horizon the price alone does not bring debt back.
        return control.unit / 2 if control.debt > control.horizon else math.inf

    def _accrue(self) -> None:
        if self.tokens_per_second is not None:
            now = self._clock()
            self._forgotten += self._control.accrue(max(0.0, now - self._time) * self.tokens_per_second)
            self._time = max(now, self._time)


def over_share(used: float, share: float, limited: bool) -> float:
    """Tokens above a share; a client's own limit earns nobody credit."""
    return max(0.0, used - share) if limited else used - share
