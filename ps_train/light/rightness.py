"""Whether finished answers are right, by the question's text, as far as feedback on some of them tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_train.light.inputs import count_columns, weigh
from ps_train.light.ridge import Ridge, fit_ridge
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
    read: TrainingInputs | None = None
    """What was learned of words on the way."""
    ridge: Ridge | None = None

    @property
    def by_text(self) -> bool:
        """Whether it differs from text to text."""
        return self.ridge is not None

    def __call__(self, questions: Sequence[str]) -> Float:
        """(N,) probabilities."""
        if self.read is None or self.ridge is None:
            return np.full(len(questions), self.mean)
        hashed = self.read.hasher(questions)
        values = weigh(hashed, self.read.rarity[hashed.columns], self.read.hasher).astype(np.float64)
        row = np.repeat(np.arange(len(questions)), np.diff(hashed.starts))
        products = values * self.ridge.text[hashed.columns, 0]
        dense = self.read.scalings[0].apply(count_columns(questions)) @ self.ridge.dense[:, 0]
        text = np.bincount(row, products, minlength=len(questions))
        return np.clip(text + dense + self.ridge.intercept[0], 0.0, 1.0)


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
    return Rightness(mean, read, ridge)
