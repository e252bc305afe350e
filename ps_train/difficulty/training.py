"""What training a difficulty classifier shares, whatever it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ps_alloc.difficulty import difficulty_curves, fit_class_curves
from ps_alloc.files import write_json
from ps_train.common.predictor_module import PredictorModule
from ps_train.common.rows import Rows
from ps_train.curve.held_out import held_out_table
from ps_train.difficulty.classes import ClassPredictor
from ps_train.difficulty.labels import CLASS_NAMES, NUM_CLASSES, DifficultyThresholds
from ps_train.difficulty.metrics import ClassQuality, confusion_table


class DifficultyModule(PredictorModule):
    """Labels, figures and files of a difficulty classifier: a mixin.

    Labels come from the curves' final accuracy, by percentiles of the training rows that are kept with the
    predictor; or from `labels` in the batches.
    """

    learns = ("curves",)
    net: Any
    quality: ClassQuality
    percentiles: tuple[float, float]

    def attach_rows(self, name: str, rows: Rows) -> None:
        """Know the rows of `name`.

        Raises:
            ValueError: As `PredictorModule.attach_rows`; if given labels are not 0, 1 or 2.
        """
        super().attach_rows(name, rows)
        labels = rows.targets.get("labels")
        if labels is not None and not 0 <= labels.min() <= labels.max() < NUM_CLASSES:
            raise ValueError(
                f"labels of the {name} rows must be 0 (easy), 1 (medium) or 2 (hard), got {labels.min()} to "
                f"{labels.max()}"
            )

    def classes_of(self, rows: Rows) -> tuple[DifficultyThresholds | None, npt.NDArray[np.int64]]:
        """Thresholds, where the classes come from curves, and the classes (N,).

        Raises:
            ValueError: As `DifficultyThresholds.fit`.
        """
        labels = rows.targets.get("labels")
        if labels is not None:
            return None, labels
        thresholds = DifficultyThresholds.fit(rows.targets["curves"], self.percentiles)
        return thresholds, thresholds.labels(rows.targets["curves"])

    def start(self, net: ClassPredictor, rows: Rows, labels: npt.NDArray[np.int64]) -> None:
        """Let a new network know the training rows' class shares and curves."""
        curves = rows.targets["curves"]
        net.mean_curve.copy_(torch.tensor(curves.mean(0)))
        net.class_curves.copy_(torch.tensor(fit_class_curves(curves, labels, NUM_CLASSES)))
        if net.schema.has_use:
            use = rows.targets["use"]
            net.training_use.copy_(torch.tensor(use.mean(0)))
            known = [
                use[labels == c].mean(0) if (labels == c).any() else use.mean(0) for c in range(NUM_CLASSES)
            ]
            net.class_use.copy_(torch.tensor(np.array(known)))
        shares = np.bincount(labels, minlength=NUM_CLASSES) / len(labels)
        net.start_at_shares(torch.tensor(shares).float())

    def adopt(self, net: Any) -> None:
        """Measure classes."""
        super().adopt(net)
        self.quality = ClassQuality()

    def labels_of(self, batch: Any) -> Tensor:
        """Classes (B,): those given, else by the predictor's thresholds.

        Raises:
            ValueError: If there are neither.
        """
        if "labels" in batch:
            labels: Tensor = batch["labels"]
            return labels
        thresholds = self.net.thresholds
        if thresholds is None:
            raise ValueError(
                "the predictor was trained on given labels and has no thresholds: give data.label_column"
            )
        curves = batch["curves"]
        return torch.from_numpy(thresholds.labels(curves.float().cpu().numpy())).to(curves.device)

    def scored(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Probabilities (B, 3) and labels (B, 1)."""
        return outputs.softmax(1), self.labels_of(batch)[:, None]

    def report(self, name: str) -> dict[str, Tensor]:
        """Log the figures; after a test, print the confusion matrix too."""
        figures = super().report(name)
        if name == "test" and self.trainer.is_global_zero:
            Console().print(confusion_table(figures["confusion"], CLASS_NAMES))
        return figures

    def held_out_curves(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
        """Predicted and measured curves of the validation rows, as the weights make them."""
        rows = self.rows.get("val")
        if not self.held_out or rows is None:
            return None
        probabilities = self.held_out["predicted"].double().numpy()
        curves = difficulty_curves(self.net.class_curves.cpu().numpy(), probabilities=probabilities)
        return curves.astype(np.float32), rows.targets["curves"][self.held_out["rows"].numpy()]

    def held_out_table(self) -> Table | None:
        """Accuracy at sensible budgets by these curves, by the question's length and evenly spread."""
        return held_out_table(self)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities (B, 3)."""
        return outputs.softmax(1)

    def write_predictions(self, folder: Path, predictions: Tensor, ids: list[str] | None) -> list[Path]:
        """Write `predictions.json` (docs/formats.md)."""
        content: dict[str, Any] = {
            "class_curves": self.net.class_curves.tolist(),
            "labels": predictions.argmax(1).tolist(),
            "probabilities": predictions.double().tolist(),
        }
        if ids is not None:
            content["ids"] = ids
        write_json(folder / "predictions.json", content)
        return [folder / "predictions.json"]
