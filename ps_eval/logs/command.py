"""`ps-eval import-samples`: logs that are there already, to a curve table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from ps_alloc.predictions import check_budgets
from ps_eval.logs.prepare import Prepared, describe, prepare
from ps_eval.logs.table import estimates, to_table
from ps_train.curve_table import CurveTable

MANY_LEFT_OUT = 0.02
"""A larger share that cannot be read is warned of: they are often of one kind, such as all long ones."""


def import_samples_command(
    files: tuple[str, ...],
    *,
    output: str | None = None,
    questions: str | None = None,
    columns: tuple[str, ...] = (),
    where: tuple[str, ...] = (),
    numbers: tuple[str, ...] = (),
    grader: str = "math",
    tokenizer: str | None = None,
    right: float | None = None,
    guess: float = 0.0,
    grid: tuple[int, ...] = (),
    dry_run: bool = False,
) -> None:
    """Make a curve table of samples: rows, or logs of Inspect, lm-eval-harness, OpenAI, vLLM, SGLang.

    A row is one sampled answer: question id or text, tokens, right or wrong, ended by itself or cut.

    Args:
        files: JSONL, CSV, Parquet or JSON files, or Inspect's .eval archives, all of one set of questions.
        output: Folder of the curve table to write.
        questions: JSONL, CSV or Parquet with the questions' texts (choices, answers) by id, where logs lack
            them.
        columns: Columns that are not found by their names, such as tokens=n_tok,correct=ok.
        where: Of logs of several tasks, models or settings, the one to take: model=NAME,setting=NAME.
        numbers: Further columns of numbers to keep, such as prompt_tokens.
        grader: Grades the responses of samples that have none, against the questions' answers.
        tokenizer: Folder or Hub id of the model whose tokens count, where a log has texts alone.
        right: Share of finished answers that are right, where nothing says it of each.
        guess: Accuracy of an unfinished answer: 0.25 where one of four choices is picked blindly.
        grid: Token budgets; by default about 16 that span the samples.
        dry_run: Say what is recognised, and write nothing.

    Raises:
        ValueError: If nothing can be read, something is missing, or there are several groups and none is
            chosen.
    """
    found = prepare(
        files,
        questions=questions,
        columns=columns,
        where=where,
        numbers=numbers,
        grader=grader,
        tokenizer=tokenizer,
        right=1.0 if dry_run and right is None else right,
    )
    console = Console()
    for line in told(found):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if len(found.groups) > 1 and not dry_run:
        there = "; ".join(describe(group) for group in list(found.groups)[:12])
        raise ValueError(f"samples must be of one task, model and setting: choose with --where of {there}")
    check_guess(guess)
    if not dry_run and output is None:
        raise ValueError("output must be a folder to write the curve table into, got none")
    for group, samples in found.groups.items():
        budgets = check_budgets(grid) if grid else None
        metadata = {"source": "samples", "grader": grader}
        table = to_table(samples, budgets=budgets, guess=guess, metadata=metadata)
        console.print(f"{describe(group)}: {summary(table)}", highlight=False, soft_wrap=True, markup=False)
        for line in estimates(table):
            console.print(line, highlight=False, soft_wrap=True)
        if not dry_run and output is not None:
            table.save(output)
            console.print(f"wrote {output}", highlight=False, soft_wrap=True, markup=False)


def told(found: Prepared) -> Sequence[str]:
    """What was recognised, done and left out, a line each."""
    reading = found.reading
    lines = [*reading.said, *found.notes]
    if reading.n_faults:
        share = reading.n_faults / (reading.n_faults + len(reading.samples))
        unlike = f" ({share:.0%}: what is left may be unlike them)" if share > MANY_LEFT_OUT else ""
        lines.append(f"{reading.n_faults} rows cannot be read and are left out{unlike}:")
        lines += [f"  {fault}" for fault in reading.faults]
        if reading.n_faults > len(reading.faults):
            lines.append(f"  and {reading.n_faults - len(reading.faults)} more")
    return lines


def summary(table: CurveTable) -> str:
    """A table in a line."""
    traces = table.n_traces
    each = f"{traces.min()}" if traces.min() == traces.max() else f"{traces.min()} to {traces.max()}"
    assert table.use is not None
    assert table.finished is not None
    texts = sum(bool(text.strip()) for text in table.questions)
    return (
        f"{len(table)} questions ({texts} with texts), {int(traces.sum())} samples ({each} a question), "
        f"{table.use[:, -1].mean():,.0f} tokens each; {len(table.budgets)} budgets from "
        f"{table.budgets[0]:,} to {table.budgets[-1]:,}; accuracy {np.mean(table.curves[:, 0]):.1%} to "
        f"{np.mean(table.curves[:, -1]):.1%}, ended by themselves {np.mean(table.finished[:, -1]):.1%}"
    )


def check_guess(guess: float) -> None:
    """Refuse what is no accuracy.

    Raises:
        ValueError: If it lies outside [0, 1].
    """
    if not 0 <= guess <= 1:
        raise ValueError(f"guess must be an accuracy in [0, 1], got {guess}")
