r"""One way of writing for what is written in several: markup, LaTeX's decoration, symbols of Unicode."""

from __future__ import annotations

import re
import unicodedata

TEXT_GROUP = re.compile(
    r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|mbox|operatorname|underline|boldsymbol|bm|emph)"
    r"\s*\{([^{}]*)\}"
)
r"""`\text{…}` and its like; group 1 is what stands in it."""

# Marks of direction and of order, soft hyphens, spaces without width.
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_TAG = re.compile(
    r"</?(?:b|strong|i|em|u|p|div|span|code|pre|center|h[1-6]|ul|ol|li|s)\s*/?>"
    r"|<\|[^|<>\s]{1,40}\|>|<(?:eos|end_of_turn)>",
    re.IGNORECASE,
)
_FULL_WIDTH = {ord("！") + i: ord("!") + i for i in range(94)} | {ord("。"): ord(".")}
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)

_COLOUR_OR_SPACE = re.compile(r"\\(?:(?:text)?color|[hv]space\*?)\s*\{[^{}]*\}")
_DELIMITER = re.compile(
    r"(?<!\\)\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|(?:norm|foot)alsize|small|[lL]arge|LARGE|[hH]uge|bf|rm)"
    r"(?![A-Za-z])|(?<!\\)\\[!()\[\]]"
)
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!\s?|,\\,|\\,)(?=\d{3})")
_SPACE = re.compile(r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_BARE_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")

_SYMBOLS = str.maketrans(
    {
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": r"\div ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "∅": r"\emptyset ",
        "ℝ": r"\mathbb{R}",
        "−": "-",
        "–": "-",
    }
)
_RAISED = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[A-Za-z]))")
_UNMARKED = re.compile(r"(?<![\\A-Za-z])(sqrt(?=\s*\{)|pi(?![A-Za-z]))")
_ORDER = re.compile(r"\\(le|ge)(?:q(?:slant|q)?|slant)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*\\circ\s*\}?|°|\\degree)")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def readable(text: str) -> str:
    """A text without characters that nobody sees, tags of layout and a model's own tokens; `Ｂ` is B."""
    return _TAG.sub("", _BREAK.sub("\n", _UNSEEN.sub("", text).translate(_FULL_WIDTH)))


def undecorated(text: str) -> str:
    r"""LaTeX without what only places it: `\left`, sizes, colours, spaces; `10\,000` is 10,000."""
    text = _DELIMITER.sub("", _COLOUR_OR_SPACE.sub("", _THOUSANDS.sub(",", text)))
    text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", _FRACTION.sub(r"\\frac", _SPACE.sub(" ", text)))
    return re.sub(r"^\s*\{([^{},]*)\}\s*$", r"\1", text)


def raised(text: str) -> str:
    """Small raised digits as exponents: `x²` is x^{2}."""
    return _RAISED.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found.group())}}}", text)


def as_latex(text: str) -> str:
    r"""A formula as LaTeX: `2√3`, `x² ≥ π`, `sqrt{2}` and `2**3` as they would be written there."""
    text = _ROOT.sub(lambda found: rf"\sqrt{{{next(filter(None, found.groups()), '')}}}", raised(text))
    text = _UNMARKED.sub(r"\\\1", text.translate(_SYMBOLS).replace("**", "^"))
    text = _ORDER.sub(r"\\\1", undecorated(text)).replace(r"\varnothing", r"\emptyset")
    text = re.sub(r"\\log\s*_\s*(\d)(?=\s)", r"\\log_{\1}", text)
    if _TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\1 \\cdot \\frac{\\pi}{180})", text)
    return text
