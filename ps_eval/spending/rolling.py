"""Answering with forecasts under way: at each checkpoint a reasoning goes on, or is made to answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ps_alloc import StoppingRule, reallocate, worth_going_on
from ps_alloc._checks import whole_total
from ps_eval.engines.base import Answer, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.prefill import PrefillEngine
from ps_eval.engines.watch import Checkpoint, Underway, Watch
from ps_eval.grading import Grader, load_grader
from ps_eval.spending.answer_file import Answered, AnswerFile
from ps_train.common.features import TEXT, layer_name, layers_by_model
from ps_train.forecast.forecaster import Forecast, Forecaster
from ps_train.forecast.probes import Probe, asks
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

    def __post_init__(self) -> None:
        if not 0 <= self.price < np.inf:
            raise ValueError(f"price must be finite and at least 0, got {self.price}")

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

    def __post_init__(self) -> None:
        if not 0 <= self.mean_tokens < np.inf:
            raise ValueError(f"budget must be finite and at least 0, got {self.mean_tokens}")

    def begin(self, rows: int) -> None:
        """The batch's budget."""
        self._total = whole_total(self.mean_tokens, rows)

    def goes_on(self, forecast: Forecast, checkpoint: int, segment: int, ended: int) -> Bools:
        """See `Policy`."""
        elapsed = np.full(len(forecast.now), forecast.elapsed)
        ahead = forecast.budgets >= forecast.elapsed + segment  # it is not stopped before: less is not had
        return reallocate(
            forecast.curves[:, ahead],
            max(0, self._total - ended - int(elapsed.sum())),
            elapsed=elapsed,
            now=forecast.now,
            budgets=forecast.budgets[ahead],
            use=forecast.use[:, ahead],
            segment=segment,
        ).goes_on


