"""What `ps-eval trace` shows: samples and what it will cost before, the curve and what to do next after."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ps_eval.engines.base import Answer, Engine, Failure, Reasoning, Request, Sampling, stream_of
from ps_eval.engines.pool import EnginePool
from ps_eval.grading import Grader
from ps_eval.grading.check import GradedText, show_samples, warn_of_grading
from ps_eval.measuring.trace_file import TracedQuestion
from ps_train.curve_table import CurveTable
from ps_train.questions import Question

SAMPLES = 3
MOST_ROWS = 16
"""Budgets shown of a long grid."""


@dataclass(frozen=True)
class Sampled:
    """A few questions traced once, before all of them are."""

    texts: list[GradedText]
    lengths: list[int]
    seconds: float


def sample_traces(
    engine: Engine, questions: Sequence[Question], *, budget: int, sampling: Sampling, grader: Grader
) -> Sampled:
    """Trace a few questions once each, with the largest budget."""
    begin = time.monotonic()
    requests = [Request(q.question, budget, stream_of(q.id, 0)) for q in questions]
    reasonings = engine.reason(requests, sampling)
    answers = engine.answer([q.question for q in questions], reasonings)
    seconds = time.monotonic() - begin
    texts, lengths = [], []
    for question, reasoning, answer in zip(questions, reasonings, answers, strict=True):
        if isinstance(reasoning, Reasoning) and isinstance(answer, Answer):
            lengths.append(len(reasoning.token_ids))
            texts.append(
                GradedText(
                    question.id,
                    engine.prompt_of(question.question),
                    engine.text_of(reasoning),
                    answer.text,
                    grader.extract(answer.text),
                    question.answer,
                    grader(answer.text, question.answer),
                )
            )
        else:
            failure = next(r for r in (reasoning, answer) if isinstance(r, Failure))
            texts.append(GradedText(question.id, "", "", failure.reason, None, question.answer, None))
    return Sampled(texts, lengths, seconds)


def show_before(
    pool: EnginePool,
    questions: Sequence[Question],
    *,
    budgets: Sequence[int],
    num_traces: int,
    sampling: Sampling,
    grader: Grader,
    console: Console,
) -> None:
    """Three samples and an estimate. Not where engines are elsewhere: they would be loaded twice."""
    if not pool.in_process:
        return
    task = partial(sample_traces, budget=budgets[-1], sampling=sampling, grader=grader)
    ((_, sampled),) = pool.map(task, [list(questions[:SAMPLES])])
    console.print(f"{len(sampled.texts)} samples of what will be traced:", highlight=False)
    show_samples(sampled.texts, console)
    if not sampled.lengths:
        return
    traces = len(questions) * num_traces
    tokens = traces * float(np.mean(sampled.lengths))
    # Alone, a few rows take nearly as long as a full batch; at worst a batch brings nothing.
    at_best = sampled.seconds * traces / max(len(sampled.lengths), pool.batch_size)
    at_worst = sampled.seconds * traces / len(sampled.lengths)
    console.print(
        f"{len(questions)} questions × {num_traces} traces: about {tokens:,.0f} reasoning tokens "
        f"(at most {traces * budgets[-1]:,}), and a short answer at each of {len(budgets)} budgets; "
        f"{_duration(at_best)} to {_duration(at_worst)}, by what batching brings.",
        highlight=False,
    )


def show_after(
    table: CurveTable,
    traced: Sequence[TracedQuestion],
    grader: Grader,
    console: Console,
    warnings: Console,
) -> None:
    """The mean curve, shares, and what is wrong with grading, if anything."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("budget, tokens", "right, %", "ended by itself, %", "tokens used"):
        grid.add_column(column, justify="right", no_wrap=True)
    used = table.expected_use.mean(axis=0)
    finished = None if table.finished is None else table.finished.mean(axis=0)
    shown = np.unique(np.linspace(0, len(table.budgets) - 1, MOST_ROWS).round().astype(int))
    for k in shown:
        ended = "" if finished is None else f"{100 * finished[k]:.0f}"
        right = f"{100 * table.curves[:, k].mean():.1f}"
        grid.add_row(str(table.budgets[k]), right, ended, f"{used[k]:.0f}")
    console.print(grid)
    silent = np.mean([trace[-1] is None for t in traced for trace in t.answers])
    cut = 0.0 if finished is None else 1 - float(finished[-1])
    advice = " (a longer grid would show more)" if cut > 0.1 else ""
    console.print(
        f"{len(table)} curves of {int(table.n_traces[0])} traces. Within {table.budgets[-1]} tokens "
        f"{100 * (1 - cut):.0f}% ended by themselves, {100 * cut:.0f}% were cut{advice}; "
        f"{100 * silent:.0f}% state no answer.",
        highlight=False,
    )
    warn_of_grading(_graded_texts(table, traced), grader, warnings)


def as_json(table: CurveTable) -> str:
    """The mean curve as JSON: `budgets`, `accuracy`, `used` and `finished`, a number a budget."""
    finished = None if table.finished is None else table.finished.mean(axis=0).tolist()
    return json.dumps(
        {
            "questions": len(table),
            "traces": int(table.n_traces[0]),
            "budgets": table.budgets.tolist(),
            "accuracy": table.curves.mean(axis=0).tolist(),
            "used": table.expected_use.mean(axis=0).tolist(),
            "finished": finished,
        }
    )


def next_command(output: str, layers: Sequence[int] | None, model: str) -> str:
    """What to type after a trace."""
    features = f"layer_{layers[len(layers) // 2]}" if layers else "text"
    backbone = f" --data.backbone {model}" if layers else ""
    return (
        f"Next: ps-train fit --config curve_mlp --data.train {output} "
        f"--data.features '[{features}]'{backbone} --trainer.default_root_dir {output}-predictor"
    )


def _graded_texts(table: CurveTable, traced: Sequence[TracedQuestion]) -> list[GradedText]:
    texts = []
    for question, reference, t in zip(table.questions, table.answers, traced, strict=True):
        for number, (answers, correct) in enumerate(zip(t.answers, t.correct, strict=True)):
            text = t.last_texts[number] if t.last_texts else ""
            texts.append(GradedText(t.id, question, "", text, answers[-1], reference, bool(correct[-1])))
    return texts


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
