"""What a question's text alone says about its difficulty: counts that need no model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
WORD_GROUPS = (
    r"twice|half|third|quarter|double|triple|times",
    r"more|less|fewer",
    r"each|every|per",
    r"total|altogether|all",
    r"if|after|then|remaining|left|rest",
    r"(?:minute|hour|day|week|month|year)s?",
)
"""Words that tell of a calculation step; one count a group."""
_GROUPS = [re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for words in WORD_GROUPS]
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
    return [
        len(words),
        len(question),
        len(set(words)) / max(len(words), 1),
        sum(map(str.isupper, question)),
        len(numbers),
        len(set(numbers)),
        sum(number != int(number) for number in numbers) / max(len(numbers), 1),
        max(magnitudes),
        min(magnitudes),
        sum(magnitudes),
        *(question.count(mark) for mark in PUNCTUATION),
        *(len(group.findall(question)) for group in _GROUPS),
    ]
