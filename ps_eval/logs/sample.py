"""One sample of a log: how many tokens it took, whether it was right, whether it ended by itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ps_train.text_files import is_text

RIGHT = {"c", "correct", "true", "yes", "pass", "passed", "right", "1", "1.0"}
WRONG = {"i", "incorrect", "false", "no", "fail", "failed", "wrong", "n", "noanswer", "0", "0.0"}
ENDED = {
    "stop",
    "end_turn",
    "stop_sequence",
    "eos",
    "completed",
    "complete",
    "finished",
    "success",
    "tool_calls",
    "tool_use",
    "function_call",
    "content_filter",
    "refusal",
    "safety",
    "eos_token",
}
CUT = {
    "length",
    "max_tokens",
    "model_length",
    "max_output_tokens",
    "incomplete",
    "truncated",
    "token_limit",
    "limit",
    "max_completion_tokens",
    "model_context_window_exceeded",
    "max_length",
    "abort",
}
MAX_TOKENS = 2**40
THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")


@dataclass(slots=True)
class Sample:
    """What a log says of one sampled answer."""

    question_id: str
    tokens: int
    """Generated tokens, thinking included."""
    correct: float | None = None
    """Share right, in [0, 1]; None where nothing says it."""
    finished: bool = True
    """Whether it ended by itself; of one that was cut, only that it needs more is known."""
    cap: int | None = None
    """Budget it was given, where budgets differ from answer to answer; None where that is not said."""
    sample: int = 0
    question: str = ""
    """Text, where the log has it."""
    reference: str = ""
    """Right answer, where the log has it."""
    response: str = ""
    """What was generated, where it is still to be graded or counted; else it would fill the memory."""
    group: tuple[tuple[str, str], ...] = ()
    """Task, model and setting, as far as the log names them: each is a table of its own."""
    numbers: dict[str, float] = field(default_factory=dict)
    """Further columns that are numbers."""


def read_tokens(value: Any) -> int:
    """A number of tokens.

    Raises:
        ValueError: If it is not a whole number from 0 on.
    """
    if isinstance(value, str) and THOUSANDS.fullmatch(value.strip()):  # a spreadsheet's
        value = value.replace(",", "")
    number = as_number(value)
    if number is None or not 0 <= number <= MAX_TOKENS or number != math.floor(number):
        raise ValueError(f"tokens must be a whole number from 0 on, got {shown(value)}")
    return int(number)


def output_tokens(usage: Mapping[str, Any]) -> int:
    """Generated tokens of a reply's usage, thinking included.

    Most services count reasoning within the output, some apart: never less than either.

    Raises:
        ValueError: If it says none, or one is no number of tokens.
    """
    details = as_mapping(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    names = ("completion_tokens", "output_tokens", "reasoning_tokens")
    counts = [*(usage.get(name) for name in names), details.get("reasoning_tokens")]
    known = [read_tokens(count) for count in counts if count is not None]
    if not known:
        raise ValueError("usage must say the tokens that were generated, got none")
    return max(known)


def read_correct(value: Any) -> float | None:
    """A grade as a share; None where there is none.

    Raises:
        ValueError: If it is neither true or false, nor a word for it, nor a number in [0, 1].
    """
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        return None
    if isinstance(value, Mapping):  # Inspect's score of several values
        inner = value.get("value", next(iter(value.values()), None))
        return None if isinstance(inner, Mapping | list) else read_correct(inner)
    if isinstance(value, str):
        word = value.strip().lower()
        if word == "p":  # Inspect: partly
            return 0.5
        if word in RIGHT or word in WRONG:
            return float(word in RIGHT)
    number = as_number(value)
    if number is None or not 0 <= number <= 1:
        raise ValueError(f"correct must be true, false or a share in [0, 1], got {shown(value)}")
    return number


def read_finished(value: Any, *, inverted: bool = False) -> bool:
    """Whether a sample ended by itself, from a flag or a finish reason; True where nothing is said.

    Raises:
        ValueError: If the value is none of those.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ENDED or word in CUT:
            return word in ENDED
        if word in ("true", "false"):
            return (word == "true") != inverted
    number = as_number(value)
    if number not in (0, 1):
        raise ValueError(f"finished must be true, false or a finish reason, got {shown(value)}")
    return bool(number) != inverted


def read_text(value: Any) -> str:
    """A text, or the text of a chat's messages; empty for anything else."""
    if isinstance(value, str):
        return value if is_text(value) else value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return read_text(value.get("content", value.get("text")))
    if isinstance(value, list | tuple):
        users = [part for part in value if isinstance(part, Mapping) and part.get("role", "user") == "user"]
        return "\n".join(filter(None, map(read_text, users or value)))
    return ""


def read_name(value: Any) -> str:
    """A name from a text or a number; empty where there is none."""
    if isinstance(value, bool) or value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float) and value == math.floor(value):
        value = int(value)
    return read_text(str(value)) if isinstance(value, str | int | float | np.integer) else ""


def as_number(value: Any) -> float | None:
    """A finite number from a number, a flag or its text; else None."""
    try:
        number = float(value) if isinstance(value, int | float | str | np.number) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def with_choices(question: str, choices: Any) -> str:
    """A question with its choices below, as the model sees them."""
    if isinstance(choices, Mapping):
        choices = choices.get("text") or list(choices.values())
    lines = [text for text in map(read_text, choices)] if isinstance(choices, list | tuple) else []
    return "\n".join([question, *lines]) if any(lines) else question
