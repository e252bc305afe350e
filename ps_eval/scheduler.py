"""The user's front door: questions in, thinking budgets or answers out, one predictor and one engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.utils import logging as transformers_logging

from ps_alloc import Allocation
from ps_alloc._checks import whole_total
from ps_eval.engines.base import RequestsFailedError, Sampling
from ps_eval.engines.pool import EnginePool
from ps_eval.engines.shared_prefill import shared_prefill
from ps_eval.flag_groups import EngineFlags
from ps_eval.grading import DEFAULT_GRADER, load_grader
from ps_eval.run_folder import report_failures
from ps_eval.run_settings import RunSettings, predictor_identity
from ps_eval.spending.answer_file import Answered, AnswerFile, Decided, beside, decided_for
from ps_eval.spending.asked import as_questions, check_most, check_spend, questions_identity
from ps_eval.spending.guards import check_predictor
from ps_eval.spending.policies import PolicyInputs, allocate_policy, default_policy
from ps_eval.spending.response_file import Job
from ps_eval.spending.responses import answered, as_they_end
from ps_eval.spending.run import inputs_from
from ps_eval.spending.stream import Stream, paced
from ps_eval.spending.target import TARGETED, tokens_for_accuracy
from ps_eval.spending.unlike import KEEP, check_unlike
from ps_train.common.features import Features
from ps_train.load import load_predictor
from ps_train.questions import Question


class Scheduler:
    """Gives each question the thinking tokens it needs, within a budget for all of them.

        scheduler = Scheduler("runs/my/predictor", model="checkpoints/tiny-reasoner")
        scheduler.budgets(questions, mean_tokens=64).tokens  # decided before anything is generated
        scheduler.answer(questions, mean_tokens=64)  # texts, tokens used

    The engine is loaded when the first question is answered.
    """

    def __init__(
        self,
        predictor: str | Path,
        *,
        model: str | Path | None = None,
        engine: str | EnginePool = "transformers",
        engine_options: Mapping[str, Any] | None = None,
        format: Mapping[str, Any] | None = None,
        prompt: Mapping[str, Any] | None = None,
        batch_size: int = 128,
        sampling: Sampling | None = None,
        grader: str = DEFAULT_GRADER,
        backbone: str | Path | None = None,
        min_windows: int = 1,
        unlike: str = KEEP,
        allow_other_model: bool = False,
        allow_other_grader: bool = False,
        allow_code: bool = False,
    ) -> None:
        """Load a predictor.

        Args:
            predictor: Its folder, or a hub id.
            model: The reasoning model, a folder or a name; needed to answer.
            engine: What runs the model: transformers, vllm, vllm-native, openai (a server), ray (a cluster),
                `module:Class` of your own, or a pool that is loaded already.
            engine_options: Of the engine's own, such as `{"dtype": "bfloat16"}`.
            format: How the model ends its reasoning, by fields of `ReasoningFormat`.
            prompt: What is put around a question, by fields of `PromptFormat`.
            batch_size: Sequences decoded at once.
            sampling: How reasoning is drawn.
            grader: Reads answers off texts, and grades where there are references.
            backbone: Language model that reads questions for the predictor, instead of the one it names.
            min_windows: Fewest windows a question gets.
            unlike: keep what is predicted of questions unlike those the predictor learned from, or take the
                mean of these.
            allow_other_model: Go on although the predictor learned from another model's answers.
            allow_other_grader: Go on although another grader graded what the predictor learned from.
            allow_code: Run a predictor whose config names an architecture of your own, `module:Class`.

        Raises:
            ValueError: If the predictor cannot be read, or is another model's.
        """
        transformers_logging.disable_progress_bar()  # loading is quick beside generating
        self.predictor = load_predictor(predictor, backbone=backbone, allow_code=allow_code)
        self.sampling, self.grader = Sampling() if sampling is None else sampling, load_grader(grader)
        if not isinstance(self.sampling, Sampling):
            raise ValueError(f"sampling must be a Sampling, got {sampling!r:.80}")
        served = engine.name if isinstance(engine, EnginePool) else model
        self.remarks = check_predictor(
            predictor,
            served_model=None if served is None else str(served),
            grader=self.grader.identity,
            allow_other_model=allow_other_model,
            allow_other_grader=allow_other_grader,
        )
        """What is not as it should be but was allowed."""
        self._min_windows, self._unlike = min_windows, check_unlike(unlike)
        self._identity = predictor_identity(predictor)
        self._pool = engine if isinstance(engine, EnginePool) else None
        self._model = model
        self._runner = EngineFlags(
            str(engine),
            _copied("engine_options", engine_options),
            _copied("format", format),
            _copied("prompt", prompt),
            batch_size,
        )

    @property
    def pool(self) -> EnginePool:
        """The engine, loaded when first asked for.

        Raises:
            ValueError: If no model was named, or it cannot be loaded.
        """
        if self._pool is None:
            if self._model is None:
                raise ValueError("model must be given to answer questions, got None")
            self._pool = self._runner.load(self._model)
        return self._pool

    def predict(self, questions: Sequence[str | Question]) -> PolicyInputs:
        """What the predictor says of questions, and which are `unlike` those it learned from."""
        return self._inputs(as_questions(questions))

    def policy_or_default(self, policy: str | None) -> str:
        """The policy named; without one what is best with this predictor: `policies.default_policy`."""
        return policy or default_policy(self.predictor.schema.has_use)

    def budgets(
        self,
        questions: Sequence[str | Question],
        *,
        mean_tokens: float | None = None,
        total_tokens: int | None = None,
        accuracy: float | None = None,
        policy: str | None = None,
    ) -> Allocation:
        """Decide how many tokens each question may think for; nothing is generated.

        Args:
            questions: N texts, or `Question`s with ids.
            mean_tokens: Mean reasoning tokens a question. Give this, `total_tokens` or `accuracy`. The policy
                use counts those expected to be used, every other one those granted.
            total_tokens: Reasoning tokens for all questions together, likewise.
            accuracy: The least budget whose expected accuracy, in [0, 1], is this.
            policy: use (priced by predicted use), hull (granted tokens), myopic (the paper's greedy), mix,
                uniform or `module:function`; by default use where the predictor knows it, else hull.

        Returns:
            `tokens` (N,), `expected_used` (N,), `expected_accuracy`, `price` (correct answers a further token
            buys), `ids`, and `unlike`, the rows of questions unlike those the predictor learned from.

        Raises:
            ValueError: If not exactly one of the three is given, it is out of range, or a question has no
                text.
        """
        asked = as_questions(questions)
        spend = {"mean_tokens": mean_tokens, "total_tokens": total_tokens, "accuracy": accuracy}
        check_spend(**spend)  # type: ignore[arg-type]
        return self._decide(asked, self._inputs(asked), policy, **spend)  # type: ignore[arg-type]

    def _inputs(self, asked: Sequence[Question], features: Features | None = None) -> PolicyInputs:
        return inputs_from(self.predictor, [q.question for q in asked], features, self._unlike)

    def _decide(
        self,
        asked: Sequence[Question],
        inputs: PolicyInputs,
        policy: str | None,
        *,
        mean_tokens: float | None,
        total_tokens: int | None,
        accuracy: float | None,
    ) -> Allocation:
        policy = self.policy_or_default(policy)
        if accuracy is not None:
            total = tokens_for_accuracy(inputs, accuracy, policy=policy, min_windows=self._min_windows)
        elif total_tokens is not None:
            check_most("total_tokens", total_tokens / len(asked), inputs.budgets)
            total = total_tokens
        else:
            assert mean_tokens is not None
            check_most("mean_tokens", mean_tokens, inputs.budgets)
            total = whole_total(mean_tokens, len(asked))
        allocation = allocate_policy(
            policy, inputs, total, min_windows=self._min_windows, seed=self.sampling.seed
        )
        unlike = None if inputs.unlike is None else np.flatnonzero(inputs.unlike)
        return replace(allocation, ids=[q.id for q in asked], unlike=unlike)

    def answer(
        self,
        questions: Sequence[str | Question],
        *,
        mean_tokens: float | None = None,
        total_tokens: int | None = None,
        accuracy: float | None = None,
        policy: str | None = None,
        output: str | Path | None = None,
        reasoning: bool = True,
        skip_failed: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> list[Answered]:
        """Answer each question within its budget.

        Args:
            questions: N texts, or `Question`s; those with references are graded.
            mean_tokens: As in `budgets`, like `total_tokens`, `accuracy` and `policy`.
            total_tokens: See there.
            accuracy: See there.
            policy: See there.
            output: JSONL file that grows as answers end, and is continued after an interruption: what is in
                it is not asked again. `-` is the standard output.
            reasoning: Whether answers carry the text of the reasoning.
            skip_failed: Return without questions that failed.
            progress: Called with the questions, or parts of one, that just ended; first with those of an
                earlier call.

        Returns:
            The answers in the order asked.

        Raises:
            ValueError: As `budgets`; if `output` was begun with other settings, questions or budgets.
            RequestsFailedError: If requests failed and are not skipped.
        """
        asked = as_questions(questions)
        spend = {"mean_tokens": mean_tokens, "total_tokens": total_tokens, "accuracy": accuracy}
        check_spend(**spend)  # type: ignore[arg-type]
        settings = self.run_settings(
            {
                "questions": questions_identity(asked),
                "policy": self.policy_or_default(policy),
                **spend,
                "keeps_reasoning": reasoning,
            }
        )
        with AnswerFile.opened(output, settings) as file, ExitStack() as stack:
            decided = None if file.path is None else beside(file.path, "budgets.json")
            if decided is not None and decided.is_file():
                allocation = Allocation.load(decided)  # to the token what was decided, whatever rounds now
            else:
                features = stack.enter_context(
                    shared_prefill(self.predictor, self.pool, [q.question for q in asked])
                )
                allocation = self._decide(asked, self._inputs(asked, features), policy, **spend)  # type: ignore[arg-type]
                if decided is not None:
                    allocation.save(decided)
            grants = decided_for(asked, allocation)
            missing = file.missing(asked)
            if progress:
                progress(len(asked) - len(missing))
            failures = self.answer_within(grants, missing, file, reasoning, progress)
            if file.path is not None:
                report_failures(beside(file.path, "failed.jsonl"), failures, len(asked), skip=skip_failed)
            elif failures and not skip_failed:
                name, reason = next(iter(failures.items()))
                raise RequestsFailedError(f"{len(failures)} of {len(asked)} failed, {name} first: {reason}")
            return file.put_in_order([q.id for q in asked])

    def answer_within(
        self,
        decided: Mapping[str, Decided],
        questions: Sequence[Question],
        file: AnswerFile,
        reasoning: bool = True,
        progress: Callable[[float], None] | None = None,
    ) -> dict[str, str]:
        """Answer questions within budgets that are decided, and keep each answer in `file` as it ends.

        Args:
            decided: Question id to its tokens.
            questions: What to answer.
            file: Where answers go.
            reasoning: Whether answers carry the text of the reasoning.
            progress: Called with the questions, or parts of one, that just ended.

        Returns:
            Question id to the reason, for those that failed.
        """
        jobs = [Job(q, (decided[q.id].budget,), None) for q in questions]
        failures: dict[str, str] = {}
        marker = str(self.pool.settings.get("think_end", ""))
        with closing(as_they_end(jobs, self.pool, self.sampling, progress)) as ended:
            for found in ended:
                failures |= {job.question.id: o.failure for job, o in found if o.failure is not None}
                file.append(
                    [
                        replace(
                            answered(job.question, outcome, self.grader, marker, reasoning),
                            unlike=decided[job.question.id].unlike,
                        )
                        for job, outcome in found
                        if outcome.failure is None
                    ]
                )
        return failures

    def stream(
        self,
        *,
        mean_tokens: float,
        past_questions: Sequence[str | Question] = (),
        step: float = 0.01,
        policy: str | None = None,
    ) -> Stream:
        """Decide questions one at a time as they arrive, so that the mean keeps to `mean_tokens`.

        Args:
            mean_tokens: Mean reasoning tokens a question: expected to be used where the policy is use, else
                granted.
            past_questions: Like those to come, to start from their price instead of learning it.
            step: How fast the price moves; see `ps_alloc.Pacer`.
            policy: use or hull; by default use where the predictor knows it.

        Raises:
            ValueError: If the policy is another, the mean is out of range, or a past question is no text.
        """
        policy = self.policy_or_default(policy)
        if policy not in TARGETED:
            raise ValueError(f"a stream is decided by one of the policies {TARGETED}, got {policy!r}")
        check_spend(mean_tokens=mean_tokens)
        grid = grid_of(self.predictor)
        check_most("mean_tokens", mean_tokens, grid)
        price = None
        if not isinstance(past_questions, Sized) or len(past_questions):
            price = self.budgets(past_questions, mean_tokens=mean_tokens, policy=policy).price
        pacer = paced(grid, mean_tokens, self._min_windows, price, step)
        return Stream(self.predict, pacer, by_use=policy == "use")

    def run_settings(self, more: Mapping[str, Any]) -> RunSettings:
        """All that this scheduler's answers depend on, with the caller's own."""
        more = {**more, "min_windows": self._min_windows}
        if self._unlike != KEEP:
            more["unlike"] = self._unlike
        return RunSettings(self.pool.settings, self.sampling, self.grader.identity, self._identity, more)


def _copied(name: str, values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if values is not None and not isinstance(values, Mapping):
        raise ValueError(f"{name} must be fields with values, got {values!r:.80}")
    return None if values is None else dict(values)


def grid_of(predictor: Any) -> npt.NDArray[np.int64]:
    """The (W,) token budgets that a predictor speaks of."""
    own = getattr(predictor, "budgets", None)
    grid: npt.NDArray[np.int64] = predictor.schema.grid if own is None else own
    return grid
