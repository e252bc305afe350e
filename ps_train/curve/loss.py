"""How far predicted curves are from measured ones, for training."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

CurveLoss = Literal["mse", "bce"]
"""`mse` on probabilities, as the paper; or `bce`, the likelihood of the traces' outcomes."""


def curve_loss(logits: Tensor, curves: Tensor, n_traces: Tensor, loss: CurveLoss) -> Tensor:
    """Mean loss of curve logits; each row counts by its number of traces.

    Args:
        logits: (…, B, W) predicted.
        curves: (B, W) measured.
        n_traces: (B,) float, traces behind each measured curve.
        loss: Which.

    Returns:
        (…), the mean over rows and windows.
    """
    target = curves.expand_as(logits)
    if loss == "mse":
        errors = F.mse_loss(logits.sigmoid(), target, reduction="none")
    else:
        errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weight = n_traces / n_traces.mean()
    return (errors * weight[:, None]).mean((-2, -1))


def curve_logits(curve: Tensor) -> Tensor:
    """Logits that answer with a curve; probabilities nearer than .001 to 0 or 1 are moved there."""
    return curve.clamp(1e-3, 1 - 1e-3).logit()
