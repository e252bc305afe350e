"""What a user asks: texts or questions, as questions with ids."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Real

import numpy as np
import numpy.typing as npt

from ps_eval.run_settings import HASH_BYTES
from ps_train.questions import Question
from ps_train.text_files import is_text


def as_questions(questions: Sequence[str | Question]) -> list[Question]:
    """Texts as questions, named by their place; questions as they are.

    Raises:
        ValueError: If it is no list, there is none, one is no text, or an id is there twice.
    """
    if isinstance(questions, str | bytes | Question | Mapping | Set) or not isinstance(questions, Iterable):
        raise ValueError(f"questions must be a list of texts or questions, got {questions!r:.80}")
    asked = [q if isinstance(q, Question) else Question(f"q{i}", q) for i, q in enumerate(questions)]
    if not asked:
        raise ValueError("questions must be at least one, got none")
    for question in asked:
        if not is_text(question.question) or not question.question.strip():
            raise ValueError(f"questions must be texts, got {question.question!r:.80} for {question.id!r}")
    if len({q.id for q in asked}) < len(asked):
        raise ValueError("questions must have ids that differ from each other")
    return asked


def check_spend(
    *, mean_tokens: float | None, total_tokens: int | None = None, accuracy: float | None = None
) -> None:
    """Refuse what is no budget, before anything is loaded or read for it.

    Raises:
        ValueError: If not exactly one of them is given, or it is no number above 0.
    """
    given = {"mean_tokens": mean_tokens, "total_tokens": total_tokens, "accuracy": accuracy}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise ValueError(f"give one of {', '.join(given)}, got {named or 'none'}")
    ((name, value),) = named.items()
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def check_most(name: str, mean: float, budgets: npt.NDArray[np.int64]) -> None:
    """Refuse a mean that no question can use.

    Raises:
        ValueError: If it is above the last of the (W,) budgets.
    """
    if mean > budgets[-1]:
        raise ValueError(
            f"{name} must be at most {budgets[-1]} a question, the last of the predictor's grid, got {mean:g}"
        )


def questions_identity(questions: Sequence[Question]) -> str:
    """How many questions, and a hash of their ids, texts and order: one budget is decided for all of them."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for question in questions:
        digest.update(f"{question.id}\0{question.question}\0".encode("utf-8", "surrogatepass"))
    return f"{len(questions)}@{digest.hexdigest()}"
