"""How far predicted curves are from measured ones, for training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ps_train.curve.use import hazard_logits, hazard_loss, split_outputs, used_shares
from ps_train.predictor import CurvePredictor

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


def outputs_loss(outputs: Tensor, batch: Mapping[str, Tensor], loss: CurveLoss) -> Tensor:
    """`curve_loss` and, where use is learned, `hazard_loss` beside it.

    Args:
        outputs: (…, B, W) curve logits, or (…, B, 2W): hazard logits beside them.
        batch: `curves` (B, W); `used_shares` (B, W) where use is learned; `weights` (B,) where they differ.
        loss: Of the curves.

    Returns:
        (…), the sum of the means over rows and windows.
    """
    curves, weights = batch["curves"], batch.get("weights")
    logits, hazards = split_outputs(outputs, curves.shape[-1])
    total = curve_loss(logits, curves, loss, weights)
    return total if hazards is None else total + hazard_loss(hazards, batch["used_shares"], weights)


def mean_outputs(net: CurvePredictor) -> Tensor:
    """Outputs (W or 2W,) that answer with the training questions' means, as the predictor keeps them."""
    curve = curve_logits(net.mean_curve)
    if not net.schema.has_use:
        return curve
    shares = used_shares(net.training_use[None].cpu().numpy(), net.schema.grid)[0]
    return torch.cat([curve, hazard_logits(torch.from_numpy(shares)).to(curve)])


def curve_logits(curve: Tensor) -> Tensor:
    """Logits that answer with a curve; probabilities nearer than .001 to 0 or 1 are moved there."""
    return curve.clamp(1e-3, 1 - 1e-3).logit()
