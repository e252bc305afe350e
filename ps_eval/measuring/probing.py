"""Measure accuracy curves: sample chains of thought, and probe each for its answer under every budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ps_alloc.predictions import check_budgets, uniform_budgets
from ps_eval.engines import WATCHED
from ps_eval.engines.base import Answer, Engine, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.pool import EnginePool, OneEngine
from ps_eval.grading import Grader, load_grader
from ps_eval.measuring.trace_file import TracedQuestion, TraceFile
from ps_eval.measuring.traced_table import traced_table
from ps_eval.run_folder import locked_folder, remember_questions, report_failures
from ps_eval.run_settings import RunSettings
from ps_train.curve_table import CurveTable
from ps_train.questions import Question

NUMERICS = ("dtype", "device", "attention", "quantization", "batch_size", "tokenizer", "options")
"""Settings that a table does not name: it is the same from one engine and from the workers of a cluster."""
KEPT_APART = ("budgets", "questions_per_chunk", *NUMERICS)
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
    grader: Grader | None = None,
    skip_failed: bool = False,
    keep_tokens: bool = False,
    progress: Callable[[float], None] | None = None,
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
    goes on. There is no table until none has failed, unless they are skipped: then it is of the others.

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
        grader: Tells right answers from wrong ones.
        skip_failed: Write the table of the questions that did not fail.
        keep_tokens: Also keep each trace's tokens with their log-probabilities and entropies, and how sure
            the model was of each forced answer: what a forecaster learns from. Transformers and vLLM alone.
        progress: Called with the questions, or parts of one, that just ended; first with those of an earlier
            run.

    Returns:
        The table, also written to `output`, in the order of `questions`.

    Raises:
        ValueError: If a count is below 1, or `output` was begun with other settings or other questions, or
            is being written by another process.
        RequestsFailedError: If questions failed and are not skipped; a whole chunk of failures ends the run
            at once.
    """
    sampling, grader = sampling or Sampling(), grader or load_grader()
    pool = engine if isinstance(engine, EnginePool) else OneEngine(engine)
    counts = {"num_traces": num_traces, "questions_per_chunk": questions_per_chunk}
    if budgets is None:
        counts |= {"window": window, "num_windows": num_windows}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if keep_tokens and pool.settings.get("engine") not in WATCHED:
        raise ValueError(
            f"keep_tokens needs the engine {' or '.join(WATCHED)}, got {pool.settings.get('engine')!r}, "
            "which does not tell the probability of each token"
        )
    grid = uniform_budgets(window, num_windows) if budgets is None else check_budgets(budgets)
    settings = RunSettings(
        pool.settings,
        sampling,
        grader.identity,
        more={
            "num_traces": num_traces,
            "budgets": grid.tolist(),
            "questions_per_chunk": questions_per_chunk,
            **({"keep_tokens": True} if keep_tokens else {}),
        },
    )
    with locked_folder(output):
        file = TraceFile(output, settings)
        traced = {t.id: t for t in file.read()}
        strangers = sorted(traced.keys() - {q.id for q in questions})
        if strangers:
            raise ValueError(
                f"{output} must be resumed with the questions it was begun with, but holds {strangers[0]!r}"
            )
        remember_questions(output, questions)
        trace = partial(
            _trace_chunk,
            num_traces=num_traces,
            budgets=grid.tolist(),
            sampling=sampling,
            grader=grader,
            keep_tokens=keep_tokens,
        )
        failures = _trace_missing(questions, traced, file, pool, questions_per_chunk, trace, progress)
        report_failures(output, failures, len(questions), skip=skip_failed)
        kept = [q for q in questions if q.id in traced]
        table = traced_table(kept, [traced[q.id] for q in kept], grid)
        metadata = {k: str(v) for k, v in settings.flat().items() if k not in KEPT_APART}
        table = replace(table, metadata={"answer": "forced", **metadata})
        table.save(output)
    return table


