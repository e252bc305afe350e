"""What training the embedded models has in common."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig

from ps_train.common.optimization import adamw_flat_then_cosine


class TinyModel(pl.LightningModule):
    """A module that is graded on the word problems it solves.

    Its hyperparameters hold those of `adamw_flat_then_cosine`.
    """

    def log_accuracy(self, num_correct: int, num_problems: int) -> None:
        """Log the share of a validation batch's problems that were answered correctly, as `val_accuracy`."""
        self.log(
            "val_accuracy",
            num_correct / num_problems,
            batch_size=num_problems,
            on_epoch=True,
            sync_dist=True,
            prog_bar=True,
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up, a flat stretch and a cosine decay."""
        names = ("learning_rate", "weight_decay", "warmup_steps", "flat_share", "final_share")
        return adamw_flat_then_cosine(
            self.parameters(),
            int(self.trainer.estimated_stepping_batches),
            **{name: self.hparams[name] for name in names},
        )
