"""A budget for every request: predicted and paced, or uniform where there is no prediction."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ps_alloc import Pacer
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.prediction import MicroBatcher
from ps_eval.serve.question import QuestionReader
from ps_eval.serve.request_body import CompletionRequest
from ps_eval.serve.usage import completion_tokens, reasoning_tokens

logger = logging.getLogger(__name__)
Pace = Literal["granted", "used"]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may spend."""

    tokens: int
    """Reasoning tokens of each sequence."""
    sequences: int
    share: float = 1.0
    """What `Pacer.charge` returned: for refunds."""
    fallback: str | None = None
    """Why the budget is uniform instead of predicted: a key of `FALLBACKS`."""

    @property
    def total(self) -> int:
        """Reasoning tokens of all sequences together."""
        return self.tokens * self.sequences

    @property
    def headers(self) -> dict[str, str]:
        """What the client is told."""
        fallback = {} if self.fallback is None else {"x-ps-fallback": self.fallback}
        return {"x-ps-budget": str(self.tokens)} | fallback


class Budgets:
    """Grant budgets, and book what became of them.

    All sequences of one body get the same budget, as a body has room for one: of several prompts it is
    decided on their mean curve. Each sequence counts as a request in the mean that is held.
    """

    def __init__(
        self,
        pacer: Pacer,
        metrics: GatewayMetrics,
        *,
        batcher: MicroBatcher | None,
        reader: QuestionReader,
        predict_timeout: float = 0.5,
        pace: Pace = "granted",
    ) -> None:
        """Set how budgets are decided.

        Args:
            pacer: Holds the mean; shared with whoever saves its state.
            metrics: Where grants, fallbacks and the price are counted.
            batcher: The predictor; None grants the uniform budget, and is no fallback.
            reader: Finds the questions.
            predict_timeout: Seconds after which a request goes on without its prediction.
            pace: Whether the mean of the budgets is held, or that of the tokens really used.

        Raises:
            ValueError: If the time-out is not above 0.
        """
        if not predict_timeout > 0:
            raise ValueError(f"predict_timeout must be above 0, got {predict_timeout}")
        self.pacer = pacer
        self._metrics = metrics
        self._batcher = batcher
        self._reader = reader
        self._predict_timeout = predict_timeout
        self._pace = pace
        self._uniform = int(pacer.tokens_per_request)

    async def grant(self, request: CompletionRequest) -> Grant:
        """Decide a request's budget, never above the client's own limits."""
        sequences, limit = request.num_sequences, request.token_limit
        fallback, curve = None, None
        if self._batcher is not None:
            curve, fallback = await self._predicted_curve(self._batcher, request)
        tokens = self._uniform
        if curve is not None:
            try:
                tokens = self.pacer.quote(self._affordable(curve, limit)) * self.pacer.window
            except ValueError as error:  # a predictor that is not one: NaN, too few windows
                fallback = _failed(error)
        tokens = tokens if limit is None else min(limit, tokens)
        priced = curve is not None and fallback is None
        share = self.pacer.charge(tokens * sequences, sequences, priced=priced)
        if fallback is not None:
            self._metrics.fallbacks.labels(fallback).inc()
        self._metrics.granted.observe(tokens)
        return Grant(tokens, sequences, share, fallback)

    async def _predicted_curve(
        self, batcher: MicroBatcher, request: CompletionRequest
    ) -> tuple[np.ndarray | None, str | None]:
        try:
            questions = self._reader.questions(request)
        except Exception:  # text that the tokenizer cannot decode raises types of its own
            return None, "unreadable"
        try:
            async with asyncio.timeout(self._predict_timeout):
                curves = await batcher.curves(questions)
        except TimeoutError:
            return None, "timeout"
        except asyncio.QueueFull:
            return None, "queue_full"
        except Exception as error:
            return None, _failed(error)
        return np.asarray(np.mean(curves, axis=0, dtype=np.float64)), None

    def _affordable(self, curve: np.ndarray, limit: int | None) -> np.ndarray:
        """The curve's part that a client's limit leaves; its last window may be cut."""
        if limit is None:
            return curve
        return curve[: max(1, self.pacer.min_windows, -(-limit // self.pacer.window))]

    def settle(self, grant: Grant, usage: dict[str, Any] | None) -> None:
        """The request was answered; `usage` is the response's own, if it has one."""
        used = reasoning_tokens(usage)
        if used is not None:
            self._metrics.reasoning.observe(used / grant.sequences)
            if used > grant.total:
                self._metrics.over_budget.inc()
        if self._pace == "used":
            # Without a count of reasoning apart: it was at most all that was generated.
            used = completion_tokens(usage) if used is None else used
            if used is not None and used < grant.total:
                self.pacer.refund(grant.total - used, share=grant.share)

    def revoke(self, grant: Grant) -> None:
        """The request came to nothing: neither it nor its tokens count."""
        self.pacer.refund(grant.total, grant.sequences, grant.share)


def _failed(error: Exception) -> str:
    logger.warning("prediction failed, the budget is uniform: %s", type(error).__name__)
    return "error"
