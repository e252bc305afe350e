"""DifficultyClassifier: trains a `DifficultyNet` on the questions of curve tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from ps_alloc.difficulty import fit_class_curves
from ps_alloc.files import write_json
from ps_train.common.lora_backbone import LoraSettings
from ps_train.common.lora_module import LoraModule
from ps_train.common.text_batches import TextBatch
from ps_train.common.text_predictor import TextPredictor
from ps_train.curve.text_data import CurveTextDataModule
from ps_train.difficulty.labels import CLASS_NAMES, NUM_CLASSES, DifficultyThresholds
from ps_train.difficulty.lora_net import DifficultyNet
from ps_train.difficulty.metrics import ClassQuality, confusion_table


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
