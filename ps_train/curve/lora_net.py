"""CurveLoRA's network: the question's text → accuracy after each window of reasoning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ps_train.common.heads import StateHead
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.text_batches import TextFormat
from ps_train.common.text_predictor import TextPredictor
from ps_train.curve.outputs import CurveOutputs
from ps_train.schema import CurveSchema


class CurveLoraNet(CurveOutputs, TextPredictor):
    """State of the last real token → W curve logits and, where the table knows use, W hazards of it.

    Args:
        schema: What it predicts, and the language model that reads the questions.
        lora: What of it runs and is trained.
        text: What it reads.
        hidden_sizes: Widths of the head's hidden layers; none for a linear head.
        dropout: Share of states and hidden units dropped in training.
        hidden_size: As folders written before say it: one hidden layer, or 0.
    """

    architecture = "curve_lora"
    head: StateHead

    def __init__(
        self,
        schema: CurveSchema,
        lora: LoraSettings | Mapping[str, Any] | None = None,
        text: TextFormat | Mapping[str, Any] | None = None,
        hidden_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        hidden_size: int = 0,
    ) -> None:
        super().__init__(schema, lora, text)
        widths = [hidden_size] if hidden_size else list(hidden_sizes)
        self._head_settings = {"hidden_sizes": widths, "dropout": dropout}
        self.head = StateHead(self.backbone.hidden_size, schema.num_outputs, widths, dropout)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__` after the schema, as JSON."""
        return {**super().settings, **self._head_settings}
