"""How far a question lies from those that a predictor learned from, in what the predictor sees of it.

The distance is Mahalanobis's under a probabilistic principal component analysis (Tipping & Bishop 1999): R
axes with variances of their own, one variance for all that lies beside them. Of the known ways to tell
strange inputs from a network's states (Lee et al. 2018) it needs no labels and keeps R vectors instead of all
training rows; docs/predictors.md has what it finds, and what the distance to neighbours finds.

The limit is a quantile of the distances of training questions, each from a fit that left it out: of questions
like them the chosen share lies beyond, whatever the features' distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ps_alloc.files import atomic_path

NOVELTY_FILE = "novelty.safetensors"
"""In a predictor's folder; it may be missing, as in folders written before."""
UNLIKE_SHARE = 0.01
"""Share of questions like the training questions that count as unlike them."""
MOST_AXES = 128
ROWS_AN_AXIS = 5
"""Rows that an axis takes at least: with fewer, its variance is a guess."""
MOST_ROWS = 4096
"""Rows learned from at most."""
FOLDS = 5
LEAST_ROWS = 2 * FOLDS

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Novelty:
    """A distance from the training questions, and the one beyond which a question is unlike them."""

    centre: Float
    """(D,)."""
    scale: Float
    """(D,). Infinite where a column was constant: nothing is known of it."""
    axes: Float
    """(R, D)."""
    variances: Float
    """(R,)."""
    rest: float
    """The variance in every direction beside the axes."""
    limit: float
    """Squared distance beyond which a question is unlike them."""

    @classmethod
    def fit(cls, columns: npt.ArrayLike, *, seed: int = 0) -> Novelty:
        """Learn from N questions.

        Args:
            columns: (N, D), what the predictor sees of each.
            seed: Which rows are taken where there are more than `MOST_ROWS`, and the folds.

        Raises:
            ValueError: If there are fewer than `LEAST_ROWS` rows, or one is not finite.
        """
        rows = np.asarray(columns)
        if rows.ndim != 2 or len(rows) < LEAST_ROWS:
            raise ValueError(f"columns must have at least {LEAST_ROWS} rows, got shape {rows.shape}")
        rng = np.random.default_rng(seed)
        rows = rows[rng.permutation(len(rows))[:MOST_ROWS]].astype(np.float64)
        if not np.isfinite(rows).all():
            raise ValueError("columns must be finite, got NaN or infinity")
        folds = np.arange(len(rows)) % FOLDS
        left_out = np.concatenate(
            [_fitted(rows[folds != fold], rng).distances(rows[folds == fold]) for fold in range(FOLDS)]
        )
        # As a conformal quantile: with few rows, the largest distance seen.
        place = min(len(rows), int(np.ceil((1 - UNLIKE_SHARE) * (len(rows) + 1))))
        whole = _fitted(rows, rng)
        return replace(whole, limit=float(np.sort(left_out)[place - 1]))

    def distances(self, columns: npt.ArrayLike) -> Float:
        """(N,) squared distances of (N, D) columns.

        Raises:
            ValueError: If the number of columns is another.
        """
        rows = np.asarray(columns, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.centre.size:
            raise ValueError(f"columns must be of shape (N, {self.centre.size}), got {rows.shape}")
        scaled = (rows - self.centre) / self.scale
        along = scaled @ self.axes.T
        beside = np.maximum(np.einsum("nd,nd->n", scaled, scaled) - np.einsum("nr,nr->n", along, along), 0.0)
        found: Float = (along * along / self.variances).sum(axis=1) + beside / self.rest
        return found

    def unlike(self, columns: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """(N,) whether each question lies beyond the limit."""
        beyond: npt.NDArray[np.bool_] = self.distances(columns) > self.limit
        return beyond

    def save(self, folder: str | Path) -> None:
        """Write `novelty.safetensors` into a predictor's folder, atomically."""
        # Axes are many, and single precision is what features have.
        arrays = {
            field.name: np.atleast_1d(getattr(self, field.name)).astype(
                np.float32 if field.name == "axes" else np.float64
            )
            for field in fields(self)
        }
        with atomic_path(Path(folder) / NOVELTY_FILE) as temporary:
            save_file(arrays, temporary)

    @classmethod
    def load(cls, folder: str | Path) -> Novelty | None:
        """Read what `save` wrote; None where a folder has none.

        Raises:
            ValueError: If the file is damaged.
        """
        path = Path(folder) / NOVELTY_FILE
        if not path.is_file():
            return None
        try:
            arrays: dict[str, Any] = {k: v.astype(np.float64) for k, v in load_file(path).items()}
            read = cls(**{**arrays, "rest": float(arrays["rest"][0]), "limit": float(arrays["limit"][0])})
            sizes = read.axes.shape, read.variances.shape, read.scale.shape
            if sizes != ((read.variances.size, read.centre.size), (len(read.axes),), read.centre.shape):
                raise ValueError(f"its shapes do not fit: {sizes}")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must hold what a predictor knows of novelty, but {error}") from error
        return read


def how_many_unlike(unlike: npt.NDArray[np.bool_] | None) -> str:
    """One sentence on which of the questions that a predictor was asked about, (N,), are unlike its own."""
    if unlike is None:
        return (
            "Whether the questions are like those the predictor learned from is not known: its folder has no "
            f"{NOVELTY_FILE} (ps-train novelty adds one)."
        )
    return (
        f"{int(unlike.sum())} of {unlike.size} questions ({unlike.mean():.0%}) are unlike those the "
        f"predictor learned from; by chance it would be {UNLIKE_SHARE:.0%}."
    )


def _fitted(rows: Float, rng: np.random.Generator) -> Novelty:
    """Axes, variances and the rest of (N, D) rows; no limit yet."""
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    varies = spread > 1e-6 * np.maximum(np.abs(centre), 1e-6)
    scale = np.where(varies, spread, np.inf)
    scaled = (rows - centre) / scale
    num_axes = max(1, min(MOST_AXES, len(rows) // ROWS_AN_AXIS, int(varies.sum())))
    axes = _principal(scaled, num_axes, rng)
    variances = np.maximum(((scaled @ axes.T) ** 2).mean(axis=0), 1e-9)
    beside = max(0, int(varies.sum()) - num_axes)
    rest = (varies.sum() - variances.sum()) / beside if beside else 1.0
    return Novelty(centre, scale, axes, variances, max(float(rest), 1e-9), np.inf)


def _principal(rows: Float, number: int, rng: np.random.Generator) -> Float:
    """(R, D) leading right singular vectors, by random projection and power iteration (Halko et al. 2011)."""
    width = min(number + 16, *rows.shape)
    basis = rng.standard_normal((rows.shape[1], width))
    for _ in range(4):
        left, _ = np.linalg.qr(rows @ basis)
        basis, _ = np.linalg.qr(rows.T @ left)
    _, _, found = np.linalg.svd(rows @ basis, full_matrices=False)
    axes: Float = (found @ basis.T)[:number]
    return axes
