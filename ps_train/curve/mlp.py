"""CurveMLP: trains a `CurveNet` on a curve table's features."""

from __future__ import annotations

import torch
from torch import Tensor

from ps_train.common.optimization import OptimizerSettings, ScheduleSettings
from ps_train.common.rows import Rows
from ps_train.curve.batches import CurveBatch
from ps_train.curve.loss import CurveLoss, outputs_loss
from ps_train.curve.mlp_net import CurveNet
from ps_train.curve.training import CurveModule


class CurveMLP(CurveModule):
    """Trains a `CurveNet` on batches of features and curves (`ps_train.curve.batches.CurveBatch`).

    Args:
        hidden_sizes: Widths of the hidden layers.
        num_members: Ensemble size; members differ in their start and their dropout.
        dropout: Share of inputs and hidden units dropped in training.
        standardise: Centre and scale the inputs by the training rows.
        start_at_mean: Let the untrained network answer with the training rows' mean curve.
        loss: `mse` on probabilities, as the paper; or `bce`, the likelihood of the traces' outcomes, each row
            weighted by its number of traces.
        optimizer: Step size and weight decay.
        schedule: How the step size changes.
        budgets: Mean tokens per query at which `allocation_gain` is measured; 3, 6 and 10 sixteenths of the
            table's largest budget where none are given.
        predictor: A predictor folder to start from: its weights and settings replace the above.
    """

    architecture = CurveNet.architecture
    reads = ("inputs",)
    net: CurveNet

    def __init__(
        self,
        hidden_sizes: list[int] = [256],  # noqa: B006  # jsonargparse shows the default; never mutated
        num_members: int = 1,
        dropout: float = 0.0,
        standardise: bool = True,
        start_at_mean: bool = True,
        loss: CurveLoss = "bce",
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008  # frozen
        schedule: ScheduleSettings = ScheduleSettings(),  # noqa: B008
        budgets: list[float] | None = None,
        predictor: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, predictor)
        self.hidden_sizes, self.num_members, self.dropout = hidden_sizes, num_members, dropout
        self.standardise, self.start_at_mean, self.curve_loss = standardise, start_at_mean, loss
        self.budgets = budgets

    def build(self, rows: Rows) -> CurveNet:
        """A network that knows the scales and the mean curve of the training rows."""
        assert rows.schema is not None
        net = CurveNet(rows.schema, self.hidden_sizes, self.num_members, self.dropout)
        if self.standardise:
            net.standardise(torch.from_numpy(rows.targets["inputs"]))
        self.start(net, rows)
        if self.start_at_mean:
            net.start_at_mean()
        return net

    def training_step(self, batch: CurveBatch, batch_idx: int) -> Tensor:
        """The members' summed loss, so that each trains as it would alone."""
        logits = self.net.member_logits(batch["inputs"]).float()
        member_loss = outputs_loss(logits, batch, self.curve_loss)  # type: ignore[arg-type]
        self.log("train/loss", member_loss.mean(), on_step=False, on_epoch=True, sync_dist=True)
        return member_loss.sum()

    def outputs(self, batch: CurveBatch, name: str) -> Tensor:
        """The members' mean outputs (B, W or 2W)."""
        logits: Tensor = self.net(batch["inputs"])
        return logits.float()
