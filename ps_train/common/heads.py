"""Small networks on top of a language model's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def keeping_type(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `fn` does to a tensor but for its type."""

    def kept(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

    return kept


def spread_of(inputs: Tensor) -> Tensor:
    """Standard deviation of each column of (N, D), to divide by: infinite where a column is constant.

    A constant input carries nothing; dividing by its rounding noise would blow it up at inference.
    """
    spread = inputs.std(0)
    return torch.where(spread > 1e-6, spread, torch.inf)


def head_faults(hidden_sizes: Sequence[int], dropout: float) -> list[str]:
    """What is wrong with these settings of a small network: sentences, none where they fit."""
    faults = []
    if any(width < 1 for width in hidden_sizes):
        faults.append(f"hidden_sizes must be positive, got {list(hidden_sizes)}")
    if not 0 <= dropout < 1:
        faults.append(f"dropout must lie in [0, 1), got {dropout}")
    return faults


@dataclass(frozen=True)
class HeadSettings:
    """The network on top of a language model's state."""

    hidden_sizes: list[int] = field(default_factory=list)
    """Widths of the hidden layers; none for a linear head."""
    dropout: float = 0.0
    """Share of units dropped in training."""

    def __post_init__(self) -> None:
        if faults := head_faults(self.hidden_sizes, self.dropout):
            raise ValueError("; ".join(f"head.{fault}" for fault in faults))


class StateHead(nn.Sequential):
    """Centred and scaled states (B, D) to (B, outputs): linear, or with hidden layers.

    Args:
        in_features: D.
        out_features: Outputs.
        hidden_sizes: Widths of the hidden layers.
        dropout: Share of inputs and hidden units dropped in training.
    """

    def __init__(
        self, in_features: int, out_features: int, hidden_sizes: Sequence[int] = (), dropout: float = 0.0
    ) -> None:
        layers: list[nn.Module] = [Standardise(in_features), nn.Dropout(dropout)]
        width = in_features
        for hidden in hidden_sizes:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
            width = hidden
        super().__init__(*layers, nn.Linear(width, out_features))

    def start_at(self, outputs: Tensor) -> None:
        """Let the untrained head answer nearly this, (outputs,), whatever its input."""
        last = self[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(outputs)


class Standardise(nn.Module):
    """Centres and scales each input by what the training rows had at the start."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, inputs: Tensor) -> None:
        """Learn centre and scale from training rows (N, D)."""
        self.mean.copy_(inputs.mean(0))
        self.scale.copy_(spread_of(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        return (inputs - self.mean) / self.scale


class OrdinalOutput(nn.Module):
    """Scores (B, 1) to log-probabilities (B, C) of ordered classes, by the proportional-odds model.

    `P(class > k) = sigmoid(score - cut[k])` with ascending cuts (McCullagh 1980): one direction in the state
    says how hard a question is, whatever the number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(1))
        self.steps = nn.Parameter(torch.full((num_classes - 2,), 0.5))

    def forward(self, scores: Tensor) -> Tensor:
        """Log-probabilities, which are their own logits."""
        cuts = torch.cat([self.first, self.first + F.softplus(self.steps).cumsum(0)])
        above = F.logsigmoid(scores - cuts)  # log P(class > k)
        below = F.logsigmoid(cuts - scores)  # log P(class <= k)
        # log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a))
        between = above[:, :-1] + below[:, 1:] + torch.log(-torch.expm1(cuts[:-1] - cuts[1:]))
        return torch.cat([below[:, :1], between, above[:, -1:]], dim=1)

    def start_at(self, shares: Tensor) -> None:
        """Set the cuts so that a score of 0 gives these class shares, (C,), all positive."""
        cuts = shares.cumsum(0)[:-1].logit()
        gaps = cuts.diff()
        with torch.no_grad():
            self.first.copy_(cuts[:1])
            self.steps.copy_(gaps + torch.log(-torch.expm1(-gaps)))  # softplus backwards
