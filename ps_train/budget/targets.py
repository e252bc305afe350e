"""What a budget head's outputs mean: a point, quantiles, or a distribution over bins; and their losses.

Budgets span 100 to 32,000 tokens: an error of 500 ruins a short query and is nothing to a long one. Targets
can therefore be learnt in log space, where errors are shares. Whatever the target, predictions are tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Space = Literal["tokens", "log"]
Loss = Literal["huber", "pinball", "bins"]


class BudgetTarget(nn.Module):
    """K outputs of a head to a predicted budget, and to its quantiles at `levels` where it has any.

    `fit` takes scales, edges and starting points from the training budgets; they are buffers, saved with the
    weights.

    Args:
        num_outputs: K.
        levels: (L,) ascending levels of the quantiles; empty for a point prediction.
    """

    def __init__(self, num_outputs: int, levels: Sequence[float]) -> None:
        super().__init__()
        self.num_outputs, self.levels = num_outputs, tuple(levels)

    def fit(self, budgets: Tensor) -> Tensor:
        """Learn scales from the training budgets (N,).

        Returns:
            (K,) what the outputs shall be before anything else is known: the head's first bias.
        """
        raise NotImplementedError

    def loss(self, outputs: Tensor, budgets: Tensor) -> Tensor:
        """Mean loss of outputs (B, K) for needed budgets (B,)."""
        raise NotImplementedError

    def quantiles(self, outputs: Tensor) -> Tensor:
        """(B, K) to (B, L) tokens, ascending in each row."""
        raise NotImplementedError

    def budget(self, outputs: Tensor) -> Tensor:
        """(B, K) to predicted budgets (B,), tokens: the median where there is a distribution."""
        raise NotImplementedError


class _ScaledTarget(BudgetTarget):
    """Outputs in units of the training budgets' spread around their middle, in tokens or their logarithm."""

    centre: Tensor
    scale: Tensor

    def __init__(self, num_outputs: int, levels: Sequence[float], space: Space) -> None:
        super().__init__(num_outputs, levels)
        self.space = space
        self.register_buffer("centre", torch.tensor(0.0))
        self.register_buffer("scale", torch.tensor(1.0))

    def _fit_scale(self, budgets: Tensor) -> Tensor:
        """The training budgets in units."""
        budgets = budgets.to(self.centre.device)
        values = self._values(budgets)
        self.centre.copy_(values.median())
        spread = values.std(correction=0)
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))
        return self._units(budgets)

    def _values(self, budgets: Tensor) -> Tensor:
        return budgets.float().log() if self.space == "log" else budgets.float()

    def _units(self, budgets: Tensor) -> Tensor:
        return (self._values(budgets) - self.centre) / self.scale

    def _tokens(self, units: Tensor) -> Tensor:
        values = units * self.scale + self.centre
        return values.exp() if self.space == "log" else values


class PointTarget(_ScaledTarget):
    """One output: the budget, by the Huber loss.

    Args:
        space: Where errors are measured.
        delta: Error beyond which the loss grows linearly: in tokens, or in logarithms where `space` is `log`.
    """

    def __init__(self, space: Space = "tokens", delta: float = 1000.0) -> None:
        super().__init__(1, (), space)
        if not delta > 0:
            raise ValueError(f"delta must be positive, got {delta}")
        self.delta = delta

    def fit(self, budgets: Tensor) -> Tensor:
        """Start at the median."""
        return torch.zeros(1).to(self._fit_scale(budgets))

    def loss(self, outputs: Tensor, budgets: Tensor) -> Tensor:
        """Huber loss in the target's units, which keeps its minimiser."""
        error = (outputs[:, 0] - self._units(budgets)).abs()
        delta = self.delta / self.scale
        return torch.where(error <= delta, error**2 / 2, delta * (error - delta / 2)).mean()

    def quantiles(self, outputs: Tensor) -> Tensor:
        """None: (B, 0)."""
        return outputs[:, :0]

    def budget(self, outputs: Tensor) -> Tensor:
        """The output in tokens."""
        return self._tokens(outputs[:, 0])


class QuantileTarget(_ScaledTarget):
    """L outputs: quantiles, by the pinball loss (Koenker and Bassett 1978). They cannot cross.

    The first output is the lowest quantile; each further one adds its softplus to the one before.

    Args:
        levels: L ascending levels.
        space: Where errors are measured.
    """

    def __init__(self, levels: Sequence[float], space: Space = "tokens") -> None:
        super().__init__(len(levels), _check_levels(levels), space)

    def fit(self, budgets: Tensor) -> Tensor:
        """Start at the training budgets' own quantiles."""
        units = self._fit_scale(budgets)
        start = torch.quantile(units, units.new_tensor(self.levels))
        steps = start.diff().clamp(min=1e-2)
        return torch.cat([start[:1], torch.log(torch.expm1(steps))])  # the inverse of softplus

    def _in_units(self, outputs: Tensor) -> Tensor:
        return torch.cat([outputs[:, :1], F.softplus(outputs[:, 1:])], dim=1).cumsum(1)

    def loss(self, outputs: Tensor, budgets: Tensor) -> Tensor:
        """Pinball loss, mean over levels."""
        short = self._units(budgets)[:, None] - self._in_units(outputs)
        levels = outputs.new_tensor(self.levels)
        return torch.maximum(levels * short, (levels - 1) * short).mean()

    def quantiles(self, outputs: Tensor) -> Tensor:
        """(B, L) tokens."""
        return self._tokens(self._in_units(outputs))

    def budget(self, outputs: Tensor) -> Tensor:
        """The median, between the two levels around one half; the nearest level where half lies outside."""
        values, levels = self.quantiles(outputs), self.levels
        right = sum(level < 0.5 for level in levels)
        if right in (0, len(levels)):
            return values[:, min(right, len(levels) - 1)]
        share = (0.5 - levels[right - 1]) / (levels[right] - levels[right - 1])
        return values[:, right - 1] * (1 - share) + values[:, right] * share


