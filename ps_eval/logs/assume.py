"""Grades for answers that nobody graded: a stated share, or what feedback on others tells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ps_eval.logs.sample import Sample
from ps_train.light.rightness import fit_rightness

MIN_FEEDBACK = 50
"""So many graded answers say what share of the others is right."""


def assume_right(samples: Sequence[Sample], share: float | None) -> str | None:
    """Give samples without a grade the share of finished answers that are right.

    It is what the user states; or else what the graded ones say, if they are enough: of each question by its
    text, where texts tell it.

    Returns:
        What was done, in words; None where every sample has a grade.

    Raises:
        ValueError: If there are such and no share is given, or it lies outside [0, 1].
    """
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"right must be a share in [0, 1], got {share}")
    ungraded = [sample for sample in samples if sample.correct is None]
    if not ungraded:
        return None
    graded = [sample for sample in samples if sample.correct is not None and sample.finished]
    said = f"{len(ungraded)} samples without a grade: "
    if share is not None:
        for sample in ungraded:
            sample.correct = share
        return f"{said}{share:.2g} of those that end are taken to be right"
    if len(graded) < MIN_FEEDBACK:
        raise ValueError(
            f"{len(ungraded)} of {len(samples)} samples have no grade: give --questions with answers and "
            "--grader, or --right SHARE, the share of finished answers that are right"
        )
    learned = fit_rightness(*_by_question(graded))
    found = learned([sample.question for sample in ungraded])
    for sample, right in zip(ungraded, found, strict=True):
        sample.correct = float(right)
    if not learned.by_text:
        return (
            f"{said}{learned.mean:.2g} of those that end are taken to be right, as {len(graded)} graded say"
        )
    low, high = np.quantile(found, [0.05, 0.95])
    return (
        f"{said}{found.mean():.2g} of those that end are taken to be right, {low:.2g} to {high:.2g} by their "
        f"questions' texts, as {len(graded)} graded say"
    )


def _by_question(graded: Sequence[Sample]) -> tuple[list[str], list[float], list[int]]:
    """Texts, shares that are right, and how many were graded."""
    grades: dict[str, list[float]] = {}
    texts: dict[str, str] = {}
    for sample in graded:
        assert sample.correct is not None
        grades.setdefault(sample.question_id, []).append(sample.correct)
        texts[sample.question_id] = sample.question
    counts = [len(each) for each in grades.values()]
    return [texts[name] for name in grades], [float(np.mean(each)) for each in grades.values()], counts
