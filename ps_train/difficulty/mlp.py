"""DifficultyMLP: trains a `DifficultyFeatureNet` on a curve table's features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ps_train.common.optimization import OptimizerSettings, ScheduleSettings
from ps_train.common.rows import Rows
from ps_train.curve.batches import CurveBatch
from ps_train.difficulty.mlp_net import DifficultyFeatureNet
from ps_train.difficulty.training import DifficultyModule


class DifficultyMLP(DifficultyModule):
    """Trains a `DifficultyFeatureNet` on features and curves (`ps_train.curve.batches.CurveBatch`).

    Args:
        hidden_sizes: Widths of the hidden layers; none for a logistic regression.
        num_members: Ensemble size; members differ in their start and their dropout.
        dropout: Share of inputs and hidden units dropped in training.
        percentiles: Of the training rows' final accuracy: up to the first is hard, from the second on easy.
        optimizer: Step size and weight decay.
        schedule: How the step size changes.
        predictor: A predictor folder to start from: its weights and settings replace the above.
    """

    architecture = DifficultyFeatureNet.architecture
    reads = ("inputs",)
    net: DifficultyFeatureNet

    def __init__(
        self,
        hidden_sizes: list[int] = [256],  # noqa: B006  # jsonargparse shows the default; never mutated
        num_members: int = 1,
        dropout: float = 0.0,
        percentiles: tuple[float, float] = (20.0, 80.0),
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008  # frozen
        schedule: ScheduleSettings = ScheduleSettings(),  # noqa: B008
        predictor: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, predictor)
        self.hidden_sizes, self.num_members, self.dropout = hidden_sizes, num_members, dropout
        self.percentiles = percentiles

    def build(self, rows: Rows) -> DifficultyFeatureNet:
        """A network that knows the training rows' scales, thresholds, class shares and class curves."""
        assert rows.schema is not None
        thresholds, labels = self.classes_of(rows)
        net = DifficultyFeatureNet(rows.schema, self.hidden_sizes, self.num_members, self.dropout, thresholds)
        net.standardise(torch.from_numpy(rows.targets["inputs"]))
        self.start(net, rows, labels)
        return net

    def training_step(self, batch: CurveBatch, batch_idx: int) -> Tensor:
        """The members' summed cross-entropy, so that each trains as it would alone."""
        logits = self.net.member_logits(batch["inputs"]).float()
        labels = self.labels_of(batch).expand(len(logits), -1)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss * len(logits)

    def outputs(self, batch: CurveBatch, name: str) -> Tensor:
        """The members' mean logits (B, 3)."""
        logits: Tensor = self.net(batch["inputs"])
        return logits.float()
