"""What a question's length alone tells: the baseline that any predictor which reads it must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ps_train.curve_table import CurveTable


def length_curves(train: CurveTable, questions: Sequence[str], num_bins: int = 10) -> npt.NDArray[np.float64]:
    """The training questions' mean curve in each tenth by number of words.

    Args:
        train: Training questions and curves of W budgets.
        questions: N questions to predict for.
        num_bins: Groups of training questions.

    Returns:
        (N, W).
    """
    return means_by_length(train.questions, train.curves, questions, num_bins)


def length_use(train: CurveTable, questions: Sequence[str], num_bins: int = 10) -> npt.NDArray[np.float64]:
    """Likewise the tokens that training questions of like length really use, (N, W)."""
    return means_by_length(train.questions, train.expected_use, questions, num_bins)


def means_by_length(
    known_questions: Sequence[str],
    values: npt.NDArray[np.floating],
    questions: Sequence[str],
    num_bins: int = 10,
) -> npt.NDArray[np.float64]:
    """Mean `values` (M, K) of M known questions in each tenth by number of words, for N questions: (N, K)."""
    known, new = (np.array([len(q.split()) for q in texts]) for texts in (known_questions, questions))
    edges = np.unique(np.quantile(known, np.linspace(0, 1, num_bins + 1)[1:-1]))
    known_bins, new_bins = np.searchsorted(edges, known, "right"), np.searchsorted(edges, new, "right")
    overall = values.mean(axis=0)
    means = [
        values[known_bins == b].mean(axis=0) if (known_bins == b).any() else overall
        for b in range(len(edges) + 1)
    ]
    return np.array(means, dtype=np.float64)[new_bins]
