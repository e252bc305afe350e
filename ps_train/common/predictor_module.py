"""Training, testing and predicting with a saved predictor: what all of them share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from rich.table import Table
from torch import Tensor

from ps_train.architectures import build_predictor
from ps_train.common.checkpoint_state import (
    born_on_cpu,
    random_state,
    refuse_other_settings,
    set_random_state,
)
from ps_train.common.export import answer_command, training_record
from ps_train.common.gathered_rows import GatheredRows
from ps_train.common.novelty import LEAST_ROWS, Novelty
from ps_train.common.optimization import OptimizerSettings, ScheduleSettings, make_optimizer
from ps_train.common.prediction_writer import PredictionWriter
from ps_train.common.rows import Rows
from ps_train.common.text_batches import TextFormat
from ps_train.predictor import CurvePredictor, load_predictor, read_config
from ps_train.question_hashes import hash_questions
from ps_train.schema import CurveSchema

Batch = Any
"""A mapping of names to tensors of B rows; `rows` (B,) are their numbers in the data set."""

STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")
"""What these modules train under; docs/multi_gpu.md says why not the others."""

NO_PREDICTOR = "ckpt_path must be a checkpoint of a predictor's fit, got one of something else"


class PredictorModule(pl.LightningModule):
    """A LightningModule around a `CurvePredictor`.

    It learns what the data are from `attach_rows`, which the data modules call; with plain data loaders their
    user does. The predictor comes from the training rows (`fit`), from the checkpoint, or from `predictor`.
    Subclasses give `architecture`, `build`, `outputs`, `loss`, `scored` and `predictions`.

    What is dropped in a step is drawn from torch's stream, whose place checkpoints keep: a run that is killed
    goes on exactly.

    Args:
        optimizer: Step sizes and weight decay.
        schedule: How the step sizes change.
        predictor: A predictor folder to start from.
    """

    architecture: str
    reads: tuple[str, ...]
    """What the predictor reads of a batch, as `Rows.targets` name it; `tokens` for texts."""
    learns: tuple[str, ...]
    """What else a batch must hold to train and judge it by."""
    net: CurvePredictor
    quality: GatheredRows

    def __init__(
        self, optimizer: OptimizerSettings, schedule: ScheduleSettings, predictor: str | None
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule, self.predictor = optimizer, schedule, predictor
        self.rows: dict[str, Rows] = {}
        """What was attached, by `train`, `val`, `test` and `predict`."""
        self.unlike: npt.NDArray[np.bool_] | None = None
        """(N,) which rows of `predict` are unlike those learned from, once all are read; None: not known."""
        self.held_out: dict[str, Tensor] = {}
        """`rows`, `predicted` and `measured` of the validation rows, as last measured, after `step` steps."""
        self.scores: Table | None = None
        """What the exported predictor is worth on the validation rows; None: nothing to say."""
        self._schedule_steps: float | None = None
        self._random: dict[str, Tensor] | None = None
        # Figures are those of all processes already: there is nothing to reduce.
        warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
        # Batches of rows carry their numbers themselves.
        warnings.filterwarnings("ignore", message="Couldn't infer the batch indices")

    # --- what subclasses say --------------------------------------------------------------------------------

    def build(self, rows: Rows) -> CurvePredictor:
        """The untrained predictor for the training rows."""
        raise NotImplementedError

    def adopt(self, net: Any) -> None:
        """Take over a predictor; subclasses make `self.quality` here."""
        self.net = net

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

    # --- the data -------------------------------------------------------------------------------------------

    def attach_rows(self, name: str, rows: Rows) -> None:
        """Know the rows of `name`: `train` (needed to fit), `val`, `test` or `predict`.

        Raises:
            ValueError: If they lack what the module reads or learns from.
        """
        held = {*rows.targets, *(["tokens"] if len(rows.tokens) else [])}
        needed = [*self.reads, *(self.learns if name != "predict" else ())]
        if missing := [part for part in needed if part not in held]:
            raise ValueError(
                f"{type(self).__name__} needs {' and '.join(needed)} of each question, but the {name} rows "
                f"have no {' and '.join(missing)}: other data modules give them"
            )
        self.rows[name] = rows

    def expected(self) -> tuple[CurveSchema, TextFormat | None] | None:
        """What the predictor reads that `predictor` or the checkpoint brings; None where neither is given."""
        path = self.trainer.ckpt_path
        if self.predictor is not None:
            config = read_config(self.predictor)
        elif path is not None and Path(path).is_file():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            if "predictor" not in checkpoint:
                raise ValueError(NO_PREDICTOR)
            config = checkpoint["predictor"]
        else:
            return None
        text = config["settings"].get("text")
        return CurveSchema(**config["schema"]), None if text is None else TextFormat(**text)

    def check_rows(self, name: str) -> None:
        """Refuse rows that the predictor was not made for.

        Raises:
            ValueError: If features, budgets, language models or the served model are others.
        """
        rows = self.rows.get(name)
        if rows is None or rows.schema is None:
            return
        if faults := self.net.schema.says_of(rows.schema, f"the {name} rows"):
            raise ValueError("; ".join(faults))

    # --- building -------------------------------------------------------------------------------------------

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

    def configure_model(self) -> None:
        """Build the predictor once the data are known; a checkpoint brings its own description."""
        if hasattr(self, "net") or self._trainer is None:  # `load_from_checkpoint` has no trainer
            return
        fits = self.trainer.state.fn == "fit"
        with born_on_cpu():
            if self.predictor is not None:
                self._adopt(self._load())
            elif fits and "train" in self.rows:
                self._adopt(self.build(self.rows["train"]))
            elif fits and self.trainer.ckpt_path is None:
                raise ValueError(
                    "the module must know the training rows: give a data module of this project, or call "
                    "module.attach_rows('train', rows)"
                )

    def _load(self) -> CurvePredictor:
        assert self.predictor is not None
        given = next((rows.schema for rows in self.rows.values() if rows.schema is not None), None)
        models = {
            name: path
            for name in ("backbone", "encoder")
            if given is not None and (path := getattr(given, name)) is not None
        }
        return load_predictor(self.predictor, **models)

    def _adopt(self, net: CurvePredictor) -> None:
        if net.architecture != self.architecture:
            raise ValueError(f"predictor must be a {self.architecture}, got {net.architecture}")
        self.adopt(net.train())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the weights are: predictor, settings, held-out predictions, random streams."""
        checkpoint["predictor"] = self.net.config
        checkpoint["settings"] = self._settings()
        checkpoint["held_out"] = dict(self.held_out)
        checkpoint["random"] = random_state(self.device)
        checkpoint["schedule_steps"] = self._schedule_steps

    def _settings(self) -> dict[str, Any]:
        return {"optimizer": asdict(self.optimizer), "schedule": asdict(self.schedule)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the predictor the checkpoint describes where the data have not; go on as it went.

        Raises:
            ValueError: If it is no checkpoint of such a module, or a fit is to go on with other settings.
        """
        if "predictor" not in checkpoint:
            raise ValueError(NO_PREDICTOR)
        if not hasattr(self, "net"):
            with born_on_cpu():
                self._adopt(build_predictor(checkpoint["predictor"], source="the checkpoint"))
        if self._trainer is None or self.trainer.state.fn != "fit":
            return
        self._schedule_steps = checkpoint.get("schedule_steps")
        refuse_other_settings(
            {**checkpoint.get("settings", {}), **checkpoint["predictor"]["settings"]},
            {**self._settings(), **self.net.config["settings"]},
        )
        if (state := checkpoint.get("random")) is not None:
            set_random_state(state, self.trainer.strategy.root_device)
            fit_loop = checkpoint.get("loops", {}).get("fit_loop", {})
            if not fit_loop.get("epoch_loop.batch_progress", {}).get("is_last_batch", True):
                self._random = state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As any module; without a predictor there is nothing to fill.

        Strategies that train in processes of their own (`ddp_spawn`) hand the weights back to a module that
        never built one.
        """
        if not hasattr(self, "net"):
            return None
        return super().load_state_dict(state_dict, *args, **kwargs)

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

    def require_net(self) -> None:
        """Refuse to go on without a predictor.

        Raises:
            ValueError: If neither the data, a checkpoint nor `predictor` brought one.
        """
        if not hasattr(self, "net"):
            raise ValueError("a trained predictor is needed: give --ckpt_path or --model.predictor")

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
