"""Numbers as people and models write them, read exactly."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from ps_eval.grading.writing import TEXT_GROUP, raised, undecorated

_DIGITS = r"(?:\d{1,3}(?:(?:,|\{,\}|\\,|\\!|,\\!)\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(
    # A sign only where it subtracts from nothing. Chinese, Japanese and Korean need no space before a number.
    r"(?:(?<![\d)}]\s)(?<![\w.)}])[-−–]\s?|\bnegative\s)?(?:\\?\$\s?)?"
    r"(?<![^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])(?<!\.)"
    r"(?:" + _DIGITS + r")(?:[eE][-+]?\d+\b)?(?:\s?/\s?\d+(?:\.\d+)?)?(?:\s?\\?%)?"
)
"""A number within a text: sign, dollar, thousands, decimals, exponent, a fraction's denominator, percent."""

_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_APPROXIMATELY = re.compile(
    r"^(?:approximately|approx\.?|about|around|roughly|exactly|nearly|≈|~|\\approx)\s*", re.IGNORECASE
)
_CURRENCY = re.compile(r"\\?\$|[€£¥¢₹₩₽₺₫₪฿]")
_PERCENT = re.compile(r"(?<=[\d}])\s*(?:\\?%|percent\b|\\text\{\s*(?:\\?%|percent)\s*\})", re.IGNORECASE)
_DEGREE = re.compile(r"(?<=[\d}])\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree\b)")
# Words of a language and the usual symbols of units; a single letter that is none of them is a variable.
_UNIT = re.compile(r"(?:[^\W\d_]{2,}\.?|[mgslhLWVAJNKCF°º]|°[CF]|/)(?:\s?\^?\{?[-−]?[23]\}?)?")
_NOT_UNITS = re.compile(
    "or|and|to|than|not|is|plus|minus|times|over|mod|if|else|pi|sqrt|below", re.IGNORECASE
)
_BEFORE_UNIT = re.compile(
    rf"(?:{_DIGITS}|[\\a-z{{}}/\d.,^*×·+\- ]*[\d}}])"
    r"(?=\s*\\(?:text|mathrm|mbox)|\s+[^\W\d_]|\s*/\s*[^\W\d_]{2}|[°º]"
    r"|(?:[kcm]m|[km]g|ft|in|mi|mph|lbs?|oz|hrs?|mins?|secs?|ml)\b)"
)
_SPACED = re.compile(r"(?<![\w.,])\d{1,3}(?:\s\d{3})+(?![\w.,/])")  # thousands set apart by spaces
_MANTISSA = rf"(?:{_DIGITS})"
_SCIENTIFIC = re.compile(
    rf"({_MANTISSA})(?:[eE]([-+]?\d+)|(?:\\times|\\cdot|\*|×|x|·)10\^\{{?([-+]?\d+)\}}?)"
)
_REPEATING = re.compile(r"(\d{0,100})\.(\d{0,100})\\overline\{?(\d{1,100})\}?")
_POWER = re.compile(r"10\^\{?([-+]?\d+)\}?")
_FRACTION = re.compile(rf"({_MANTISSA})/({_MANTISSA})")
_LATEX_FRACTION = re.compile(r"\\[dtc]?frac(?:\{([^{}]+)\}|(\d))(?:\{([^{}]+)\}|(\d))")
_MIXED = re.compile(r"(\d+)(?:\s+|(?=\\))(?:(\d+)/(\d+)|\\[dtc]?frac(?:\{(\d+)\}|(\d))(?:\{(\d+)\}|(\d)))")
_LARGEST_EXPONENT = 400  # 10**400 has more digits than any answer


def read_number(text: str) -> frozenset[Fraction]:
    r"""The value of a text that is one number, units aside; empty where it is something else.

    Read are signs (Unicode ones too), dollars, thousands (`9,500`, `9{,}500`, `10\,000`), decimals (`.5`),
    fractions (`3/4`, `\frac{3}{4}`), mixed numbers (`1 1/2`, `2\frac{1}{2}`), powers (`1e3`,
    `3 \times 10^4`), scales (`5 million`) and units (`12\text{ cm}^2`, `18 dollars`). A percentage is both
    itself and a hundredth of it, since references are written either way. `\sqrt{2}`, `3x`, `5!` and
    `12 or 13` are no numbers.
    """
    text = undecorated(text.strip().strip("*_` \n")).strip()
    whole = TEXT_GROUP.fullmatch(text)
    text = re.sub(r"\.$", "", whole.group(1) if whole else text)
    text = re.sub("[−–]", "-", _spelled_out(text))
    text, percent = _PERCENT.subn("", text, count=1)
    text = _CURRENCY.sub("", text).strip()
    text = _DEGREE.sub("°", _APPROXIMATELY.sub("", text).strip())
    sign = -1 if text.startswith("-") else 1
    text = text.lstrip("+-").strip() if text[:1] in ("+", "-") else text
    text, scale = _without_unit(text)
    value = _unsigned(text)
    if value is None:
        return frozenset()
    value *= sign * scale
    return frozenset((value, value / 100)) if percent else frozenset((value,))


