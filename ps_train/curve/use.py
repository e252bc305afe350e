"""Use learned as hazards: how likely a trace that has come so far ends in the grid's next segment.

Segment k lies between the budgets k - 1 and k. Of a trace that fills all before it, a share `hazard[k]` of
the segment is expected to stay unused. Use under a budget is what survives, segment by segment: it never
exceeds the budget, never falls, and grows ever more slowly, whatever the network says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # which brings pyarrow, and a predictor does without
    from ps_train.curve_table import CurveTable

SMALLEST = 1e-3
"""A mean hazard nearer to 0 or 1 than this starts the network here."""


def used_shares(use: npt.NDArray[np.floating], budgets: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The share of each segment that is really used, (N, W) in [0, 1], not rising along the grid.

    Args:
        use: (N, W) mean tokens used under each budget.
        budgets: (W,) tokens.
    """
    steps = np.diff(use.astype(np.float64), axis=1, prepend=0.0) / np.diff(budgets, prepend=0)
    # Means of a trace's own shares never rise; rounding, or use from elsewhere, may.
    return np.minimum.accumulate(np.clip(steps, 0.0, 1.0), axis=1).astype(np.float32)


def use_targets(table: CurveTable) -> dict[str, npt.NDArray[np.float32]]:
    """`use` and `used_shares` (N, W) of a table; nothing where it does not know use."""
    if table.use is None:
        return {}
    return {"use": table.use, "used_shares": used_shares(table.use, table.budgets)}


def hazard_loss(logits: Tensor, shares: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of where traces end; each row counts by its weight.

    Args:
        logits: (…, B, W) of the hazards.
        shares: (B, W) measured shares of each segment used, not rising.
        weights: (B,) as for `curve_loss`.

    Returns:
        (…), the mean over rows and segments. Segments that no trace of a row reaches count nothing.
    """
    came = F.pad(shares[:, :-1], (1, 0), value=1.0)
    went_on, ended = shares, (came - shares).clamp(min=0.0)
    errors = -(went_on * F.logsigmoid(-logits) + ended * F.logsigmoid(logits))
    if weights is not None:
        errors = errors * weights[:, None]
    return errors.mean((-2, -1))


def use_of(logits: Tensor, budgets: npt.NDArray[np.int64]) -> Tensor:
    """Expected tokens used under each budget, (B, W), from hazard logits (B, W) and the budgets (W,)."""
    survival = F.logsigmoid(-logits.double()).cumsum(-1).exp()
    steps = torch.tensor(np.diff(budgets, prepend=0), dtype=torch.float64, device=logits.device)
    return (survival * steps).cumsum(-1).float()


def hazard_logits(shares: Tensor) -> Tensor:
    """Logits (W,) that answer with the mean shares (W,)."""
    came = F.pad(shares[:-1], (1, 0), value=1.0)
    hazard = torch.where(came > 0, 1 - shares / came.clamp(min=1e-9), 0.5)
    return hazard.clamp(SMALLEST, 1 - SMALLEST).logit()


def split_outputs(outputs: Tensor, num_windows: int) -> tuple[Tensor, Tensor | None]:
    """A network's outputs (…, W or 2W) as curve logits (…, W) and, where it learned use, hazard logits."""
    has_use = outputs.shape[-1] > num_windows
    return outputs[..., :num_windows], outputs[..., num_windows:] if has_use else None
