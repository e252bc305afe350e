"""The forecaster's network: what a prompt and a trace so far look like → accuracy and hazard ahead.

Outputs are counted from where the trace stands: accuracy if it answered now and after each further step of
the grid, and for each step how likely the trace is to end in it (as `ps_train.curve.use`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ps_train.common.ensemble import MemberLinear
from ps_train.common.heads import Standardise

NOW_WEIGHT = 3.0
"""Weight of the accuracy of answering now beside the mean over all steps: every decision compares with it."""


class ForecastNet(nn.Module):
    """M MLPs side by side.

    Args:
        input_size: D.
        steps: W, budgets of the grid.
        hidden_sizes: Widths of the hidden layers.
        num_members: M.
        dropout: Share of inputs and hidden units dropped in training.
    """

    def __init__(
        self, input_size: int, steps: int, hidden_sizes: list[int], num_members: int, dropout: float
    ) -> None:
        super().__init__()
        self.steps = steps
        self.standardise = Standardise(input_size)
        layers: list[nn.Module] = []
        width = input_size
        for hidden in hidden_sizes:
            layers += [nn.Dropout(dropout), MemberLinear(num_members, width, hidden), nn.ReLU()]
            width = hidden
        self.members = nn.Sequential(*layers, MemberLinear(num_members, width, 2 * steps + 1))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) to each member's logits of accuracies (M, B, W + 1) and hazards (M, B, W)."""
        outputs: Tensor = self.members(self.standardise(inputs))
        return outputs[..., : self.steps + 1], outputs[..., self.steps + 1 :]

    def loss(self, inputs: Tensor, right: Tensor, shares: Tensor, ahead: Tensor) -> Tensor:
        """Mean negative log-likelihood of what became of the traces; see `NOW_WEIGHT`.

        Args:
            inputs: (B, D).
            right: (B, W + 1) 1 where the answer now and after each further step is right.
            shares: (B, W) share of each further step that the trace really thought through, not rising.
            ahead: (B,) steps that the grid still has; what lies beyond counts nothing.
        """
        accuracies, hazards = self(inputs)
        step = torch.arange(self.steps + 1, device=inputs.device)
        there = (step <= ahead[:, None]).float()
        errors = F.binary_cross_entropy_with_logits(accuracies, right.expand_as(accuracies), reduction="none")
        came = F.pad(shares[:, :-1], (1, 0), value=1.0)
        went_on, ended = shares, (came - shares).clamp(min=0.0)
        ends = -(went_on * F.logsigmoid(-hazards) + ended * F.logsigmoid(hazards))
        within = there[:, 1:]
        steps = (errors * there).sum() / (there.sum() * len(errors))
        return (
            steps
            + NOW_WEIGHT * errors[..., 0].mean()
            + (ends * within).sum() / (within.sum().clamp(min=1) * len(ends))
        )
