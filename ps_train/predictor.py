"""Saved predictors: a folder with `config.json` and `model.safetensors`, used without a Trainer.

Those that read text have LoRA adapters beside them in `adapter/`.
`load_predictor(path).predict_curves(questions)` gives float32 (N, W) curves.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ps_alloc.files import atomic_path, read_json, write_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

ADAPTER_FOLDER = "adapter"

ARCHITECTURES = {
    "curve_mlp": "ps_train.curve.mlp_net:CurveNet",
    "curve_lora": "ps_train.curve.lora_net:CurveLoraNet",
    "budget_lora": "ps_train.budget.net:BudgetNet",
    "difficulty_lora": "ps_train.difficulty.lora_net:DifficultyNet",
}
"""`architecture` in config.json to the class that reads the folder; imported when asked for."""


@dataclass(frozen=True)
class CurveSchema:
    """What a curve predictor reads and what it predicts."""

    features: dict[str, int]
    """Feature name to its width D, in the order in which they are concatenated; none where it reads text."""
    num_windows: int
    """W: curve points predicted."""
    window: int
    """Tokens a window."""
    backbone: str | None = None
    """The frozen language model whose states `layer_<n>` are, or the one that reads the text: a folder, .gguf
    file or Hub id."""
    encoder: str | None = None
    """Likewise for `encoder_layer_<n>`."""
    served_model: str = "unknown"
    """The model whose accuracy is predicted."""

    @property
    def input_size(self) -> int:
        """Width of the concatenated features."""
        return sum(self.features.values())


class CurvePredictor(nn.Module, ModelHubMixin):
    """A predictor of accuracy curves, kept in a folder.

    Subclasses give `architecture`, `settings` and `predict_curves`: `ps_train.common.feature_predictor` reads
    features of a frozen language model, `ps_train.common.text_predictor` the questions themselves.
    """

    architecture: ClassVar[str]
    mean_curve: Tensor
    """(W,) The training questions' mean curve: what is known of a question nobody looked at."""

    def __init__(self, schema: CurveSchema) -> None:
        super().__init__()
        self.schema = schema
        self.register_buffer("mean_curve", torch.full((schema.num_windows,), 0.5))

    @property
    def window(self) -> int:
        """Tokens a window."""
        return self.schema.window

    @property
    def training_mean(self) -> npt.NDArray[np.float32]:
        """(W,) `mean_curve` as an array."""
        mean: npt.NDArray[np.float32] = self.mean_curve.cpu().numpy()
        return mean

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `__init__` after the schema, as JSON."""
        raise NotImplementedError

    @property
    def config(self) -> dict[str, Any]:
        """What `build_predictor` makes this predictor from, without its weights; as JSON."""
        return {
            "architecture": self.architecture,
            "schema": asdict(self.schema),
            "settings": self.settings,
        }

    def predict_curves(self, x: Any, *, batch_size: int = 1024) -> npt.NDArray[np.float32]:
        """Predict accuracy curves, float32 (N, W) in [0, 1].

        Args:
            x: N questions; a feature predictor takes ready features as well.
            batch_size: Rows in one pass.

        Raises:
            ValueError: If `x` cannot be read.
        """
        raise NotImplementedError

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let the language models that read questions compute in `dtype`; to be called before the first."""
        raise NotImplementedError

    def served_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The served model's tokenizer, where the predictor reads questions with that model; else None.

        Raises:
            ValueError: If the predictor's backbone cannot be loaded.
        """
        return None

    def save_weights(self, folder: Path) -> None:
        """Write what was learned."""
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})

    def load_weights(self, folder: Path) -> None:
        """Read what `save_weights` wrote; files may raise types of their own."""
        self.load_state_dict(load_file(folder / WEIGHTS_FILE))

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
        config = self.config
        for source in ("backbone", "encoder"):
            path = config["schema"][source]
            if path is not None and Path(path).exists():
                # Kept relative, so that a checkout with the predictor and its backbone can be moved.
                config["schema"][source] = os.path.relpath(path, save_directory)
        self.save_weights(save_directory)
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
                    allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, f"{ADAPTER_FOLDER}/*"],
                )
            )
        net = build_predictor(
            read_json(folder / CONFIG_FILE),
            source=str(folder / CONFIG_FILE),
            locate=lambda schema: replace(
                schema,
                backbone=_locate(backbone, schema.backbone, folder),
                encoder=_locate(encoder, schema.encoder, folder),
            ),
        )
        if not (folder / WEIGHTS_FILE).is_file():
            raise ValueError(f"a predictor folder must hold {WEIGHTS_FILE}, but {folder} does not")
        try:
            net.load_weights(folder)
        except Exception as error:  # safetensors and torch raise types of their own for a damaged file
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{folder / WEIGHTS_FILE} must hold the weights its config describes, but {reason}"
            ) from error
        return net.eval()


def build_predictor(
    config: Any, *, source: str, locate: Callable[[CurveSchema], CurveSchema] = lambda schema: schema
) -> CurvePredictor:
    """Make the predictor that a `CurvePredictor.config` describes, with weights yet to be loaded.

    Args:
        config: As read from JSON or a checkpoint.
        source: Where it was read from, for messages.
        locate: Says where the schema's language models are now.

    Raises:
        ValueError: If the config is damaged or names an unknown architecture.
    """
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture in {source} must be one of {sorted(ARCHITECTURES)}, got {architecture!r}"
        )
    try:
        schema, settings = CurveSchema(**config["schema"]), dict(config["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source} must hold a predictor's schema and settings, but {error!r}") from error
    module, name = ARCHITECTURES[architecture].split(":")
    predictor: CurvePredictor = getattr(importlib.import_module(module), name)(locate(schema), **settings)
    return predictor


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
