"""What a replay reads: predictions of a table's questions, training questions, the traces kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_alloc import Predictions
from ps_eval.measuring.trace_file import TRACES_FILE, read_traces
from ps_eval.measuring.traced_table import traced_table
from ps_train.curve_table import CurveTable
from ps_train.feature_file import feature_names
from ps_train.questions import Question


def predict_table(
    predictor: str | Path, table: str | Path, *, allow_code: bool = False
) -> tuple[Predictions, dict[str, npt.NDArray[np.float32]]]:
    """What a saved predictor says of a table's questions, and the (W,) means it learned from.

    It reads the table's own hidden states where those it needs are there, else the questions' text.

    Raises:
        ValueError: If the predictor is missing or damaged, or has another grid than the table.
    """
    # Imports torch, which a replay of ready predictions does not need.
    from ps_train import load_predictor
    from ps_train.common.features import TEXT
    from ps_train.common.text_features import text_features

    loaded = load_predictor(predictor, allow_code=allow_code)
    states = [name for name in loaded.schema.features if name != TEXT]
    ready = bool(states) and set(states) <= set(feature_names(table))
    questions = CurveTable.load(table, features=states if ready else [])
    loaded.check_grid(questions.budgets, str(table))
    if ready:
        features = {**questions.features, TEXT: text_features(questions.questions)}
        predictions = loaded.predict(features, ids=questions.ids)
    else:
        predictions = loaded.predict(questions.questions, ids=questions.ids)
    return predictions, means_of(loaded)


def means_of(predictor: Any) -> dict[str, Any]:
    """What a predictor's training questions were like: `mean_curve` (W,), and `mean_use` where known."""
    use = predictor.mean_use if predictor.schema.has_use else None
    return {"mean_curve": predictor.training_mean, **({} if use is None else {"mean_use": use})}


def means_of_table(table: CurveTable) -> dict[str, Any]:
    """The same, of a table of training questions."""
    use = {} if table.use is None else {"mean_use": table.use.mean(axis=0)}
    return {"mean_curve": table.curves.mean(axis=0), **use}


def split_traces(folder: str | Path, table: CurveTable) -> tuple[CurveTable, CurveTable] | None:
    """The table as either half of the traces kept beside it measures it; None where there are none.

    Traces are dealt in turns; with an odd number the first half has one more.

    Raises:
        ValueError: If the traces file is damaged.
    """
    path = Path(folder) / TRACES_FILE
    if not path.is_file():
        return None
    traced = {t.id: t for t in read_traces(path)}
    mine = [traced[i] for i in table.ids if i in traced]
    whole = len(mine) == len(table) and all(len(t.lengths) > 1 for t in mine)
    if not whole or any(len(row) != table.num_windows for t in mine for row in t.correct):
        return None
    questions = [Question(*row) for row in zip(table.ids, table.questions, table.answers, strict=True)]
    first, second = (
        traced_table(questions, [t.take(range(half, len(t.lengths), 2)) for t in mine], table.budgets)
        for half in (0, 1)
    )
    return first, second


def read_predictions(path: str, measured: CurveTable) -> Predictions:
    """Predictions from a file, where they are of the table's questions and budgets."""
    predictions = Predictions.load(path, budgets=measured.budgets)
    predictions.check_ids(measured.ids, path)
    if not np.array_equal(predictions.budgets, measured.budgets):
        raise ValueError(
            f"{path} must have the table's budgets, {measured.budgets.tolist()!s:.60}, "
            f"got {predictions.budgets.tolist()!s:.60}"
        )
    return predictions


def load_train(train_table: str, measured: CurveTable) -> CurveTable:
    """The table of training questions, where it has the replayed table's budgets."""
    train = CurveTable.load(train_table, features=[])
    if not np.array_equal(train.budgets, measured.budgets):
        raise ValueError(
            f"{train_table} must have the replayed table's budgets, {measured.budgets.tolist()!s:.60}, "
            f"got {train.budgets.tolist()!s:.60}"
        )
    return train
