"""What a request may spend on thinking, and what of its tokens is kept for the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_eval.serve.pacing import Account, Booking


@dataclass(frozen=True)
class AnswerReserve:
    """What of a client's `max_tokens` is kept for the answer: thinking never takes it all."""

    tokens: int = 24
    """At least so many."""
    share: float = 0.1
    """At least this share."""

    def __post_init__(self) -> None:
        if self.tokens < 0 or not 0 <= self.share < 1:
            raise ValueError(
                "answer_tokens must be at least 0 and answer_share lie in [0, 1), "
                f"got {self.tokens} and {self.share}"
            )

    def room(self, max_tokens: int) -> int:
        """Tokens that thinking may take: never less than half."""
        kept = max(self.tokens, math.ceil(self.share * max_tokens))
        return max_tokens - min(kept, (max_tokens + 1) // 2)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may spend."""

    tokens: int
    """Reasoning tokens of each sequence."""
    sequences: int
    account: Account | None = None
    """Where it is booked; None: nowhere."""
    booking: Booking | None = None
    fallback: str | None = None
    """Why the budget is not predicted: a key of `FALLBACKS`."""
    thinking: bool = True
    """False where the client wants none: the body goes on as it is."""
    price: float | None = None
    """At which it was decided."""
    curve: npt.NDArray[np.float64] | None = None
    """(W,) on which it was decided."""
    questions: tuple[str, ...] = ()
    explored: bool = False
    """Granted the largest budget at random."""
    predicted: npt.NDArray[np.float64] | None = None
    """(W,) accuracy, or (2, W) accuracy and use, of the question, whatever was decided on."""
    unlike: bool | None = None
    """A question is unlike those that the predictor learned from; None where that cannot be told."""

    @property
    def total(self) -> int:
        """Reasoning tokens of all sequences together."""
        return self.tokens * self.sequences

    @property
    def headers(self) -> dict[str, str]:
        """What the client is told."""
        fallback = {} if self.fallback is None else {"x-ps-fallback": self.fallback}
        return {"x-ps-budget": str(self.tokens)} | fallback
