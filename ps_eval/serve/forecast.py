"""Any predictor as the gateway asks it: rows of accuracy, or of accuracy and use, on a grid of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc import Pacer
from ps_alloc.predictions import uniform_budgets

Row = npt.NDArray[np.floating]
"""(W,) accuracy; or (2, W) accuracy and use."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is predicted of one question."""

    row: Row
    unlike: bool | None = None
    """It is unlike those that the predictor learned from; None where that cannot be told."""


class Forecaster:
    """A loaded predictor, whatever its kind."""

    def __init__(self, predictor: Any, *, with_use: bool) -> None:
        """Wrap a predictor.

        Args:
            predictor: Of `ps_train.load_predictor`.
            with_use: Take the expected use too, where it predicts one.
        """
        self.predictor = predictor
        self._with_use = with_use
        mean = np.asarray(predictor.training_mean)
        # Those that predict on a grid say so; the others have windows.
        budgets = getattr(predictor, "budgets", None)
        self.budgets = (
            uniform_budgets(predictor.window, mean.size) if budgets is None else np.asarray(budgets)
        )
        self.mean: Row = mean
        if with_use and (use := getattr(predictor, "mean_use", None)) is not None:
            self.mean = np.stack([mean, np.asarray(use)])

    @property
    def window(self) -> int | None:
        """Tokens a window, where the budgets are its multiples."""
        window = int(self.budgets[0])
        return window if np.array_equal(self.budgets, uniform_budgets(window, self.budgets.size)) else None

    def __call__(self, questions: list[str]) -> npt.NDArray[np.floating]:
        """(N, W) accuracy, or (N, 2, W) accuracy and use."""
        return self._predict(questions)[0]

    def each(self, questions: list[str]) -> list[Forecast]:
        """A forecast for each of N questions."""
        rows, unlike = self._predict(questions)
        flags: Sequence[bool | None] = [None] * len(rows) if unlike is None else unlike.tolist()
        return [Forecast(row, flag) for row, flag in zip(rows, flags, strict=True)]

    @property
    def tells_unlike(self) -> bool:
        """Whether it knows questions that are unlike those it learned from."""
        return getattr(self.predictor, "novelty", None) is not None

    def _predict(self, questions: list[str]) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_] | None]:
        if not hasattr(self.predictor, "predict"):
            return np.asarray(self.predictor.predict_curves(questions)), None
        predicted = self.predictor.predict(questions)
        if not self._with_use or predicted.use is None:
            return np.asarray(predicted.curves), predicted.unlike
        return np.stack([predicted.curves, predicted.use], axis=1), predicted.unlike


def grid_of(pacer: Pacer, width: int) -> npt.NDArray[np.int64]:
    """The budgets of a pacer's first `width` choices, in tokens."""
    return uniform_budgets(pacer.window, width) if pacer.budgets is None else pacer.budgets[:width]
