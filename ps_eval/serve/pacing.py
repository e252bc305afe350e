"""The prices: one for all, or one for each key; and what of a request may move them."""

from __future__ import annotations

import copy
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable

from ps_alloc import Pacer

MAX_WEIGHT = 4
"""A body counts as at most so many sequences where it moves the price, however many it asks for."""
MAX_KEYS = 1024
"""Most keys with a price of their own; beyond it, the one unused for longest begins anew."""


class Account:
    """Spending that is held together: a pacer, and the rules of what moves its price.

    - What a prediction decided moves it.
    - What a client's limit decided does so only upwards: asking for little gives no credit to others.
    - A body moves it as at most `MAX_WEIGHT` sequences.
    """

    def __init__(self, name: str, pacer: Pacer) -> None:
        self.name, self.pacer = name, pacer
        self.priced_requests = self.priced_tokens = 0
        """Since the start, of those requests that may move the price: their mean is what is held."""

    @property
    def uniform(self) -> int:
        """Tokens of a sequence that nothing is known of."""
        return int(self.pacer.tokens_per_request)

    def charge(self, tokens: int, sequences: int, *, decided: bool) -> float:
        """Book a grant.

        Args:
            tokens: Of each sequence.
            sequences: How many.
            decided: The prediction decided, not the client.

        Returns:
            Which share of its move the price made, for `refund`.
        """
        moves = decided or tokens >= self.uniform
        if moves:
            self.priced_requests += sequences
            self.priced_tokens += tokens * sequences
        share = min(1.0, MAX_WEIGHT / sequences) if moves else 0.0
        return _book(self.pacer, tokens * sequences, sequences, share)

    def refund(self, tokens: int, sequences: int, share: float) -> None:
        """Take back what was not used, or a request that came to nothing."""
        if share:
            self.priced_requests -= sequences
            self.priced_tokens -= tokens
        self.pacer.refund(tokens, sequences, share)


def _book(pacer: Pacer, tokens: int, sequences: int, share: float) -> float:
    with pacer._lock:
        return share * pacer._book(tokens, sequences, share)


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
        """Accounts of keys with a target of their own, by the key's name."""

    @property
    def pacer(self) -> Pacer:
        """Everybody's."""
        return self.shared.pacer

    def of(self, key: str | None, name: str | None = None) -> Account:
        """The account of a key's fingerprint, or of a named key."""
        if name is not None and name in self.named:
            return self.named[name]
        if not self._by_key or key is None:
            return self.shared
        account = self._own.get(key)
        if account is None:
            account = self._own[key] = Account(self.shared.name, fresh(self.pacer))
            if len(self._own) > MAX_KEYS:
                self._own.popitem(last=False)
        self._own.move_to_end(key)
        return account

    def map_pacers(self, change: Callable[[Pacer], Pacer]) -> None:
        """Replace every pacer, such as by one with another target and the same price."""
        for account in self.all:
            account.pacer = change(account.pacer)

    @property
    def all(self) -> list[Account]:
        """Everybody's, those of named keys, those of other keys."""
        return [self.shared, *self.named.values(), *self._own.values()]


def fresh(pacer: Pacer, *, tokens_per_request: float | None = None) -> Pacer:
    """A pacer with the same settings and price that has spent nothing; or with another target."""
    state = copy.deepcopy(pacer.state_dict()) | {"n_requests": 0, "spent_tokens": 0}
    if tokens_per_request is not None:
        state["tokens_per_request"] = tokens_per_request
    return Pacer.from_state_dict(state)


class Fingerprints:
    """Keys by hashes that cannot be taken back: a new salt at each start."""

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)

    def of(self, key: bytes | None) -> str | None:
        """The fingerprint of a request's key."""
        return None if key is None else hmac.new(self._salt, key, hashlib.sha256).hexdigest()[:32]


def key_of(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The client's key: of `Authorization: Bearer`, `x-api-key` or `api-key`."""
    for name, value in headers:
        if name == b"authorization":
            return value.split(b" ", 1)[-1].strip()
        if name in (b"x-api-key", b"api-key"):
            return value.strip()
    return None
