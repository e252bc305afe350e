"""Difficulty-based allocation: class labels or probabilities, and how accuracy grows in each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ps_alloc._checks import check_curves, check_values, numbers, shown, whole
from ps_alloc.allocate import allocate
from ps_alloc.allocation import Allocation
from ps_alloc.files import read_json

FloatArray = npt.NDArray[np.float64]
ROW_SUM_TOLERANCE = 1e-3


class DifficultyPredictions(NamedTuple):
    """What `predictions.json` holds."""

    class_curves: FloatArray
    """(C, W) mean accuracy curve of each class."""
    labels: npt.NDArray[np.int64] | None
    """(N,) predicted classes."""
    probabilities: FloatArray | None
    """(N, C), where known."""
    ids: list[str] | None
    """(N,), where known."""


def fit_class_curves(
    curves: npt.ArrayLike, labels: npt.ArrayLike, n_classes: int | None = None
) -> FloatArray:
    """Mean accuracy curve of each difficulty class, from training questions.

    Args:
        curves: (N, W) measured curves.
        labels: (N,) whole numbers, 0 to C - 1.
        n_classes: C; by default the largest label plus one.

    Returns:
        (C, W) float64.

    Raises:
        ValueError: If shapes do not fit, a label is out of range, or a class has no question.
    """
    checked = check_curves(curves)
    check_values(checked)
    classes = _check_labels(labels, None if n_classes is None else whole("n_classes", n_classes, at_least=1))
    if classes.size != len(checked):
        raise ValueError(f"labels must be one a curve ({len(checked)}), got {classes.size}")
    counts = np.bincount(classes, minlength=n_classes or 0)
    if (counts == 0).any():
        raise ValueError(f"every class must have a question, got none for class {np.argmin(counts)}")
    sums = np.zeros((counts.size, checked.shape[1]))
    np.add.at(sums, classes, checked)
    return sums / counts[:, None]


def allocate_by_difficulty(
    class_curves: npt.ArrayLike,
    total_tokens: int,
    *,
    labels: npt.ArrayLike | None = None,
    probabilities: npt.ArrayLike | None = None,
    **settings: Any,
) -> Allocation:
    """Spend a budget by predicted difficulty: the second predictor of *Predictive Scheduling* (arXiv
    2602.01237).

    With labels, a query's curve is its class's; with probabilities, the mixture of the class curves, which is
    what a calibrated classifier expects of it. The hull then does the rest: queries of one class may still
    get different budgets, where the class curve is not concave.

    Args:
        class_curves: (C, W) mean accuracy curve of each class: see `fit_class_curves`.
        total_tokens: Reasoning tokens for the whole batch.
        labels: (N,) whole numbers, 0 to C - 1. Not used where `probabilities` are given.
        probabilities: (N, C), rows summing to 1.
        **settings: Keyword arguments of `allocate`.

    Raises:
        ValueError: If neither labels nor probabilities are given, if they are out of range or shape, or as
            `allocate`.
    """
    curves = difficulty_curves(class_curves, labels=labels, probabilities=probabilities)
    return allocate(curves, total_tokens, **settings)


def difficulty_curves(
    class_curves: npt.ArrayLike,
    *,
    labels: npt.ArrayLike | None = None,
    probabilities: npt.ArrayLike | None = None,
) -> FloatArray:
    """The curve that a difficulty prediction expects of each query; see `allocate_by_difficulty`.

    Returns:
        (N, W) float64.

    Raises:
        ValueError: If neither labels nor probabilities are given, or one is out of range or shape.
    """
    by_class = check_curves(class_curves, "class_curves").astype(np.float64)
    check_values(by_class, "class_curves")
    if probabilities is not None:
        shares = numbers("probabilities", probabilities).astype(np.float64)
        if shares.ndim != 2 or len(shares) == 0 or shares.shape[1] != len(by_class):
            raise ValueError(
                f"probabilities must be an array of shape (N, {len(by_class)}), one column a class, "
                f"got shape {shares.shape}"
            )
        sums = shares.sum(axis=1)
        bad = np.flatnonzero(~((shares >= 0).all(axis=1) & (np.abs(sums - 1) <= ROW_SUM_TOLERANCE)))
        if bad.size:
            raise ValueError(
                f"probabilities must not be negative and must sum to 1 in each row, got {shares[bad[0]]} "
                f"in row {bad[0]}"
            )
        return np.clip(shares / sums[:, None] @ by_class, 0.0, 1.0)
    if labels is None:
        raise ValueError("labels or probabilities must be given, got neither")
    return by_class[_check_labels(labels, len(by_class))]


def load_difficulty_predictions(path: str | Path) -> DifficultyPredictions:
    """Read `predictions.json`: `class_curves`, and `labels` or `probabilities` or both, `ids` where known.

    Raises:
        ValueError: If the file is missing, is not JSON, lacks a field, or its lists do not fit.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "class_curves" not in content:
        raise ValueError(f"{path} must be a JSON object with 'class_curves', (C, W) accuracies")
    if content.get("labels") is None and content.get("probabilities") is None:
        raise ValueError(f"{path} must hold 'labels' or 'probabilities', got the fields {sorted(content)}")
    fields: dict[str, Any] = {}
    for name in ("class_curves", "probabilities", "labels"):
        try:
            fields[name] = None if content.get(name) is None else np.array(content[name])
        except ValueError:
            raise ValueError(f"{path}: {name} must have rows of one length") from None
    ids = content.get("ids")
    for name in ("labels", "probabilities"):
        values = fields[name]
        if values is not None and values.ndim == 0:
            raise ValueError(f"{path}: {name} must be a list, got {content[name]!r}")
        if values is not None and ids is not None and (not isinstance(ids, list) or len(ids) != len(values)):
            raise ValueError(
                f"{path}: ids must be a list as long as {name} ({len(values)}), got {shown(ids)}"
            )
    return DifficultyPredictions(**fields, ids=ids)


def _check_labels(labels: npt.ArrayLike, n_classes: int | None) -> npt.NDArray[np.int64]:
    array = numbers("labels", labels)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers of shape (N,), got {array.dtype} {array.shape}")
    high = np.inf if n_classes is None else n_classes - 1
    bad = np.flatnonzero((array < 0) | (array > high))
    if bad.size:
        raise ValueError(f"labels must lie in [0, {high}], got {array[bad[0]]} in row {bad[0]}")
    return array.astype(np.int64)
