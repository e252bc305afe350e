"""What the replay experiments share: the tables, and predictors that fit in a second."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ps_train.curve_table import CurveTable
from ps_train.feature_file import feature_names

FloatArray = npt.NDArray[np.float64]

RIDGE_PENALTY = 3000.0
"""For standardised hidden states of some thousand questions; smaller training sets do with the same."""


class Tables(NamedTuple):
    """A training and a test curve table with one feature tensor loaded."""

    train: CurveTable
    test: CurveTable
    layer: str
    """The feature's name."""


def load_tables(folder: str | Path, layer: str | None = None) -> Tables:
    """Read the curve tables `train` and `test` of a folder.

    Args:
        folder: Holds both.
        layer: The feature to load; by default the last one by name.

    Raises:
        ValueError: If a table is missing or damaged or holds no such feature, or the windows differ.
    """
    folder = Path(folder)
    stored = sorted(feature_names(folder / "train"), key=lambda name: (len(name), name))
    chosen = layer or (stored[-1] if stored else None)
    if chosen is None:
        raise ValueError(f"{folder / 'train'} must hold hidden states (features.safetensors), got none")
    train, test = (CurveTable.load(folder / split, features=[chosen]) for split in ("train", "test"))
    if not np.array_equal(train.budgets, test.budgets):
        raise ValueError(
            f"train and test must have the same windows, got {train.num_windows} of {train.window} tokens "
            f"and {test.num_windows} of {test.window}"
        )
    return Tables(train, test, chosen)


def ridge(
    inputs: npt.NDArray[np.floating], curves: npt.NDArray[np.floating], new_inputs: npt.NDArray[np.floating]
) -> FloatArray:
    """Curves predicted by ridge regression: standardised inputs (N, D), curves (N, W) → (M, W) in [0, 1].

    A closed form that is within a point of the trained ensemble at every budget (docs/replay.md): what
    experiments on the *data* fit, many times over.
    """
    x, y = inputs.astype(np.float64), curves.astype(np.float64)
    centre, spread, mean = x.mean(axis=0), x.std(axis=0) + 1e-6, y.mean(axis=0)
    z = (x - centre) / spread
    if len(z) < z.shape[1]:  # the dual form solves a system of the smaller side
        weights = z.T @ np.linalg.solve(z @ z.T + RIDGE_PENALTY * np.eye(len(z)), y - mean)
    else:
        weights = np.linalg.solve(z.T @ z + RIDGE_PENALTY * np.eye(z.shape[1]), z.T @ (y - mean))
    return np.asarray(np.clip((new_inputs - centre) / spread @ weights + mean, 0, 1))
