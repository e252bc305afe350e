"""The worlds of the embedded models by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ps_train.embedded.doubting_solutions import doubting_words, make_doubting_problem
from ps_train.embedded.handover_problems import handover_words, make_handover_problem
from ps_train.embedded.word_problems import WordProblem, diary_words, make_problem

DIARY, HANDOVERS, DOUBTS = "diary", "handovers", "doubts"
FAMILIES: dict[str, Callable[..., WordProblem]] = {
    DIARY: make_problem,
    HANDOVERS: make_handover_problem,
    DOUBTS: make_doubting_problem,
}
"""Family to what draws one of its problems."""
WORDS = {DIARY: diary_words, HANDOVERS: handover_words, DOUBTS: doubting_words}
"""Family to the words it adds to those of the families before it."""


def check_families(families: Sequence[str]) -> None:
    """Raise unless there are such families.

    Raises:
        ValueError: If one is unknown, named twice, or there is none.
    """
    if not families or set(families) - set(FAMILIES) or len(set(families)) < len(families):
        raise ValueError(
            f"families must be among {tuple(FAMILIES)}, at least one, each once, got {tuple(families)}"
        )


def make_problems(
    num_problems: int, seed: int, families: Sequence[str] = (DIARY,), **settings: Any
) -> list[WordProblem]:
    """Draw `num_problems` problems, the same for the same arguments.

    Args:
        num_problems: How many.
        seed: Of the draw.
        families: They take turns: problem i is of family i modulo their number.
        settings: As the families take them, such as `max_steps`.

    Raises:
        ValueError: If there is no such family, or as the family does.
    """
    check_families(families)
    rng = np.random.default_rng(seed)
    return [FAMILIES[families[i % len(families)]](rng, **settings) for i in range(num_problems)]


def vocabulary(families: Sequence[str] = (DIARY,)) -> list[str]:
    """Every word that problems of these families and their solutions can contain.

    The words of the diary come first, whatever the order of `families`: a model that knows more families
    keeps the token ids of one that knows fewer.

    Raises:
        ValueError: If there is no such family.
    """
    check_families(families)
    return [word for family, words in WORDS.items() if family in (DIARY, *families) for word in words()]
