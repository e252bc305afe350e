"""What curves predicted for a table are worth: their correlation with the measured ones, and their gain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ps_eval.reporting.tables import Cell, ResultTable, number, points
from ps_train.curve.metrics import allocation_gain, per_window_pearson
from ps_train.curve_table import CurveTable


class Scores(NamedTuple):
    """Of predictions for one table."""

    r: float
    """Mean correlation over the windows."""
    gains: npt.NDArray[np.floating]
    """(B,) measured accuracy above uniform's, at each mean budget."""

    @classmethod
    def of(cls, predicted: npt.NDArray[np.floating], test: CurveTable, budgets: Sequence[int]) -> Scores:
        """Of (N, W) curves."""
        gains = allocation_gain(predicted, test.curves, grid=test.budgets, budgets=budgets)
        return cls(float(per_window_pearson(predicted, test.curves).mean()), gains)

    @classmethod
    def mean(cls, draws: Iterable[Scores]) -> Scores:
        """Of several draws."""
        found = list(draws)
        return cls(float(np.mean([s.r for s in found])), np.mean([s.gains for s in found], axis=0))

    @property
    def cells(self) -> list[Cell]:
        """A table's row, behind its names."""
        return [number(self.r, ".3f", "per-window r"), *(points(float(gain)) for gain in self.gains)]


def score_table(
    title: str, names: Sequence[str], budgets: Sequence[int], rows: Iterable[tuple[Sequence[str], Scores]]
) -> ResultTable:
    """A table of scores.

    Args:
        title: Of the table.
        names: Titles of the columns that name a row.
        budgets: Of the gains.
        rows: What names a row, and its scores.
    """
    columns = [*names, "per-window r", *(f"gain at {budget}" for budget in budgets)]
    return ResultTable(title, columns, [[*named, *scores.cells] for named, scores in rows])
