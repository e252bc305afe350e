"""How far predicted curves are from measured ones, for training."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

CurveLoss = Literal["mse", "bce"]
"""`mse` on probabilities, as the paper; or `bce`, the likelihood of the traces' outcomes."""


def curve_loss(logits: Tensor, curves: Tensor, loss: CurveLoss, weights: Tensor | None = None) -> Tensor:
    """Mean loss of curve logits; each row counts by its weight.

    Args:
        logits: (…, B, W) predicted.
        curves: (B, W) measured.
        loss: Which.
        weights: (B,) each row's traces in units of the training table's mean; 1 for all where not given. Not
            in units of the batch's: how rows are batched, or shared by processes, must not change the loss.

    Returns:
        (…), the mean over rows and windows.
    """
    target = curves.expand_as(logits)
    if loss == "mse":
        errors = F.mse_loss(logits.sigmoid(), target, reduction="none")
    else:
        errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if weights is not None:
        errors = errors * weights[:, None]
    return errors.mean((-2, -1))


def curve_logits(curve: Tensor) -> Tensor:
    """Logits that answer with a curve; probabilities nearer than .001 to 0 or 1 are moved there."""
    return curve.clamp(1e-3, 1 - 1e-3).logit()
