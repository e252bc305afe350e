"""From a model's text to a graded answer."""

from __future__ import annotations

import re
from fractions import Fraction

ANSWER_VERSION = 2
"""Raised whenever extraction or grading changes: accuracies of different versions do not compare."""

_NUMBER = r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?"
# A forced answer may stop before the brace closes.
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)(?:\}|$)")
_MARKED = re.compile(r"(?:####|answer(?:\s+is)?\s*:?)\s*(" + _NUMBER + ")", re.IGNORECASE)
_MARKED_WORD = re.compile(r"(?:####|answer(?:\s+is)?\s*:)\s*(\w+)", re.IGNORECASE)


def extract_answer(text: str) -> str | None:
    r"""The answer a text states: the last `\boxed{…}`, else after `Answer :` or `####`, else its last number.

    A text without any number may state one word instead, after `Answer :` or `####`.

    Returns:
        The answer as written, or None where the text states none.
    """
    boxed = [content.strip() for content in _BOXED.findall(text)]
    if boxed and boxed[-1]:
        return str(boxed[-1])
    marked = _MARKED.findall(text)
    if marked:
        return str(marked[-1])
    numbers = re.findall(_NUMBER, text)
    if numbers:
        return str(numbers[-1])
    words = _MARKED_WORD.findall(text)
    return str(words[-1]) if words else None


def reference_answer(answer: str) -> str:
    """The value of a reference answer: what follows the last `####` in GSM8K's form, else the whole text."""
    return answer.rsplit("####", 1)[-1].strip()


def is_correct(answer: str | None, reference: str) -> bool:
    """Whether an extracted answer equals the reference, as a number where both are, else as text.

    Args:
        answer: From `extract_answer`.
        reference: A question's answer, bare or in GSM8K's form.
    """
    if answer is None:
        return False
    expected = reference_answer(reference)
    number, expected_number = _as_number(answer), _as_number(expected)
    if number is not None and expected_number is not None:
        return number == expected_number
    return _as_text(answer) == _as_text(expected)


def _as_number(text: str) -> Fraction | None:
    """`$1,234.50` and `3/4` as exact fractions; None for what is not one number, units aside."""
    match = re.fullmatch(rf"\D*?({_NUMBER})\D*", text.replace("\\", " "))
    if match is None:
        return None
    try:
        return Fraction(match.group(1).replace(",", "").replace("$", ""))
    except (ValueError, ZeroDivisionError):
        return None


def _as_text(text: str) -> str:
    return " ".join(text.casefold().strip(" .$").split())
