"""What a question's length alone tells: the baseline that any predictor which reads it must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ps_train.curve_table import CurveTable
from ps_train.question_length import means_by_length


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
