"""`ps-train fit|validate|test|predict`: LightningCLI, with what this project's runs need around it."""

from __future__ import annotations

import difflib
import inspect
import logging
import pickle
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace, set_parsing_settings
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.io import TorchCheckpointIO

# Their names alone are enough on the command line: --model CurveMLP.
from ps_train.budget.data import BudgetDataModule
from ps_train.budget.regressor import BudgetRegressor
from ps_train.common.checkpoints import WholeCheckpoints
from ps_train.common.export import ExportBest
from ps_train.common.predictor_holder import PredictorHolder
from ps_train.common.run_log import RunLog
from ps_train.curve.data import CurveDataModule
from ps_train.curve.lora import CurveLoRA
from ps_train.curve.mlp import CurveMLP
from ps_train.curve.text_data import CurveTextDataModule
from ps_train.difficulty.lora import DifficultyClassifier
from ps_train.difficulty.mlp import DifficultyMLP
from ps_train.presets import with_presets

MODULES = (CurveMLP, CurveLoRA, DifficultyClassifier, DifficultyMLP, BudgetRegressor)
DATA = (CurveDataModule, CurveTextDataModule, BudgetDataModule)
CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"
LIMITS = tuple(f"limit_{part}_batches" for part in ("train", "val", "test", "predict"))

MOVED = {
    "lr": "model.optimizer.lr",
    "head_lr": "model.optimizer.head_lr",
    "weight_decay": "model.optimizer.weight_decay",
    "warmup_steps": "model.schedule.warmup_steps",
    "schedule": "model.schedule.shape",
    "hidden_size": "model.head.hidden_sizes",
    "hidden_sizes": "model.head.hidden_sizes",
    "dropout": "model.head.dropout",
    "cache": "data.extraction.cache",
    "extraction_batch_size": "data.extraction.batch_size",
}
"""Settings under names they had before, and their names now."""

ASKED_AMISS = ("Early stopping conditioned on", "When using the learning rate finder")
"""How Lightning's messages begin that are a user's mistake, though their types are those of defects."""


class Parser(LightningArgumentParser):
    """Says in one sentence what is wrong with a flag or a config."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the sentence and leave with exit code 2."""
        sys.stderr.write(f"error: {_in_short(message)}\n")
        raise SystemExit(2)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, **settings: Any) -> list[str]:
        """The trainer's limits as a whole number first: Lightning's own types make 1 batch a share of 1.0."""
        if nested_key != "trainer":
            return super().add_class_arguments(theclass, nested_key, **settings)
        names = super().add_class_arguments(theclass, nested_key, skip=set(LIMITS), **settings)
        for name in LIMITS:
            what = "Batches of an epoch: how many, or a share with a point (1.0: all)."
            self.add_argument(f"--trainer.{name}", type=int | float | None, default=None, help=what)
        return [*names, *(f"trainer.{name}" for name in LIMITS)]


def _in_short(message: str) -> str:
    """The useful part of jsonargparse's account of what it tried."""
    if found := re.search(r"Option '([\w.]+)' is not accepted", message):
        name = found[1]
        kind = re.search(r"class_path '[\w.]*?(\w+)'", message)
        what = f"{kind[1]} has no setting {name!r}" if kind else f"there is no setting {name!r}"
        owners = [cls for cls in (*MODULES, *DATA) if not kind or cls.__name__ == kind[1]]
        names = [known for cls in owners for known in inspect.signature(cls).parameters]
        if name in names:  # of a class that is not known yet
            return f"{name} is a setting of a class: give --config, or --model or --data CLASS, before it"
        if name in MOVED:
            return f"{what}: it is {MOVED[name]} now"
        close = difflib.get_close_matches(name, names, 1, 0.5)
        return f"{what}: did you mean {close[0]!r}?" if close else what
    if found := re.search(r'Parser key "schedule":\s+Unable to load config .?\'?(\w+)', message):
        return f"model.schedule has settings of its own: it is model.schedule.shape {found[1]} now"
    if found := re.search(r"Expected a dot import path string: (\w+)", message):
        names = [cls.__name__ for cls in (*MODULES, *DATA)]
        close = difflib.get_close_matches(found[1], names, 1)
        return f"no class {found[1]!r}" + (f": did you mean {close[0]}?" if close else f"; known: {names}")
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return "; ".join(lines[:3]) if lines else message


