"""Whether two answers say the same, as a mathematician would read them."""

from __future__ import annotations

import logging
import re
import threading

from ps_eval.grading.extraction import choice_letter
from ps_eval.grading.numbers import NUMBER, read_number

_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_DECORATION = re.compile(r"\\left|\\right|\\displaystyle|\\!|\\,|\\;|\\:|\\\(|\\\)|\\\[|\\\]|[*_`$]")
_FUNCTIONS = (
    r"\\(?:begin|end)\{\w+\*?\}|\\[A-Za-z]+"
    r"|(?:arc)?(?:sin|cos|tan|sec|csc|cot)h?|log|ln|exp|sqrt|pi|inf(?:inity|ty)?|det|max|min|mod"
)
_WORD = re.compile(r"[A-Za-z]{3,}")
_RELATION = re.compile(r"[<>≤≥≠]|\\(?:leq?|geq?|neq?|lt|gt)\b")
_LONGEST_FORMULA = 300
_SECONDS = 10  # of the wall clock: a busy machine must not change a grade
_TOWER = re.compile(r"\^\s*\{?[^{}]*\^|\^\s*\{?\s*\d{4,}|\d{3,}\s*!|!\s*!|\d{300,}")


def same_number(answer: str, reference: str) -> bool:
    """Whether both are one number each, units aside, and equal; exact."""
    return bool(read_number(answer) & read_number(reference))


def same_text(answer: str, reference: str) -> bool:
    """Whether both are the same words or symbols, spaces, case and decoration aside."""
    return bool(_bare(answer)) and _bare(answer) == _bare(reference)


def same_answer(answer: str, reference: str) -> bool:
    r"""Whether both say the same: as text, choice, number, words, or formula (by math-verify).

    A number inside words counts where it is the only one (`that she has 18 eggs` is 18), one inside a formula
    does not (`\sqrt{2}` is not 2).
    """
    if same_text(answer, reference):
        return True
    letter = choice_letter(reference)
    if letter is not None and len(_bare(reference).strip("().: ")) == 1:
        return choice_letter(answer) == letter
    expected, given = read_number(reference), read_number(answer)
    if expected and given:
        return bool(expected & given)
    if _has_words(answer) or _has_words(reference):
        if expected and _has_words(_TEXT.sub(r"\1", answer).lstrip("$* ")[:3]):
            numbers = {value for found in NUMBER.finditer(answer) for value in read_number(found.group())}
            return numbers <= expected and len(numbers) == 1 and not re.search(r"\bnot\b", answer)
        return not expected and _begins_with(answer, reference)
    return _same_formula(answer, reference)


def _begins_with(answer: str, reference: str) -> bool:
    """`Yes, 97 is prime` answers `Yes`; `New York` does not answer `New`."""
    mine, other = _bare(answer, spaces=True), _bare(reference, spaces=True)
    return (
        bool(other)
        and mine.startswith(other)
        and re.match(r"[,;:.!(–-]|\s+[(–-]", mine[len(other) :]) is not None
    )


def _bare(text: str, spaces: bool = False) -> str:
    text = (
        _DECORATION.sub("", _TEXT.sub(r"\1", text)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    )
    text = re.sub("[−–]", "-", text).casefold().strip().rstrip(".").strip('"“”')
    text = re.sub(r"^the\s+(?=\w)", "", text)
    return " ".join(text.split()) if spaces or _has_words(text) else re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _has_words(text: str) -> bool:
    """Whether a text holds words of a language, not only symbols and functions of a formula."""
    return _WORD.search(re.sub(_FUNCTIONS, " ", text)) is not None


def _same_formula(answer: str, reference: str) -> bool:
    """Equal as formulas; what could keep a computer algebra system busy for ever is not looked at."""
    pair = (answer, reference)
    if any(len(text) > _LONGEST_FORMULA or _TOWER.search(text) or not text.strip() for text in pair):
        return False
    if any(re.search(r"\d\s+\d", text) for text in pair):  # numbers side by side would be added up
        return False
    if len({_RELATION.search(text) is None for text in pair}) == 2:  # a bound is not its number
        return False
    from math_verify import parse, verify  # brings sympy: a second that plain numbers need not wait for

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # what it cannot read is no news
    # Its time limits are signals, which only the main thread may set.
    limit = _SECONDS if threading.current_thread() is threading.main_thread() else None
    mine, other = (parse(f"${text.strip(' $')}$", parsing_timeout=limit) for text in pair)
    return bool(mine and other and verify(other, mine, timeout_seconds=limit))
