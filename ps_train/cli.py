"""`ps-train fit|validate|test|predict`: LightningCLI; and beside it commands that are plain functions."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning.cli import LightningCLI

from ps_alloc.errors import accept_any_text, run_command

# Command: where its function lives, and what it does. The function's signature makes the flags.
COMMANDS: dict[str, tuple[str, str]] = {
    "light": (
        "ps_train.light.command:light_command",
        "fit a light text predictor on a curve table: numpy alone at inference",
    ),
    "make-budgets": (
        "ps_train.make_data:make_budgets_command",
        "write the budget that each question of a curve table needs",
    ),
    "make-difficulty": (
        "ps_train.make_data:make_difficulty_command",
        "write the difficulty class of each question of a curve table",
    ),
    "merge": (
        "ps_train.merge:merge_command",
        "fold a text predictor's adapters into its language model, for serving",
    ),
    "sweep": ("ps_train.sweep:sweep_command", "score a predictor for each layer of a language model"),
}


class PredictiveSchedulingCLI(LightningCLI):
    """LightningCLI whose `fit` ends by exporting the best checkpoint for use without a Trainer.

    A module takes part by having `export(root: Path)`; predictors write `<default_root_dir>/predictor/`,
    models `<default_root_dir>/model/`.
    """

    def before_instantiate_classes(self) -> None:
        """Keep all a run writes under `default_root_dir`: one flag moves it."""
        trainer = self.config[self.subcommand].trainer
        root = Path(trainer.default_root_dir or ".")
        if trainer.logger is None:
            trainer.logger = Namespace(
                class_path="pytorch_lightning.loggers.CSVLogger",
                init_args=Namespace(save_dir=str(root), name="log", version=""),
            )
        for callback in trainer.callbacks or []:
            if callback.class_path.endswith("ModelCheckpoint") and callback.init_args.dirpath is None:
                callback.init_args.dirpath = str(root / "checkpoints")

    def after_fit(self) -> None:
        """Load the best checkpoint's weights, if one was chosen, and export the module once."""
        if not self.trainer.is_global_zero or not hasattr(self.model, "export"):
            return
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:
            checkpoint = torch.load(best, map_location="cpu", weights_only=True)
            self.model.load_state_dict(checkpoint["state_dict"])
        self.model.export(Path(self.trainer.default_root_dir))


def main(args: list[str] | None = None) -> int:
    """Run `ps-train` on `args` (default: the command line) and return its exit code."""
    accept_any_text()
    given = sys.argv[1:] if args is None else args
    if given and given[0] in COMMANDS:
        return _run_function(given[0], given[1:])
    if args is not None:
        # Lightning takes arguments beside a command line for a slip; `ps-eval demo` and the tests mean it.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    return run_command(
        lambda: PredictiveSchedulingCLI(
            args=args,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "parser_mode": "yaml",
                "description": "Train predictors, test them, predict with them.",
                "epilog": "Further commands, each with --help of its own: "
                + "; ".join(f"{name} ({summary})" for name, (_, summary) in COMMANDS.items())
                + ".",
            },
        )
    )


def _run_function(name: str, args: list[str]) -> int:
    target, summary = COMMANDS[name]
    module, attribute = target.split(":")
    function = getattr(importlib.import_module(module), attribute)
    parser = ArgumentParser(prog=f"ps-train {name}", description=f"{summary[0].upper()}{summary[1:]}.")
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_function_arguments(function, fail_untyped=True)
    try:
        settings = parser.parse_args(args)
    except SystemExit as stop:  # --help: 0; jsonargparse has printed what is wrong with a flag: 2
        return int(stop.code or 0)
    settings.pop("config", None)
    return run_command(lambda: function(**settings.as_dict()))