class BinTarget(BudgetTarget):
    """One logit a bin of budgets, by cross-entropy: a whole distribution, of any shape.

    Bin b holds budgets in (edges[b], edges[b + 1]]. Where the training budgets have no more different values
    than there are bins (curve tables), each value is the upper edge of a bin of its own; else the bins hold
    equally many training queries.

    Args:
        num_bins: Most bins.
        levels: Levels of the quantiles that are read off the distribution.
    """

    edges: Tensor
    """(num_bins + 1,) ascending tokens; bins that are not needed are empty at the end."""
    values: Tensor
    """(num_bins,) median training budget of each bin."""

    def __init__(self, num_bins: int, levels: Sequence[float]) -> None:
        super().__init__(num_bins, _check_levels(levels))
        if num_bins < 2:
            raise ValueError(f"num_bins must be at least 2, got {num_bins}")
        self.register_buffer("edges", torch.zeros(num_bins + 1))
        self.register_buffer("values", torch.zeros(num_bins))

    def fit(self, budgets: Tensor) -> Tensor:
        """Choose the edges; start at the bins' shares of the training budgets."""
        budgets = budgets.to(self.edges)
        upper = budgets.unique()
        step = upper[1] - upper[0] if len(upper) > 1 else upper[0]
        lowest = (upper[:1] - step).clamp(min=0)
        if len(upper) > self.num_outputs:
            shares = torch.linspace(0, 1, self.num_outputs + 1, device=budgets.device)[1:]
            upper = torch.quantile(budgets, shares, interpolation="higher").unique()
        edges = torch.cat([lowest, upper])
        empty = self.num_outputs - len(upper)
        self.edges.copy_(torch.cat([edges, edges[-1:].expand(empty)]))
        bins = self.bins(budgets)
        for b in range(len(upper)):
            self.values[b] = budgets[bins == b].median()
        self.values[len(upper) :] = upper[-1]
        counts = torch.bincount(bins, minlength=self.num_outputs)
        return (counts / len(budgets)).clamp(min=1e-4).log()

    def bins(self, budgets: Tensor) -> Tensor:
        """(B,) the bin of each budget; what lies outside the edges is in the nearest."""
        upper = self.edges[1:].contiguous()
        return torch.bucketize(budgets.float(), upper).clamp(max=self.num_outputs - 1)

    def loss(self, outputs: Tensor, budgets: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(outputs, self.bins(budgets))

    def quantiles(self, outputs: Tensor) -> Tensor:
        """(B, L) tokens, in proportion within a bin."""
        sufficient = outputs.softmax(1).cumsum(1)
        levels = outputs.new_tensor(self.levels).expand(len(outputs), -1).contiguous()
        bins = torch.searchsorted(sufficient, levels).clamp(max=self.num_outputs - 1)
        before = F.pad(sufficient, (1, 0)).gather(1, bins)
        inside = (sufficient.gather(1, bins) - before).clamp(min=1e-12)
        share = ((levels - before) / inside).clamp(0, 1)
        low, high = self.edges[bins], self.edges[bins + 1]
        return low + share * (high - low)

    def budget(self, outputs: Tensor) -> Tensor:
        """The median training budget of the median bin."""
        sufficient = outputs.softmax(1).cumsum(1)
        return self.values[(sufficient < 0.5).sum(1).clamp(max=self.num_outputs - 1)]


def make_target(
    loss: Loss, *, space: Space, delta: float, levels: Sequence[float], num_bins: int
) -> BudgetTarget:
    """The target of a `loss`; see the classes for the settings.

    Raises:
        ValueError: If a setting is out of range.
    """
    if loss == "huber":
        return PointTarget(space, delta)
    if loss == "pinball":
        return QuantileTarget(levels, space)
    if loss == "bins":
        return BinTarget(num_bins, levels)
    raise ValueError(f"loss must be huber, pinball or bins, got {loss!r}")


def _check_levels(levels: Sequence[float]) -> Sequence[float]:
    inside = [0.0, *levels, 1.0]
    if not levels or any(a >= b for a, b in pairwise(inside)):
        raise ValueError(f"levels must ascend between 0 and 1, got {list(levels)}")
    return levels
