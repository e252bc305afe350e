"""Every policy at every budget on one test table, and what an accuracy is worth in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_eval.experiments.predictors import Predicted, check_sources, predict_with
from ps_eval.experiments.settings import ContestSettings
from ps_eval.reporting.summary import SummaryRow
from ps_eval.spending.question_length import length_curves
from ps_eval.spending.replay import replay
from ps_train.curve_table import CurveTable

Rows = dict[tuple[str, int], SummaryRow]
"""(policy, budget) to its row."""
LENGTH = "question length"
"""The baseline that knows how many words a question has."""


@dataclass(frozen=True)
class Contest:
    """Predictors that compete on a test table."""

    train: CurveTable
    test: CurveTable
    predicted: dict[str, Predicted]
    """Name to its view of the test table."""

    @classmethod
    def of(cls, settings: ContestSettings, scratch: Path) -> Contest:
        """Load the tables; load or train the predictors (`predict_with`)."""
        check_sources(settings.predictors.values())
        folder = Path(settings.tables)
        train, test = (CurveTable.load(folder / split, features=[]) for split in ("train", "test"))
        overrides = settings.overrides or []
        predicted = {
            name: predict_with(source, folder, scratch, seed=settings.seed, overrides=overrides)
            for name, source in settings.predictors.items()
        }
        return cls(train, test, predicted)

    def rows(
        self, budgets: Sequence[int], *, min_windows: int = 1, seed: int = 0, n_resamples: int = 2000
    ) -> Rows:
        """Policies without a predictor by their names, the others as `<predictor>, <method>`.

        All are compared on the same bootstrap resamples of the test questions.
        """
        mean_curve: npt.NDArray[np.floating] = self.train.curves.mean(axis=0)

        def measure(policies: list[str], curves: npt.NDArray[np.floating] | None = None) -> list[SummaryRow]:
            return replay(
                self.test,
                budgets=budgets,
                policies=["uniform", *policies],
                predictions=curves,
                mean_curve=mean_curve,
                min_windows=min_windows,
                seed=seed,
                n_resamples=n_resamples,
            ).rows

        found = measure(["mix"])
        found += _named(LENGTH, measure(["hull"], length_curves(self.train, self.test.questions)))
        for name, prediction in self.predicted.items():
            found += _named(name, measure(["myopic", "hull"], prediction.curves))
        found += [row for row in measure(["honest_oracle", "oracle"]) if row.policy != "uniform"]
        return {(row.policy, row.budget): row for row in found}


def _named(name: str, rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    return [replace(row, policy=f"{name}, {row.policy}") for row in rows if row.policy != "uniform"]


def tokens_saved(budgets: Sequence[int], uniform: Sequence[float], row: SummaryRow) -> float | None:
    """Tokens a query that uniform would need more for `row`'s accuracy; None where no budget suffices.

    Args:
        budgets: Mean tokens per query at which uniform was measured, rising.
        uniform: Its accuracies there; between them it is taken to be linear.
        row: The policy's cell.
    """
    best_so_far = np.maximum.accumulate(np.asarray(uniform, dtype=np.float64))
    if row.accuracy > best_so_far[-1]:
        return None
    after = int(np.searchsorted(best_so_far, row.accuracy))  # the first budget that is as accurate
    if after == 0:
        return float(budgets[0] - row.budget)
    low, high = best_so_far[after - 1], best_so_far[after]
    fraction = (row.accuracy - low) / (high - low)
    return float(budgets[after - 1] + fraction * (budgets[after] - budgets[after - 1]) - row.budget)
