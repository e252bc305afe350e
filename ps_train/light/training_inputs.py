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
from ps_train.light.ridge import Ridge
from ps_train.light.text_curves import TextScores

Float = npt.NDArray[np.float64]

WORDS_ONLY = 50_000
"""From so many questions on only words are hashed: letters cost five times the memory for little."""


@dataclass(frozen=True)
class TrainingInputs:
    """N questions."""

    hasher: TextHasher
    hashed: HashedText
    """Their n-grams."""
    columns: list[Float]
    """(N, C_b) counts, and numbers where there are any."""
    rarity: npt.NDArray[np.float32]
    """(D,) of each n-gram."""
    text: csr_array
    """(N, D) weighted n-grams."""
    scalings: list[Scaling]
    """Of `columns`."""
    blocks: list[Float]
    """`columns`, scaled."""

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
        columns = [count_columns(questions)]
        if numbers:
            columns.append(number_columns(numbers, list(numbers), len(questions)))
        return cls._learn(hasher, hasher(questions), columns)

    @classmethod
    def _learn(cls, hasher: TextHasher, hashed: HashedText, columns: list[Float]) -> TrainingInputs:
        rarity = document_frequencies(hashed, hasher.bits)
        values = weigh(hashed, rarity[hashed.columns], hasher)
        shape = (len(hashed.starts) - 1, 1 << hasher.bits)
        text = csr_array((values, hashed.columns, hashed.starts), shape)
        scalings = [Scaling.fit(block) for block in columns]
        blocks = [scaling.apply(block) for scaling, block in zip(scalings, columns, strict=True)]
        return cls(hasher, hashed, columns, rarity, text, scalings, blocks)

    def take(self, rows: npt.NDArray[np.bool_]) -> TrainingInputs:
        """Some of the questions, as if the others had not been read."""
        return self._learn(self.hasher, self.hashed.take(rows), [block[rows] for block in self.columns])

    def scores(self, ridge: Ridge) -> TextScores:
        """Those of any text, by a ridge that was fitted on these."""
        ngrams = np.column_stack([self.rarity, ridge.text])
        centre, scale = (
            np.concatenate([getattr(s, name) for s in self.scalings]) for name in ("centre", "scale")
        )
        return TextScores(self.hasher, ngrams, ridge.dense, ridge.intercept, Scaling(centre, scale))

    def surprise(self) -> Float:
        """(N, 2) how rare each text's words and letters are among the others: `inputs.surprise`."""
        return surprise(self.hashed, self.rarity[self.hashed.columns], self.hasher, seen=1)
