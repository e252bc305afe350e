"""Training, testing and predicting with a saved predictor: what all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ps_alloc.files import atomic_path
from ps_train.curve.metrics import CurveRows
from ps_train.predictor import CurvePredictor, build_predictor, load_predictor

Batch = Any
"""A mapping of names to tensors of B rows; `rows` (B,) are their numbers in the data set."""


class PredictorModule(pl.LightningModule):
    """A LightningModule around a `CurvePredictor`.

    The predictor comes from the training data (`fit`), from the checkpoint, or from `predictor`. Subclasses
    give `architecture`, `has_training_data`, `build`, `outputs`, `scored`, `predictions` and their training
    step.

    Args:
        predictor: A predictor folder to start from.
    """

    architecture: str
    net: CurvePredictor
    quality: CurveRows

    def __init__(self, predictor: str | None) -> None:
        super().__init__()
        self.predictor = predictor
        self.predicted = CurveRows()

    # --- what subclasses say --------------------------------------------------------------------------------

    @property
    def has_training_data(self) -> bool:
        """Whether the data module has read the training rows."""
        raise NotImplementedError

    def build(self) -> CurvePredictor:
        """The untrained predictor for the training rows."""
        raise NotImplementedError

    def adopt(self, net: Any) -> None:
        """Take over a predictor; subclasses make `self.quality` here."""
        self.net = net

    def check_data(self, name: str) -> None:
        """Refuse evaluation data that the predictor was not made for; subclasses know how."""

    def outputs(self, batch: Batch, name: str) -> Tensor:
        """What the predictor makes of a batch of the data set `name`, (B, …) float32."""
        raise NotImplementedError

    def scored(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """What `quality` compares: predicted and measured, (B, …) each."""
        raise NotImplementedError

    def predictions(self, outputs: Tensor) -> Tensor:
        """What `predict` writes of each row, (B, …)."""
        raise NotImplementedError

    def write_predictions(self, folder: Path, predictions: Tensor) -> None:
        """Write all rows' predictions (N, …) in the order of the data: curves, as `predictions.npy`."""
        with atomic_path(folder / "predictions.npy") as path:
            np.save(path, predictions.numpy().astype(np.float32))

    # --- building -------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Build the predictor once the data are known; a checkpoint brings its own description."""
        if hasattr(self, "net"):
            return
        if self.predictor is not None:
            self._adopt(load_predictor(self.predictor))
        elif self.has_training_data:
            self._adopt(self.build())

    def _adopt(self, net: CurvePredictor) -> None:
        if net.architecture != self.architecture:
            raise ValueError(f"predictor must be a {self.architecture}, got {net.architecture}")
        self.adopt(net)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the predictor beside its weights."""
        checkpoint["predictor"] = self.net.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the predictor the checkpoint describes where the data have not."""
        if not hasattr(self, "net"):
            self._adopt(build_predictor(checkpoint["predictor"], source="the checkpoint"))

    def export(self, folder: Path) -> None:
        """Write the predictor folder `<folder>/predictor/`."""
        self.net.save_pretrained(folder / "predictor")

    # --- validating, testing, predicting --------------------------------------------------------------------

    def require_net(self) -> None:
        """Refuse to go on without a predictor.

        Raises:
            ValueError: If neither the data, a checkpoint nor `predictor` brought one.
        """
        if not hasattr(self, "net"):
            raise ValueError("a trained predictor is needed: give --ckpt_path or --model.predictor")

    def _start(self, name: str) -> None:
        self.require_net()
        self.check_data(name)
        self.quality.reset()

    def _evaluate(self, batch: Batch, name: str) -> None:
        predicted, measured = self.scored(self.outputs(batch, name), batch)
        self.quality.update(batch["rows"], predicted, measured)

    def report(self, name: str) -> dict[str, Tensor]:
        """Log `quality`'s figures that are numbers as `<name>/<figure>`; all of them are returned."""
        figures: dict[str, Tensor] = self.quality.compute()
        scalars = {f"{name}/{key}": value for key, value in figures.items() if value.ndim == 0}
        self.log_dict(scalars, sync_dist=True)
        return figures

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self._start("val")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        self.report("val")

    def on_test_epoch_start(self) -> None:  # noqa: D102
        self._start("test")

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self.report("test")

    def on_predict_epoch_start(self) -> None:  # noqa: D102
        self.require_net()
        self.predicted.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's predictions (B, …)."""
        predictions = self.predictions(self.outputs(batch, "predict"))
        self.predicted.update(batch["rows"], predictions, predictions)
        return predictions

    def on_predict_epoch_end(self) -> None:
        """Write every row once and in order, whatever the number of processes."""
        _, predictions, _ = self.predicted.compute()
        if self.trainer.is_global_zero:
            self.write_predictions(Path(self.trainer.default_root_dir), torch.from_numpy(predictions))
