"""Ensembles of MLPs on a question's features, run as one.

`num_members` MLPs with weights of their own are one batched matrix product each layer; their outputs are
averaged. One member is a plain MLP.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ps_train.common.feature_predictor import FeaturePredictor
from ps_train.common.heads import head_faults, spread_of
from ps_train.schema import CurveSchema


class MemberLinear(nn.Module):
    """`num_members` linear layers side by side: (M, B, in) or (B, in) to (M, B, out)."""

    def __init__(self, num_members: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)  # as nn.Linear starts
        self.weight = nn.Parameter(
            torch.empty(num_members, in_features, out_features).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.empty(num_members, 1, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's layer to its own rows, or to rows they all share."""
        return x @ self.weight + self.bias


class EnsembleNet(FeaturePredictor):
    """M MLPs from centred and scaled features (B, D) to outputs (B, K): subclasses say what those mean.

    Args:
        schema: What it reads and predicts.
        num_outputs: K.
        hidden_sizes: Widths of the hidden layers.
        num_members: M, the ensemble's size.
        dropout: Share of inputs and hidden units dropped in training.

    Raises:
        ValueError: If a setting is out of range; all faults in one sentence.
    """

    input_mean: Tensor
    input_scale: Tensor

    def __init__(
        self,
        schema: CurveSchema,
        num_outputs: int,
        hidden_sizes: list[int],
        num_members: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(schema)
        faults = head_faults(hidden_sizes, dropout)
        if num_members < 1:
            faults.append(f"num_members must be at least 1, got {num_members}")
        if faults:
            raise ValueError("; ".join(faults))
        self._settings = {"hidden_sizes": list(hidden_sizes), "num_members": num_members, "dropout": dropout}
        self.register_buffer("input_mean", torch.zeros(schema.input_size))
        self.register_buffer("input_scale", torch.ones(schema.input_size))
        layers: list[nn.Module] = []
        width = schema.input_size
        for hidden in hidden_sizes:
            layers += [nn.Dropout(dropout), MemberLinear(num_members, width, hidden), nn.ReLU()]
            width = hidden
        self.members = nn.Sequential(
            *layers, nn.Dropout(dropout), MemberLinear(num_members, width, num_outputs)
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__` after the schema."""
        return self._settings

    def standardise(self, inputs: Tensor) -> None:
        """Centre and scale each input by its mean and spread over the training rows (N, D)."""
        self.input_mean.copy_(inputs.mean(0))
        self.input_scale.copy_(spread_of(inputs))

    def start_at(self, outputs: Tensor) -> None:
        """Set the output biases to (K,): what is said of a question before anything else is known."""
        output = self.members[-1]
        assert isinstance(output, MemberLinear)
        with torch.no_grad():
            output.bias.copy_(outputs.expand_as(output.bias))

    def member_logits(self, inputs: Tensor) -> Tensor:
        """(B, D) to each member's outputs (M, B, K)."""
        if inputs.shape[-1] != self.schema.input_size:
            raise ValueError(
                f"inputs must have the predictor's {self.schema.input_size} columns, got {inputs.shape[-1]}"
            )
        standardised = (inputs.to(self.input_mean) - self.input_mean) / self.input_scale
        outputs: Tensor = self.members(standardised)
        return outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) to the members' mean outputs (B, K)."""
        return self.member_logits(inputs).mean(0)
