"""What training the embedded models has in common."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


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

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up, a flat stretch and a cosine decay."""
        names = ("learning_rate", "weight_decay", "warmup_steps", "flat_share", "final_share")
        return adamw_flat_then_cosine(
            self.parameters(),
            int(self.trainer.estimated_stepping_batches),
            **{name: self.hparams[name] for name in names},
        )


def adamw_flat_then_cosine(
    parameters: Iterable[nn.Parameter],
    total_steps: int,
    learning_rate: float,
    weight_decay: float,
    warmup_steps: int,
    flat_share: float,
    final_share: float,
) -> Any:
    """AdamW; linear warm-up, a flat stretch, then a cosine to `final_share` of the peak.

    Args:
        parameters: What to train; weight decay applies to matrices only.
        total_steps: Optimizer steps of the whole training.
        learning_rate: Peak learning rate.
        weight_decay: AdamW's weight decay.
        warmup_steps: Steps of linear warm-up.
        flat_share: Share of training at the peak rate, in [0, 1).
        final_share: Last learning rate as a share of the peak.

    Raises:
        ValueError: If `flat_share` leaves no decay.
    """
    if not 0 <= flat_share < 1:
        raise ValueError(f"flat_share must lie in [0, 1), got {flat_share}")
    trained = list(parameters)
    optimizer = AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )

    # Not of torch's pieces: the flat stretch may end within the warm-up, and then the cosine goes on from
    # where it would have been.
    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = max(0.0, (step / total_steps - flat_share) / (1 - flat_share))
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    schedule = LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