@dataclass
class Roller:
    """One engine, one forecaster, one policy."""

    engine: PrefillEngine
    forecaster: Forecaster
    policy: Policy
    checkpoints: Sequence[int]
    """Tokens, among the forecaster's budgets and without its last; 0 is one always."""
    sampling: Sampling
    grader: Grader = field(default_factory=load_grader)
    """Reads answers, those of probes, too, and grades."""
    seconds: dict[str, float] = field(
        default_factory=lambda: {"checkpoints": 0.0, "probes": 0.0, "reasoning": 0.0}
    )
    """Spent on forecasts and decisions, on answers that the forecaster asks for, and on reasoning alone."""
    probe_tokens: dict[str, int] = field(default_factory=dict)
    """Question id to the tokens decoded for the answers that the forecaster asked for."""

    def __post_init__(self) -> None:
        grid = self.forecaster.schema.budgets
        self.checkpoints = sorted(set(self.checkpoints))
        if not set(self.checkpoints) <= set(grid[:-1]):
            raise ValueError(
                f"checkpoints must be among the forecaster's budgets before its last, {grid[:-1]}, "
                f"got {list(self.checkpoints)}"
            )
        prompt = self.forecaster.schema.prompt
        named = layers_by_model(prompt)
        if TEXT in prompt or named.keys() - {"backbone"}:
            raise ValueError(
                "a forecaster that rolls must read the engine's own model at the prompt, layer_<n>, got "
                f"{', '.join(sorted(prompt))}"
            )
        self._layers = named.get("backbone", [])

    def reason(self, questions: Sequence[Question]) -> list[Reasoning | Failure]:
        """Reason about one batch of questions, each as long as the policy lets it.

        One that has no room for the forecaster's last budget and an answer fails, and takes none of the
        batch's tokens.
        """
        longest = self.forecaster.schema.budgets[-1]
        unfit = self.engine.unfit([Request(q.question, longest) for q in questions])
        fit = [q for q, failure in zip(questions, unfit, strict=True) if failure is None]
        reasoned = iter(self._reason(fit) if fit else [])
        return [failure or next(reasoned) for failure in unfit]

    def _reason(self, questions: Sequence[Question]) -> list[Reasoning | Failure]:
        grid = [0, *self.forecaster.schema.budgets]
        points = [0, *self.checkpoints]
        texts = [q.question for q in questions]
        started = time.perf_counter()
        watched = self.forecaster.schema.trace.layer
        prefilled = self.engine.prefill(texts, sorted({*self._layers, *([watched] if watched else [])}))
        prompts = self.forecaster.prompts(texts, prefilled.features)
        seconds = dict.fromkeys(self.seconds, 0.0)
        self.policy.begin(len(questions))
        reserved = dict.fromkeys(range(len(texts)), 0)  # what each may use at most until it is seen again
        heard: list[list[Probe]] = [[] for _ in questions]
        self.probe_tokens |= dict.fromkeys((q.id for q in questions), 0)

        def decide(at: Checkpoint) -> Bools:
            since = time.perf_counter()
            elapsed, underway = at.tokens, at.underway
            checkpoint = points.index(elapsed)
            before = points[max(0, checkpoint - 1)]
            places = [u.place for u in underway]
            following = points[checkpoint + 1] if checkpoint + 1 < len(points) else grid[-1]
            self._listen(at, before, questions, heard)
            probed = time.perf_counter()
            traces = [
                TokenTrace(
                    u.pieces,
                    np.array(u.logprobs, np.float32),
                    np.array(u.entropies, np.float32),
                    heard[u.place],
                    {} if u.state is None else {elapsed: u.state},
                )
                for u in underway
            ]
            seen = self.forecaster.forecast(prompts[places], traces, grid.index(elapsed))
            known = reserved | dict(at.ended)
            used = sum(known[place] for place in known.keys() - set(places))
            gone = np.asarray(self.policy.goes_on(seen, checkpoint, following - elapsed, used))
            reserved.update(
                {place: following if g else elapsed for place, g in zip(places, gone, strict=True)}
            )
            seconds["probes"] += probed - since
            seconds["checkpoints"] += time.perf_counter() - probed
            return gone

        states = prefilled.features.get(layer_name(watched), [None] * len(texts))
        nothing = [Underway(place, (), (), (), (), state) for place, state in enumerate(states)]
        first = decide(Checkpoint(0, nothing, lambda _: [], {}))
        limits = [grid[-1] if on else 0 for on in first]
        requests = [
            Request(q.question, limit, stream_of(q.id)) for q, limit in zip(questions, limits, strict=True)
        ]
        watch = Watch(self.checkpoints, decide, watched)
        found = list(self.engine.reason(requests, self.sampling, prefilled=prefilled, watch=watch))
        seconds["reasoning"] = time.perf_counter() - started - sum(seconds.values())
        self.seconds = {name: spent + seconds[name] for name, spent in self.seconds.items()}
        return found

    def _listen(
        self, at: Checkpoint, since: int, questions: Sequence[Question], heard: Sequence[list[Probe]]
    ) -> None:
        """Ask for the answers that the forecaster wants of reasonings at a checkpoint.

        Args:
            at: The checkpoint.
            since: Tokens of the one before.
            questions: The batch's.
            heard: Of each of the batch's reasonings, its answers so far; the new ones are added.
        """
        probing = self.forecaster.schema.trace.probing
        asked = [n for n, u in enumerate(at.underway) if asks(probing, u.pieces, since, at.tokens)]
        if not asked:
            return
        for number, answer in zip(asked, at.ask(asked), strict=True):
            if isinstance(answer, Failure):
                continue  # its reasoning will fail likewise when it answers
            assert answer.confidence is not None  # engines that can be watched tell it
            place = at.underway[number].place
            heard[place].append(Probe(at.tokens, self.grader.extract(answer.text), answer.confidence))
            self.probe_tokens[questions[place].id] += answer.num_generated

    def answer(
        self,
        questions: Sequence[Question],
        file: AnswerFile,
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
                        self._answered(q, r, a, keep_reasoning)
                        for q, r, a in rows
                        if isinstance(r, Reasoning) and isinstance(a, Answer) and q.id in missing
                    ]
                )
            if progress:
                progress(len(batch))
        return failures

    def _answered(
        self, question: Question, reasoning: Reasoning, answer: Answer, keep_reasoning: bool
    ) -> Answered:
        marker = self.engine.format.think_end
        graded = bool(question.answer)
        return Answered(
            id=question.id,
            question=question.question,
            text=answer.text.rpartition(marker)[2].strip() if marker else answer.text,
            reasoning=self.engine.text_of(reasoning) if keep_reasoning else None,
            answer=self.grader.extract(answer.text),
            budget=self.forecaster.schema.budgets[-1] if reasoning.finished else len(reasoning.token_ids),
            reasoning_tokens=len(reasoning.token_ids),
            answer_tokens=answer.num_tokens,
            forced=answer.forced,
            reference=question.answer if graded else None,
            correct=self.grader(answer.text, question.answer) if graded else None,
            probe_tokens=self.probe_tokens[question.id],
        )
