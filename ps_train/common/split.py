"""Which rows of a training set are held out for validation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def split_faults(val_fraction: float, fold: int) -> list[str]:
    """What is wrong with these settings of `validation_rows`: sentences, none where they fit."""
    if not 0 < val_fraction < 1:
        return [f"val_fraction must be between 0 and 1, got {val_fraction}"]
    folds = int(1 / val_fraction + 1e-9)
    if not 0 <= fold < folds:
        return [f"fold must be from 0 to {folds - 1}, got {fold}"]
    return []


def validation_rows(n: int, val_fraction: float, fold: int, seed: int) -> npt.NDArray[np.bool_]:
    """A mask of the rows held out; those of the folds of one seed are disjoint.

    Args:
        n: Rows.
        val_fraction: Share of them to hold out.
        fold: Which share it is, 0 … `1/val_fraction - 1`, of a shuffle that depends on `seed` alone.
        seed: Of the shuffle.

    Raises:
        ValueError: If no row would be left on one side.
    """
    order = np.random.default_rng(seed).permutation(n)
    size = int(n * val_fraction)
    if not 0 < size < n:
        raise ValueError(f"val_fraction must leave rows on both sides, got {val_fraction} of {n} rows")
    held_out = np.zeros(n, bool)
    held_out[order[fold * size : (fold + 1) * size]] = True
    return held_out
