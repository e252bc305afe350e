"""CurveMLP: trains a `CurveNet` on a curve table's features."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ps_train.common.predictor_module import PredictorModule
from ps_train.curve.data import CurveBatch, CurveDataModule
from ps_train.curve.loss import curve_loss
from ps_train.curve.metrics import CurveQuality
from ps_train.curve.mlp_net import CurveNet


class CurveMLP(PredictorModule):
    """Trains a `CurveNet` on a `CurveDataModule`.

    Sizes, window and backbone come from the data (`fit`), from the checkpoint, or from `predictor`.

    Args:
        hidden_sizes: Widths of the hidden layers.
        num_members: Ensemble size; members differ in their start and their dropout.
        dropout: Share of inputs and hidden units dropped in training.
        standardise: Centre and scale the inputs by the training rows.
        start_at_mean: Let the untrained network answer with the training rows' mean curve.
        loss: `mse` on probabilities, as the paper; or `bce`, the likelihood of the traces' outcomes, each row
            weighted by its number of traces.
        lr: Adam's step size.
        weight_decay: Decoupled (AdamW).
        schedule: `constant`, or `cosine` to zero over the fit.
        budgets: Mean tokens per query at which `allocation_gain` is measured.
        predictor: A predictor folder to start from: its weights and settings replace the above.
    """

    architecture = CurveNet.architecture
    net: CurveNet

    def __init__(
        self,
        hidden_sizes: list[int] = [256],  # noqa: B006  # jsonargparse shows the default; never mutated
        num_members: int = 1,
        dropout: float = 0.0,
        standardise: bool = True,
        start_at_mean: bool = True,
        loss: Literal["mse", "bce"] = "bce",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "cosine"] = "constant",
        budgets: list[float] = [48.0, 96.0, 160.0],  # noqa: B006
        predictor: str | None = None,
    ) -> None:
        super().__init__(predictor)
        self.save_hyperparameters()
        self.hidden_sizes, self.num_members, self.dropout = hidden_sizes, num_members, dropout
        self.standardise, self.start_at_mean, self.loss = standardise, start_at_mean, loss
        self.lr, self.weight_decay, self.schedule = lr, weight_decay, schedule
        self.budgets = budgets

    # --- building -------------------------------------------------------------------------------------------

    @property
    def data(self) -> CurveDataModule:
        """The tables this module is used on.

        Raises:
            ValueError: If the trainer has another kind of data module.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, CurveDataModule):
            raise ValueError(f"data must be a CurveDataModule, got {type(data).__name__}")
        return data

    @property
    def has_training_data(self) -> bool:
        """Whether the training table was read."""
        return "train" in self.data.tables

    def build(self) -> CurveNet:
        """A network that knows the scales and the mean curve of the training rows."""
        net = CurveNet(self.data.schema(), self.hidden_sizes, self.num_members, self.dropout)
        table = self.data.tables["train"]
        if self.standardise:
            net.standardise(net.stack(table.features))
        net.mean_curve.copy_(torch.tensor(table.curves.mean(0)))
        if self.start_at_mean:
            net.start_at_mean()
        return net

    def adopt(self, net: CurveNet) -> None:
        """Measure curves."""
        super().adopt(net)
        self.quality = CurveQuality(net.window, self.budgets)

    def check_data(self, name: str) -> None:
        """Refuse tables cut into other windows."""
        table = self.data.tables[name]
        self.net.check_window(table.equal_window, table.num_windows, f"the {name} table")

    # --- steps ----------------------------------------------------------------------------------------------

    def training_step(self, batch: CurveBatch, batch_idx: int) -> Tensor:
        """The members' summed loss, so that each trains as it would alone."""
        logits = self.net.member_logits(batch["inputs"]).float()
        member_loss = curve_loss(logits, batch["curves"], batch["n_traces"], self.loss)
        self.log("train/loss", member_loss.mean(), on_step=False, on_epoch=True, sync_dist=True)
        return member_loss.sum()

    def outputs(self, batch: CurveBatch, name: str) -> Tensor:
        """The members' mean logits (B, W)."""
        logits: Tensor = self.net(batch["inputs"])
        return logits.float()

    def scored(self, outputs: Tensor, batch: CurveBatch) -> tuple[Tensor, Tensor]:
        """Predicted and measured curves."""
        return outputs.sigmoid(), batch["curves"]

    def predictions(self, outputs: Tensor) -> Tensor:
        """Curves (B, W)."""
        return outputs.sigmoid()

    def configure_optimizers(self) -> Any:
        """AdamW (Adam at weight decay 0), with the schedule a step."""
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        if self.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(steps, 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
