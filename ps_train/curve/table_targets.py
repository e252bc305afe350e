"""What a curve table gives to learn from, and the schema of what is learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ps_train.common.identity import model_identity
from ps_train.curve.use import use_targets
from ps_train.curve_table import CurveTable
from ps_train.questions import load_questions
from ps_train.schema import CurveSchema


def has_curves(path: str | Path) -> bool:
    """Whether a path is a curve table's folder, not a file of questions."""
    return Path(path).is_dir()


def questions_of(path: str, *, with_curves: bool) -> tuple[CurveTable | None, list[str], list[str]]:
    """A curve table, ids and questions; of a question set, where no curves are needed, ids and questions."""
    if with_curves or has_curves(path):
        table = CurveTable.load(path, features=[])
        return table, table.ids, table.questions
    questions = load_questions(Path(path), need_answers=False)
    return None, [q.id for q in questions], [q.question for q in questions]


def targets_of(
    table: CurveTable, label_column: str | None, path: str | Path
) -> dict[str, npt.NDArray[np.generic]]:
    """What is learned from a table: `curves`, `use` where it is known, `labels` where a column is named.

    `weights` (N,) are the traces behind each curve, in units of the table's mean.

    Raises:
        ValueError: If a row has no trace, or there is no such column of whole numbers.
    """
    least = int(table.n_traces.min(initial=1))
    if least < 1:
        row = int(table.n_traces.argmin())
        raise ValueError(f"n_traces in {path} must be at least 1, got {least} in row {row}")
    weights = (table.n_traces / table.n_traces.mean()).astype(np.float32)
    targets = {"curves": table.curves, "weights": weights, **use_targets(table)}
    if label_column is None:
        return targets
    labels = table.extra.get(label_column)
    if labels is None or labels.dtype.kind not in "iu":
        raise ValueError(
            f"label_column must name a whole-number column of {path}, got {label_column!r}, "
            f"but it has {sorted(table.extra)}"
        )
    return {**targets, "labels": labels.astype(np.int64)}


def schema_of(
    table: CurveTable | None,
    features: dict[str, int],
    models: Mapping[str, str | None],
    dtypes: Mapping[str, str] | None = None,
) -> CurveSchema:
    """What a predictor for a table, or for questions alone, reads and predicts."""
    identities = {
        name: identity
        for name, path in models.items()
        if path is not None and (identity := model_identity(path)) is not None
    }
    return CurveSchema(
        features=features,
        num_windows=0 if table is None else table.num_windows,
        backbone=models.get("backbone"),
        encoder=models.get("encoder"),
        served_model="unknown" if table is None else table.metadata.get("model", "unknown"),
        budgets=() if table is None else tuple(table.budgets.tolist()),
        has_use=table is not None and table.use is not None,
        identities=identities,
        dtypes=dict(dtypes or {}),
    )
