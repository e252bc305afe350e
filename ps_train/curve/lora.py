"""CurveLoRA: trains a `CurveLoraNet` on questions and their curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ps_train.common.heads import HeadSettings
from ps_train.common.lora_backbone import LoraSettings
from ps_train.common.lora_module import LoraModule
from ps_train.common.optimization import LoraOptimizerSettings, ScheduleSettings
from ps_train.common.rows import Rows
from ps_train.common.text_batches import TextBatch
from ps_train.common.text_predictor import TextPredictor
from ps_train.curve.lora_net import CurveLoraNet
from ps_train.curve.loss import CurveLoss, mean_outputs, outputs_loss
from ps_train.curve.metrics import CurveQuality
from ps_train.curve.predictions import Curves, as_curves, compared, said_by, write_curves


class CurveLoRA(LoraModule):
    """Trains a `CurveLoraNet`; the untrained one answers with the training rows' means.

    Batches hold `input_ids` and `attention_mask` (B, L), `curves` (B, W), `rows` (B,) and, where traces are
    not equally many, `weights` (B,).

    Args:
        lora: What of the language model runs and is trained.
        head: The network on top; it drops states as well.
        loss: `mse` on probabilities, as the paper; or `bce`, the likelihood of the traces' outcomes, each row
            weighted by its number of traces.
        optimizer: Step sizes and weight decay.
        schedule: How the step sizes change.
        budgets: Mean tokens per query at which `allocation_gain` is measured; 3, 6 and 10 sixteenths of the
            table's largest budget where none are given.
        predictor: See `LoraModule`.
        adapter: See `LoraModule`.
        frozen_cache: See `LoraModule`.
    """

    architecture = CurveLoraNet.architecture
    learns = ("curves",)

    def __init__(
        self,
        lora: LoraSettings = LoraSettings(),  # noqa: B008  # frozen; jsonargparse shows the defaults
        head: HeadSettings = HeadSettings(),  # noqa: B008
        loss: CurveLoss = "bce",
        optimizer: LoraOptimizerSettings = LoraOptimizerSettings(),  # noqa: B008
        schedule: ScheduleSettings = ScheduleSettings("linear"),  # noqa: B008
        budgets: list[float] | None = None,
        predictor: str | None = None,
        adapter: str | None = None,
        frozen_cache: str | None = None,
    ) -> None:
        super().__init__(lora, head, optimizer, schedule, predictor, adapter, frozen_cache)
        self.curve_loss, self.budgets = loss, budgets

    def build(self, rows: Rows) -> CurveLoraNet:
        """A network that knows the mean curve of the training rows."""
        net = CurveLoraNet(**self.net_arguments(rows))
        net.mean_curve.copy_(torch.tensor(rows.targets["curves"].mean(0)))
        if net.schema.has_use:
            net.training_use.copy_(torch.tensor(rows.targets["use"].mean(0)))
        net.head.start_at(mean_outputs(net))
        return net

    def adopt(self, net: TextPredictor) -> None:
        """Measure curves."""
        super().adopt(net)
        self.quality = CurveQuality.on_grid(net.schema, self.budgets)

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """See `outputs_loss`."""
        return outputs_loss(outputs, batch, self.curve_loss)

    def scored(self, outputs: Tensor, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Predicted and measured curves, and use where both know it."""
        return compared(self.net, outputs, batch)

    def held_out_curves(self) -> tuple[Curves, Curves] | None:
        """Predicted and measured curves of the validation rows, as the weights make them."""
        return as_curves(self.held_out, self.net.schema.num_windows)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Curves (B, W), with use beside them where it is learned."""
        return said_by(self.net, outputs)

    def write_predictions(self, folder: Path, predictions: Tensor) -> list[Path]:
        """Write `predictions.npz` and `predictions.npy`."""
        said = predictions.numpy().astype(np.float32)
        return write_curves(folder, said, self.net.schema, self.rows, self.unlike)
