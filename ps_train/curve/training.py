"""What training a predictor of curves shares, whatever it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from ps_train.common.predictor_module import PredictorModule
from ps_train.common.rows import Rows
from ps_train.curve.held_out import held_out_table
from ps_train.curve.metrics import CurveQuality
from ps_train.curve.predictions import Curves, as_curves, compared, said_by, write_curves
from ps_train.predictor import CurvePredictor


class CurveModule(PredictorModule):
    """Targets, figures and files of a predictor of curves: a mixin."""

    learns = ("curves",)
    net: Any
    quality: CurveQuality
    budgets: list[float] | None
    """Mean tokens per query at which `allocation_gain` is measured; None takes shares of the largest."""

    def start(self, net: CurvePredictor, rows: Rows) -> None:
        """Let a new network know the training rows' mean curve, and use where it learns it."""
        net.mean_curve.copy_(torch.tensor(rows.targets["curves"].mean(0)))
        if net.schema.has_use:
            net.training_use.copy_(torch.tensor(rows.targets["use"].mean(0)))

    def adopt(self, net: Any) -> None:
        """Measure curves."""
        super().adopt(net)
        self.quality = CurveQuality(net.schema.grid, self.budgets)

    def scored(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Predicted and measured curves, and use where both know it."""
        return compared(self.net, outputs, batch)

    def held_out_curves(self) -> tuple[Curves, Curves] | None:
        """Predicted and measured curves of the validation rows, as the weights make them."""
        return as_curves(self.held_out, self.net.schema.num_windows)

    def held_out_table(self) -> Table | None:
        """Accuracy at sensible budgets by these curves, by the question's length and evenly spread."""
        return held_out_table(self)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Curves (B, W), with use beside them where it is learned."""
        return said_by(self.net, outputs)

    def write_predictions(self, folder: Path, predictions: Tensor, ids: list[str] | None) -> list[Path]:
        """Write `predictions.npz` and `predictions.npy`."""
        said = predictions.numpy().astype(np.float32)
        return write_curves(folder, said, self.net.schema, ids, self.unlike)
