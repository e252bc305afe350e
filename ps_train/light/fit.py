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
    numbers = dict(numbers or {})
    read = TrainingInputs.of(table.questions, numbers, hasher)
    curves = table.curves.astype(np.float64)
    use = None if table.use is None else table.use.astype(np.float64)
    ridge, rows, scores, choices = fit_ridge(
        read.text, read.blocks, summaries(curves, use, table.budgets), seed=seed
    )
    targets = curves if use is None else np.hstack([curves, use / table.budgets])
    curve_map = CurveMap.fit(scores, targets[rows])

    arrays: dict[str, npt.NDArray[Any]] = {
        "ngrams": np.column_stack([read.rarity, ridge.text]).astype(np.float32),
        "dense": ridge.dense,
        "intercept": ridge.intercept,
        "centre": np.concatenate([scaling.centre for scaling in read.scalings]),
        "scale": np.concatenate([scaling.scale for scaling in read.scalings]),
        "map_centre": curve_map.centre,
        "map_scale": curve_map.scale,
        "map_low": curve_map.low,
        "map_high": curve_map.high,
        "map": curve_map.coefficients,
        "mean_curve": curves.mean(axis=0).astype(np.float32),
        "mean_use": table.expected_use.mean(axis=0).astype(np.float32),
    }
    metadata = table.metadata
    schema = LightSchema(
        budgets=table.budgets.tolist(),
        numbers=list(numbers),
        served_model=metadata.get("model", "unknown"),
        rising=metadata.get("answer") == "strict" and float(metadata.get("guess", 0)) == 0,
        has_use=use is not None,
    )
    record = {
        "served_model": schema.served_model,
        "grader": metadata.get("grader", "unknown"),
        "answer": metadata.get("answer", "unknown"),
        "budgets": schema.budgets,
        "num_questions": len(table),
        "left_out": _quality(curve_map(scores), targets[rows], choices, len(table.budgets), use is not None),
    }
    novelty = Novelty.fit(read.surprise())
    return LightPredictor(schema, read.hasher, arrays, record, table.questions, novelty)


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
