"""Difficulty classes from accuracy curves: 0 easy, 1 medium, 2 hard, as the paper's authors number them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EASY, MEDIUM, HARD = 0, 1, 2
CLASS_NAMES = ("easy", "medium", "hard")
NUM_CLASSES = len(CLASS_NAMES)


@dataclass(frozen=True)
class DifficultyThresholds:
    """What separates the classes: accuracies at the end of a curve.

    Found on training questions and kept with the predictor: test questions are never asked for theirs.
    """

    hard: float
    """At most this accurate: hard."""
    easy: float
    """At least this accurate: easy. What lies between is medium."""

    def __post_init__(self) -> None:
        if not 0 <= self.hard < self.easy <= 1:
            raise ValueError(
                f"difficulty thresholds must ascend within [0, 1], got hard {self.hard} and easy {self.easy}"
            )

    @classmethod
    def fit(
        cls, curves: npt.ArrayLike, percentiles: tuple[float, float] = (20.0, 80.0)
    ) -> DifficultyThresholds:
        """Thresholds at percentiles of the final accuracy of training curves (N, W).

        Raises:
            ValueError: If the percentiles do not ascend within (0, 100), or the accuracies there are equal.
        """
        low, high = percentiles
        if not 0 < low < high < 100:
            raise ValueError(f"percentiles must ascend within (0, 100), got {low} and {high}")
        hard, easy = np.percentile(np.asarray(curves, np.float64)[:, -1], [low, high])
        # Curves are float32: without this, 0.84 measured would miss a threshold of 0.84.
        return cls(float(np.float32(hard)), float(np.float32(easy)))

    def labels(self, curves: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Classes (N,) of curves (N, W), by their last point."""
        final = np.asarray(curves, np.float32)[:, -1]
        return np.where(
            final >= np.float32(self.easy), EASY, np.where(final <= np.float32(self.hard), HARD, MEDIUM)
        )
