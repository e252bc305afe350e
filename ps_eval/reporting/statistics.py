"""Confidence intervals: the paired bootstrap over questions; Wilson's for a share of right answers.

Every policy answers the same questions, so one set of resampled questions serves all of them: what makes a
sample of questions easy or hard cancels in the difference between two policies.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

CHUNK_CELLS = 4_000_000
"""Resample counts held at once (questions × resamples); bounds memory to about 100 MB."""


@dataclass(frozen=True)
class Intervals:
    """Means and percentile intervals of P score rows; every array is (P,) float64."""

    means: npt.NDArray[np.float64]
    lows: npt.NDArray[np.float64]
    highs: npt.NDArray[np.float64]
    gains: npt.NDArray[np.float64]
    """Mean minus the mean of the row's reference."""
    gain_lows: npt.NDArray[np.float64]
    gain_highs: npt.NDArray[np.float64]


def paired_bootstrap(
    scores: npt.ArrayLike,
    references: npt.ArrayLike,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Intervals of each row's mean and of its difference to a reference row (Efron's percentile method).

    Args:
        scores: (P, N). Row p holds one policy's score on each question: 0 or 1 for graded answers, a
            probability for measured curves.
        references: (P,) integers. Row p's gain is its mean minus that of row `references[p]`; a row that is
            its own reference has gain 0.
        n_resamples: How many times the questions are drawn anew, with replacement.
        confidence: Share of the resampled means inside the interval.
        seed: Seed of the resampling; the same seed gives the same intervals.

    Raises:
        ValueError: If a shape or a value does not fit.
    """
    scores_PN = np.asarray(scores, dtype=np.float64)
    references_P = np.asarray(references)
    if scores_PN.ndim != 2 or scores_PN.size == 0:
        raise ValueError(
            f"scores must be an array (policies, questions) with both at least 1, got {scores_PN.shape}"
        )
    if not np.isfinite(scores_PN).all():
        row, question = np.argwhere(~np.isfinite(scores_PN))[0]
        raise ValueError(
            f"scores must be finite, got {scores_PN[row, question]} at row {row}, column {question}"
        )
    n_rows = len(scores_PN)
    if references_P.shape != (n_rows,) or not np.issubdtype(references_P.dtype, np.integer):
        raise ValueError(
            f"references must be {n_rows} row numbers, got {references_P.dtype} of shape {references_P.shape}"
        )
    if ((references_P < 0) | (references_P >= n_rows)).any():
        raise ValueError(f"references must lie in 0..{n_rows - 1}, got {references_P.tolist()}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")

    means_PB = resampled_means(scores_PN, n_resamples, np.random.default_rng(seed))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    lows, highs = np.quantile(means_PB, tails, axis=1)
    gain_lows, gain_highs = np.quantile(means_PB - means_PB[references_P], tails, axis=1)
    means = scores_PN.mean(axis=1)
    return Intervals(means, lows, highs, means - means[references_P], gain_lows, gain_highs)


def resampled_means(
    scores_PN: npt.NDArray[np.float64], n_resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Means of P score rows over questions drawn anew with replacement, (P, N) to (P, n_resamples).

    How often a resample holds each question, times the scores, is one matrix product.
    """
    n_rows, n_questions = scores_PN.shape
    means_PB = np.empty((n_rows, n_resamples))
    chunk = max(1, CHUNK_CELLS // n_questions)
    for start in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - start)
        drawn = rng.integers(0, n_questions, (size, n_questions))
        drawn += np.arange(size)[:, None] * n_questions
        counts_BN = np.bincount(drawn.ravel(), minlength=size * n_questions).reshape(size, n_questions)
        means_PB[:, start : start + size] = scores_PN @ counts_BN.T.astype(np.float64) / n_questions
    return means_PB


def wilson_interval(right: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share of right answers (E. B. Wilson 1927), which holds near 0 and 1 as well.

    Resampling 20 right answers out of 20 gives [100, 100]%; this gives [83.9, 100]%.

    Args:
        right: The share, in [0, 1].
        n: Answers.
        confidence: How often the interval should hold the true share.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (right + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(right * (1 - right) / n + z * z / (4 * n * n))
    # At the ends rounding must not leave a hair's breadth.
    return 0.0 if right <= 0 else centre - half, 1.0 if right >= 1 else centre + half
