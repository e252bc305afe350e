"""CurveLoRA: trains a `CurveLoraNet` on the questions of curve tables."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ps_train.common.lora_backbone import LoraSettings
from ps_train.common.lora_module import LoraModule
from ps_train.common.text_batches import TextBatch
from ps_train.common.text_predictor import TextPredictor
from ps_train.curve.lora_net import CurveLoraNet
from ps_train.curve.loss import CurveLoss, curve_logits, curve_loss
from ps_train.curve.metrics import CurveQuality
from ps_train.curve.text_data import CurveTextDataModule


class CurveLoRA(LoraModule):
    """Trains a `CurveLoraNet` on a `CurveTextDataModule`; the untrained one answers with the mean curve.

    Args:
        lora: What of the language model runs and is trained.
        hidden_size: Width of the head's hidden layer; 0 for a linear head.
        dropout: Share of states and hidden units dropped in training.
        loss: `mse` on probabilities, as the paper; or `bce`, the likelihood of the traces' outcomes, each row
            weighted by its number of traces.
        lr: AdamW's peak step size of the adapters.
        head_lr: Likewise of the head; `lr` where it is not given.
        weight_decay: Decoupled (AdamW).
        warmup_steps: Optimizer steps of linear warm-up.
        schedule: After the warm-up: `constant`, or `linear` or `cosine` to zero over the fit.
        budgets: Mean tokens per query at which `allocation_gain` is measured.
        predictor: A predictor folder to start from: its weights and settings replace those given here.
        adapter: Adapters to start from: a predictor folder of another kind, on the same language model and
            with the same `lora`.
        frozen_cache: Folder in which to keep what the blocks below the first adapted one make of each text:
            they then run once for each text instead of in every epoch.
    """

    architecture = CurveLoraNet.architecture

    def __init__(
        self,
        lora: LoraSettings = LoraSettings(),  # noqa: B008  # frozen; jsonargparse shows the defaults
        hidden_size: int = 0,
        dropout: float = 0.0,
        loss: CurveLoss = "bce",
        lr: float = 2e-4,
        head_lr: float | None = None,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: Literal["constant", "linear", "cosine"] = "linear",
        budgets: list[float] = [48.0, 96.0, 160.0],  # noqa: B006  # jsonargparse shows the default
        predictor: str | None = None,
        adapter: str | None = None,
        frozen_cache: str | None = None,
    ) -> None:
        super().__init__(
            lora, lr, head_lr, weight_decay, warmup_steps, schedule, predictor, adapter, frozen_cache
        )
        self.head_settings = {"hidden_size": hidden_size, "dropout": dropout}
        self.curve_loss, self.budgets = loss, budgets

    def build(self) -> CurveLoraNet:
        """A network that knows the mean curve of the training rows."""
        data = self.data
        if not isinstance(data, CurveTextDataModule):
            raise ValueError(f"data must be a CurveTextDataModule, got {type(data).__name__}")
        net = CurveLoraNet(data.schema(), self.lora, data.format, **self.head_settings)  # type: ignore[arg-type]
        net.mean_curve.copy_(torch.tensor(data.rows["train"].targets["curves"].mean(0)))
        net.head.start_at(curve_logits(net.mean_curve))
        return net

    def adopt(self, net: TextPredictor) -> None:
        """Measure curves."""
        super().adopt(net)
        self.quality = CurveQuality(net.window, self.budgets)

    def check_data(self, name: str) -> None:
        """Refuse tables cut into other windows."""
        data = self.data
        if isinstance(data, CurveTextDataModule):
            table = data.tables.get(name) or data.tables["train"]
            self.net.check_window(table.equal_window, table.num_windows, f"the {name} table")

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """See `curve_loss`."""
        return curve_loss(outputs, batch["curves"], batch["n_traces"], self.curve_loss)

    def scored(self, outputs: Tensor, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Predicted and measured curves."""
        return outputs.sigmoid(), batch["curves"]

    def predictions(self, outputs: Tensor) -> Tensor:
        """Curves (B, W)."""
        return outputs.sigmoid()
