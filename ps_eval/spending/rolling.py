"""Answering with forecasts under way: at each checkpoint a reasoning goes on, or is made to answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ps_alloc import StoppingRule, reallocate, worth_going_on
from ps_eval.engines.base import Answer, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.transformers import TransformersEngine
from ps_eval.engines.watch import Underway, Watch
from ps_eval.grading import Grader
from ps_eval.spending.answer_file import Answered, AnswerFile
from ps_train.forecast.forecaster import Forecast, Forecaster
from ps_train.forecast.states import stopping_states
from ps_train.forecast.trace_features import TokenTrace
from ps_train.questions import Question

Bools = npt.NDArray[np.bool_]


class Policy(Protocol):
    """Who goes on from a checkpoint."""

    def begin(self, rows: int) -> None:
        """A new batch of so many questions begins."""

    def goes_on(self, forecast: Forecast, checkpoint: int, segment: int, ended: int) -> Bools:
        """Which of the reasonings that stand at a checkpoint go on.

        Args:
            forecast: Of them.
            checkpoint: Its number, from 0 before the first token.
            segment: Tokens until the next one.
            ended: Tokens that the batch's other reasonings have used.
        """
        ...


@dataclass(frozen=True)
class Priced:
    """Go on while it is worth its tokens: by a look at the best budget ahead, or by a learnt rule."""

    price: float
    """Correct answers a token must buy."""
    rule: StoppingRule | None = None

    def begin(self, rows: int) -> None:
        """Nothing is shared by a batch."""

    def goes_on(self, forecast: Forecast, checkpoint: int, segment: int, ended: int) -> Bools:
        """See `Policy`."""
        if self.rule is not None:
            return self.rule.goes_on(stopping_states(forecast, self.price), checkpoint)
        spent = np.full(len(forecast.now), forecast.elapsed)
        return worth_going_on(forecast.curves, forecast.use, self.price, now=forecast.now, elapsed=spent)


@dataclass
class Budgeted:
    """A budget for each batch, spent again at every checkpoint; never exceeded."""

    mean_tokens: float
    """Reasoning tokens a question."""
    _total: int = field(default=0, init=False)

    def begin(self, rows: int) -> None:
        """The batch's budget."""
        self._total = int(self.mean_tokens * rows)

    def goes_on(self, forecast: Forecast, checkpoint: int, segment: int, ended: int) -> Bools:
        """See `Policy`."""
        elapsed = np.full(len(forecast.now), forecast.elapsed)
        return reallocate(
            forecast.curves,
            max(0, self._total - ended - int(elapsed.sum())),
            elapsed=elapsed,
            now=forecast.now,
            budgets=forecast.budgets,
            use=forecast.use,
            segment=segment,
        ).goes_on


