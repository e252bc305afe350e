r"""Where a text states its answer: in a `\boxed{…}`, after a mark such as `Answer :`, or at its end."""

from __future__ import annotations

import re

from ps_eval.grading.numbers import NUMBER, read_number
from ps_eval.grading.writing import TEXT_GROUP, readable

MARKS_TRIED = 50
"""A model that repeats "answer is" for ever announces nothing the first times either."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_BARE_BOX = re.compile(r"-?[\w.,/]+")
_MARK = re.compile(r"####|<answer>|\banswer\b[*_\s]*(?::|=|\bis\b|\bare\b)[*_\s]*:?", re.IGNORECASE)
_JSON = re.compile(r'"(?:final_?)?answer"\s*:\s*(?:"([^"\\]{1,300})"|(-?\d[\d.]{0,50}))', re.IGNORECASE)
_HEADING = re.compile(r"(?:final\s+)?answer[*_:\s]*", re.IGNORECASE)
# What comes after such a heading checks the answer, and states numbers of its own.
_CHECK = re.compile(r"\b(?:check|verification|verify(?:ing)?|double[- ]check)\b[*_]*\s*:", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[^\s])[.!?]?(?=\s*$)|(?<!\bvs)[.!?](?=\s|\*|$)|[.;](?=\s)")
_REASON = re.compile(
    r",\s+(?=[A-Za-z]{2}|[aI]\s)|\s+\(|\s+(?:because|since|which|as|so|but|where)\b", re.IGNORECASE
)
_MATH_SPAN = re.compile(
    r"(?<!\\)\$((?:[^$\n\\]|\\[^\n])+)\$|\\\((.{1,1000}?)\\\)|\\\[(.{1,1000}?)\\\]", re.DOTALL
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_NEGATED = re.compile(r"(?:\b(?:not|never)|n['’]t)\s+(?:be\s+|equal\s+(?:to\s+)?)?$")
_CHOICE = re.compile(
    r"(?<![Nn]ot )(?<!n't )(?:[(\[{]([A-Ja-j])[)\]}]|\*\*\(?([A-J])\)?\*\*"
    r"|\b(?i:option|choice|answer|choose|pick|select)(?:\s+is\b)?[\s:–-]*([A-J])\b"
    r"(?!\s*(?:,|/|&|and\b|or\b)\s*[A-J]\b)(?<!I(?=\s+[a-z]))"
    r"|\b([A-J])\s+is\s+(?:the\s+)?(?:correct|right|best|true|answer)\b"
    r"|^[ \t]*([A-J])[).:]?[ \t]*$|(?<!and )(?<!or )(?<![A-Za-z0-9_'])([A-J])\.?\s*\Z)",
    re.MULTILINE,
)
_LETTER = re.compile(r"(?:option\s+|choice\s+)?[(\[{]?\s*([A-J])\s*[)\]}]?(?![\w'])")


def stated_answer(text: str) -> str | None:
    r"""The answer a text states, as written; None where it states none.

    Looked for after the last `</think>`, where that part states one, in this order: the last `\boxed{…}`;
    the last `"answer": …` of JSON; what follows the last mark (`####`, `Answer :`, `the answer is`), a
    number, an expression, a choice or, after a colon, words; the last number or formula that is not denied;
    the last choice. What stands below a heading such as `Check:` counts only where nothing above it does.
    """
    for part in reversed(readable(text).split("</think>")):
        answer = _stated_above_check(part)
        if answer is not None:
            return answer
    return None


def _stated_above_check(text: str) -> str | None:
    check = _CHECK.search(text)
    if check is not None:
        above = _stated(text[: check.start()])
        if above is not None:
            return above
    return _stated(text)


def last_number(text: str) -> str | None:
    """The last number of a text, as written; None where it has none. `10-12` holds 10 and 12, not -12."""
    numbers = list(NUMBER.finditer(readable(text)))
    return numbers[-1].group().strip() if numbers else None


def stated_choice(text: str) -> str | None:
    """The letter A to J that a text chooses, in upper case; None where it chooses none."""
    text = readable(text)
    for candidate in (stated_answer(text), text):
        letter = None if candidate is None else choice_letter(candidate)
        if letter is not None:
            return letter
    return _last_choice(text.rpartition("</think>")[2])


def _last_choice(text: str) -> str | None:
    found = _CHOICE.findall(text)
    return next(filter(None, found[-1])).upper() if found else None


def choice_letter(answer: str) -> str | None:
    r"""The letter that a short answer is: `B`, `(B)`, `[B]`, `"B"`, `\text{B}`, `B. four metres`,
    `B - four metres`, `option B`; else None.
    """
    bare = TEXT_GROUP.sub(r"\1", answer)
    bare = re.sub(r"^(?:option|choice)\s+", "", bare.strip(" $*.\n`\"'“”‘’"), flags=re.IGNORECASE)
    match = re.fullmatch(
        r"[(\[{]*([A-Ja-j])(?:(?:[.):\]}]+\\?|\s+[-–—:])\s.*|[.):\]}]*)", bare, flags=re.DOTALL
    )
    return match.group(1).upper() if match else None


def last_box(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}` that holds anything, braces nested at will; None without one.

    One that is cut ends with the text.
    """
    for match in reversed(list(_BOX.finditer(text))):
        content = _box_content(text, match.end()).strip()
        if content:
            return content
    return None


