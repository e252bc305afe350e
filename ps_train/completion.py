"""What the shell may complete after `ps-train`: presets, classes' settings and functions' flags, by name."""

from __future__ import annotations

import argparse
import importlib
import inspect
from typing import Any

from ps_train.presets import preset_names

TRAINER = (
    "accelerator",
    "default_root_dir",
    "devices",
    "enable_progress_bar",
    "fast_dev_run",
    "max_epochs",
    "max_steps",
    "num_nodes",
    "precision",
    "strategy",
)
"""The trainer's settings that people set; it has 40 more."""


def completion_parser() -> argparse.ArgumentParser:
    """A parser of the same commands and flags, for completion alone: jsonargparse reads what is typed."""
    from ps_train.cli import COMMANDS, LIGHTNING
    from ps_train.training_cli import DATA, MODULES

    parser = argparse.ArgumentParser(prog="ps-train")
    commands = parser.add_subparsers()
    for name, summary in LIGHTNING.items():
        command = commands.add_parser(name, help=summary)
        command.add_argument("--config", choices=preset_names(), help="a preset's name, or a YAML file")
        command.add_argument("--model", choices=[cls.__name__ for cls in MODULES])
        command.add_argument("--data", choices=[cls.__name__ for cls in DATA])
        command.add_argument("--ckpt_path")
        for prefix, classes in (("model", MODULES), ("data", DATA)):
            for setting in sorted({name for cls in classes for name in _settings(cls)}):
                command.add_argument(f"--{prefix}.{setting}")
        for setting in TRAINER:
            command.add_argument(f"--trainer.{setting}")
    for name, (target, summary) in COMMANDS.items():
        module, attribute = target.split(":")
        command = commands.add_parser(name, help=summary)
        command.add_argument("--config", help="YAML file with any of these settings")
        for setting in _settings(getattr(importlib.import_module(module), attribute)):
            command.add_argument(f"--{setting}")
    return parser


def _settings(callable_: Any) -> list[str]:
    parameters = inspect.signature(callable_).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
