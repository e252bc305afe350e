"""The questions of curve tables as token batches, with their curves and, where asked for, given labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ps_train.common.text_data import TextDataModule, TextRows
from ps_train.curve_table import CurveTable
from ps_train.predictor import CurveSchema
from ps_train.questions import load_questions


class CurveTextDataModule(TextDataModule):
    """Reads curve tables (docs/formats.md), for `predict` question sets (`.jsonl`) as well.

    Batches hold `curves` (B, W) and `n_traces` (B,) float32 and, with `label_column`, `labels` (B,) int64.

    Args:
        backbone: See `TextDataModule`, as all settings that are not named here.
        label_column: A whole-number column of the tables with each question's difficulty class, instead of
            classes made from the curves.
        **settings: Settings of `TextDataModule`.
    """

    def __init__(self, backbone: str, label_column: str | None = None, **settings: Any) -> None:
        super().__init__(backbone, **settings)
        self.label_column = label_column
        self.tables: dict[str, CurveTable] = {}
        """The tables read so far, before validation rows are split off."""

    def read(self, name: str, path: str) -> TextRows:
        """Questions, curves and labels of a table; of a question set the questions.

        Raises:
            ValueError: If the table is damaged, or lacks the label column.
        """
        if path.endswith(".jsonl") and name == "predict":
            questions = load_questions(Path(path))
            return TextRows([q.id for q in questions], [q.question for q in questions])
        table = self.tables[name] = CurveTable.load(path, features=[])
        targets: dict[str, Any] = {"curves": table.curves, "n_traces": table.n_traces.astype(np.float32)}
        if self.label_column is not None:
            labels = table.extra.get(self.label_column)
            if labels is None or labels.dtype.kind not in "iu":
                raise ValueError(
                    f"label_column must name a whole-number column of {path}, got {self.label_column!r}, "
                    f"but it has {sorted(table.extra)}"
                )
            targets["labels"] = labels.astype(np.int64)
        return TextRows(table.ids, table.questions, targets)

    def schema(self) -> CurveSchema:
        """What a predictor of the training table's curves predicts, and which model reads its questions."""
        table = self.tables["train"]
        return CurveSchema(
            features={},
            num_windows=table.num_windows,
            window=table.equal_window,
            backbone=self.backbone,
            served_model=table.metadata.get("model", "unknown"),
        )