def _box_content(text: str, start: int) -> str:
    """What stands in the box whose braces, if it has any, open at `start`."""
    if text[start : start + 1] != "{":
        bare = _BARE_BOX.match(text, start)
        return bare.group() if bare else ""
    depth, end = 0, start
    while end < len(text):
        if text[end] == "\\":
            end += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            break
        end += 1
    return text[start + 1 : end]


def _stated(text: str) -> str | None:
    box = last_box(text)
    if box is not None:
        return box
    written = _JSON.findall(text)
    if written:
        return "".join(written[-1]).strip()
    for mark in reversed(list(_MARK.finditer(text))[-MARKS_TRIED:]):
        answer = _after_mark(text[mark.end() :], words=any(sign in mark.group() for sign in ":=#>"))
        if answer is not None:
            return answer
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) > 1 and _HEADING.fullmatch(lines[-2].strip("# *_")):
        answer = _after_mark(lines[-1], words=True)
        if answer is not None:
            return answer
    return _last_value(text) or _last_choice(text)


def _after_mark(tail: str, words: bool) -> str | None:
    """What a mark announces; words only where `words` says that the mark announces any."""
    tail = tail.partition("</answer>")[0]
    line = next((line for line in tail.splitlines() if line.strip(" *_`")), "").strip()
    bold = re.match(r"[*_`]{1,3}([^*_`]+?)[*_`]{1,3}", line)
    if bold:
        line, words = bold.group(1).strip(), True
    math = _MATH_SPAN.match(line)
    if math and _is_formula(content := next(filter(None, math.groups()))):
        return _right_hand_side(content.strip())
    line = line.strip(" *_`")
    end = _SENTENCE_END.search(line)
    sentence = line[: end.start()] if end else line
    if not sentence:
        return None
    if letter := _LETTER.match(sentence):
        whole = sentence.strip() if letter.end() >= len(sentence.rstrip()) else None
        if whole is not None or sentence.startswith("("):
            return whole if whole is not None else letter.group().strip()
    starts_with_word = _WORD.match(sentence.lstrip("$\"'“"))
    if starts_with_word and not words:  # the next word may be any, but for a number's
        return sentence.strip() if read_number(sentence) else None
    if starts_with_word:
        return sentence.strip()
    short = _right_hand_side(_REASON.split(sentence, maxsplit=1)[0].strip())
    return short if re.search(r"[\w]", short) else None


def _right_hand_side(expression: str) -> str:
    """`5` of `12 - 7 = 5` and of `x = 5`; an equation between expressions stays whole."""
    left, equals, right = expression.rpartition("=")
    value = right.strip()
    if (
        equals
        and value
        and left[-1:] not in "<>!"
        and (len(left.strip()) <= 2 or not re.search("[A-Za-z]", left))
    ):
        return value
    return expression


def _last_value(text: str) -> str | None:
    """The last number, or the last formula where that comes later or holds it."""
    numbers = [
        n for n in NUMBER.finditer(text) if not _NEGATED.search(text, max(0, n.start() - 30), n.start())
    ]
    spans = [span for span in _MATH_SPAN.finditer(text) if _is_formula(next(filter(None, span.groups())))]
    if spans and (not numbers or spans[-1].end() >= numbers[-1].end()):
        return _right_hand_side(next(filter(None, spans[-1].groups())).strip())
    return numbers[-1].group().strip() if numbers else None


def _is_formula(content: str) -> bool:
    """Not the words between two dollar signs that are prices."""
    bare = re.sub(r"\\(?:begin|end)\s*\{\w+\*?\}", "", TEXT_GROUP.sub("", content))
    return not _WORD.search(bare) and re.search(r"[\w\\]", content) is not None
