"""The end of a fit: the best checkpoint as a folder that needs no Trainer, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table

from ps_train.common.rows import Rows
from ps_train.schema import CurveSchema


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
        module: Any = pl_module
        best, step = getattr(trainer.checkpoint_callback, "best_model_path", ""), trainer.global_step
        if best:
            checkpoint: dict[str, Any] = torch.load(best, map_location="cpu", weights_only=True)
            module.load_state_dict(checkpoint["state_dict"])
            module.held_out, step = checkpoint.get("held_out", {}), checkpoint["global_step"]
        # Modules that train no predictor, such as the embedded reasoner, hold nothing out.
        if hasattr(module, "forget_held_out") and module.held_out.get("step") != step:
            module.forget_held_out()
        folder = module.export(Path(trainer.default_root_dir))
        if (table := getattr(module, "scores", None)) is not None:
            console.print(table)
        console.print(f"wrote {folder}", highlight=False, soft_wrap=True)
        if hasattr(module, "next_command"):
            console.print(f"next:  {module.next_command(folder)}", highlight=False, soft_wrap=True)


def held_out_scores(table: Table) -> dict[str, Any]:
    """The table's title and rows as JSON: what a predictor's card says of it."""
    names = [str(column.header) for column in table.columns]
    columns = [list(column.cells) for column in table.columns]
    rows = [dict(zip(names, map(str, cells), strict=True)) for cells in zip(*columns, strict=True)]
    return {"title": str(table.title), "rows": rows}


def training_record(learned: Sequence[Rows], schema: CurveSchema, scores: Table | None) -> dict[str, Any]:
    """What a predictor's folder says of the rows it learned from (`CurvePredictor.training_record`)."""
    source = learned[0].source
    return {
        "served_model": schema.served_model,
        **{name: source[name] for name in ("grader", "answer") if name in source},
        "budgets": list(schema.budgets),
        "num_questions": sum(len(rows.texts) for rows in learned),
        **({} if scores is None else {"held_out": held_out_scores(scores)}),
    }


def answer_command(folder: Path, schema: CurveSchema) -> str:
    """What to do with a predictor that was just exported to `folder`."""
    model = "MODEL" if schema.served_model == "unknown" else schema.served_model
    budget = schema.budgets[(len(schema.budgets) - 1) // 2]
    unnamed = schema.backbone is None and any(name.startswith("layer_") for name in schema.features)
    reader = f"--backbone {model} " if unnamed else ""  # trained on ready states: whose, nobody said
    return (
        f"ps-eval answer --questions QUESTIONS.jsonl --model {model} --predictor {folder} {reader}"
        f"--budget {budget} --output answers.jsonl"
    )
