"""DifficultyClassifier: trains a `DifficultyNet` on questions and their curves."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ps_train.common.heads import HeadSettings
from ps_train.common.lora_module import LoraModule
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.optimization import LoraOptimizerSettings, ScheduleSettings
from ps_train.common.rows import Rows
from ps_train.common.text_batches import TextBatch
from ps_train.difficulty.lora_net import DifficultyNet
from ps_train.difficulty.training import DifficultyModule


class DifficultyClassifier(DifficultyModule, LoraModule):
    """Trains a `DifficultyNet`.

    Batches hold `input_ids` and `attention_mask` (B, L), `rows` (B,), and `curves` (B, W) or `labels` (B,).
    Labels come from the curves' final accuracy, by percentiles of the training rows that are kept with the
    predictor; or from the data's `label_column`.

    Args:
        lora: What of the language model runs and is trained.
        head: The network on top; it drops states as well.
        ordinal: One score and two cuts (`ps_train.common.heads.OrdinalOutput`) instead of three logits.
        percentiles: Of the training rows' final accuracy: up to the first is hard, from the second on easy.
        optimizer: Step sizes and weight decay.
        schedule: How the step sizes change.
        predictor: See `LoraModule`.
        adapter: See `LoraModule`.
        frozen_cache: See `LoraModule`.
    """

    architecture = DifficultyNet.architecture
    net: DifficultyNet

    def __init__(
        self,
        lora: LoraSettings = LoraSettings(),  # noqa: B008  # frozen; jsonargparse shows the defaults
        head: HeadSettings = HeadSettings(),  # noqa: B008
        ordinal: bool = False,
        percentiles: tuple[float, float] = (20.0, 80.0),
        optimizer: LoraOptimizerSettings = LoraOptimizerSettings(),  # noqa: B008
        schedule: ScheduleSettings = ScheduleSettings("linear"),  # noqa: B008
        predictor: str | None = None,
        adapter: str | None = None,
        frozen_cache: str | None = None,
    ) -> None:
        super().__init__(lora, head, optimizer, schedule, predictor, adapter, frozen_cache)
        self.ordinal, self.percentiles = ordinal, percentiles

    def build(self, rows: Rows) -> DifficultyNet:
        """A network that knows the training rows' thresholds, class shares and class curves."""
        thresholds, labels = self.classes_of(rows)
        net = DifficultyNet(**self.net_arguments(rows), ordinal=self.ordinal, thresholds=thresholds)
        self.start(net, rows, labels)
        return net

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(outputs, self.labels_of(batch))
