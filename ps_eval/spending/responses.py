"""Responses: a question is reasoned about once, and answered under every budget that anyone asks for.

A smaller budget's reasoning is the beginning of a larger one's: it is cut, not generated again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from ps_eval.engines.base import Answer, Engine, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.pool import EnginePool, row_by_row
from ps_eval.grading import Grader
from ps_eval.spending.answer_file import Answered
from ps_eval.spending.response_file import Job, Responded, Response, ResponseFile, Thought
from ps_train.questions import Question

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a job: all of it, or a part and why not the rest."""

    responded: Responded | None
    failure: str | None = None


def collect(
    file: ResponseFile,
    wanted: Mapping[Question, Sequence[int]],
    engine: Engine | EnginePool,
    sampling: Sampling,
    *,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Ask for every response that `file` lacks, and keep each as it ends.

    Args:
        file: Where responses are and go.
        wanted: Each question's budgets.
        engine: Where the model runs.
        sampling: How reasoning is drawn.
        progress: Called with the questions, or parts of one, that just ended.

    Returns:
        Question id to the reason, for those of which any request failed.

    Raises:
        RuntimeError: If the engine reasoned for longer than a budget: its accuracy would be worth nothing.
    """
    jobs = [job for question, budgets in wanted.items() if (job := file.job(question, budgets))]
    if progress:
        progress(len(wanted) - len(jobs))
    failures: dict[str, str] = {}
    with closing(as_they_end(jobs, engine, sampling, progress)) as ended:
        for found in ended:
            file.append([outcome.responded for _, outcome in found if outcome.responded])
            failures |= {job.question.id: outcome.failure for job, outcome in found if outcome.failure}
    return failures


def as_they_end(
    jobs: Sequence[Job], engine: Engine | EnginePool, sampling: Sampling, progress: Progress | None = None
) -> Generator[list[tuple[Job, Outcome]], None, None]:
    """Do jobs in batches, or row by row where the engine can, and yield what ended together.

    Where the first batch brings nothing but failures, the rest is not asked.

    Raises:
        RuntimeError: If the engine reasoned for longer than a budget: its accuracy would be worth nothing.
    """
    pool = row_by_row(engine)
    # Rows of like length together: less padding, and they end together.
    order = sorted(jobs, key=lambda job: job.budgets[-1] if job.thought is None else 0)
    tasks = [order[i : i + pool.rows_a_task] for i in range(0, len(order), pool.rows_a_task)]
    within = progress if pool.in_process else None  # else it would have to travel to other processes
    failed, succeeded = 0, False
    with closing(pool.map(partial(respond, sampling=sampling, progress=within), tasks)) as results:
        for task, outcomes in results:
            succeeded = succeeded or any(not outcome.failure for outcome in outcomes)
            failed += sum(outcome.failure is not None for outcome in outcomes)
            yield list(zip(task, outcomes, strict=True))
            if progress and not within:
                progress(len(task))
            if not succeeded and failed >= pool.batch_size:
                return


def respond(
    engine: Engine, jobs: Sequence[Job], *, sampling: Sampling, progress: Progress | None = None
) -> list[Outcome]:
    """Reason about each question once, within its largest budget, and answer under all of its budgets.

    Args:
        engine: Where the model runs. One that reasons and answers in one pass does so for each budget.
        jobs: Questions and budgets.
        sampling: How reasoning is drawn.
        progress: Called with questions, or parts of one, that just ended.

    Returns:
        One a job.

    Raises:
        RuntimeError: If the engine reasoned for longer than a budget.
    """
    if engine.one_pass:
        return _respond_in_one_pass(engine, jobs, sampling, progress)
    fresh = [job for job in jobs if job.thought is None]
    half = None if progress is None else lambda rows: progress(rows / 2)
    requests = [Request(j.question.question, j.budgets[-1], stream_of(j.question.id)) for j in fresh]
    reasoned = iter(engine.reason(requests, sampling, half) if requests else [])
    reasonings: list[Reasoning | Failure] = []
    for job in jobs:
        if job.thought is not None:
            reasonings.append(job.thought.reasoning)
        else:
            reasonings.append(_checked(job, job.budgets[-1], next(reasoned)))

    # A reasoning that ended by itself is the same under every budget it fits in: answered once.
    cuts = [
        [] if isinstance(r, Failure) else list(dict.fromkeys(r.cut(b) for b in job.budgets))
        for job, r in zip(jobs, reasonings, strict=True)
    ]
    rows = [(job, cut) for job, mine in zip(jobs, cuts, strict=True) for cut in mine]
    share = (
        None if progress is None or not rows else _scaled(progress, (len(jobs) - len(fresh) / 2) / len(rows))
    )
    answers = engine.answer([job.question.question for job, _ in rows], [cut for _, cut in rows], share)
    by_cut = {(job.question.id, cut): a for (job, cut), a in zip(rows, answers, strict=True)}
    results = []
    for job, reasoning in zip(jobs, reasonings, strict=True):
        if isinstance(reasoning, Failure):
            results.append(Outcome(None, reasoning.reason))
            continue
        thought = job.thought or Thought(
            job.budgets[-1],
            list(reasoning.token_ids),
            reasoning.finished,
            engine.text_of(reasoning),
            list(reasoning.end_ids),
        )
        given = [(b, cut, by_cut[job.question.id, cut]) for b in job.budgets for cut in [reasoning.cut(b)]]
        results.append(_outcome(job, None if job.thought else thought, given))
    return results


def _respond_in_one_pass(
    engine: Engine, jobs: Sequence[Job], sampling: Sampling, progress: Progress | None
) -> list[Outcome]:
    rows = [(job, budget) for job in jobs for budget in job.budgets]
    requests = [Request(j.question.question, b, stream_of(j.question.id)) for j, b in rows]
    reasonings, answers = engine.respond(requests, sampling)
    if progress:
        progress(len(jobs))
    ended = iter(zip(rows, reasonings, answers, strict=True))
    results = []
    for job in jobs:
        mine = [next(ended) for _ in job.budgets]
        given = [(b, _checked(job, b, reasoning), answer) for (_, b), reasoning, answer in mine]
        results.append(_outcome(job, None, given, engine.text_of))
    return results


def _outcome(
    job: Job,
    thought: Thought | None,
    given: Sequence[tuple[int, Reasoning | Failure, Answer | Failure]],
    text_of: Callable[[Reasoning], str | None] = lambda reasoning: None,
) -> Outcome:
    responses, failure = [], None
    for budget, reasoning, answer in given:
        if isinstance(reasoning, Failure) or isinstance(answer, Failure):
            failure = failure or next(r.reason for r in (reasoning, answer) if isinstance(r, Failure))
            continue
        used = len(reasoning.token_ids)
        text = text_of(reasoning)
        responses.append(Response(budget, used, answer.num_tokens, answer.forced, answer.text, text))
    known = bool(responses) or thought is not None
    return Outcome(Responded(job.question.id, thought, responses) if known else None, failure)


def check_within(name: str, budget: int, reasoning: Reasoning) -> None:
    """Refuse a reasoning that is longer than its budget: an engine's defect.

    Raises:
        RuntimeError: If it is.
    """
    if len(reasoning.token_ids) > budget:
        raise RuntimeError(f"{name} was reasoned about for {len(reasoning.token_ids)} > {budget} tokens")


def _checked(job: Job, budget: int, reasoning: Reasoning | Failure) -> Reasoning | Failure:
    if isinstance(reasoning, Reasoning):
        check_within(job.question.id, budget, reasoning)
    return reasoning


def _scaled(progress: Progress, share: float) -> Progress:
    return lambda rows: progress(share * rows)


def answered(
    question: Question, outcome: Outcome, grader: Grader, marker: str, keep_reasoning: bool
) -> Answered:
    """A job of one budget that ended well, as a user reads it.

    Args:
        question: What was asked; graded where it has a reference.
        outcome: What became of it.
        grader: Reads the answer, and grades it.
        marker: Ends the reasoning, and is no part of the text.
        keep_reasoning: Whether the reasoning's text goes with it.
    """
    responded = outcome.responded
    assert responded is not None  # it did not fail
    (response,) = responded.responses
    thought = response.reasoning if responded.thought is None else responded.thought.text
    graded = bool(question.answer)
    return Answered(
        id=question.id,
        question=question.question,
        text=response.text.rpartition(marker)[2].strip() if marker else response.text,
        reasoning=thought if keep_reasoning else None,
        answer=grader.extract(response.text),
        budget=response.budget,
        reasoning_tokens=response.reasoning_tokens,
        answer_tokens=response.answer_tokens,
        forced=response.forced,
        reference=question.answer if graded else None,
        correct=grader(response.text, question.answer) if graded else None,
    )
