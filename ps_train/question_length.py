"""What a question's number of words alone tells: means of the training questions that are about as long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


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
