"""Saved predictors: a folder with `config.json` and `model.safetensors`, used without a Trainer.

`load_predictor(path).predict_curves(questions)` gives float32 (N, W) curves.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ps_alloc.files import atomic_path, read_json, write_json
from ps_train.features import TEXT, Features, extract_features, layers_by_model, load_backbone, named_for
from ps_train.text_features import text_features

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

ARCHITECTURES = {"curve_mlp": "ps_train.modules.curve_mlp:CurveNet"}
"""`architecture` in config.json to the class that reads the folder; imported when asked for."""


@dataclass(frozen=True)
class CurveSchema:
    """What a curve predictor reads and what it predicts."""

    features: dict[str, int]
    """Feature name to its width D, in the order in which they are concatenated."""
    num_windows: int
    """W: curve points predicted."""
    window: int
    """Tokens a window."""
    backbone: str | None = None
    """The frozen language model whose states `layer_<n>` are: a folder, .gguf file or Hub id."""
    encoder: str | None = None
    """Likewise for `encoder_layer_<n>`."""
    served_model: str = "unknown"
    """The model whose accuracy is predicted."""

    @property
    def input_size(self) -> int:
        """Width of the concatenated features."""
        return sum(self.features.values())


class CurvePredictor(nn.Module, ModelHubMixin):
    """A predictor of accuracy curves: features of a question in, W probabilities out.

    Subclasses give `architecture`, `settings` (their further `__init__` arguments, as JSON) and `forward`
    from concatenated features (B, D) to logits (B, W).
    """

    architecture: ClassVar[str]
    mean_curve: Tensor
    """(W,) The training questions' mean curve: what is known of a question nobody looked at."""

    def __init__(self, schema: CurveSchema) -> None:
        super().__init__()
        self.schema = schema
        self.register_buffer("mean_curve", torch.full((schema.num_windows,), 0.5))
        self.language_dtype = torch.float32
        """What the language models that read questions compute in; set it before the first question."""
        self._models: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}

    @property
    def window(self) -> int:
        """Tokens a window."""
        return self.schema.window

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__` after the schema."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Concatenated features (B, D) to curve logits (B, W)."""
        raise NotImplementedError

    def predict_curves(
        self, x: Sequence[str] | Mapping[str, npt.ArrayLike], *, batch_size: int = 1024
    ) -> npt.NDArray[np.float32]:
        """Predict accuracy curves.

        Args:
            x: N questions, which the frozen backbone reads first; or ready features, name to (N, D).
            batch_size: Rows of features in one pass.

        Returns:
            float32 (N, W) in [0, 1].

        Raises:
            ValueError: If a feature is missing or has another width, holds NaN, or there are questions but no
                backbone.
        """
        features = x if isinstance(x, Mapping) else self._extract(x)
        inputs = self.stack(features)
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                device = self.mean_curve.device
                batches = [self(part.to(device)).sigmoid().cpu() for part in inputs.split(batch_size)]
        finally:
            self.train(was_training)
        empty = torch.empty(0, self.schema.num_windows)
        return torch.cat([empty, *batches]).float().numpy()

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

    def attach_backbone(self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Use a language model that is already loaded, the served one for instance."""
        self._models["backbone"] = (backbone, tokenizer)

    def served_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The served model's tokenizer, where the predictor reads questions with that model; else None.

        Raises:
            ValueError: If the predictor's backbone cannot be loaded.
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
                raise ValueError(
                    f"questions need the predictor's {source}, but its config names none: "
                    f"pass load_predictor(…, {source}=PATH), or ready features"
                )
            self._models[source] = load_backbone(
                path, dtype=self.language_dtype, device=self.mean_curve.device
            )
        return self._models[source]

    def check_window(self, window: int, num_windows: int, what: str) -> None:
        """Refuse a curve table cut into other windows than the predictor was trained on.

        Raises:
            ValueError: If the window's tokens or the number of windows differ; `what` names the table.
        """
        mine, other = (self.schema.num_windows, self.schema.window), (num_windows, window)
        if mine != other:
            raise ValueError(
                f"{what} must have the predictor's {mine[0]} windows of {mine[1]} tokens, "
                f"got {other[0]} windows of {other[1]} tokens"
            )

    def _save_pretrained(self, save_directory: Path) -> None:
        schema: dict[str, Any] = asdict(self.schema)
        for source in ("backbone", "encoder"):
            path = schema[source]
            if path is not None and Path(path).exists():
                # Kept relative, so that a checkout with the predictor and its backbone can be moved.
                schema[source] = os.path.relpath(path, save_directory)
        config: dict[str, Any] = {
            "architecture": self.architecture,
            "schema": schema,
            "settings": self.settings,
        }
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        with atomic_path(save_directory / WEIGHTS_FILE) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        write_json(save_directory / CONFIG_FILE, config)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        backbone: str | Path | None = None,
        encoder: str | Path | None = None,
        **_: Any,
    ) -> CurvePredictor:
        if os.path.isdir(model_id):
            folder = Path(model_id)
        else:
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=[CONFIG_FILE, WEIGHTS_FILE],
                )
            )
        config = read_json(folder / CONFIG_FILE)
        architecture = config.get("architecture") if isinstance(config, dict) else None
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture in {folder / CONFIG_FILE} must be one of {sorted(ARCHITECTURES)}, "
                f"got {architecture!r}"
            )
        try:
            schema, settings = CurveSchema(**config["schema"]), dict(config["settings"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / CONFIG_FILE} must hold a predictor's schema and settings, but {error!r}"
            ) from error
        schema = replace(
            schema,
            backbone=_locate(backbone, schema.backbone, folder),
            encoder=_locate(encoder, schema.encoder, folder),
        )
        module, name = ARCHITECTURES[architecture].split(":")
        net: CurvePredictor = getattr(importlib.import_module(module), name)(schema, **settings)
        weights = folder / WEIGHTS_FILE
        if not weights.is_file():
            raise ValueError(f"a predictor folder must hold {WEIGHTS_FILE}, but {folder} does not")
        try:
            net.load_state_dict(load_file(weights))
        except Exception as error:  # safetensors and torch raise types of their own for a damaged file
            reason = str(error).splitlines()[0]
            raise ValueError(f"{weights} must hold the weights its config describes, but {reason}") from error
        return net.eval()


def _locate(given: str | Path | None, configured: str | None, folder: Path) -> str | None:
    """Where a language model lies: where the caller says, else beside the predictor, else as configured."""
    if given is not None:
        return str(given)
    if configured is not None and (folder / configured).exists():
        return os.path.normpath(folder / configured)
    return configured


def load_predictor(
    path: str | Path, *, backbone: str | Path | None = None, encoder: str | Path | None = None
) -> CurvePredictor:
    """Load a trained predictor for inference.

    Args:
        path: A predictor folder, or a Hub id such as `name/predictor`.
        backbone: The language model to read questions with, instead of the one named in the config. A
            relative path in the config is looked up from the predictor folder.
        encoder: Likewise for the second language model of a proxy or hybrid predictor.

    Raises:
        ValueError: If the folder, its config or its weights are missing or damaged.
    """
    looks_local = Path(path).is_absolute() or str(path).startswith(".") or str(path).count("/") != 1
    if not Path(path).is_dir() and looks_local:
        raise ValueError(f"a predictor must be a folder with {CONFIG_FILE}, got {path}")
    if Path(path).is_dir() and not (Path(path) / CONFIG_FILE).is_file():
        raise ValueError(f"a predictor must be a folder with {CONFIG_FILE}, but {path} has none")
    try:
        predictor: CurvePredictor = CurvePredictor.from_pretrained(
            str(path), backbone=backbone, encoder=encoder
        )
    except OSError as error:  # a Hub id that does not exist, or no way to the Hub
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"a predictor must be a folder or a Hub id, got {path}: {reason}") from error
    return predictor
