"""Whether two answers say the same, as a mathematician would read them."""

from __future__ import annotations

import logging
import re

from ps_eval.grading.extraction import choice_letter
from ps_eval.grading.numbers import NUMBER, is_unit, read_number
from ps_eval.grading.time_limit import within_seconds
from ps_eval.grading.writing import TEXT_GROUP, as_latex, undecorated

_FUNCTIONS = (
    r"\\(?:begin|end)\{\w+\*?\}|\\(?:angle|triangle)\s*[A-Z]+(?=\s*=)|\\[A-Za-z]+"
    r"|(?:arc)?(?:sin|cos|tan|sec|csc|cot)h?|log|ln|exp|sqrt|pi|inf(?:inity|ty)?|det|max|min|mod"
)
_WORD = re.compile(r"[A-Za-z]{3,}")
_AND = re.compile(r"\s*,?\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*and\s*\}|(?<![\\A-Za-z])and(?![A-Za-z]))\s*")
_RATIO = re.compile(r"(?<=\d)\s+to\s+(?=\d)")
_AND_OR = re.compile(_AND.pattern.replace("and", "(?:and|or)"))
# What a sentence says of a number without giving it as its value.
_UNSAID = re.compile(
    r"\b(?:not|never|neither|nor|but|except|minus|negative|cannot)\b|n['’]t\b|\bbelow zero\b"
    r"|\bthan\s+(?:or equal to\s+)?[\\$€£]*\d",
    re.IGNORECASE,
)
_INTRODUCTION = re.compile(
    r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\b(?:is|are|equals)\s*:?\s*\}\s*|[^\\{}$]*\bis\s*:?\s+(?=\\)"
)
_TRAILING_UNIT = re.compile(
    r"(?:\\?\s*(?:\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}|(?<=\s)([A-Za-z]{2,}(?:\s+[A-Za-z]{2,})*))\.?"
    r"(?:\s*\^\s*\{?[23]\}?)?)\s*$"
)
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|neq|lt|gt)(?![A-Za-z])")
_SET = re.compile(r"[(\[].*,.*[)\]]|\\\{|\\cup|\\mathbb")
_BASE = re.compile(r"\s*[0-9A-Z]+\s*_\s*\{?\s*(\d+)\s*\}?\s*")
_LONGEST_FORMULA = 300
_DEEPEST_BRACES = 20  # a reader of formulas takes twice as long for each pair more
_SECONDS = 10.0
_TOWER = re.compile(r"\^\s*\{?[^{}]*\^|\^\s*\{?\s*\d{4,}|\d{3,}\s*!|!\s*!|\d{300,}")
_UNFINISHED = re.compile(r"[-+*/^=]\s*$")


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
    left, right = (_RATIO.sub(":", _listed(TEXT_GROUP.sub(r"\1", t), _AND)) for t in (answer, reference))
    if same_text(left, right):
        return True
    letter = choice_letter(reference)
    if letter is not None and len(_bare(reference).strip("().: ")) == 1:
        return choice_letter(answer) == letter
    expected, given = read_number(reference), read_number(answer)
    if expected and given:
        return bool(expected & given)
    answer, reference = _without_unit(answer), _without_unit(reference)
    if _has_words(answer) or _has_words(reference):
        if expected and _has_words(TEXT_GROUP.sub(r"\1", answer).lstrip("$* ")[:3]):
            numbers = {value for found in NUMBER.finditer(answer) for value in read_number(found.group())}
            return numbers <= expected and len(numbers) == 1 and not _UNSAID.search(answer)
        return not expected and _begins_with(answer, reference)
    return _same_formula(answer, reference)


def _without_unit(text: str) -> str:
    r"""A formula without the unit behind it, or the words before it: `4\sqrt{3}` of `4\sqrt{3}\text{ cm}`."""
    if len(text) > _LONGEST_FORMULA:
        return text
    introduction = _INTRODUCTION.match(text)
    rest = text[introduction.end() :] if introduction and not _UNSAID.search(introduction.group()) else text
    unit = _TRAILING_UNIT.search(rest)
    if unit is not None:
        words = (unit.group(1) or unit.group(2) or "").replace("/", " / ").split()
        formula = rest[: unit.start()].rstrip("\\ ")
        if words and all(map(is_unit, words)) and re.search(r"\d|\\pi|}", formula):
            rest = formula
    rest = _listed(rest, _AND_OR)
    return text if _has_words(rest) else rest


def _listed(text: str, between: re.Pattern[str]) -> str:
    """`1, 2` of `1 and 2`, where it may be a formula."""
    return between.sub(", ", text) if len(text) <= _LONGEST_FORMULA else text


def _begins_with(answer: str, reference: str) -> bool:
    """`Yes, 97 is prime` answers `Yes`; `New York` does not answer `New`."""
    mine, other = _bare(answer, spaces=True), _bare(reference, spaces=True)
    return (
        bool(other)
        and mine.startswith(other)
        and re.match(r"[,;:.!(–-]|\s+[(–-]", mine[len(other) :]) is not None
    )


def _bare(text: str, spaces: bool = False) -> str:
    text = re.sub("[−–]", "-", TEXT_GROUP.sub(r"\1", undecorated(text)))
    text = re.sub(r"[*_`$]", "", text).casefold().strip().rstrip(".").strip('"“”')
    text = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", re.sub(r"^the\s+(?=\w)", "", text))
    return " ".join(text.split()) if spaces or _has_words(text) else re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _has_words(text: str) -> bool:
    """Whether a text holds words of a language, not only symbols and functions of a formula."""
    return _WORD.search(re.sub(_FUNCTIONS, " ", text)) is not None


def _same_formula(answer: str, reference: str) -> bool:
    """Equal as formulas; what could keep a computer algebra system busy for ever is not looked at."""
    if max(len(answer), len(reference)) > _LONGEST_FORMULA:
        return False
    pair = tuple(as_latex(text) for text in (answer, reference))
    if any(len(text) > _LONGEST_FORMULA or _TOWER.search(text) or not text.strip() for text in pair):
        return False
    if any(_UNFINISHED.search(text) or "{" * _DEEPEST_BRACES in text for text in pair):
        return False
    if any(re.search(r"\d\s+\d", text) for text in pair):  # numbers side by side would be added up
        return False
    # Digits in two bases; a computer algebra system reads past the base.
    bases = {match.group(1) for text in pair if (match := _BASE.fullmatch(text))}
    if len(bases) == 2:
        return False
    bounds = {_RELATION.search(text) is None for text in pair}
    if len(bounds) == 2 and not any(_SET.search(text) for text in pair):  # a bound is not its number
        return False
    return within_seconds(lambda: _equal(*pair), _SECONDS) or False


def _equal(answer: str, reference: str) -> bool:
    from math_verify import parse, verify  # brings sympy: a second that plain numbers need not wait for

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # what it cannot read is no news
    mine, other = (parse(f"${text.strip(' $')}$", parsing_timeout=None) for text in (answer, reference))
    return bool(mine and other and verify(other, mine, allow_set_relation_comp=True, timeout_seconds=None))
