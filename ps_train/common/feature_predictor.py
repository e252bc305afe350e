"""Predictors of accuracy curves from features of a question, extracted by a frozen language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ps_train.common.features import TEXT, Features, extract_features, layers_by_model, named_for
from ps_train.common.loading import load_backbone
from ps_train.common.text_features import text_features
from ps_train.predictor import CurvePredictor
from ps_train.schema import CurveSchema


class FeaturePredictor(CurvePredictor):
    """A predictor of accuracy curves: features of a question in, W probabilities out.

    Subclasses give `forward` from concatenated features (B, D) to outputs (B, K), and say in `curves_of` what
    those mean where they are not curve logits.
    """

    def __init__(self, schema: CurveSchema) -> None:
        super().__init__(schema)
        self._language_dtype = torch.float32
        self._models: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}

    def compute_in(self, dtype: torch.dtype) -> None:
        """Load the language models in `dtype`; those loaded already stay as they are."""
        self._language_dtype = dtype

    @property
    def language_dtype(self) -> torch.dtype:
        """What the language models compute in, or will."""
        loaded = self._models.get("backbone")
        return self._language_dtype if loaded is None else loaded[0].dtype

    def forward(self, inputs: Tensor) -> Tensor:
        """Concatenated features (B, D) to outputs (B, K): curve logits, where K is W."""
        raise NotImplementedError

    def curves_of(self, outputs: Tensor) -> Tensor:
        """Accuracy curves (B, W) in [0, 1] from outputs (B, K)."""
        return outputs.sigmoid()

    def predict_outputs(
        self, x: Sequence[str] | Mapping[str, npt.ArrayLike], *, batch_size: int = 1024
    ) -> Tensor:
        """The outputs (N, K) of questions, which the frozen language models read, or of ready features.

        Raises:
            ValueError: If a feature is missing or has another width, holds NaN, or there are questions but no
                backbone.
        """
        return self._ask(self.stack(x if isinstance(x, Mapping) else self._extract(x)), batch_size)

    def _ask(self, inputs: Tensor, batch_size: int) -> Tensor:
        was_training = self.training
        if was_training:  # each walks through all modules
            self.eval()
        try:
            with torch.inference_mode():
                device = self.mean_curve.device
                batches = [self(part.to(device)).float() for part in inputs.split(batch_size)]
        finally:
            if was_training:
                self.train()
        return torch.cat(batches)

    def read(
        self, x: Sequence[str] | Mapping[str, npt.ArrayLike], *, batch_size: int = 1024
    ) -> tuple[Tensor, npt.NDArray[np.float32]]:
        """The outputs (N, K), and the concatenated features (N, D), which `novelty` compares.

        Raises:
            ValueError: As `predict_outputs`.
        """
        inputs = self.stack(x if isinstance(x, Mapping) else self._extract(x))
        columns: npt.NDArray[np.float32] = inputs.numpy()
        return self._ask(inputs, batch_size), columns

    def stack(self, features: Mapping[str, npt.ArrayLike]) -> Tensor:
        """Concatenate named features in the schema's order, checked: float32 (N, D).

        Raises:
            ValueError: If a feature is missing, has another width or number of rows, or is not finite.
        """
        parts: list[npt.NDArray[np.float32]] = []
        for name, width in self.schema.features.items():
            if name not in features:
                raise ValueError(f"x must hold the feature {name!r}, got {sorted(features)}")
            values = np.asarray(features[name], dtype=np.float32)
            if values.ndim != 2 or values.shape[1] != width:
                raise ValueError(f"x[{name!r}] must be an array of shape (N, {width}), got {values.shape}")
            if parts and len(values) != len(parts[0]):
                raise ValueError(f"x[{name!r}] must have {len(parts[0])} rows, got {len(values)}")
            parts.append(values)
        inputs = np.concatenate(parts, axis=1)
        if not np.isfinite(inputs).all():
            row = int(np.argwhere(~np.isfinite(inputs))[0, 0])
            raise ValueError(f"x must be finite, got NaN or infinity in row {row}")
        return torch.from_numpy(inputs)

    def served_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The backbone's tokenizer, where `layer_<n>` are among the features; else None.

        Raises:
            ValueError: If the backbone cannot be loaded.
        """
        if "backbone" not in layers_by_model(self.schema.features):
            return None
        return self._language_model("backbone")[1]

    def _extract(self, questions: Sequence[str]) -> Features:
        if isinstance(questions, str):
            raise ValueError("x must be a list of questions or a mapping of features, got one string")
        features: Features = {TEXT: text_features(questions)} if TEXT in self.schema.features else {}
        for source, layers in layers_by_model(self.schema.features).items():
            model, tokenizer = self._language_model(source)
            found = extract_features(model, questions, layers, tokenizer=tokenizer)
            features |= named_for(source, found)
        return features

    def _language_model(self, source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The frozen backbone or encoder, loaded when first needed."""
        if source not in self._models:
            path = getattr(self.schema, source)
            if path is None:
                flag = " or --backbone" if source == "backbone" else ""
                raise ValueError(
                    f"questions need the predictor's {source}, but its config names none: "
                    f"pass load_predictor(…, {source}=PATH){flag}, or ready features"
                )
            device = self.mean_curve.device
            self._models[source] = load_backbone(path, dtype=self._language_dtype, device=device)
        return self._models[source]
