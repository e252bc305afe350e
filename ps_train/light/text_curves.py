"""Texts to scores, and scores to curves of accuracy and use, by numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ps_train.light.hashing import HashedText, TextHasher
from ps_train.light.inputs import Scaling, weigh
from ps_train.light.shape import CurveMap, possible_use, rising

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TextScores:
    """R scores of a text: linear in its weighted n-grams, its counts and named numbers."""

    hasher: TextHasher
    """How text becomes n-grams."""
    ngrams: Float32
    """(D, 1 + R). Rarity and weights of each."""
    dense: Float
    """(C, R)."""
    intercept: Float
    """(R,)."""
    scaling: Scaling
    """(C,) of counts and numbers."""

    def __call__(self, text: HashedText, columns: Float) -> tuple[Float, Float32]:
        """Scores (N, R) of N hashed texts with counts and numbers (N, C), and the rarity of their n-grams."""
        found = self.ngrams.take(text.columns, axis=0)
        rarity, weights = found[:, 0], found[:, 1:]
        values = weigh(text, rarity, self.hasher)
        if len(text.starts) == 2:
            read = (values @ weights)[None]
        else:
            row = np.repeat(np.arange(len(text.starts) - 1), np.diff(text.starts))
            sums = [np.bincount(row, column * values, len(text.starts) - 1) for column in weights.T]
            read = np.stack(sums, axis=1)
        return read + self.scaling.apply(columns) @ self.dense + self.intercept, rarity


@dataclass(frozen=True)
class TextCurves:
    """Texts to their curves on a grid."""

    scores: TextScores
    curve_map: CurveMap
    budgets: npt.NDArray[np.int64]
    """(W,)."""
    rising: bool
    """Whether accuracy never falls with the budget."""
    has_use: bool
    """Whether use was learned; else an answer is taken to use its budget."""

    def __call__(self, text: HashedText, columns: Float) -> tuple[Float, Float, Float32]:
        """Accuracy and use (N, W) of N hashed texts with counts and numbers (N, C), and rarity of n-grams."""
        scores, rarity = self.scores(text, columns)
        outputs = self.curve_map(scores)
        width = len(self.budgets)
        curves = rising(outputs[:, :width]) if self.rising else outputs[:, :width]
        curves = np.minimum(np.maximum(curves, 0.0), 1.0)
        shares = outputs[:, width:] if self.has_use else np.ones_like(curves)
        return curves, possible_use(self.budgets * shares, self.budgets), rarity

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What was learned, by name, as in `model.safetensors`."""
        scores, curves = self.scores, self.curve_map
        return {
            "ngrams": scores.ngrams,
            "dense": scores.dense,
            "intercept": scores.intercept,
            "centre": scores.scaling.centre,
            "scale": scores.scaling.scale,
            "map_centre": curves.centre,
            "map_scale": curves.scale,
            "map_low": curves.low,
            "map_high": curves.high,
            "map": curves.coefficients,
        }

    @classmethod
    def of_arrays(
        cls,
        hasher: TextHasher,
        arrays: Mapping[str, npt.NDArray[Any]],
        budgets: npt.NDArray[np.int64],
        *,
        rising: bool,
        has_use: bool,
    ) -> TextCurves:
        """The reverse of `arrays`."""
        scaling = Scaling(arrays["centre"], arrays["scale"])
        ngrams = np.ascontiguousarray(arrays["ngrams"])
        scores = TextScores(hasher, ngrams, arrays["dense"], arrays["intercept"], scaling)
        names = ("map_centre", "map_scale", "map_low", "map_high", "map")
        return cls(scores, CurveMap(*map(arrays.__getitem__, names)), budgets, rising, has_use)