def _spelled_out(text: str) -> str:
    """`½` as 1/2, `10³` as 10^{3}, a number's word below a hundred as its figures, `negative 5` as -5."""
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub(
        r"[¼-¾⅐-⅞]", lambda found: unicodedata.normalize("NFKC", found.group()).replace("⁄", "/"), text
    )
    text = re.sub(r"(?<=\d)['’](?=\d{3})", ",", raised(text))
    text = re.sub(r"^(?:minus|negative)\s+", "-", text, flags=re.IGNORECASE)
    text = _SPACED.sub(lambda found: re.sub(r"\s", "", found.group()), text)
    word, space, rest = text.partition(" ")
    value = _spelled(word.casefold())
    return text if value is None else f"{value}{space}{rest}"


def _spelled(word: str) -> int | None:
    """The number that a word such as `twelve` or `twenty-one` is."""
    if word in _WORDS:
        return _WORDS.index(word)
    tens, _, ones = word.partition("-")
    if tens not in _TENS or ones not in ("", *_WORDS[1:10]):
        return None
    return 10 * _TENS.index(tens) + 20 + (_WORDS.index(ones) if ones else 0)


def _without_unit(text: str) -> tuple[str, int]:
    """A number's text without the unit behind it, and the scale that the unit begins with."""
    match = _BEFORE_UNIT.match(text)
    if match is None:
        return text, 1
    number, unit = match.group().strip(), text[match.end() :].strip()
    unit = TEXT_GROUP.sub(lambda found: f" {found.group(1).strip()} ", unit).strip()
    unit = re.sub(r"\s+(?=\^|²|³)", "", unit)
    unit = re.sub(r"(?<=[a-z]) an? (?=[a-z])", " per ", unit)
    words = unit.replace("/", " / ").split()
    scale = 1
    while words and words[0].casefold().rstrip("s") in _SCALES:
        scale *= _SCALES[words.pop(0).casefold().rstrip("s")]
    return (number, scale) if all(map(is_unit, words)) else (text, 1)


def is_unit(word: str) -> bool:
    """Whether a word may be one of a number's unit: `dollars`, `m^2`, `per`; not `or`, nor a variable."""
    return _UNIT.fullmatch(word) is not None and _NOT_UNITS.fullmatch(word) is None


def _unsigned(text: str) -> Fraction | None:
    squeezed = re.sub(r"\s+", "", text)
    if mixed := _MIXED.fullmatch(text.strip()):
        whole, *parts = mixed.groups()
        top, bottom = [part for part in parts if part is not None]
        return None if int(bottom) == 0 else int(whole) + Fraction(int(top), int(bottom))
    if re.search(r"\d,?\s+\d", text):  # two numbers
        return None
    if power := _POWER.fullmatch(squeezed):
        return _power(Fraction(1), power.group(1))
    if scientific := _SCIENTIFIC.fullmatch(squeezed):
        mantissa = _decimal(scientific.group(1))
        return None if mantissa is None else _power(mantissa, scientific.group(2) or scientific.group(3))
    if fraction := _LATEX_FRACTION.fullmatch(squeezed):
        top, bottom = [part for part in fraction.groups() if part is not None]
        return _ratio(top, bottom)
    if fraction := _FRACTION.fullmatch(squeezed):
        return _ratio(*fraction.groups())
    return _decimal(squeezed)


def _ratio(top: str, bottom: str) -> Fraction | None:
    sign = -1 if top.startswith("-") else 1
    numerator, denominator = _decimal(top.lstrip("-")), _decimal(bottom)
    return sign * numerator / denominator if numerator is not None and denominator else None


def _power(mantissa: Fraction, exponent: str) -> Fraction | None:
    if len(exponent) > 5 or abs(int(exponent)) > _LARGEST_EXPONENT:
        return None
    return mantissa * Fraction(10) ** int(exponent)


def _decimal(text: str) -> Fraction | None:
    if repeating := _REPEATING.fullmatch(text):
        whole, start, period = repeating.groups()
        nines = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(start))
        return Fraction(f"0{whole}.{start or 0}") + nines
    plain = re.sub(r"\{,\}|\\,|\\!|,(?=\d{3}(?:\D|$))", "", text)
    match = re.fullmatch(r"(?:\d+\.?\d*|\.\d+)", plain)
    return Fraction(f"0{plain}".rstrip(".")) if match and len(plain) <= 4000 else None