@dataclass
class Roller:
    """One engine, one forecaster, one policy."""

    engine: TransformersEngine
    forecaster: Forecaster
    policy: Policy
    checkpoints: Sequence[int]
    """Tokens, among the forecaster's budgets and without its last; 0 is one always."""
    sampling: Sampling
    seconds: dict[str, float] = field(default_factory=lambda: {"checkpoints": 0.0, "reasoning": 0.0})
    """Spent on forecasts and decisions, and on reasoning without them."""

    def __post_init__(self) -> None:
        grid = self.forecaster.schema.budgets
        self.checkpoints = sorted(set(self.checkpoints))
        if not set(self.checkpoints) <= set(grid[:-1]):
            raise ValueError(
                f"checkpoints must be among the forecaster's budgets before its last, {grid[:-1]}, "
                f"got {list(self.checkpoints)}"
            )

    def reason(self, questions: Sequence[Question]) -> list[Reasoning | Failure]:
        """Reason about one batch of questions, each as long as the policy lets it."""
        grid = [0, *self.forecaster.schema.budgets]
        points = [0, *self.checkpoints]
        texts = [q.question for q in questions]
        layers = [int(name.removeprefix("layer_")) for name in self.forecaster.schema.prompt]
        started = time.perf_counter()
        prefilled = self.engine.prefill(texts, layers)
        prompts = self.forecaster.prompts(texts, prefilled.features)
        deciding = 0.0
        self.policy.begin(len(questions))
        ended: dict[int, int] = {}

        def decide(underway: list[Underway]) -> Bools:
            nonlocal deciding
            since = time.perf_counter()
            elapsed = len(underway[0].pieces)
            checkpoint = points.index(elapsed)
            places = [u.place for u in underway]
            following = points[checkpoint + 1] if checkpoint + 1 < len(points) else grid[-1]
            traces = [
                TokenTrace(u.pieces, np.array(u.logprobs, np.float32), np.array(u.entropies, np.float32))
                for u in underway
            ]
            seen = self.forecaster.forecast(prompts[places], traces, grid.index(elapsed))
            used = sum(known for place, known in ended.items() if place not in set(places))
            gone = np.asarray(self.policy.goes_on(seen, checkpoint, following - elapsed, used))
            # Whoever is not seen at the next checkpoint has used all of this segment at most.
            ended.update({place: following if g else elapsed for place, g in zip(places, gone, strict=True)})
            deciding += time.perf_counter() - since
            return gone

        first = decide([Underway(place, (), (), ()) for place in range(len(questions))])
        limits = [grid[-1] if on else 0 for on in first]
        requests = [
            Request(q.question, limit, stream_of(q.id)) for q, limit in zip(questions, limits, strict=True)
        ]
        watch = Watch(self.checkpoints, decide)
        found = list(self.engine.reason(requests, self.sampling, prefilled=prefilled, watch=watch))
        self.seconds["checkpoints"] += deciding
        self.seconds["reasoning"] += time.perf_counter() - started - deciding
        return found

    def answer(
        self,
        questions: Sequence[Question],
        file: AnswerFile,
        grader: Grader,
        *,
        keep_reasoning: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, str]:
        """Answer questions batch by batch, and keep each answer in `file` as its batch ends.

        A batch of which an answer is missing is reasoned about again whole: what a question gets may depend
        on the others, and rounding on their number. So a run that was killed ends in the same answers.

        Returns:
            Question id to the reason, for those that failed.
        """
        failures: dict[str, str] = {}
        size = self.engine.batch_size
        for start in range(0, len(questions), size):
            batch = questions[start : start + size]
            missing = {q.id for q in file.missing(batch)}
            if missing:
                reasonings = self.reason(batch)
                answers = self.engine.answer([q.question for q in batch], reasonings)
                rows = list(zip(batch, reasonings, answers, strict=True))
                failures |= {
                    q.id: part.reason
                    for q, r, a in rows
                    for part in (a, r)
                    if isinstance(part, Failure) and q.id in missing
                }
                file.append(
                    [
                        self._answered(q, r, a, grader, keep_reasoning)
                        for q, r, a in rows
                        if isinstance(r, Reasoning) and isinstance(a, Answer) and q.id in missing
                    ]
                )
            if progress:
                progress(len(batch))
        return failures

    def _answered(
        self, question: Question, reasoning: Reasoning, answer: Answer, grader: Grader, keep_reasoning: bool
    ) -> Answered:
        marker = self.engine.format.think_end
        graded = bool(question.answer)
        return Answered(
            id=question.id,
            question=question.question,
            text=answer.text.rpartition(marker)[2].strip() if marker else answer.text,
            reasoning=self.engine.text_of(reasoning) if keep_reasoning else None,
            answer=grader.extract(answer.text),
            budget=self.forecaster.schema.budgets[-1] if reasoning.finished else len(reasoning.token_ids),
            reasoning_tokens=len(reasoning.token_ids),
            answer_tokens=answer.num_tokens,
            forced=answer.forced,
            reference=question.answer if graded else None,
            correct=grader(answer.text, question.answer) if graded else None,
        )
