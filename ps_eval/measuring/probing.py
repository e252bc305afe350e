"""Measure accuracy curves: sample chains of thought, and probe each for its answer under every budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from ps_alloc.predictions import check_budgets, uniform_budgets
from ps_eval.engines.base import Answer, Engine, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.pool import EnginePool, OneEngine
from ps_eval.grading import extract_answer, is_correct, load_grader
from ps_eval.measuring.trace_file import TracedQuestion, TraceFile
from ps_eval.measuring.traced_table import traced_table
from ps_eval.run_folder import remember_questions, report_failures
from ps_train.curve_table import CurveTable
from ps_train.questions import Question

KEPT_APART = ("budgets", "questions_per_chunk")
"""Settings of a run that its table says elsewhere, or that do not shape it."""


def measure_curves(
    questions: Sequence[Question],
    engine: Engine | EnginePool,
    output: str | Path,
    *,
    num_traces: int = 8,
    window: int = 16,
    num_windows: int = 16,
    budgets: Sequence[int] | None = None,
    sampling: Sampling | None = None,
    questions_per_chunk: int = 64,
    progress: Callable[[int], None] | None = None,
) -> CurveTable:
    """Trace and probe every question, and write the curve table.

    A trace is sampled with the largest budget; where each smaller one would have cut it, its answer is forced
    and graded. A trace that ends by itself keeps its own answer from there on. The curve of a question is the
    mean over its traces (Predictive Scheduling, section 3). The same traces give `use`, `finished` and
    `strict`; the answer without any reasoning is asked once a question (column `at_zero`).

    Work is done in chunks of questions; `output` may hold the first part of an interrupted run, which is then
    continued. A chunk that was cut is computed again whole, so that batches, and with them the rounding of
    every number, are those of an uninterrupted run; only where the engine cannot promise this anyway (a
    server) are the missing questions alone asked again.

    A question of which any request failed is left out and written to `failed.jsonl` with the reason; the rest
    goes on. There is no table until none has failed.

    Args:
        questions: What to ask.
        engine: Where the model runs; with a pool, chunks are traced side by side and saved as they end.
        output: The table's folder.
        num_traces: Chains of thought a question.
        window: Tokens from one budget to the next.
        num_windows: W, how many there are.
        budgets: Any grid of W rising budgets in tokens, instead of `window` and `num_windows`.
        sampling: How reasoning is drawn.
        questions_per_chunk: Questions traced together.
        progress: Called with the number of questions that just ended.

    Returns:
        The table, also written to `output`, in the order of `questions`.

    Raises:
        ValueError: If a count is below 1, or `output` was begun with other settings or other questions.
        RequestsFailedError: If questions failed; a whole chunk of failures ends the run at once.
    """
    sampling = sampling or Sampling()
    pool = engine if isinstance(engine, EnginePool) else OneEngine(engine)
    counts = {"num_traces": num_traces, "questions_per_chunk": questions_per_chunk}
    if budgets is None:
        counts |= {"window": window, "num_windows": num_windows}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    grid = uniform_budgets(window, num_windows) if budgets is None else check_budgets(budgets)
    settings = {
        "engine": pool.kind,
        "model": pool.name,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "num_traces": num_traces,
        "budgets": grid.tolist(),
        "questions_per_chunk": questions_per_chunk,
        "grader": load_grader().identity,
    }
    file = TraceFile(output, settings)
    traced = {t.id: t for t in file.read()}
    strangers = sorted(traced.keys() - {q.id for q in questions})
    if strangers:
        raise ValueError(
            f"{output} must be resumed with the questions it was begun with, but holds {strangers[0]!r}"
        )
    remember_questions(output, questions)
    failures: dict[str, str] = {}
    chunks = []
    for start in range(0, len(questions), questions_per_chunk):
        chunk = questions[start : start + questions_per_chunk]
        missing = [q for q in chunk if q.id not in traced]
        if missing:
            chunks.append(chunk if pool.repeatable else missing)
        if progress:
            progress(len(chunk) - len(missing))
    trace = partial(_trace_chunk, num_traces=num_traces, budgets=grid.tolist(), sampling=sampling)
    with closing(pool.map(trace, chunks)) as ended:
        for asked, results in ended:
            found = {r.id: r for r in results if isinstance(r, TracedQuestion)}
            missing = [q for q in asked if q.id not in traced]
            file.append([found[q.id] for q in missing if q.id in found])
            traced |= found
            failures |= {
                q.id: r.reason for q, r in zip(asked, results, strict=True) if isinstance(r, Failure)
            }
            if not found:
                break
            if progress:
                progress(len(missing))
    report_failures(output, failures, len(questions))
    table = traced_table(questions, [traced[q.id] for q in questions], grid)
    table = replace(
        table, metadata={"answer": "forced"} | {k: str(v) for k, v in settings.items() if k not in KEPT_APART}
    )
    table.save(output)
    return table


def _trace_chunk(
    engine: Engine,
    questions: Sequence[Question],
    *,
    num_traces: int,
    budgets: Sequence[int],
    sampling: Sampling,
) -> list[TracedQuestion | Failure]:
    rows = [(q, t) for q in questions for t in range(num_traces)]
    requests = [Request(q.question, budgets[-1], stream_of(q.id, t)) for q, t in rows]
    reasonings = engine.reason(requests, sampling)
    probes = engine.probe([q.question for q, _ in rows], reasonings, budgets)
    unreasoned = engine.answer([q.question for q in questions], [Reasoning((), False)] * len(questions))
    traced = []
    for number, question in enumerate(questions):
        mine = slice(number * num_traces, (number + 1) * num_traces)
        traced.append(_traced_question(question, reasonings[mine], probes[mine], unreasoned[number]))
    return traced


def _traced_question(
    question: Question,
    reasonings: Sequence[Reasoning | Failure],
    probes: Sequence[list[Answer] | Failure],
    unreasoned: Answer | Failure,
) -> TracedQuestion | Failure:
    """One question's traces with their graded probes, or the first failure among them."""
    whole: list[tuple[Reasoning, list[Answer]]] = []
    for reasoning, probed in zip(reasonings, probes, strict=True):
        if isinstance(reasoning, Failure):
            return reasoning
        if isinstance(probed, Failure):
            return probed
        whole.append((reasoning, probed))
    if isinstance(unreasoned, Failure):
        return unreasoned
    answers = [[extract_answer(a.text) for a in probed] for _, probed in whole]
    return TracedQuestion(
        id=question.id,
        lengths=[len(r.token_ids) for r, _ in whole],
        finished=[r.finished for r, _ in whole],
        answers=answers,
        correct=[[int(is_correct(a, question.answer)) for a in trace] for trace in answers],
        probe_tokens=sum(a.num_generated for _, probed in whole for a in probed if a.forced),
        correct_at_zero=int(is_correct(extract_answer(unreasoned.text), question.answer)),
    )