class TrainingCLI(LightningCLI):
    """LightningCLI whose `fit` ends by exporting the best checkpoint for use without a Trainer.

    A module takes part by having `export(root: Path) -> Path`; predictors write
    `<default_root_dir>/predictor/`, models `<default_root_dir>/model/`.
    """

    def before_instantiate_classes(self) -> None:
        """Keep all a run writes under `default_root_dir`, a subcommand's log in a folder of its own."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        root = Path(trainer.default_root_dir or ".")
        callbacks = _checkpoints(trainer.callbacks or [], root / "checkpoints")
        if config.get("ckpt_path") is not None:
            # Checkpoints may come from anywhere: nothing in them is unpickled, whatever the address.
            config.weights_only = True
            config.ckpt_path = _checkpoint(config.ckpt_path, callbacks, root, fits=self.subcommand == "fit")
        resumes = self.subcommand == "fit" and config.get("ckpt_path") is not None
        if trainer.logger is None:
            trainer.logger = Namespace(
                class_path=f"{RunLog.__module__}.{RunLog.__qualname__}",
                init_args=Namespace(save_dir=str(root), subcommand=self.subcommand, resumes=resumes),
            )
        if self.subcommand == "fit" and trainer.enable_checkpointing is not False:
            trainer.callbacks = callbacks

    def instantiate_classes(self) -> None:
        """Tell a module the checkpoint it begins with: by then what it reads must be known."""
        super().instantiate_classes()
        if isinstance(self.model, PredictorHolder):
            self.model.checkpoint = self.config[self.subcommand].get("ckpt_path")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that exports when a fit ends."""
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        if self.subcommand == "fit":
            trainer.callbacks.append(ExportBest())  # type: ignore[attr-defined]
        return trainer


def _checkpoints(callbacks: list[Namespace], folder: Path) -> list[Namespace]:
    """Checkpoint callbacks that write under `folder`; what `last.ckpt` holds is the last epoch.

    Beside a monitor, Lightning's `save_last` writes the last new *best*: a callback of its own writes the
    last then. A second fit in the same folder takes the first one's place instead of counting versions.
    """
    own = [callback for callback in callbacks if callback.class_path.endswith("ModelCheckpoint")]
    wants_last = not own
    for callback in own:
        settings = callback.init_args
        if settings.dirpath is None:
            settings.dirpath = str(folder)
            settings.enable_version_counter = False
        if settings.get("monitor") is not None and settings.get("save_last"):
            settings.save_last = None
            wants_last = True
    if not wants_last:
        return callbacks
    last = Namespace(
        class_path=CHECKPOINT,
        init_args=Namespace(
            dirpath=str(folder), filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        ),
    )
    # The first one's checkpoint is exported: the last stands behind those with a monitor.
    return [*callbacks, last]


def _checkpoint(asked: str, callbacks: list[Namespace], root: Path, *, fits: bool) -> str | None:
    """The file that is asked for, by its path or as `last`; None for a fit where there is no last yet."""
    if asked == "best":
        raise ValueError(
            "ckpt_path best is known only while a fit runs, which exports it: give "
            f"--model.predictor {root / 'predictor'}, or a checkpoint's path"
        )
    if asked != "last":
        return asked
    folders = [Path(c.init_args.dirpath) for c in callbacks if c.class_path.endswith("ModelCheckpoint")]
    files = [folder / "last.ckpt" for folder in dict.fromkeys(folders)]
    found = next((str(file) for file in files if file.is_file()), None)
    if found is None and not fits:
        raise ValueError(f"ckpt_path last must be {files[0]}, but there is no such file")
    return found


def run(args: list[str] | None) -> None:
    """Run LightningCLI on `args` (default: the command line).

    Raises:
        ValueError: If something cannot be trained as asked, in one sentence.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    quiet()
    try:
        TrainingCLI(
            args=with_presets(sys.argv[1:] if args is None else args),
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_class=Parser,
            parser_kwargs={"parser_mode": "yaml"},
        )
    except ValueError as error:
        # What a class refuses, jsonargparse tells among all that it tried.
        if found := re.search(r"Errors:\n\s*- (?!Expected a)(.+)", str(error)):
            raise ValueError(found[1]) from error
        raise
    except MisconfigurationException as error:
        raise ValueError(" ".join(str(error).split())) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            "ckpt_path must be a checkpoint that this command wrote: nothing in it is unpickled"
        ) from error
    except (RuntimeError, AttributeError, EOFError) as error:
        if str(error).startswith(ASKED_AMISS):
            raise ValueError(" ".join(str(error).split())) from error
        if isinstance(error, EOFError) or "PytorchStreamReader" in str(error):
            raise ValueError("ckpt_path must be a whole checkpoint, but it is cut or damaged") from error
        raise


def quiet() -> None:
    """Let the libraries below say what is wrong, and nothing else."""
    for library in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for message in (
        "LightningCLI's args parameter is intended",
        ".*does not have many workers",
        ".*smaller than the logging interval",
        "Checkpoint directory .* exists and is not empty",
        "Experiment logs directory",
        ".*treespec",
        "The `srun` command is available",
    ):
        warnings.filterwarnings("ignore", message=message)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_float32_matmul_precision("highest")
