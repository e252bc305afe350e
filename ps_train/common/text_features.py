"""What a question's text alone says about its difficulty: counts that need no model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
WORD_GROUPS = (
    "twice half third quarter double triple times",
    "more less fewer",
    "each every per",
    "total altogether all",
    "if after then remaining left rest",
    "minute hour day week month year minutes hours days weeks months years",
)
"""Words that tell of a calculation step, in any case; one count a group."""
_GROUP_OF = {word: group for group, words in enumerate(WORD_GROUPS) for word in words.split()}
_WORD = re.compile(r"\w+")
_CAPITALS = bytes(range(ord("A"), ord("Z") + 1))
PUNCTUATION = ".?%$,/"
LARGEST = 1e300
"""What a number counts as at most."""

NUM_TEXT_FEATURES = 10 + len(PUNCTUATION) + len(WORD_GROUPS)


def text_features(questions: Sequence[str]) -> npt.NDArray[np.float32]:
    """Lengths, numbers, punctuation and signal words of each question: float32 (N, NUM_TEXT_FEATURES)."""
    rows = [_describe(question) for question in questions]
    return np.array(rows, dtype=np.float32).reshape(-1, NUM_TEXT_FEATURES)


def _describe(question: str) -> list[float]:
    words = question.split()
    # A number of hundreds of digits would be infinite.
    numbers = [min(float(match.replace(",", "")), LARGEST) for match in NUMBER.findall(question)]
    # Magnitudes enter as logarithms: 10 against 1,000 is one kind of difference, not 990.
    magnitudes = [math.log1p(number) for number in numbers] or [0.0]
    groups = [0] * len(WORD_GROUPS)
    for word in _WORD.findall(question.lower()):
        if (group := _GROUP_OF.get(word)) is not None:
            groups[group] += 1
    return [
        len(words),
        len(question),
        len(set(words)) / max(len(words), 1),
        _capitals(question),
        len(numbers),
        len(set(numbers)),
        sum(number != int(number) for number in numbers) / max(len(numbers), 1),
        max(magnitudes),
        min(magnitudes),
        sum(magnitudes),
        *(question.count(mark) for mark in PUNCTUATION),
        *groups,
    ]


def _capitals(text: str) -> int:
    if text.isascii():
        return len(text) - len(text.encode().translate(None, _CAPITALS))
    return sum(map(str.isupper, text))
