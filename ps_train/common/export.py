"""The end of a fit: the best checkpoint as a folder that needs no Trainer, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from ps_train.common.held_out import held_out_table


class ExportBest(pl.Callback):
    """Exports a module that has `export(root)` once its fit has ended, in the process that trained it."""

    def __init__(self) -> None:
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Know where this run began."""
        self._first_step = trainer.global_step

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the best checkpoint's weights, if one was chosen, and export the module once."""
        if not trainer.is_global_zero or not hasattr(pl_module, "export"):
            return
        console = Console()
        if trainer.fast_dev_run or trainer.global_step == self._first_step:  # type: ignore[attr-defined]
            why = "a trial of one batch" if trainer.fast_dev_run else "no step was trained"  # type: ignore[attr-defined]
            console.print(f"nothing exported: {why}", highlight=False)
            return
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best:
            checkpoint: dict[str, Any] = torch.load(best, map_location="cpu", weights_only=True)
            pl_module.load_state_dict(checkpoint["state_dict"])
            if "held_out" in checkpoint:
                pl_module.held_out = checkpoint["held_out"]
        module: Any = pl_module
        folder = module.export(Path(trainer.default_root_dir))
        table = held_out_table(module)
        if table is not None:
            console.print(table)
        console.print(f"wrote {folder}", highlight=False, soft_wrap=True)
        if hasattr(module, "next_command"):
            console.print(f"next:  {module.next_command(folder)}", highlight=False, soft_wrap=True)
