"""The difficulty classifier on features: the served model's state of a question → easy, medium or hard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ps_train.common.ensemble import EnsembleNet
from ps_train.difficulty.classes import ClassPredictor
from ps_train.difficulty.labels import NUM_CLASSES, DifficultyThresholds
from ps_train.schema import CurveSchema


class DifficultyFeatureNet(ClassPredictor, EnsembleNet):
    """M MLPs from concatenated features to logits of 0 easy, 1 medium, 2 hard.

    Args:
        schema: What it reads and predicts.
        hidden_sizes: Widths of the hidden layers; none for a logistic regression.
        num_members: M, the ensemble's size.
        dropout: Share of inputs and hidden units dropped in training.
        thresholds: What separated the training questions' classes; none where their labels were given.
    """

    architecture = "difficulty_mlp"

    def __init__(
        self,
        schema: CurveSchema,
        hidden_sizes: list[int],
        num_members: int = 1,
        dropout: float = 0.0,
        thresholds: DifficultyThresholds | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(schema, NUM_CLASSES, hidden_sizes, num_members, dropout)
        self.keep_classes(thresholds)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__` after the schema, as JSON."""
        return {**super().settings, **self.class_settings}

    def start_at_shares(self, shares: Tensor) -> None:
        """Set the output biases to these class shares (3,)."""
        self.start_at(shares.log())
