"""A budget for every request: predicted and paced, or uniform where there is no prediction."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ps_alloc import Pacer
from ps_eval.serve.forecast import Forecast, Row, grid_of
from ps_eval.serve.grant import AnswerReserve, Grant
from ps_eval.serve.intent import EFFORTS, intent_of
from ps_eval.serve.metrics import GatewayMetrics
from ps_eval.serve.pacing import Account, Accounts, Booking
from ps_eval.serve.prediction import MicroBatcher, PredictorOverdueError
from ps_eval.serve.question import NoQuestion, QuestionReader
from ps_eval.serve.request_body import MOST_TOKENS, CompletionRequest
from ps_eval.serve.usage import Usage, completion_tokens, reasoning_tokens
from ps_train.common.prompts import PromptTooLongError

logger = logging.getLogger(__name__)
Pace = Literal["granted", "used"]
INLINE_BYTES = 8192
"""Bodies up to this size are read on the event loop; longer ones in a thread."""
UNPREDICTED_EXPLORE = 4
"""Uniform budgets that an explored request gets where there is no predictor, hence no grid."""
Unlike = Literal["keep", "mean"]
"""What is done about questions unlike those that the predictor learned from."""
BY_MEAN_CURVE = frozenset(("follow_up", "tool_turn", "too_long"))
"""Fallbacks after which the mean curve decides."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a request's questions."""

    row: npt.NDArray[np.float64] | None = None
    """To decide on: (W,) accuracy, or (2, W) accuracy and use."""
    fallback: str | None = None
    questions: tuple[str, ...] = ()
    predicted: npt.NDArray[np.float64] | None = None
    """As `row`, of a prediction."""
    unlike: bool | None = None


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
        batcher: MicroBatcher[Forecast] | None,
        reader: QuestionReader,
        predict_timeout: float = 0.5,
        pace: Pace = "granted",
        reserve: AnswerReserve | None = None,
        efforts: Mapping[str, int] = EFFORTS,
        mean: Row | None = None,
        unlike: Unlike = "keep",
        explore: float = 0.0,
        explore_tokens: int | None = None,
        reads_all: bool = False,
        by_key: bool = False,
        name: str = "default",
    ) -> None:
        """Set how budgets are decided.

        Args:
            pacer: Holds the mean; shared with whoever saves its state.
            metrics: Where grants, fallbacks and the price are counted.
            batcher: The predictor; None grants the uniform budget, and is no fallback.
            reader: Finds the questions.
            predict_timeout: Seconds after which a request goes on without its prediction.
            pace: Whether the mean of the budgets is held, or that of the tokens really used.
            reserve: What of `max_tokens` is kept for the answer.
            efforts: Most thinking tokens at a `reasoning_effort`.
            mean: What is known of a question that cannot be read; by default nothing.
            unlike: Decide on what is predicted of questions unlike those of the training, or on `mean`.
            explore: Share of requests that get a large budget, so that the curves' tails stay seen.
            explore_tokens: That budget; by default the largest of the prediction, and without one
                `UNPREDICTED_EXPLORE` times the uniform one.
            reads_all: Read the questions though nobody predicts: the decision log wants them.
            by_key: Hold the mean of each client's key apart.
            name: Of the rule, in metrics and logs.

        Raises:
            ValueError: If the time-out is not above 0, `explore` not in [0, 1], or `explore_tokens` below 1.
        """
        if not predict_timeout > 0:
            raise ValueError(f"predict_timeout must be above 0, got {predict_timeout}")
        if not 0 <= explore <= 1:
            raise ValueError(f"explore must lie in [0, 1], got {explore}")
        if explore_tokens is not None and explore_tokens < 1:
            raise ValueError(f"explore_tokens must be at least 1, got {explore_tokens}")
        self.name = name
        self.accounts = Accounts(pacer, by_key=by_key, name=name)
        self.batcher = batcher
        self._metrics = metrics
        self._reader = reader
        self._predict_timeout = predict_timeout
        self._pace = pace
        self._reserve = reserve or AnswerReserve()
        self._efforts = efforts
        self._mean = None if mean is None else np.asarray(mean, dtype=np.float64)
        self._unlike = unlike
        self._explore, self._explore_tokens = explore, explore_tokens
        self._reads_all = reads_all
        self._warned = False
        self.distrusted = False
        """Predictions have drifted: the mean curve decides, though they are still made."""

    @property
    def pacer(self) -> Pacer:
        """Everybody's."""
        return self.accounts.pacer

    async def grant(
        self, request: CompletionRequest, key: str | None = None, key_name: str | None = None
    ) -> Grant:
        """Decide a request's budget, never above the client's own limits.

        Args:
            request: What is asked.
            key: The client's fingerprint.
            key_name: Name of the client's key, where it has one.
        """
        sequences = request.num_sequences
        intent = intent_of(request.read, self._efforts)
        if not intent.thinking:
            self._metrics.thinking_off.inc()
            return Grant(0, sequences, thinking=False)
        account = self.accounts.of(key, key_name, sequences)
        pacer = account.pacer
        room = None if request.max_tokens is None else self._reserve.room(request.max_tokens)
        limits = [min(n, MOST_TOKENS) for n in (room, request.own_budget, intent.ceiling) if n is not None]
        limit = min(limits, default=None)
        known, booking = _Known(), None
        least = grid_of(pacer, max(1, pacer.min_windows))[-1]
        if self.batcher is not None and (limit is None or limit > least):
            known = await self._predicted(self.batcher, request)
        elif self._reads_all:
            known = _Known(questions=await self._unpredicted(request))
        row, fallback = known.row, known.fallback
        curve, use = (row, None) if row is None or row.ndim == 1 else (row[0], row[1])
        use = use if self._pace == "used" else None
        price = pacer.price
        may_explore = self._explore > 0 and (curve is not None or self.batcher is None)
        explored = may_explore and random.random() < self._explore
        if explored:
            booking = self._explored(account, curve, sequences, limit)
        elif curve is not None and fallback is not None:
            booking = account.charge(_priced(pacer, curve, limit), sequences)
        elif curve is not None:
            try:
                booking = account.decide(curve, use, sequences, limit)
            except ValueError as error:  # a predictor that is not one: NaN, too few windows
                fallback, curve = _failed(error), None
        if booking is None:
            tokens = account.uniform if limit is None else min(limit, account.uniform)
            booking = account.charge(tokens, sequences)
        if booking.limited:
            self._metrics.limited.inc()
        if fallback is not None:
            self._metrics.fallbacks.labels(fallback).inc()
        self._metrics.granted.observe(booking.tokens)
        return Grant(
            booking.tokens,
            sequences,
            account,
            booking,
            fallback,
            price=price,
            curve=curve,
            questions=known.questions,
            explored=explored,
            predicted=known.predicted,
            unlike=known.unlike,
        )

    def _explored(
        self, account: Account, curve: npt.NDArray[np.float64] | None, sequences: int, limit: int | None
    ) -> Booking:
        pacer = account.pacer
        if curve is None:
            largest, usual = UNPREDICTED_EXPLORE * account.uniform, account.uniform
        else:
            width = min(len(curve), pacer.max_windows or len(curve))
            largest, usual = int(grid_of(pacer, width)[-1]), _priced(pacer, curve, limit)
        largest = self._explore_tokens or largest
        tokens = largest if limit is None else min(limit, largest)
        self._metrics.explored.inc()
        self._metrics.explored_tokens.inc(max(0, tokens - usual) * sequences)
        return account.charge(tokens, sequences)

    async def _unpredicted(self, request: CompletionRequest) -> tuple[str, ...]:
        """The questions, for the log alone; none where they cannot be read."""
        try:
            return tuple(await self._read(request))
        except Exception:  # NoQuestion, or text that the tokenizer cannot decode
            return ()

    async def _read(self, request: CompletionRequest) -> list[str]:
        if len(request.raw) <= INLINE_BYTES:
            return self._reader.questions(request)
        return await asyncio.to_thread(self._reader.questions, request)

    async def _predicted(self, batcher: MicroBatcher[Forecast], request: CompletionRequest) -> _Known:
        try:
            questions = await self._read(request)
        except NoQuestion as none:
            return _Known(self._mean if none.reason in BY_MEAN_CURVE else None, none.reason)
        except Exception:  # text that the tokenizer cannot decode raises types of its own
            return _Known(fallback="unreadable")
        try:
            async with asyncio.timeout(self._predict_timeout):
                forecasts = await batcher.ask(questions)
        except TimeoutError:
            return _Known(fallback="timeout")
        except PredictorOverdueError:
            return _Known(fallback="overdue")
        except asyncio.QueueFull:
            return _Known(fallback="queue_full")
        except PromptTooLongError:
            return _Known(self._mean, "too_long")
        except Exception as error:
            return _Known(fallback=_failed(error))
        row = np.asarray(np.mean([f.row for f in forecasts], axis=0, dtype=np.float64))
        flags = [f.unlike for f in forecasts if f.unlike is not None]
        self._metrics.unlike.inc(sum(flags))
        unlike = any(flags) if flags else None
        why = "drift" if self.distrusted else "unlike" if unlike and self._unlike == "mean" else None
        if why is not None and self._mean is not None:
            return _Known(self._mean, why, tuple(questions), row, unlike)
        return _Known(row, None, tuple(questions), row, unlike)

    def settle(self, grant: Grant, usage: Usage) -> int | None:
        """The request was answered; `usage` is the response's own, if it has one.

        Returns:
            Reasoning tokens that it used; None where that is not known.
        """
        used = reasoning_tokens(usage)
        made = completion_tokens(usage)
        if used is not None:
            self._metrics.reasoning.observe(used / grant.sequences)
            if used > grant.total and grant.thinking:
                self._metrics.over_budget.inc()
        elif made:
            self._metrics.uncounted.inc()
            self._warn_of_uncounted()
        if grant.account is not None:
            grant.account.answered = True
        if self._pace == "used" and grant.account is not None and grant.booking is not None:
            # Without a count of reasoning apart: it was at most all that was generated.
            spent = used if used is not None else None if made is None else min(made, grant.total)
            if spent is not None:
                grant.account.settle(grant.booking, spent)
        return used

    def raised(self, grant: Grant, tokens: int) -> Grant:
        """The grant with more tokens: the server takes no fewer."""
        self.revoke(grant)
        assert grant.account is not None
        booking = grant.account.charge(tokens, grant.sequences)
        return replace(grant, tokens=tokens, booking=booking)

    def revoke(self, grant: Grant) -> None:
        """The request came to nothing: neither it nor its tokens count."""
        if grant.account is not None and grant.booking is not None:
            grant.account.revoke(grant.booking)

    def _warn_of_uncounted(self) -> None:
        if not self._warned and self._pace == "used":
            self._warned = True
            logger.warning(
                "the upstream does not count reasoning tokens apart (0 or none beside generated ones): "
                "all generated tokens count as used"
            )


def _priced(pacer: Pacer, curve: npt.NDArray[np.float64], limit: int | None) -> int:
    """What a curve would be granted now."""
    windows = pacer.quote(curve)
    tokens = int(grid_of(pacer, len(curve))[windows - 1]) if windows else 0
    return tokens if limit is None else min(limit, tokens)


def _failed(error: Exception) -> str:
    logger.warning("prediction failed, the budget is uniform: %s", type(error).__name__)
    return "error"
