"""Predictors that read the question itself, with LoRA adapters on a language model and a head on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ps_alloc.files import atomic_path
from ps_train.common.loading import load_backbone
from ps_train.common.lora_backbone import LoraBackbone
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.text_batches import TextFormat, collate
from ps_train.predictor import CurvePredictor
from ps_train.predictor_files import ADAPTER_FOLDER, WEIGHTS_FILE
from ps_train.schema import CurveSchema

BACKBONE_PREFIX = "backbone."


class TextPredictor(CurvePredictor):
    """Questions → language model with LoRA adapters → state of the last real token → head → outputs → curves.

    Subclasses give `architecture`, make `self.head`, and say in `curves_of` what its outputs mean. The folder
    holds the adapters in peft's format (`adapter/`) and everything else that was learned in
    `model.safetensors`; the frozen weights stay where the schema's `backbone` says.

    Args:
        schema: What is predicted, and the language model that reads the questions.
        lora: What of it runs and is trained.
        text: What it reads.

    Raises:
        ValueError: If the schema names no backbone, or settings do not fit it.
    """

    head: nn.Module

    def __init__(
        self,
        schema: CurveSchema,
        lora: LoraSettings | Mapping[str, Any] | None = None,
        text: TextFormat | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(schema)
        if schema.backbone is None:
            raise ValueError("a text predictor needs a language model: its schema's backbone is none")
        settings = LoraSettings(**lora) if isinstance(lora, Mapping) else lora or LoraSettings()
        self.text = TextFormat(**text) if isinstance(text, Mapping) else text or TextFormat()
        model, self.tokenizer = load_backbone(schema.backbone, dtype=settings.torch_dtype)
        self.backbone = LoraBackbone(model, settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__` after the schema, as JSON; subclasses add theirs."""
        return {"lora": asdict(self.backbone.settings), "text": asdict(self.text)}

    def compute_in(self, dtype: torch.dtype) -> None:
        """Turn the language model and its adapters to `dtype`; heads stay as they are."""
        for weight in self.backbone.parameters():  # not `to`, which keeps adapters in float32 for training
            weight.data = weight.data.to(dtype)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens and mask (B, L), padded on either side, to the head's outputs (B, …)."""
        outputs: Tensor = self.head(self.backbone(input_ids, attention_mask))
        return outputs

    def predict_outputs(self, questions: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """The head's outputs (N, …), float32, rows in the order given; batches hold near lengths.

        Raises:
            ValueError: If `questions` is not a list of texts.
        """
        return self._in_batches(self, questions, batch_size)

    def states(self, questions: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """The backbone's states (N, D) of questions, as `predict_outputs`."""
        return self._in_batches(self.backbone, questions, batch_size)

    def read(self, x: Any, *, batch_size: int = 64) -> tuple[Tensor, npt.NDArray[np.float32]]:
        """The head's outputs (N, K), and the states (N, D) before it, which `novelty` compares.

        Raises:
            ValueError: If `x` is not a list of texts.
        """

        def side_by_side(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            states = self.backbone(input_ids, attention_mask)
            return torch.cat([states.float(), self.head(states).float()], dim=1)

        width = self.backbone.hidden_size
        both = self._in_batches(side_by_side, x, batch_size)
        columns: npt.NDArray[np.float32] = both[:, :width].cpu().numpy()
        return both[:, width:], columns

    def _in_batches(
        self, module: Callable[[Tensor, Tensor], Tensor], questions: Sequence[str], batch_size: int
    ) -> Tensor:
        if isinstance(questions, (str, Mapping)) or not all(isinstance(text, str) for text in questions):
            raise ValueError(f"x must be a list of questions, got {type(questions).__name__}")
        tokens = self.text.encode(self.tokenizer, questions)
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        device = self.mean_curve.device
        was_training = self.training
        self.eval()
        parts = []
        try:
            with torch.inference_mode():
                for start in range(0, len(order), batch_size):
                    batch = collate([tokens[row] for row in order[start : start + batch_size]])
                    outputs = module(batch["input_ids"].to(device), batch["attention_mask"].to(device))
                    parts.append(outputs.float())
        finally:
            self.train(was_training)
        if not parts:
            return torch.empty(0, device=device)
        return torch.cat(parts)[torch.tensor(np.argsort(order), device=device)]

    def save_weights(self, folder: Path) -> None:
        """Write the adapters in peft's format, and all else that was learned."""
        weights = {
            name: value.contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith(BACKBONE_PREFIX)
        }
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        if self.backbone.settings.r:
            self.backbone.save_adapter(folder / ADAPTER_FOLDER)

    def load_weights(self, folder: Path) -> None:
        """Read what `save_weights` wrote."""
        adapters = {
            name: value for name, value in self.state_dict().items() if name.startswith(BACKBONE_PREFIX)
        }
        self.load_state_dict({**adapters, **load_file(folder / WEIGHTS_FILE)})
        if self.backbone.settings.r:
            self.backbone.load_adapter(folder / ADAPTER_FOLDER)
