"""Curve tables to the training data of text predictors: `ps-train make-budgets` and `make-difficulty`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Literal

import numpy as np
from rich.console import Console

from ps_alloc.files import atomic_path
from ps_train.budget.budgets import BudgetSet
from ps_train.budget.labels import needed_budgets
from ps_train.curve_table import CurveTable
from ps_train.difficulty.labels import CLASS_NAMES, DifficultyThresholds


def make_budgets_command(
    *,
    table: str,
    output: str,
    share: float = 0.9,
    smoothing: int = 3,
    min_best: float = 0.05,
    unknown: Literal["leave-out", "largest"] = "leave-out",
) -> None:
    """Write the budget that each question of a curve table needs, as budget data (.jsonl).

    It is the smallest budget whose measured accuracy reaches a share of the best on the question's curve.

    Args:
        table: Curve table.
        output: The file to write.
        share: Share of the best accuracy to reach.
        smoothing: Windows of the moving mean that the curve is smoothed by; 1 for none.
        min_best: A question whose best accuracy is lower has no known budget.
        unknown: What becomes of those: left out, or given the largest budget of the table.
    """
    measured = CurveTable.load(table, features=[])
    window = measured.equal_window
    budgets, known = needed_budgets(
        measured.curves, window, share=share, smoothing=smoothing, min_best=min_best
    )
    keep = known | (unknown == "largest")
    if not keep.any():
        raise ValueError(f"{table} must have a question whose best accuracy is {min_best} or more, got none")
    rows = BudgetSet(measured.ids, measured.questions, budgets, window, measured.curves).take(keep)
    rows.save(output)
    quartiles = np.percentile(rows.budgets, [25, 50, 75]).astype(int)
    fate = "left out" if unknown == "leave-out" else f"given {measured.num_windows * window} tokens"
    Console().print(
        f"{output}: {len(rows)} queries, quartiles of the needed budget {quartiles.tolist()} tokens; "
        f"{(~known).sum()} whose best accuracy is below {min_best:g}: {fate}",
        highlight=False,
        soft_wrap=True,
    )


def make_difficulty_command(
    *,
    table: str,
    output: str,
    train_table: str | None = None,
    percentiles: tuple[float, float] = (20.0, 80.0),
) -> None:
    """Write the difficulty class of each question of a curve table: as a curve table, or as a list (.jsonl).

    A curve table is the same with the column `difficulty`, to train on: `--data.label_column difficulty`.

    Classes are cut by percentiles of the accuracy at the end of the training questions' curves.

    Args:
        table: Curve table.
        output: The curve table's folder to write, or a file ending in .jsonl.
        train_table: Curve table of the training questions, whose thresholds are used: needed for questions
            that are not to be trained on. By default the table itself.
        percentiles: Up to the first a question is hard, from the second on easy.
    """
    measured = CurveTable.load(table)
    training = measured if train_table is None else CurveTable.load(train_table, features=[])
    thresholds = DifficultyThresholds.fit(training.curves, percentiles)
    labels = thresholds.labels(measured.curves)
    if output.endswith(".jsonl"):
        with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as file:
            for name, question, label in zip(measured.ids, measured.questions, labels, strict=True):
                record = {"id": name, "query": question, "difficulty": int(label), **asdict(thresholds)}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    else:
        replace(measured, extra={**measured.extra, "difficulty": labels.astype(np.int8)}).save(output)
    counts = ", ".join(
        f"{np.count_nonzero(labels == number)} {name}" for number, name in enumerate(CLASS_NAMES)
    )
    Console().print(
        f"{output}: {counts}; hard up to an accuracy of {thresholds.hard:g}, easy from {thresholds.easy:g}",
        highlight=False,
        soft_wrap=True,
    )
