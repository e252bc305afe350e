"""Training questions as the ridge reads them, and what was learned of their words on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from ps_train.light.hashing import HashedText, TextHasher
from ps_train.light.inputs import (
    Numbers,
    Scaling,
    check_questions,
    count_columns,
    document_frequencies,
    number_columns,
    surprise,
    weigh,
)

WORDS_ONLY = 50_000
"""From so many questions on only words are hashed: letters cost five times the memory for little."""


@dataclass(frozen=True)
class TrainingInputs:
    """N questions."""

    hasher: TextHasher
    rarity: npt.NDArray[np.float32]
    """(D,) of each n-gram."""
    text: csr_array
    """(N, D) weighted n-grams."""
    blocks: list[npt.NDArray[np.float64]]
    """(N, C_b) scaled counts, and numbers where there are any."""
    scalings: list[Scaling]
    """One a block."""
    hashed: HashedText
    """The n-grams before they were weighted."""

    def surprise(self) -> npt.NDArray[np.float64]:
        """(N, 2) how rare each text's words and letters are among the others: `inputs.surprise`."""
        return surprise(self.hashed, self.rarity[self.hashed.columns], self.hasher, seen=1)

    @classmethod
    def of(
        cls, questions: Sequence[str], numbers: Numbers | None = None, hasher: TextHasher | None = None
    ) -> TrainingInputs:
        """Read questions and further columns; without a hasher, with one that suits N.

        Raises:
            ValueError: If a column does not fit.
        """
        check_questions(questions)
        if hasher is None:
            hasher = TextHasher() if len(questions) < WORDS_ONLY else TextHasher(bits=20, letters=(0, 0))
        hashed = hasher(questions)
        rarity = document_frequencies(hashed, hasher.bits)
        values = weigh(hashed, rarity[hashed.columns], hasher)
        text = csr_array((values, hashed.columns, hashed.starts), (len(questions), 1 << hasher.bits))
        blocks, scalings = [], []
        named = number_columns(numbers, list(numbers or {}), len(questions))
        for columns in (count_columns(questions), named):
            if columns.shape[1]:
                scalings.append(Scaling.fit(columns))
                blocks.append(scalings[-1].apply(columns))
        return cls(hasher, rarity, text, blocks, scalings, hashed)