def _trace_missing(
    questions: Sequence[Question],
    traced: dict[str, TracedQuestion],
    file: TraceFile,
    pool: EnginePool,
    questions_per_chunk: int,
    trace: Callable[..., list[TracedQuestion | Failure]],
    progress: Callable[[float], None] | None,
) -> dict[str, str]:
    """Trace what `traced` lacks and add it there and to the file; returns why which questions failed."""
    failures: dict[str, str] = {}
    chunks = []
    for start in range(0, len(questions), questions_per_chunk):
        chunk = questions[start : start + questions_per_chunk]
        missing = [q for q in chunk if q.id not in traced]
        if missing:
            chunks.append(chunk if pool.repeatable else missing)
    if progress:
        progress(len(questions) - sum(map(len, chunks)))
    within = progress if pool.in_process else None  # else it would have to travel to other processes
    with closing(pool.map(partial(trace, progress=within), chunks)) as ended:
        for asked, results in ended:
            found = {r.id: r for r in results if isinstance(r, TracedQuestion)}
            missing = [q for q in asked if q.id not in traced]
            file.append([found[q.id] for q in missing if q.id in found])
            traced |= found
            failures |= {
                q.id: r.reason for q, r in zip(asked, results, strict=True) if isinstance(r, Failure)
            }
            if progress and not within:
                progress(len(missing))
            if not found:
                break
    return failures


def _trace_chunk(
    engine: Engine,
    questions: Sequence[Question],
    *,
    num_traces: int,
    budgets: Sequence[int],
    sampling: Sampling,
    grader: Grader,
    keep_tokens: bool = False,
    progress: Callable[[float], None] | None = None,
) -> list[TracedQuestion | Failure]:
    rows = [(q, t) for q in questions for t in range(num_traces)]
    requests = [Request(q.question, budgets[-1], stream_of(q.id, t)) for q, t in rows]
    share = None if progress is None else lambda done: progress(done / (2 * num_traces))
    watch = None
    if keep_tokens:
        from ps_eval.engines.watch import Watch  # brings torch, which not every engine needs

        watch = Watch()
    watching: Any = {} if watch is None else {"watch": watch}  # which other engines do not take
    reasonings = engine.reason(requests, sampling, share, **watching)
    probes = engine.probe([q.question for q, _ in rows], reasonings, budgets, share)
    unreasoned = engine.answer([q.question for q in questions], [Reasoning((), False)] * len(questions))
    traced = []
    for number, question in enumerate(questions):
        mine = slice(number * num_traces, (number + 1) * num_traces)
        one = _traced_question(question, reasonings[mine], probes[mine], unreasoned[number], grader)
        if watch is not None and isinstance(one, TracedQuestion):
            seen = [watch.underway[row] for row in range(mine.start, mine.stop)]
            one = replace(
                one,
                token_ids=[list(u.token_ids) for u in seen],
                pieces=[list(u.pieces) for u in seen],
                logprobs=[_rounded(u.logprobs) for u in seen],
                entropies=[_rounded(u.entropies) for u in seen],
                confidences=[[a.confidence for a in probed] for probed in probes[mine]],  # type: ignore[union-attr]  # none failed
            )
        traced.append(one)
    return traced


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _traced_question(
    question: Question,
    reasonings: Sequence[Reasoning | Failure],
    probes: Sequence[list[Answer] | Failure],
    unreasoned: Answer | Failure,
    grader: Grader,
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
    judge = _Judge(grader, question.answer)
    return TracedQuestion(
        id=question.id,
        lengths=[len(r.token_ids) for r, _ in whole],
        finished=[r.finished for r, _ in whole],
        answers=[[judge(a.text)[0] for a in probed] for _, probed in whole],
        correct=[[judge(a.text)[1] for a in probed] for _, probed in whole],
        probe_tokens=sum(a.num_generated for _, probed in whole for a in probed if a.forced),
        correct_at_zero=judge(unreasoned.text)[1],
        last_texts=[probed[-1].text for _, probed in whole],
    )


class _Judge:
    """Grades the answers to one question: most of its probes say the same, and each text is graded once."""

    def __init__(self, grader: Grader, reference: str) -> None:
        self._grader, self._reference = grader, reference
        self._known: dict[str, tuple[str | None, int]] = {}

    def __call__(self, text: str) -> tuple[str | None, int]:
        """What the text answers, and 1 where that is right."""
        if text not in self._known:
            graded = int(self._grader(text, self._reference))
            self._known[text] = self._grader.extract(text), graded
        return self._known[text]
