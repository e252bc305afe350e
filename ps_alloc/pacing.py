"""Streaming: requests decided one at a time against a token rate, by a shadow price that adapts."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import whole

# Standing still at price 0 a log price could never rise again; nobody buys a window below this many correct
# answers a token, and nobody can offer more than one for a token.
LOWEST_PRICE = 1e-9
HIGHEST_PRICE = 1.0
STATE_VERSION = 1


class Pacer:
    """Give each arriving request its windows at once, so that spending keeps to `tokens_per_request` on
    average.

    Every request buys the windows that maximise accuracy - price * tokens. After each, the price moves by a
    small step in logarithm: up when it took more than its share, down when less (dual mirror descent on the
    allocation problem, as in Balseiro, Lu and Mirrokni 2020). The log price is thus the sum of all over- and
    underspending so far: what was overspent at most is the way from the first price to the last, divided by
    `step`, in requests' worth; a drifting mix needs no further correction.

    Safe to share between threads.
    """

    def __init__(
        self,
        tokens_per_request: float,
        *,
        window: int = 16,
        min_windows: int = 1,
        max_windows: int | None = None,
        initial_price: float = 0.003,
        step: float = 0.01,
    ) -> None:
        """Set the rate.

        Args:
            tokens_per_request: Mean reasoning tokens a request may take.
            window: Tokens a window.
            min_windows: Fewest windows a request gets.
            max_windows: Most windows; by default as many as its curve has.
            initial_price: Correct answers a token to start from: the `price` of an allocation of past
                requests saves the first hundreds of requests from learning it.
            step: How far one request moves the log price when it takes twice its share or nothing. Smaller
                steps choose better, larger ones keep closer to the rate.

        Raises:
            ValueError: If an argument is out of range.
        """
        self.window = whole("window", window, at_least=1)
        self.min_windows = whole("min_windows", min_windows, at_least=0)
        self.max_windows = None if max_windows is None else whole("max_windows", max_windows, at_least=1)
        self.tokens_per_request = _number("tokens_per_request", tokens_per_request, low=0.0)
        self.step = _number("step", step, low=0.0)
        price = _number("initial_price", initial_price, low=LOWEST_PRICE, high=HIGHEST_PRICE)
        if self.tokens_per_request < max(1, self.min_windows * self.window):
            raise ValueError(
                f"tokens_per_request must pay for min_windows, {self.min_windows * self.window} tokens, "
                f"and be at least 1, got {tokens_per_request}"
            )
        if self.max_windows is not None and self.max_windows < self.min_windows:
            raise ValueError(f"max_windows must be at least min_windows ({min_windows}), got {max_windows}")
        self._log_price = math.log(price)
        self._n_requests = 0
        self._spent_tokens = 0
        self._lock = threading.Lock()

    @property
    def price(self) -> float:
        """Correct answers a token must buy at present."""
        return math.exp(self._log_price)

    @property
    def n_requests(self) -> int:
        """Requests decided or charged so far, less those refunded."""
        return self._n_requests

    @property
    def spent_tokens(self) -> int:
        """Tokens granted so far, less those refunded."""
        return self._spent_tokens

    def decide(self, curve: npt.ArrayLike) -> int:
        """Windows for the request that arrives now.

        Args:
            curve: (W,) its predicted accuracy after 1 .. W windows.

        Returns:
            How many windows it gets; multiply by `window` for tokens.

        Raises:
            ValueError: If the curve is not (W,) values in [0, 1], W at least `min_windows`.
        """
        choices, accuracies = self._choices(curve)
        with self._lock:
            bought = self._best(choices, accuracies)
            self._book(bought * self.window, 1)
        return bought

    def quote(self, curve: npt.ArrayLike) -> int:
        """What `decide` would answer now, without booking it: for callers that grant something else in the
        end, and `charge` that.

        Raises:
            ValueError: As `decide`.
        """
        return self._best(*self._choices(curve))

    def charge(self, tokens: int, requests: int = 1) -> float:
        """Book requests whose tokens were decided elsewhere, such as without a curve.

        Args:
            tokens: What they got together.
            requests: How many they were.

        Returns:
            Which share of its move the price made, 1 but where it came to its bounds: for `refund`.

        Raises:
            ValueError: If either is not a whole number from 0.
        """
        tokens, requests = whole("tokens", tokens, at_least=0), whole("requests", requests, at_least=0)
        with self._lock:
            return self._book(tokens, requests)

    def refund(self, tokens: int, requests: int = 0, share: float = 1.0) -> None:
        """Take back tokens that were granted but not used; later requests may spend them.

        Args:
            tokens: How many.
            requests: How many requests came to nothing and count no more; 0 where they were served for less.
            share: What `charge` returned for them: the price goes back no further than it had come.

        Raises:
            ValueError: If a number is not whole and from 0, or more than was granted so far, or `share` is
                not in [0, 1].
        """
        tokens, requests = whole("tokens", tokens, at_least=0), whole("requests", requests, at_least=0)
        share = _number("share", share, low=0.0, high=1.0)
        with self._lock:
            if tokens > self._spent_tokens or requests > self._n_requests:
                raise ValueError(
                    f"a refund must be of what was granted, {self._spent_tokens} tokens to "
                    f"{self._n_requests} requests, got {tokens} tokens of {requests} requests"
                )
            self._book(-tokens, -requests, share)

    def _choices(self, curve: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Numbers of windows that may be bought, and the accuracy of each."""
        values = np.asarray(curve, dtype=np.float64)
        if values.ndim != 1 or values.size < max(1, self.min_windows):
            raise ValueError(
                f"curve must be an array of shape (W,), W at least {max(1, self.min_windows)}, "
                f"got shape {values.shape}"
            )
        if not (values.min() >= 0.0 and values.max() <= 1.0):
            column = int(np.flatnonzero(~((values >= 0) & (values <= 1)))[0])
            raise ValueError(f"curve must lie in [0, 1], got {values[column]} at column {column}")
        most = values.size if self.max_windows is None else min(self.max_windows, values.size)
        choices = np.arange(self.min_windows, most + 1)
        accuracies = values[:most] if self.min_windows else np.concatenate(([0.0], values[:most]))
        return choices, accuracies[-choices.size :]

    def _best(self, choices: npt.NDArray[np.int64], accuracies: npt.NDArray[np.float64]) -> int:
        return int(choices[np.argmax(accuracies - self.price * self.window * choices)])

    def _book(self, tokens: int, requests: int, share: float = 1.0) -> float:
        """Add to what was granted, or take from it, and move the price by a share of the step. The lock is
        held. Returns the share of it that the price's bounds let through.
        """
        move = share * self.step * (tokens / self.tokens_per_request - requests)
        moved = min(max(self._log_price + move, math.log(LOWEST_PRICE)), math.log(HIGHEST_PRICE))
        through = (moved - self._log_price) / move if move else 1.0
        inside = moved == self._log_price + move
        self._log_price = moved
        self._n_requests += requests
        self._spent_tokens += tokens
        return 1.0 if inside else through

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on elsewhere, as JSON can hold it."""
        with self._lock:
            return {
                "version": STATE_VERSION,
                "tokens_per_request": self.tokens_per_request,
                "window": self.window,
                "min_windows": self.min_windows,
                "max_windows": self.max_windows,
                "step": self.step,
                "price": self.price,
                "log_price": self._log_price,
                "n_requests": self._n_requests,
                "spent_tokens": self._spent_tokens,
            }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Pacer:
        """A pacer that goes on where `state_dict` was taken.

        Raises:
            ValueError: If the state has another version or lacks a field.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"a pacer's state must have version {STATE_VERSION}, got {state.get('version')!r}"
            )
        try:
            pacer = cls(
                state["tokens_per_request"],
                window=state["window"],
                min_windows=state["min_windows"],
                max_windows=state["max_windows"],
                initial_price=min(max(state["price"], LOWEST_PRICE), HIGHEST_PRICE),
                step=state["step"],
            )
            pacer._log_price = _number("log_price", state["log_price"], low=-math.inf)
            pacer._n_requests = whole("n_requests", state["n_requests"], at_least=0)
            pacer._spent_tokens = whole("spent_tokens", state["spent_tokens"], at_least=0)
        except KeyError as error:
            raise ValueError(f"a pacer's state must have the field {error}") from None
        return pacer


def _number(name: str, value: float, low: float, high: float = math.inf) -> float:
    if not isinstance(value, int | float | np.integer | np.floating) or not low <= value <= high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)
