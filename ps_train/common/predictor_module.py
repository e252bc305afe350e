"""Training, testing and predicting with a saved predictor: what all of them share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.callbacks import Callback
from rich.table import Table
from torch import Tensor

from ps_train.common.checkpoint_state import set_random_state
from ps_train.common.export import answer_command, training_record
from ps_train.common.gathered_rows import GatheredRows
from ps_train.common.novelty import LEAST_ROWS, Novelty
from ps_train.common.optimization import OptimizerSettings, ScheduleSettings, make_optimizer
from ps_train.common.prediction_writer import PredictionWriter
from ps_train.common.predictor_holder import PredictorHolder
from ps_train.common.rows import Rows
from ps_train.question_hashes import hash_questions

Batch = Any
"""A mapping of names to tensors of B rows; `rows` (B,) are their numbers in the data set."""

STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")
"""What these modules train under; docs/multi_gpu.md says why not the others."""


class PredictorModule(PredictorHolder):
    """Trains, judges and asks the predictor that a `PredictorHolder` holds.

    Subclasses give `architecture`, `build`, `outputs`, `training_step`, `scored` and `predictions`, and make
    `quality` in `adopt`.

    What is dropped in a step is drawn from torch's stream, whose place checkpoints keep: a run that is killed
    goes on exactly.

    Args:
        optimizer: As the others, of `PredictorHolder`.
        schedule: See there.
        predictor: See there.
    """

    quality: GatheredRows

    def __init__(
        self, optimizer: OptimizerSettings, schedule: ScheduleSettings, predictor: str | None
    ) -> None:
        super().__init__(optimizer, schedule, predictor)
        self.unlike: npt.NDArray[np.bool_] | None = None
        """(N,) which rows of `predict` are unlike those learned from, once all are read; None: not known."""
        self.scores: Table | None = None
        """What the exported predictor is worth on the validation rows; None: nothing to say."""
        # Figures are those of all processes already: there is nothing to reduce.
        warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
        # Batches of rows carry their numbers themselves.
        warnings.filterwarnings("ignore", message="Couldn't infer the batch indices")

    # --- what subclasses say --------------------------------------------------------------------------------

    def outputs(self, batch: Batch, name: str) -> Tensor:
        """What the predictor makes of a batch of the data set `name`, (B, …) float32."""
        raise NotImplementedError

    def scored(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """What `quality` compares: predicted and measured, (B, …) each."""
        raise NotImplementedError

    def predictions(self, outputs: Tensor) -> Tensor:
        """What `predict` writes of each row, (B, …)."""
        raise NotImplementedError

    def write_predictions(self, folder: Path, predictions: Tensor, ids: list[str] | None) -> list[Path]:
        """Write predictions (N, …) of the rows with these ids, where they are known; returns the files."""
        raise NotImplementedError

    def held_out_table(self) -> Table | None:
        """`scores`, of `held_out`."""
        return None

    def forget_held_out(self) -> None:
        """Drop what was measured with other weights than those that are exported."""
        self.held_out = {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, as torch's optimizers take it."""
        return [{"params": [p for p in self.net.parameters() if p.requires_grad]}]

    # --- fitting --------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse what these modules do not train under.

        Raises:
            ValueError: If the strategy shards parameters, or the precision is none of `PRECISIONS`.
        """
        strategy = type(self.trainer.strategy).__name__
        if strategy not in STRATEGIES:
            raise ValueError(
                f"trainer.strategy must be auto or one of ddp, ddp_spawn, ddp_fork, got {strategy}: what is "
                "trained is small, and a sharded frozen model would mix types in one parameter"
            )
        if (precision := str(self.trainer.precision)) not in PRECISIONS:
            raise ValueError(f"trainer.precision must be one of {', '.join(PRECISIONS)}, got {precision}")

    def export(self, folder: Path) -> Path:
        """Write the predictor folder `<folder>/predictor/`; returns it."""
        learned = [self.rows[name] for name in ("train", "val") if name in self.rows]
        if learned and self.trainer.state.fn == "fit":
            self.scores = self.held_out_table()
            self.net.training_questions = hash_questions(text for rows in learned for text in rows.texts)
            self.net.training_record = training_record(learned, self.net.schema, self.scores)
            self._learn_novelty(learned)
        self.net.save_pretrained(folder / "predictor")
        return folder / "predictor"

    def _learn_novelty(self, learned: Sequence[Rows]) -> None:
        columns = self.seen_of(learned)
        self.net.novelty = None if columns is None or len(columns) < LEAST_ROWS else Novelty.fit(columns)

    def seen_of(self, learned: Sequence[Rows]) -> npt.NDArray[np.float32] | None:
        """What the trained predictor sees of the questions it learned from, (N, D); None: no such thing."""
        if not all("inputs" in rows.targets for rows in learned):
            return None
        return np.concatenate([rows.targets["inputs"] for rows in learned])

    def seen_in(self, batch: Batch) -> Tensor:
        """The same of the batch whose `outputs` were just asked for, (B, D)."""
        inputs: Tensor = batch["inputs"]
        return inputs

    def next_command(self, folder: Path) -> str:
        """What to do with a predictor that was just exported to `folder`."""
        return answer_command(folder, self.net.schema)

    def configure_optimizers(self) -> Any:
        """AdamW, scheduled by the step.

        Raises:
            ValueError: As `make_optimizer`; if a fit goes on whose schedule was made for another length.
        """
        total, before = self.trainer.estimated_stepping_batches, self._schedule_steps
        # A trial of one batch is shorter than any warm-up.
        schedule = ScheduleSettings() if self.trainer.fast_dev_run else self.schedule  # type: ignore[attr-defined]
        if schedule.shape != "constant" and before not in (None, total):
            raise ValueError(
                f"a fit that goes on keeps its length, as its {schedule.shape} schedule ends there: {before} "
                f"optimizer steps, got {total}; --model.predictor begins a new fit with its weights"
            )
        self._schedule_steps = total
        return make_optimizer(self.parameter_groups(), self.optimizer, schedule, total)

    def configure_callbacks(self) -> list[Callback]:
        """Write what `predict` makes."""
        return [PredictionWriter()]

    # --- validating, testing, predicting --------------------------------------------------------------------

    def _start(self, name: str) -> None:
        self.require_net()
        self.check_rows(name)
        self.quality.reset()

    def _evaluate(self, batch: Batch, name: str) -> None:
        predicted, measured = self.scored(self.outputs(batch, name), batch)
        self.quality.update(batch["rows"], predicted, measured)

    def report(self, name: str) -> dict[str, Tensor]:
        """Log `quality`'s figures that are numbers as `<name>/<figure>`; all of them are returned.

        They are figures of all processes together: the same in each, so none is reduced.
        """
        figures: dict[str, Tensor] = self.quality.compute()
        scalars = {f"{name}/{key}": float(value) for key, value in figures.items() if value.ndim == 0}
        self.log_dict(scalars)
        return figures

    def on_fit_start(self) -> None:
        """Refuse training rows that a given predictor was not made for."""
        self.require_net()
        self.check_rows("train")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """In an epoch that goes on, forget what a loader that begins draws from torch's stream."""
        if self._random is not None:
            set_random_state(self._random, self.trainer.strategy.root_device)
            self._random = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        raise NotImplementedError

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self._start("val")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        self.report("val")
        if not self.trainer.sanity_checking:  # an untrained network's figures are of no use later
            self.keep_held_out()

    def keep_held_out(self) -> None:
        """Keep what the validation rows were just found to be."""
        rows, predicted, measured = map(torch.from_numpy, self.quality.seen)
        step = torch.tensor(self.trainer.global_step)
        self.held_out = {"rows": rows, "predicted": predicted, "measured": measured, "step": step}

    def on_test_epoch_start(self) -> None:  # noqa: D102
        self._start("test")

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self.report("test")

    def on_predict_epoch_start(self) -> None:  # noqa: D102
        self.require_net()
        self.check_rows("predict")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The batch's row numbers (B,), predictions (B, …) and, where that is known, who is unlike (B, 1)."""
        found = {"rows": batch["rows"], "predictions": self.predictions(self.outputs(batch, "predict"))}
        if self.net.novelty is not None:
            unlike = self.net.novelty.unlike(self.seen_in(batch).float().cpu().numpy())
            found["unlike"] = torch.from_numpy(unlike).float()[:, None]
        return found
