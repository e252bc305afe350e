"""Whether finished answers are right, by the question's text, as far as feedback on some of them tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_train.light.inputs import count_columns
from ps_train.light.ridge import fit_ridge
from ps_train.light.text_curves import TextScores
from ps_train.light.training_inputs import TrainingInputs

Float = npt.NDArray[np.float64]

FEWEST = 100
"""Graded questions below which texts are not asked."""
CERTAIN = 2.0
"""Standard errors by which texts must do better than the mean, on questions left out."""


@dataclass(frozen=True)
class Rightness:
    """P(right | finished) of a question's text; of any text the same where texts tell nothing."""

    mean: float
    scores: TextScores | None = None
    """Of texts, where they tell it."""

    @property
    def by_text(self) -> bool:
        """Whether it differs from text to text."""
        return self.scores is not None

    def __call__(self, questions: Sequence[str]) -> Float:
        """(N,) probabilities."""
        if self.scores is None or not len(questions):
            return np.full(len(questions), self.mean)
        scores, _ = self.scores(self.scores.hasher(questions), count_columns(questions))
        return np.clip(scores[:, 0], 0.0, 1.0)


def fit_rightness(
    questions: Sequence[str], correct: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, seed: int = 0
) -> Rightness:
    """Learn it of N questions whose finished answers were graded.

    Texts are used where, on questions left out, they do better than the mean beyond chance.

    Args:
        questions: N texts.
        correct: (N,) share of their finished answers that are right.
        weights: (N,) how many answers were graded, for the mean; by default one each.
        seed: Of the rows held out where there are many.
    """
    shares = np.asarray(correct, np.float64)
    mean = float(np.average(shares, weights=None if weights is None else np.asarray(weights, np.float64)))
    if len(questions) < FEWEST or np.ptp(shares) == 0 or not any(text.strip() for text in questions):
        return Rightness(mean)
    read = TrainingInputs.of(questions)
    ridge, rows, left_out, _ = fit_ridge(read.text, read.blocks, shares[:, None], seed=seed)
    gained = (shares[rows] - shares.mean()) ** 2 - (shares[rows] - np.clip(left_out[:, 0], 0, 1)) ** 2
    if gained.mean() <= CERTAIN * gained.std() / np.sqrt(len(gained)):
        return Rightness(mean)
    return Rightness(mean, read.scores(ridge))
