"""Curve tables to the training data of text predictors: `ps-train make-budgets` and `make-difficulty`."""

from __future__ import annotations

from typing import Literal

import numpy as np
from rich.console import Console

from ps_train.data.budget_labels import needed_budgets
from ps_train.data.budgets import BudgetSet
from ps_train.data.curve_table import CurveTable


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
    budgets, known = needed_budgets(
        measured.curves, measured.window, share=share, smoothing=smoothing, min_best=min_best
    )
    keep = known | (unknown == "largest")
    if not keep.any():
        raise ValueError(f"{table} must have a question whose best accuracy is {min_best} or more, got none")
    rows = BudgetSet(measured.ids, measured.questions, budgets, measured.window, measured.curves).take(keep)
    rows.save(output)
    quartiles = np.percentile(rows.budgets, [25, 50, 75]).astype(int)
    fate = "left out" if unknown == "leave-out" else f"given {measured.num_windows * measured.window} tokens"
    Console().print(
        f"{output}: {len(rows)} queries, quartiles of the needed budget {quartiles.tolist()} tokens; "
        f"{(~known).sum()} whose best accuracy is below {min_best:g}: {fate}",
        highlight=False,
        soft_wrap=True,
    )
