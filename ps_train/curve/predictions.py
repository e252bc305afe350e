"""Predicted curves on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ps_alloc import Predictions
from ps_alloc.files import atomic_path
from ps_train.common.rows import Rows
from ps_train.schema import CurveSchema

Curves = npt.NDArray[np.float32]


def as_curves(held_out: Mapping[str, Tensor]) -> tuple[Curves, Curves] | None:
    """`predicted` and `measured` of a module's held-out rows as arrays; None where there are none."""
    if not held_out:
        return None
    return held_out["predicted"].numpy(), held_out["measured"].numpy()


def write_curves(
    folder: Path, curves: npt.NDArray[np.float32], schema: CurveSchema, rows: Mapping[str, Rows]
) -> list[Path]:
    """Write `predictions.npz`, with budgets and ids, and the bare curves as `predictions.npy`.

    Args:
        folder: Where to.
        curves: (N, W) predicted.
        schema: The predictor's.
        rows: What was attached to its module: the ids of `predict`, where known.

    Returns:
        The files.
    """
    ids = list(rows["predict"].ids) if "predict" in rows else None
    whole, bare = folder / "predictions.npz", folder / "predictions.npy"
    Predictions(curves, schema.grid, ids=ids).save(whole)
    with atomic_path(bare) as path:
        np.save(path, curves)
    return [whole, bare]
