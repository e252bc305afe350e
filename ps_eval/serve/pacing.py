"""The prices: one for all, or one for each key; and what of a request may move them."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ps_alloc import Pacer
from ps_alloc.pacing import Grant as PacerGrant

MAX_MOVE = 4.0
"""Requests' worth of tokens that one body may move the price by, however many sequences it asks for."""
OWN_MOVE = 1e6
"""The same where a key has a price of its own: all that its bodies take is counted against itself."""
COUNTED = ("version", "price", "log_price", "debt_tokens", "warm_up", "n_requests", "spent_tokens")
"""Of a pacer's state: what it has learnt, beside its settings."""
KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key")
HORIZON = 1000.0
"""Sequences after which one is forgotten to 1/e: how fast a cap on a key's share follows the traffic."""
PRIOR = 100.0
"""Sequences that are thought to have come before the first, a key's share of them its own."""
MAX_KEYS = 1024
"""Most keys with a price of their own. Beyond it one begins anew: one of which nothing was answered yet, else
the one unused for longest."""


@dataclass(frozen=True, slots=True)
class Booking:
    """What was booked for a request."""

    tokens: int
    """Granted to each sequence."""
    sequences: int
    limited: bool
    """The client's limit decided, below the target: it gives nobody credit and moves no price."""
    decided: PacerGrant | None = None
    """Where a curve decided."""
    share: float = 1.0
    """Where none did: what `Pacer.charge` returned."""


class Account:
    """Spending that is held together: a pacer, and what was booked since the start."""

    def __init__(self, name: str, pacer: Pacer) -> None:
        self.name, self.pacer = name, pacer
        self.priced_requests = self.priced_tokens = 0
        """Since the start, of those requests that may move the price: their mean is what is held."""
        self.answered = False
        """A request of it was: its key is one that the server takes."""

    @property
    def uniform(self) -> int:
        """Tokens of a sequence that nothing is known of."""
        return int(self.pacer.tokens_per_request or 0)

    def follow(self, traffic: Traffic) -> None:
        """A request arrives; an account with a cap sets its target by what came of late."""

    def decide(
        self, curve: npt.ArrayLike, use: npt.ArrayLike | None, sequences: int, limit: int | None
    ) -> Booking:
        """Decide by a curve, and book it.

        Raises:
            ValueError: If the curve is none.
        """
        grant = self.pacer.decide(curve, use=use, limit=limit, sequences=sequences)
        return self._counted(Booking(int(grant), sequences, grant.limited, grant))

    def charge(self, tokens: int, sequences: int) -> Booking:
        """Book what was decided without a curve."""
        limited = tokens < self.uniform
        share = self.pacer.charge(tokens * sequences, sequences, limited=limited)
        return self._counted(Booking(tokens, sequences, limited, share=share))

    def settle(self, booking: Booking, used: int) -> None:
        """The request used so many tokens, all its sequences together."""
        if booking.decided is not None:
            self.pacer.settle(booking.decided, used)
        elif used < (total := booking.tokens * booking.sequences):
            self.pacer.refund(total - used, 0, booking.share)
        if not booking.limited:
            self.priced_tokens += used - booking.tokens * booking.sequences

    def revoke(self, booking: Booking) -> None:
        """The request came to nothing."""
        total = booking.tokens * booking.sequences
        if booking.decided is not None:
            self.pacer.revoke(booking.decided)
        else:
            self.pacer.refund(total, booking.sequences, booking.share)
        if not booking.limited:
            self.priced_requests -= booking.sequences
            self.priced_tokens -= total

    def _counted(self, booking: Booking) -> Booking:
        if not booking.limited:
            self.priced_requests += booking.sequences
            self.priced_tokens += booking.tokens * booking.sequences
        return booking


class Traffic:
    """How many of the recent sequences each named key sent."""

    def __init__(self) -> None:
        # Later sequences weigh more, which is to forget the earlier ones.
        self._weight, self._all, self._prior = 1.0, 0.0, PRIOR
        self._own: dict[str, float] = {}

    def came(self, name: str | None, sequences: int) -> None:
        """A request for so many sequences arrived."""
        self._weight *= math.exp(min(sequences / HORIZON, 1.0))
        added = self._weight * sequences
        self._all += added
        if name is not None:
            self._own[name] = self._own.get(name, 0.0) + added
        if self._weight > 1e100:
            self._own = {key: value / self._weight for key, value in self._own.items()}
            self._all, self._prior = self._all / self._weight, self._prior / self._weight
            self._weight = 1.0

    def part(self, name: str, expected: float) -> float:
        """The key's part of the recent sequences; of few, nearly `expected`."""
        return (self._own.get(name, 0.0) + expected * self._prior) / (self._all + self._prior)


