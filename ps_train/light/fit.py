"""Fit a light predictor on a curve table, or on any questions with curves and use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_train.common.novelty import Novelty
from ps_train.curve_table import CurveTable
from ps_train.light.hashing import TextHasher
from ps_train.light.inputs import Numbers
from ps_train.light.predictor import LightPredictor, LightSchema
from ps_train.light.ridge import Choice, fit_ridge
from ps_train.light.shape import CurveMap, summaries
from ps_train.light.text_curves import TextCurves
from ps_train.light.training_inputs import TrainingInputs

MIN_QUESTIONS = 20


def fit_light(
    table: CurveTable,
    *,
    numbers: Numbers | None = None,
    hasher: TextHasher | None = None,
    seed: int = 0,
) -> LightPredictor:
    """Fit accuracy and, where it was measured, use on the table's questions.

    Args:
        table: N questions, W budgets.
        numbers: Further columns, N values each, to be given at prediction as well; NaN where not known.
        hasher: Which n-grams are read; by default what suits N.
        seed: Decides which rows choose the strength of the ridge where there are many.

    Raises:
        ValueError: If there are fewer than `MIN_QUESTIONS` questions or a column does not fit.
    """
    if len(table) < MIN_QUESTIONS:
        raise ValueError(f"a light predictor needs at least {MIN_QUESTIONS} questions, got {len(table)}")
    read = TrainingInputs.of(table.questions, numbers, hasher)
    fitted, quality = fit_curves(read, table, seed=seed)
    arrays: dict[str, npt.NDArray[Any]] = {
        **fitted.arrays(),
        "mean_curve": table.curves.mean(axis=0).astype(np.float32),
        "mean_use": table.expected_use.mean(axis=0).astype(np.float32),
    }
    metadata = table.metadata
    schema = LightSchema(
        budgets=table.budgets.tolist(),
        numbers=list(numbers or {}),
        served_model=metadata.get("model", "unknown"),
        rising=fitted.rising,
        has_use=fitted.has_use,
    )
    record = {
        "served_model": schema.served_model,
        "grader": metadata.get("grader", "unknown"),
        "answer": metadata.get("answer", "unknown"),
        "budgets": schema.budgets,
        "num_questions": len(table),
        "left_out": quality,
    }
    novelty = Novelty.fit(read.surprise())
    return LightPredictor(schema, read.hasher, arrays, record, table.questions, novelty)


def fit_curves(
    read: TrainingInputs, table: CurveTable, *, seed: int = 0
) -> tuple[TextCurves, dict[str, Any]]:
    """What `fit_light` learns of a table's questions, as they were read, and how well those left out fit."""
    curves = table.curves.astype(np.float64)
    use = None if table.use is None else table.use.astype(np.float64)
    targets = curves if use is None else np.hstack([curves, use / table.budgets])
    lengths = summaries(curves, use, table.budgets)
    ridge, rows, scores, choices = fit_ridge(read.text, read.blocks, lengths, seed=seed)
    curve_map = CurveMap.fit(scores, targets[rows])
    fitted = TextCurves(read.scores(ridge), curve_map, table.budgets, is_rising(table), use is not None)
    return fitted, _quality(curve_map(scores), targets[rows], choices, len(table.budgets), use is not None)


def is_rising(table: CurveTable) -> bool:
    """Whether a table's accuracy never falls: strict, and nothing for an unfinished answer."""
    return table.metadata.get("answer") == "strict" and float(table.metadata.get("guess", 0)) == 0


def _quality(
    predicted: npt.NDArray[np.float64],
    measured: npt.NDArray[np.float64],
    choices: Sequence[Choice],
    width: int,
    has_use: bool,
) -> dict[str, Any]:
    """How well left-out questions were predicted: correlation over questions, mean over budgets."""
    names = ("length" if has_use else "accuracy", "last_accuracy")
    result: dict[str, Any] = {
        "pearson_accuracy": _mean_pearson(predicted[:, :width], measured[:, :width]),
        "choices": {name: asdict(choice) for name, choice in zip(names, choices, strict=True)},
    }
    if has_use:
        result["pearson_use"] = _mean_pearson(predicted[:, width:], measured[:, width:])
    return result


def _mean_pearson(predicted: npt.NDArray[np.float64], measured: npt.NDArray[np.float64]) -> float:
    a, b = predicted - predicted.mean(axis=0), measured - measured.mean(axis=0)
    product = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    # A budget at which all questions are alike correlates with nothing.
    return float(
        np.divide((a * b).sum(axis=0), product, out=np.zeros_like(product), where=product > 1e-9).mean()
    )
