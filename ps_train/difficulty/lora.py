"""The difficulty classifier: the question's text → easy, medium or hard → the curve of such questions.

The second predictor of *Predictive Scheduling* (arXiv 2602.01237).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from ps_alloc.difficulty import difficulty_curves, fit_class_curves
from ps_alloc.files import write_json
from ps_train.common.heads import OrdinalOutput, StateHead
from ps_train.common.lora_backbone import LoraSettings
from ps_train.common.lora_module import LoraModule
from ps_train.common.text_batches import TextBatch, TextFormat
from ps_train.common.text_predictor import TextPredictor
from ps_train.curve.text_data import CurveTextDataModule
from ps_train.difficulty.labels import CLASS_NAMES, DifficultyThresholds
from ps_train.difficulty.metrics import ClassQuality, confusion_table
from ps_train.predictor import CurveSchema

NUM_CLASSES = len(CLASS_NAMES)


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


class DifficultyClassifier(LoraModule):
    """Trains a `DifficultyNet` on a `CurveTextDataModule`.

    Labels come from the curves' final accuracy, by percentiles of the training rows that are kept with the
    predictor; or from the data's `label_column`.

    Args:
        lora: What of the language model runs and is trained.
        hidden_size: Width of the head's hidden layer; 0 for a linear head.
        dropout: Share of states and hidden units dropped in training.
        ordinal: One score and two cuts (`ps_train.common.heads.OrdinalOutput`) instead of three logits.
        percentiles: Of the training rows' final accuracy: up to the first is hard, from the second on easy.
        label_smoothing: Share of the target spread over all classes.
        lr: AdamW's peak step size of the adapters.
        head_lr: Likewise of the head; `lr` where it is not given.
        weight_decay: Decoupled (AdamW).
        warmup_steps: Optimizer steps of linear warm-up.
        schedule: After the warm-up: `constant`, or `linear` or `cosine` to zero over the fit.
        predictor: A predictor folder to start from: its weights and settings replace those given here.
        adapter: Adapters to start from: a predictor folder of another kind, on the same language model and
            with the same `lora`.
        frozen_cache: Folder in which to keep what the blocks below the first adapted one make of each text:
            they then run once for each text instead of in every epoch.
    """

    architecture = DifficultyNet.architecture
    net: DifficultyNet
    quality: ClassQuality

    def __init__(
        self,
        lora: LoraSettings = LoraSettings(),  # noqa: B008  # frozen; jsonargparse shows the defaults
        hidden_size: int = 0,
        dropout: float = 0.0,
        ordinal: bool = False,
        percentiles: tuple[float, float] = (20.0, 80.0),
        label_smoothing: float = 0.0,
        lr: float = 2e-4,
        head_lr: float | None = None,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: Literal["constant", "linear", "cosine"] = "linear",
        predictor: str | None = None,
        adapter: str | None = None,
        frozen_cache: str | None = None,
    ) -> None:
        super().__init__(
            lora, lr, head_lr, weight_decay, warmup_steps, schedule, predictor, adapter, frozen_cache
        )
        self.head_settings: dict[str, Any] = {
            "hidden_size": hidden_size,
            "dropout": dropout,
            "ordinal": ordinal,
        }
        self.percentiles, self.label_smoothing = percentiles, label_smoothing

    def build(self) -> DifficultyNet:
        """A network that knows the training rows' thresholds, class shares and class curves."""
        data = self.data
        if not isinstance(data, CurveTextDataModule):
            raise ValueError(f"data must be a CurveTextDataModule, got {type(data).__name__}")
        targets = data.rows["train"].targets
        curves, labels = targets["curves"], targets.get("labels")
        thresholds = None
        if labels is None:
            thresholds = DifficultyThresholds.fit(curves, self.percentiles)
            labels = thresholds.labels(curves)
        elif not 0 <= labels.min() <= labels.max() < NUM_CLASSES:
            raise ValueError(
                f"labels must be 0 (easy), 1 (medium) or 2 (hard), got {labels.min()} to {labels.max()} "
                f"in column {data.label_column!r}"
            )
        net = DifficultyNet(
            data.schema(), self.lora, data.format, **self.head_settings, thresholds=thresholds
        )
        net.mean_curve.copy_(torch.tensor(curves.mean(0)))
        net.class_curves.copy_(torch.tensor(fit_class_curves(curves, labels, NUM_CLASSES)))
        net.head.start_at(torch.tensor(np.bincount(labels) / len(labels)).float())
        return net

    def adopt(self, net: TextPredictor) -> None:
        """Measure classes."""
        super().adopt(net)
        self.quality = ClassQuality()

    def labels_of(self, batch: TextBatch) -> Tensor:
        """Classes (B,): those given, else by the predictor's thresholds."""
        if "labels" in batch:
            return batch["labels"]
        thresholds = self.net.thresholds
        if thresholds is None:
            raise ValueError(
                "the predictor was trained on given labels and has no thresholds: give data.label_column"
            )
        return torch.from_numpy(thresholds.labels(batch["curves"].cpu().numpy())).to(self.device)

    def loss(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(outputs, self.labels_of(batch), label_smoothing=self.label_smoothing)

    def scored(self, outputs: Tensor, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Probabilities (B, 3) and labels (B, 1)."""
        return outputs.softmax(1), self.labels_of(batch)[:, None]

    def report(self, name: str) -> dict[str, Tensor]:
        """Log the figures; after a test, print the confusion matrix too."""
        figures = super().report(name)
        if name == "test" and self.trainer.is_global_zero:
            Console().print(confusion_table(figures["confusion"], CLASS_NAMES))
        return figures

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities (B, 3)."""
        return outputs.softmax(1)

    def write_predictions(self, folder: Path, predictions: Tensor) -> None:
        """Write `predictions.json` (docs/formats.md)."""
        content = {
            "class_curves": self.net.class_curves.tolist(),
            "labels": predictions.argmax(1).tolist(),
            "probabilities": predictions.double().tolist(),
            "ids": self.data.rows["predict"].ids,
        }
        write_json(folder / "predictions.json", content)