class Accounts:
    """The account of each request: that of everybody, or of its key."""

    def __init__(self, pacer: Pacer, *, by_key: bool = False, name: str = "default") -> None:
        """Begin.

        Args:
            pacer: Everybody's; with `by_key`, where a new key's price starts.
            by_key: Hold the mean of each key apart.
            name: In the metrics.
        """
        self.shared = Account(name, pacer)
        self._by_key = by_key
        self._own: OrderedDict[str, Account] = OrderedDict()
        self.named: dict[str, Account] = {}
        """Accounts of keys with a target or share of their own, by the key's name."""
        self._traffic = Traffic()

    @property
    def pacer(self) -> Pacer:
        """Everybody's."""
        return self.shared.pacer

    def of(self, key: str | None, name: str | None = None, sequences: int = 1) -> Account:
        """The account of a request that arrives, by its key's fingerprint or rule."""
        if self.named:
            self._traffic.came(name, sequences)
        if name is not None and name in self.named:
            self.named[name].follow(self._traffic)
            return self.named[name]
        if not self._by_key or key is None:
            return self.shared
        account = self._own.get(key)
        if account is None:
            account = self._own[key] = Account(self.shared.name, own_pacer(self.pacer))
            if len(self._own) > MAX_KEYS:
                unknown = (other for other, one in self._own.items() if not one.answered and other != key)
                del self._own[next(unknown, next(iter(self._own)))]
        self._own.move_to_end(key)
        return account

    def go_on_from(self, old: Accounts) -> None:
        """Take over the prices and counts of those before, at targets of one's own."""
        self._traffic = old._traffic
        self.shared.pacer = moved(old.shared.pacer, self.shared.pacer)
        for name, account in self.named.items():
            if name in old.named:
                account.pacer = moved(old.named[name].pacer, account.pacer)
        if self._by_key:
            for key, before in old._own.items():
                own = self._own[key] = Account(self.shared.name, moved(before.pacer, own_pacer(self.pacer)))
                own.answered = before.answered

    @property
    def all(self) -> list[Account]:
        """Everybody's, those of named keys, those of other keys."""
        return [self.shared, *self.named.values(), *self._own.values()]


def own_pacer(everybodys: Pacer, *, tokens_per_request: float | None = None) -> Pacer:
    """A key's own pacer: with the settings and price of everybody's, or with another target."""
    state = everybodys.state_dict()
    state |= {"n_requests": 0, "spent_tokens": 0, "debt_tokens": 0.0, "max_move": OWN_MOVE}
    if tokens_per_request is not None:
        # The burst is so many requests' worth, of the new target.
        state |= {"tokens_per_request": tokens_per_request, "burst": None}
    return Pacer.from_state_dict(state)


def moved(old: Pacer, new: Pacer) -> Pacer:
    """The new pacer's settings at the old one's price and counts.

    Raises:
        ValueError: If the old one's state cannot be taken over.
    """
    return Pacer.from_state_dict(taken_over(old.state_dict(), new))


def taken_over(state: dict[str, Any], pacer: Pacer) -> dict[str, Any]:
    """A state's price and counts with a pacer's settings."""
    settings = {name: value for name, value in pacer.state_dict().items() if name not in COUNTED}
    return {**state, **settings}


class Fingerprints:
    """Keys by hashes that cannot be taken back: a new salt at each start."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)

    def of(self, key: bytes) -> str:
        """The fingerprint of a key."""
        return hmac.new(self._salt, key, hashlib.sha256).hexdigest()[:32]


def keys_of(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """The client's keys: of `Authorization: Bearer`, `x-api-key` and `api-key`, in this order.

    Wherever they stand: whoever adds one that the server does not look at is nobody else by it.
    """
    found = [(KEY_HEADERS.index(name), value) for name, value in headers if name in KEY_HEADERS]
    keys = [value.strip() if place else value.split(b" ", 1)[-1].strip() for place, value in sorted(found)]
    return [key for key in keys if key]
