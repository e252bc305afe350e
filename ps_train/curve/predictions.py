"""Predicted curves on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ps_alloc import Predictions
from ps_alloc.files import atomic_path
from ps_train.predictor import CurvePredictor
from ps_train.schema import CurveSchema

Curves = npt.NDArray[np.float32]


def said_by(net: CurvePredictor, outputs: Tensor) -> Tensor:
    """What a predictor's outputs mean: curves (B, W), or curves and use side by side (B, 2W)."""
    use = net.use_of(outputs)
    curves: Tensor = net.curves_of(outputs)
    return curves if use is None else torch.cat([curves, use], dim=1)


def compared(net: CurvePredictor, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    """Predicted and measured: curves and, where both know it, use beside them."""
    said, measured = said_by(net, outputs), batch["curves"]
    if "use" in batch and said.shape[1] > measured.shape[1]:
        return said, torch.cat([measured, batch["use"]], dim=1)
    return said[:, : measured.shape[1]], measured


def as_curves(held_out: Mapping[str, Tensor], num_windows: int) -> tuple[Curves, Curves] | None:
    """`predicted` and `measured` curves of a module's held-out rows; None where there are none."""
    if not held_out:
        return None
    return tuple(held_out[name][:, :num_windows].numpy() for name in ("predicted", "measured"))  # type: ignore[return-value]


def write_curves(
    folder: Path,
    said: npt.NDArray[np.float32],
    schema: CurveSchema,
    ids: list[str] | None,
    unlike: npt.NDArray[np.bool_] | None = None,
) -> list[Path]:
    """Write `predictions.npz`, with budgets, ids and use where known, and bare curves as `predictions.npy`.

    Args:
        folder: Where to.
        said: (N, W) predicted curves, or (N, 2W) with use beside them.
        schema: The predictor's.
        ids: (N,), where known.
        unlike: (N,) which questions are unlike those it learned from, where known.

    Returns:
        The files.
    """
    whole, bare = folder / "predictions.npz", folder / "predictions.npy"
    curves, use = said[:, : schema.num_windows], said[:, schema.num_windows :] if schema.has_use else None
    Predictions(curves, schema.grid, use=use, ids=ids, unlike=unlike).save(whole)
    with atomic_path(bare) as path:
        np.save(path, curves)
    return [whole, bare]
