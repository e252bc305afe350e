"""Rows of predictions beside what was measured, of all processes together: what every metric here is of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

FloatArray = npt.NDArray[np.floating]


class GatheredRows(Metric):
    """Gathers rows of predictions from all processes: each row once, in row order.

    A distributed sampler repeats rows to even out the processes; the row numbers undo that, so that every
    metric built on this class equals its value in one process.
    """

    full_state_update = False
    rows: list[Tensor]
    predicted: list[Tensor]
    measured: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("rows", "predicted", "measured"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor, predicted: Tensor, measured: Tensor) -> None:
        """Add a batch: rows (B,) int64, predicted and measured (B, …)."""
        self.rows.append(rows)
        self.predicted.append(predicted.detach().float())
        self.measured.append(measured.detach().float())

    @property
    def seen(self) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
        """What `gathered` found last: kept, as it takes all processes to gather."""
        return self._seen

    def gathered(self) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
        """Row numbers (ascending), predictions and measurements of all rows seen, whoever saw them."""
        rows, predicted, measured = (
            (torch.cat(list(state)) if isinstance(state, (list, tuple)) else state).cpu().numpy()
            for state in (self.rows, self.predicted, self.measured)
        )
        order, first = np.unique(rows, return_index=True)
        self._seen = order, predicted[first], measured[first]
        return self._seen

    def compute(self) -> Any:
        """The gathered rows; subclasses return their figures."""
        return self.gathered()
