"""What `predict` writes: every row that was read once and in order, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from rich.console import Console

from ps_train.common.gathered_rows import GatheredRows
from ps_train.common.novelty import how_many_unlike


class PredictionWriter(BasePredictionWriter):
    """Gathers the rows of all processes, and has the first write them by the module's `write_predictions`."""

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Called by the trainer in every process."""
        gathered = GatheredRows().to(pl_module.device)
        for batch in predictions:
            values = batch["predictions"].to(pl_module.device)
            unlike = batch["unlike"].to(pl_module.device) if "unlike" in batch else values[:, :0]
            gathered.update(batch["rows"].to(pl_module.device), values, unlike)
        rows, values, unlike = gathered.compute()
        if not trainer.is_global_zero:
            return
        console = Console()
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            console.print("nothing written: a trial of one batch", highlight=False)
            return
        module: Any = pl_module
        module.unlike = unlike[:, 0] > 0 if unlike.shape[1] else None
        known = module.rows.get("predict")
        ids = None if known is None else [known.ids[row] for row in rows]
        written: list[Path] = module.write_predictions(
            Path(trainer.default_root_dir), torch.from_numpy(values), ids
        )
        for path in written:
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)
        if trainer.ckpt_path is None:  # a checkpoint does not know
            console.print(how_many_unlike(module.unlike), highlight=False, soft_wrap=True)
