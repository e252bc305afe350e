"""What policies may know of a batch of queries before they spend a budget on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc.predictions import check_budgets as check_grid
from ps_alloc.predictions import uniform_budgets

FloatArray = npt.NDArray[np.floating]

SOURCES = {
    "predictions": "predicted curves",
    "predicted_use": "predicted use, which a predictor learns from a table with use",
    "mean_curve": "the mean curve of training questions",
    "length_curves": "training questions, for the mean curve of those of like length",
    "measured": "measured curves, which a live run does not have",
    "n_traces": "trace counts of the measured curves",
}
"""What a policy may need, and where it comes from."""


@dataclass(frozen=True)
class PolicyInputs:
    """What policies may know about a batch of N queries; None is unknown. The grid has W budgets."""

    n_queries: int
    budgets: npt.NDArray[np.int64]
    """(W,). The token budgets that a query may be granted."""
    predictions: FloatArray | None = None
    """(N, W). Curves predicted before generation."""
    predicted_use: FloatArray | None = None
    """(N, W). Tokens predicted to be really used under each budget."""
    mean_curve: FloatArray | None = None
    """(W,). Mean curve of the predictor's training questions."""
    mean_use: FloatArray | None = None
    """(W,). Their mean use."""
    length_curves: FloatArray | None = None
    """(N, W). Mean curve of the training questions of like length."""
    length_use: FloatArray | None = None
    """(N, W). Their mean use."""
    measured: FloatArray | None = None
    """(N, W). Measured curves of these very queries: what only an oracle may see."""
    measured_use: FloatArray | None = None
    """(N, W). Measured use of these very queries."""
    n_traces: npt.NDArray[np.integer] | None = None
    """(N,). Traces behind each measured curve."""
    unlike: npt.NDArray[np.bool_] | None = None
    """(N,). Queries unlike those that the predictor learned from; None where it cannot tell."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "budgets", check_grid(self.budgets))
        shape = (self.n_queries, len(self.budgets))
        expected = {
            **dict.fromkeys(("predictions", "length_curves", "measured"), shape),
            **dict.fromkeys(("predicted_use", "length_use", "measured_use"), shape),
            **dict.fromkeys(("mean_curve", "mean_use"), shape[1:]),
            "n_traces": shape[:1],
        }
        for name, wanted in expected.items():
            values = getattr(self, name)
            if values is not None and np.shape(values) != wanted:
                raise ValueError(f"{name} must have shape {wanted}, got {np.shape(values)}")
            if values is not None and name != "n_traces":
                _check_range(name, np.atleast_2d(values), self.budgets if name.endswith("use") else None)

    @property
    def num_windows(self) -> int:
        """W."""
        return len(self.budgets)

    @property
    def window(self) -> int | None:
        """Tokens from one budget to the next, where that is the same for all, from 0 on; else None."""
        window = int(self.budgets[0])
        equal = np.array_equal(self.budgets, uniform_budgets(window, len(self.budgets)))
        return window if equal else None

    def need(self, policy: str, name: str) -> npt.NDArray[Any]:
        """The array `name`, for `policy`.

        Raises:
            ValueError: If it is unknown.
        """
        values: npt.NDArray[Any] | None = getattr(self, name)
        if values is None:
            raise ValueError(f"policy {policy!r} needs {SOURCES[name]}, but got none")
        return values


def _check_range(name: str, values: FloatArray, budgets: npt.NDArray[np.int64] | None) -> None:
    """Shares lie in [0, 1]; use lies between 0 and the budget, which float32 rounds."""
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers, got dtype {values.dtype}")
    highest = 1.0 if budgets is None else budgets * (1 + 1e-4)
    inside = (values >= 0) & (values <= highest)  # False for NaN as well
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        limit = "1]" if budgets is None else "the budget]"
        raise ValueError(
            f"{name} must lie in [0, {limit}, got {values[row, column]} at row {row}, column {column}"
        )
