"""Rules by model and by key: whose budgets they are, and what they may ask for."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ps_alloc import Pacer
from ps_eval.serve.adapters import Field
from ps_eval.serve.budgets import Budgets
from ps_eval.serve.errors import Refusal
from ps_eval.serve.forecast import Forecaster
from ps_eval.serve.pacing import Account, Fingerprints, keys_of, own_pacer
from ps_eval.serve.request_body import BodyLimits
from ps_eval.serve.shares import CappedAccount


@dataclass(frozen=True)
class KeyRule:
    """What the holder of one API key may have."""

    name: str
    """In metrics and logs, instead of the key."""
    sha256: str
    """Of the key, in hexadecimal: `printf %s KEY | sha256sum`; or `*`: any key without a rule, each by
    itself, and all who send none together."""
    tokens_per_request: float | None = None
    """A target of its own; by default it shares everybody's."""
    share: float | None = None
    """Most it may take of the tokens that all requests have at everybody's target: where it asks more often,
    it gets less each time. It then has a price of its own."""
    max_in_flight: int | None = None
    """Most requests under way; beyond it, 429."""
    max_n: int | None = None
    """Most samples of a prompt."""

    def __post_init__(self) -> None:
        if self.is_any:
            if self.has_account:
                raise ValueError(
                    f"key {self.name!r} is any other (sha256 is *) and has limits alone: "
                    "--pace-by key holds the mean of each apart"
                )
        elif len(self.sha256) != 64 or set(self.sha256.lower()) - set("0123456789abcdef"):
            raise ValueError(f"sha256 of key {self.name!r} must be 64 hexadecimal digits, or *")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share of key {self.name!r} must lie in (0, 1], got {self.share}")
        for name in ("tokens_per_request", "max_in_flight", "max_n"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"{name} of key {self.name!r} must be at least 1, got {value}")

    @property
    def is_any(self) -> bool:
        """It is for every key without a rule of its own."""
        return self.sha256 == "*"

    @property
    def has_account(self) -> bool:
        """Its spending is held apart from everybody's."""
        return self.tokens_per_request is not None or self.share is not None

    def account(self, everybodys: Pacer) -> Account:
        """A new account for it, at everybody's price."""
        pacer = own_pacer(everybodys, tokens_per_request=self.tokens_per_request)
        if self.share is None:
            return Account(self.name, pacer)
        return CappedAccount(self.name, pacer, self.share, float(everybodys.tokens_per_request or 0))


@dataclass(frozen=True)
class Lane:
    """A model's budgets."""

    budgets: Budgets
    fields: Mapping[str, Field]
    """Route name to where the budget goes."""
    enabled: bool = True
    """Without it requests pass as they are, and are counted as unbudgeted."""
    forecaster: Forecaster | None = None
    """The predictor behind the budgets."""
    challenger: Lane | None = None
    """What a share of its requests is decided by instead, at a price of its own."""
    challenger_share: float = 0.0

    def drawn(self) -> Lane:
        """Itself, or by chance its challenger."""
        if self.challenger is not None and random.random() < self.challenger_share:
            return self.challenger
        return self


@dataclass
class Client:
    """Who asks."""

    fingerprint: str | None = None
    rule: KeyRule | None = None

    @property
    def name(self) -> str | None:
        """The rule's name."""
        return None if self.rule is None else self.rule.name

    @property
    def counted_as(self) -> tuple[str | None, str | None]:
        """Whose requests under way are counted together: a rule's, or one key's of those of any rule."""
        assert self.rule is not None
        return self.rule.name, self.fingerprint if self.rule.is_any else None


@dataclass
class Lanes:
    """The lane of each model, and the rules of each key."""

    default: Lane
    models: Mapping[str, Lane] = field(default_factory=dict)
    """Model name, or a pattern such as `qwen*`, to its lane; the first that fits."""
    keys: Sequence[KeyRule] = ()
    limits: BodyLimits = field(default_factory=BodyLimits)

    def __post_init__(self) -> None:
        self._fingerprints = Fingerprints()
        self._by_hash = {rule.sha256.lower(): rule for rule in self.keys if not rule.is_any}
        self._any = next((rule for rule in self.keys if rule.is_any), None)
        self._in_flight: dict[tuple[str | None, str | None], int] = {}
        for lane in self.all:
            for rule in self.keys:
                if rule.has_account:
                    lane.budgets.accounts.named[rule.name] = rule.account(lane.budgets.pacer)

    @property
    def all(self) -> list[Lane]:
        """Every lane, the default first, challengers last."""
        lanes = [self.default, *self.models.values()]
        return lanes + [lane.challenger for lane in lanes if lane.challenger is not None]

    def of(self, model: str | None) -> Lane:
        """The lane of a model's name."""
        for pattern, lane in self.models.items():
            if fnmatch.fnmatchcase(model or "", pattern):
                return lane
        return self.default

    def client(self, headers: list[tuple[bytes, bytes]]) -> Client:
        """Who sent a request with these headers."""
        keys = keys_of(headers)
        for key in keys if self._by_hash else ():
            if rule := self._by_hash.get(hashlib.sha256(key).hexdigest()):
                return Client(self._fingerprints.of(key), rule)
        return Client(self._fingerprints.of(keys[0]) if keys else None, self._any)

    def go_on_from(self, old: Lanes) -> None:
        """Know the clients, and what they have under way, of the lanes before."""
        self._fingerprints, self._in_flight = old._fingerprints, old._in_flight

    def enter(self, client: Client) -> None:
        """A request of the client begins.

        Raises:
            Refusal: 429, if it has as many under way as it may.
        """
        rule = client.rule
        if rule is None or rule.max_in_flight is None:
            return
        under_way = self._in_flight.get(client.counted_as, 0)
        if under_way >= rule.max_in_flight:
            message = f"this key may have {rule.max_in_flight} requests under way"
            raise Refusal(429, "limited", message, {"retry-after": "1"})
        self._in_flight[client.counted_as] = under_way + 1

    def leave(self, client: Client) -> None:
        """A request that `enter` let in has ended."""
        if client.rule is not None and client.rule.max_in_flight is not None:
            self._in_flight[client.counted_as] -= 1
            if not self._in_flight[client.counted_as]:
                del self._in_flight[client.counted_as]

    def limits_of(self, client: Client) -> BodyLimits:
        """What a body of the client may ask for."""
        if client.rule is None or client.rule.max_n is None:
            return self.limits
        return BodyLimits(client.rule.max_n, self.limits.max_prompts)

    def start(self) -> None:
        """Start the predictors; the event loop must be running."""
        for batcher in self._batchers():
            batcher.start()

    async def stop(self) -> None:
        """Stop them."""
        await asyncio.gather(*(batcher.stop() for batcher in self._batchers()))

    def _batchers(self) -> list:
        batchers = [lane.budgets.batcher for lane in self.all]
        return list({id(b): b for b in batchers if b is not None}.values())
