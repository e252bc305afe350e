"""The predictor that a run works on: made from the training rows, loaded, or brought by a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ps_train.architectures import build_predictor
from ps_train.common.checkpoint_state import (
    born_on_cpu,
    random_state,
    refuse_other_settings,
    set_random_state,
)
from ps_train.common.optimization import OptimizerSettings, ScheduleSettings
from ps_train.common.rows import Rows
from ps_train.common.text_batches import TextFormat
from ps_train.load import load_predictor, read_config
from ps_train.predictor import CurvePredictor
from ps_train.schema import CurveSchema

NO_PREDICTOR = "ckpt_path must be a checkpoint of a predictor's fit, got one of something else"


class PredictorHolder(pl.LightningModule):
    """Knows the data by `attach_rows`, and by them, a folder or a checkpoint its predictor, `net`.

    The data modules call `attach_rows`; with plain data loaders their user does. To validate, test and
    predict, a checkpoint's predictor goes before the folder's, which a config may still name from its fit.

    Subclasses give `architecture` and `build`.

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

    def __init__(
        self, optimizer: OptimizerSettings, schedule: ScheduleSettings, predictor: str | None
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule, self.predictor = optimizer, schedule, predictor
        self.rows: dict[str, Rows] = {}
        """What was attached, by `train`, `val`, `test` and `predict`."""
        self.held_out: dict[str, Tensor] = {}
        """`rows`, `predicted` and `measured` of the validation rows, as last measured, after `step` steps."""
        self.checkpoint: str | None = None
        """The file that the run begins with, where who starts it says so: Lightning does so too late."""
        self._schedule_steps: float | None = None
        self._random: dict[str, Tensor] | None = None

    def build(self, rows: Rows) -> CurvePredictor:
        """The untrained predictor for the training rows."""
        raise NotImplementedError

    def adopt(self, net: Any) -> None:
        """Take over a predictor; subclasses make `self.quality` here."""
        self.net = net

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
        """What the predictor reads that `predictor` or the checkpoint brings; None where neither is given.

        Raises:
            ValueError: If that is no predictor, or of another architecture.
        """
        if self.checkpoint is not None and Path(self.checkpoint).is_file():
            checkpoint = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if "predictor" not in checkpoint:
                raise ValueError(NO_PREDICTOR)
            config = checkpoint["predictor"]
        elif self.predictor is not None:
            config = read_config(self.predictor)
        else:
            return None
        self._check_architecture(config.get("architecture"))
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

    def configure_model(self) -> None:
        """Build the predictor once the data are known; a checkpoint brings its own description."""
        if hasattr(self, "net") or self._trainer is None:  # `load_from_checkpoint` has no trainer
            return
        fits = self.trainer.state.fn == "fit"
        if self.checkpoint is not None and not fits:
            return
        with born_on_cpu():
            if self.predictor is not None:
                self._adopt(load_predictor(self.predictor, **self._language_models()))
            elif fits and "train" in self.rows:
                self._adopt(self.build(self.rows["train"]))
            elif fits and self.trainer.ckpt_path is None:
                raise ValueError(
                    "the module must know the training rows: give a data module of this project, or call "
                    "module.attach_rows('train', rows)"
                )

    def _language_models(self) -> dict[str, Any]:
        """Those that the data are read with: where a predictor's own lie now."""
        given = next((rows.schema for rows in self.rows.values() if rows.schema is not None), None)
        models = {name: getattr(given, name, None) for name in ("backbone", "encoder")}
        return {name: path for name, path in models.items() if path is not None}

    def _adopt(self, net: CurvePredictor) -> None:
        self._check_architecture(net.architecture)
        self.adopt(net.train())

    def _check_architecture(self, found: object) -> None:
        if found != self.architecture:
            raise ValueError(f"predictor must be a {self.architecture}, got {found}")

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
        described = checkpoint["predictor"]
        fits = self._trainer is not None and self.trainer.state.fn == "fit"
        if not hasattr(self, "net") or not (fits or self.net.config == described):
            with born_on_cpu():
                self._adopt(
                    build_predictor(
                        described,
                        source="the checkpoint",
                        locate=lambda schema: replace(schema, **self._language_models()),
                    )
                )
        if not fits:
            return
        self._schedule_steps = checkpoint.get("schedule_steps")
        refuse_other_settings(
            {**checkpoint.get("settings", {}), **described["settings"]},
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

    def require_net(self) -> None:
        """Refuse to go on without a predictor.

        Raises:
            ValueError: If neither the data, a checkpoint nor `predictor` brought one.
        """
        if not hasattr(self, "net"):
            raise ValueError("a trained predictor is needed: give --ckpt_path or --model.predictor")
