"""The optimizer and learning-rate schedule that the embedded models share."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn


def adamw_flat_then_cosine(
    parameters: Iterable[nn.Parameter],
    total_steps: int,
    learning_rate: float,
    weight_decay: float,
    warmup_steps: int,
    flat_share: float,
    final_share: float,
) -> OptimizerLRSchedulerConfig:
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
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = max(0.0, (step / total_steps - flat_share) / (1 - flat_share))
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
