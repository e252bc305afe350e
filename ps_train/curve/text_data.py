"""The questions of curve tables as token batches, with their curves and, where asked for, given labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ps_train.common.rows import Rows
from ps_train.common.text_data import TextDataModule
from ps_train.curve.table_targets import checked_weights, has_curves, labels_of, schema_of
from ps_train.curve.use import use_targets
from ps_train.curve_table import CurveTable
from ps_train.questions import load_questions


class CurveTextDataModule(TextDataModule):
    """Reads curve tables (docs/formats.md), for `predict` question sets (`.jsonl`) as well.

    Batches hold `curves` (B, W) and `weights` (B,) float32 and, with `label_column`, `labels` (B,) int64.

    Args:
        backbone: See `TextDataModule`, as all settings that are not named here.
        label_column: A whole-number column of the tables with each question's difficulty class, instead of
            classes made from the curves.
        **settings: Settings of `TextDataModule`.
    """

    def __init__(self, backbone: str | None = None, label_column: str | None = None, **settings: Any) -> None:
        super().__init__(backbone, **settings)
        self.label_column = label_column

    def read(self, name: str, path: str) -> Rows:
        """Questions, curves and labels of a table; of a question set the questions.

        Raises:
            ValueError: If the table is damaged, or lacks the label column.
        """
        if name == "predict" and not has_curves(path):
            questions = load_questions(Path(path), need_answers=False)
            schema = schema_of(None, {}, {"backbone": self.backbone})
            return Rows([q.id for q in questions], [q.question for q in questions], schema=schema)
        table = CurveTable.load(path, features=[])
        schema = schema_of(table, {}, {"backbone": self.backbone})
        if name == "predict":
            return Rows(table.ids, table.questions, schema=schema)
        targets: dict[str, Any] = {"curves": table.curves, "weights": checked_weights(table, path)}
        targets |= use_targets(table) | labels_of(table, self.label_column, path)
        return Rows(table.ids, table.questions, targets, schema, source=table.metadata)
