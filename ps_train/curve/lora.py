"""CurveLoRA: trains a `CurveLoraNet` on questions and their curves."""

from __future__ import annotations

from torch import Tensor

from ps_train.common.heads import HeadSettings
from ps_train.common.lora_module import LoraModule
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.optimization import LoraOptimizerSettings, ScheduleSettings
from ps_train.common.rows import Rows
from ps_train.common.text_batches import TextBatch
from ps_train.curve.lora_net import CurveLoraNet
from ps_train.curve.loss import CurveLoss, mean_outputs, outputs_loss
from ps_train.curve.training import CurveModule


class CurveLoRA(CurveModule, LoraModule):
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
    net: CurveLoraNet

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
        self.start(net, rows)
        net.head.start_at(mean_outputs(net))
        return net

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """See `outputs_loss`."""
        return outputs_loss(outputs, batch, self.curve_loss)
