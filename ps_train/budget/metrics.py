"""How good predicted budgets are: a functional core on arrays, and a torchmetrics class over it.

`predicted` and `needed` are (N,) tokens. An underrun is a query that is given fewer tokens than it needs: it
is cut off. An overrun is given more: the tokens are wasted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torchmetrics.functional as F
from torch import Tensor

from ps_train.common.gathered_rows import FloatArray, GatheredRows


def underrun_rate(given: FloatArray, needed: FloatArray) -> float:
    """Share of queries that are given less than they need."""
    return float((given < needed).mean())


def pinball_loss(quantiles: FloatArray, needed: FloatArray, levels: Sequence[float]) -> float:
    """Mean over queries and levels of the loss that a quantile minimises (Koenker and Bassett 1978).

    Args:
        quantiles: (N, L) predicted quantiles.
        needed: (N,).
        levels: L levels in (0, 1).
    """
    short = needed[:, None] - quantiles
    return float(np.maximum(np.multiply(levels, short), np.subtract(levels, 1) * short).mean())


def whole_windows(predicted: FloatArray, window: int) -> npt.NDArray[np.float64]:
    """What a prediction gives: the next multiple of the window, at least one window."""
    return np.maximum(np.ceil(predicted.astype(np.float64) / window), 1) * window


def budget_quality(predicted: FloatArray, needed: FloatArray, *, window: int = 1) -> dict[str, float]:
    """Every figure of a point prediction by name; see `BudgetQuality`."""
    given = whole_windows(predicted, window)
    short = (needed - given)[given < needed]
    ours, theirs = (torch.from_numpy(np.array(values, np.float64)) for values in (predicted, needed))
    return {
        "mae": float(F.mean_absolute_error(ours, theirs)),
        "rmse": float(F.mean_squared_error(ours, theirs, squared=False)),
        "mape": float(F.mean_absolute_percentage_error(ours, theirs)),
        "underrun_rate": underrun_rate(given, needed),
        "overrun_rate": float((given > needed).mean()),
        "average_underrun": float(short.mean()) if short.size else 0.0,
    }


class BudgetQuality(GatheredRows):
    """All figures of predicted budgets; each row of a distributed run counts once.

    `mae`, `rmse` (tokens) and `mape` (a fraction: 0.1 is ten percent) of the prediction; of what it gives,
    rounded up to whole windows, `underrun_rate`, `overrun_rate` (shares of the queries) and
    `average_underrun` (tokens short, mean over the underruns; 0 where there is none); `pinball` where there
    are quantiles.

    Args:
        window: Tokens a window.
        levels: Levels of predicted quantiles. `update` then takes (B, 1 + L): the budget, then the quantiles.
    """

    higher_is_better = False

    def __init__(self, window: int = 1, levels: Sequence[float] = ()) -> None:
        super().__init__()
        self.window, self.levels = window, tuple(levels)

    def compute(self) -> dict[str, Tensor]:
        """The figures over all rows of all processes."""
        predicted, needed = (array.astype(np.float64) for array in self.gathered()[1:])
        figures = budget_quality(predicted[:, 0], needed, window=self.window)
        if self.levels:
            figures["pinball"] = pinball_loss(predicted[:, 1:], needed, self.levels)
        return {name: torch.tensor(value) for name, value in figures.items()}
