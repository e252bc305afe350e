"""Budget data as training, validation, test and prediction batches."""

from __future__ import annotations

import sys
from typing import Any

import numpy.typing as npt

from ps_train.budget.budgets import load_budgets
from ps_train.common.rows import Rows
from ps_train.common.text_data import TextDataModule
from ps_train.curve.table_targets import schema_of


class BudgetDataModule(TextDataModule):
    """Reads JSONL files of queries and the tokens each needs; for `predict` queries without budgets as well.

    Batches hold `budgets` (B,) int64 and, where the file has them, `curves` (B, W) float32. Predicted budgets
    are calibrated on the validation queries.

    Args:
        backbone: See `TextDataModule`, as all settings that are not named here.
        window: Budgets are rounded up to multiples of as many tokens. The file's own window where it is not
            given, which is 1 where the file says nothing.
        skip_malformed: Leave malformed lines out, with a count on stderr, instead of refusing the file.
        **settings: Settings of `TextDataModule`.
    """

    def __init__(
        self,
        backbone: str | None = None,
        window: int | None = None,
        skip_malformed: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, **settings)
        self._given_window, self.skip_malformed = window, skip_malformed

    def read(self, name: str, path: str) -> Rows:
        """Queries with `budgets` (N,) int64 and, where the file has them, `curves` (N, W) float32."""
        labelled = name != "predict"
        data = load_budgets(path, skip_malformed=self.skip_malformed, labelled=labelled)
        if data.malformed and (self.trainer is None or self.trainer.is_global_zero):
            total = len(data) + len(data.malformed)
            sys.stderr.write(
                f"{path}: skipped {len(data.malformed)} of {total} lines as malformed; {data.malformed[0]}\n"
            )
        schema = schema_of(None, {}, {"backbone": self.backbone})
        if not labelled:
            return Rows(data.ids, data.queries, schema=schema)
        if self._given_window is not None:
            data = data.in_windows(self._given_window)
        targets: dict[str, npt.NDArray[Any]] = {"budgets": data.budgets}
        if data.curves is not None:
            targets["curves"] = data.curves
        return Rows(data.ids, data.queries, targets, schema, source={"window": str(data.window)})
