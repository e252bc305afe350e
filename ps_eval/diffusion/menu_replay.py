"""Schedules chosen for each question, by a predictor or with half of the hindsight, as measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ps_eval.diffusion.spend import choose_predicted, half_split
from ps_eval.diffusion.static_frontier import Measured
from ps_train.menu.ridge import MenuPredictor
from ps_train.menu.table import MenuTable


class MenuReplay:
    """A predictor's menu on questions that it did not learn from."""

    def __init__(
        self,
        tables: Sequence[MenuTable],
        names: Sequence[str],
        measured: dict[str, Measured],
        predictor: MenuPredictor,
    ) -> None:
        """Set up.

        Args:
            tables: Of the same N questions, with their features.
            names: All schedules of the tables.
            measured: For rows and for passes what was measured of these, each (N, S).
            predictor: Of some of them.

        Raises:
            ValueError: If a schedule of the predictor is not among `names`, or the features are not its own.
        """
        missing = sorted(set(predictor.options) - set(names))
        if missing:
            raise ValueError(f"tables must hold the predictor's schedules, got none of {missing}")
        options = [list(names).index(name) for name in predictor.options]
        self._menu = {cost: values.columns(options) for cost, values in measured.items()}
        self._expected = predictor.predict(tables[0].features)
        self._unit = predictor.cost_name
        self._runs = next(
            (t.right for t in tables if t.right is not None and t.schedules == predictor.options), None
        )

    def chosen(self, per_token: Sequence[float]) -> Iterator[tuple[str, dict[str, Measured]]]:
        """Schedules within budgets a token: the predictor's, and with several runs the half-split oracle's.

        Yields:
            A name, and for rows and for passes what was measured, each (N,).
        """
        _, paid, tokens = self._menu[self._unit]
        for budget in per_token:
            option = choose_predicted(self._expected, budget, per_token=True)
            yield f"predicted at {budget:g}", {c: m.picked(option) for c, m in self._menu.items()}
            if self._runs is None:
                continue
            sides = half_split(self._runs, paid, budget * float(tokens.mean()))
            yield (
                f"oracle at {budget:g}",
                {
                    cost: Measured(
                        *np.mean([m._replace(right=right).picked(k) for k, right in sides], axis=0)
                    )
                    for cost, m in self._menu.items()
                },
            )

    def agreement(self) -> dict[str, float]:
        """Correlations over questions, mean over schedules.

        Returns:
            `predicted`: of predicted accuracies with measured ones; with two runs or more `halves`: of the
            runs' halves, which is what a perfect prediction of one half would have.
        """
        content = {"predicted": _correlation(self._expected.accuracy, self._menu[self._unit].right)}
        if self._runs is not None:
            half = self._runs.shape[2] // 2
            first, second = self._runs[:, :, :half].mean(2), self._runs[:, :, half : 2 * half].mean(2)
            content["halves"] = _correlation(first, second)
        return content


def _correlation(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    columns = [s for s in range(a.shape[1]) if a[:, s].std() > 0 and b[:, s].std() > 0]
    return float(np.mean([np.corrcoef(a[:, s], b[:, s])[0, 1] for s in columns])) if columns else 0.0
