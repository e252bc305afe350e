"""Saved predictors: a folder with `config.json` and `model.safetensors`, used without a Trainer.

Those that read text have LoRA adapters beside them in `adapter/`.
`ps_train.load_predictor(path).predict_curves(questions)` gives float32 (N, W) curves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ps_alloc import Predictions
from ps_alloc.files import atomic_path, read_json, write_json
from ps_train.architectures import build_predictor
from ps_train.common.heads import keeping_type
from ps_train.common.loading import first_line
from ps_train.common.model_card import model_card
from ps_train.common.novelty import NOVELTY_FILE, Novelty
from ps_train.predictor_files import (
    BACKBONE_FOLDER,
    CONFIG_FILE,
    WEIGHTS_FILE,
    copied,
    fetched,
    is_own,
    located,
)
from ps_train.question_hashes import HASHES_FILE, load_question_hashes, save_question_hashes
from ps_train.schema import CurveSchema

LANGUAGE_MODEL = "backbone"
"""The name under which a predictor keeps a language model among its modules."""


class CurvePredictor(nn.Module, ModelHubMixin):
    """A predictor of accuracy curves, kept in a folder.

    Subclasses give `architecture`, `settings`, and `predict_outputs`, `read` and `curves_of`, or
    `predict_curves` alone: `ps_train.common.feature_predictor` reads features of a frozen language model,
    `ps_train.common.text_predictor` the questions themselves.
    """

    architecture: ClassVar[str]
    mean_curve: Tensor
    """(W,) The training questions' mean curve: what is known of a question nobody looked at."""
    training_use: Tensor
    """(W,) Their mean use; only where the schema has use."""

    def __init__(self, schema: CurveSchema) -> None:
        super().__init__()
        self.schema = schema
        self.training_record: dict[str, Any] = {}
        """What it learned from, as `training` in config.json: `served_model`, `grader`, `answer`, `budgets`,
        `num_questions`."""
        self.training_questions: npt.NDArray[np.uint64] | None = None
        """Hashes of the questions it learned from (`ps_train.question_hashes`), where known."""
        self.novelty: Novelty | None = None
        """Tells questions unlike those it learned from; None in folders written before there was such."""
        self.register_buffer("mean_curve", torch.full((schema.num_windows,), 0.5))
        if schema.has_use:
            self.register_buffer("training_use", torch.tensor(schema.grid, dtype=torch.float32))

    @property
    def window(self) -> int:
        """Tokens a window.

        Raises:
            ValueError: If the predictor's budgets are not the multiples of one.
        """
        if self.schema.window is None:
            raise ValueError(
                f"the predictor has no window: its budgets (schema.budgets) are {list(self.schema.budgets)}"
            )
        return self.schema.window

    @property
    def training_mean(self) -> npt.NDArray[np.float32]:
        """(W,) `mean_curve` as an array."""
        mean: npt.NDArray[np.float32] = self.mean_curve.cpu().numpy()
        return mean

    @property
    def mean_use(self) -> npt.NDArray[np.float32] | None:
        """(W,) the training questions' mean use; None where it was not known."""
        return self.training_use.cpu().numpy() if self.schema.has_use else None

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
            **({"training": self.training_record} if self.training_record else {}),
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move to a device; only a language model takes another type, all else stays float32.

        Heads and curves are small, and budgets need more digits than bfloat16 has.
        """
        kept = keeping_type(fn)
        for name, child in self.named_children() if recurse else ():
            child._apply(fn if name == LANGUAGE_MODEL else kept)
        return super()._apply(kept, recurse=False)

    def predict_curves(self, x: Any, *, batch_size: int | None = None) -> npt.NDArray[np.float32]:
        """Predict accuracy curves, float32 (N, W) in [0, 1].

        Args:
            x: N questions; a feature predictor takes ready features as well, name to (N, D).
            batch_size: Rows in one pass; where it is not given, what suits the predictor.

        Raises:
            ValueError: If `x` cannot be read.
        """
        outputs = self.predict_outputs(x, **_given(batch_size=batch_size))
        if not len(outputs):
            return np.empty((0, self.schema.num_windows), np.float32)
        return self.curves_of(outputs).float().cpu().numpy()

    def predict(
        self, x: Any, *, ids: Sequence[str] | None = None, batch_size: int | None = None
    ) -> Predictions:
        """Predict accuracy, and use where it was learned, on the predictor's grid, as `ps_alloc` takes them.

        Args:
            x: As for `predict_curves`.
            ids: Names of the questions, to travel with their predictions.
            batch_size: As for `predict_curves`.

        Raises:
            ValueError: If `x` cannot be read.
        """
        names = None if ids is None else list(ids)
        if not len(x):  # refused where an allocation is asked for
            return Predictions(
                np.empty((0, self.schema.num_windows), np.float32), self.schema.grid, ids=names
            )
        sized = _given(batch_size=batch_size)
        if self.novelty is None and not self.schema.has_use:
            return Predictions(self.predict_curves(x, **sized), self.schema.grid, ids=names)
        if self.novelty is None:
            outputs, unlike = self.predict_outputs(x, **sized), None
        else:
            outputs, columns = self.read(x, **sized)
            unlike = self.novelty.unlike(columns)
        use = self.use_of(outputs)
        return Predictions(
            self.curves_of(outputs).float().cpu().numpy(),
            self.schema.grid,
            use=None if use is None else use.float().cpu().numpy(),
            ids=names,
            unlike=unlike,
        )

    def read(self, x: Any, *, batch_size: int = 1024) -> tuple[Tensor, npt.NDArray[np.float32]]:
        """The outputs (N, K) of what `predict_curves` takes, and what `novelty` compares, (N, D)."""
        raise NotImplementedError

    def predict_outputs(self, x: Any, *, batch_size: int = 1024) -> Tensor:
        """The network's outputs (N, K) of what `predict_curves` takes."""
        raise NotImplementedError

    def curves_of(self, outputs: Tensor) -> Tensor:
        """Accuracy curves (B, W) in [0, 1] from outputs (B, K)."""
        raise NotImplementedError

    def use_of(self, outputs: Tensor) -> Tensor | None:
        """Tokens expected to be used (B, W) from outputs (B, K); None where that was not learned."""
        return None

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

    def check_grid(self, budgets: npt.NDArray[np.int64], what: str) -> None:
        """Refuse a curve table of other budgets than the predictor was trained on.

        Raises:
            ValueError: If they differ; `what` names the table.
        """
        other = CurveSchema({}, len(budgets), budgets=tuple(budgets.tolist()))
        if faults := self.schema.says_of(other, what):
            raise ValueError("; ".join(faults))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The README beside the weights."""
        return ModelCard(model_card(self.config))

    def _save_pretrained(self, save_directory: Path) -> None:
        config = self.config
        for source in ("backbone", "encoder"):
            path = config["schema"][source]
            if path is not None and Path(path).exists():
                if is_own(path):
                    path = copied(path, save_directory / BACKBONE_FOLDER)
                # Kept relative, so that a checkout with the predictor and its backbone can be moved.
                config["schema"][source] = os.path.relpath(path, save_directory)
        self.save_weights(save_directory)
        for file in (HASHES_FILE, NOVELTY_FILE):  # of another predictor, where a fit before wrote here
            (save_directory / file).unlink(missing_ok=True)
        if self.training_questions is not None:
            save_question_hashes(save_directory, self.training_questions)
        if self.novelty is not None:
            self.novelty.save(save_directory)
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
        allow_code: bool = False,
        **_: Any,
    ) -> CurvePredictor:
        options = {
            "revision": revision,
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
            "token": token,
        }
        folder = Path(model_id) if os.path.isdir(model_id) else fetched(model_id, **options)
        net = build_predictor(
            read_json(folder / CONFIG_FILE),
            source=str(folder / CONFIG_FILE),
            allow_code=allow_code,
            locate=lambda schema: replace(
                schema,
                backbone=located(backbone, schema.backbone, folder),
                encoder=located(encoder, schema.encoder, folder),
            ),
        )
        if not (folder / WEIGHTS_FILE).is_file():
            raise ValueError(f"a predictor folder must hold {WEIGHTS_FILE}, but {folder} does not")
        try:
            with torch.device("cpu"):
                net.load_weights(folder)
        except Exception as error:  # safetensors and torch raise types of their own for a damaged file
            raise ValueError(
                f"{folder / WEIGHTS_FILE} must hold the weights its config describes, but {first_line(error)}"
            ) from error
        net.novelty, net.training_questions = Novelty.load(folder), load_question_hashes(folder)
        return net.eval()


def _given(**settings: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in settings.items() if value is not None}
