"""Budget data as training, validation, test and prediction batches."""

from __future__ import annotations

import sys
from typing import Any

import numpy.typing as npt

from ps_train.data.budgets import load_budgets
from ps_train.data.text_batches import QUESTION
from ps_train.data.text_data import TextDataModule, TextRows


class BudgetDataModule(TextDataModule):
    """Reads JSONL files of queries and the tokens each needs; see `TextDataModule` for the batches.

    Args:
        backbone: The language model whose tokenizer reads the queries, and which is trained on them: a
            folder, a `.gguf` file or a Hub id.
        train: Training budgets (`.jsonl`, docs/formats.md).
        val: Validation budgets; held out of the training budgets where it is not given. Predicted budgets
            are calibrated on them.
        test: Test budgets.
        predict: What `predict` reads: queries with or without budgets, or a question set. The test budgets
            where it is not given.
        window: Budgets are rounded up to multiples of as many tokens. The file's own window where it is not
            given, which is 1 where the file says nothing.
        skip_malformed: Leave malformed lines out, with a count on stderr, instead of refusing the file.
        template: What the language model reads; `{question}` stands for the query.
        max_length: Most tokens of a query; what is longer loses its end.
        val_fraction: Share of the training budgets held out for validation.
        fold: Which share it is, 0 … `1/val_fraction - 1`, of a shuffle that depends on `seed` alone.
        batch_size: Queries in one forward pass of training, over all processes.
        eval_batch_size: Likewise where nothing is trained.
        seed: Shuffles the queries and splits off the validation queries.

    Raises:
        ValueError: If a setting is out of range; all faults in one sentence.
    """

    def __init__(
        self,
        backbone: str,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        window: int | None = None,
        skip_malformed: bool = False,
        template: str = QUESTION,
        max_length: int = 512,
        val_fraction: float = 0.1,
        fold: int = 0,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(
            backbone=backbone,
            train=train,
            val=val,
            test=test,
            predict=predict,
            template=template,
            max_length=max_length,
            val_fraction=val_fraction,
            fold=fold,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )
        self._given_window, self.skip_malformed = window, skip_malformed
        self._windows: dict[str, int] = {}

    def window(self, name: str) -> int:
        """Tokens a window of the budgets in `rows[name]`."""
        return self._windows["train" if name == "val" and self.paths["val"] is None else name]

    def read(self, name: str, path: str) -> TextRows:
        """Queries with `budgets` (N,) int64 and, where the file has them, `curves` (N, W) float32."""
        labelled = name != "predict"
        data = load_budgets(path, skip_malformed=self.skip_malformed, labelled=labelled)
        if data.malformed and (self.trainer is None or self.trainer.is_global_zero):
            total = len(data) + len(data.malformed)
            sys.stderr.write(
                f"{path}: skipped {len(data.malformed)} of {total} lines as malformed; {data.malformed[0]}\n"
            )
        if not labelled:
            return TextRows(data.ids, data.queries)
        if self._given_window is not None:
            data = data.in_windows(self._given_window)
        self._windows[name] = data.window
        targets: dict[str, npt.NDArray[Any]] = {"budgets": data.budgets}
        if data.curves is not None:
            targets["curves"] = data.curves
        return TextRows(data.ids, data.queries, targets)
