"""The difficulty classifier's network: the question's text → easy, medium or hard → such questions' curve.

The second predictor of *Predictive Scheduling* (arXiv 2602.01237).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ps_train.common.heads import OrdinalOutput, StateHead
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.text_batches import TextFormat
from ps_train.common.text_predictor import TextPredictor
from ps_train.difficulty.classes import ClassPredictor
from ps_train.difficulty.labels import NUM_CLASSES, DifficultyThresholds
from ps_train.schema import CurveSchema


class DifficultyHead(nn.Module):
    """States (B, D) to class logits (B, 3)."""

    def __init__(self, in_features: int, hidden_sizes: Sequence[int], dropout: float, ordinal: bool) -> None:
        super().__init__()
        self.state = StateHead(in_features, 1 if ordinal else NUM_CLASSES, hidden_sizes, dropout)
        self.ordinal = OrdinalOutput(NUM_CLASSES) if ordinal else None

    def forward(self, states: Tensor) -> Tensor:
        """Logits; of the ordinal variant, log-probabilities."""
        outputs: Tensor = self.state(states)
        return outputs if self.ordinal is None else self.ordinal(outputs)

    def start_at(self, shares: Tensor) -> None:
        """Let the untrained head answer nearly these class shares (C,)."""
        if self.ordinal is None:
            self.state.start_at(shares.log())
        else:
            self.state.start_at(torch.zeros(1))
            self.ordinal.start_at(shares)


class DifficultyNet(ClassPredictor, TextPredictor):
    """State of the last real token → logits of 0 easy, 1 medium, 2 hard.

    Args:
        schema: What it predicts, and the language model that reads the questions.
        lora: What of it runs and is trained.
        text: What it reads.
        hidden_sizes: Widths of the head's hidden layers; none for a linear head.
        dropout: Share of states and hidden units dropped in training.
        ordinal: One score and two cuts instead of three logits.
        thresholds: What separated the training questions' classes; none where their labels were given.
        hidden_size: As folders written before say it: one hidden layer, or 0.
    """

    architecture = "difficulty_lora"
    head: DifficultyHead

    def __init__(
        self,
        schema: CurveSchema,
        lora: LoraSettings | Mapping[str, Any] | None = None,
        text: TextFormat | Mapping[str, Any] | None = None,
        hidden_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        ordinal: bool = False,
        thresholds: DifficultyThresholds | Mapping[str, float] | None = None,
        hidden_size: int = 0,
    ) -> None:
        super().__init__(schema, lora, text)
        widths = [hidden_size] if hidden_size else list(hidden_sizes)
        self._head_settings = {"hidden_sizes": widths, "dropout": dropout, "ordinal": ordinal}
        self.head = DifficultyHead(self.backbone.hidden_size, widths, dropout, ordinal)
        self.keep_classes(thresholds)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__` after the schema, as JSON."""
        return {**super().settings, **self._head_settings, **self.class_settings}

    def start_at_shares(self, shares: Tensor) -> None:
        """Let the untrained head answer nearly these class shares (3,)."""
        self.head.start_at(shares)
