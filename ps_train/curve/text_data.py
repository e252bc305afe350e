"""The questions of curve tables as token batches, with their curves and, where asked for, given labels."""

from __future__ import annotations

from typing import Any

from ps_train.common.rows import Rows
from ps_train.common.text_data import TextDataModule
from ps_train.curve.table_targets import questions_of, schema_of, targets_of


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
        table, ids, texts = questions_of(path, with_curves=name != "predict")
        schema = schema_of(table, {}, {"backbone": self.backbone})
        if table is None or name == "predict":
            return Rows(ids, texts, schema=schema)
        targets = targets_of(table, self.label_column, path)
        return Rows(ids, texts, targets, schema, source=table.metadata)
