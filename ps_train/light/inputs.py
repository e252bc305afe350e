"""What the light predictor sees of a question: weighted n-grams, counts of the text, and named numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ps_train.common.text_features import text_features
from ps_train.light.hashing import HashedText, TextHasher

Float = npt.NDArray[np.float64]
Numbers = Mapping[str, npt.ArrayLike]
"""Name of a column to its N values, such as the tokens a smaller model took; NaN where it is not known."""


def check_questions(questions: Sequence[str]) -> Sequence[str]:
    """Refuse anything but a list of texts.

    Raises:
        ValueError: If `questions` is one text or holds something else than texts.
    """
    if isinstance(questions, (str, Mapping)) or not all(isinstance(text, str) for text in questions):
        raise ValueError(f"questions must be a list of texts, got {type(questions).__name__}")
    return questions


def number_columns(numbers: Numbers | None, names: Sequence[str], n_questions: int) -> Float:
    """(N, names): each column's logarithm, its sign kept; NaN where unknown.

    Raises:
        ValueError: If a column is missing or has not one number a question.
    """
    found = dict(numbers or {})
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"numbers must hold the columns {list(names)} of the predictor, but lack {missing}")
    columns = np.empty((n_questions, len(names)))
    for place, name in enumerate(names):
        try:
            values = np.asarray(found[name], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"numbers[{name!r}] must be numbers, but {error}") from error
        if values.shape != (n_questions,) or np.isinf(values).any():
            raise ValueError(
                f"numbers[{name!r}] must be one finite number a question ({n_questions}), "
                f"got shape {values.shape}"
            )
        columns[:, place] = np.sign(values) * np.log1p(np.abs(values))
    return columns


MAX_COUNTED = 8000
"""Letters of a text that are counted."""


@dataclass(frozen=True)
class Scaling:
    """Centres and scales of dense columns; an unknown value counts as the mean."""

    centre: Float
    """(C,)."""
    scale: Float
    """(C,). What the standard deviation is divided by as well: the columns of a block share one weight."""

    @classmethod
    def fit(cls, columns: Float) -> Scaling:
        """Those of (N, C) training columns; a column that is constant or unknown counts for nothing."""
        known = ~np.isnan(columns)
        number = np.maximum(known.sum(axis=0), 1)
        centre = np.where(known, columns, 0.0).sum(axis=0) / number
        spread = np.sqrt(np.where(known, columns - centre, 0.0).__pow__(2).sum(axis=0) / number)
        width = np.sqrt(max(columns.shape[1], 1))
        return cls(centre, np.where(spread > 1e-9, spread * width, np.inf))

    def apply(self, columns: Float) -> Float:
        """Centred and scaled; beyond four deviations nothing more is learned from a value."""
        limit = 4.0 / np.sqrt(max(columns.shape[1], 1))
        scaled = (columns - self.centre) / self.scale
        scaled[np.isnan(scaled)] = 0.0
        return np.minimum(np.maximum(scaled, -limit, out=scaled), limit, out=scaled)


def count_columns(questions: Sequence[str]) -> Float:
    """(N, NUM_TEXT_FEATURES) logarithms of the counts of each text, up to its letter `MAX_COUNTED`."""
    return np.log1p(text_features([text[:MAX_COUNTED] for text in questions]).astype(np.float64))


def document_frequencies(text: HashedText, bits: int) -> npt.NDArray[np.float32]:
    """(2**bits,) how rare each n-gram is: log((1 + N) / (1 + texts with it)) + 1, as in TF-IDF."""
    texts_with = np.bincount(text.columns, minlength=1 << bits)
    return (np.log((len(text.starts)) / (1.0 + texts_with)) + 1.0).astype(np.float32)


def surprise(text: HashedText, rarity: npt.NDArray[np.float32], hasher: TextHasher, seen: int = 0) -> Float:
    """(N, 2) how rare a text's words, and its letters, were among the training texts: the mean logarithm of
    1 / the share of texts with each n-gram, as an n-gram model of the training texts would be surprised.

    Args:
        text: N texts.
        rarity: (M,) of their n-grams.
        hasher: What hashed them.
        seen: 1 for training texts themselves: each is then left out of the counts.
    """
    values = rarity - 1.0
    if seen:  # of log((1 + N) / (1 + texts)) the texts less one
        log_n = np.log(len(text.starts))
        values = log_n - np.log(np.maximum(np.exp(log_n - values) - seen, 1.0))
    number = len(text.starts) - 1
    place = _places(text, hasher)
    sums, counts = np.bincount(place, values, 2 * number), np.bincount(place, minlength=2 * number)
    found: Float = (sums / np.maximum(counts, 1)).reshape(number, 2)
    return found


def weigh(text: HashedText, rarity: npt.NDArray[np.float32], hasher: TextHasher) -> npt.NDArray[np.float32]:
    """(M,) weights of n-grams of `rarity` (M,): (1 + log count) · rarity; a text's words, and likewise its
    letters, together have length √½.
    """
    values = (1.0 + np.log(text.counts)) * rarity
    place = _places(text, hasher)
    squares = np.bincount(place, values * values, minlength=2 * (len(text.starts) - 1))
    blocks = 2 if hasher.letters[1] else 1
    return (values / np.sqrt(blocks * squares)[place]).astype(np.float32)


def _places(text: HashedText, hasher: TextHasher) -> npt.NDArray[np.integer]:
    """(M,) twice the place of an n-gram's text, and one more where it is of words."""
    block = text.columns >> (hasher.bits - 1)
    if len(text.starts) == 2:
        return block
    return 2 * np.repeat(np.arange(len(text.starts) - 1), np.diff(text.starts)) + block
