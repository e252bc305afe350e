"""The budget head: a text's state to the outputs of a budget target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ps_train.budget.targets import BudgetTarget
from ps_train.common.heads import Standardise


class BudgetHead(nn.Module):
    """Centred and scaled states → linear, LayerNorm, ReLU, dropout for each hidden width → linear → outputs.

    Computed in float32 whatever the trainer's precision: bfloat16 knows budgets to a hundredth only.

    Args:
        input_size: D, width of the states.
        target: What the outputs mean.
        hidden_sizes: Widths of the hidden layers.
        dropout: Share of hidden units dropped in training.
    """

    def __init__(
        self, input_size: int, target: BudgetTarget, hidden_sizes: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Standardise(input_size)]
        width = input_size
        for hidden in hidden_sizes:
            layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout)]
            width = hidden
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(width, target.num_outputs)
        self.target = target

    def fit_target(self, budgets: Tensor) -> None:
        """Learn the target's scales from the training budgets (N,), and start at what they say of a query."""
        start = self.target.fit(budgets)
        nn.init.zeros_(self.output.weight)
        self.output.bias.data.copy_(start)

    def forward(self, states: Tensor) -> Tensor:
        """(B, D) to the target's outputs (B, K)."""
        with torch.autocast(states.device.type, enabled=False):
            outputs: Tensor = self.output(self.layers(states.float()))
        return outputs
