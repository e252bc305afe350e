"""The difficulty classifier's network: the question's text → easy, medium or hard → such questions' curve.

The second predictor of *Predictive Scheduling* (arXiv 2602.01237).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ps_alloc.difficulty import difficulty_curves
from ps_train.common.heads import OrdinalOutput, StateHead
from ps_train.common.lora_backbone import LoraSettings
from ps_train.common.text_batches import TextFormat
from ps_train.common.text_predictor import TextPredictor
from ps_train.difficulty.labels import NUM_CLASSES, DifficultyThresholds
from ps_train.predictor import CurveSchema


class DifficultyHead(nn.Module):
    """States (B, D) to class logits (B, 3)."""

    def __init__(self, in_features: int, hidden_size: int, dropout: float, ordinal: bool) -> None:
        super().__init__()
        self.state = StateHead(in_features, 1 if ordinal else NUM_CLASSES, hidden_size, dropout)
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


class DifficultyNet(TextPredictor):
    """State of the last real token → logits of 0 easy, 1 medium, 2 hard.

    Args:
        schema: What it predicts, and the language model that reads the questions.
        lora: What of it runs and is trained.
        text: What it reads.
        hidden_size: Width of the head's hidden layer; 0 for a linear head.
        dropout: Share of states and hidden units dropped in training.
        ordinal: One score and two cuts instead of three logits.
        thresholds: What separated the training questions' classes; none where their labels were given.
    """

    architecture = "difficulty_lora"
    head: DifficultyHead
    class_curves: Tensor
    """(3, W) mean curve of each class's training questions."""

    def __init__(
        self,
        schema: CurveSchema,
        lora: LoraSettings | Mapping[str, Any] | None = None,
        text: TextFormat | Mapping[str, Any] | None = None,
        hidden_size: int = 0,
        dropout: float = 0.0,
        ordinal: bool = False,
        thresholds: DifficultyThresholds | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(schema, lora, text)
        self._head_settings = {"hidden_size": hidden_size, "dropout": dropout, "ordinal": ordinal}
        self.thresholds = (
            DifficultyThresholds(**thresholds) if isinstance(thresholds, Mapping) else thresholds
        )
        self.head = DifficultyHead(self.backbone.hidden_size, hidden_size, dropout, ordinal)
        self.register_buffer("class_curves", torch.full((NUM_CLASSES, schema.num_windows), 0.5))

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__` after the schema, as JSON."""
        thresholds = None if self.thresholds is None else asdict(self.thresholds)
        return {**super().settings, **self._head_settings, "thresholds": thresholds}

    def predict_probabilities(
        self, questions: Sequence[str], *, batch_size: int = 64
    ) -> npt.NDArray[np.float32]:
        """Probabilities of easy, medium and hard, float32 (N, 3).

        Raises:
            ValueError: If `questions` is not a list of texts.
        """
        outputs = self.predict_outputs(questions, batch_size=batch_size)
        return outputs.reshape(-1, NUM_CLASSES).softmax(1).cpu().numpy()

    def curves_of(self, outputs: Tensor) -> Tensor:
        """The class curves, mixed by the classes' probabilities."""
        probabilities = outputs.double().softmax(1).cpu().numpy()
        return torch.from_numpy(
            difficulty_curves(self.class_curves.cpu().numpy(), probabilities=probabilities)
        )
