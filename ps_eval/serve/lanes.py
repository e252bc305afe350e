"""Rules by model and by key: whose budgets they are, and what they may ask for."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import hmac
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ps_eval.serve.adapters import ADAPTERS, Field
from ps_eval.serve.budgets import Budgets
from ps_eval.serve.errors import Refusal
from ps_eval.serve.forecast import Forecaster
from ps_eval.serve.pacing import Account, Fingerprints, fresh, key_of
from ps_eval.serve.request_body import BodyLimits


@dataclass(frozen=True)
class KeyRule:
    """What the holder of one API key may have."""

    name: str
    """In metrics and logs, instead of the key."""
    sha256: str
    """Of the key, in hexadecimal: `printf %s KEY | sha256sum`."""
    tokens_per_request: float | None = None
    """A target of its own; by default it shares everybody's."""
    max_in_flight: int | None = None
    """Most requests under way; beyond it, 429."""
    max_n: int | None = None
    """Most samples of a prompt."""

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or set(self.sha256.lower()) - set("0123456789abcdef"):
            raise ValueError(f"sha256 of key {self.name!r} must be 64 hexadecimal digits")
        for name in ("tokens_per_request", "max_in_flight", "max_n"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"{name} of key {self.name!r} must be at least 1, got {value}")


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
        self._by_hash = {rule.sha256.lower(): rule for rule in self.keys}
        self._in_flight: dict[str, int] = {}
        for lane in self.all:
            for rule in self.keys:
                if rule.tokens_per_request is not None:
                    pacer = fresh(lane.budgets.pacer, tokens_per_request=rule.tokens_per_request)
                    lane.budgets.accounts.named[rule.name] = Account(rule.name, pacer)

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
        key = key_of(headers)
        if key is None:
            return Client()
        mine = hashlib.sha256(key).hexdigest()
        rule = next((r for digest, r in self._by_hash.items() if hmac.compare_digest(digest, mine)), None)
        return Client(self._fingerprints.of(key), rule)

    def enter(self, client: Client) -> None:
        """A request of the client begins.

        Raises:
            Refusal: 429, if it has as many under way as it may.
        """
        rule = client.rule
        if rule is None or rule.max_in_flight is None:
            return
        if self._in_flight.get(rule.name, 0) >= rule.max_in_flight:
            message = f"this key may have {rule.max_in_flight} requests under way"
            raise Refusal(429, "limited", message, {"retry-after": "1"})
        self._in_flight[rule.name] = self._in_flight.get(rule.name, 0) + 1

    def leave(self, client: Client) -> None:
        """A request that `enter` let in has ended."""
        if client.rule is not None and client.rule.max_in_flight is not None:
            self._in_flight[client.rule.name] -= 1

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


def one_lane(budgets: Budgets, limits: BodyLimits | None = None) -> Lanes:
    """The same budgets for every model, as vLLM takes them."""
    return Lanes(Lane(budgets, ADAPTERS["vllm"]), limits=limits or BodyLimits())
