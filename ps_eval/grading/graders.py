"""Graders: what a text answers, and whether that is right. By name, or your own as `module:function`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ps_alloc.plug_in import load_plug_in
from ps_eval.grading.equality import same_answer, same_number, same_text
from ps_eval.grading.extraction import (
    choice_letter,
    last_box,
    last_number,
    stated_answer,
    stated_choice,
)
from ps_eval.grading.writing import readable

DEFAULT_GRADER = "math"


@dataclass(frozen=True)
class Grader:
    """Grades texts: `grader(text, reference)` is whether the text's answer is the reference."""

    name: str
    """As given to `load_grader`."""
    version: int
    """Raised whenever extraction or comparison changes: accuracies of different versions do not compare."""
    extract_answer: Callable[[str], str | None]
    same: Callable[[str, str], bool]
    """Whether an extracted answer (first) equals a bare reference (second)."""

    @property
    def identity(self) -> str:
        """Name and version, as tables and run folders keep them."""
        return f"{self.name}-{self.version}"

    def extract(self, text: str) -> str | None:
        """The answer that a text states; None where it states none."""
        return self.extract_answer(text)

    def is_correct(self, answer: str | None, reference: str) -> bool:
        """Whether an extracted answer is right.

        Args:
            answer: From `extract`.
            reference: A question's answer: bare, ending in `#### value` as in GSM8K, or a worked solution
                with its value in a box as in MATH.
        """
        return answer is not None and self.same(answer, reference_answer(reference))

    def __call__(self, text: str, reference: str) -> bool:
        """Whether the answer that a text states is right."""
        return self.is_correct(self.extract(text), reference)


def reference_answer(reference: str) -> str:
    r"""The value of a reference answer: after the last `####`, else in the last `\boxed{…}`, else it all."""
    reference = readable(reference)
    _, mark, value = reference.rpartition("####")
    if mark:
        return value.strip()
    box = last_box(reference)
    return reference.strip() if box is None else box


def _exact_statement(text: str) -> str | None:
    """What a text states, all of it where nothing marks an answer."""
    answer = readable(text).rpartition("</think>")[2].strip()
    box = last_box(answer)
    if box is not None:
        return box
    marked = stated_answer(answer) if "nswer" in answer or "####" in answer else None
    return marked or answer or None


def _same_choice(answer: str, reference: str) -> bool:
    letter = choice_letter(reference)
    return letter is not None and choice_letter(answer) == letter


def _number_or_text(answer: str, reference: str) -> bool:
    return same_number(answer, reference) or same_text(answer, reference)


_GRADERS = {
    # The value wherever it is stated; formulas by math-verify, as Open-R1, lighteval and TRL grade.
    "math": Grader("math", 3, stated_answer, same_answer),
    # GSM8K's rule: a number (or word) that must be equal, units and thousands aside; no algebra.
    "gsm8k": Grader("gsm8k", 5, stated_answer, _number_or_text),
    "number": Grader("number", 3, last_number, same_number),
    "choice": Grader("choice", 3, stated_choice, _same_choice),
    "exact": Grader("exact", 3, _exact_statement, same_text),
}
GRADER_NAMES = tuple(_GRADERS)


def load_grader(name: str = DEFAULT_GRADER) -> Grader:
    """A grader by its name.

    Args:
        name: One of `GRADER_NAMES`, or `module:function` of your own: `function(text, reference) -> bool`,
            which may have an attribute `extract(text) -> str | None`. Your module may lie in the working
            directory; it is imported, so name only code that you trust.

    Raises:
        ValueError: If there is no such grader.
    """
    if name in _GRADERS:
        return _GRADERS[name]
    function = load_plug_in(name, "grader", GRADER_NAMES, "a function of (text, reference)")
    extract = getattr(function, "extract", None)
    return ForeignGrader(name, int(getattr(function, "version", 0)), extract or _whole_text, function)


class ForeignGrader(Grader):
    """A user's function, which sees the whole text, not only what was extracted from it."""

    def __call__(self, text: str, reference: str) -> bool:
        """What the user's function says."""
        return bool(self.same(text, reference))

    def is_correct(self, answer: str | None, reference: str) -> bool:
        """What the user's function says of an extracted answer alone, taken for a text."""
        return answer is not None and bool(self.same(answer, reference))


def _whole_text(text: str) -> str | None:
    return text.strip() or None
