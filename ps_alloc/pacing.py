"""Streaming: requests decided one at a time against a rate of tokens, by a price that adapts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import IntArray, numbers, per_query_float, real, shown, whole
from ps_alloc._choices import Choices, choices_of
from ps_alloc.ledger import Ledger, over_share
from ps_alloc.predictions import check_budgets, uniform_budgets
from ps_alloc.price import HIGHEST_PRICE, LOWEST_PRICE, WARM_UP_GAIN, Move

STATE_VERSIONS = (1, 2)
SETTINGS_OF_VERSION_1 = ("tokens_per_request", "window", "min_windows", "max_windows", "step")
SETTINGS = (*SETTINGS_OF_VERSION_1, "tokens_per_second", "budgets", "burst", "max_move")


class Grant(int):
    """Tokens that each sequence of a request may reason for: an int, with what was booked for it."""

    windows: int
    """The grid point it is, from 1; 0 for none. The last one may be cut by the client's limit."""
    expected_used: float
    """Tokens that each sequence is expected to use of them: what was booked."""
    sequences: int
    limited: bool
    """The client's limit decided, not the price."""
    price: float
    """Correct answers a token had to buy."""
    _move: Move
    _open: bool


class Pacer(Ledger):
    """Give each arriving request its tokens at once, so that spending keeps to a rate on average.

    Every request takes what maximises weight · accuracy − price · expected use. What it is expected to use is
    booked at once and moves the price (`ps_alloc.price`); `settle` puts right what it really used. Decisions
    for which a client's own limit was too low earn the others no credit and teach the price nothing.

    Whatever comes, a stretch of requests exceeds the rate by `burst` and one request's largest budget at
    most, as far as their use was predicted, and but for what was charged from elsewhere and for requests of
    more than `max_move`.

    Safe to share between threads.
    """

    def __init__(
        self,
        tokens_per_request: float | None = None,
        *,
        tokens_per_second: float | None = None,
        window: int = 16,
        budgets: npt.ArrayLike | None = None,
        min_windows: int = 1,
        max_windows: int | None = None,
        initial_price: float | None = None,
        step: float = 0.01,
        burst: float | None = None,
        max_move: float = 32.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the rate: tokens a request, or tokens a second.

        Args:
            tokens_per_request: Mean reasoning tokens a request may use.
            tokens_per_second: Instead of it: reasoning tokens that all requests of a second may use.
            window: Tokens a window, where curves are accuracies after 1 .. W windows.
            budgets: (W,) instead of it: the tokens of each of a curve's columns, rising.
            min_windows: Fewest windows (columns of the curve) a request gets.
            max_windows: Most windows; by default as many as its curve has.
            initial_price: Correct answers a token to start from: the `price` of an allocation of past
                requests saves the first hundreds of requests from learning it. By default 0.003, and the
                first requests move the price further.
            step: How far one request moves the log price when it takes twice its share or nothing. Smaller
                steps choose better, larger ones keep closer to the rate. 0 fixes the price
                and holds no rate.
            burst: Tokens that a stretch of requests may use beyond the rate, after quiet times; half of them
                are there at the start. By default what 200 requests, or 120 seconds, may use.
            max_move: Requests' worth of tokens that one booking may move the price by. The largest budget of
                one request is always counted in full; of a request for many sequences, what is beyond this is
                not held against others.
            clock: Seconds that pass, for `tokens_per_second`.

        Raises:
            ValueError: If an argument is out of range.
        """
        self.window = whole("window", window, at_least=1)
        self.budgets = None if budgets is None else check_budgets(budgets)
        most = 2**40 if self.budgets is None else self.budgets.size
        self.min_windows = whole("min_windows", min_windows, at_most=most)
        self.max_windows = None if max_windows is None else whole("max_windows", max_windows, at_least=1)
        if self.max_windows is not None and self.max_windows < self.min_windows:
            raise ValueError(f"max_windows must be at least min_windows ({min_windows}), got {max_windows}")
        least = self._grid(self.min_windows)[-1] if self.min_windows else 0
        super().__init__(
            tokens_per_request,
            tokens_per_second,
            least=int(least),
            initial_price=initial_price,
            step=step,
            burst=burst,
            max_move=max_move,
            clock=clock,
        )

    def decide(
        self,
        curve: npt.ArrayLike,
        *,
        use: npt.ArrayLike | None = None,
        weight: float = 1.0,
        base_accuracy: float = 0.0,
        limit: int | None = None,
        sequences: int = 1,
    ) -> Grant:
        """Tokens for the request that arrives now, and book them.

        Args:
            curve: (W,) its predicted accuracy after 1 .. W windows, or under each of `budgets`.
            use: (W,) tokens it is expected to use under each budget; by default all.
            weight: What its correct answer is worth, in ordinary ones: the price of a token stays between
                1e-9 and 1 of them, so weights should be near 1 on average.
            base_accuracy: Its accuracy without reasoning; counts where `min_windows` is 0.
            limit: Most tokens the client allows, whatever the price.
            sequences: Answers it asks for, each of which gets these tokens.

        Returns:
            Tokens of each sequence, for `settle` and `revoke`.

        Raises:
            ValueError: If the curve is not (W,) values in [0, 1] on the pacer's grid, W at least
                `min_windows`, or another argument does not fit. Nothing is booked then.
        """
        sequences = whole("sequences", sequences, at_least=1, at_most=2**40)
        asked = self._asked(curve, use, weight, base_accuracy, limit)
        with self._lock:
            return self._grant(*asked, sequences)

    def decide_many(
        self,
        curves: npt.ArrayLike,
        *,
        use: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
        base_accuracy: float = 0.0,
        limits: Sequence[int | None] | None = None,
    ) -> list[Grant]:
        """Several requests that arrive together, decided in their order, without others in between.

        Args:
            curves: (N, W).
            use: (N, W), or (W,) for all.
            weights: What a correct answer is worth, one number or (N,).
            base_accuracy: Accuracy without reasoning.
            limits: N client's limits, None where there is none.

        Raises:
            ValueError: As `decide`, or if there is not one of each a curve. Nothing is booked then.
        """
        rows = numbers("curves", curves, bools=True)
        if rows.ndim != 2:
            raise ValueError(f"curves must be an array of shape (N, W), got shape {rows.shape}")
        n = len(rows)
        used = None if use is None else numbers("use", use)
        if used is not None and used.shape not in (rows.shape, rows.shape[1:]):
            raise ValueError(f"use must have shape {rows.shape[1:]} or {rows.shape}, got {used.shape}")
        uses = [None] * n if used is None else list(np.broadcast_to(used, rows.shape))
        worth = np.broadcast_to(per_query_float("weights", 1.0 if weights is None else weights, n), n)
        limits = [None] * n if limits is None else limits
        if not isinstance(limits, Sequence | np.ndarray) or len(limits) != n:
            raise ValueError(f"limits must be a list of one a curve ({n}), got {shown(limits)}")
        each = zip(rows, uses, worth, limits, strict=True)
        asked = [self._asked(curve, mine, float(w), base_accuracy, most) for curve, mine, w, most in each]
        with self._lock:
            return [self._grant(*one, 1) for one in asked]

    def settle(self, grant: Grant, used: float) -> None:
        """Put right what was booked for a request that has ended.

        Args:
            grant: What `decide` returned for it.
            used: Tokens that all its sequences really used, together.

        Raises:
            ValueError: If `used` is not a number from 0 on, or the grant was settled or revoked before.
        """
        used = real("used", used, low=0.0)
        with self._lock:
            self._close(grant)
            booked = grant.expected_used * grant.sequences
            self._spend(used - booked)
            share = (self.tokens_per_request or 0.0) * grant.sequences
            change = over_share(used, share, grant.limited) - over_share(booked, share, grant.limited)
            self._control.correct(change, largest=float(int(grant)))

    def revoke(self, grant: Grant) -> None:
        """The request came to nothing: neither it nor its tokens count, and the price goes back.

        Raises:
            ValueError: If the grant was settled or revoked before.
        """
        with self._lock:
            self._close(grant)
            self._spend(-grant.expected_used * grant.sequences)
            self._control.undo(grant._move, grant.sequences)

    def quote(self, curve: npt.ArrayLike) -> int:
        """Windows (not tokens) that `decide` would grant now, without booking them: for callers that grant
        something else in the end, and `charge` that.

        Raises:
            ValueError: As `decide`.
        """
        choices, _ = self._asked(curve, None, 1.0, 0.0, None)
        with self._lock:
            self._accrue()
            return int(choices.windows[choices.best(self.price, self._affordable)])

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on elsewhere, as JSON can hold it (docs/formats.md)."""
        with self._lock:
            settings = {name: getattr(self, name) for name in SETTINGS}
            if self.budgets is not None:
                settings["budgets"] = self.budgets.tolist()
            return {
                "version": STATE_VERSIONS[-1],
                **settings,
                "price": self.price,
                "log_price": self._control.log_price,
                "debt_tokens": self._control.debt,
                "warm_up": self._control.warm_up,
                "n_requests": self.n_requests,
                "spent_tokens": self._spent,
            }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], *, clock: Callable[[], float] = time.monotonic) -> Pacer:
        """A pacer that goes on where `state_dict` was taken. States of version 1 have no debt.

        Raises:
            ValueError: If the state has another version, lacks a field, or holds what no pacer can have.
        """
        found = state.get("version") if isinstance(state, dict) else state
        if not isinstance(state, dict) or found not in STATE_VERSIONS:
            raise ValueError(f"a pacer's state must have version 1 or 2, got {shown(found)}")
        required = SETTINGS_OF_VERSION_1 if found == 1 else SETTINGS
        for name in (*required, "log_price", "n_requests", "spent_tokens"):
            if name not in state:
                raise ValueError(f"a pacer's state must have the field {name!r}")
        pacer = cls(**{name: state[name] for name in SETTINGS if name in state}, clock=clock)
        low, high = math.log(LOWEST_PRICE), math.log(HIGHEST_PRICE)
        control = pacer._control
        control.log_price = real("log_price", state["log_price"], low=low, high=high)
        control.n_requests = whole("n_requests", state["n_requests"])
        pacer._spent = real("spent_tokens", state["spent_tokens"], low=0.0)
        control.warm_up = real("warm_up", state.get("warm_up", 0.0), low=0.0, high=WARM_UP_GAIN)
        debt = real("debt_tokens", state.get("debt_tokens", 0.0))
        control.debt = min(max(debt, -control.horizon), control.deepest)
        return pacer

    def _asked(
        self,
        curve: npt.ArrayLike,
        use: npt.ArrayLike | None,
        weight: float,
        base_accuracy: float,
        limit: int | None,
    ) -> tuple[Choices, Choices]:
        """What a request may take of the pacer, and of its client."""
        curve = numbers("curve", curve, bools=True)
        size = curve.size if self.budgets is None else self.budgets.size
        free = choices_of(
            curve,
            self._grid(size),
            use=use,
            least=self.min_windows,
            most=size if self.max_windows is None else self.max_windows,
            weight=weight,
            base_accuracy=base_accuracy,
        )
        return free, free if limit is None else free.within(whole("limit", limit))

    def _grant(self, free: Choices, within: Choices, sequences: int) -> Grant:
        """Decide and book. The lock is held."""
        self._accrue()
        control, price = self._control, self.price
        wanted, taken = within.best(price), within.best(price, self._affordable)
        limited = bool(within.tokens[taken] < free.tokens[free.best(price)]) and wanted == taken
        share = self.tokens_per_request or 0.0
        used = float(within.use[taken])
        grant = Grant(within.tokens[taken])
        grant.windows, grant.expected_used = int(within.windows[taken]), used
        grant.sequences, grant.limited, grant.price = sequences, limited, price
        grant._open = True
        grant._move = control.book(
            over_share(used, share, limited) * sequences,
            sequences,
            limited=limited,
            rises=not limited and taken > 0,
            falls=not limited and within.is_more_possible(taken),
            wanted=(float(within.use[wanted]) - share) * sequences if wanted != taken else None,
            forgotten=self._forgotten,
            largest=float(free.tokens[-1]),
        )
        self._forgotten = 0.0
        self._spend(used * sequences)
        return grant

    def _grid(self, num_windows: int) -> IntArray:
        return (
            uniform_budgets(self.window, num_windows) if self.budgets is None else self.budgets[:num_windows]
        )

    def _close(self, grant: Grant) -> None:
        if not isinstance(grant, Grant) or not grant._open:
            raise ValueError(f"a grant must be one of `decide`, settled or revoked once, got {shown(grant)}")
        grant._open = False
